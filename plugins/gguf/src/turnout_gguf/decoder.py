"""A decoder as an operator graph that adds tokens to a cache of keys and values.

    input_ids      int64 [batch, tokens]    the tokens of this run
    past_tokens    int64 [batch]            how many tokens the cache holds
    wanted_tokens  int64 [wanted]           which of this run's tokens want logits, 0 to tokens - 1; one at least, the
                            same for each row of a batch
    past_key.N, past_value.N        float32 [batch, key heads, cache, head]   of block N; `cache` is as long as whoever runs it likes

    logits         float32 [batch, wanted, vocabulary]
    present_key.N, present_value.N  the cache with this run's tokens; declared to lie in the memory of past_key.N and past_value.N

A run without past is one whose past_tokens are 0: what lies in the cache beyond its tokens is never looked at. `batch` is 1 unless the
format is asked for another: kernels with a cache in place take portions of a text for one text at a time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from turnout.graph import declare_alias, ir
from turnout_gguf.architectures import ARCHITECTURES, Keys, known, sizes_of
from turnout_gguf.layers import LEVELS, Layers, graph_input
from turnout_gguf.reader import Gguf
from turnout_gguf.rotary import Rotary, local_rotary, rotary
from turnout_gguf.weights import Weights

__all__ = ["decoder"]


def decoder(file: Gguf, weights: Weights, accuracy: str, *, batch: int | None = 1) -> ir.Model:
    """The graph of a file. Raises InvalidModel.

    accuracy: of its products, one of LEVELS. batch: None for any number of rows.
    """
    return _Decoder(file, weights, accuracy, "batch" if batch is None else batch).build()


class _Decoder(Layers):
    def __init__(self, file: Gguf, weights: Weights, accuracy: str, batch: int | str) -> None:
        super().__init__(weights, (batch, "tokens"), accuracy)
        name = known(file.metadata, file.name)
        self.architecture = ARCHITECTURES[name]
        self.sizes = sizes_of(file, name)
        self.rotary = rotary(weights, Keys(file, name), self.sizes)
        self.batch = batch
        self.past = graph_input("past_tokens", ir.DataType.INT64, (batch,))
        self.caches: list[tuple[ir.Value, ir.Value]] = []
        self.window_mask: ir.Value | None = None

    def build(self) -> ir.Model:
        ids = graph_input("input_ids", ir.DataType.INT64, self.dims)
        wanted = graph_input("wanted_tokens", ir.DataType.INT64, ("wanted",))
        width = self.sizes.width
        table = self.weights.tensor("token_embd.weight", (self.weights.rows("token_embd.weight"), width))
        stream = self.embedding(table, ids)
        if self.architecture.scaled_embedding:
            stream = self.add("Mul", [stream, self.scalar("embedding.scale", width**0.5)], (*self.dims, width), "embedding.scaled")
        self.count_positions(ids)
        for number in range(self.sizes.blocks):
            stream = self.attended(number, stream)
            if number == self.sizes.blocks - 1:
                stream = self.only(wanted, stream)
            stream = self.fed(number, stream)
        stream = self.norm("output_norm", stream, self.sizes.epsilon)
        if self.weights.has("output.weight"):
            table = self.weights.tensor("output.weight", table.shape)
        name = "logits.uncapped" if self.sizes.logit_cap else "logits"
        logits = self.capped(self.product([table], stream, name), self.sizes.logit_cap, "logits")
        inputs = [ids, self.past, wanted, *(past for past, _ in self.caches)]
        return self.model(inputs, [logits, *(present for _, present in self.caches)])

    def capped(self, x: ir.Value, cap: float, name: str) -> ir.Value:
        """cap * tanh(x / cap), where there is a cap."""
        if not cap:
            return x
        shape, bound = tuple(x.shape or ()), self.scalar(f"{name}.cap", cap)
        x = self.add("Div", [x, bound], shape, f"{name}.scaled")
        x = self.add("Tanh", [x], shape, f"{name}.bent")
        return self.add("Mul", [x, bound], shape, name)

    def count_positions(self, ids: ir.Value) -> None:
        """The tokens' positions in their text, int64 [batch, tokens], and how many tokens the cache will then hold, int64 [batch]."""
        int64 = ir.DataType.INT64
        tokens = self.add("Shape", [ids], (1,), "ids.tokens", int64, start=1, end=2)
        count = self.add("Squeeze", [tokens], (), "ids.count", int64)
        row = self.add("Range", [self.number(0), count, self.number(1)], ("tokens",), "positions.row", int64)
        self.lengths = self.add("Add", [self.past, count], (self.batch,), "cache.lengths", int64)
        first = self.add("Unsqueeze", [self.past, self.ints("last_axis", -1)], (self.batch, 1), "positions.first", int64)
        self.positions = self.add("Add", [first, row], self.dims, "positions", int64)
        self.table_rows = self.positions
        if self.rotary.original:  # texts longer than that have rows of their own, after those of shorter texts
            longest = self.add("ReduceMax", [self.lengths], (), "cache.longest", int64, keepdims=0)
            is_long = self.add("Greater", [longest, self.number(self.rotary.original)], (), "text.is_long", ir.DataType.BOOL)
            shift = self.add("Cast", [is_long], (), "text.long", int64, to=int(int64))
            shift = self.add("Mul", [shift, self.number(self.rotary.original)], (), "rotary.shift", int64)
            self.table_rows = self.add("Add", [self.positions, shift], self.dims, "rotary.rows", int64)

    def attended(self, number: int, stream: ir.Value) -> ir.Value:
        """The first half of a block: attention, added to the stream."""
        name, epsilon = f"blk.{number}", self.sizes.epsilon
        attended = self.attention(number, self.norm(f"{name}.attn_norm", stream, epsilon))
        if self.architecture.norms_after:
            attended = self.norm(f"{name}.post_attention_norm", attended, epsilon)
        return self.add("Add", [stream, attended], (*self.dims, self.sizes.width), f"{name}.attended")

    def only(self, wanted: ir.Value, stream: ir.Value) -> ir.Value:
        """The stream of the tokens whose logits are wanted: no other token looks at what the last block computes after its attention.

        No later block evens out what is lost from here on, and the rows are few: products are more exact.
        """
        self.dims = (self.batch, "wanted")
        self.level = min(self.level, LEVELS["near"])
        return self.add("Gather", [stream, wanted], (*self.dims, self.sizes.width), "wanted", axis=1)

    def fed(self, number: int, stream: ir.Value) -> ir.Value:
        """The second half of a block: feed-forward, added to the stream."""
        name, epsilon = f"blk.{number}", self.sizes.epsilon
        fed = self.feed_forward(name, self.norm(f"{name}.ffn_norm", stream, epsilon))
        if self.architecture.norms_after:
            fed = self.norm(f"{name}.post_ffw_norm", fed, epsilon)
        return self.add("Add", [stream, fed], (*self.dims, self.sizes.width), name)

    def attention(self, number: int, x: ir.Value) -> ir.Value:
        sizes, name = self.sizes, f"blk.{number}"
        windowed = sizes.window > 0 and (self.architecture.period == 0 or (number + 1) % self.architecture.period > 0)
        local = self.architecture.local_base if windowed else None
        turning = self.rotary if local is None else local_rotary(sizes, local)
        queries, keys, values = self.projections(name, x)
        queries = self.turn(self.normed_heads(f"{name}.attn_q", queries, sizes.heads), sizes.heads, turning)
        keys = self.turn(self.normed_heads(f"{name}.attn_k", keys, sizes.key_heads), sizes.key_heads, turning)
        seen = self.attend(name, queries, keys, values, windowed=windowed)
        return self.linear(f"{name}.attn_output", seen, sizes.width, bias=self.optional(f"{name}.attn_output.bias"))

    def projections(self, name: str, x: ir.Value) -> list[ir.Value]:
        """Queries, keys and values, [batch, tokens, heads * head] each."""
        rows = [count * self.sizes.head for count in (self.sizes.heads, self.sizes.key_heads, self.sizes.key_heads)]
        parts = [f"{name}.attn_qkv"] if self.architecture.joined else [f"{name}.attn_{which}" for which in "qkv"]
        return self.linears(f"{name}.attn_qkv", parts, x, rows, [part for part in parts if self.optional(f"{part}.bias")])

    def normed_heads(self, name: str, x: ir.Value, count: int) -> ir.Value:
        """Each head normed, where the file does so."""
        if not self.optional(f"{name}_norm.weight"):
            return x
        apart = self.split_last(x, count, self.sizes.head)
        return self.join_last(self.norm(f"{name}_norm", apart, self.sizes.epsilon), count * self.sizes.head, f"{name}_norm.joined")

    def turn(self, x: ir.Value, heads: int, by: Rotary) -> ir.Value:
        """Rotary positions."""
        tables = [
            self.table(by, "cosines", np.cos),
            self.table(by, "sines", np.sin),
        ]
        rows = self.table_rows if by.original else self.positions
        part = 0 if self.sizes.turned == self.sizes.head else self.sizes.turned
        how: dict[str, Any] = {"interleaved": int(self.architecture.neighbours), "num_heads": heads, "rotary_embedding_dim": part}
        return self.add("RotaryEmbedding", [x, *tables, rows], (*self.dims, heads * self.sizes.head), f"{x.name}.turned", **how)

    def table(self, by: Rotary, part: str, of: Callable[..., Any]) -> ir.Value:
        name = f"{by.name}.{part}"
        return self.weights.add(name, ir.DataType.FLOAT, by.shape, lambda: by.table(of), stored=name)

    def attend(self, name: str, queries: ir.Value, keys: ir.Value, values: ir.Value, *, windowed: bool) -> ir.Value:
        """Attention over all tokens so far, of which this run's are written into the cache first."""
        sizes = self.sizes
        queries = self.heads_first(queries, sizes.heads)
        keys, values = self.remember("key", keys), self.remember("value", values)
        shape = (self.batch, sizes.heads, "tokens", sizes.head)
        how: dict[str, Any] = {"is_causal": 1}
        if sizes.score_scale is not None:
            how["scale"] = sizes.score_scale
        if sizes.score_cap:
            how["softcap"] = sizes.score_cap
        mask = self.mask(self.caches[0][0]) if windowed else None
        seen = self.add("Attention", [queries, keys, values, mask, None, None, self.lengths], shape, f"{name}.seen.apart", **how)
        seen = self.add("Transpose", [seen], (*self.dims, sizes.heads, sizes.head), f"{name}.seen.tokens", perm=[0, 2, 1, 3])
        return self.join_last(seen, sizes.heads * sizes.head, f"{name}.seen")

    def mask(self, cache: ir.Value) -> ir.Value:
        """Which tokens of the cache a token sees, as far as the window goes: bool [batch, 1, tokens, cache]."""
        if self.window_mask is None:
            int64, boolean = ir.DataType.INT64, ir.DataType.BOOL
            length = self.add("Shape", [cache], (1,), "cache.shape", int64, start=2, end=3)
            length = self.add("Squeeze", [length], (), "cache.length", int64)
            places = self.add("Range", [self.number(0), length, self.number(1)], ("cache",), "cache.places", int64)
            before = self.add("Sub", [self.positions, self.number(self.sizes.window)], self.dims, "window.before", int64)
            before = self.add("Unsqueeze", [before, self.ints("axes", 1, 3)], (self.batch, 1, "tokens", 1), "window.before.wide", int64)
            self.window_mask = self.add("Greater", [places, before], (self.batch, 1, "tokens", "cache"), "window", boolean)
        return self.window_mask

    def remember(self, which: str, x: ir.Value) -> ir.Value:
        """The next block's cache of keys or values with this run's in it, float32 [batch, key heads, cache, head]."""
        shape = (self.batch, self.sizes.key_heads, "cache", self.sizes.head)
        number = len(self.caches) // 2
        past = graph_input(f"past_{which}.{number}", ir.DataType.FLOAT, shape)
        inputs = [past, self.heads_first(x, self.sizes.key_heads), self.past]
        present = self.add("TensorScatter", inputs, shape, f"present_{which}.{number}")
        declare_alias(present, past)
        self.caches.append((past, present))
        return present

    def heads_first(self, x: ir.Value, count: int) -> ir.Value:
        """[batch, tokens, heads * head] to [batch, heads, tokens, head]."""
        apart = self.split_last(x, count, self.sizes.head)
        return self.add("Transpose", [apart], (self.batch, count, "tokens", self.sizes.head), f"{x.name}.heads", perm=[0, 2, 1, 3])

    def feed_forward(self, name: str, x: ir.Value) -> ir.Value:
        gate_and_up = [f"{name}.ffn_gate", f"{name}.ffn_up"]
        if self.architecture.joined:
            parts, hidden = gate_and_up[1:], self.weights.rows(f"{name}.ffn_up.weight") // 2
        else:
            parts, hidden = gate_and_up, self.weights.rows(f"{name}.ffn_up.weight")
        biases = [part for part in parts if self.optional(f"{part}.bias")]
        gate, up = self.linears(f"{name}.ffn_gate_up", parts, x, [hidden, hidden], biases)
        gated = self.add("Mul", [self.gate(self.architecture.gate, gate), up], (*self.dims, hidden), f"{name}.ffn_gated")
        return self.linear(f"{name}.ffn_down", gated, self.sizes.width, bias=self.optional(f"{name}.ffn_down.bias"))

    def optional(self, name: str) -> bool:
        """Whether the architecture may have this tensor of a block, and the file has it."""
        return name.split(".", 2)[2] in self.architecture.optional and self.weights.has(name)
