"""The vocabulary of opcode handlers: reading operands and writing results, as text of generated Python.

Two emitters share it. The surveyor runs first and notes which registers an instruction reads and writes and in which types; the writer
then writes source.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from turnout_cudasim import dtypes
from turnout_cudasim.parse import Instruction
from turnout_cudasim.report import NotModelled

if TYPE_CHECKING:
    from turnout_cudasim.translate import Translation

CARRY = "%carry"  # the condition code register of add.cc and its kin; every kernel has it

SPECIAL_WIDE = {"clock64", "globaltimer", "gridid", "current_graph_exec"}
SPECIAL_PREDICATES = {"is_explicit_cluster"}
SPECIAL = (
    {f"{name}.{axis}" for name in ("tid", "ntid", "ctaid", "nctaid") for axis in "xyz"}
    | {f"{name}.{axis}" for name in ("clusterid", "nclusterid", "cluster_ctaid", "cluster_nctaid") for axis in "xyz"}
    | {"laneid", "warpid", "nwarpid", "smid", "nsmid", "cluster_ctarank", "cluster_nctarank"}
    | {"envreg1", "envreg2", "clock", "clock_hi", "globaltimer_lo", "globaltimer_hi"}
    | {f"lanemask_{order}" for order in ("eq", "le", "lt", "ge", "gt")}
    | {"dynamic_smem_size", "total_smem_size", "aggr_smem_size", "reserved_smem_offset_begin", "reserved_smem_offset_end"}
    | SPECIAL_WIDE
    | SPECIAL_PREDICATES
)


def special_code(operand: str) -> str:
    """The NumPy type of a special register. Raises NotModelled."""
    name = operand[1:]
    if name not in SPECIAL:
        raise NotModelled(f"special register {operand}")
    return "u8" if name in SPECIAL_WIDE else "?" if name in SPECIAL_PREDICATES else "u4"


@dataclass
class Survey:
    """What one instruction reads and writes."""

    reads: set[str] = field(default_factory=set)
    writes: set[str] = field(default_factory=set)


def local(register: str) -> str:
    """A register's name in generated code: `%r1` is r1; names that might be something else there get a prefix."""
    plain = re.fullmatch(r"%([a-z]{1,2}\d+)", register)
    return plain[1] if plain else ("r_" if register[0] == "%" else "n_") + re.sub(r"\W", "_", register.lstrip("%"))


_ADDRESS = re.compile(r"\[\s*([^+\]\s]+)\s*(?:\+\s*(-?\w+))?\s*\]$")
_FLOAT = re.compile(r"0[fd][0-9a-fA-F]+$")


