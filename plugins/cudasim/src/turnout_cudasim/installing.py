"""`install`: put the stand-in driver where cuda.bindings will find it, and say what kind of device it is."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

if TYPE_CHECKING:
    from .driver import Driver
    from .report import Report

Mode = Literal["run", "noop", "no-device", "driver-too-old", "driver-mismatch", "init-fails", "init-hangs", "init-crashes"]
LIBRARY = Path(__file__).with_name("libcuda.so.1")

_driver: Driver | None = None
_choice: tuple[object, ...] | None = None


class InstallError(RuntimeError):
    """The simulator cannot stand in for the driver: not on this system, too late, or asked for twice in different ways."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(f"{message}\n  hint: {hint}")
        self.hint = hint


def install(mode: Mode | None = None, *, arch: str | None = None, memory: int | None = None, races: bool = True) -> None:
    """Make the simulator this process's CUDA driver. Call it before anything imports cuda.bindings or cuda.core.

    mode: "run" (the default) interprets kernels. "noop" accepts every image and runs nothing: what is left is the host's own cost.
        The rest are drivers to test probing with: "no-device", "driver-too-old" (a driver of CUDA 11.4), "driver-mismatch", "init-fails",
        "init-hangs" and "init-crashes". None: TURNOUT_CUDASIM_MODE, or "run".
    arch: the compute capability to show, as in "80" or "90a". None: TURNOUT_CUDASIM_ARCH, or "90".
    memory: bytes of device memory. None: TURNOUT_CUDASIM_MEMORY (in MiB), or 4 GiB. Only what is used is taken from the host.
    races: look for races in shared memory.

    Calling it again with the same arguments does nothing. Raises InstallError, and ValueError for an unknown mode or architecture.
    """
    global _driver, _choice
    mode = mode or _mode_from_environment()
    arch = arch or os.environ.get("TURNOUT_CUDASIM_ARCH") or "90"
    memory = memory or int(os.environ.get("TURNOUT_CUDASIM_MEMORY") or 4096) << 20
    if mode not in get_args(Mode):
        raise ValueError(f"no mode {mode!r}: choose one of {', '.join(get_args(Mode))}")
    choice = (mode, arch, memory, races)
    if _driver is not None:
        if choice != _choice:
            raise InstallError(f"the simulator is installed as {_choice}, and cannot become {choice}", "use another process for it")
        return
    if not LIBRARY.exists():
        raise InstallError(
            f"the simulator has no driver library for this system ({sys.platform})",
            "it needs Linux on x86-64 or arm64; elsewhere use a container, or WSL on Windows",
        )
    _check_not_too_late()

    from .driver import Driver

    _driver, _choice = Driver(LIBRARY, mode, arch, memory, races), choice


def mode() -> str | None:
    """The mode that is installed, or None."""
    return None if _driver is None else _driver.mode


def reports() -> list[Report]:
    """What was found wrong since the start, or since `clear`."""
    return [] if _driver is None else list(_driver.reports)


def clear() -> None:
    """Forget the reports, and let the device work again after an error that a GPU would not recover from."""
    if _driver is not None:
        _driver.clear()


def _mode_from_environment() -> Mode:
    return os.environ.get("TURNOUT_CUDASIM_MODE") or "run"  # type: ignore[return-value]  # checked by the caller


def _check_not_too_late() -> None:
    hint = "call turnout_cudasim.install() first thing, or run `python -m turnout_cudasim SCRIPT`"
    if "cuda.bindings._internal.driver" in sys.modules:
        raise InstallError("cuda.bindings is imported already, and would keep to the driver it looks up", hint)
    loaded = [line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines() if "/libcuda.so" in line]
    if loaded:
        raise InstallError(f"another CUDA driver is loaded already: {loaded[0]}", hint)
