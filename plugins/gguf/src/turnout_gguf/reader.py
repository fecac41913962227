"""GGUF, versions 2 and 3, read over a memory map: metadata and the list of tensors first, weights only when asked for.

The file is not trusted. Every count, length and offset is checked against the size of the file before anything is made from it, so that
opening takes no more memory than the file has bytes, plus what `_MOST_KEYS` and `_MOST_TENSORS` allow.

    "GGUF"  version u32  tensors u64  keys u64
    keys:     name str, type u32, value         str: length u64, UTF-8; array: type u32, count u64, elements
    tensors:  name str, dimensions u32, sizes u64 (innermost first), type u32, offset u64 (from the start of the data)
    data:     starts at the next multiple of general.alignment; each offset is a multiple of it too

Source: the GGUF specification (ggml repository, docs/gguf.md). All numbers are little-endian.
"""

from __future__ import annotations

import itertools
import math
import struct
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, overload

import numpy as np

from turnout.errors import InvalidModel
from turnout_gguf.mapped import mapped
from turnout_gguf.types import TYPES, BlockType

if TYPE_CHECKING:
    from numpy.typing import NDArray  # of no use at run time, and slow to import

__all__ = ["Gguf", "Metadata", "Strings", "Tensor", "read"]

_MOST_KEYS = 4096  # the largest files known hold some 60
_MOST_TENSORS = 65536  # the largest files known hold some 2,000
_LONGEST_NAME = 65535  # bytes; the specification's limit for keys
_MOST_DIMENSIONS = 4
_LARGEST_ALIGNMENT = 1 << 20

_SCALARS = {0: "<u1", 1: "<i1", 2: "<u2", 3: "<i2", 4: "<u4", 5: "<i4", 6: "<f4", 7: "?", 10: "<u8", 11: "<i8", 12: "<f8"}
_STRING, _ARRAY = 8, 9

_U32 = struct.Struct("<I")
_U64 = struct.Struct("<Q")

_AGAIN = "fetch the file again; if it stays so, convert the model again"


@dataclass(frozen=True, slots=True)
class Tensor:
    """Where a tensor lies: shape in NumPy's order (rows first), type, and the place of its bytes in the file."""

    name: str
    shape: tuple[int, ...]
    type: BlockType
    offset: int
    nbytes: int


class Strings(Sequence[str]):
    """An array of strings in the file, decoded one at a time; bytes that are no UTF-8 come out as lone surrogates."""

    def __init__(self, buffer: memoryview, ends: array[int], start: int) -> None:
        self._buffer = buffer
        self._ends = ends
        self._start = start

    def __len__(self) -> int:
        return len(self._ends)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self[position] for position in range(*index.indices(len(self)))]
        position = range(len(self))[index]
        start = self._ends[position - 1] if position else self._start
        return str(self._buffer[start + 8 : self._ends[position]], "utf-8", "surrogateescape")

    def __iter__(self) -> Iterator[str]:
        start, buffer = self._start, self._buffer
        for end in self._ends:
            yield str(buffer[start + 8 : end], "utf-8", "surrogateescape")
            start = end

    def __repr__(self) -> str:
        return f"<{len(self)} strings>"


class Metadata(Mapping[str, Any]):
    """The file's keys, each value decoded when it is asked for.

    A value is an int, float, bool or str; an array of numbers is a NumPy view of the file, an array of strings a `Strings`.
    """

    def __init__(self, buffer: memoryview, places: dict[str, tuple[int, int, Any]]) -> None:
        self._buffer = buffer
        self._places = places

    def __getitem__(self, key: str) -> Any:
        kind, at, value = self._places[key]
        if kind == _STRING:
            length = _U64.unpack_from(self._buffer, at)[0]
            return str(self._buffer[at + 8 : at + 8 + length], "utf-8", "surrogateescape")
        return value

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


@dataclass(frozen=True)
class Gguf:
    """One opened file: its metadata, and its tensors by name in the file's order."""

    name: str
    version: int
    metadata: Mapping[str, Any]
    tensors: Mapping[str, Tensor]
    _buffer: memoryview

    def raw(self, tensor: Tensor) -> NDArray[np.uint8]:
        """The tensor's bytes, uint8 [rows, bytes of a row], a view of the file. A row is the innermost dimension."""
        rows = math.prod(tensor.shape[:-1])
        return np.frombuffer(self._buffer, np.uint8, tensor.nbytes, tensor.offset).reshape(rows, -1)


