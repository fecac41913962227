"""What ONNX Runtime's CPU provider has kernels for and yet gets wrong, fails at only when it runs, or dies of.

Each row was measured against ONNX's reference evaluator, with 1.24 to 1.32, and names the narrowest condition that was found. What is
not known before the run (a shape, a value) refuses nothing, except where the process is at stake: its kernels check ranks and lengths
with assertions that end it. tests/onnx_suite/test_quirks.py runs every row on ONNX Runtime alone: it fails where a row has become
obsolete, so that the row can go.
"""

from __future__ import annotations

import functools
import math
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from turnout.graph import attribute, constant_array, element_type, input_at, ir, is_constant, shape_of
from turnout.provider import No
from turnout_ort.runtime import onnxruntime

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["QUIRKS", "Quirk", "fragile", "quirk"]

Version = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Quirk:
    """One thing that is wrong: the operators, the nodes of them that it concerns, and the sentence that users read.

    since: the first version of ONNX Runtime that is wrong. until: the first that is right again; None where none is yet.
    evidence: ONNX's own cases that show it.
    """

    operators: tuple[str, ...]
    reason: str
    where: Callable[[ir.Node], bool]
    since: Version = (0,)
    until: Version | None = None
    evidence: tuple[str, ...] = ()

    def holds(self, version: Version) -> bool:
        return self.since <= version and (self.until is None or version < self.until)


def quirk(node: ir.Node) -> No | None:
    """Why ONNX Runtime's CPU provider must not have the node, though it has a kernel; None where nothing is known against it."""
    if node.domain not in ("", "ai.onnx"):
        return None
    for row in _rows().get(node.op_type, ()):
        if row.where(node):
            return No(f"ONNX Runtime {onnxruntime().__version__} {row.reason}")
    return None


@functools.cache
def _rows() -> dict[str, list[Quirk]]:
    """The rows that hold for the installed version, by operator."""
    version = tuple(map(int, re.findall(r"\d+", onnxruntime().__version__)[:2]))
    found: dict[str, list[Quirk]] = {}
    for row in QUIRKS:
        for operator in row.operators if row.holds(version) else ():
            found.setdefault(operator, []).append(row)
    return found


def _size(value: ir.Value | None) -> int | None:
    dims = shape_of(value)
    return None if dims is None or None in dims else math.prod(dim for dim in dims if dim is not None)


def _constant(value: ir.Value | None) -> NDArray[Any] | None:
    """The value where it is a constant of a few elements."""
    if value is None or not is_constant(value) or (_size(value) or 0) > 64:
        return None
    array: NDArray[Any] = constant_array(value)
    return array


# Attention-23 and later: Q, K, V, attn_mask, past_key, past_value, nonpad_kv_seqlen -> Y, present_key, present_value, qk_matmul_output


def _scores_mode(node: ir.Node) -> int | None:
    """Which scores the fourth output holds; None where nobody reads it."""
    if len(node.outputs) < 4 or not node.outputs[3].name:
        return None
    return int(attribute(node, "qk_matmul_output_mode", 0))


def _hides(node: ir.Node) -> bool:
    """Whether it hides keys by itself, with -inf: a float mask may, but then the -inf is the model's own."""
    mask = input_at(node, 3)
    windows = (attribute(node, f"{side}_window_size", -1) for side in ("left", "right"))
    return bool(
        attribute(node, "is_causal", 0)
        or (mask is not None and element_type(mask) == ir.DataType.BOOL)
        or input_at(node, 6) is not None
        or any(size >= 0 for size in windows)
    )


def _biased(node: ir.Node) -> bool:
    return _hides(node) or input_at(node, 3) is not None


def _capped(node: ir.Node) -> bool:
    return float(attribute(node, "softcap", 0.0)) != 0


def _heads(node: ir.Node, position: int, name: str) -> int | None:
    dims = shape_of(input_at(node, position))
    if dims is not None and len(dims) == 4:
        return dims[1]
    heads = attribute(node, name, None)
    return None if heads is None else int(heads)


def _per_head_mask_of_grouped_queries(node: ir.Node) -> bool:
    mask = shape_of(input_at(node, 3))
    queries, keys = _heads(node, 0, "q_num_heads"), _heads(node, 1, "kv_num_heads")
    return mask is not None and len(mask) == 4 and mask[1] == queries and None not in (queries, keys) and queries != keys


def _short_mask(node: ir.Node) -> bool:
    """A mask for fewer keys than there are: ONNX hides the rest."""
    mask, keys, past = (shape_of(input_at(node, position)) for position in (3, 1, 4))
    if not mask or not keys or (past is None and input_at(node, 4) is not None):
        return False
    columns, own, before = mask[-1], keys[-2], 0 if past is None else past[-2]
    return columns is not None and own is not None and before is not None and columns < own + before


