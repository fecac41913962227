"""Products with quantised matrices that ONNX Runtime's kernels for the CPU make quicker of other products.

Source of what MatMulNBits does: onnxruntime, docs/ContribOperators.md.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Collection, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from turnout.attention import dims_of, same_value
from turnout.graph import attribute, constant_array, input_at, ir, is_constant
from turnout.provider import Rewrite
from turnout.rules import Readers
from turnout_cpu.nodes import MICROSOFT, constant, made, numbers, unshaped

__all__ = ["product_in_halves", "product_of_nibbles"]

_ARM = ("aarch64", "arm64", "ARM64")  # by the names of Linux, macOS and Windows


def product_in_halves(node: ir.Node, readers: Readers) -> Rewrite | None:
    """MatMulNBits for which float16's accuracy will do: what rounding x to 8 bits loses is rounded to 8 bits and multiplied too.

    ONNX Runtime's kernels that round each block of x to 8 bits (accuracy_level 4) are several times as fast as those which do not. What
    they make of a block is its product with the identity; it and the rest are two rows of one product, which reads the weights once.
    """
    x = node.inputs[0] if _wants_halves(node) else None
    if x is None:
        return None
    columns, bits, size = (attribute(node, name, 4) for name in ("K", "bits", "block_size"))
    how = {"bits": bits, "block_size": size, "accuracy_level": 4}
    y, matrix = node.outputs[0], _rounded_by_blocks(node.inputs[1:], columns // size, bits)
    identity = _rounded_by_blocks(_identity(bits, size), 1, bits)
    names = ("blocks", "rounded.blocks", "rounded", "rest", "halves", "products", "product", "product.rest")
    blocks, rounded_blocks, rounded, rest, halves, products, *sums = (unshaped(f"{y.name}.{name}", x) for name in names)
    new = [
        made("", "Reshape", [x, numbers(0, -1, size)], [blocks]),
        made(MICROSOFT, "MatMulNBits", [blocks, *identity], [rounded_blocks], K=size, N=size, **how),
        made("", "Reshape", [rounded_blocks, numbers(0, -1, columns)], [rounded]),
        made("", "Sub", [x, rounded], [rest]),
        made("", "Concat", [rounded, rest], [halves], axis=1),
        made(MICROSOFT, "MatMulNBits", [halves, *matrix], [products], K=columns, N=attribute(node, "N", 0), **how),
        made("", "Split", [products], sums, axis=1, num_outputs=2),
        made("", "Add", sums, [same_value(y)]),
    ]
    return Rewrite([node], "MatMulNBits in two halves", replacement=new)


def product_of_nibbles(node: ir.Node, readers: Readers) -> Rewrite | None:
    """MatMulNBits of 8 or 2 bits in float32, by products of 4 bits.

    Those alone have a kernel for float32: matrices of 8 bits ONNX Runtime writes out in each run, which takes as long as two products of
    some 250 rows, and of 2 bits ten times as long.

    scale * (code - zero) is 16 scale * (upper nibble of code - that of zero) + scale * (lower nibble of code - that of zero), exactly; a
    code of 2 bits is a nibble as it is.
    """
    if not _is_exact_of_2_or_8_bits(node):
        return None
    x, codes, scales, zeros = (input_at(node, place) for place in range(4))
    assert codes is not None
    assert scales is not None
    rows, columns, size, bits = (attribute(node, name, 4) for name in ("N", "K", "block_size", "bits"))
    y, blocks = node.outputs[0], -(-columns // size)
    how = {"K": columns, "N": rows, "bits": 4, "block_size": size, "accuracy_level": 1}

    def of(part: str, factors: ir.Value, middle: int, sums: ir.Value) -> ir.Node:
        nibbles = _nibbles(codes, part, (rows, blocks, size // 2))
        zero = _zero_points(middle, rows, blocks) if zeros is None else _nibbles(zeros, part, (rows, -(-blocks // 2)))
        return made(MICROSOFT, "MatMulNBits", [x, nibbles, factors, zero], [sums], **how)

    if bits == 2:
        new = [of("whole", scales, 2, same_value(y))]
    else:
        tall = _made_later(f"{scales.name}.16", scales, dims_of(scales), lambda: 16 * constant_array(scales))
        sums = [unshaped(f"{y.name}.{part}", y) for part in ("upper", "lower")]
        new = [of("upper", tall, 8, sums[0]), of("lower", scales, 0, sums[1]), made("", "Add", sums, [same_value(y)])]
    return Rewrite([node], "MatMulNBits of nibbles", replacement=new)


def _is_exact_of_2_or_8_bits(node: ir.Node) -> bool:
    """Whether it is a product with 8 or 2 bits a weight that wants float32's accuracy, and all but x is constant."""
    if not _is_plain(node, (0, 1)) or attribute(node, "bits", 4) not in (2, 8):
        return False
    zeros = input_at(node, 3)
    are_known = all(is_constant(value) for value in node.inputs[1:] if value is not None)
    return are_known and (zeros is None or zeros.dtype == ir.DataType.UINT8)


