"""One straight list of instructions for a kernel: calls are replaced by the bodies of the functions they call.

A thread then needs no call stack. Recursion and calls through pointers have no such body, and are refused. A guarded instruction that has
an effect becomes a branch around it, so that only branches decide who takes part.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from turnout_cudasim import opcodes
from turnout_cudasim.emit import CARRY
from turnout_cudasim.parse import WORD, Body, Function, Instruction, Kernel, Variable
from turnout_cudasim.report import NotModelled

# Functions of CUDA's device runtime that are opcodes to us.
RUNTIME = {"vprintf", "__assertfail", "malloc", "free"}
DEEPEST = 64


@dataclass
class Flat:
    """A kernel with everything inlined. Offsets are in bytes of a block's shared memory, a thread's local memory, the parameter buffer."""

    instructions: list[Instruction] = field(default_factory=list)
    labels: dict[str, int] = field(default_factory=dict)
    registers: dict[str, str] = field(default_factory=dict)
    branch_targets: dict[str, list[str]] = field(default_factory=dict)
    shared: dict[str, int] = field(default_factory=dict)
    local: dict[str, int] = field(default_factory=dict)
    parameters: dict[str, int] = field(default_factory=dict)
    call_parameters: dict[str, int] = field(default_factory=dict)
    local_bytes: int = 0


def flatten(kernel: Kernel) -> Flat:
    """Inline every call of a kernel. Raises NotModelled."""
    flat = Flat(registers={CARRY: "pred"}, shared=dict(kernel.shared_offsets), parameters={p.name: p.offset for p in kernel.parameters})
    _Inliner(kernel, flat).add(kernel, kernel.body, "", {}, "")
    return flat


class _Inliner:
    def __init__(self, kernel: Kernel, flat: Flat) -> None:
        self.kernel, self.flat = kernel, flat
        self.calls = 0
        self.skips = 0
        self.stack: list[str] = []

    def add(self, function: Function, body: Body, prefix: str, parameters: dict[str, str], after: str) -> None:
        """Append a body. `prefix` tells this call's names from others'; `parameters` are the caller's names for the formal ones."""
        flat = self.flat
        names: dict[str, str] = dict(parameters)
        for name, type_ in body.registers.items():
            names[name] = _prefixed(prefix, name)
            flat.registers[names[name]] = type_
        names.update((label, prefix + label) for label in body.labels)
        for variable in body.variables.values():
            if variable.space in ("local", "param"):
                names[variable.name] = prefix + variable.name
                self._place(prefix + variable.name, variable)
        at_labels: dict[int, list[str]] = {}
        for label, position in body.labels.items():
            at_labels.setdefault(position, []).append(names[label])
        flat.branch_targets.update({names[k]: [names[t] for t in v] for k, v in body.branch_targets.items() if k in names})
        for position, instruction in enumerate(body.instructions):
            self._label(at_labels.get(position, ()))
            self._instruction(instruction, names, prefix, after)
        self._label(at_labels.get(len(body.instructions), ()))

    def _label(self, labels: tuple[str, ...] | list[str]) -> None:
        self.flat.labels.update((label, len(self.flat.instructions)) for label in labels)

    def _place(self, name: str, variable: Variable) -> None:
        """Local variables, and the parameters of calls, lie in the thread's local memory."""
        alignment = max(variable.align, 16)
        self.flat.local[name] = -(-self.flat.local_bytes // alignment) * alignment
        self.flat.local_bytes = self.flat.local[name] + max(variable.size, 1)

    def _instruction(self, original: Instruction, names: dict[str, str], prefix: str, after: str) -> None:
        instruction = original
        if prefix or names:
            operands = [_renamed(o, names) for o in original.operands]
            instruction = replace(original, operands=operands, guard=names.get(original.guard, original.guard))
        if instruction.name == "call":
            self._guarded(instruction, lambda plain: self._call(plain, prefix))
        elif instruction.name == "ret" and after:
            jump = Instruction("bra", [after], instruction.guard, instruction.negated, instruction.location)
            self.flat.instructions.append(jump)
        elif instruction.guard and opcodes.find(instruction).effect:
            self._guarded(instruction, self.flat.instructions.append)
        else:
            self.flat.instructions.append(instruction)

    def _guarded(self, instruction: Instruction, add) -> None:  # type: ignore[no-untyped-def]
        """Turn the guard into a branch around the instruction."""
        if not instruction.guard:
            add(instruction)
            return
        self.skips += 1
        label = f"$skip{self.skips}"
        branch = Instruction("bra", [label], instruction.guard, not instruction.negated, instruction.location)
        self.flat.instructions.append(branch)
        add(replace(instruction, guard="", negated=False))
        self._label([label])

    def _call(self, call: Instruction, prefix: str) -> None:
        groups = [o for o in call.operands if o.startswith("(")]
        target = next((o for o in call.operands if not o.startswith("(")), "")
        after_target = call.operands.index(target) if target in call.operands else 0
        results = _group(call.operands[0]) if call.operands[0].startswith("(") else []
        arguments = _group(call.operands[after_target + 1]) if len(call.operands) > after_target + 1 else []
        target = self.kernel.module.aliases.get(target, target)
        function = self.kernel.module.functions.get(target)
        if function is None:
            raise NotModelled("call through a function pointer", f"{self.kernel.name}: {call}")
        if function.text is None:
            if target not in RUNTIME:
                raise NotModelled(f"call of {target}, which is not defined in this module", self.kernel.name)
            self.flat.instructions.append(Instruction(f"call.{target}", [*results, *arguments], location=call.location))
            return
        if target in self.stack or len(self.stack) > DEEPEST:
            raise NotModelled(f"recursive call of {target}", self.kernel.name)
        del groups
        self.calls += 1
        inner = f"call{self.calls}${target}$"
        formal = [v.name for v in (*function.results, *function.variables)]
        after = f"{inner}return"
        self.stack.append(target)
        self.add(function, function.body, inner, dict(zip(formal, [*results, *arguments], strict=True)), after)
        self.stack.pop()
        self._label([after])


def _group(text: str) -> list[str]:
    return [name.strip() for name in text[1:-1].split(",") if name.strip()]


def _prefixed(prefix: str, register: str) -> str:
    return f"%{prefix.replace('$', '_')}{register[1:]}" if prefix and register[0] == "%" else prefix + register


def _renamed(operand: str, names: dict[str, str]) -> str:
    return WORD.sub(lambda m: names.get(m[0], m[0]), operand)
