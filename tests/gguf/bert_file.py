"""all-MiniLM-L6-v2, as its package has it, written to GGUF by the gguf package, the way llama.cpp's converter does."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGMLQuantizationType, GGUFWriter, PoolingType, TokenType, quants

_NAMES = {
    "attention.self.query": "attn_q",
    "attention.self.key": "attn_k",
    "attention.self.value": "attn_v",
    "attention.output.dense": "attn_output",
    "attention.output.LayerNorm": "attn_output_norm",
    "intermediate.dense": "ffn_up",
    "output.dense": "ffn_down",
    "output.LayerNorm": "layer_output_norm",
    "embeddings.word_embeddings": "token_embd",
    "embeddings.position_embeddings": "position_embd",
    "embeddings.token_type_embeddings": "token_types",
    "embeddings.LayerNorm": "token_embd_norm",
}


def write(safetensors: Path, target: Path, kind: str = "F32", pooling: str = "MEAN") -> None:
    """Matrices in the type `kind`, everything else in F32."""
    made = GGUFWriter(target, "bert")
    made.add_block_count(6)
    made.add_context_length(512)
    made.add_embedding_length(384)
    made.add_feed_forward_length(1536)
    made.add_head_count(12)
    made.add_layer_norm_eps(1e-12)
    made.add_causal_attention(False)
    made.add_pooling_type(PoolingType[pooling])
    _add_vocabulary(made, safetensors.with_name("tokenizer.json"))
    for name, array in _tensors(safetensors):
        quantised = array.ndim == 2 and name.startswith(("blk.", "token_embd"))
        wanted = GGMLQuantizationType[kind if quantised else "F32"]
        made.add_tensor(name, array if wanted == GGMLQuantizationType.F32 else quants.quantize(array, wanted), raw_dtype=wanted)
    made.write_header_to_file()
    made.write_kv_data_to_file()
    made.write_tensors_to_file()
    made.close()


def _add_vocabulary(made: GGUFWriter, tokenizer: Path) -> None:
    vocabulary: dict[str, int] = json.loads(tokenizer.read_text("utf-8"))["model"]["vocab"]
    tokens, kinds = [], []
    for token in sorted(vocabulary, key=lambda one: vocabulary[one]):
        special = token.startswith("[") and token.endswith("]") and len(token) > 2
        kinds.append(TokenType.CONTROL if special else TokenType.NORMAL)
        tokens.append(token if special else token[2:] if token.startswith("##") else f"\u2581{token}")
    made.add_tokenizer_model("bert")
    made.add_tokenizer_pre("default")
    made.add_token_list(tokens)
    made.add_token_types(kinds)
    for key, token in (("cls", "[CLS]"), ("seperator", "[SEP]"), ("unknown", "[UNK]"), ("padding", "[PAD]")):  # spelt as GGUF spells it
        made.add_uint32(f"tokenizer.ggml.{key}_token_id", vocabulary[token])


def _tensors(safetensors: Path) -> Any:
    with safetensors.open("rb") as opened:
        (size,) = struct.unpack("<Q", opened.read(8))
        known = json.loads(opened.read(size))
        data = opened.read()
    for name, about in known.items():
        if name == "__metadata__" or "position_ids" in name or "pooler" in name:
            continue
        start, end = about["data_offsets"]
        array = np.frombuffer(data[start:end], np.float32).reshape(about["shape"])
        yield renamed(name), array


def renamed(name: str) -> str:
    """`encoder.layer.0.output.dense.weight`, as transformers has it, as `blk.0.ffn_down.weight`."""
    stem, _, part = name.rpartition(".")
    if not stem.startswith("encoder.layer."):
        return f"{_NAMES[stem]}.{part}"
    number, _, rest = stem.removeprefix("encoder.layer.").partition(".")
    return f"blk.{number}.{_NAMES[rest]}.{part}"
