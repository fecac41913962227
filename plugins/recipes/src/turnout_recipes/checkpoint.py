"""Decoders as Hugging Face writes them, a folder with config.json and safetensors, told in GGUF's words.

turnout-gguf builds a decoder from metadata and tensors under GGUF's names. So a folder is read by two tables: keys of config.json to keys
of GGUF, names of tensors to names of tensors. What GGUF's converters change in the weights on the way (the order of the rows of Q and K in
llama, one added to gemma's norms) is changed here when a tensor is read. Sources: transformers' model code for what a key means, the
converter in llama.cpp for the changes.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from turnout.errors import InvalidModel
from turnout.formats import Source
from turnout_gguf.blocks import dequantise
from turnout_gguf.reader import Gguf, Tensor
from turnout_gguf.types import TYPES

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["CheckpointSource", "dense"]

_FLOAT = TYPES[0]
_AGAIN = "download the folder again, with all its files"

_FAMILIES = {name: name for name in ("llama", "qwen2", "qwen3", "phi3", "gemma", "gemma2")}
_FAMILIES |= {"mistral": "llama", "gemma3_text": "gemma3"}
"""model_type in config.json: the architecture in GGUF."""

_KEYS = {
    "num_hidden_layers": "block_count",
    "max_position_embeddings": "context_length",
    "hidden_size": "embedding_length",
    "num_attention_heads": "attention.head_count",
    "num_key_value_heads": "attention.head_count_kv",
    "head_dim": "attention.key_length",
    "rms_norm_eps": "attention.layer_norm_rms_epsilon",
    "sliding_window": "attention.sliding_window",
    "attn_logit_softcapping": "attn_logit_softcapping",
    "final_logit_softcapping": "final_logit_softcapping",
}

_NAMES = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}
_PARTS = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.qkv_proj": "attn_qkv",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.gate_up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
_FOUR_NORMS = {  # gemma 2 and 3 norm before and after
    "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}


@dataclass(frozen=True)
class Views(Gguf):
    """What looks like a GGUF file whose tensors are all float32, each made when it is read: float32 of the tensor's shape."""

    makers: Mapping[str, Callable[[], NDArray[np.float32]]] = field(default_factory=dict)

    def raw(self, tensor: Tensor) -> NDArray[np.uint8]:
        made = np.ascontiguousarray(self.makers[tensor.name](), np.float32)
        return made.reshape(-1, tensor.shape[-1]).view(np.uint8)


def _views(name: str, metadata: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]], makers: Mapping[str, Any]) -> Views:
    tensors = {key: Tensor(key, shape, _FLOAT, 0, 4 * math.prod(shape)) for key, shape in shapes.items()}
    return Views(name, 3, metadata, tensors, memoryview(b""), makers)


def dense(file: Gguf) -> Gguf:
    """A GGUF file with every tensor dequantised when it is read."""

    def made(tensor: Tensor) -> NDArray[np.float32]:
        return dequantise(file.raw(tensor), tensor.type).reshape(tensor.shape)

    shapes = {name: tensor.shape for name, tensor in file.tensors.items()}
    return _views(file.name, file.metadata, shapes, {name: functools.partial(made, one) for name, one in file.tensors.items()})


class CheckpointSource(Source):
    """One folder. Its weights are read one by one, when they are asked for."""

    format = "safetensors"

    def __init__(self, folder: Path) -> None:
        self.folder = self.path = folder
        self.name = folder.name or str(folder)

    @functools.cached_property
    def config(self) -> dict[str, Any]:
        path = self.folder / "config.json"
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise InvalidModel(f"{path} cannot be read: {error}", hint=_AGAIN) from None
        if not isinstance(found, dict):
            raise InvalidModel(f"{path} holds no object", hint=_AGAIN)
        return found

    @property
    def metadata(self) -> Mapping[str, Any]:
        length = self.config.get("max_position_embeddings")
        return {"context_length": length} if isinstance(length, int) else {}

    @functools.cached_property
    def contents(self) -> Gguf:
        """The folder in GGUF's words. Raises InvalidModel."""
        return _Reading(self.name, self.folder, self.config).views()

    def model(self) -> ir.Model:
        return self.graph(hold=True)

    def graph(self, *, hold: bool) -> ir.Model:
        """The decoder; hold: whether weights stay in memory once they were read."""
        from turnout_gguf.decoder import decoder
        from turnout_gguf.weights import Weights

        return decoder(self.contents, Weights(self.contents, hold=hold), "exact")


