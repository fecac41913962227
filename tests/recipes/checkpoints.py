"""Small decoders of random weights as Hugging Face writes them: config.json, safetensors, a tokenizer of bytes.

uv run python tests/recipes/checkpoints.py FOLDER [phi3 | llama] [WIDTH] [BLOCKS]
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

sys.path.append(str(Path(__file__).parents[1] / "text"))

VOCABULARY = 259
HEAD = 32


def config(family: str, width: int, blocks: int, **changes: Any) -> dict[str, Any]:
    """As transformers writes it."""
    heads = width // HEAD
    own = {
        "model_type": family,
        "hidden_size": width,
        "intermediate_size": 2 * width,
        "num_hidden_layers": blocks,
        "num_attention_heads": heads,
        "num_key_value_heads": heads if family == "phi3" else heads // 2,
        "max_position_embeddings": 512,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "vocab_size": VOCABULARY,
        "hidden_act": "silu",
        "tie_word_embeddings": False,
        "eos_token_id": 257,
    }
    return {**own, **changes}


def shapes(settings: dict[str, Any]) -> Iterator[tuple[str, tuple[int, ...]]]:
    width, hidden = settings["hidden_size"], settings["intermediate_size"]
    queries, keys = settings["num_attention_heads"] * HEAD, settings["num_key_value_heads"] * HEAD
    yield "model.embed_tokens.weight", (VOCABULARY, width)
    for block in range(settings["num_hidden_layers"]):
        name = f"model.layers.{block}"
        yield f"{name}.input_layernorm.weight", (width,)
        if settings["model_type"] == "phi3":
            yield f"{name}.self_attn.qkv_proj.weight", (queries + 2 * keys, width)
            yield f"{name}.mlp.gate_up_proj.weight", (2 * hidden, width)
        else:
            for part, rows in (("q", queries), ("k", keys), ("v", keys)):
                yield f"{name}.self_attn.{part}_proj.weight", (rows, width)
            for part in ("gate", "up"):
                yield f"{name}.mlp.{part}_proj.weight", (hidden, width)
        yield f"{name}.self_attn.o_proj.weight", (width, queries)
        yield f"{name}.mlp.down_proj.weight", (width, hidden)
        yield f"{name}.post_attention_layernorm.weight", (width,)
    yield "model.norm.weight", (width,)
    if not settings["tie_word_embeddings"]:
        yield "lm_head.weight", (VOCABULARY, width)


def random(shape: tuple[int, ...], place: int) -> NDArray[np.float32]:
    """Some channels of what a matrix reads are ten times larger than others, as in models that were trained: norms make them so."""
    numbers = np.random.default_rng(place).standard_normal(shape).astype(np.float32)
    if len(shape) == 1:
        return np.where(np.arange(shape[0]) % 16 == 3, 8, 1).astype(np.float32) * (1 + 0.1 * numbers)
    return numbers / np.float32(np.sqrt(shape[1]))


def write(folder: Path, family: str = "phi3", width: int = 128, blocks: int = 2, dtype: str = "float32", **changes: Any) -> Path:
    from safetensors.numpy import save_file
    from text_decoders import CHAT, tokenizer

    folder.mkdir(parents=True, exist_ok=True)
    settings = config(family, width, blocks, **changes)
    kind = ml_dtypes.bfloat16 if dtype == "bfloat16" else np.dtype(dtype)
    tensors = {name: random(shape, place).astype(kind) for place, (name, shape) in enumerate(shapes(settings))}
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(settings, indent=2))
    tokenizer().save(str(folder / "tokenizer.json"))
    chat = {"bos_token": "<s>", "eos_token": "</s>", "chat_template": CHAT}
    (folder / "tokenizer_config.json").write_text(json.dumps(chat))
    return folder


if __name__ == "__main__":
    family, *sizes = [*sys.argv[2:], *("phi3", "128", "2")[len(sys.argv) - 2 :]]
    print(write(Path(sys.argv[1]), family, *map(int, sizes)))
