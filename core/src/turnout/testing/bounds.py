"""How far a result may be from the reference, by element type and class of operator.

A value `got` is right where `|got - wanted| <= relative * |wanted| + absolute * scale`; `scale` is the largest finite magnitude in the
wanted tensor, at most 1 where the class is "function". NaN wants NaN, an infinity the same infinity, and dtype and shape are exact.

| class | operators | bound |
|---|---|---|
| exact | whatever moves, compares, selects, counts or rounds to whole numbers; all integers, booleans and strings | equal |
| rounded | one operation of IEEE 754, rounded once: Add, Sub, Mul, Div, Sqrt, Reciprocal ... | 2 units in the last place |
| function | Exp, Tanh, Pow, Erf ... and what is made of a few of them (Gelu, Softmax) | see `_ULPS` |
| sum | sums and products over an axis: MatMul, Conv, reductions, normalizations, pooling by average | see `_ULPS` |

Where the numbers come from: IEEE 754 rounds a single operation to half a unit in the last place (ulp); 2 leave room for a division made
of a reciprocal. The OpenCL C specification ("Relative Error as ULPs", full profile) allows 16 ulp for the worst of its single precision
functions (pow, erf, tgamma), 3 for exp and log, 5 for tanh: 16 are allowed for all. A sum of n terms in any order is off by at most
(n - 1) * eps * sum |terms| (Higham, Accuracy and Stability of Numerical Algorithms, section 4.2); the cases here have up to 250 terms of
about one size, and rounding errors of both signs, for which 64 ulp of the largest result are plenty. In types of 16 bits and less the
reference evaluator itself rounds between steps: 4 ulp there for functions and 16 for sums.

ONNX's own cases carry bounds of their own (rtol 1e-3, atol 1e-7 for all of them), which hold where they are wider.
"""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np

__all__ = ["CLASSES", "class_of", "difference"]

CLASSES = ("exact", "rounded", "function", "sum")
"""From the strictest on; a case with several operators takes the widest of theirs."""

_ULPS: dict[str, dict[str, float]] = {
    "exact": {"wide": 0, "narrow": 0},
    "rounded": {"wide": 2, "narrow": 2},
    "function": {"wide": 16, "narrow": 4},
    "sum": {"wide": 64, "narrow": 16},
}
"""Units in the last place, relative and absolute alike, for wide types (float32, float64) and narrow ones (16 bits and less)."""

_ROUNDED = "Add Sub Mul Div Mod Sqrt Reciprocal LeakyRelu PRelu Shrink HardSigmoid Range DequantizeLinear"
_EXACT = """
    Abs Neg Relu Identity Reshape Transpose Concat Slice Split Gather GatherElements GatherND Expand Tile Squeeze Unsqueeze Flatten
    Shape Size Where Equal Greater Less GreaterOrEqual LessOrEqual And Or Xor Not IsNaN IsInf Ceil Floor Round Sign Max Min MaxPool
    GlobalMaxPool MaxUnpool ArgMax ArgMin TopK NonZero Unique Compress DepthToSpace SpaceToDepth ReverseSequence EyeLike OneHot Trilu
    ConstantOfShape Constant ReduceMax ReduceMin Hardmax Pad Clip BitCast BitShift BitwiseAnd BitwiseOr BitwiseXor BitwiseNot
    ScatterND ScatterElements Scatter TensorScatter CenterCropPad NonMaxSuppression Cast CastLike Optional OptionalGetElement
    OptionalHasElement SequenceAt SequenceConstruct SequenceEmpty SequenceErase SequenceInsert SequenceLength SplitToSequence
    ConcatFromSequence StringConcat StringSplit StringNormalizer RegexFullMatch If Loop Scan SequenceMap ThresholdedRelu
"""
_SUM = """
    MatMul Gemm Conv ConvTranspose DeformConv ReduceSum ReduceMean ReduceProd ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp
    ReduceSumSquare AveragePool GlobalAveragePool LpPool GlobalLpPool BatchNormalization InstanceNormalization LayerNormalization
    GroupNormalization RMSNormalization LRN LpNormalization MeanVarianceNormalization CumSum CumProd Einsum Det Attention LSTM GRU RNN
    Softmax LogSoftmax Sum Mean Resize Upsample GridSample AffineGrid RoiAlign STFT DFT MelWeightMatrix Col2Im QLinearConv
    SoftmaxCrossEntropyLoss NegativeLogLikelihoodLoss LinearAttention CausalConvWithState
"""
_CLASS_OF: dict[str, str] = {
    name: kind for kind, names in (("exact", _EXACT), ("rounded", _ROUNDED), ("sum", _SUM)) for name in names.split()
}


