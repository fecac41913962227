"""Tensor maps for TMA: what cuTensorMapEncodeTiled writes into its opaque 128 bytes, in a format of our own, and what copies do with it."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from turnout_cudasim.atomics import COMBINE, half_combiner
from turnout_cudasim.memory import Memory
from turnout_cudasim.report import NotModelled

MAGIC = b"cudasimT"
# CUtensorMapDataType, in its order, with the NumPy type of an element's bits.
ELEMENTS = {
    "u8": "u1", "u16": "u2", "u32": "u4", "s32": "i4", "u64": "u8", "s64": "i8", "f16": "f2", "f32": "f4", "f64": "f8", "bf16": "u2",
    "f32_ftz": "f4", "tf32": "f4", "tf32_ftz": "f4",
}  # fmt: skip
SWIZZLE_WIDTH = {0: 0, 1: 32, 2: 64, 3: 128}
NAN = {"f2": 0x7FFF, "f4": 0x7FFFFFFF, "f8": 0x7FF8000000000000, "u2": 0x7FFF}


@dataclass(frozen=True)
class TensorMap:
    """A tensor in global memory and the box that one copy moves, innermost dimension first. `strides` are in bytes, without the first."""

    element: str
    address: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    box: tuple[int, ...]
    element_strides: tuple[int, ...]
    swizzle: int = 0
    fill_nan: bool = False

    @property
    def code(self) -> str:
        return ELEMENTS[self.element]

    @property
    def element_size(self) -> int:
        return int(self.code[1])

    @property
    def counts(self) -> tuple[int, ...]:
        """Elements of the box that are moved, per dimension."""
        return tuple(-(-b // s) for b, s in zip(self.box, self.element_strides, strict=True))

    @property
    def box_bytes(self) -> int:
        """Bytes that a copy writes, and counts on its mbarrier; elements outside of the tensor count too."""
        return int(np.prod(self.counts)) * self.element_size

    def elements(self, corner: list[int]) -> tuple[Any, Any]:
        """Byte offsets of the box's elements from `address`, and which of them lie in the tensor; outermost dimension first."""
        offset: Any = np.zeros((), np.int64)
        inside: Any = np.ones((), bool)
        rank = len(self.shape)
        for axis in range(rank):
            at = corner[axis] + np.arange(self.counts[axis]) * self.element_strides[axis]
            stride = self.element_size if axis == 0 else self.strides[axis - 1]
            at = at.reshape([-1 if a == rank - 1 - axis else 1 for a in range(rank)])
            offset = offset + at * stride
            inside = inside & (at >= 0) & (at < self.shape[axis])
        return offset, np.broadcast_to(inside, offset.shape)

    def shared_index(self, place: int, base: int) -> Any:
        """For every element of the box, in order, its first byte in the batch's shared memory; `base` is where the block's begins."""
        linear = place - base + np.arange(int(np.prod(self.counts))) * self.element_size
        width = SWIZZLE_WIDTH[self.swizzle]
        mask = width // 16 - 1 if width else 0
        return base + (linear ^ (((linear >> 7) & mask) << 4))

    def place_in_shared(self, memory: Memory, shared: Any, place: int, base: int, offsets: Any, inside: Any) -> None:
        """Copy the box to shared memory."""
        size = self.element_size
        bits = f"u{size}"
        fill = NAN.get(self.code, 0) if self.fill_nan else 0
        data = np.full(offsets.shape, fill, bits)
        data[inside] = memory.views[bits][(self.address - memory.base + offsets[inside]) // size]
        shared.view(bits)[self.shared_index(place, base) // size] = data.ravel()

    def take_from_shared(self, memory: Memory, shared: Any, place: int, base: int, offsets: Any, inside: Any, operation: str) -> None:
        """Copy the box to global memory, or combine it with what is there."""
        size = self.element_size
        code = f"u{size}" if not operation else self.code
        if operation and self.element in ("f16", "bf16"):
            code = "u2"
        data = shared.view(code)[self.shared_index(place, base) // size].reshape(offsets.shape)[inside]
        index = (self.address - memory.base + offsets[inside]) // size
        view = memory.views[code]
        if operation:
            combine = half_combiner(operation, self.element) if self.element in ("f16", "bf16") else COMBINE[operation]
            data = combine(view[index], data, None)
        view[index] = data
        memory.written_views[f"u{size}"][index] = np.array([1] * size, np.uint8).view(f"u{size}")[0]


def encode(
    *, element: str, address: int, shape: tuple[int, ...], strides: tuple[int, ...], box: tuple[int, ...], element_strides: tuple[int, ...],
    interleave: int = 0, swizzle: int = 0, fill_nan: bool = False,
) -> bytes:  # fmt: skip
    """The 128 bytes of a tensor map. Raises ValueError for what cuTensorMapEncodeTiled refuses, and NotModelled for interleaved layouts."""
    rank = len(shape)
    if interleave:
        raise NotModelled("interleaved tensor maps")
    if element not in ELEMENTS or swizzle not in SWIZZLE_WIDTH:
        raise NotModelled(f"tensor maps of {element} with swizzle {swizzle}")
    if not 1 <= rank <= 5 or len(box) != rank or len(strides) != rank - 1 or len(element_strides) != rank:
        raise ValueError(
            f"a tensor map of {rank} dimensions with {len(strides)} strides, {len(box)} box sizes, {len(element_strides)} element strides"
        )
    if address % 16 or any(s % 16 for s in strides):
        raise ValueError(f"address {address:#x} and strides {strides} must be multiples of 16 bytes")
    if not all(1 <= b <= 256 for b in box) or not all(1 <= s <= 8 for s in element_strides) or not all(1 <= n <= 1 << 32 for n in shape):
        raise ValueError(f"box {box} (1 to 256), element strides {element_strides} (1 to 8) or shape {shape} (1 to 2^32) out of range")
    found = TensorMap(element, address, shape, strides, box, element_strides, swizzle, fill_nan)
    inner = found.counts[0] * found.element_size
    if inner % 16:
        raise ValueError(f"the box's inner dimension has {inner} bytes, which is no multiple of 16")
    if swizzle and inner > SWIZZLE_WIDTH[swizzle]:
        raise ValueError(f"the box's inner dimension has {inner} bytes; the swizzle allows {SWIZZLE_WIDTH[swizzle]}")
    padded = [n - 1 for n in shape] + [0] * (5 - rank)
    steps = list(strides) + [0] * (4 - len(strides))
    boxes = list(box) + [0] * (5 - rank)
    skips = list(element_strides) + [0] * (5 - rank)
    raw = MAGIC + struct.pack(
        "<BBBBIQ5I4Q5H5B", list(ELEMENTS).index(element), rank, swizzle, fill_nan, 0, address, *padded, *steps, *boxes, *skips
    )
    return raw.ljust(128, b"\0")


@lru_cache(maxsize=256)
def decode(raw: bytes) -> TensorMap:
    """What `encode` wrote. Raises ValueError."""
    if not raw.startswith(MAGIC):
        raise ValueError("these 128 bytes are no tensor map of the simulator")
    fields = struct.unpack_from("<BBBBIQ5I4Q5H5B", raw, len(MAGIC))
    element, rank, swizzle, fill_nan, _, address = fields[:6]
    rest = fields[6:]
    shape, strides, box, skips = rest[:5], rest[5:9], rest[9:14], rest[14:19]
    return TensorMap(
        list(ELEMENTS)[element], address, tuple(n + 1 for n in shape[:rank]), tuple(strides[: rank - 1]), tuple(box[:rank]),
        tuple(skips[:rank]), swizzle, bool(fill_nan),
    )  # fmt: skip
