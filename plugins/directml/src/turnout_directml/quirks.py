"""What DirectML has kernels for and yet gets wrong, does not take, or dies of.

Each row was seen with ONNX's own cases on DirectML 1.15 (onnxruntime-directml 1.24.4) in the rig of tests/rigs/directml. What is not known
before the run (a shape, a value) refuses nothing unless the row says so.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from turnout.graph import attribute, constant_array, element_type, input_at, ir, is_constant, shape_of
from turnout.provider import No

__all__ = ["QUIRKS", "Quirk", "quirk"]


@dataclass(frozen=True, slots=True)
class Quirk:
    """One thing that is wrong: the operators, the nodes of them that it concerns, and the sentence that users read."""

    operators: tuple[str, ...]
    reason: str
    where: Callable[[ir.Node], bool] = lambda node: True


def quirk(node: ir.Node) -> No | None:
    """Why DirectML must not have the node, though it has a kernel; None where nothing is known against it."""
    values = (value for value in (*node.inputs, *node.outputs) if value is not None and not is_constant(value))
    empty = next((value for value in values if 0 in (shape_of(value) or ())), None)
    if empty is not None:
        return No(f"DirectML has no empty tensors, and {empty.name!r} is one")
    for row in QUIRKS:
        if node.op_type in row.operators and row.where(node):
            return No(f"DirectML {row.reason}")
    return None


def _given(*positions: int) -> Callable[[ir.Node], bool]:
    return lambda node: any(input_at(node, position) is not None for position in positions)


def _is(name: str, default: Any, *values: Any) -> Callable[[ir.Node], bool]:
    """Whether the attribute has one of the values."""
    return lambda node: attribute(node, name, default) in values


def _type(node: ir.Node, position: int) -> ir.DataType | None:
    value = input_at(node, position)
    return None if value is None else element_type(value)


def _rank(node: ir.Node, position: int) -> int | None:
    dims = shape_of(input_at(node, position))
    return None if dims is None else len(dims)


def _has_float(node: ir.Node) -> bool:
    return _type(node, 0) in (ir.DataType.FLOAT, ir.DataType.FLOAT16, None)


def _is_long(node: ir.Node) -> bool:
    return _type(node, 0) in (ir.DataType.INT64, ir.DataType.UINT64)


def _bounds_may_cross(node: ir.Node) -> bool:
    low, high = input_at(node, 1), input_at(node, 2)
    if low is None or high is None:
        return bool(attribute(node, "min", 0.0) > attribute(node, "max", float("inf")))
    if not (is_constant(low) and is_constant(high)):
        return True
    return bool((constant_array(low) > constant_array(high)).any())


def _may_crop(node: ir.Node) -> bool:
    pads = input_at(node, 1)
    if pads is None:
        return any(count < 0 for count in attribute(node, "pads", ()))
    return bool(not is_constant(pads) or (constant_array(pads) < 0).any())


def _slope_is_larger(node: ir.Node) -> bool:
    x, slope = shape_of(input_at(node, 0)), shape_of(input_at(node, 1))
    if x is None or slope is None:
        return False
    padded = [1] * (len(x) - len(slope)) + slope
    return any(one == 1 and other != 1 for one, other in zip(x, padded, strict=False))


def _many_axes(node: ir.Node) -> bool:
    rank, axis = _rank(node, 0), attribute(node, "axis", -1)
    return rank is None or (rank - axis if axis >= 0 else -axis) > 3


def _has_more_outputs(node: ir.Node) -> bool:
    return any(value.name for value in node.outputs[1:])


def _reads_a_later_part(node: ir.Node) -> bool:
    x = input_at(node, 0)
    made = None if x is None else x.producer()
    return made is not None and made.outputs[0] is not x


def _may_make_empty(node: ir.Node) -> bool:
    sizes = input_at(node, 1)
    return sizes is not None and (not is_constant(sizes) or not constant_array(sizes).all())


def _has_many_scales(node: ir.Node) -> bool:
    dims = shape_of(input_at(node, 1))
    return dims not in ([], [1])


def _hidden_attributes(node: ir.Node) -> bool:
    """What DirectML's GroupQueryAttention never reads."""
    return bool(
        attribute(node, "do_rotary", 0)
        or attribute(node, "softcap", 0.0)
        or attribute(node, "local_window_size", -1) >= 0
        or attribute(node, "smooth_softmax", 0)
        or attribute(node, "k_quant_type", "NONE") != "NONE"
        or any(input_at(node, position) is not None for position in range(9, len(node.inputs)))
    )


def _unlike_kernel(node: ir.Node) -> bool:
    bits, block, rows = attribute(node, "bits", 4), attribute(node, "block_size", 0), attribute(node, "K", 0)
    zeros = _type(node, 3)
    return bits not in (4, 8) or not block or rows % block != 0 or zeros not in (None, ir.DataType.UINT8)