def class_of(op_types: set[str]) -> str:
    """The class of a case with these operators: "function" for those that no list names."""
    return max((_CLASS_OF.get(op_type, "function") for op_type in op_types), key=CLASSES.index, default="exact")


def difference(got: Any, wanted: Any, kind: str, *, rtol: float = 0.0, atol: float = 0.0, values: bool = True) -> str:
    """What is wrong with a result, as the end of a sentence; "" where it is right. Lists are compared item by item.

    rtol, atol: a case's own bounds, which hold where they are wider. values: False looks at dtype and shape only.
    """
    if isinstance(wanted, list):
        if not isinstance(got, (list, tuple)) or len(got) != len(wanted):
            return f"is {_kind(got)}, not a sequence of {len(wanted)}"
        problems = (difference(*pair, kind, rtol=rtol, atol=atol, values=values) for pair in zip(got, wanted, strict=True))
        return next((f"at position {place} {problem}" for place, problem in enumerate(problems) if problem), "")
    if wanted is None:
        return "" if got is None else f"is {_kind(got)}, not an empty optional"
    return _tensor_difference(got, np.asarray(wanted), kind, rtol, atol, values)


def _tensor_difference(got: Any, wanted: np.ndarray[Any, Any], kind: str, rtol: float, atol: float, values: bool) -> str:
    if not isinstance(got, np.ndarray):
        return f"is {_kind(got)}, not a NumPy array"
    text = wanted.dtype.kind in "OUST"
    if got.dtype != wanted.dtype and not (text and got.dtype.kind in "OUST"):
        return f"has dtype {got.dtype}, not {wanted.dtype}"
    if got.shape != wanted.shape:
        return f"has shape {list(got.shape)}, not {list(wanted.shape)}"
    if not values or not wanted.size:
        return ""
    if text:
        wrong = np.array([str(a) != str(b) for a, b in zip(got.ravel(), wanted.ravel(), strict=True)]).reshape(wanted.shape)
    else:
        wrong = _outside(got, wanted, kind, rtol, atol)
    return _worst(got, wanted, wrong) if wrong.any() else ""


def _outside(got: np.ndarray[Any, Any], wanted: np.ndarray[Any, Any], kind: str, rtol: float, atol: float) -> np.ndarray[Any, Any]:
    """Where the values are further apart than they may be."""
    if not _is_float(wanted.dtype):
        return np.asarray(got != wanted)
    info: Any = np.finfo if wanted.dtype.kind == "c" else ml_dtypes.finfo
    eps = float(info(wanted.dtype).eps)
    bound = _ULPS[kind]["wide" if wanted.dtype.itemsize >= 4 else "narrow"] * eps
    wide = np.complex128 if wanted.dtype.kind == "c" else np.float64
    a, b = got.astype(wide), wanted.astype(wide)
    with np.errstate(all="ignore"):
        size = np.abs(b)
        scale = float(np.max(size, where=np.isfinite(size), initial=0.0))
        if kind == "function":
            scale = min(scale, 1.0)
        allowed = np.maximum(bound * size + bound * scale, rtol * size + atol)
        equal = (a == b) | (np.isnan(a) & np.isnan(b))
        near = np.isfinite(a) & np.isfinite(b) & (np.abs(a - b) <= allowed)
    return np.asarray(~(equal | near))


def _is_float(dtype: np.dtype[Any]) -> bool:
    if dtype.kind in "fc":
        return True
    return dtype.kind == "V" and "float" in dtype.name


def _worst(got: np.ndarray[Any, Any], wanted: np.ndarray[Any, Any], wrong: np.ndarray[Any, Any]) -> str:
    where = np.unravel_index(int(np.argmax(wrong)), wrong.shape)
    at = f" at {[int(axis) for axis in where]}" if where else ""
    count = int(np.count_nonzero(wrong))
    return f"is {got[where]!s} where {wanted[where]!s} was due{at} ({count} of {wrong.size} values are wrong)"


def _kind(value: Any) -> str:
    return "None" if value is None else f"a {type(value).__name__}"
