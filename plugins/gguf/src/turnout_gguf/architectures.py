"""The architectures that can be built, each described in a few words, and what a file says of its own sizes.

An architecture here is a decoder: embedding; blocks of RMS norm, attention with rotary positions, RMS norm and gated feed-forward, each
added to the stream; RMS norm and head. What differs is stated in `ARCHITECTURES`; adding one is adding a line, and a case to the tests
(docs/gguf.md goes through it). Encoders, which read a text at once and make an embedding of it, are in `encoder.py`.

Sources: the GGUF specification for the keys, the constants of the gguf package for the tensors' names, and the published model code of
each family for its arithmetic.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np

from turnout.errors import InvalidModel
from turnout_gguf.reader import Gguf

__all__ = ["ARCHITECTURES", "ENCODERS", "Architecture", "Keys", "Sizes", "known", "sizes_of"]


@dataclass(frozen=True, slots=True)
class Architecture:
    """How one family differs from a plain decoder.

    neighbours: rotary positions turn elements 2i and 2i+1 (the converter has reordered the rows of Q and K for that), else i and i + half.
    optional: tensors of a block that a file of this family may have.
    joined: one tensor holds the rows of Q, K and V, another those of the gate and the up projection.
    gate: the function on the gate of the feed-forward, "silu" or "gelu" (its tanh approximation).
    norms_after: attention and feed-forward are normed also after they were computed, before they are added to the stream.
    scaled_embedding: rows of the table are multiplied by the square root of the width.
    windowed: blocks look back no further than the file's sliding window. Else a window limits the context.
    period: one block in so many sees everything; 0 where all are windowed.
    local_base: base of the rotary positions of windowed blocks, where it is their own.
    shared_scale: numbers of blocks with which scores are divided by the square root of width / heads, not of the head's size.
    """

    neighbours: bool = False
    optional: frozenset[str] = frozenset()
    joined: bool = False
    gate: str = "silu"
    norms_after: bool = False
    scaled_embedding: bool = False
    windowed: bool = False
    period: int = 0
    local_base: float | None = None
    shared_scale: frozenset[int] = frozenset()


_ATTENTION_BIASES = frozenset({"attn_q.bias", "attn_k.bias", "attn_v.bias", "attn_output.bias"})
_FEED_FORWARD_BIASES = frozenset({"ffn_gate.bias", "ffn_up.bias", "ffn_down.bias"})
_HEAD_NORMS = frozenset({"attn_q_norm.weight", "attn_k_norm.weight"})

ARCHITECTURES: dict[str, Architecture] = {
    "llama": Architecture(neighbours=True, optional=_ATTENTION_BIASES | _FEED_FORWARD_BIASES, windowed=True),
    "qwen2": Architecture(optional=_ATTENTION_BIASES),
    "qwen3": Architecture(optional=_ATTENTION_BIASES | _HEAD_NORMS),
    "phi3": Architecture(joined=True, windowed=True),
    "gemma": Architecture(gate="gelu", scaled_embedding=True),
    "gemma2": Architecture(gate="gelu", norms_after=True, scaled_embedding=True, windowed=True, period=2, shared_scale=frozenset({46})),
    "gemma3": Architecture(
        gate="gelu",
        norms_after=True,
        scaled_embedding=True,
        optional=_HEAD_NORMS,
        windowed=True,
        period=6,
        local_base=10000.0,
        shared_scale=frozenset({62}),
    ),
}
"""Decoders by the name in the key general.architecture. Mistral's files say llama."""

ENCODERS: tuple[str, ...] = ("bert",)
"""What encoder.py builds."""

# keys that would change the arithmetic of a decoder, with the values that do not
_NEUTRAL: dict[str, Any] = {
    "expert_count": 0,
    "attention.causal": True,
    "attention.scale": 0.0,
    "attention.clamp_kqv": 0.0,
    "embedding_scale": 1.0,
    "residual_scale": 1.0,
    "logit_scale": 1.0,
}

_ANOTHER = "use another model of this family"
_WIDEST_HEAD = 1024
_LARGEST_TABLE = 1 << 23  # elements of the table of cosines, and of that of sines: 131072 tokens with heads of 128


@dataclass(frozen=True, slots=True)
class Sizes:
    """What the metadata say.

    blocks, width, heads, key_heads; head: elements of a head; turned: how many of them rotary positions turn; context: tokens at most;
    epsilon: of the norms; window: how many tokens a windowed block sees, 0 for all; score_scale: what scores are multiplied by, None for
    the usual 1 / sqrt(head); score_cap, logit_cap: softcaps, 0 for none.
    """

    blocks: int
    width: int
    heads: int
    key_heads: int
    head: int
    turned: int
    context: int
    epsilon: float
    window: int = 0
    score_scale: float | None = None
    score_cap: float = 0.0
    logit_cap: float = 0.0


