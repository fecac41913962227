"""Instructions that are refused by name, and why."""

from __future__ import annotations

from turnout_cudasim.emit import Emitter
from turnout_cudasim.opcodes import opcode
from turnout_cudasim.parse import Instruction
from turnout_cudasim.report import NotModelled


@opcode(*(f"{name}..." for name in ("tex", "tld4", "txq", "suld", "sust", "sured", "suq", "istypep")), effect=True, refused=True)
def textures(e: Emitter, i: Instruction) -> None:
    """Textures and surfaces: their filtering is not documented to the bit."""
    raise NotModelled(f"opcode {i.opcode} (textures and surfaces)")


@opcode("tcgen05...", effect=True, refused=True)
def tensor_memory(e: Emitter, i: Instruction) -> None:
    """Blackwell's tensor memory and its matrix instructions."""
    raise NotModelled(f"opcode {i.opcode} (tensor memory)")


@opcode("multimem...", effect=True, refused=True)
def several_devices(e: Emitter, i: Instruction) -> None:
    """Memory of several devices."""
    raise NotModelled(f"opcode {i.opcode} (several devices)")


@opcode("alloca...", "stacksave...", "stackrestore...", effect=True, refused=True)
def dynamic_stack(e: Emitter, i: Instruction) -> None:
    """A stack frame whose size is known at run time only."""
    raise NotModelled(f"opcode {i.opcode} (dynamic stack)")
