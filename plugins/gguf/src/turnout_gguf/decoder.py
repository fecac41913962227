"""A decoder as an operator graph: ONNX's own operators, and com.microsoft's for quantised matrices.

    input_ids int64 [batch, tokens]  ->  logits float32 [batch, tokens, vocabulary]

Without a cache every run computes all of its tokens. With one there are more inputs and outputs, and a run adds its tokens to it:

    past_tokens int64 [batch]                                       tokens that the cache holds
    past_key.N, past_value.N        float32 [batch, key heads, cache, head]   of block N; `cache` is as long as whoever runs it likes
    present_key.N, present_value.N  the same with this run's tokens; may be the very memory of past_key.N and past_value.N
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from turnout.graph import ir
from turnout_gguf.architectures import ARCHITECTURES, Sizes, known, sizes_of
from turnout_gguf.blocks import dequantise
from turnout_gguf.reader import Gguf, Tensor
from turnout_gguf.weights import DENSE, Weights

__all__ = ["OPSETS", "decoder"]

OPSETS = {"": 23, "com.microsoft": 1}
_CACHE_OPSET = 24  # TensorScatter, and Attention over a cache that is not full
_MICROSOFT = "com.microsoft"
_IR_VERSION = 11  # the first with operator set 23

Dims = Sequence[int | str]
BATCH_TOKENS = ("batch", "tokens")
_AT_ONCE = 4096  # positions of which the rotary angles are computed at a time, in float64


def decoder(file: Gguf, *, exact: bool, cache: bool = False) -> ir.Model:
    """The graph of a file. Raises InvalidModel.

    exact: products compute in float32 throughout; else a runtime may round the activations to 8 bits, which is several times quicker.
    """
    return _Decoder(file, exact, cache).build()


class _Decoder:
    """Adds nodes in order. A method takes values and gives the value it adds last."""

    def __init__(self, file: Gguf, exact: bool, cache: bool) -> None:
        self.architecture = ARCHITECTURES[name := known(file.metadata, file.name)]
        self.sizes: Sizes = sizes_of(file, name)
        self.weights = Weights(file)
        self.stretches = None
        if self.weights.has("rope_freqs.weight"):  # Llama 3 stretches each frequency of its rotary positions by a factor of its own
            self.stretches = self.weights.tensor("rope_freqs.weight", (self.sizes.turned // 2,))
        self.level = 0 if exact else 4
        self.opsets = {**OPSETS, "": _CACHE_OPSET} if cache else OPSETS
        self.past = _input("past_tokens", ir.DataType.INT64, ("batch",)) if cache else None
        self.lengths: ir.Value | None = None
        self.caches: list[tuple[ir.Value, ir.Value]] = []
        self.nodes: list[ir.Node] = []
        self.sums: dict[tuple[ir.Value, int], ir.Value] = {}

    def build(self) -> ir.Model:
        ids = _input("input_ids", ir.DataType.INT64, BATCH_TOKENS)
        table = self.weights.tensor("token_embd.weight", (self.weights.rows("token_embd.weight"), self.sizes.width))
        stream = self.embedding(table, ids)
        positions = self.positions(ids)
        for number in range(self.sizes.blocks):
            stream = self.block(f"blk.{number}", stream, positions)
        stream = self.norm("output_norm", stream)
        if self.weights.has("output.weight"):
            table = self.weights.tensor("output.weight", table.shape)
        logits = self.product(table, stream, "logits")
        self.weights.check_all_used()
        initializers, name = list(self.weights.initializers.values()), self.weights.file.name
        inputs = [ids, *([] if self.past is None else [self.past]), *(past for past, _ in self.caches)]
        outputs = [logits, *(present for _, present in self.caches)]
        graph = ir.Graph(inputs, outputs, nodes=self.nodes, initializers=initializers, opset_imports=dict(self.opsets), name=name)
        return ir.Model(graph, ir_version=_IR_VERSION, producer_name="turnout-gguf")

    # the parts of a decoder

    def embedding(self, table: Tensor, ids: ir.Value) -> ir.Value:
        """Rows of the table, float32 [batch, tokens, width]."""
        shape = (*BATCH_TOKENS, self.sizes.width)
        if table.type.name in DENSE:
            rows = self.add("Gather", [self.weights.dense(table, transposed=False), ids], shape, "embedding.rows", DENSE[table.type.name])
            return self.as_float(rows)
        matrix = self.weights.matrix(table)
        form = matrix.form
        blocks, width = form.blocks(self.sizes.width), self.sizes.width
        values = self.weights.add(
            f"{table.name}.rows",
            ir.DataType.UINT8,
            (table.shape[0], width * form.bits // 8),
            lambda: matrix.packed.values.reshape(table.shape[0], -1),
        )
        how = {"bits": form.bits, "block_size": form.block, "gather_axis": 0, "quantize_axis": 1}
        rows = self.microsoft("GatherBlockQuantized", [values, ids, *self.scales(table)], shape, "embedding.rows", **how)
        if not form.has_offsets:
            return rows
        offsets = self.add("Gather", [self.offsets(table, transposed=False), ids], (*BATCH_TOKENS, blocks), "embedding.offsets")
        offsets = self.add("Unsqueeze", [offsets, self.ints("last_axis", -1)], (*BATCH_TOKENS, blocks, 1), "embedding.offsets.wide")
        apart = self.split_last(rows, blocks, form.block)
        whole = self.add("Add", [apart, offsets], (*BATCH_TOKENS, blocks, form.block), "embedding.whole")
        return self.join_last(whole, width, "embedding")

    def positions(self, ids: ir.Value) -> ir.Value:
        """0, 1, 2 ... for each token, after those in the cache: int64 [batch, tokens]."""
        int64 = ir.DataType.INT64
        shape = self.add("Shape", [ids], (2,), "ids.shape", int64)
        tokens = self.add("Shape", [ids], (1,), "ids.tokens", int64, start=1, end=2)
        count = self.add("Squeeze", [tokens], (), "ids.count", int64)
        zero, one = (self.constant(f"number.{number}", np.array(number, np.int64)) for number in (0, 1))
        row = self.add("Range", [zero, count, one], ("tokens",), "positions.row", int64)
        if self.past is not None:
            self.lengths = self.add("Add", [self.past, count], ("batch",), "cache.lengths", int64)
            first = self.add("Unsqueeze", [self.past, self.ints("last_axis", -1)], ("batch", 1), "positions.first", int64)
            return self.add("Add", [first, row], BATCH_TOKENS, "positions", int64)
        return self.add("Expand", [row, shape], BATCH_TOKENS, "positions", int64)

    def block(self, name: str, stream: ir.Value, positions: ir.Value) -> ir.Value:
        """One block: attention, then feed-forward, each added to the stream."""
        shape = (*BATCH_TOKENS, self.sizes.width)
        attended = self.attention(name, self.norm(f"{name}.attn_norm", stream), positions)
        stream = self.add("Add", [stream, attended], shape, f"{name}.attended")
        fed = self.feed_forward(name, self.norm(f"{name}.ffn_norm", stream))
        return self.add("Add", [stream, fed], shape, name)

    def attention(self, name: str, x: ir.Value, positions: ir.Value) -> ir.Value:
        sizes = self.sizes
        queries = self.turn(self.heads(f"{name}.attn_q", x, sizes.heads), sizes.heads, positions)
        keys = self.turn(self.heads(f"{name}.attn_k", x, sizes.key_heads), sizes.key_heads, positions)
        values = self.heads(f"{name}.attn_v", x, sizes.key_heads)
        if self.past is not None:
            seen = self.attend_to_cache(name, queries, keys, values)
        else:
            shape = (*BATCH_TOKENS, sizes.heads * sizes.head)
            how: dict[str, Any] = {"is_causal": 1, "q_num_heads": sizes.heads, "kv_num_heads": sizes.key_heads}
            seen = self.add("Attention", [queries, keys, values], shape, f"{name}.seen", **how)
        return self.linear(f"{name}.attn_output", seen, sizes.width)

    def attend_to_cache(self, name: str, queries: ir.Value, keys: ir.Value, values: ir.Value) -> ir.Value:
        """Attention over all tokens so far, of which this run's are written into the cache first."""
        sizes = self.sizes
        queries = self.heads_first(queries, sizes.heads)
        keys, values = self.remember("key", keys), self.remember("value", values)
        shape = ("batch", sizes.heads, "tokens", sizes.head)
        seen = self.add("Attention", [queries, keys, values, None, None, None, self.lengths], shape, f"{name}.seen.apart", is_causal=1)
        seen = self.add("Transpose", [seen], (*BATCH_TOKENS, sizes.heads, sizes.head), f"{name}.seen.tokens", perm=[0, 2, 1, 3])
        return self.join_last(seen, sizes.heads * sizes.head, f"{name}.seen")

    def remember(self, which: str, x: ir.Value) -> ir.Value:
        """The next block's cache of keys or values with this run's in it, float32 [batch, key heads, cache, head]."""
        shape = ("batch", self.sizes.key_heads, "cache", self.sizes.head)
        number = len(self.caches) // 2
        past = _input(f"past_{which}.{number}", ir.DataType.FLOAT, shape)
        present = self.add(
            "TensorScatter", [past, self.heads_first(x, self.sizes.key_heads), self.past], shape, f"present_{which}.{number}"
        )
        self.caches.append((past, present))
        return present

    def heads_first(self, x: ir.Value, count: int) -> ir.Value:
        """[batch, tokens, heads * head] to [batch, heads, tokens, head]."""
        apart = self.split_last(x, count, self.sizes.head)
        return self.add("Transpose", [apart], ("batch", count, "tokens", self.sizes.head), f"{x.name}.heads", perm=[0, 2, 1, 3])

    def heads(self, name: str, x: ir.Value, count: int) -> ir.Value:
        """Queries, keys or values: float32 [batch, tokens, heads * head], each head normed where the architecture does so."""
        size, width = self.sizes.head, count * self.sizes.head
        projected = self.linear(name, x, width)
        if not self._optional(name, "_norm.weight"):
            return projected
        apart = self.split_last(projected, count, size)
        normed = self.norm(f"{name}_norm", apart, (*BATCH_TOKENS, count, size))
        return self.join_last(normed, width, f"{name}_norm.joined")

    def turn(self, x: ir.Value, heads: int, positions: ir.Value) -> ir.Value:
        """Rotary positions."""
        shape = (self.sizes.context, self.sizes.turned // 2)
        tables = [
            self.weights.add("rotary.cosines", ir.DataType.FLOAT, shape, lambda: self.table(np.cos)),
            self.weights.add("rotary.sines", ir.DataType.FLOAT, shape, lambda: self.table(np.sin)),
        ]
        part = 0 if self.sizes.turned == self.sizes.head else self.sizes.turned
        how: dict[str, Any] = {"interleaved": int(self.architecture.neighbours), "num_heads": heads, "rotary_embedding_dim": part}
        return self.add("RotaryEmbedding", [x, *tables, positions], (*BATCH_TOKENS, heads * self.sizes.head), f"{x.name}.turned", **how)

    def table(self, of: Callable[..., Any]) -> NDArray[np.float32]:
        """The cosines or sines of how far each pair of elements is turned at each position, float32 [context, pairs]."""
        frequencies = self.frequencies()
        table = np.empty((self.sizes.context, len(frequencies)), np.float32)
        for start in range(0, len(table), _AT_ONCE):
            rows = np.arange(start, min(start + _AT_ONCE, len(table)))
            table[rows] = of(np.outer(rows, frequencies))
        return table

    def frequencies(self) -> NDArray[np.float64]:
        """Radians from one position to the next, [pairs]."""
        pairs = self.sizes.turned // 2
        frequencies: NDArray[np.float64] = self.sizes.base ** (-np.arange(pairs) / pairs) / self.sizes.stretch
        if self.stretches is not None:
            with np.errstate(all="ignore"):  # a factor of 0 gives what it gives
                frequencies = frequencies / dequantise(self.weights.file.raw(self.stretches), self.stretches.type)[0]
        return frequencies

    def feed_forward(self, name: str, x: ir.Value) -> ir.Value:
        hidden = self.weights.rows(f"{name}.ffn_up.weight")
        shape = (*BATCH_TOKENS, hidden)
        gate = self.linear(f"{name}.ffn_gate", x, hidden)
        sigmoid = self.add("Sigmoid", [gate], shape, f"{name}.ffn_gate.sigmoid")
        gate = self.add("Mul", [gate, sigmoid], shape, f"{name}.ffn_gate.silu")
        gated = self.add("Mul", [gate, self.linear(f"{name}.ffn_up", x, hidden)], shape, f"{name}.ffn_gated")
        return self.linear(f"{name}.ffn_down", gated, self.sizes.width)

    def norm(self, name: str, x: ir.Value, shape: Dims | None = None) -> ir.Value:
        """RMS norm over the last axis."""
        shape = shape or (*BATCH_TOKENS, self.sizes.width)
        weight = self.weights.vector(f"{name}.weight", int(shape[-1]))
        return self.add("RMSNormalization", [x, weight], shape, name, axis=-1, epsilon=self.sizes.epsilon)

    # matrices

    def linear(self, name: str, x: ir.Value, size: int) -> ir.Value:
        """A product with a matrix of the file, and its bias where the architecture may have one."""
        columns = int(x.shape[-1])  # type: ignore[index, arg-type] # this graph's own values have static last axes
        y = self.product(self.weights.tensor(f"{name}.weight", (size, columns)), x, name)
        if not self._optional(name, ".bias"):
            return y
        return self.add("Add", [y, self.weights.vector(f"{name}.bias", size)], (*BATCH_TOKENS, size), f"{name}.biased")

    def _optional(self, name: str, ending: str) -> bool:
        """Whether the architecture may have this tensor of a block, and the file has it."""
        within = name.split(".", 2)[2] + ending
        return within in self.architecture.optional and self.weights.has(name + ending)

    def product(self, tensor: Tensor, x: ir.Value, name: str) -> ir.Value:
        """x @ matrix.T, float32 [batch, tokens, rows of the matrix]."""
        rows, columns = tensor.shape
        shape = (*BATCH_TOKENS, rows)
        if tensor.type.name in DENSE:
            return self.add("MatMul", [x, self.as_float(self.weights.dense(tensor, transposed=True))], shape, name)
        matrix = self.weights.matrix(tensor)
        form = matrix.form
        blocks = form.blocks(columns)
        values = self.weights.add(
            f"{tensor.name}.values", ir.DataType.UINT8, (rows, blocks, form.block * form.bits // 8), lambda: matrix.packed.values
        )
        how = {"K": columns, "N": rows, "bits": form.bits, "block_size": form.block, "accuracy_level": self.level}
        label = f"{name}.centred" if form.has_offsets else name
        y = self.microsoft("MatMulNBits", [x, values, *self.scales(tensor)], shape, label, **how)
        if not form.has_offsets:
            return y
        sums = self.block_sums(x, blocks, form.block)
        offset = self.add("MatMul", [sums, self.offsets(tensor, transposed=True)], shape, f"{name}.offset")
        return self.add("Add", [y, offset], shape, name)

    def block_sums(self, x: ir.Value, blocks: int, size: int) -> ir.Value:
        """Sums of x over blocks, [batch, tokens, blocks]; every matrix that x meets shares them."""
        if (x, size) not in self.sums:
            apart = self.split_last(x, blocks, size)
            axis = self.ints("last_axis", -1)
            self.sums[x, size] = self.add("ReduceSum", [apart, axis], (*BATCH_TOKENS, blocks), f"{x.name}.sums{size}", keepdims=0)
        return self.sums[x, size]

    def scales(self, tensor: Tensor) -> list[ir.Value]:
        """Scales and zero points of a quantised matrix."""
        matrix, (rows, columns) = self.weights.matrix(tensor), tensor.shape
        blocks, nbytes = matrix.form.blocks(columns), matrix.form.zero_bytes(columns)
        return [
            self.weights.add(f"{tensor.name}.scales", ir.DataType.FLOAT, (rows, blocks), lambda: matrix.packed.scales),
            self.weights.add(f"{tensor.name}.zeros", ir.DataType.UINT8, (rows, nbytes), lambda: matrix.packed.zero_points),
        ]

    def offsets(self, tensor: Tensor, *, transposed: bool) -> ir.Value:
        matrix, (rows, columns) = self.weights.matrix(tensor), tensor.shape
        blocks = matrix.form.blocks(columns)

        def made() -> NDArray[Any]:
            offsets = matrix.packed.offsets
            assert offsets is not None
            return offsets.T if transposed else offsets

        name = f"{tensor.name}.offsets" + (".transposed" if transposed else "")
        return self.weights.add(name, ir.DataType.FLOAT, (blocks, rows) if transposed else (rows, blocks), made)

    # nodes

    def split_last(self, x: ir.Value, count: int, size: int) -> ir.Value:
        """[batch, tokens, count * size] to [batch, tokens, count, size]."""
        return self.add("Reshape", [x, self.ints("apart", 0, 0, count, size)], (*BATCH_TOKENS, count, size), f"{x.name}.apart{size}")

    def join_last(self, x: ir.Value, width: int, name: str) -> ir.Value:
        """[batch, tokens, count, size] to [batch, tokens, count * size]."""
        return self.add("Reshape", [x, self.ints("joined", 0, 0, width)], (*BATCH_TOKENS, width), name)

    def as_float(self, x: ir.Value) -> ir.Value:
        if x.dtype == ir.DataType.FLOAT:
            return x
        return self.add("Cast", [x], tuple(x.shape or ()), f"{x.name}.float32", to=int(ir.DataType.FLOAT))

    def ints(self, name: str, *numbers: int) -> ir.Value:
        return self.constant(f"{name}.{'.'.join(map(str, numbers))}", np.array(numbers, np.int64))

    def constant(self, name: str, array: NDArray[np.int64]) -> ir.Value:
        return self.weights.add(name, ir.DataType.INT64, array.shape, lambda: array)

    def microsoft(self, operator: str, inputs: Sequence[ir.Value], shape: Dims, name: str, **attributes: Any) -> ir.Value:
        return self._node(_MICROSOFT, operator, inputs, shape, name, ir.DataType.FLOAT, attributes)

    def add(
        self,
        operator: str,
        inputs: Sequence[ir.Value | None],
        shape: Sequence[Any],
        name: str,
        dtype: ir.DataType = ir.DataType.FLOAT,
        **attributes: Any,
    ) -> ir.Value:
        return self._node("", operator, inputs, shape, name, dtype, attributes)

    def _node(
        self,
        domain: str,
        operator: str,
        inputs: Sequence[ir.Value | None],
        shape: Sequence[Any],
        name: str,
        dtype: ir.DataType,
        attributes: dict[str, Any],
    ) -> ir.Value:
        output = ir.Value(name=name, type=ir.TensorType(dtype), shape=ir.Shape(shape))
        node = ir.node(operator, list(inputs), attributes, domain=domain, outputs=[output], version=self.opsets[domain], name=name)
        self.nodes.append(node)
        return output


def _input(name: str, dtype: ir.DataType, shape: Dims) -> ir.Value:
    return ir.Value(name=name, type=ir.TensorType(dtype), shape=ir.Shape(shape))
