"""Small models to start from: every kind of thing that an ONNX file may hold."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnx.helper as oh
from onnx.numpy_helper import from_array

__all__ = ["Seed", "seeds"]

RNG = np.random.default_rng(11)


@dataclass(frozen=True)
class Seed:
    """A model, and the files that lie beside it."""

    name: str
    model: onnx.ModelProto
    files: dict[str, bytes] = field(default_factory=dict)


def floats(*shape: int) -> np.ndarray[Any, Any]:
    return RNG.normal(size=shape).astype(np.float32)


def text(graph: str, opset: int = 21, more: str = "") -> onnx.ModelProto:
    return onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : {opset}{more}]> {graph}')


def with_weights(model: onnx.ModelProto, **weights: np.ndarray[Any, Any]) -> onnx.ModelProto:
    model.graph.initializer.extend(from_array(value, name) for name, value in weights.items())
    return model


def mlp() -> onnx.ModelProto:
    graph = "g (float[N,16] x) => (float[N,8] y) { a = MatMul(x, w) b = Add(a, c) r = Relu(b) m = MatMul(r, v) y = Softmax<axis=-1>(m) }"
    return with_weights(text(graph), w=floats(16, 32), c=floats(32), v=floats(32, 8))


def convolutions() -> onnx.ModelProto:
    graph = """g (float[1,3,12,12] x) => (float[1,5] y) {
        a = Conv<kernel_shape=[3,3], pads=[1,1,1,1], strides=[2,2], dilations=[1,1], group=1>(x, w, b)
        n = BatchNormalization<epsilon=0.001>(a, s, o, m, v)
        p, at = MaxPool<kernel_shape=[2,2], strides=[1,1], ceil_mode=1>(n)
        q = AveragePool<kernel_shape=[2,2], count_include_pad=1, auto_pad="SAME_UPPER">(p)
        f = Flatten<axis=1>(q)
        y = Gemm<alpha=0.5, transB=1>(f, g, h) }"""
    weights = {"w": floats(4, 3, 3, 3), "b": floats(4), "s": floats(4), "o": floats(4), "m": floats(4), "v": abs(floats(4))}
    return with_weights(text(graph), **weights, g=floats(5, 100), h=floats(5))


def branches() -> onnx.ModelProto:
    graph = """g (bool flag, float[3] x) => (float[3] y, float[3] z) {
        y = If (flag) <then_branch = a () => (float[3] t) { t = Add(x, x) },
                       else_branch = b () => (float[3] e) {
                           i = If (flag) <then_branch = c () => (float[3] u) { u = Neg(x) },
                                          else_branch = d () => (float[3] v) { v = Abs(x) }>
                           e = Mul(i, x) }>
        z = Relu(y) }"""
    return text(graph)


def loops() -> onnx.ModelProto:
    graph = """g (int64 trips, bool go, float[2] x, float[4,2] rows) => (float[2] y, float[K,2] all, float[2] s, float[4,2] sums) {
        y, all = Loop (trips, go, x) <body = b (int64 i, bool c, float[2] v) => (bool c2, float[2] w, float[2] o) {
            c2 = Identity(c) w = Add(v, x) o = Mul(w, w) }>
        s, sums = Scan (x, rows) <num_scan_inputs = 1, body = p (float[2] a, float[2] r) => (float[2] a2, float[2] e) {
            a2 = Add(a, r) e = Identity(a2) }> }"""
    return text(graph)


def functions() -> onnx.ModelProto:
    source = """<ir_version: 10, opset_import: ["" : 21, "own" : 1]>
    g (float[4] x, float[4] z) => (float[4] y) { a = own.outer<slope = 0.2>(x, z) y = own.inner(a) }
    <domain: "own", opset_import: ["" : 21, "own" : 1]> outer <slope> (p, q) => (r) {
        s = own.inner(p) l = LeakyRelu<alpha : float = @slope>(s) r = Add(l, q) }
    <domain: "own", opset_import: ["" : 21]> inner (i) => (o) { t = Tanh(i) o = Mul(t, t) }"""
    return onnx.parser.parse_model(source)


def schema_functions() -> onnx.ModelProto:
    graph = """g (float[2,3] x, float[2,3] z) => (float[2,3] y, float[2,3] w, float[2,3] c, float loss) {
        a = Celu<alpha=0.3>(x) y = HardSwish(a) w = CastLike(x, z) c = Clip(x, lo, hi)
        loss = SoftmaxCrossEntropyLoss<reduction="mean">(x, labels) }"""
    return with_weights(text(graph), lo=np.float32(-1).reshape(()), hi=np.float32(1).reshape(()), labels=np.array([0, 2], np.int64))


def quantised() -> onnx.ModelProto:
    graph = """g (float[2,8] x) => (float[2,4] y, int32[2,4] n) {
        q = QuantizeLinear(x, xs, xz) m = QLinearMatMul(q, xs, xz, w, ws, wz, ys, yz) y = DequantizeLinear(m, ys, yz)
        d, ds, dz = DynamicQuantizeLinear(x) n = MatMulInteger(d, w, dz, wz) }"""
    scale, zero = np.float32(0.1).reshape(()), np.uint8(128).reshape(())
    weight = RNG.integers(0, 255, (8, 4)).astype(np.uint8)
    return with_weights(text(graph), xs=scale, xz=zero, w=weight, ws=scale, wz=zero, ys=scale, yz=zero)


def four_bits() -> onnx.ModelProto:
    graph = "g (float[2,16] x) => (float[2,4] y) { w = DequantizeLinear<axis=0, block_size=8>(q, s, z) y = MatMul(x, w) }"
    q = RNG.integers(-8, 7, (16, 4)).astype(ml_dtypes.int4)
    return with_weights(text(graph), q=q, s=abs(floats(2, 4)), z=np.zeros((2, 4), ml_dtypes.int4))


def sparse() -> onnx.ModelProto:
    model = text("g (float[4,6] x) => (float[4,6] y) { c = Constant() a = Add(x, w) y = Add(a, c) }")
    indices = from_array(np.array([0, 5, 17], np.int64), "w_indices")
    model.graph.sparse_initializer.append(oh.make_sparse_tensor(from_array(floats(3), "w"), indices, [4, 6]))
    pairs = from_array(np.array([[0, 1], [3, 5]], np.int64), "pairs")
    value = oh.make_attribute("sparse_value", oh.make_sparse_tensor(from_array(floats(2), "v"), pairs, [4, 6]))
    model.graph.node[0].attribute.append(value)
    return model


def external() -> Seed:
    model = with_weights(text("g (float[2,4] x) => (float[2,3] y) { m = MatMul(x, w) y = Add(m, b) }"), b=floats(3))
    weight = onnx.TensorProto(name="w", data_type=onnx.TensorProto.FLOAT, dims=[4, 3], data_location=onnx.TensorProto.EXTERNAL)
    for key, value in (("location", "weights.bin"), ("offset", "64"), ("length", "48")):
        weight.external_data.add(key=key, value=value)
    model.graph.initializer.append(weight)
    return Seed("external", model, {"weights.bin": bytes(64) + floats(4, 3).tobytes()})


def shapes() -> onnx.ModelProto:
    graph = """g (float[N,6] x) => (float[A,B] y, int64[R] r, float[C,D] t) {
        s = Shape(x) n = Gather<axis=0>(s, zero) u = Unsqueeze(n, axes) k = Concat<axis=0>(u, two, minus)
        a = Reshape(x, k) b = Transpose<perm=[1,0,2]>(a) y = ReduceMean<keepdims=0>(b, axes)
        r = Range(start, n, step) e = Expand(x, pair) t = Tile(e, pair)
        z = ConstantOfShape<value = int64[1] {3}>(pair) }"""
    return with_weights(
        text(graph),
        zero=np.array(0),
        axes=np.array([0]),
        two=np.array([2]),
        minus=np.array([-1]),
        pair=np.array([1, 1]),
        start=np.array(0),
        step=np.array(1),
    )


def indices() -> onnx.ModelProto:
    graph = """g (float[4,5] x, int64[2,1] i) => (float[2,5] g, float[4,3] v, float[4,5] s, int64[2,K] nz, float[4,5] p, float[4,2] c) {
        g = GatherND(x, i) v, at = TopK<axis=1>(x, k) s = ScatterElements<axis=1>(x, at, v) nz = NonZero(x)
        o = OneHot<axis=-1>(i, depth, onoff) c = Slice(x, st, en, ax) q = CumSum(x, axis) p = Einsum<equation="ij,ij->ij">(q, s)
        l = Compress<axis=0>(x, keep) h, w = Split<axis=0, num_outputs=2>(x) d = GatherElements<axis=0>(x, at) }"""
    return with_weights(
        text(graph),
        k=np.array([3]),
        depth=np.array(4),
        onoff=np.array([0, 1], np.float32),
        st=np.array([0]),
        en=np.array([2]),
        ax=np.array([1]),
        axis=np.array(1),
        keep=np.array([1, 0, 1, 1], bool),
    )


def sequences() -> onnx.ModelProto:
    graph = """g (seq(float[K]) s, float[2] x, optional(float[2]) o) => (seq(float[K]) t, float[J] y, bool has, int64 n) {
        t = SequenceInsert(s, x) y = ConcatFromSequence<axis=0>(t) has = OptionalHasElement(o) n = SequenceLength(t)
        e = SequenceEmpty<dtype=1>() f = SequenceConstruct(x, x) a = SequenceAt(f, one) }"""
    return with_weights(text(graph), one=np.array(1))


def strings() -> onnx.ModelProto:
    graph = """g (string[3] words) => (string[K] y, int64[3] codes, string[3,M] parts) {
        y = StringNormalizer<case_change_action="LOWER", stopwords=["a"], locale="C">(words)
        codes = ai.onnx.ml.LabelEncoder<keys_strings=["a","b"], values_int64s=[1,2], default_int64=-1>(words)
        parts, counts = StringSplit<delimiter=" ">(words)
        j = StringConcat(words, words) r = RegexFullMatch<pattern="a.*">(words) }"""
    return text(graph, more=', "ai.onnx.ml" : 3')


def trees() -> onnx.ModelProto:
    tree = {
        "nodes_treeids": [0, 0, 0],
        "nodes_nodeids": [0, 1, 2],
        "nodes_featureids": [1, 0, 0],
        "nodes_values": [0.5, 0.0, 0.0],
        "nodes_modes": ["BRANCH_LEQ", "LEAF", "LEAF"],
        "nodes_truenodeids": [1, 0, 0],
        "nodes_falsenodeids": [2, 0, 0],
        "nodes_missing_value_tracks_true": [0, 0, 0],
        "target_treeids": [0, 0],
        "target_nodeids": [1, 2],
        "target_ids": [0, 0],
        "target_weights": [1.0, 2.0],
        "n_targets": 1,
    }
    nodes = [
        oh.make_node("TreeEnsembleRegressor", ["x"], ["y"], domain="ai.onnx.ml", **tree),
        oh.make_node("Scaler", ["x"], ["z"], domain="ai.onnx.ml", offset=[1.0, 2.0, 3.0], scale=[1.0, 1.0, 2.0]),
        oh.make_node("LinearRegressor", ["x"], ["l"], domain="ai.onnx.ml", coefficients=[1.0, 2.0, 3.0], intercepts=[0.5]),
        oh.make_node("Normalizer", ["x"], ["n"], domain="ai.onnx.ml", norm="L2"),
    ]
    info = oh.make_tensor_value_info
    kinds = {"y": [None, 1], "z": [None, 3], "l": [None, 1], "n": [None, 3]}
    outputs = [info(name, onnx.TensorProto.FLOAT, shape) for name, shape in kinds.items()]
    graph = oh.make_graph(nodes, "trees", [info("x", onnx.TensorProto.FLOAT, [None, 3])], outputs)
    imports = [oh.make_opsetid("", 21), oh.make_opsetid("ai.onnx.ml", 3)]
    return oh.make_model(graph, ir_version=10, opset_imports=imports)


def recurrent() -> onnx.ModelProto:
    graph = """g (float[3,2,4] x, float[1,1,4,4] i) => (float[3,1,2,5] y, float[1,2,5] h, float[1,1,8,8] r, float[1,1,4,4] n) {
        y, h, c = LSTM<hidden_size=5, direction="forward">(x, w, u, b)
        r = Resize<mode="linear", coordinate_transformation_mode="half_pixel">(i, "", s)
        n = GridSample<mode="linear", padding_mode="zeros">(i, grid) l = LRN<size=3>(i) d = DepthToSpace<blocksize=1>(i) }"""
    weights = {"w": floats(1, 20, 4), "u": floats(1, 20, 5), "b": floats(1, 40)}
    return with_weights(text(graph), **weights, s=np.array([1, 1, 2, 2], np.float32), grid=floats(1, 4, 4, 2))


def attention() -> onnx.ModelProto:
    graph = """g (float[1,4,16] x, float[1,2,4,8] q) => (float[1,4,16] y, float[1,2,4,8] a, float[1,4,16] n) {
        f = LayerNormalization<axis=-1>(x, s, b) n = RMSNormalization<axis=-1>(f, s) y = Gelu<approximate="tanh">(n)
        a = Attention<is_causal=1>(q, q, q) }"""
    return with_weights(text(graph, opset=23), s=floats(16), b=floats(16))


def contributed() -> onnx.ModelProto:
    graph = """g (float[2,32] x, float[1,3,16] e) => (float[2,8] y, float[1,3,16] z, float[2,32] n) {
        y = com.microsoft.MatMulNBits<K=32, N=8, bits=4, block_size=32>(x, b, s)
        z = com.microsoft.SkipLayerNormalization<epsilon=0.001>(e, e, g, h)
        n = com.microsoft.QuickGelu<alpha=1.0>(x) }"""
    model = text(graph, more=', "com.microsoft" : 1')
    packed = RNG.integers(0, 255, (8, 1, 16)).astype(np.uint8)
    return with_weights(model, b=packed, s=floats(8, 1), g=floats(16), h=floats(16))


def kinds() -> onnx.ModelProto:
    graph = """g (bfloat16[4] a, float16[4] b, double[4] c, int8[4] d, uint64[4] e)
        => (bfloat16[4] v, float[4] w, double[4] x, int64[4] y) {
        v = Add(a, a) w = Cast<to=1>(b) x = Sqrt(c) y = Cast<to=7>(d) m = Mod(e, e) s = BitShift<direction="LEFT">(e, e) }"""
    return text(graph)


MAKERS: tuple[Callable[[], onnx.ModelProto | Seed], ...] = (
    mlp, convolutions, branches, loops, functions, schema_functions, quantised, four_bits, sparse, external, shapes, indices,
    sequences, strings, trees, recurrent, attention, contributed, kinds,
)  # fmt: skip


def seeds() -> list[Seed]:
    made = ((maker.__name__, maker()) for maker in MAKERS)
    return [model if isinstance(model, Seed) else Seed(name, model) for name, model in made]
