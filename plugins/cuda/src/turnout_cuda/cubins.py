"""Kernels that were built ahead of time, by turnout-cuda-cubins (see `ahead`): looked up before NVRTC is asked, and in its place.

The package holds an archive per architecture, `sm_80.zip`: cubins by the key that `build` gives a source, and in the archive's comment the
NVRTC that made them, which is part of the key.
"""

from __future__ import annotations

import functools
import threading
import zipfile
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from turnout_cuda.build import Target

__all__ = ["PACKAGE", "Archive", "archive"]

PACKAGE = "turnout_cuda_cubins"

_LEAST = {8: "sm_80", 10: "sm_100", 12: "sm_120"}
"""Major compute capability to the architecture whose cubins all of its GPUs load (CUDA C++ programming guide, "Binary Compatibility")."""


class Archive:
    """The cubins of one architecture. compiler: the NVRTC that made them, "13.5". arch: what they were built for."""

    def __init__(self, path: Path) -> None:
        self.arch = path.stem
        self._lock = threading.Lock()
        self._zip = zipfile.ZipFile(path)
        self._names = frozenset(self._zip.namelist())
        self.compiler = self._zip.comment.decode()

    def __len__(self) -> int:
        return len(self._names)

    def get(self, key: str) -> bytes | None:
        """The cubin of a source's key, None where it was not built ahead. Raises OSError or BadZipFile where the file is damaged."""
        if key not in self._names:
            return None
        with self._lock:
            return self._zip.read(key)


def archive(wanted: Target) -> Archive | None:
    """What was built ahead for a target; None where there is nothing."""
    folder = _folder()
    if folder is None:
        return None
    name = f"{wanted.arch}-ptx" if wanted.ptx else wanted.arch
    names = [name] if wanted.ptx else [name, _LEAST.get(int(wanted.arch[3:].rstrip("af")) // 10, name)]
    return next((_opened(folder / f"{one}.zip") for one in names if (folder / f"{one}.zip").exists()), None)


def _folder() -> Path | None:
    spec = find_spec(PACKAGE)
    return Path(next(iter(spec.submodule_search_locations))) if spec and spec.submodule_search_locations else None


@functools.cache
def _opened(path: Path) -> Archive:
    return Archive(path)
