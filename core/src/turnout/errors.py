"""Every error that turnout raises on purpose.

TurnoutError                    what happened, why, and `.hint`: the one thing to do next
├── PluginError                 a plugin that could not be used
│   ├── BrokenPlugin            it raised, crashed or hung where it must not
│   └── IncompatiblePlugin      it was written for another version of turnout
├── Unavailable                 a provider has no device here; the message says why
├── SelectionError              what was asked for cannot be had
│   ├── NoSuchDevice            no device of that name
│   └── NoProvider              no device asked for runs these operators; `.plan` has every refusal
├── ModelError                  the file or object is not a model that can be read
│   ├── UnknownFormat           no installed format knows it
│   └── InvalidModel            it is of a known format, and broken
├── CompileError                a provider took a partition and then could not build it
├── RunError                    a run that failed; it is never retried elsewhere in silence
│   ├── InvalidInput            wrong name, number, dtype, rank or shape of an input
│   ├── OutOfMemory             the device had less memory than the run asked for
│   ├── DeviceLost              the device went away in the middle
│   └── Closed                  the model was used after `close()`
└── NotGenerative               the model, or what is installed, does not make text
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from turnout.plan import Plan

__all__ = [
    "BrokenPlugin",
    "Closed",
    "CompileError",
    "DeviceLost",
    "IncompatiblePlugin",
    "InvalidInput",
    "InvalidModel",
    "ModelError",
    "NoProvider",
    "NoSuchDevice",
    "NotGenerative",
    "OutOfMemory",
    "PluginError",
    "RunError",
    "SelectionError",
    "SlowPathWarning",
    "TurnoutError",
    "Unavailable",
    "UnknownFormat",
]


class TurnoutError(Exception):
    """The base of all of them. `str(error)` is the message and, where there is one, the hint on a line of its own."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n  hint: {self.hint}" if self.hint else self.message


class PluginError(TurnoutError):
    """A plugin could not be used."""


class BrokenPlugin(PluginError):
    """A plugin raised, crashed or hung where the contract says it must not."""


class IncompatiblePlugin(PluginError):
    """A plugin was written for another version of the provider contract."""


class Unavailable(TurnoutError):
    """Raised by `Provider.probe`: no device here, and the reason why."""


class SelectionError(TurnoutError):
    """What was asked for cannot be had on this machine."""


class NoSuchDevice(SelectionError):
    """No device answers to the name that was asked for."""


class NoProvider(SelectionError):
    """No device that was allowed runs some of the operators; `plan` holds every refusal."""

    def __init__(self, message: str, *, hint: str = "", plan: Plan | None = None) -> None:
        super().__init__(message, hint=hint)
        self.plan = plan


class ModelError(TurnoutError):
    """The file or object is not a model that can be read."""


class UnknownFormat(ModelError):
    """No installed format knows this file."""


class InvalidModel(ModelError):
    """A file of a known format that is broken, contradictory or unsafe."""


class CompileError(TurnoutError):
    """A provider could not build a partition that it had claimed.

    `nodes` holds the positions, in the partition's graph, of the nodes at fault; empty means that the provider cannot tell.
    """

    def __init__(self, message: str, *, hint: str = "", nodes: Sequence[int] = ()) -> None:
        super().__init__(message, hint=hint)
        self.nodes = tuple(nodes)


class RunError(TurnoutError):
    """A run failed. turnout never retries it elsewhere in silence."""


class InvalidInput(RunError):
    """The name, number, dtype, rank or shape of an input is wrong."""


class OutOfMemory(RunError):
    """The device had less memory than the run asked for."""


class DeviceLost(RunError):
    """The device went away during a run."""


class Closed(RunError):
    """The model was used after `close()`."""


class NotGenerative(TurnoutError):
    """The model, or what is installed, does not make text."""


class SlowPathWarning(UserWarning):
    """Nodes went to the reference provider, which is right but slow, and nobody asked for it."""