# quantised, reductions, unpooling


def _many_zero_points(position: int) -> Callable[[ir.Node], bool]:
    return lambda node: (_size(input_at(node, position)) or 0) > 1


def _empty_bool(node: ir.Node) -> bool:
    value = input_at(node, 0)
    return value is not None and element_type(value) == ir.DataType.BOOL and _size(value) == 0


def _unpools_to_other_width(node: ir.Node) -> bool:
    """An output shape of its own: an index still counts in the shape that follows from the window, the same but in height."""
    dims, wanted = shape_of(input_at(node, 0)), _constant(input_at(node, 2))
    if input_at(node, 2) is None:
        return False
    if dims is None or wanted is None or len(wanted) != len(dims):
        return True
    kernel = attribute(node, "kernel_shape", ())
    rank = len(kernel)
    strides, pads = attribute(node, "strides", [1] * rank), attribute(node, "pads", [0] * 2 * rank)
    for axis in range(1, rank):
        size = dims[2 + axis]
        if size is None or wanted[2 + axis] != (size - 1) * strides[axis] + kernel[axis] - pads[axis] - pads[axis + rank]:
            return True
    return False


# Resize-11 and later: X, roi, scales, sizes


def _scaled_lengths(node: ir.Node) -> list[tuple[int, float, float]]:
    """(length, scale, their product) of each axis that is scaled by a constant; [] where that is not known."""
    dims, scales = shape_of(input_at(node, 0)), _constant(input_at(node, 2))
    if (node.version or 11) < 11 or dims is None or scales is None or not scales.size:
        return []
    axes = attribute(node, "axes", range(len(dims)))
    pairs = [(dims[axis], float(scale)) for axis, scale in zip(axes, scales, strict=False)]
    return [(length, scale, length * scale) for length, scale in pairs if length is not None]


def _aligns_corners_of_a_fraction(node: ir.Node) -> bool:
    """Scales that are computed in the model are refused too: whoever computes a whole length gives it as `sizes`."""
    if attribute(node, "coordinate_transformation_mode", "half_pixel") != "align_corners":
        return False
    scales = input_at(node, 2)
    if (node.version or 11) >= 11 and scales is not None and not is_constant(scales):
        return input_at(node, 3) is None
    return any(scale != 1 and exact % 1 and exact >= 2 for _, scale, exact in _scaled_lengths(node))


def _resizes_to_the_same_size(node: ir.Node) -> bool:
    lengths = _scaled_lengths(node)
    dims = shape_of(input_at(node, 0))
    known = dims is not None and None not in dims
    return known and any(scale != 1 for _, scale, _ in lengths) and all(math.floor(exact) == length for length, _, exact in lengths)


# Fourier transforms: float32 angles of up to the square of the length, unless the length is a power of two


def _is_odd_length(length: int | None) -> bool:
    return length is not None and length > 4 and length & (length - 1) != 0


def _transforms_odd_length(node: ir.Node) -> bool:
    value, wanted = input_at(node, 0), input_at(node, 1)
    if value is None or element_type(value) != ir.DataType.FLOAT:
        return False
    if wanted is not None:
        given = _constant(wanted)
        return given is not None and _is_odd_length(int(given.reshape(-1)[0]))
    halved = attribute(node, "onesided", 0) and attribute(node, "inverse", 0)
    return any(length is not None and _is_odd_length(2 * (length - 1) if halved else length) for length in _dft_lengths(node))


def _dft_lengths(node: ir.Node) -> list[int | None]:
    """The length along the axis of the transform; all of them where the axis is not known."""
    dims = shape_of(input_at(node, 0))
    if not dims:
        return []
    if (node.version or 20) < 20:
        axis = int(attribute(node, "axis", 1))
    elif input_at(node, 2) is None:
        axis = -2
    else:
        given = _constant(input_at(node, 2))
        if given is None:
            return dims[:-1]
        axis = int(given.reshape(-1)[0])
    return [dims[axis]] if -len(dims) <= axis < len(dims) else []


def _frames_of_odd_length(node: ir.Node) -> bool:
    value = input_at(node, 0)
    if value is None or element_type(value) != ir.DataType.FLOAT:
        return False
    wanted = _constant(input_at(node, 3))
    return _is_odd_length(_size(input_at(node, 2)) if wanted is None else int(wanted.reshape(-1)[0]))


# what ends the process