QUIRKS: Sequence[Quirk] = (
    Quirk(
        ("If", "OptionalGetElement", "OptionalHasElement"),
        "only decides here what the CPU does: turnout does that itself",
    ),
    Quirk(
        ("ConcatFromSequence", "SequenceAt", "SequenceConstruct", "SequenceEmpty", "SequenceErase", "SequenceInsert", "SequenceLength"),
        "keeps sequences in host memory, where they cost copies and gain nothing",
    ),
    Quirk(("Acos", "Asin", "Atan"), "computes the inverse of cosine, sine and tangent to three or four digits only"),
    Quirk(
        ("AveragePool", "LpPool", "MaxPool"),
        "counts one window too many where ceil_mode rounds up (ONNX leaves out those that begin in the padding)",
        _is("ceil_mode", 0, 1),
    ),
    Quirk(("BatchNormalization",), "does not train, and training_mode asks for that", _is("training_mode", 0, 1)),
    Quirk(("Celu",), "does not take Celu of float16", lambda node: _type(node, 0) == ir.DataType.FLOAT16),
    Quirk(("Clip",), "gives min where min is greater than max, and here it may be; ONNX gives max", _bounds_may_cross),
    Quirk(
        ("ConvTranspose",),
        "does not take ConvTranspose with auto_pad SAME_UPPER or SAME_LOWER",
        _is("auto_pad", "NOTSET", "SAME_UPPER", "SAME_LOWER"),
    ),
    Quirk(
        ("DequantizeLinear", "QuantizeLinear"),
        "takes one scale for a whole tensor, and is wrong or refuses with more",
        _has_many_scales,
    ),
    Quirk(
        ("DFT",),
        "does not know the inverse of a one-sided transform",
        lambda node: bool(attribute(node, "inverse", 0) and attribute(node, "onesided", 0)),
    ),
    Quirk(("DynamicQuantizeLinear",), "rounds DynamicQuantizeLinear differently, and is off by one"),
    Quirk(("GRU", "LSTM", "RNN"), "has no recurrent kernels for the batch-first layout (layout=1)", _is("layout", 0, 1)),
    Quirk(("LayerNormalization",), "normalizes over three axes at most", _many_axes),
    Quirk(("LayerNormalization",), "leaves LayerNormalization with Mean or InvStdDev to the CPU", _has_more_outputs),
    Quirk(("MatMul",), "multiplies by a vector wrongly", lambda node: 1 in (_rank(node, 0), _rank(node, 1))),
    Quirk(("MaxPool",), "leaves MaxPool with indices to the CPU", _has_more_outputs),
    Quirk(("MaxUnpool",), "ignores the output_shape of MaxUnpool", _given(2)),
    Quirk(
        ("Mod",),
        "computes the remainder of floats wrongly at infinities",
        _has_float,
    ),
    Quirk(("Pad",), "is wrong where Pad takes away (a negative count), and here it may", _may_crop),
    Quirk(("ReduceL2", "ReduceMean"), "does not take the mean or the norm of integers", lambda node: not _has_float(node)),
    Quirk(("ReduceMax", "ReduceMin"), "does not take the extremes of float64", lambda node: _type(node, 0) == ir.DataType.DOUBLE),
    Quirk(("ReduceProd", "ReduceSumSquare"), "does not multiply integers of 64 bits over all axes", _is_long),
    Quirk(("ReduceSumSquare",), "gives ReduceSumSquare of uint32 another type", lambda node: _type(node, 0) == ir.DataType.UINT32),
    Quirk(("Shrink",), "rounds the numbers of Shrink where the tensor holds integers", lambda node: not _has_float(node)),
    Quirk(("PRelu",), "does not broadcast what PRelu takes from an axis of one element", _slope_is_larger),
    Quirk(("QLinearMatMul",), "does not take scales of float16", lambda node: _type(node, 1) == ir.DataType.FLOAT16),
    Quirk(("RoiAlign",), "takes the maximum of other samples than ONNX", _is("mode", "avg", "max")),
    Quirk(
        ("Resize",),
        "does not keep an aspect ratio",
        _is("keep_aspect_ratio_policy", "stretch", "not_larger", "not_smaller"),
    ),
    Quirk(("Resize",), "has no cubic Resize", _is("mode", "nearest", "cubic")),
    Quirk(("Resize",), "does not smooth where Resize asks for antialias", _is("antialias", 0, 1)),
    Quirk(
        ("Resize",),
        "maps coordinates differently in this mode",
        _is("coordinate_transformation_mode", "half_pixel", "align_corners", "pytorch_half_pixel", "tf_half_pixel_for_nn"),
    ),
    Quirk(("Resize",), "dies of some regions of interest", _is("coordinate_transformation_mode", "half_pixel", "tf_crop_and_resize")),
    Quirk(("RotaryEmbedding",), "turns the first part of a Split where RotaryEmbedding reads a later one", _reads_a_later_part),
    Quirk(("Split",), "has no empty tensors, and here Split may make one; it would give zeros elsewhere", _may_make_empty),
    Quirk(("MatMulNBits",), "throws where MatMulNBits gets an order of columns (g_idx)", _given(4)),
    Quirk(("MatMulNBits",), "throws where MatMulNBits gets a bias", _given(5)),
    Quirk(
        ("MatMulNBits",),
        "takes MatMulNBits with 4 or 8 bits, whole blocks and zero points of uint8 only",
        _unlike_kernel,
    ),
    Quirk(
        ("GroupQueryAttention",),
        "does not look at this node's do_rotary, softcap, local_window_size or later attributes, and would give wrong results",
        _hidden_attributes,
    ),
)
"""Every row."""