class _Reading:
    """One folder, as its config says."""

    def __init__(self, name: str, folder: Path, config: Mapping[str, Any]) -> None:
        self.name = name
        self.folder = folder
        self.config = config
        kind = config.get("model_type")
        if kind not in _FAMILIES:
            self.refuse(f"its model_type is {kind!r:.40}, and turnout builds {', '.join(_FAMILIES)}", "take it as GGUF or ONNX")
        self.architecture = _FAMILIES[str(kind)]
        self.gemma = self.architecture.startswith("gemma")
        self.makers: dict[str, Callable[[], NDArray[np.float32]]] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}

    def refuse(self, what: str, hint: str = _AGAIN) -> NoReturn:
        raise InvalidModel(f"{self.name}: {what}", hint=hint)

    def views(self) -> Gguf:
        if self.config.get("quantization_config"):
            self.refuse("its weights are quantised already", "take the checkpoint that it was made from")
        for ours, theirs, reader in self._tensors():
            if ours in self.makers:
                self.refuse(f"tensor {theirs!r} is there twice")
            shape = tuple(reader.get_slice(theirs).get_shape())
            self.shapes[ours] = shape
            self.makers[ours] = functools.partial(self._read, reader, theirs, self._change(ours))
        metadata = self._metadata()
        return _views(self.name, metadata, self.shapes, self.makers)

    # tensors

    def _tensors(self) -> Iterator[tuple[str, str, Any]]:
        """(name in GGUF, name in the file, the file), each file opened once."""
        from safetensors import SafetensorError, safe_open

        tied = self.config.get("tie_word_embeddings") is True
        for path in sorted(self.folder.glob("*.safetensors")):
            try:
                reader = safe_open(path, "np")
                names: list[str] = list(reader.keys())  # type: ignore[no-untyped-call]
            except (SafetensorError, OSError, ValueError) as error:
                self.refuse(f"{path.name} cannot be read: {error}")
            for name in names:
                if (name == "lm_head.weight" and tied) or name.endswith("rotary_emb.inv_freq"):
                    continue
                yield self._ours(name), name, reader

    def _ours(self, name: str) -> str:
        if name in _NAMES:
            return _NAMES[name]
        parts = _PARTS | _FOUR_NORMS if self.architecture in ("gemma2", "gemma3") else _PARTS
        pieces = name.split(".")
        part = parts.get(".".join(pieces[3:-1]))
        if pieces[:2] != ["model", "layers"] or len(pieces) < 5 or not pieces[2].isdecimal() or part is None:
            self.refuse(f"tensor {name!r} has no place in a {self.architecture}", "take it as GGUF or ONNX")
        return f"blk.{pieces[2]}.{part}.{pieces[-1]}"

    def _read(self, reader: Any, name: str, change: Callable[[NDArray[np.float32]], NDArray[np.float32]]) -> NDArray[np.float32]:
        return change(np.asarray(reader.get_tensor(name)).astype(np.float32))

    def _change(self, name: str) -> Callable[[NDArray[np.float32]], NDArray[np.float32]]:
        part = name.split(".")[-2]
        if self.architecture == "llama" and part in ("attn_q", "attn_k"):
            heads = self.config.get("num_attention_heads") if part == "attn_q" else self._key_heads()
            return lambda array: _paired(array, int(heads))  # type: ignore[arg-type]
        if self.gemma and part.endswith("norm"):
            return lambda array: array + np.float32(1)
        return lambda array: array

    def _key_heads(self) -> Any:
        return self.config.get("num_key_value_heads") or self.config.get("num_attention_heads")

    # keys

    def _metadata(self) -> dict[str, Any]:
        config, name = self.config, self.architecture
        found: dict[str, Any] = {theirs: config[ours] for ours, theirs in _KEYS.items() if config.get(ours) is not None}
        if config.get("use_sliding_window") is False:
            found.pop("attention.sliding_window", None)
        wanted = ("gelu_pytorch_tanh", "gelu") if self.gemma else ("silu", "swish")
        act = config.get("hidden_activation") or config.get("hidden_act")
        if act not in (None, *wanted):
            self.refuse(f"its hidden_act is {act!r:.40}, and a {name} wants {wanted[0]}", "take another model")
        heads, width = config.get("num_attention_heads"), config.get("hidden_size")
        if isinstance(heads, int) and isinstance(width, int) and heads > 0:
            head = config.get("head_dim") or width // heads
            found.setdefault("attention.key_length", head)
            found["attention.value_length"] = head
            self._check_scale(head)
            self._positions(found, int(head))
        return {"general.architecture": name} | {f"{name}.{key}": value for key, value in found.items()}

    def _check_scale(self, head: Any) -> None:
        """Gemma says what scores are divided by; GGUF knows it by the number of blocks."""
        scalar = self.config.get("query_pre_attn_scalar", head)
        usual = head if self.config.get("num_hidden_layers") not in (46, 62) else scalar
        if scalar != usual:
            self.refuse(f"its scores are scaled by {scalar}, which turnout cannot compute yet", "use another model of this family")

    def _positions(self, found: dict[str, Any], head: int) -> None:
        """Rotary positions, with their scaling."""
        config = self.config
        rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
        if not isinstance(rope, Mapping) or isinstance(rope.get("full_attention"), Mapping):
            self.refuse("its rope_parameters differ from layer to layer, which turnout cannot read yet", "take it as GGUF")
        found["rope.freq_base"] = config.get("rope_theta") or rope.get("rope_theta") or 10000.0
        part = config.get("partial_rotary_factor") or rope.get("partial_rotary_factor") or 1.0
        turned = found["rope.dimension_count"] = int(head * part)
        kind = rope.get("rope_type") or rope.get("type") or "default"
        if kind == "linear":
            found |= {"rope.scaling.type": "linear", "rope.scaling.factor": float(rope["factor"])}
        elif kind == "llama3":
            self._vector("rope_freqs.weight", _llama3(rope, float(found["rope.freq_base"]), turned))
        elif kind in ("longrope", "su"):
            self._longrope(found, rope)
        elif kind == "yarn":
            found |= {"rope.scaling.type": "yarn", "rope.scaling.factor": float(rope["factor"])}
            found["rope.scaling.original_context_length"] = rope.get("original_max_position_embeddings")
        elif kind != "default":
            self.refuse(f"its positions are scaled by {kind!r:.40}, which turnout cannot compute yet", "use another model of this family")

    def _longrope(self, found: dict[str, Any], rope: Mapping[str, Any]) -> None:
        original = rope.get("original_max_position_embeddings") or self.config.get("original_max_position_embeddings")
        longest = self.config.get("max_position_embeddings")
        if not isinstance(original, int) or not isinstance(longest, int) or original < 2:
            self.refuse("its positions are scaled by LongRoPE, and original_max_position_embeddings is missing")
        for which in ("short", "long"):
            self._vector(f"rope_factors_{which}.weight", np.asarray(rope.get(f"{which}_factor"), np.float32))
        scale = longest / original
        factor = rope.get("attention_factor") or (math.sqrt(1 + math.log(scale) / math.log(original)) if scale > 1 else 1.0)
        found |= {"rope.scaling.original_context_length": original, "rope.scaling.attn_factor": float(factor)}

    def _vector(self, name: str, array: NDArray[np.float32]) -> None:
        self.shapes[name] = array.shape
        self.makers[name] = lambda: array


def _paired(rows: NDArray[np.float32], heads: int) -> NDArray[np.float32]:
    """Rows of Q or K, or of their bias: each head's two halves interleaved, as rotary positions of neighbours want them."""
    apart = rows.reshape(heads, 2, -1, *rows.shape[1:])
    return apart.swapaxes(1, 2).reshape(rows.shape)


def _llama3(rope: Mapping[str, Any], base: float, turned: int) -> NDArray[np.float32]:
    """What each frequency is divided by: 1 where it turns often within the original context, `factor` where it turns rarely, between them
    in between (transformers, modeling_rope_utils)."""
    factor, low, high = (float(rope[key]) for key in ("factor", "low_freq_factor", "high_freq_factor"))
    turns = float(rope["original_max_position_embeddings"]) / (2 * math.pi * base ** (np.arange(0, turned, 2) / turned))
    smooth = np.clip((turns - low) / (high - low), 0, 1)
    return (1 / ((1 - smooth) / factor + smooth)).astype(np.float32)