def _rankless(*positions: int) -> Callable[[ir.Node], bool]:
    """Whether one of the inputs is there and nobody knows its rank."""
    return lambda node: any(input_at(node, one) is not None and shape_of(input_at(node, one)) is None for one in positions)


def _has_bad_window(node: ir.Node) -> bool:
    window = input_at(node, 2)
    dims = shape_of(window)
    return window is not None and (dims is None or len(dims) != 1 or 0 in dims)


def _has_unsure_length(node: ir.Node) -> bool:
    length = _constant(input_at(node, 3))
    return input_at(node, 3) is not None and (length is None or length.size != 1 or int(length.reshape(-1)[0]) < 1)


def fragile(node: ir.Node) -> ir.Value | None:
    """The value that must not be empty when the node runs, or the process ends; None where there is none."""
    if node.domain not in ("", "ai.onnx"):
        return None
    if node.op_type in ("CausalConvWithState", "GRU", "LSTM") or (node.op_type == "Unique" and "axis" in node.attributes):
        return input_at(node, 0)
    return input_at(node, 2) if node.op_type == "STFT" else None


def _is_empty(node: ir.Node) -> bool:
    dims = shape_of(fragile(node))
    return dims is not None and 0 in dims


# types that a kernel says it takes


_FLOAT8 = {ir.DataType.FLOAT8E4M3FN, ir.DataType.FLOAT8E4M3FNUZ, ir.DataType.FLOAT8E5M2, ir.DataType.FLOAT8E5M2FNUZ}


def _takes(*types: ir.DataType) -> Callable[[ir.Node], bool]:
    """Whether the first input is of one of the types."""
    return lambda node: bool(node.inputs) and node.inputs[0] is not None and element_type(node.inputs[0]) in types


def _fills_with_float8(node: ir.Node) -> bool:
    value = attribute(node, "value", None)
    return value is not None and value.dtype in _FLOAT8


def _reads_small_floats(node: ir.Node) -> bool:
    """A Cast of strings to a type that Python's buffers do not have."""
    return _takes(ir.DataType.STRING)(node) and attribute(node, "to", 0) in {*_FLOAT8, ir.DataType.BFLOAT16}


def _multiplies_nothing(node: ir.Node) -> bool:
    dims = shape_of(input_at(node, 0))
    return _takes(ir.DataType.UINT32, ir.DataType.UINT64)(node) and bool(dims) and dims is not None and dims[-1] == 0


# pooling with auto_pad: SAME_UPPER and SAME_LOWER ask for ceil(length / stride) windows


def _pads_by_itself(node: ir.Node) -> bool:
    return str(attribute(node, "auto_pad", "NOTSET")).startswith("SAME")


def _pads_dilated(node: ir.Node) -> bool:
    return _pads_by_itself(node) and any(dilation != 1 for dilation in attribute(node, "dilations", ()))


