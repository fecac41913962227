"""Looking for GPUs with the driver alone, through ctypes: cuda-python's own modules must not be touched where there is no driver.

(Read with cuda-core 1.2: without a driver, a kernel looked up twice hangs for ever.) What is asked here is asked in a millisecond, and
each way of having no GPU has its own reason.
"""

from __future__ import annotations

import ctypes
import importlib
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from turnout.errors import Unavailable

__all__ = ["LEAST_CAPABILITY", "LEAST_DRIVER", "Gpu", "gpus", "library_name", "simulated"]

LEAST_DRIVER = 13000
"""cuDriverGetVersion of the first driver (580) that loads what NVRTC 13 builds."""
LEAST_CAPABILITY = (7, 5)
"""Turing: the oldest architecture that NVRTC 13 builds for."""

# cuda.h, CUresult
_NO_DEVICE, _STUB, _SYSTEM_NOT_READY, _MISMATCH = 100, 34, 802, 803
# cuda.h, CUdevice_attribute
_MAJOR, _MINOR, _PROCESSORS, _INTEGRATED = 75, 76, 16, 18


@dataclass(frozen=True)
class Gpu:
    """A GPU, or a MIG slice of one. ordinal: the driver's number. memory: bytes. capability: (9, 0) for Hopper."""

    ordinal: int
    name: str
    memory: int
    capability: tuple[int, int]
    processors: int
    integrated: bool
    driver: int
    uuid: str

    @property
    def mig(self) -> bool:
        """Whether it is a slice of a GPU (Multi-Instance GPU)."""
        return " MIG " in f" {self.name} "

    @property
    def simulated(self) -> bool:
        """Whether it is turnout-cudasim's, which runs PTX."""
        return self.name.startswith("turnout-cudasim")

    @property
    def arch(self) -> str:
        """The architecture as NVRTC names it, "sm_90"."""
        return f"sm_{self.capability[0]}{self.capability[1]}"


def simulated() -> bool:
    """Whether TURNOUT_CUDA=sim asks for the simulator in place of a driver."""
    return os.environ.get("TURNOUT_CUDA", "") == "sim"


def library_name() -> str:
    """What the driver's library is called here."""
    return "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"


def gpus() -> list[Gpu]:
    """The GPUs that this process sees, in the driver's order. Raises Unavailable with the reason where there is none."""
    driver = _load()
    _check(driver.cuInit(0), driver)
    version = ctypes.c_int()
    _check(driver.cuDriverGetVersion(ctypes.byref(version)), driver)
    if version.value < LEAST_DRIVER:
        raise Unavailable(
            f"the NVIDIA driver is for CUDA {_dotted(version.value)}, and these kernels want {_dotted(LEAST_DRIVER)} or newer",
            hint="install an NVIDIA driver of version 580 or newer",
        )
    count = ctypes.c_int()
    _check(driver.cuDeviceGetCount(ctypes.byref(count)), driver)
    found = [_gpu(driver, ordinal, version.value) for ordinal in range(count.value)]
    if not simulated():  # somebody else in this process simulates a GPU, which is none for a user
        found = [one for one in found if not one.simulated]
    usable = [one for one in found if one.capability >= LEAST_CAPABILITY]
    if not found:
        raise Unavailable(f"the NVIDIA driver sees no GPU{_visible()}", hint=_VISIBLE_HINT if _hidden() else "check with nvidia-smi")
    if not usable:
        names = ", ".join(f"{one.name} (compute capability {one.capability[0]}.{one.capability[1]})" for one in found)
        raise Unavailable(f"the GPU here is older than compute capability 7.5: {names}", hint="use a GPU of the Turing generation or newer")
    return usable


def _load() -> Any:
    if sys.platform == "darwin":
        raise Unavailable("there is no CUDA on macOS", hint="use the cpu provider")
    if simulated():
        try:
            simulator = importlib.import_module("turnout_cudasim")
        except ImportError as error:
            raise Unavailable("TURNOUT_CUDA=sim asks for a simulator that is not installed", hint="pip install turnout-cudasim") from error
        if simulator.mode() is None:
            simulator.install()
    try:
        return ctypes.CDLL(library_name())
    except OSError as error:
        raise Unavailable(f"no NVIDIA driver here: {_said(error)}", hint="on a machine with an NVIDIA GPU, install its driver") from error


def _said(error: OSError) -> str:
    text = str(error)
    if "cannot open shared object file" in text or "Could not find module" in text:
        return f"{library_name()} was not found"
    return text


def _check(code: int, driver: Any) -> None:
    if code == 0:
        return
    hint = "check with nvidia-smi"
    if code == _NO_DEVICE:
        what = f"the NVIDIA driver sees no GPU{_visible()}"
        hint = _VISIBLE_HINT if _hidden() else hint
    elif code == _STUB:
        what, hint = f"{library_name()} is a stub for building programs, not a driver", "take its folder out of LD_LIBRARY_PATH"
    elif code == _MISMATCH:
        what, hint = "the NVIDIA driver's library and kernel module are of different versions", "restart the machine after a driver update"
    elif code == _SYSTEM_NOT_READY:
        what, hint = "the NVIDIA driver is not ready (its fabric manager may not run)", "start nvidia-fabricmanager, or wait and try again"
    else:
        what = f"the NVIDIA driver could not be started: {_name(code, driver)}"
    raise Unavailable(what, hint=hint)


def _name(code: int, driver: Any) -> str:
    text = ctypes.c_char_p()
    if driver.cuGetErrorName(code, ctypes.byref(text)) == 0 and text.value:
        return text.value.decode(errors="replace")
    return f"error {code}"


_VISIBLE_HINT = "unset CUDA_VISIBLE_DEVICES, or name the GPUs in it that you want"


def _hidden() -> bool:
    return "CUDA_VISIBLE_DEVICES" in os.environ


def _visible() -> str:
    return f" (CUDA_VISIBLE_DEVICES is {os.environ['CUDA_VISIBLE_DEVICES']!r})" if _hidden() else ""


def _gpu(driver: Any, ordinal: int, version: int) -> Gpu:
    handle, name, total, uuid = ctypes.c_int(), ctypes.create_string_buffer(256), ctypes.c_size_t(), (ctypes.c_ubyte * 16)()
    _check(driver.cuDeviceGet(ctypes.byref(handle), ordinal), driver)
    _check(driver.cuDeviceGetName(name, len(name), handle), driver)
    _check(driver.cuDeviceTotalMem_v2(ctypes.byref(total), handle), driver)
    _check(driver.cuDeviceGetUuid_v2(uuid, handle), driver)
    major, minor, processors, integrated = _attributes(driver, handle)
    return Gpu(
        ordinal,
        name.value.decode(errors="replace"),
        total.value,
        (major, minor),
        processors,
        bool(integrated),
        version,
        bytes(uuid).hex(),
    )


def _attributes(driver: Any, handle: ctypes.c_int) -> Iterator[int]:
    for number in (_MAJOR, _MINOR, _PROCESSORS, _INTEGRATED):
        value = ctypes.c_int()
        _check(driver.cuDeviceGetAttribute(ctypes.byref(value), number, handle), driver)
        yield value.value


def _dotted(version: int) -> str:
    return f"{version // 1000}.{version % 1000 // 10}"
