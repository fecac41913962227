"""Atomics (PTX ISA, section 9.7.13.15 and on)."""

from __future__ import annotations

from turnout_cudasim import dtypes
from turnout_cudasim.emit import Emitter
from turnout_cudasim.opcodes import opcode
from turnout_cudasim.opcodes.data import space_of
from turnout_cudasim.parse import Instruction

SEM = "[~relaxed|~acquire|~release|~acq_rel][~cta|~cluster|~gpu|~sys]"
WHERE = "[global|shared|~shared::cta|shared::cluster]"
WIDE = "[~L2::cache_hint](v2|v4|v8)"
COMBINED = (  # operations and types of atom and red; ptxas takes the order and scope before the space or after the operation
    ("(and|or|xor)", "[~L2::cache_hint](b32|b64)"),
    ("(inc|dec)", "[~L2::cache_hint].u32"),
    ("(min|max)", "[~L2::cache_hint](u32|s32|u64|s64)"),
    (".add", "[~L2::cache_hint](u32|s32|u64|s64|f32|f64)"),
    ("(add|min|max)", "[~noftz][~L2::cache_hint](f16|bf16|f16x2|bf16x2)"),
    (".add", "[~L2::cache_hint](v2|v4).f32"),
    ("(add|min|max)", f".noftz{WIDE}(f16|bf16|f16x2|bf16x2)"),
)
EXCHANGED = ((".exch", "[~L2::cache_hint](b32|b64)"), (".cas", "[~L2::cache_hint](b16|b32|b64)"))
FORMS = tuple(
    form
    for name, rows in (("atom", COMBINED + EXCHANGED), ("red", COMBINED))
    for operation, types in rows
    for form in (f"{name}{SEM}{WHERE}{operation}{types}", f"{name}{WHERE}{operation}{SEM}{types}")
)
OPERATIONS = ("add", "min", "max", "and", "or", "xor", "exch", "cas", "inc", "dec")
HALVES = ("f16", "bf16", "f16x2", "bf16x2")


@opcode(*FORMS, effect=True)
def atomic(e: Emitter, i: Instruction) -> None:
    """add, min, max, and, or, xor, exch, cas, inc, dec on every integer and float type, f16x2 and bf16x2 too; vectors."""
    operation = next(p for p in i.parts[1:] if p in OPERATIONS)
    type_ = i.parts[-1]
    wants_result = i.name == "atom"
    operands = i.operands if wants_result else ["_", *i.operands]
    target, address, value = operands[:3]
    format_ = type_ if type_ in HALVES else ""
    kept = f"b{8 * dtypes.size(type_)}" if format_ or type_[0] == "b" else type_
    code = dtypes.NUMPY[kept]
    space = space_of(i)
    e.note_shared_access(space, dtypes.size(type_))
    where = e.address(address)
    if value.startswith("{"):
        values = ", ".join(e.read(v, kept) for v in e.vector(value))
        text = f'reduce_vector(t, "{operation}", "{space}", "{code}", {where}, ({values}), {e.site}, "{format_}")'
        if target == "_":
            e.do(text)
        else:
            e.write_all(e.vector(target), text, kept)
        return
    second = e.read(operands[3], kept) if operation == "cas" else "None"
    text = (
        f'atomic(t, "{operation}", "{space}", "{code}", {where}, {e.read(value, kept)}, {second}, {e.site}, {target != "_"}, "{format_}")'
    )
    if target == "_":
        e.do(text)
    else:
        e.write(target, text, kept)
