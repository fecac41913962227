"""An encoder as an operator graph that makes one vector of each text: BERT (Devlin et al. 2018), as sentence embeddings use it.

    input_ids       int64 [batch, tokens]    texts of up to `context_length` tokens, padded to the longest
    attention_mask  int64 [batch, tokens]    1 for the tokens of a text, which come first, 0 for its padding

    embeddings      float32 [batch, width]   by the file's pooling_type: the mean over a text's tokens, its first token or its last
    hidden          float32 [batch, tokens, width]   instead, where the file names no pooling

Embedding of tokens, positions and the first token type, normed; blocks of attention over the whole text and feed-forward, each added to
the stream and normed after. Sources: the GGUF specification for the keys, the constants of the gguf package for the tensors' names.
"""

from __future__ import annotations

from turnout.graph import ir
from turnout_gguf.architectures import Keys
from turnout_gguf.layers import Layers, graph_input
from turnout_gguf.reader import Gguf
from turnout_gguf.weights import Weights

__all__ = ["encoder"]

_HIDDEN, _MEAN, _FIRST, _LAST = 0, 1, 2, 3  # pooling_type
_INT64, _FLOAT, _BOOL = ir.DataType.INT64, ir.DataType.FLOAT, ir.DataType.BOOL


def encoder(file: Gguf, weights: Weights, accuracy: str) -> ir.Model:
    """The graph of a file. Raises InvalidModel. accuracy: of its products, one of LEVELS."""
    return _Encoder(file, weights, accuracy).build()


