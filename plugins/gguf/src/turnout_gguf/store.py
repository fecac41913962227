"""Repacked weights on disk, so that the second load of a file is a map.

One store holds all that was repacked of one GGUF file, as it was at one time: its name comes from the file's path, size, time of change
and inode, and the version of this plugin. It is written under another name and then renamed, so that whoever finds it finds it whole,
and two processes that make it at once both win. A store whose bytes were touched since (its own time of change and size stand in its
head, whose checksum stands before it) is not used but made again. Stores that were not used for longest go when all together are larger
than the bound.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import mmap
import os
import struct
import tempfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray  # of no use at run time, and slow to import

__all__ = ["Store", "Wanted", "identity", "store_for"]

log = logging.getLogger("turnout.gguf")

_MAGIC = b"TGW1"
_HEAD = struct.Struct("<4sIQ")  # magic, checksum of the head, its length
_ALIGNMENT = 4096
_LARGEST_HEAD = 1 << 26


@dataclass(frozen=True, slots=True)
class Wanted:
    """An array that a store has to hold, and what makes it."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    make: Callable[[], NDArray[Any]]


class Store:
    """path: of the store's file. bound: bytes that all stores of its folder may have together."""

    def __init__(self, path: Path, bound: int) -> None:
        self.path = path
        self.bound = bound

    def arrays(self, wanted: Mapping[str, Wanted]) -> dict[str, tuple[NDArray[Any], int]] | None:
        """The arrays, mapped, each with where it begins in the file; they are made and written first where there is no sound store. None
        where nothing can be written."""
        found = self._mapped(wanted)
        if found is not None:
            return found
        try:
            self._write(wanted)
        except OSError as error:
            log.info("repacked weights are not kept: %s", error)
            return None
        self._tidy()
        return self._mapped(wanted)

    def _mapped(self, wanted: Mapping[str, Wanted]) -> dict[str, tuple[NDArray[Any], int]] | None:
        try:
            with self.path.open("rb") as file:
                start, entries = _read_head(file)
                whole = np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), np.uint8)
                now = os.stat(file.fileno())
            with contextlib.suppress(OSError):
                os.utime(self.path, ns=(_now(), now.st_mtime_ns))  # the time of last use; that of change stays
            return {name: (_view(whole, start, entries[name], one), start + entries[name][2]) for name, one in wanted.items()}
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError, struct.error) as error:
            log.info("the repacked weights in %s are made again: %s", self.path.name, error)
            return None

    def _write(self, wanted: Mapping[str, Wanted]) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        entries, end = {}, 0
        for name, one in wanted.items():
            entries[name] = (one.dtype.name, list(one.shape), end)
            end += -(-one.dtype.itemsize * int(np.prod(one.shape, dtype=object)) // _ALIGNMENT) * _ALIGNMENT
        stamp = _now()
        said = json.dumps({"entries": entries, "stamp": stamp, "size": end}).encode()
        start = -(-(_HEAD.size + len(said)) // _ALIGNMENT) * _ALIGNMENT
        descriptor, name = tempfile.mkstemp(prefix=".making-", dir=self.path.parent)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(_HEAD.pack(_MAGIC, zlib.crc32(said), len(said)) + said)
                for key, one in wanted.items():
                    file.seek(start + entries[key][2])
                    np.ascontiguousarray(one.make()).tofile(file)
                file.truncate(start + end)
                file.flush()
                os.fsync(file.fileno())
            os.utime(name, ns=(stamp, stamp))
            os.replace(name, self.path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(name)
            raise

    def _tidy(self) -> None:
        """Removes the stores that were not used for longest, and what a process that died left behind."""
        found = []
        for path in self.path.parent.iterdir():
            with contextlib.suppress(OSError):
                state = path.stat()
                if path.name.startswith(".making-") and _now() - state.st_mtime_ns > 24 * 3600 * 10**9:
                    path.unlink()
                elif path.suffix == self.path.suffix:
                    found.append((path == self.path, state.st_atime_ns, state.st_size, path))
        room = self.bound
        for own, _, size, path in sorted(found, reverse=True, key=lambda one: one[:2]):
            room -= size
            if room < 0 and not own:
                with contextlib.suppress(OSError):  # another process may map it, and its system may mind
                    path.unlink()


def store_for(file: Path, folder: Path, bound: int) -> Store | None:
    """The store of a GGUF file as it is now; None where it cannot be looked at."""
    found = identity(file)
    if found is None:
        return None
    name = hashlib.sha256(json.dumps([*found, version("turnout-gguf"), _layout()]).encode()).hexdigest()[:32]
    return Store(folder / f"{name}.weights", bound)


def identity(file: Path) -> list[Any] | None:
    """What is different where a file is another one, or was changed; None where it cannot be looked at."""
    try:
        file = file.resolve()
        state = file.stat()
    except OSError:
        return None
    return [str(file), state.st_size, state.st_mtime_ns, state.st_ino]


def _layout() -> str:
    """Changes with the code that repacks, so that who works on it needs no new version."""
    import turnout_gguf.blocks
    import turnout_gguf.repack

    sources = (Path(module.__file__ or "") for module in (turnout_gguf.blocks, turnout_gguf.repack))
    return ",".join(f"{source.stat().st_size}.{source.stat().st_mtime_ns}" for source in sources if source.is_file())


def _read_head(file: BinaryIO) -> tuple[int, dict[str, Any]]:
    """Where the data start, and the entries. Raises ValueError where this is no store, or not as it was written."""
    magic, checksum, length = _HEAD.unpack(file.read(_HEAD.size))
    if magic != _MAGIC or length > _LARGEST_HEAD:
        raise ValueError("it is none")
    said = file.read(length)
    if zlib.crc32(said) != checksum:
        raise ValueError("its head is damaged")
    head = json.loads(said)
    start = -(-(_HEAD.size + length) // _ALIGNMENT) * _ALIGNMENT
    state = os.fstat(file.fileno())
    # file systems keep times to a nanosecond, a hundred of them, or worse: a store there is always made again
    if (state.st_size, state.st_mtime_ns // 1000) != (start + head["size"], head["stamp"] // 1000):
        raise ValueError("it was changed since it was written")
    return start, head["entries"]


def _view(whole: NDArray[np.uint8], start: int, entry: Any, wanted: Wanted) -> NDArray[Any]:
    name, shape, offset = entry
    if name != wanted.dtype.name or tuple(shape) != wanted.shape:
        raise ValueError("it holds something else")
    nbytes = wanted.dtype.itemsize * int(np.prod(wanted.shape, dtype=object))
    return whole[start + offset : start + offset + nbytes].view(wanted.dtype).reshape(wanted.shape)


def _now() -> int:
    import time

    return time.time_ns()
