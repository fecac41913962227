"""GGUF files made for tests, byte by byte from the specification, and random blocks to fill them with."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from gguf import GGMLQuantizationType, dequantize
from numpy.typing import NDArray

from turnout_gguf.types import TYPES, BlockType

BY_NAME: dict[str, BlockType] = {kind.name: kind for kind in TYPES.values()}

_NUMBERS = {np.dtype(code): number for number, code in enumerate(["u1", "i1", "u2", "i2", "u4", "i4", "f4", "?"])}
_NUMBERS |= {np.dtype("u8"): 10, np.dtype("i8"): 11, np.dtype("f8"): 12}

# where the float16 scales of a block lie; the other types have them at byte 0, F32 and its like have none
_SCALES = {"Q2_K": (80, 82), "Q3_K": (108,), "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,), "TQ1_0": (52,), "TQ2_0": (64,)}
_SCALES |= {"Q4_1": (0, 2), "Q5_1": (0, 2), "IQ1_M": ()}


@dataclass(frozen=True)
class MadeTensor:
    """shape: NumPy's order. data: the bytes of its blocks. offset: None for the next aligned place."""

    name: str
    kind: int
    shape: tuple[int, ...]
    data: bytes
    offset: int | None = None


def text(value: str | bytes) -> bytes:
    raw = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(raw)) + raw


def value(given: Any) -> bytes:
    """A typed value: int as u32, float as f32, lists of strings and NumPy arrays as arrays; bytes are taken as they are."""
    if isinstance(given, bytes):
        return given
    if isinstance(given, np.generic):
        return struct.pack("<I", _NUMBERS[given.dtype]) + given.tobytes()
    if isinstance(given, bool):
        return struct.pack("<IB", 7, given)
    if isinstance(given, int):
        return struct.pack("<II", 4, given)
    if isinstance(given, float):
        return struct.pack("<If", 6, given)
    if isinstance(given, str):
        return struct.pack("<I", 8) + text(given)
    if isinstance(given, np.ndarray):
        return struct.pack("<IIQ", 9, _NUMBERS[given.dtype], given.size) + given.tobytes()
    return struct.pack("<IIQ", 9, 8, len(given)) + b"".join(map(text, given))


def gguf(
    keys: Mapping[str, Any] | Sequence[tuple[str, Any]] = (), tensors: Sequence[MadeTensor] = (), *, version: int = 3, alignment: int = 32
) -> bytes:
    """A whole file."""
    pairs = list(keys.items()) if isinstance(keys, Mapping) else list(keys)
    head = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(pairs))
    head += b"".join(text(key) + value(given) for key, given in pairs)
    data = b""
    for tensor in tensors:
        data += bytes(-len(data) % alignment)
        offset = len(data) if tensor.offset is None else tensor.offset
        sizes = tensor.shape[::-1]
        head += text(tensor.name) + struct.pack(f"<I{len(sizes)}QIQ", len(sizes), *sizes, tensor.kind, offset)
        data += tensor.data
    return head + bytes(-len(head) % alignment) + data if tensors else head


def blocks(kind: BlockType, rows: int, columns: int, seed: int = 0, size: float = 1.0) -> NDArray[np.uint8]:
    """Random blocks of a type with finite weights of about `size`: uint8 [rows, bytes of a row]."""
    random = np.random.default_rng(seed)
    if kind.elements == 1:
        weights = random.standard_normal((rows, columns)).astype(np.float32) * np.float32(size)
        if kind.name == "BF16":
            return (weights.view(np.uint32) >> 16).astype(np.uint16).view(np.uint8).reshape(rows, -1)
        return weights.astype({"F32": "<f4", "F16": "<f2"}[kind.name]).view(np.uint8).reshape(rows, -1)
    raw = random.integers(0, 256, (rows * columns // kind.elements, kind.nbytes), dtype=np.uint8)
    if kind.name == "MXFP4":
        raw[:, 0] = random.integers(-3, 0, len(raw)) + round(np.log2(size)) + 127
        return raw.reshape(rows, -1)
    if kind.name == "NVFP4":
        raw[:, :4] = (round(np.log2(size)) + 5) * 8 + (raw[:, :4] & 7)
        return raw.reshape(rows, -1)
    places, scales = _SCALES.get(kind.name, (0,)), random.uniform(0.5, 1, len(raw))
    _fill(raw, places, scales)
    spread = dequantize(raw, GGMLQuantizationType(kind.number)).std()
    _fill(raw, places, scales * (size / spread))
    return raw.reshape(rows, -1)


def _fill(raw: NDArray[np.uint8], places: Sequence[int], scales: NDArray[np.float64]) -> None:
    if not places:  # IQ1_M has four bits of its scale at the end of each of its last four numbers
        quarters = scales.astype("<f2").view("<u2")[:, None] >> np.array([0, 4, 8, 12], "<u2") & 15
        raw[:, 49::2] = (raw[:, 49::2] & 15) | (quarters << 4)
    for place in places:
        raw[:, place : place + 2] = scales.astype("<f2")[:, None].view(np.uint8)


def tensor(name: str, kind: str, shape: tuple[int, ...], seed: int = 0, size: float = 1.0) -> MadeTensor:
    """A tensor of random blocks."""
    rows = int(np.prod(shape[:-1]))
    return MadeTensor(name, BY_NAME[kind].number, shape, blocks(BY_NAME[kind], rows, shape[-1], seed, size).tobytes())
