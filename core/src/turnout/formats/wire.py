"""An ONNX file's structure without its weights, and where in the file each weight lies.

Protobuf would copy every weight; this walks the wire format (protobuf.dev/programming-guides/encoding) just deep enough to step over
the raw bytes of large initializers, so that a file of any size opens in the time that its nodes take, and weights stay mapped.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

__all__ = ["LARGE", "Weight", "split"]

LARGE = 1024
"""Initializers of more bytes than this are left in the file; smaller ones stay in the skeleton, where shape inference reads them."""

# field numbers of onnx.proto
_MODEL_GRAPH = 7
_GRAPH_INITIALIZER = 5
_TENSOR_DIMS, _TENSOR_TYPE, _TENSOR_NAME, _TENSOR_RAW = 1, 2, 8, 9
_TENSOR_NOTES = (12, 16)  # doc_string and metadata_props: nothing that a run reads
_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5


@dataclass(frozen=True, slots=True)
class Weight:
    """One initializer left in the file: its ONNX element type, its shape, and the place of its bytes."""

    name: str
    data_type: int
    shape: tuple[int, ...]
    offset: int
    nbytes: int

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


def split(buffer: memoryview) -> tuple[bytes, list[Weight]]:
    """(a ModelProto's bytes without large initializers, what was left out). Raises ValueError where the wire format is broken."""
    pieces: list[memoryview | bytes] = []
    weights: list[Weight] = []
    for field, wire, tag, start, end in _fields(buffer, 0, len(buffer)):
        if field == _MODEL_GRAPH and wire == _LENGTH:
            kept = list(_graph(buffer, start, end, weights))
            pieces += [b"\x3a", _varint_bytes(sum(map(len, kept))), *kept]
        else:
            pieces.append(buffer[tag:end])
    return b"".join(pieces), weights


def _graph(buffer: memoryview, start: int, end: int, weights: list[Weight]) -> Iterator[memoryview]:
    """The graph's bytes, in runs that step over each large initializer."""
    run = start
    for field, wire, tag, body, stop in _fields(buffer, start, end):
        if field == _GRAPH_INITIALIZER and wire == _LENGTH and stop - body > LARGE:
            weight = _weight(buffer, body, stop)
            if weight is not None:
                weights.append(weight)
                yield buffer[run:tag]
                run = stop
    yield buffer[run:end]


def _weight(buffer: memoryview, start: int, end: int) -> Weight | None:
    """The initializer, if all of it is name, type, shape and raw bytes; else it is left to protobuf."""
    dims: list[int] = []
    name, data_type, raw = "", 0, None
    for field, wire, _, body, stop in _fields(buffer, start, end):
        if field == _TENSOR_RAW and wire == _LENGTH:
            raw = (body, stop - body)
        elif field == _TENSOR_DIMS and wire == _VARINT:
            dims.append(_varint(buffer, body, stop)[0])
        elif field == _TENSOR_DIMS and wire == _LENGTH:
            while body < stop:
                value, body = _varint(buffer, body, stop)
                dims.append(value)
        elif field == _TENSOR_TYPE and wire == _VARINT:
            data_type = _varint(buffer, body, stop)[0]
        elif field == _TENSOR_NAME and wire == _LENGTH:
            name = str(buffer[body:stop], "utf-8")
        elif field not in _TENSOR_NOTES:
            return None
    if raw is None or raw[1] <= LARGE or not name or any(dim >= 1 << 63 for dim in dims):
        return None
    return Weight(name, data_type, tuple(dims), *raw)


def _fields(buffer: memoryview, start: int, end: int) -> Iterator[tuple[int, int, int, int, int]]:
    """(field number, wire type, offset of the tag, start and end of the value) of each field of a message."""
    at = start
    while at < end:
        tag = at
        key, at = _varint(buffer, at, end)
        wire = key & 7
        body = at
        if wire == _LENGTH:
            length, body = _varint(buffer, at, end)
            at = body + length
        elif wire == _VARINT:
            _, at = _varint(buffer, at, end)
        elif wire in (_FIXED64, _FIXED32):
            at += 8 if wire == _FIXED64 else 4
        else:
            raise ValueError(f"wire type {wire} at byte {tag}")
        if at > end:
            raise ValueError(f"the field at byte {tag} wants {at - end} more bytes than there are")
        yield key >> 3, wire, tag, body, at


def _varint(buffer: memoryview, at: int, end: int) -> tuple[int, int]:
    value = shift = 0
    while at < end:
        byte = buffer[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
        if shift > 63:
            raise ValueError(f"a number of more than ten bytes ends at byte {at}")
    raise ValueError(f"the file ends inside a number at byte {at}")


def _varint_bytes(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