class Emitter:
    """What opcode handlers write with. `read` gives the text of an operand's value, `write` takes the text of a result."""

    def __init__(self, translation: Translation) -> None:
        self.translation = translation
        self.registers = translation.flat.registers
        self.site = 0
        self.instruction = Instruction("", [])
        self._temporary = 0

    def begin(self, site: int, instruction: Instruction) -> None:
        self.site, self.instruction = site, instruction

    def is_register(self, operand: str) -> bool:
        return operand in self.registers

    def read(self, operand: str, type_: str) -> str:
        """The operand as PTX type `type_`: a register, a number, a special register, or the address of a variable."""
        if type_ == "pred" and operand.startswith("!"):
            return f"~{self.read(operand[1:], 'pred')}"
        if operand.startswith("-%"):
            return f"(-{self.read(operand[1:], type_)})"
        if operand in self.registers:
            return self.register(operand, type_)
        code = dtypes.NUMPY[type_]
        if operand.startswith("%"):
            return converted(f't.special["{operand[1:]}"]', special_code(operand), code)
        if _FLOAT.match(operand):
            double = operand[1] == "d"
            value = np.array(int(operand[2:], 16), np.uint64 if double else np.uint32).view(np.float64 if double else np.float32)
            return self.constant(value, code)
        if operand.lstrip("-")[:1].isdigit():
            return self.constant(_integer(operand), code)
        return self.symbol(operand, code)

    def constant(self, value: Any, code: str) -> str:
        """A name for a NumPy scalar."""
        if code == "?":
            scalar: Any = np.bool_(value)
        elif np.dtype(code).kind == "f":
            scalar = np.dtype(code).type(value)
        else:
            kind = np.dtype(code)
            scalar = np.array(int(value) & ((1 << 8 * kind.itemsize) - 1), f"u{kind.itemsize}").view(kind)[()]
        name = f"{code.upper() if code != '?' else 'B1'}_{scalar.tobytes()[::-1].hex().lstrip('0') or '0'}"
        self.translation.constants[name] = scalar
        return name

    def symbol(self, operand: str, code: str) -> str:
        """The address of a variable: an offset in shared, local and parameter memory, an address elsewhere."""
        flat = self.translation.flat
        base, _, offset = operand.partition("+")
        extra = _integer(offset) if offset else 0
        if base in flat.shared:
            return self.constant(flat.shared[base] + extra, code)
        if base in flat.local:
            return self.constant(flat.local[base] + extra, code)
        if base in flat.parameters:
            return self.constant(flat.parameters[base] + extra, code)
        if base in self.translation.kernel.module.variables:
            text = f't.symbols["{base}"]'
            return converted(text if not extra else f"({text} + U8({extra}))", "u8", code)
        raise NotModelled(f"operand {operand}", f"{self.instruction}")

    def address(self, operand: str) -> str:
        """`[register + offset]` as 64-bit integers."""
        found = _ADDRESS.match(operand)
        if found is None:
            raise NotModelled(f"address {operand}", f"{self.instruction}")
        base, offset = found[1], _integer(found[2] or "0")
        if base in self.registers:
            narrow = dtypes.size(self.registers[base]) < 8
            text = f"{self.read(base, 's32')}.astype(I8)" if narrow else self.read(base, "s64")  # 32 bits wrap: [-8 + 16] is 8
            return f"{text} + {self.constant(offset, 'i8')}" if offset else text
        if base[0].isdigit():
            return self.constant(_integer(base) + offset, "i8")
        return self.symbol(f"{base}+{offset}", "i8")

    def place(self, operand: str) -> str:
        """`[register + offset]` as an Address, which all instructions of the block share that use this register, and an offset in bytes."""
        found = _ADDRESS.match(operand)
        if found is None or found[1] not in self.registers:
            return f"{self.once((), f'Address({self.address(operand)})')}, 0"
        base = self.address(f"[{found[1]}]")
        return f"{self.once((found[1],), f'Address({base})')}, {_integer(found[2] or '0')}"

    def vector(self, operand: str) -> list[str]:
        """`{a, b}` as its elements; anything else as one."""
        return [e.strip() for e in operand[1:-1].split(",")] if operand.startswith("{") else [operand]

    def temporary(self) -> str:
        self._temporary += 1
        return f"value{self._temporary}"

    # What the two emitters do differently.
    def once(self, registers: Sequence[str], text: str) -> str:
        """A name for the value `text`, which is made once for as long as these registers, out of which it is made, stay."""
        return text

    def register(self, name: str, type_: str) -> str:
        raise NotImplementedError

    def write(self, operand: str, text: str, type_: str, *, computed: bool = False) -> None:
        """`operand = text`, whose value has PTX type `type_`. `computed`: an arithmetic float result, whose NaN is not yet NVIDIA's."""
        raise NotImplementedError

    def write_all(self, operands: Sequence[str], text: str, type_: str, *, computed: bool = False) -> None:
        """Several results: `text` is a tuple of them."""
        raise NotImplementedError

    def do(self, text: str) -> None:
        """A statement for its effect."""
        raise NotImplementedError

    def control_by(self, text: str) -> None:
        """The value on which the end of the block depends."""
        raise NotImplementedError

    def note_shared_access(self, space: str, size: int) -> None:
        """Races are found at the grain of the smallest access."""


