"""PTX text to modules, kernels and instructions.

This reads the PTX that NVRTC and nvcc write, inline assembly included. A kernel's body is read when it is first asked for, since a file
may hold hundreds of kernels of which a program launches two. Names declared inside `{ }` get a number, so that all names of a body differ.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property, lru_cache

from turnout_cudasim import dtypes
from turnout_cudasim.report import NOWHERE, Location, ParseError


@dataclass(frozen=True)
class Variable:
    """A variable of a module, a body or a parameter list. `values` are the initialiser's elements, as text."""

    name: str
    space: str  # "global", "const", "shared", "local", "param"
    type: str
    count: int
    align: int
    values: tuple[str, ...] = ()
    external: bool = False

    @property
    def size(self) -> int:
        return dtypes.size(self.type) * self.count


@dataclass(frozen=True)
class Parameter:
    """One kernel parameter and its place in the parameter buffer, in bytes."""

    name: str
    offset: int
    size: int
    align: int


@dataclass(slots=True)
class Instruction:
    """One instruction: `@guard opcode operands`. `parts` is the opcode split at its dots."""

    opcode: str
    operands: list[str]
    guard: str = ""
    negated: bool = False
    location: Location = NOWHERE
    parts: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        self.parts = tuple(self.opcode.split("."))

    @property
    def name(self) -> str:
        return self.parts[0]

    def has(self, *modifiers: str) -> bool:
        """Whether any of these modifiers is there."""
        return any(modifier in self.parts for modifier in modifiers)

    def __str__(self) -> str:
        guard = f"@{'!' if self.negated else ''}{self.guard} " if self.guard else ""
        return f"{guard}{self.opcode} {', '.join(self.operands)}"


@dataclass
class Body:
    """The inside of a kernel or function."""

    instructions: list[Instruction] = field(default_factory=list)
    labels: dict[str, int] = field(default_factory=dict)
    registers: dict[str, str] = field(default_factory=dict)  # name -> PTX type
    variables: dict[str, Variable] = field(default_factory=dict)
    branch_targets: dict[str, list[str]] = field(default_factory=dict)


@dataclass
class Function:
    """A `.func`, or what kernels and functions share."""

    name: str
    module: Module = field(repr=False)
    variables: tuple[Variable, ...]  # the parameters
    results: tuple[Variable, ...]
    directives: str
    start: int
    text: str | None = field(repr=False)  # None: declared elsewhere

    @cached_property
    def body(self) -> Body:
        if self.text is None:
            raise ParseError(f"{self.name} is declared but not defined")
        return _BodyReader(self.module, self.text, self.start).read()


