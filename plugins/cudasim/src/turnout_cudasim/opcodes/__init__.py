"""The opcode table: which PTX instructions are simulated, and how each becomes NumPy.

A handler takes an emitter and an instruction, reads operands as text and writes results as text; what the text calls is in semantics/
(pure functions of arrays) or is a method of the threads (threads.py). docs/cudasim-opcodes.md is made from this table.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from turnout_cudasim import dtypes
from turnout_cudasim.opcodes.forms import Form
from turnout_cudasim.report import NotModelled

if TYPE_CHECKING:
    from turnout_cudasim.parse import Instruction

Emit = Callable[[Any, Any], None]
WARP = "0xffffffff"  # the mask of instructions that need the whole warp in step


@dataclass(frozen=True)
class Handler:
    """One row of the table. `effect`: does more than write registers. `ends_block`: how it passes control on. `mask`: the operand
    that names the lanes which must execute it together."""

    forms: tuple[Form, ...]
    emit: Emit
    section: str
    effect: bool = False
    ends_block: str = ""
    mask: Callable[[Instruction], str | None] | None = None
    refused: bool = False

    @property
    def summary(self) -> str:
        return " ".join((self.emit.__doc__ or "").split())


TABLE: list[Handler] = []
BY_NAME: dict[str, list[tuple[Form, Handler]]] = {}
SECTIONS = ("control", "data", "integer", "floating", "convert", "warp", "atomic", "matrix", "asynchronous", "refused")


def opcode(
    *forms: str,
    effect: bool = False,
    ends_block: str = "",
    mask: Callable[[Instruction], str | None] | None = None,
    refused: bool = False,
) -> Callable[[Emit], Emit]:
    """Enter a handler into the table for opcodes of these forms (forms.py)."""

    def enter(emit: Emit) -> Emit:
        section = emit.__module__.rpartition(".")[2]
        handler = Handler(tuple(Form(text) for text in forms), emit, section, effect, ends_block, mask, refused)
        TABLE.append(handler)
        for form in handler.forms:
            BY_NAME.setdefault(form.name, []).append((form, handler))
        return emit

    return enter


@lru_cache(maxsize=4096)
def _find(parts: tuple[str, ...]) -> Handler:
    furthest = 0
    for form, handler in BY_NAME.get(parts[0], ()):
        reached = form.reach(parts)
        if reached > len(parts):
            return handler
        furthest = max(furthest, reached)
    opcode = ".".join(parts)
    if not furthest:
        raise NotModelled(f"opcode {opcode}")
    if furthest == len(parts):
        raise NotModelled(f"opcode {opcode} (incomplete)")
    raise NotModelled(f"opcode {opcode} (for its .{parts[furthest]})")


def find(instruction: Instruction) -> Handler:
    """The handler of an instruction. Raises NotModelled, which names the opcode and the first modifier that has no meaning there."""
    return _find(instruction.parts)


NAMESPACE: dict[str, Any] = {"np": np, **dtypes.SCALARS}


def _fill() -> None:
    """Import every section, and gather the functions that generated code calls."""
    called = [f"semantics.{name}" for name in ("integers", "floats", "fused", "conversions", "packed")]
    for name in [*called, "access", "atomics", "bulk", "copies", "earlier", "lanes", "matrices", "mbarriers", "runtime"]:
        module = importlib.import_module(f"turnout_cudasim.{name}")
        NAMESPACE.update((function, getattr(module, function)) for function in module.__all__)
    for section in SECTIONS:
        importlib.import_module(f"turnout_cudasim.opcodes.{section}")


_fill()