class Keys:
    """The keys of the file's architecture, with the types that they must have."""

    def __init__(self, file: Gguf, architecture: str) -> None:
        self.file = file
        self.prefix = architecture

    def refuse(self, what: str, hint: str = "convert the model again") -> NoReturn:
        raise InvalidModel(f"{self.file.name}: {what}", hint=hint)

    def get(self, key: str, default: Any = None) -> Any:
        value = self.file.metadata.get(f"{self.prefix}.{key}", default)
        if value is None:
            self.refuse(f"key {self.prefix}.{key} is missing")
        return value

    def count(self, key: str, default: int | None = None) -> int:
        """A whole number above 0; an array of them, one for each block, has to be all alike."""
        value = self.get(key, default)
        if isinstance(value, np.ndarray) and value.size and value.dtype.kind in "iu" and (value == value[0]).all():
            value = value[0].item()
        if type(value) is not int or not 0 < value < 1 << 31:
            self.refuse(f"key {self.prefix}.{key} is {value!r:.60}, and one number above 0 is wanted")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        value = self.get(key, default)
        if type(value) not in (int, float) or not 0 < value < float("inf"):
            self.refuse(f"key {self.prefix}.{key} is {value!r:.60}, and a number above 0 is wanted")
        return float(value)

    def number_or_none(self, key: str) -> float:
        """A number above 0; 0 where the key is missing or says 0."""
        return 0.0 if self.file.metadata.get(f"{self.prefix}.{key}", 0) in (0, 0.0) else self.number(key)


def sizes_of(file: Gguf, name: str) -> Sizes:
    """The sizes that a decoder of a known architecture states. Raises InvalidModel for what is missing, contradictory or not supported."""
    keys, architecture = Keys(file, name), ARCHITECTURES[name]
    for key, neutral in _NEUTRAL.items():
        value = file.metadata.get(f"{name}.{key}", neutral)
        if isinstance(value, np.ndarray) or value != neutral:
            keys.refuse(f"key {name}.{key} is {value!r:.60}, which turnout cannot compute yet", _ANOTHER)
    width, heads, blocks = keys.count("embedding_length"), keys.count("attention.head_count"), keys.count("block_count")
    key_heads = keys.count("attention.head_count_kv", heads)
    head = keys.count("attention.key_length", width // heads or 1)
    turned = keys.count("rope.dimension_count", head)
    if heads % key_heads:
        keys.refuse(f"its {heads} heads cannot share {key_heads} key heads")
    if keys.count("attention.value_length", head) != head:
        keys.refuse("keys and values have heads of different sizes, which turnout cannot compute yet", _ANOTHER)
    if turned > head or turned % 2 or head > _WIDEST_HEAD:
        keys.refuse(f"rotary positions turn {turned} elements of heads of {head}: an even number, and {_WIDEST_HEAD} at most, are wanted")
    window = _window(keys)
    context = min(keys.count("context_length"), _LARGEST_TABLE // (turned // 2))
    return Sizes(
        blocks=blocks,
        width=width,
        heads=heads,
        key_heads=key_heads,
        head=head,
        turned=turned,
        context=context if architecture.windowed or not window else min(context, window),
        epsilon=keys.number("attention.layer_norm_rms_epsilon"),
        window=window if architecture.windowed and window < context else 0,
        score_scale=(width / heads) ** -0.5 if blocks in architecture.shared_scale else None,
        score_cap=keys.number_or_none("attn_logit_softcapping"),
        logit_cap=keys.number_or_none("final_logit_softcapping"),
    )


def _window(keys: Keys) -> int:
    """How many tokens a windowed block sees; 0 where the file has no window."""
    window = keys.get("attention.sliding_window", 0)
    return window if type(window) is int and window > 0 else 0


def known(metadata: Mapping[str, Any], name: str) -> str:
    """The file's architecture. Raises InvalidModel for one that is not in the tables."""
    architecture = metadata.get("general.architecture")
    if not isinstance(architecture, str) or (architecture not in ARCHITECTURES and architecture not in ENCODERS):
        listed = ", ".join((*ARCHITECTURES, *ENCODERS))
        raise InvalidModel(
            f"{name}: its architecture is {architecture!r:.40}, and turnout builds {listed}",
            hint="update turnout-gguf, or install turnout-llamacpp, which runs every architecture of llama.cpp",
        )
    return architecture
