"""Atomics (PTX ISA, section 9.7.13.15 and on)."""

from __future__ import annotations

from turnout_cudasim import dtypes
from turnout_cudasim.emit import Emitter
from turnout_cudasim.opcodes import opcode
from turnout_cudasim.opcodes.data import space_of
from turnout_cudasim.parse import Instruction
from turnout_cudasim.report import NotModelled

OPERATIONS = ("add", "min", "max", "and", "or", "xor", "exch", "cas", "inc", "dec")
HALVES = ("f16", "bf16", "f16x2", "bf16x2")


@opcode("atom", "red", effect=True)
def atomic(e: Emitter, i: Instruction) -> None:
    """add, min, max, and, or, xor, exch, cas, inc, dec on every integer and float type, f16x2 and bf16x2 too; vectors."""
    operation = next((p for p in i.parts[1:] if p in OPERATIONS), "")
    if not operation or i.has("async"):
        raise NotModelled(f"opcode {i.opcode}")
    type_ = i.parts[-1]
    if type_ == "b128":
        raise NotModelled("128-bit atomics")
    wants_result = i.name == "atom"
    operands = i.operands if wants_result else ["_", *i.operands]
    target, address, value = operands[:3]
    format_ = type_ if type_ in HALVES else ""
    kept = f"b{8 * dtypes.size(type_)}" if format_ or type_[0] == "b" else type_
    code = dtypes.NUMPY[kept]
    space = space_of(i)
    e.note_shared_access(space, dtypes.size(type_), atomic=True)
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
