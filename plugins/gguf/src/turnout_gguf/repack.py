"""Blocks as ONNX Runtime's MatMulNBits and GatherBlockQuantized take them, without loss.

    weight = scale * (value - zero point) + offset

Values are unsigned, of 2, 4 or 8 bits, the first in the lowest bits of a byte. Scales and codes are those of the file. Only the types with
a minimum have an offset; there the codes are centred, since runtimes that round the activations lose less on small codes, so that

    offset = minimum + scale * centre

is rounded to float32 once; every other type comes out bit by bit as `blocks.dequantise` gives it. A product with such a matrix is
MatMulNBits(x) + S(x) @ offset.T, where S sums x over blocks. Source: the operator descriptions in onnxruntime, docs/ContribOperators.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from turnout_gguf.blocks import QUANTISED, Codes, Layout, unpack
from turnout_gguf.types import BlockType

__all__ = ["Form", "Packed", "form_of", "joined", "repack"]

_AT_ONCE = 1 << 22  # elements unpacked at a time: they take about ten bytes each on the way
_BLOCKS_OF_2_BITS = (32, 128)  # the smallest and the largest that ONNX Runtime's kernels take


@dataclass(frozen=True, slots=True)
class Form:
    """How a type is written.

    bits: of a value. block: elements under one scale. zero_point: of every block. centre: the code that becomes the zero point.
    """

    bits: int
    block: int
    zero_point: int
    centre: int
    has_offsets: bool

    def blocks(self, columns: int) -> int:
        return columns // self.block

    def zero_bytes(self, columns: int) -> int:
        """Bytes of a row's zero points: as many bits each as a value, filled up to a byte."""
        return -(-self.blocks(columns) * self.bits // 8)


@dataclass(frozen=True, slots=True)
class Packed:
    """A matrix in this form.

    values: uint8 [rows, blocks, block * bits / 8]. scales, offsets: float32 [rows, blocks]. zero_points: uint8 [rows, bytes], packed.
    """

    form: Form
    values: NDArray[np.uint8]
    scales: NDArray[np.float32]
    zero_points: NDArray[np.uint8]
    offsets: NDArray[np.float32] | None


def form_of(kind: BlockType, narrowest: int = 2) -> Form:
    """The narrowest form that holds every code of the type, and has `narrowest` bits at least.

    With 2 bits a block has 128 elements at most: a group of 256 becomes two blocks with the same scale.
    """
    layout = QUANTISED[kind.name]
    bits = max(_bits(layout), narrowest)
    zero_point = 1 if bits == 2 else 2 ** (bits - 1)
    block = min(layout.group, _BLOCKS_OF_2_BITS[1]) if bits == 2 else layout.group
    return Form(bits, block, zero_point, (layout.high + 1) // 2 if layout.has_minimum else 0, layout.has_minimum)


def _bits(layout: Layout) -> int:
    codes = layout.high - layout.low + 1
    if codes <= 4 and layout.group >= _BLOCKS_OF_2_BITS[0]:
        return 2
    return 4 if codes <= 16 else 8


def repack(raw: NDArray[np.uint8], kind: BlockType, form: Form) -> Packed:
    """Blocks of a quantised type, uint8 [rows, bytes of a row], as a matrix of `form`."""
    rows, columns = len(raw), raw.shape[1] // kind.nbytes * kind.elements
    flat = raw.reshape(-1, kind.nbytes)
    groups, shares = kind.elements // form.block, QUANTISED[kind.name].group // form.block
    values = np.empty((len(flat) * groups, form.block * form.bits // 8), np.uint8)
    scales = np.empty(len(flat) * groups, np.float32)
    offsets = np.empty(len(flat) * groups, np.float32) if form.has_offsets else None
    step = max(1, _AT_ONCE // kind.elements)
    for start in range(0, len(flat), step):
        found = unpack(flat[start : start + step], kind)
        part = slice(start * groups, (start + step) * groups)
        values[part] = _packed(found, form).reshape(-1, values.shape[1])
        scales[part] = np.repeat(found.scales.reshape(-1), shares)
        if offsets is not None:
            offsets[part] = np.repeat(_offsets(found, form).reshape(-1), shares)
    filled = form.zero_point * (255 // (2**form.bits - 1))
    return Packed(
        form,
        values.reshape(rows, -1, values.shape[1]),
        scales.reshape(rows, -1),
        np.full((rows, form.zero_bytes(columns)), filled, np.uint8),
        None if offsets is None else offsets.reshape(rows, -1),
    )


def joined(parts: Sequence[Packed]) -> Packed:
    """The rows of some matrices of one form as one matrix."""
    if len(parts) == 1:
        return parts[0]
    offsets = [part.offsets for part in parts if part.offsets is not None]
    return Packed(
        parts[0].form,
        np.concatenate([part.values for part in parts]),
        np.concatenate([part.scales for part in parts]),
        np.concatenate([part.zero_points for part in parts]),
        np.concatenate(offsets) if offsets else None,
    )


def _packed(found: Codes, form: Form) -> NDArray[np.uint8]:
    """Codes as unsigned values, 8 / bits of them in a byte."""
    shift = np.uint8((form.zero_point - form.centre) & 255)
    values = found.codes.view(np.uint8) + shift  # modulo 256, which a code never leaves
    if form.bits == 8:
        return values
    fields = values.reshape(-1, 8 // form.bits)
    packed = fields[:, 0].copy()
    for position in range(1, fields.shape[1]):
        packed |= fields[:, position] << np.uint8(position * form.bits)
    return packed


def _offsets(found: Codes, form: Form) -> NDArray[np.float32]:
    assert found.minimums is not None
    with np.errstate(invalid="ignore", over="ignore"):
        return found.minimums + found.scales * np.float32(form.centre)
