"""The architectures that can be built, each described in a few words, and what a file says of its own sizes.

An architecture here is a decoder: embedding; blocks of RMS norm, attention with rotary positions, RMS norm and gated feed-forward, each
added to the stream; RMS norm and head. What differs is stated in `ARCHITECTURES`; adding one is adding a line, and a case to the tests.

Sources: the GGUF specification for the keys, and for the tensors' names the constants of the gguf package.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np

from turnout.errors import InvalidModel
from turnout_gguf.reader import Gguf

__all__ = ["ARCHITECTURES", "Architecture", "Sizes", "known", "sizes_of"]


@dataclass(frozen=True, slots=True)
class Architecture:
    """How one family differs.

    neighbours: rotary positions turn elements 2i and 2i+1 (the converter has reordered the rows of Q and K for that), else i and i + half.
    optional: tensors of a block that a file of this family may have.
    """

    neighbours: bool = False
    optional: frozenset[str] = frozenset()


_ATTENTION_BIASES = frozenset({"attn_q.bias", "attn_k.bias", "attn_v.bias", "attn_output.bias"})
_FEED_FORWARD_BIASES = frozenset({"ffn_gate.bias", "ffn_up.bias", "ffn_down.bias"})
_HEAD_NORMS = frozenset({"attn_q_norm.weight", "attn_k_norm.weight"})

ARCHITECTURES: dict[str, Architecture] = {
    "llama": Architecture(neighbours=True, optional=_ATTENTION_BIASES | _FEED_FORWARD_BIASES),
    "qwen2": Architecture(optional=_ATTENTION_BIASES),
    "qwen3": Architecture(optional=_ATTENTION_BIASES | _HEAD_NORMS),
}

# keys that would change the arithmetic of a decoder, with the values that do not
_NEUTRAL: dict[str, Any] = {
    "expert_count": 0,
    "attention.causal": True,
    "attention.scale": 0.0,
    "attention.clamp_kqv": 0.0,
    "attn_logit_softcapping": 0.0,
    "final_logit_softcapping": 0.0,
    "embedding_scale": 1.0,
    "residual_scale": 1.0,
    "logit_scale": 1.0,
}

_ANOTHER = "use another model of this family"
_WIDEST_HEAD = 1024
_LARGEST_TABLE = 1 << 23  # elements of the table of cosines, and of that of sines: 131072 tokens with heads of 128


@dataclass(frozen=True, slots=True)
class Sizes:
    """What the metadata says. head: elements of a head; turned: how many of them rotary positions turn; context: tokens at most."""

    blocks: int
    width: int
    heads: int
    key_heads: int
    head: int
    turned: int
    context: int
    epsilon: float
    base: float
    stretch: float


class _Keys:
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


def sizes_of(file: Gguf, architecture: str) -> Sizes:
    """The sizes that a file of a known architecture states. Raises InvalidModel for what is missing, contradictory or not supported."""
    keys = _Keys(file, architecture)
    for key, neutral in _NEUTRAL.items():
        value = file.metadata.get(f"{architecture}.{key}", neutral)
        if isinstance(value, np.ndarray) or value != neutral:
            keys.refuse(f"key {architecture}.{key} is {value!r:.60}, which turnout cannot compute yet", _ANOTHER)
    width, heads = keys.count("embedding_length"), keys.count("attention.head_count")
    key_heads = keys.count("attention.head_count_kv", heads)
    head = keys.count("attention.key_length", width // heads or 1)
    turned = keys.count("rope.dimension_count", head)
    if heads % key_heads:
        keys.refuse(f"its {heads} heads cannot share {key_heads} key heads")
    if keys.count("attention.value_length", head) != head:
        keys.refuse("keys and values have heads of different sizes, which turnout cannot compute yet", _ANOTHER)
    if turned > head or turned % 2 or head > _WIDEST_HEAD:
        keys.refuse(f"rotary positions turn {turned} elements of heads of {head}: an even number, and {_WIDEST_HEAD} at most, are wanted")
    return Sizes(
        blocks=keys.count("block_count"),
        width=width,
        heads=heads,
        key_heads=key_heads,
        head=head,
        turned=turned,
        context=_context(keys, turned),
        epsilon=keys.number("attention.layer_norm_rms_epsilon"),
        base=keys.number("rope.freq_base", 10000.0),
        stretch=_stretch(keys),
    )


def _context(keys: _Keys, turned: int) -> int:
    """Tokens at most: no more than fit in a sliding window, where every token still sees all before it."""
    context = keys.count("context_length")
    window = keys.get("attention.sliding_window", 0)
    seen = window if type(window) is int and window > 0 else context
    return min(context, seen, _LARGEST_TABLE // (turned // 2))


def _stretch(keys: _Keys) -> float:
    """What positions are divided by."""
    given = keys.get("rope.scaling.type", "")
    kind = given if isinstance(given, str) else None  # an array cannot be compared
    if kind == "linear" or (kind == "" and f"{keys.prefix}.rope.scale_linear" in keys.file.metadata):
        return keys.number("rope.scaling.factor" if kind else "rope.scale_linear", 1.0)
    if kind not in ("", "none"):
        keys.refuse(f"its positions are scaled by {given!r:.40}, which turnout cannot compute yet", _ANOTHER)
    return 1.0


def known(metadata: Mapping[str, Any], name: str) -> str:
    """The file's architecture. Raises InvalidModel for one that is not in the table."""
    architecture = metadata.get("general.architecture")
    if not isinstance(architecture, str) or architecture not in ARCHITECTURES:
        listed = ", ".join(ARCHITECTURES)
        raise InvalidModel(
            f"{name}: its architecture is {architecture!r:.40}, and turnout builds {listed}",
            hint="update turnout-gguf, or install turnout-llamacpp, which runs every architecture of llama.cpp",
        )
    return architecture
