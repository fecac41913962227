"""What this process holds of the system: memory, open files, threads."""

from __future__ import annotations

import gc
import os
import sys
from pathlib import Path

__all__ = ["held"]


def held() -> dict[str, int] | None:
    """ "bytes" of memory in use, and the numbers of open "files" and "threads"; None where the system does not tell."""
    gc.collect()
    if sys.platform == "win32":
        return _by_windows()
    if not Path("/proc/self/statm").exists():
        return None
    return {
        "bytes": int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE"),
        "files": len(list(Path("/proc/self/fd").iterdir())),
        "threads": len(list(Path("/proc/self/task").iterdir())),
    }


if sys.platform == "win32":
    import ctypes
    from ctypes import wintypes

    class _Memory(ctypes.Structure):
        """PROCESS_MEMORY_COUNTERS."""

        _fields_ = (
            ("size", wintypes.DWORD),
            ("faults", wintypes.DWORD),
            *((name, ctypes.c_size_t) for name in ("peak", "working_set", "a", "b", "c", "d", "page_file", "peak_page_file")),
        )

    def _by_windows() -> dict[str, int]:
        """Handles are its files and threads in one."""
        kernel = ctypes.WinDLL("kernel32")
        kernel.GetCurrentProcess.restype = wintypes.HANDLE
        this, memory, handles = wintypes.HANDLE(kernel.GetCurrentProcess()), _Memory(), wintypes.DWORD()
        memory.size = ctypes.sizeof(memory)
        if not kernel.K32GetProcessMemoryInfo(this, ctypes.byref(memory), memory.size):
            raise OSError("Windows does not tell how much memory the process has")
        if not kernel.GetProcessHandleCount(this, ctypes.byref(handles)):
            raise OSError("Windows does not tell how many handles the process has")
        return {"bytes": memory.working_set, "files": handles.value}
