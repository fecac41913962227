"""A file as memory, before anything of it is read: all that a load which was kept has to see of it."""

from __future__ import annotations

import mmap
from pathlib import Path

from turnout.errors import InvalidModel

__all__ = ["mapped"]


def mapped(file: Path | bytes | memoryview) -> memoryview:
    """The file mapped into memory, nothing of it read. Raises InvalidModel where that cannot be."""
    if not isinstance(file, Path):
        return memoryview(file)
    try:
        with open(file, "rb") as source:
            if source.seek(0, 2) == 0:
                return memoryview(b"")
            return memoryview(mmap.mmap(source.fileno(), 0, access=mmap.ACCESS_READ))
    except OSError as error:
        raise InvalidModel(f"{file.name} cannot be read: {error.strerror}", hint="check the path and the file's permissions") from None
