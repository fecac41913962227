"""Program: executables and what lies between them, as steps over slots. execute.py builds one from a plan."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

from turnout.device import HOST, Device
from turnout.errors import OutOfMemory, RunError, TurnoutError
from turnout.provider import Executable

__all__ = ["Program", "Slots", "Step", "guarded", "of_one"]

log = logging.getLogger("turnout")

Slots = list[Any]
Step = Callable[[Slots], None]


class Program:
    """A compiled plan. `run` takes one host value per input (then per captured value) and gives one per output."""

    def __init__(self) -> None:
        self.executables: list[Executable] = []
        self.direct: Executable | None = None
        """The one executable, where it is the whole of the program and in host memory."""
        self.whole: Executable | None = None
        """The one executable, where it is the whole of the program, wherever its device has its memory."""
        self.run_direct: Callable[..., Sequence[Any]] | None = None
        """Its `run(values, out)`, errors of a plugin's own turned into turnout's."""
        self._template: Slots = []
        self._steps: list[Step] = []
        self._inputs: list[int] = []
        self._ends: list[tuple[int, list[Step]]] = []
        """Per output, its slot in host memory, and the steps that bring it there."""
        self._in_place: dict[int, int] = {}
        """Outputs that a step can write into the memory of an input, each with the slot where the step looks for the buffer."""
        self.takes: dict[int, Callable[[Any], Any | None]] = {}
        """Inputs that only a device outside host memory reads, each with what makes a value of it out of a tensor that lies there."""
        self._there: list[tuple[int, list[Step], Device]] = []
        """Per output, its slot on the device that makes it, the steps that it wants yet, and the device."""

    def run(self, values: Sequence[Any], out: Sequence[Any] | None = None) -> list[Any]:
        """Runs once. Raises RunError or one of its kinds.

        out: a buffer or None per output. One that is also an input is written to if that can be done in place; the caller sees to the rest.
        """
        slots = self._template.copy()
        for slot, value in zip(self._inputs, values, strict=True):
            slots[slot] = value
        if out is not None:
            for position, slot in self._in_place.items():
                slots[slot] = out[position]
        for step in self._steps:
            step(slots)
        for _, last in self._ends:
            for step in last:
                step(slots)
        return [slots[slot] for slot, _ in self._ends]

    def run_on_device(self, values: Sequence[Any]) -> list[tuple[Any, Device]]:
        """The same, but each output where it was made: a value of that device, and the device. Raises RunError or one of its kinds."""
        slots = self._template.copy()
        for slot, value in zip(self._inputs, values, strict=True):
            slots[slot] = value
        for step in self._steps:
            step(slots)
        for _, last, _ in self._there:
            for step in last:
                step(slots)
        return [(slots[slot], device) for slot, _, device in self._there]

    def home(self, position: int) -> Device:
        """The device in whose memory `run_on_device` leaves an output."""
        return self._there[position][2]

    def close(self) -> None:
        """Frees every executable; one that fails to close does not keep the others."""
        for executable in self.executables:
            try:
                executable.close()
            except Exception as error:
                log.warning("%s did not close: %s", type(executable).__name__, error)
        self.executables.clear()
        self._steps.clear()


def guarded(executable: Executable, device: Device) -> Callable[..., Sequence[Any]]:
    """The executable's `run`. A plugin may raise what it likes; who calls turnout has to catch nothing but TurnoutError."""

    def run(values: Sequence[Any], out: Sequence[Any] | None = None) -> Sequence[Any]:
        try:
            return executable.run(values, out)
        except TurnoutError:
            raise
        except MemoryError as error:
            raise OutOfMemory(f"{device}: {str(error) or 'out of memory'}", hint="smaller inputs, or a device with more memory") from error
        except Exception as error:
            said = f"{device}: {type(error).__name__}: {error}"
            raise RunError(said, hint="`turnout doctor` tells whether the device itself is well") from error

    return run


def of_one(executable: Executable, device: Device, width: int, height: int) -> Program:
    """The program that is one executable of `width` inputs and `height` outputs in host memory, and nothing around it."""
    program = Program()
    program.executables.append(executable)
    program.direct, program.whole, program.run_direct = executable, executable, guarded(executable, device)
    program._inputs = list(range(width))
    program._ends = [(slot, []) for slot in range(width, width + height)]
    program._there = [(slot, [], HOST) for slot, _ in program._ends]
    program._template = [None] * (width + height)
    run = program.run_direct

    def step(slots: Slots) -> None:
        slots[width:] = run(slots[:width])

    program._steps.append(step)
    return program