class Kernel(Function):
    """An `.entry`."""

    @cached_property
    def parameters(self) -> tuple[Parameter, ...]:
        offset, found = 0, []
        for variable in self.variables:
            offset = _align(offset, variable.align)
            found.append(Parameter(variable.name, offset, variable.size, variable.align))
            offset += variable.size
        return tuple(found)

    @property
    def parameter_bytes(self) -> int:
        return max((p.offset + p.size for p in self.parameters), default=0)

    @cached_property
    def shared_offsets(self) -> dict[str, int]:
        """Where each shared variable lies in a block's shared memory; the dynamic part starts after the static one."""
        offset, offsets, dynamic = 0, {}, []
        used = self._used_names()
        for variable in [v for v in self.module.shared.values() if v.name in used] + self._own("shared"):
            if variable.external or variable.count == 0:
                dynamic.append(variable)
                continue
            offset = _align(offset, variable.align)
            offsets[variable.name] = offset
            offset += variable.size
        self._static_shared = offset
        start = _align(offset, max((v.align for v in dynamic), default=1)) if offset else 0
        return offsets | {variable.name: start for variable in dynamic}

    @property
    def static_shared(self) -> int:
        """Bytes of shared memory that the kernel always has."""
        _ = self.shared_offsets
        return self._static_shared

    @property
    def dynamic_shared_start(self) -> int:
        dynamic = [o for n, o in self.shared_offsets.items() if n in self.module.shared and self.module.shared[n].external]
        return max(dynamic, default=self.static_shared)

    @property
    def local_bytes(self) -> int:
        return sum(_align(v.size, 16) for v in self._own("local"))

    @property
    def registers(self) -> int:
        """A plausible count: ptxas is not modelled."""
        return min(255, 16 + len(self.body.registers) // 8)

    @property
    def max_threads(self) -> int | None:
        found = self._directive("maxntid") or self._directive("reqntid")
        return None if found is None else found[0] * found[1] * found[2]

    @property
    def required_threads(self) -> tuple[int, int, int] | None:
        return self._directive("reqntid")

    @property
    def cluster(self) -> tuple[int, int, int] | None:
        return self._directive("reqnctapercluster")

    def _directive(self, name: str) -> tuple[int, int, int] | None:
        found = re.search(rf"\.{name}\s+([\d\s,]+)", self.directives)
        if found is None:
            return None
        numbers = [int(n) for n in found[1].replace(",", " ").split()] + [1, 1]
        return numbers[0], numbers[1], numbers[2]

    def _own(self, space: str) -> list[Variable]:
        return [v for v in self.body.variables.values() if v.space == space]

    def _used_names(self) -> set[str]:
        """Names in this body and in every function that it may call."""
        names: set[str] = set()
        pending: list[Function] = [self]
        while pending:
            found = set(WORD.findall(pending.pop().text or "")) - names
            names |= found
            pending += [self.module.functions[n] for n in found if n in self.module.functions]
        return names


@dataclass
class Module:
    """A PTX file."""

    version: str = ""
    target: str = ""
    kernels: dict[str, Kernel] = field(default_factory=dict)
    functions: dict[str, Function] = field(default_factory=dict)
    variables: dict[str, Variable] = field(default_factory=dict)  # .global and .const
    shared: dict[str, Variable] = field(default_factory=dict)
    aliases: dict[str, str] = field(default_factory=dict)
    files: dict[int, str] = field(default_factory=dict)
    text: str = field(default="", repr=False)


WORD = re.compile(r"[%$\w.]*[\w$]")
_COMMENT = re.compile(r'"[^"\n]*"|//[^\n]*|/\*.*?\*/', re.S)
_BRACE = re.compile(r'"[^"\n]*"|[{}]')
_HEADER = re.compile(
    r"\.(entry|func)\b\s*(?:\.attribute\([^)]*\)\s*|\.noreturn\s*)?(\([^)]*\))?\s*([\w$%.]+)\s*(\([^)]*\))?([^{;]*)([{;])", re.S
)
_DECLARATION = re.compile(
    r"\.(?P<space>global|const|shared|local|param)\b\s*(?P<attributes>(?:\.(?:align\s+\d+|ptr|global|shared|const|local|attribute\([^)]*\)|v\d)\s*)*)"
    r"\.(?P<type>[a-z]\w*)\s*(?P<pointer>(?:\.(?:ptr|global|shared|const|local|align\s+\d+)\s*)*)"
    r"(?P<name>[\w$%.]+)\s*(?P<dims>(?:\[\s*\d*\s*\])*)\s*(?:=\s*(?P<init>.*))?$",
    re.S,
)
_STATEMENT = re.compile(
    r"\s*(?:(?P<loc>\.loc\s[^\n]*)|(?P<open>\{)|(?P<close>\})|(?P<label>[\w$%.]+)\s*:(?!:)|(?P<text>[^;{}]+(?:\{[^{}]*\}[^;{}]*)*);|(?P<end>\Z))"
)
_GUARDED = re.compile(r"(?:@(?P<not>!?)(?P<guard>[%\w$.]+)\s+)?(?P<opcode>[a-z][\w.:]*)\s*(?P<rest>.*)$", re.S)
_OPERAND = re.compile(r"\[[^\]]*\]|\{[^{}]*\}|\([^()]*\)|[^,\s\[{(][^,\[{(]*(?:\[[^\]]*\])?")
_REGISTERS = re.compile(r"\.reg\s+\.(\w+)\s+(.*)$", re.S)


@lru_cache(maxsize=64)
def parse(ptx: str) -> Module:
    """Read a PTX file. Raises ParseError."""
    text = _COMMENT.sub(lambda m: m[0] if m[0][0] == '"' else re.sub(r"[^\n]", "", m[0]), ptx.rstrip("\0"))
    module = Module(text=text)
    if (found := re.search(r"\.version\s+([\d.]+)", text)) is None:
        raise ParseError("no .version: this is not PTX", 1)
    module.version = found[1]
    if found := re.search(r"\.target\s+(\w+)", text):
        module.target = found[1]
    module.files = {int(m[1]): m[2] for m in re.finditer(r'\.file\s+(\d+)\s+"([^"]*)"', text)}
    module.aliases = {m[1]: m[2] for m in re.finditer(r"\.alias\s+([\w$]+)\s*,\s*([\w$]+)", text)}

    position, outside = 0, []
    for header in _HEADER.finditer(text):
        if header.start() < position:
            continue
        outside.append(text[position : header.start()])
        end = header.end()
        if header[6] == "{":
            end = _closing(text, header.end())
        _add_function(module, header, end)
        position = end
    outside.append(text[position:])
    for piece in outside:
        for statement in _outer_statements(piece):
            if variable := _variable(statement):
                (module.shared if variable.space == "shared" else module.variables)[variable.name] = variable
    return module


def _add_function(module: Module, header: re.Match[str], end: int) -> None:
    what, results, name, parameters, directives, opening = header.groups()
    kind = Kernel if what == "entry" else Function
    text = module.text[header.end() : end - 1] if opening == "{" else None
    function = kind(
        name=name,
        module=module,
        variables=tuple(_parameters(parameters)),
        results=tuple(_parameters(results)),
        directives=directives,
        start=header.end(),
        text=text,
    )
    if isinstance(function, Kernel):
        module.kernels[name] = function
    elif name not in module.functions or text is not None:
        module.functions[name] = function


def _closing(text: str, position: int) -> int:
    depth = 1
    for brace in _BRACE.finditer(text, position):
        depth += {"{": 1, "}": -1}.get(brace[0], 0)
        if depth == 0:
            return brace.end()
    raise ParseError("a { is never closed", text.count("\n", 0, position) + 1)


def _outer_statements(text: str) -> Iterator[str]:
    """Declarations between functions: `... ;` whose initialiser may hold braces."""
    for statement in re.finditer(r"\.(?:global|const|shared)\b[^;]*;", text):
        external = re.search(r"\.extern\s*$", text[: statement.start()][-32:])
        yield (".extern " if external else "") + statement[0][:-1]


def _parameters(text: str | None) -> Iterator[Variable]:
    for piece in (text or "()").strip()[1:-1].split(","):
        if piece.strip():
            piece = re.sub(r"^\s*\.reg\b", ".param", piece)
            if (variable := _variable(piece)) is None:
                raise ParseError(f"parameter {piece.strip()!r}")
            yield variable


def _variable(text: str) -> Variable | None:
    """A declaration such as `.shared .align 4 .b8 tile[4096]`, or None."""
    external = text.startswith(".extern ")
    found = _DECLARATION.search(text.strip())
    if found is None:
        return None
    type_ = found["type"]
    if type_ not in dtypes.NUMPY and type_ not in ("texref", "samplerref", "surfref"):
        raise ParseError(f"type .{type_} of {found['name']}")
    type_ = type_ if type_ in dtypes.NUMPY else "b64"
    count = 1
    for dimension in re.findall(r"\[\s*(\d*)\s*\]", found["dims"]):
        count *= int(dimension or 0)
    align = re.search(r"\.align\s+(\d+)", found["attributes"])
    values = tuple(_OPERAND_VALUE.findall(found["init"].replace("{", " ").replace("}", " "))) if found["init"] else ()
    return Variable(found["name"], found["space"], type_, count, int(align[1]) if align else dtypes.size(type_), values, external)


_OPERAND_VALUE = re.compile(r"[^,\s]+(?:\s*\([^)]*\))?(?:\s*\+\s*\d+)?")


class _BodyReader:
    """Reads one body, statement by statement."""

    def __init__(self, module: Module, text: str, start: int) -> None:
        self.module, self.text, self.start = module, text, start
        self.body = Body()
        self.scopes: list[dict[str, str]] = [{}]  # what each open { renames
        self.starts: list[int] = []  # and the instruction at which it opened
        self.labels: list[dict[str, str]] = []  # and the labels that it declared
        self.scope_count = 0
        self.location = NOWHERE
        self.callers: dict[tuple[str, ...], Location] = {}

    def read(self) -> Body:
        position = 0
        while position < len(self.text):
            found = _STATEMENT.match(self.text, position)
            if found is None:
                raise ParseError(f"cannot read {self.text[position : position + 60].strip()!r}", self._line(position))
            kind = found.lastgroup
            if kind == "loc":
                self._locate(found["loc"])
            elif kind == "open":
                self.scope_count += 1
                self.scopes.append(dict(self.scopes[-1]))
                self.starts.append(len(self.body.instructions))
                self.labels.append({})
            elif kind == "close":
                self._close()
            elif kind == "label":
                name = self._declare(found["label"])
                self.body.labels[name] = len(self.body.instructions)
                if self.labels:
                    self.labels[-1][found["label"]] = name
            elif kind == "text":
                self._statement(found["text"].strip(), found.end() - len(found[0].lstrip()))
            position = found.end()
        return self.body

    def _line(self, position: int) -> int:
        return self.module.text.count("\n", 0, self.start + position) + 1

    def _statement(self, text: str, position: int) -> None:
        if text[0] == ".":
            self._directive(text, position)
            return
        if len(self.scopes) > 1:
            text = self._rename(text)
        found = _GUARDED.match(text)
        if found is None:
            raise ParseError(f"instruction {text!r}", self._line(position))
        operands = [o.strip() for o in _OPERAND.findall(found["rest"])]
        instruction = Instruction(found["opcode"], operands, found["guard"] or "", found["not"] == "!", self.location)
        self.body.instructions.append(instruction)

    def _directive(self, text: str, position: int) -> None:
        if registers := _REGISTERS.match(text):
            for name in registers[2].split(","):
                base, _, count = name.strip().rstrip(">").partition("<")
                if count:
                    self.body.registers.update((f"{base}{i}", registers[1]) for i in range(int(count)))
                else:
                    self.body.registers[self._declare(base)] = registers[1]
        elif text.startswith((".shared", ".local", ".param", ".extern")):
            if (variable := _variable(text)) is None:
                raise ParseError(f"declaration {text!r}", self._line(position))
            name = self._declare(variable.name) if variable.space == "param" else variable.name
            self.body.variables[name] = Variable(name, variable.space, variable.type, variable.count, variable.align)
        elif text.startswith((".branchtargets", ".calltargets", ".callprototype")):
            label = next((name for name, at in reversed(self.body.labels.items()) if at == len(self.body.instructions)), "")
            self.body.branch_targets[label] = text.split(None, 1)[1].replace(",", " ").split()
        elif not text.startswith((".pragma", ".maxntid", ".noreturn")):
            raise ParseError(f"directive {text!r}", self._line(position))

    def _declare(self, name: str) -> str:
        if len(self.scopes) == 1:
            return name
        self.scopes[-1][name] = f"{name}.{self.scope_count}"
        return self.scopes[-1][name]

    def _rename(self, text: str) -> str:
        scope = self.scopes[-1]
        return WORD.sub(lambda m: scope.get(m[0], m[0]), text) if scope else text

    def _close(self) -> None:
        """At the end of `{ }`: branches in it to labels that it declared after them are known only now."""
        if len(self.scopes) == 1:
            raise ParseError("a } that closes nothing")
        self.scopes.pop()
        first, outer = self.starts.pop(), self.labels.pop()
        for instruction in self.body.instructions[first:]:
            if instruction.name == "bra":
                instruction.operands[0] = outer.get(instruction.operands[0], instruction.operands[0])

    def _locate(self, text: str) -> None:
        words = text.replace(",", " ").split()
        place = tuple(words[1:4])
        outer = None
        if "inlined_at" in words:
            at = words.index("inlined_at")
            call = tuple(words[at + 1 : at + 4])
            outer = self.callers.get(call) or Location(self._file(call[0]), int(call[1]))
        location = Location(self._file(place[0]), int(place[1]), outer)
        if location.line:  # NVRTC writes line 0 where code belongs to no line: stay at the one before
            self.location = location
            self.callers[place] = location

    def _file(self, number: str) -> str:
        return self.module.files.get(int(number), "")


def _align(offset: int, alignment: int) -> int:
    return -(-offset // alignment) * alignment
