"""Which device these commands work on: the simulated one, unless TURNOUT_CUDA=real asks for the machine's GPU."""

from __future__ import annotations

import os

__all__ = ["NAME", "REAL", "choose", "reports"]

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


def found() -> str:
    """The last line of a command's output: what the simulator found, or which GPU it was."""
    if REAL:
        from turnout_cuda import driver

        return f"on {driver.gpus()[0].name}"
    return f"simulator: {len(reports())} reports (races, reads of what was never written, accesses out of bounds)"
