"""The driver library, configured. What it calls back is in `bridge`."""

from __future__ import annotations

import ctypes
from ctypes import Structure, c_char, c_int, c_size_t
from pathlib import Path
from typing import TYPE_CHECKING

from .device import architecture, attributes

if TYPE_CHECKING:
    from .report import Report

NEWEST_DRIVER, OLD_DRIVER = 13050, 11040  # 1000 * major + 10 * minor
HOST_BYTES = 4 << 30  # room for pinned and managed memory
INIT_RESULTS = {  # what cuInit answers: a CUresult, or what native/device.c does instead
    "no-device": 100,
    "init-fails": 802,  # CUDA_ERROR_SYSTEM_NOT_READY
    "driver-mismatch": 803,
    "init-hangs": -1,
    "init-crashes": -2,
}


class Settings(Structure):
    """`struct settings` of native/sim.h."""

    _fields_ = (
        ("init_result", c_int),
        ("driver_version", c_int),
        ("any_image", c_int),
        ("device_bytes", c_size_t),
        ("host_bytes", c_size_t),
        ("name", c_char * 96),
        ("attributes", c_int * 256),
    )


class Driver:
    """The library in this process, in one of its modes. There is one."""

    def __init__(self, path: Path, mode: str, arch: str, memory: int, races: bool) -> None:
        self.mode = mode
        self.architecture = architecture(arch)
        self.reports: list[Report] = []
        settings = Settings(
            init_result=INIT_RESULTS.get(mode, 0),
            driver_version=OLD_DRIVER if mode == "driver-too-old" else NEWEST_DRIVER,
            any_image=mode == "noop",
            device_bytes=memory,
            host_bytes=HOST_BYTES,
            name=f"turnout-cudasim sm_{self.architecture.name} (simulated, no GPU)".encode(),
        )
        for attribute, value in attributes(self.architecture).items():
            settings.attributes[attribute] = value
        self.library = ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)  # cuda.bindings finds it by its name, which is the real one's
        self.library.cudasim_configure(ctypes.byref(settings))
        size = c_size_t()
        self.library.cudasim_arena.restype = ctypes.c_void_p
        base = self.library.cudasim_arena(ctypes.byref(size))
        if not base:
            raise MemoryError(f"no address space for {memory} bytes of device memory: set TURNOUT_CUDASIM_MEMORY (in MiB) lower")
        if mode == "run":
            from .bridge import Bridge

            self.bridge = Bridge(self.library, base, size.value, self.architecture, self.reports, races)

    def clear(self) -> None:
        self.reports.clear()
        self.library.cudasim_clear_error()