def _nibbles(codes: ir.Value, part: str, shape: tuple[int, ...]) -> ir.Value:
    """The upper or lower nibbles of codes of 8 bits, or whole ones of 2 bits, two in a byte, the first in its lower half."""

    def packed() -> NDArray[np.uint8]:
        whole = constant_array(codes).reshape(*shape[:-1], -1)
        nibbles = _fields(whole, 2) if part == "whole" else whole >> 4 if part == "upper" else whole & 15
        filled = np.pad(nibbles, [(0, 0)] * (nibbles.ndim - 1) + [(0, nibbles.shape[-1] % 2)])
        return _packed(filled[..., : 2 * shape[-1]], 4)

    return _made_later(f"{codes.name}.{part}", codes, shape, packed)


def _made_later(name: str, like: ir.Value, shape: Sequence[Any], make: Callable[[], NDArray[Any]]) -> ir.Value:
    """A constant of the type of another, whose array is made when it is asked for."""
    assert like.dtype is not None
    tensor = ir.LazyTensor(lambda: ir.Tensor(make()), dtype=like.dtype, shape=ir.Shape(shape), name=name)
    return ir.Value(name=name, type=like.type, shape=ir.Shape(shape), const_value=tensor)


def _wants_halves(node: ir.Node) -> bool:
    """Whether it is a product with whole blocks, which wants less than float32's accuracy, and more than 8 bits'."""
    if not _is_plain(node, (2, 3)) or attribute(node, "bits", 4) not in (2, 4, 8):
        return False
    return attribute(node, "K", 0) % attribute(node, "block_size", 0) == 0 and len(dims_of(node.inputs[0])) == 3


def _is_plain(node: ir.Node, levels: Collection[int]) -> bool:
    """Whether it is a product of float32 with a quantised matrix, of one of these accuracies, without a bias or an order of columns."""
    if node.op_type != "MatMulNBits" or attribute(node, "accuracy_level", 0) not in levels or any(node.inputs[4:]):
        return False
    x = node.inputs[0]
    return attribute(node, "block_size", 0) >= 16 and x is not None and x.dtype == ir.DataType.FLOAT


def _rounded_by_blocks(matrix: Sequence[ir.Value | None], blocks: int, bits: int) -> Sequence[ir.Value | None]:
    """Codes, scales and zero points of a product that rounds each block of x by itself.

    Without zero points ONNX Runtime on arm64 takes KleidiAI for 4 bits, which rounds a whole row by one scale (UseKleidiAI in MLAS'
    qnbitgemm_kernel_neon.cpp): what a product with the identity rounds is then not what another one does.
    """
    is_whole = bits == 4 and platform.machine() in _ARM and not any(matrix[2:])
    if not is_whole:
        return matrix
    codes, scales = matrix[:2]
    return [codes, scales, _zero_points(8, dims_of(codes)[0], blocks)]


def _zero_points(code: int, rows: int, blocks: int) -> ir.Value:
    """The same zero point for each block of a product with 4 bits, two in a byte."""
    shape = (rows, -(-blocks // 2))
    return constant(f"zeros.{code}.{shape[0]}.{shape[1]}", np.full(shape, code | code << 4, np.uint8))


def _identity(bits: int, size: int) -> list[ir.Value]:
    """Values and scales of the identity as MatMulNBits takes it, in one block a row; half of all codes is its zero point."""
    codes = np.eye(size, dtype=np.uint8) + np.uint8(1 << (bits - 1))
    name = f"identity.{bits}.{size}"
    scales = constant(f"{name}.scales", np.ones((size, 1), np.float32))
    return [constant(f"{name}.values", _packed(codes.reshape(size, 1, size), bits)), scales]


def _fields(packed: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    """The codes in the bytes of the last axis, the first in the lowest bits."""
    fields: NDArray[np.uint8] = packed[..., None] >> np.arange(0, 8, bits, dtype=np.uint8) & np.uint8(2**bits - 1)
    return fields.reshape(*packed.shape[:-1], -1)


def _packed(codes: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    """As many codes of the last axis in a byte as fit, the first in the lowest bits."""
    fields = codes.reshape(*codes.shape[:-1], -1, 8 // bits) << np.arange(0, 8, bits, dtype=np.uint8)
    packed: NDArray[np.uint8] = np.bitwise_or.reduce(fields, -1)
    return packed