class Surveyor(Emitter):
    """Pass 1: collects reads, writes, and votes for the type in which each register is kept."""

    def __init__(self, translation: Translation) -> None:
        super().__init__(translation)
        self.survey = Survey()
        self.votes: dict[str, Counter[bool]] = {}  # register -> how often it is float
        self.parent: dict[str, str] = {}  # registers that a move ties together
        self.arithmetic: set[str] = set()

    def begin(self, site: int, instruction: Instruction) -> None:
        super().begin(site, instruction)
        self.survey = Survey()
        if instruction.guard:
            self.survey.reads.add(instruction.guard)

    def register(self, name: str, type_: str) -> str:
        self.survey.reads.add(name)
        self._vote(name, type_)
        return "x"

    def write(self, operand: str, text: str, type_: str, *, computed: bool = False) -> None:
        if operand == "_":
            return
        if operand not in self.registers:
            raise NotModelled(f"result {operand}", f"{self.instruction}")
        if self.instruction.guard:
            self.survey.reads.add(operand)
        self.survey.writes.add(operand)
        self._vote(operand, type_)
        if computed and dtypes.NUMPY[type_] in ("f4", "f8"):
            self.arithmetic.add(operand)

    def write_all(self, operands: Sequence[str], text: str, type_: str, *, computed: bool = False) -> None:
        for operand in operands:
            self.write(operand, text, type_, computed=computed)

    def do(self, text: str) -> None:
        pass

    def control_by(self, text: str) -> None:
        pass

    def tie(self, a: str, b: str) -> None:
        """Keep two registers in the same type: one is moved into the other."""
        self.parent[self._root(a)] = self._root(b)

    def note_shared_access(self, space: str, size: int) -> None:
        if space in ("shared", "cluster", "generic"):
            self.translation.granule = min(self.translation.granule, size)

    def homes(self) -> dict[str, str]:
        """The NumPy type in which each register is kept: what most of its uses want."""
        groups: dict[str, Counter[bool]] = {}
        for name, votes in self.votes.items():
            groups.setdefault(self._root(name), Counter()).update(votes)
        homes = {}
        for name, type_ in self.registers.items():
            code = dtypes.NUMPY[type_]
            if code == "?" or code[0] == "V":
                homes[name] = code
                continue
            votes = groups.get(self._root(name), Counter())
            homes[name] = f"{'f' if votes[True] > votes[False] and code != 'u1' else 'u'}{dtypes.size(type_)}"
        return homes

    def computed_floats(self) -> set[str]:
        """Registers that may hold an arithmetic result's NaN."""
        roots = {self._root(name) for name in self.arithmetic}
        return {name for name in self.registers if self._root(name) in roots}

    def _vote(self, name: str, type_: str) -> None:
        if type_ == "pred" or type_.startswith("b"):
            return
        code = dtypes.NUMPY[type_]
        if np.dtype(code).itemsize == dtypes.size(self.registers[name]):
            self.votes.setdefault(name, Counter())[code[0] == "f"] += 1

    def _root(self, name: str) -> str:
        while (above := self.parent.get(name, name)) != name:
            name = above
        return name


class Writer(Emitter):
    """Pass 2: writes the Python source of a block."""

    def __init__(self, translation: Translation) -> None:
        super().__init__(translation)
        self.lines: list[str] = []
        self.control = "None"
        self.made: dict[str, tuple[str, frozenset[str]]] = {}  # text -> the name of its value, and the registers in it

    def register(self, name: str, type_: str) -> str:
        home = self.translation.home[name]
        code = dtypes.NUMPY[type_]
        if home == code:
            return local(name)
        if name in self.translation.computed and home[0] == "f" and code[0] != "f":
            return converted(f"bits({local(name)})", f"u{home[1]}", code)
        return converted(local(name), home, code)

    def write(self, operand: str, text: str, type_: str, *, computed: bool = False) -> None:
        if operand == "_":
            return
        value = converted(text, dtypes.NUMPY[type_], self.translation.home[operand])
        if self.instruction.guard:
            value = f"np.where({self._guard()}, {value}, {local(operand)})"
        self.lines.append(f"{local(operand)} = {value}")
        self.made = {text: made for text, made in self.made.items() if operand not in made[1]}

    def once(self, registers: Sequence[str], text: str) -> str:
        if text not in self.made:
            self.made[text] = self.temporary(), frozenset(registers)
            self.lines.append(f"{self.made[text][0]} = {text}")
        return self.made[text][0]

    def write_all(self, operands: Sequence[str], text: str, type_: str, *, computed: bool = False) -> None:
        names = [self.temporary() for _ in operands]
        self.lines.append(f"{', '.join(names)}, = {text}")
        for operand, name in zip(operands, names, strict=True):
            self.write(operand, name, type_)

    def do(self, text: str) -> None:
        self.lines.append(text)

    def control_by(self, text: str) -> None:
        self.control = text

    def tie(self, a: str, b: str) -> None:
        pass

    def _guard(self) -> str:
        return f"{'~' if self.instruction.negated else ''}{local(self.instruction.guard)}"


def converted(text: str, have: str, want: str) -> str:
    """Text of the same bits in another type; integers are cut, or extended by their own sign."""
    if have == want:
        return text
    text = text if re.fullmatch(r"[\w.]+(\[[^\[\]]*\])?(\([^()]*\))?", text) else f"({text})"
    from_size, to_size = np.dtype(have).itemsize, np.dtype(want).itemsize
    if from_size != to_size:
        if have[0] == "f":
            text, have = f"{text}.view(U{from_size})", f"u{from_size}"
        middle = want if want[0] != "f" else f"u{to_size}"
        text, have = f"{text}.astype({middle.upper()})", middle
    return text if have == want else f"{text}.view({want.upper()})"


def _integer(text: str) -> int:
    text = text.rstrip("U")
    negative, digits = text.startswith("-"), text.lstrip("-")
    octal = len(digits) > 1 and digits[0] == "0" and digits.isdigit()
    value = int(digits, 8 if octal else 0)
    return -value if negative else value
