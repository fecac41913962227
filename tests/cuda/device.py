"""Which device these commands work on: the simulated one, unless TURNOUT_CUDA=real asks for the machine's GPU."""

from __future__ import annotations

import os
from collections.abc import Sequence

__all__ = ["NAME", "REAL", "choose", "found", "reports"]

REAL = os.environ.setdefault("TURNOUT_CUDA", "sim") == "real"
NAME = "cuda" if REAL else "cuda (sim)"


def choose() -> None:
    """Puts the simulator in the driver's place, if that is what is wanted: before anything imports cuda.bindings."""
    if not REAL:
        import turnout_cudasim

        turnout_cudasim.install()


def reports() -> list[str]:
    """What the simulator found wrong, a line each (races, reads of what was never written, accesses out of bounds); a GPU finds nothing."""
    if REAL:
        return []
    import turnout_cudasim

    return [str(report).replace("\n", " ") for report in turnout_cudasim.reports()]


def found(said: Sequence[str] | None = None) -> str:
    """The last line of a command's output: which GPU it was, or how much the simulator found wrong, in this process or as others said."""
    if REAL:
        from turnout_cuda import driver

        return f"on {driver.gpus()[0].name}"
    return f"simulator: {len(reports() if said is None else said)} reports (races, reads of what was never written, accesses out of bounds)"
