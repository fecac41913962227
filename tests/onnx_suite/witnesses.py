"""For each row of turnout_ort.quirks a model that ONNX Runtime's CPU provider fails on, and what ONNX wants to come out of it.

`near` is a model of the same operator that the row must let through, since ONNX Runtime is right there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnx.helper as oh

__all__ = ["LETHAL", "NEAR", "WITNESSES", "Witness"]

Array = np.ndarray[Any, Any]
Feed = dict[str, Array]
RNG = np.random.default_rng(5)


@dataclass(frozen=True)
class Witness:
    model: onnx.ModelProto
    feed: Feed
    wanted: list[Array]
    rtol: float = 1e-4
    atol: float = 1e-5


def witness(
    operator: str, inputs: dict[str, Any], wanted: dict[str, Array], opset: int, constants: tuple[str, ...] = (), **more: Any
) -> Witness:
    """One node. inputs: name to array, None for one that is left out; those among `constants` are initializers."""
    names = [name if array is not None else "" for name, array in inputs.items()]
    while not names[-1]:
        names.pop()
    within = {key: more.pop(key) for key in ("rtol", "atol") if key in more}
    node = oh.make_node(operator, names, [name if array is not None else "" for name, array in wanted.items()], **more)
    given = {name: array for name, array in inputs.items() if array is not None}
    feed = {name: array for name, array in given.items() if name not in constants}
    outputs = {name: array for name, array in wanted.items() if array is not None}
    graph = oh.make_graph(
        [node],
        "witness",
        [_info(name, array) for name, array in feed.items()],
        [_info(name, array) for name, array in outputs.items()],
        [onnx.numpy_helper.from_array(given[name], name) for name in constants],
    )
    model = oh.make_model(graph, ir_version=10, opset_imports=[oh.make_opsetid("", opset)])
    return Witness(model, feed, list(outputs.values()), **within)


def _info(name: str, array: Array) -> onnx.ValueInfoProto:
    kind = onnx.TensorProto.STRING if array.dtype == object else oh.np_dtype_to_tensor_dtype(array.dtype)
    return oh.make_tensor_value_info(name, kind, array.shape)


def floats(*shape: int) -> Array:
    return RNG.random(shape, np.float32)


@dataclass
class Attention:
    """ONNX's Attention in NumPy (opset 23 and later, four dimensions): softcap, then masks, then softmax."""

    queries: int = 2
    keys: int = 2
    mask: Array | None = None
    causal: bool = False
    softcap: float = 0.0
    mode: int | None = None
    valid: Array | None = None
    """nonpad_kv_seqlen: how many keys of each batch count."""

    def __post_init__(self) -> None:
        self.q, self.k, self.v = floats(2, self.queries, 3, 8), floats(2, self.keys, 5, 8), floats(2, self.keys, 5, 8)

    def witness(self) -> Witness:
        inputs = {"q": self.q, "k": self.k, "v": self.v, "mask": self.mask, "pk": None, "pv": None, "valid": self.valid}
        y, scores = self.outputs()
        wanted = {"y": y, "": None, " ": None, "scores": scores} if self.mode is not None else {"y": y}
        attributes = {"is_causal": int(self.causal), "softcap": self.softcap, "qk_matmul_output_mode": self.mode or 0}
        return witness("Attention", inputs, wanted, 24, **attributes)  # type: ignore[arg-type]

    def outputs(self) -> tuple[Array, Array]:
        groups = self.queries // self.keys
        k, v = np.repeat(self.k, groups, 1), np.repeat(self.v, groups, 1)
        raw = self.q @ k.swapaxes(-1, -2) / np.sqrt(np.float32(8))
        capped = self.softcap * np.tanh(raw / self.softcap) if self.softcap else raw
        masked = capped + self.bias()
        weights = np.exp(masked - masked.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
        scores = (raw, capped, masked, weights)[self.mode or 0]
        return (weights @ v).astype(np.float32), scores.astype(np.float32)

    def bias(self) -> Array:
        """What is added to the scores, for [batch, head, query, key]: -inf where a key is hidden."""
        bias = np.zeros((2, 1, 3, 5), np.float32)
        if self.mask is not None:
            mask = np.where(self.mask, 0, -np.inf) if self.mask.dtype == bool else self.mask
            missing = 5 - mask.shape[-1]
            bias = bias + np.pad(mask, [(0, 0)] * (mask.ndim - 1) + [(0, missing)], constant_values=-np.inf)
        valid = np.full(2, 5) if self.valid is None else self.valid
        bias = np.where(np.arange(5) < valid[:, None, None, None], bias, -np.inf)
        if self.causal:
            before = np.zeros(2) if self.valid is None else valid - 3
            seen = np.arange(5) <= (np.arange(3) + before[:, None])[:, :, None]
            bias = np.where(seen[:, None], bias, -np.inf)
        return bias


HIDING = np.array([[1, 0, 1, 1, 0], [1, 1, 0, 1, 1], [1, 1, 1, 0, 0]], bool)


def conv_integer(zero_points: list[int]) -> Witness:
    x, w = np.arange(9, dtype=np.uint8).reshape(1, 1, 3, 3), np.ones((2, 1, 2, 2), np.uint8)
    given = np.array(zero_points, np.uint8)
    windows = np.lib.stride_tricks.sliding_window_view(x.astype(np.int32) - 1, (2, 2), axis=(2, 3))
    kernels = w.astype(np.int32) - given.astype(np.int32).reshape(-1, 1, 1, 1)
    y = np.einsum("nchwij,ocij->nohw", windows, kernels).astype(np.int32)
    return witness("ConvInteger", {"x": x, "w": w, "xz": np.array([1], np.uint8), "wz": given}, {"y": y}, 10)


def matmul_integer(zero_points: list[int]) -> Witness:
    a, b = np.arange(8, dtype=np.uint8).reshape(2, 4), np.arange(12, dtype=np.uint8).reshape(4, 3)
    given = np.array(zero_points, np.uint8)
    y = (a.astype(np.int32) - given.astype(np.int32)[:, None]) @ b.astype(np.int32)
    return witness("MatMulInteger", {"a": a, "b": b, "az": given}, {"y": y}, 10)


def reduce_empty(operator: str, length: int) -> Witness:
    x = np.zeros((2, length, 3), bool)
    y = x.any(1) if operator == "ReduceMax" else np.ones((2, 3), bool) if not length else x.all(1)
    return witness(operator, {"x": x, "axes": np.array([1])}, {"y": y}, 20, ("axes",), keepdims=0)


def max_unpool(side: int) -> Witness:
    """Two by two values that were pooled from four by four, put into something that is wider at the end."""
    x, at = np.arange(1, 5, dtype=np.float32).reshape(1, 1, 2, 2), np.array([[[[5, 7], [13, 15]]]])
    y = np.zeros((1, 1, side, side), np.float32)
    y[0, 0, 1, 1], y[0, 0, 1, 3], y[0, 0, 3, 1], y[0, 0, 3, 3] = 1, 2, 3, 4
    shape = np.array([1, 1, side, side])
    return witness("MaxUnpool", {"x": x, "at": at, "shape": shape}, {"y": y}, 11, kernel_shape=[2, 2], strides=[2, 2])


def resize(length: int, scale: float, how: str, constants: tuple[str, ...] = ("scales",)) -> Witness:
    """Linear, along the last axis: ONNX's own length is scale times the length, not the whole number below it."""
    x = floats(1, 1, 1, length)
    exact = length * scale
    new = np.arange(int(np.floor(exact)))
    at = new * (length - 1) / (exact - 1) if how == "align_corners" else (new + 0.5) / scale - 0.5
    y = np.interp(np.clip(at, 0, length - 1), np.arange(length), x[0, 0, 0]).astype(np.float32).reshape(1, 1, 1, -1)
    inputs = {"x": x, "roi": None, "scales": np.array([1, 1, 1, scale], np.float32)}
    return witness("Resize", inputs, {"y": y}, 19, constants, mode="linear", coordinate_transformation_mode=how)


def dft(length: int) -> Witness:
    x = floats(1, length, 1)
    y = np.fft.fft(x[..., 0].astype(np.float64))
    pairs = np.stack([y.real, y.imag], -1).astype(np.float32)
    inputs = {"x": x, "length": None, "axis": np.array(1)}
    return witness("DFT", inputs, {"y": pairs}, 20, ("axis",), rtol=1e-5, atol=2e-4)


def stft(length: int) -> Witness:
    x, step = floats(1, 4 * length, 1), length
    y = np.fft.rfft(x[..., 0].reshape(1, 4, length).astype(np.float64))
    pairs = np.stack([y.real, y.imag], -1).astype(np.float32)
    inputs = {"x": x, "step": np.array(step), "window": None, "length": np.array(length)}
    return witness("STFT", inputs, {"y": pairs}, 17, ("step", "length"), rtol=1e-5, atol=2e-4)


def recurrent(layout: int) -> Witness:
    """A plain RNN of one step: tanh(x w + h r + b)."""
    x, w, r, h = floats(2, 1, 3), floats(1, 4, 3), floats(1, 4, 4), floats(2, 1, 4)
    y = np.tanh(x[:, 0] @ w[0].T + h[:, 0] @ r[0].T).astype(np.float32)
    if layout:
        wanted = {"y": y.reshape(2, 1, 1, 4), "y_h": y.reshape(2, 1, 4)}
    else:
        x, h = x.swapaxes(0, 1), h.swapaxes(0, 1)
        wanted = {"y": y.reshape(1, 1, 2, 4), "y_h": y.reshape(1, 2, 4)}
    inputs = {"x": x, "w": w, "r": r, "b": None, "lens": None, "h": h}
    return witness("RNN", inputs, wanted, 14, hidden_size=4, layout=layout)


def normalizer(action: str, locale: str, stopwords: tuple[str, ...] = ()) -> Witness:
    x = np.array(["Ab", "cD"], object)
    y = np.array([text.upper() if action == "UPPER" else text for text in x if text not in stopwords], object)
    more: dict[str, Any] = {"stopwords": list(stopwords)} if stopwords else {}
    return witness("StringNormalizer", {"x": x}, {"y": y}, 10, case_change_action=action, is_case_sensitive=1, locale=locale, **more)


def lethal(text: str, **feed: Array) -> Witness:
    """A model as ONNX writes it in text, and what ONNX Runtime dies of."""
    return Witness(onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : {text}'), feed, [])


GRU = "21]> g (float[0,2,3] x, float[1,12,3] w, float[1,12,4] r) => (float[] y) { y = GRU<hidden_size=4>(x, w, r) }"
DFT = "20]> g (float[] x) => (float[] y) { y = DFT(x) }"
REVERSE = "10]> g (float[] x, int64[2] n) => (float[] y) { y = ReverseSequence<batch_axis=1, time_axis=0>(x, n) }"
GRID = "20]> g (float[] x, float[] at) => (float[] y) { y = GridSample(x, at) }"
PAST = """23]> g (float[1,2,3,8] q, float[1,2,3,8] k, float[1,2,3,8] v, float[] pk, float[] pv) => (float[] y, float[] nk, float[] nv) {
    y, nk, nv = Attention(q, k, v, "", pk, pv) }"""
SIGNAL = '17]> g (float[] x, int64 step, int64 length) => (float[] y) { y = STFT(x, step, "", length) }'
WINDOW = "17]> g (float[1,16,1] x, int64 step, float[W] window) => (float[] y) { y = STFT(x, step, window) }"
NUMBER, QUERY = np.array(1, np.float32), np.ones((1, 2, 3, 8), np.float32)

# the beginning of a row's reason -> models and inputs that end the process of ONNX Runtime
LETHAL: dict[str, Callable[[], list[Witness]]] = {
    "ends the process where this operator gets an empty": lambda: [
        lethal(GRU, x=np.ones((0, 2, 3), np.float32), w=floats(1, 12, 3), r=floats(1, 12, 4)),
        lethal(
            GRU.replace("[0,", "[2,").replace(",2,3] x", ",0,3] x").replace("12", "16").replace("GRU", "LSTM"),
            x=np.ones((2, 0, 3), np.float32),
            w=floats(1, 16, 3),
            r=floats(1, 16, 4),
        ),
        lethal("11]> g (float[3,0] x) => (float[] y) { y = Unique<axis=0>(x) }", x=np.ones((3, 0), np.float32)),
    ],
    "ends the process where this operator gets a tensor": lambda: [lethal(DFT, x=NUMBER), lethal(REVERSE, x=NUMBER, n=np.array([1, 2]))],
    "ends the process where GridSample": lambda: [lethal(GRID, x=NUMBER, at=NUMBER)],
    "ends the process where Attention": lambda: [lethal(PAST, q=QUERY, k=QUERY, v=QUERY, pk=NUMBER, pv=NUMBER)],
    "ends the process where STFT's": lambda: [
        lethal(SIGNAL.replace("[] x", "[1,16,1] x"), x=floats(1, 16, 1), step=np.array(1), length=np.array(0)),
    ],
    "ends the process where STFT gets": lambda: [lethal(SIGNAL, x=NUMBER, step=np.array(4), length=np.array(8))],
    "ends the process unless STFT": lambda: [
        lethal(WINDOW.replace("[W]", "[0]"), x=floats(1, 16, 1), window=np.ones(0, np.float32), step=np.array(4)),
        lethal(WINDOW.replace("[W]", ""), x=floats(1, 16, 1), window=NUMBER, step=np.array(4)),
    ],
}


# the beginning of a row's reason -> its witnesses; then what it lets through
def gather_strings(axis: int) -> Witness:
    words = np.array([f"w{number}" for number in range(12)], object).reshape(4, 3)
    indices = np.array([2, 0])
    return witness("Gather", {"data": words, "indices": indices}, {"output": np.take(words, indices, axis)}, 21, axis=axis)


def shrink(dtype: Any) -> Witness:
    x = np.array([2.0000000001, -3.123456789012, 0.5]).astype(dtype)
    wanted = np.where(x > 1.5, x - dtype(0.5), np.where(x < -1.5, x + dtype(0.5), dtype(0)))
    return witness("Shrink", {"input": x}, {"output": wanted}, 21, lambd=1.5, bias=0.5, rtol=1e-12 if dtype is np.float64 else 1e-5, atol=0)


def log_softmax(dtype: Any) -> Witness:
    x = np.array([[1, np.nan, 3], [1, 2, 3]]).astype(dtype)
    return witness("LogSoftmax", {"x": x}, {"y": x - np.log(np.exp(x).sum(-1, keepdims=True))}, 13)


def mean_variance(dtype: Any) -> Witness:
    x = np.arange(16).reshape(1, 1, 4, 4).astype(dtype)
    return witness("MeanVarianceNormalization", {"x": x}, {"y": ((x - x.mean()) / x.std()).astype(dtype)}, 13, rtol=1e-3, atol=1e-3)


def filled(dtype: Any) -> Witness:
    value = onnx.numpy_helper.from_array(np.ones(1, dtype))
    return witness("ConstantOfShape", {"shape": np.array([2, 3])}, {"y": np.ones((2, 3), dtype)}, 25, value=value)


def cast_strings(dtype: Any) -> Witness:
    y = np.array([1, -2]).astype(dtype)
    return witness("Cast", {"x": np.array(["1", "-2"], object)}, {"y": y}, 21, to=oh.np_dtype_to_tensor_dtype(y.dtype))


def multiplied(dtype: Any, between: int) -> Witness:
    a, b = np.ones((2, between), dtype), np.ones((between, 3), dtype)
    return witness("MatMul", {"a": a, "b": b}, {"y": np.full((2, 3), between, dtype)}, 13)


def pooled(size: int, stride: int, dilation: int, auto_pad: str = "SAME_UPPER") -> Witness:
    """The largest of 0, 1, 2 ... in each window: its last element, or the last of all."""
    x = np.arange(8, dtype=np.float32)
    count, span = (-(-8 // stride), (size - 1) * dilation + 1) if auto_pad != "VALID" else ((8 - size) // stride + 1, size)
    before = max((count - 1) * stride + span - 8, 0) // 2
    last = [max(at for at in range(start, start + span, dilation) if at < 8) for start in range(-before, count * stride - before, stride)]
    more = {"kernel_shape": [size], "strides": [stride], "dilations": [dilation], "auto_pad": auto_pad}
    return witness("MaxPool", {"x": x.reshape(1, 1, 8)}, {"y": x[last].reshape(1, 1, -1)}, 12, **more)


def averaged_beyond(version: int) -> Witness:
    """Means of ones, two at a time; the last window has one of them."""
    more = {"kernel_shape": [2], "strides": [2], "ceil_mode": 1, "count_include_pad": 1}
    return witness("AveragePool", {"x": np.ones((1, 1, 5), np.float32)}, {"y": np.ones((1, 1, 3), np.float32)}, version, **more)


def averaged(pads: list[int], version: int = 19) -> Witness:
    """Means over two rows of ones and over each row with one of zeros, where padding counts."""
    x, y = np.ones((1, 1, 2, 2), np.float32), [[0.5, 0.5]] * pads[0] + [[1.0, 1.0]] + [[0.5, 0.5]] * pads[2]
    more = {"kernel_shape": [2, 1], "pads": pads, "count_include_pad": 1}
    return witness("AveragePool", {"x": x}, {"y": np.array([[y]], np.float32)}, version, **more)


WITNESSES: dict[str, list[Callable[[], Witness]]] = {
    "writes the lowest float": [
        lambda: Attention(mode=2, causal=True).witness(),
        lambda: Attention(mode=2, mask=HIDING).witness(),
        lambda: Attention(mode=2, valid=np.array([2, 4])).witness(),
    ],
    "gives Attention's qk_matmul_output after": [
        lambda: Attention(mode=1, mask=floats(3, 5)).witness(),
        lambda: Attention(mode=1, softcap=2.0).witness(),
    ],
    "applies Attention's softcap after": [lambda: Attention(softcap=2.0, mask=floats(3, 5)).witness()],
    "does not look at": [lambda: Attention(valid=np.array([3, 5])).witness()],
    "puts Attention's causal mask": [lambda: Attention(causal=True, valid=np.array([4, 5])).witness()],
    "refuses Attention with a mask per query head": [lambda: Attention(queries=4, mask=floats(2, 4, 3, 5)).witness()],
    "refuses Attention with a mask for fewer keys": [lambda: Attention(mask=floats(3, 4), valid=np.array([3, 4])).witness()],
    "knows one zero point for all of ConvInteger": [lambda: conv_integer([0, 1])],
    "knows one zero point for all of MatMulInteger": [lambda: matmul_integer([1, 2])],
    "refuses to reduce an empty tensor": [lambda: reduce_empty("ReduceMax", 0), lambda: reduce_empty("ReduceMin", 0)],
    "reads MaxUnpool's indices": [lambda: max_unpool(5)],
    "rounds the new length": [
        lambda: resize(5, 0.55, "align_corners"),
        lambda: resize(5, 0.55, "align_corners", ()),
    ],
    "copies its input": [lambda: resize(2, 1.25, "half_pixel")],
    "loses precision in a float32 DFT": [lambda: dft(1000)],
    "loses precision in a float32 STFT": [lambda: stft(1000)],
    "has no recurrent kernels": [lambda: recurrent(1)],
    "gathers only the first string": [lambda: gather_strings(0)],
    "computes Shrink of float64": [lambda: shrink(np.float64)],
    "loses the NaN": [lambda: log_softmax(np.float64)],
    "cannot build MeanVarianceNormalization": [lambda: mean_variance(np.float16)],
    "knows no float8 value": [lambda: filled(ml_dtypes.float8_e5m2), lambda: filled(ml_dtypes.float8_e4m3fn)],
    "has no way to hand bfloat16": [lambda: cast_strings(ml_dtypes.bfloat16), lambda: cast_strings(ml_dtypes.float8_e5m2)],
    "fails where a MatMul": [lambda: multiplied(np.uint32, 0), lambda: multiplied(np.uint64, 0)],
    "counts the windows": [lambda: pooled(3, 3, 2)],
    "pads by less than nothing": [lambda: pooled(1, 4, 1)],  # by one element less, only ONNX Runtime 1.30 and later are wrong
    "averages over what lies beyond": [lambda: averaged_beyond(10), lambda: averaged_beyond(11)],
    "counts AveragePool's padding": [lambda: averaged([0, 0, 1, 0]), lambda: averaged([1, 0, 1, 0])],
    "takes upper and lower case": [lambda: normalizer("UPPER", "xx_YY.UTF-8")],
    "wants the system's locale even": [lambda: normalizer("NONE", "xx_YY.UTF-8", ("Ab",))],
}

NEAR: dict[str, list[Callable[[], Witness]]] = {
    "writes the lowest float": [
        lambda: Attention(causal=True).witness(),
        lambda: Attention(mode=3, causal=True).witness(),
        lambda: Attention(mode=0, causal=True, softcap=2.0).witness(),
        lambda: Attention(mode=2, mask=floats(3, 5)).witness(),
    ],
    "gives Attention's qk_matmul_output after": [
        lambda: Attention(mode=0, mask=floats(3, 5)).witness(),
        lambda: Attention(mode=2, mask=floats(3, 5)).witness(),
    ],
    "applies Attention's softcap after": [lambda: Attention(mask=floats(3, 5)).witness()],
    "does not look at": [lambda: Attention(causal=True).witness()],
    "puts Attention's causal mask": [lambda: Attention(valid=np.array([4, 5])).witness()],
    "refuses Attention with a mask per query head": [lambda: Attention(queries=4, mask=floats(3, 5)).witness()],
    "refuses Attention with a mask for fewer keys": [lambda: Attention(mask=HIDING).witness()],
    "knows one zero point for all of ConvInteger": [lambda: conv_integer([1])],
    "knows one zero point for all of MatMulInteger": [lambda: matmul_integer([2])],
    "refuses to reduce an empty tensor": [lambda: reduce_empty("ReduceMax", 2), lambda: reduce_empty("ReduceMin", 2)],
    "reads MaxUnpool's indices": [],  # with the shape that was pooled, which must be a constant then
    "rounds the new length": [lambda: resize(4, 2.0, "align_corners"), lambda: resize(5, 1.5, "half_pixel")],
    "copies its input": [lambda: resize(3, 1.5, "half_pixel")],
    "loses precision in a float32 DFT": [lambda: dft(1024)],
    "loses precision in a float32 STFT": [lambda: stft(1024)],
    "has no recurrent kernels": [lambda: recurrent(0)],
    "gathers only the first string": [lambda: gather_strings(1)],
    "computes Shrink of float64": [lambda: shrink(np.float32)],
    "loses the NaN": [lambda: log_softmax(np.float32)],
    "cannot build MeanVarianceNormalization": [lambda: mean_variance(np.float32)],
    "knows no float8 value": [lambda: filled(np.float16)],
    "has no way to hand bfloat16": [lambda: cast_strings(np.float16)],
    "fails where a MatMul": [lambda: multiplied(np.int32, 0), lambda: multiplied(np.uint32, 2)],
    "counts the windows": [lambda: pooled(3, 3, 1), lambda: pooled(2, 2, 1, "VALID")],
    "pads by less than nothing": [lambda: pooled(2, 3, 1), lambda: pooled(1, 3, 1, "VALID")],
    "averages over what lies beyond": [lambda: averaged_beyond(19)],
    "counts AveragePool's padding": [lambda: averaged([1, 0, 0, 0]), lambda: averaged([0, 0, 1, 0], 11)],
    "takes upper and lower case": [lambda: normalizer("UPPER", "C"), lambda: normalizer("NONE", "xx_YY.UTF-8")],
    "wants the system's locale even": [lambda: normalizer("NONE", "C", ("Ab",))],
}