class _Encoder(Layers):
    def __init__(self, file: Gguf, weights: Weights, accuracy: str) -> None:
        super().__init__(weights, ("batch", "tokens"), accuracy)
        keys = self.keys = Keys(file, "bert")
        if file.metadata.get("bert.attention.causal", False) is not False:
            keys.refuse("its attention is causal, which an encoder's is not", "use another model of this family")
        self.width, self.heads = keys.count("embedding_length"), keys.count("attention.head_count")
        if self.width % self.heads:
            keys.refuse(f"its width of {self.width} cannot be shared by {self.heads} heads")
        self.epsilon = keys.number("attention.layer_norm_epsilon")
        self.pooling = file.metadata.get("bert.pooling_type", _HIDDEN)
        if type(self.pooling) is not int or self.pooling not in (_HIDDEN, _MEAN, _FIRST, _LAST):
            keys.refuse(f"its pooling_type is {self.pooling!r:.40}, and turnout knows 0 to 3", "use another model of this family")
        self.shape = (*self.dims, self.width)

    def build(self) -> ir.Model:
        ids, mask = (graph_input(name, _INT64, self.dims) for name in ("input_ids", "attention_mask"))
        stream = self.layer_norm("token_embd_norm", self.embedded(ids))
        seen = self.seen(mask)
        for number in range(self.keys.count("block_count")):
            stream = self.block(f"blk.{number}", stream, seen)
        return self.model([ids, mask], [self.pooled(stream, mask)])

    def embedded(self, ids: ir.Value) -> ir.Value:
        """Tokens, positions and the first token type, added."""
        tokens = self.weights.tensor("token_embd.weight", (self.weights.rows("token_embd.weight"), self.width))
        places = self.weights.tensor("position_embd.weight", (self.keys.count("context_length"), self.width))
        length = self.add("Shape", [ids], (1,), "ids.tokens", _INT64, start=1, end=2)
        count = self.add("Squeeze", [length], (), "ids.count", _INT64)
        row = self.add("Range", [self.number(0), count, self.number(1)], ("tokens",), "positions.row", _INT64)
        sizes = self.add("Shape", [ids], (2,), "ids.shape", _INT64)
        positions = self.add("Expand", [row, sizes], self.dims, "positions", _INT64)
        stream = self.add("Add", [self.embedding(tokens, ids), self.embedding(places, positions, "places")], self.shape, "placed")
        if not self.weights.has("token_types.weight"):
            return stream
        kinds = self.weights.array("token_types.weight", (self.weights.rows("token_types.weight"), self.width))
        first = self.weights.add("token_types.first", _FLOAT, (self.width,), lambda: kinds()[0])
        return self.add("Add", [stream, first], self.shape, "embedded")

    def seen(self, mask: ir.Value) -> ir.Value:
        """Which tokens a token sees, bool [batch, 1, tokens, tokens]: those of its text; where it is padding itself all of them, since a
        softmax over none is no number."""
        own = self.add("Cast", [mask], self.dims, "own", _BOOL, to=int(_BOOL))
        padding = self.add("Not", [own], self.dims, "padding", _BOOL)
        own = self.add("Unsqueeze", [own, self.ints("axes", 1, 2)], ("batch", 1, 1, "tokens"), "own.wide", _BOOL)
        padding = self.add("Unsqueeze", [padding, self.ints("axes", 1, 3)], ("batch", 1, "tokens", 1), "padding.wide", _BOOL)
        return self.add("Or", [own, padding], ("batch", 1, "tokens", "tokens"), "seen", _BOOL)

    def block(self, name: str, stream: ir.Value, seen: ir.Value) -> ir.Value:
        mixed = self.biased(f"{name}.attn_output", self.attention(name, stream, seen), self.width)
        middle = self.add("Add", [mixed, stream], self.shape, f"{name}.attended")
        middle = self.layer_norm(f"{name}.attn_output_norm", middle)
        wide = self.biased(f"{name}.ffn_up", middle, self.keys.count("feed_forward_length"))
        narrow = self.biased(f"{name}.ffn_down", self.add("Gelu", [wide], tuple(wide.shape or ()), f"{name}.gelu"), self.width)
        return self.layer_norm(f"{name}.layer_output_norm", self.add("Add", [narrow, middle], self.shape, f"{name}.fed"))

    def attention(self, name: str, x: ir.Value, seen: ir.Value) -> ir.Value:
        parts = [f"{name}.attn_{which}" for which in "qkv"]
        biases = [part for part in parts if self.weights.has(f"{part}.bias")]
        split = self.linears(f"{name}.attn_qkv", parts, x, [self.width] * 3, biases)
        return self.add("Attention", [*split, seen], self.shape, f"{name}.seen", q_num_heads=self.heads, kv_num_heads=self.heads)

    def biased(self, name: str, x: ir.Value, size: int) -> ir.Value:
        return self.linear(name, x, size, bias=self.weights.has(f"{name}.bias"))

    def layer_norm(self, name: str, x: ir.Value) -> ir.Value:
        weight, bias = (self.weights.vector(f"{name}.{part}", self.width) for part in ("weight", "bias"))
        return self.add("LayerNormalization", [x, weight, bias], self.shape, name, axis=-1, epsilon=self.epsilon)

    def pooled(self, stream: ir.Value, mask: ir.Value) -> ir.Value:
        """One vector of each text's, as the file wants it."""
        if self.pooling == _HIDDEN:
            return self.add("Identity", [stream], self.shape, "hidden")
        out = ("batch", self.width)
        if self.pooling == _FIRST:
            return self.add("Gather", [stream, self.number(0)], out, "embeddings", axis=1)
        weights = self.add("Cast", [mask], self.dims, "mask.float32", to=int(_FLOAT))
        if self.pooling == _LAST:  # the weight of the last token alone is 1: it has as many before it as there are, less one
            before = self.add("CumSum", [weights, self.number(1)], self.dims, "mask.before")
            count = self.add("ReduceSum", [weights, self.ints("axis", 1)], ("batch", 1), "mask.count", keepdims=1)
            last = self.add("Equal", [before, count], self.dims, "mask.last", _BOOL)
            last = self.add("Cast", [last], self.dims, "mask.last.float32", to=int(_FLOAT))
            weights = self.add("Mul", [weights, last], self.dims, "mask.weights")
        wide = self.add("Unsqueeze", [weights, self.ints("last_axis", -1)], (*self.dims, 1), "mask.wide")
        total = self.add("ReduceSum", [self.add("Mul", [stream, wide], self.shape, "kept"), self.ints("axis", 1)], out, "total", keepdims=0)
        tokens = self.add("ReduceSum", [wide, self.ints("axis", 1)], ("batch", 1), "tokens.count", keepdims=0)
        return self.add("Div", [total, tokens], out, "embeddings")