def _pads_less_than_nothing(node: ir.Node) -> bool:
    """Where the windows do not even reach the end, so that nothing is to be padded."""
    dims, kernel = shape_of(input_at(node, 0)), attribute(node, "kernel_shape", ())
    if not _pads_by_itself(node) or dims is None or len(dims) != len(kernel) + 2:
        return False
    sizes = zip(dims[2:], kernel, attribute(node, "strides", [1] * len(kernel)), strict=True)
    return any(length is not None and (-(-length // stride) - 1) * stride + size < length for length, size, stride in sizes)


def _counts_beyond_the_end(node: ir.Node) -> bool:
    """With ceil_mode the last window may reach beyond the padding, where nothing is to be counted."""
    return 10 <= (node.version or 0) < 19 and bool(attribute(node, "ceil_mode", 0)) and bool(attribute(node, "count_include_pad", 0))


def _pads_by_another_axis(node: ir.Node) -> bool:
    """With operator set 19 and later, the padding at the end of axis i is taken from entry 2i + 1 of `pads`, not from rank + i."""
    rank = len(attribute(node, "kernel_shape", ()))
    if (node.version or 0) < 19 or rank < 2:
        return False
    pads = attribute(node, "pads", [0] * 2 * rank)
    differ = any(pads[rank + axis] != pads[2 * axis + 1] for axis in range(rank))
    return _pads_by_itself(node) or (differ and bool(attribute(node, "count_include_pad", 0)))


# strings


def _needs_missing_locale(node: ir.Node) -> bool:
    changes = attribute(node, "case_change_action", "NONE") != "NONE"
    compares = not attribute(node, "is_case_sensitive", 0) and bool(attribute(node, "stopwords", ()))
    return (changes or compares) and not _has_locale(attribute(node, "locale", "") or "en_US.UTF-8")


def _compares_with_missing_locale(node: ir.Node) -> bool:
    return bool(attribute(node, "stopwords", ())) and not _has_locale(attribute(node, "locale", "") or "en_US.UTF-8")


def _gathers_rows_of_strings(node: ir.Node) -> bool:
    """More than one string per index, as far as that is known."""
    value = input_at(node, 0)
    dims = shape_of(value)
    if value is None or element_type(value) != ir.DataType.STRING or not dims:
        return False
    axis = int(attribute(node, "axis", 0)) % len(dims)
    return any(dim != 1 for dim in dims[axis + 1 :])


@functools.cache
def _has_locale(name: str) -> bool:
    """Whether the C library has the locale; True wherever that cannot be asked for without changing the process's own."""
    if not sys.platform.startswith("linux"):
        return True
    import ctypes

    library = ctypes.CDLL(None)
    if not hasattr(library, "newlocale") or not hasattr(library, "gnu_get_libc_version"):
        return True
    library.newlocale.restype = ctypes.c_void_p
    library.newlocale.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)
    library.freelocale.argtypes = (ctypes.c_void_p,)
    ctype_mask = 1  # glibc's LC_CTYPE_MASK
    made = library.newlocale(ctype_mask, name.encode(), None)
    if made:
        library.freelocale(made)
    return bool(made)


QUIRKS: Sequence[Quirk] = (
    Quirk(
        ("CausalConvWithState", "GRU", "LSTM", "Unique"),
        "ends the process where this operator gets an empty tensor",
        _is_empty,
    ),
    Quirk(
        ("DFT", "ReverseSequence"),
        "ends the process where this operator gets a tensor of too low a rank, and the model does not say which rank it will be",
        _rankless(0),
    ),
    Quirk(
        ("GridSample",),
        "ends the process where GridSample gets tensors of too low a rank, and the model does not say which rank they will be",
        _rankless(0, 1),
    ),
    Quirk(
        ("Attention",),
        "ends the process where Attention's past is of too low a rank, and the model does not say which rank it will be",
        _rankless(4, 5),
    ),
    Quirk(
        ("STFT",),
        "ends the process where STFT gets a signal of too low a rank, and the model does not say which rank it will be",
        _rankless(0),
    ),
    Quirk(
        ("STFT",),
        "ends the process where STFT's frames have the length 0, and the model does not say which length they will have",
        _has_unsure_length,
    ),
    Quirk(
        ("STFT",),
        "ends the process unless STFT's window is a vector with something in it",
        _has_bad_window,
    ),
    Quirk(
        ("Attention",),
        "writes the lowest float instead of -inf into Attention's qk_matmul_output where a key is hidden (mode 2)",
        lambda node: _scores_mode(node) == 2 and _hides(node),
        evidence=(
            "test_attention_4d_with_past_and_present_qk_matmul_bias_3d_mask_causal",
            "test_attention_4d_with_past_and_present_qk_matmul_bias_4d_mask_causal",
        ),
    ),
    Quirk(
        ("Attention",),
        "gives Attention's qk_matmul_output after the mask in mode 1, which asks for it before",
        lambda node: _scores_mode(node) == 1 and (_capped(node) or _biased(node)),
        until=(1, 27),
    ),
    Quirk(
        ("Attention",),
        "applies Attention's softcap after the mask instead of before it",
        lambda node: _capped(node) and _biased(node),
        until=(1, 27),
        evidence=("test_attention_4d_with_qk_matmul_softcap", "test_attention_4d_softcap_neginf_mask"),
    ),
    Quirk(
        ("Attention",),
        "does not look at Attention's nonpad_kv_seqlen",
        lambda node: input_at(node, 6) is not None,
        until=(1, 25),
        evidence=("test_attention_4d_gqa_causal_nonpad_decode",),
    ),
    Quirk(
        ("Attention",),
        "puts Attention's causal mask in the wrong place where nonpad_kv_seqlen is given",
        lambda node: bool(attribute(node, "is_causal", 0)) and input_at(node, 6) is not None,
        until=(1, 28),
        evidence=("test_attention_4d_causal_nonpad_batch_prefill", "test_attention_4d_causal_nonpad_continued_prefill"),
    ),
    Quirk(
        ("Attention",),
        "refuses Attention with a mask per query head where queries share key heads",
        _per_head_mask_of_grouped_queries,
        until=(1, 25),
    ),
    Quirk(
        ("Attention",),
        "refuses Attention with a mask for fewer keys than there are; ONNX hides the others",
        _short_mask,
        evidence=("test_attention_4d_diff_heads_mask4d_padded_kv",),
    ),
    Quirk(
        ("ConvInteger",),
        "knows one zero point for all of ConvInteger's weights, not one per channel",
        _many_zero_points(3),
        evidence=("test_convinteger_with_padding",),
    ),
    Quirk(
        ("MatMulInteger",),
        "knows one zero point for all of MatMulInteger's first matrix, not one per row",
        _many_zero_points(2),
    ),
    Quirk(
        ("ReduceMax", "ReduceMin"),
        "refuses to reduce an empty tensor of bool",
        _empty_bool,
        evidence=("test_reduce_max_empty_set_bool",),
    ),
    Quirk(
        ("MaxUnpool",),
        "reads MaxUnpool's indices in the shape that output_shape asks for, not in the one that was pooled",
        _unpools_to_other_width,
        evidence=("test_maxunpool_export_with_output_shape",),
    ),
    Quirk(
        ("Resize",),
        "rounds the new length before it aligns corners, where ONNX takes scale times length as it is",
        _aligns_corners_of_a_fraction,
        evidence=("test_resize_downsample_scales_linear_align_corners", "test_resize_downsample_scales_cubic_align_corners"),
    ),
    Quirk(
        ("Resize",),
        "copies its input where the scaled lengths round to the old ones, without interpolating",
        _resizes_to_the_same_size,
    ),
    Quirk(
        ("DFT",),
        "loses precision in a float32 DFT whose length is no power of two, the more the longer it is",
        _transforms_odd_length,
        evidence=("test_dft", "test_dft_axis", "test_dft_inverse", "test_dft_irfft", "test_dft_rfft"),
    ),
    Quirk(
        ("STFT",),
        "loses precision in a float32 STFT whose frames are no power of two long, the more the longer they are",
        _frames_of_odd_length,
    ),
    Quirk(
        ("GRU", "LSTM", "RNN"),
        "has no recurrent kernels for the batch-first layout (layout=1)",
        lambda node: bool(attribute(node, "layout", 0)),
        evidence=("test_gru_batchwise", "test_lstm_batchwise", "test_simple_rnn_batchwise"),
    ),
    Quirk(
        ("Gather",),
        "gathers only the first string of each row, and leaves the others empty",
        _gathers_rows_of_strings,
    ),
    Quirk(
        ("Shrink",),
        "computes Shrink of float64 in float32",
        _takes(ir.DataType.DOUBLE),
    ),
    Quirk(
        ("LogSoftmax",),
        "loses the NaN of a row in LogSoftmax of float64",
        _takes(ir.DataType.DOUBLE),
    ),
    Quirk(
        ("MeanVarianceNormalization",),
        "cannot build MeanVarianceNormalization of float16, since the body that it puts in its place has a constant of float32",
        _takes(ir.DataType.FLOAT16),
    ),
    Quirk(
        ("ConstantOfShape",),
        "knows no float8 value for ConstantOfShape",
        _fills_with_float8,
    ),
    Quirk(
        ("Cast",),
        "has no way to hand bfloat16 or float8 to Python when they come from strings",
        _reads_small_floats,
    ),
    Quirk(
        ("MatMul",),
        "fails where a MatMul of unsigned integers has nothing to add up",
        _multiplies_nothing,
    ),
    Quirk(
        ("AveragePool", "LpPool", "MaxPool"),
        "counts the windows that auto_pad asks for without their dilations",
        _pads_dilated,
    ),
    Quirk(
        ("AveragePool", "LpPool", "MaxPool"),
        "pads by less than nothing where strides are larger than windows and auto_pad is set",
        _pads_less_than_nothing,
    ),
    Quirk(
        ("AveragePool",),
        "averages over what lies beyond the padding where ceil_mode and count_include_pad are set",
        _counts_beyond_the_end,
        until=(1, 29),
    ),
    Quirk(
        ("AveragePool",),
        "counts AveragePool's padding at the end of an axis by that of another one",
        _pads_by_another_axis,
        until=(1, 25),
    ),
    Quirk(
        ("StringNormalizer",),
        "takes upper and lower case from the system's locale, and this system lacks the one that is asked for",
        _needs_missing_locale,
        evidence=("test_strnormalizer_export_monday_casesensintive_lower", "test_strnorm_model_monday_empty_output"),
    ),
    Quirk(
        ("StringNormalizer",),
        "wants the system's locale even where nothing changes case, and this system lacks the one that is asked for",
        _compares_with_missing_locale,
        until=(1, 27),
        evidence=("test_strnormalizer_export_monday_casesensintive_nochangecase",),
    ),
)
"""Every row, most specific first where two concern the same node."""