def read(file: Path | bytes | memoryview, name: str = "<bytes>") -> Gguf:
    """Opens a file, or its bytes. Raises InvalidModel for whatever is not a sound GGUF of version 2 or 3."""
    return _Reader(mapped(file), file.name if isinstance(file, Path) else name).read()


class _Reader:
    """A place in the file that only moves forward, and never past its end."""

    def __init__(self, buffer: memoryview, name: str) -> None:
        self.buffer = buffer
        self.size = len(buffer)
        self.name = name
        self.at = 0

    def refuse(self, what: str, hint: str = _AGAIN) -> NoReturn:
        raise InvalidModel(f"{self.name}: {what}", hint=hint)

    def need(self, nbytes: int, what: str) -> None:
        """Refuses unless so many bytes are left."""
        if nbytes > self.size - self.at:
            self.refuse(f"it is cut short, or a length in it lies: {what} wants {nbytes} bytes at byte {self.at} of {self.size}")

    def u32(self, what: str) -> int:
        self.need(4, what)
        value: int = _U32.unpack_from(self.buffer, self.at)[0]
        self.at += 4
        return value

    def u64(self, what: str) -> int:
        self.need(8, what)
        value: int = _U64.unpack_from(self.buffer, self.at)[0]
        self.at += 8
        return value

    def text(self, what: str) -> str:
        length = self.u64(what)
        if length > _LONGEST_NAME:
            self.refuse(f"{what} is {length} bytes long, and {_LONGEST_NAME} is the most")
        self.need(length, what)
        raw = bytes(self.buffer[self.at : self.at + length])
        self.at += length
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError:
            self.refuse(f"{what} is no UTF-8: {raw[:40]!r}")

    def read(self) -> Gguf:
        version, tensors, keys = self._header()
        metadata = self._metadata(keys)
        alignment = self._alignment(metadata)
        infos = [self._tensor(position) for position in range(tensors)]
        start = -(-self.at // alignment) * alignment
        return Gguf(self.name, version, metadata, self._placed(infos, start, alignment), self.buffer)

    def _header(self) -> tuple[int, int, int]:
        """(version, number of tensors, number of keys)."""
        self.need(4, "the beginning")
        magic = bytes(self.buffer[:4])
        if magic != b"GGUF":
            self.refuse(f"it does not begin with GGUF but with {magic!r}", "this is another kind of file")
        self.at = 4
        version = self.u32("the version")
        if version not in (2, 3):
            if version and version & 0xFFFF == 0:
                self.refuse("it is a big-endian GGUF, and turnout reads little-endian ones", "convert the model for little-endian machines")
            self.refuse(f"it is GGUF version {version}, and turnout reads 2 and 3", "convert the model again with a current converter")
        tensors, keys = self.u64("the number of tensors"), self.u64("the number of keys")
        if keys > _MOST_KEYS or keys * 13 > self.size:
            self.refuse(f"it says that it has {keys} keys, in {self.size} bytes (turnout takes up to {_MOST_KEYS})")
        if tensors > _MOST_TENSORS or tensors * 32 > self.size:
            self.refuse(f"it says that it has {tensors} tensors, in {self.size} bytes (turnout takes up to {_MOST_TENSORS})")
        return version, tensors, keys

    def _metadata(self, count: int) -> Metadata:
        places: dict[str, tuple[int, int, Any]] = {}
        for position in range(count):
            key = self.text(f"the name of key {position}")
            if key in places:
                self.refuse(f"key {key!r:.80} is there twice")
            kind = self.u32(f"the type of key {key!r:.80}")
            at = self.at
            places[key] = (kind, at, self._value(kind, key))
        return Metadata(self.buffer, places)

    def _value(self, kind: int, key: str) -> Any:
        """The value that starts here; a string is only stepped over."""
        what = f"the value of key {key!r:.80}"
        if kind in _SCALARS:
            return self._numbers(kind, 1, what)[0].item()
        if kind == _STRING:
            length = self.u64(what)
            self.need(length, what)
            self.at += length
            return None
        if kind != _ARRAY:
            self.refuse(f"key {key!r:.80} has type {kind}, which GGUF does not define")
        inner, count = self.u32(what), self.u64(what)
        if inner in _SCALARS:
            return self._numbers(inner, count, what)
        if inner == _STRING:
            return self._strings(count, what)
        problem = "arrays, which no model needs" if inner == _ARRAY else f"type {inner}, which GGUF does not define"
        return self.refuse(f"key {key!r:.80} is an array of {problem}")

    def _numbers(self, kind: int, count: int, what: str) -> NDArray[Any]:
        dtype = np.dtype(_SCALARS[kind])
        self.need(count * dtype.itemsize, what)
        at = self.at
        self.at += count * dtype.itemsize
        if dtype.kind == "b":  # a bool of another byte than 0 and 1 is undefined in NumPy
            return np.not_equal(np.frombuffer(self.buffer, np.uint8, count, at), 0)
        return np.frombuffer(self.buffer, dtype, count, at)

    def _strings(self, count: int, what: str) -> Strings:
        """Steps over the strings; what it keeps is eight bytes for each, as many as its length takes in the file."""
        self.need(count * 8, what)
        start = at = self.at
        ends = array("q", (0,)) * count
        buffer, last, unpack = self.buffer, self.size - 8, _U64.unpack_from
        for position in range(count):
            if at > last:
                break
            at += 8 + unpack(buffer, at)[0]
            if at > self.size:
                break
            ends[position] = at
        else:
            self.at = at
            return Strings(buffer, ends, start)
        return self.refuse(f"it is cut short, or a length in it lies: string {position} of {what} ends at byte {at} of {self.size}")

    def _alignment(self, metadata: Metadata) -> int:
        value = metadata.get("general.alignment", 32)
        if type(value) is not int or not 0 < value <= _LARGEST_ALIGNMENT or value & (value - 1):
            self.refuse(f"its alignment is {value!r:.40}, which is no power of two up to {_LARGEST_ALIGNMENT}")
        return value

    def _tensor(self, position: int) -> Tensor:
        """A tensor's description; its offset is still counted from the start of the data."""
        name = self.text(f"the name of tensor {position}")
        count = self.u32(f"the rank of tensor {name!r:.80}")
        if not 1 <= count <= _MOST_DIMENSIONS:
            self.refuse(f"tensor {name!r:.80} has {count} dimensions, and 1 to {_MOST_DIMENSIONS} are possible")
        shape = tuple(self.u64(f"the shape of tensor {name!r:.80}") for _ in range(count))[::-1]
        number, offset = self.u32(f"the type of tensor {name!r:.80}"), self.u64(f"the offset of tensor {name!r:.80}")
        if number not in TYPES:
            self.refuse(f"tensor {name!r:.80} has type {number}, which turnout does not know", "update turnout-gguf")
        kind = TYPES[number]
        if 0 in shape or shape[-1] % kind.elements:
            self.refuse(f"tensor {name!r:.80} has shape {list(shape)}, and {kind} wants rows of a multiple of {kind.elements}")
        return Tensor(name, shape, kind, offset, math.prod(shape) // kind.elements * kind.nbytes)

    def _placed(self, infos: Sequence[Tensor], start: int, alignment: int) -> dict[str, Tensor]:
        """The tensors by name, each where it lies in the file: inside it, and none over another."""
        tensors: dict[str, Tensor] = {}
        for info in infos:
            if info.name in tensors:
                self.refuse(f"tensor {info.name!r:.80} is there twice")
            at = start + info.offset
            if info.offset % alignment:
                self.refuse(f"tensor {info.name!r:.80} lies at offset {info.offset}, which is no multiple of {alignment}")
            if at + info.nbytes > self.size:
                self.refuse(f"it is cut short: tensor {info.name!r:.80} wants bytes {at} to {at + info.nbytes} of {self.size}")
            tensors[info.name] = Tensor(info.name, info.shape, info.type, at, info.nbytes)
        in_order = sorted(tensors.values(), key=lambda tensor: tensor.offset)
        for one, next_one in itertools.pairwise(in_order):
            if one.offset + one.nbytes > next_one.offset:
                self.refuse(f"tensors {one.name!r:.80} and {next_one.name!r:.80} overlap")
        return tensors
