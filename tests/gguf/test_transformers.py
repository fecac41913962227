"""Small random models of every architecture against `transformers`: written as GGUF, computed by turnout, logits within 1e-4.

transformers and torch are too large for the project's own environments: .ci/run has one for them, elsewhere these tests are skipped.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from bert_file import renamed as renamed_in_bert
from made import MadeTensor, gguf
from numpy.typing import NDArray
from running import Text, load

from turnout_gguf.architectures import ARCHITECTURES

if TYPE_CHECKING:
    torch: Any = None
    transformers: Any = None
else:
    torch = pytest.importorskip("torch", reason="torch is not here; .ci/run has it")
    transformers = pytest.importorskip("transformers", reason="transformers is not here; .ci/run has it")

WIDTH, HEADS, KEY_HEADS, HEAD, HIDDEN, VOCABULARY, BLOCKS = 64, 4, 2, 16, 128, 96, 6
TOKENS = 24
IDS = np.random.default_rng(0).integers(0, VOCABULARY, TOKENS)

COMMON = {
    "hidden_size": WIDTH,
    "num_attention_heads": HEADS,
    "num_key_value_heads": KEY_HEADS,
    "intermediate_size": HIDDEN,
    "vocab_size": VOCABULARY,
    "num_hidden_layers": BLOCKS,
    "max_position_embeddings": 64,
    "attn_implementation": "eager",
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
OWN_HEAD = {"head_dim": HEAD}
LLAMA_3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 16}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}
LONG = {"rope_type": "longrope", "short_factor": [1.0 + i / 8 for i in range(8)], "long_factor": [2.0 + i for i in range(8)]}

# name: (configuration class, GGUF architecture, the configuration's own settings, keys of the file)
CASES: dict[str, tuple[str, str, dict[str, Any], dict[str, Any]]] = {
    "llama": ("LlamaConfig", "llama", {"rope_theta": 10000.0}, {}),
    "llama 3": ("LlamaConfig", "llama", {"rope_scaling": LLAMA_3}, {}),
    "llama by YaRN": (
        "LlamaConfig",
        "llama",
        {"rope_scaling": YARN},
        {"rope.scaling.type": "yarn", "rope.scaling.factor": 4.0, "rope.scaling.original_context_length": 16},
    ),
    "mistral": ("MistralConfig", "llama", {"sliding_window": 7, **OWN_HEAD}, {"attention.sliding_window": 7}),
    "qwen2": ("Qwen2Config", "qwen2", {"use_sliding_window": False}, {}),
    "qwen3": ("Qwen3Config", "qwen3", {"use_sliding_window": False, **OWN_HEAD}, {}),
    "phi3": ("Phi3Config", "phi3", {"sliding_window": 7}, {"attention.sliding_window": 7}),
    "phi3, long": (
        "Phi3Config",
        "phi3",
        {"rope_scaling": LONG, "original_max_position_embeddings": 32, "sliding_window": None},
        {"rope.scaling.original_context_length": 32, "rope.scaling.attn_factor": float(np.sqrt(1 + np.log(2) / np.log(32)))},
    ),
    "phi3, longer than short": (
        "Phi3Config",
        "phi3",
        {"rope_scaling": LONG, "original_max_position_embeddings": 16, "sliding_window": None},
        {"rope.scaling.original_context_length": 16, "rope.scaling.attn_factor": float(np.sqrt(1 + np.log(4) / np.log(16)))},
    ),
    "gemma": ("GemmaConfig", "gemma", OWN_HEAD, {}),
    "gemma2": (
        "Gemma2Config",
        "gemma2",
        {"sliding_window": 7, "query_pre_attn_scalar": HEAD, "attn_logit_softcapping": 5.0, "final_logit_softcapping": 3.0, **OWN_HEAD},
        {"attention.sliding_window": 7, "attn_logit_softcapping": 5.0, "final_logit_softcapping": 3.0},
    ),
    "gemma3": (
        "Gemma3TextConfig",
        "gemma3",
        {"sliding_window": 7, "query_pre_attn_scalar": HEAD, "rope_theta": 1000000.0, **OWN_HEAD},
        {"attention.sliding_window": 7, "rope.freq_base": 1000000.0},
    ),
}

# the tensors' names in transformers and in GGUF
_NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.qkv_proj": "attn_qkv",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.gate_up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}


def renamed(name: str, architecture: str) -> str:
    """`model.layers.0.mlp.up_proj.weight` as `blk.0.ffn_up.weight`."""
    stem, _, ending = name.rpartition(".")
    if not stem.startswith("model.layers."):
        return f"{_NAMES[stem]}.{ending}"
    number, _, part = stem.removeprefix("model.layers.").partition(".")
    after = "post_attention_norm" if architecture in ("gemma2", "gemma3") else "ffn_norm"
    return f"blk.{number}.{_NAMES.get(part, after)}.{ending}"


def neighbours(rows: NDArray[Any]) -> NDArray[Any]:
    """Rows of Q or K as converters write them for llama: elements i and i + half of a head next to each other."""
    apart = rows.reshape(-1, 2, HEAD // 2, *rows.shape[1:])
    return np.ascontiguousarray(apart.swapaxes(1, 2)).reshape(rows.shape)


def written(model: Any, architecture: str, more: Mapping[str, Any]) -> bytes:
    """The model as a GGUF file."""
    tensors = []
    for name, parameter in model.named_parameters():
        array = parameter.detach().numpy()
        new = renamed(name, architecture)
        if architecture == "llama" and ("attn_q." in new or "attn_k." in new):
            array = neighbours(array)
        if architecture.startswith("gemma") and "norm" in new:
            array = array + 1  # its norms multiply with 1 + weight; converters add the 1
        tensors.append(MadeTensor(new, 0, array.shape, array.astype("<f4").tobytes()))
    scaling = getattr(model.config, "rope_scaling", None) or {}
    for which in ("long", "short") if scaling.get("rope_type") == "longrope" else ():
        factors = np.array(scaling[f"{which}_factor"], "<f4")
        tensors.append(MadeTensor(f"rope_factors_{which}.weight", 0, factors.shape, factors.tobytes()))
    if scaling.get("rope_type") == "llama3":
        rotary = model.model.rotary_emb.inv_freq.numpy()
        factors = (10000.0 ** (-np.arange(len(rotary)) / len(rotary)) / rotary).astype("<f4")
        tensors.append(MadeTensor("rope_freqs.weight", 0, factors.shape, factors.tobytes()))
    keys = {
        "block_count": BLOCKS,
        "context_length": 64,
        "embedding_length": WIDTH,
        "attention.head_count": HEADS,
        "attention.head_count_kv": KEY_HEADS,
        "attention.layer_norm_rms_epsilon": float(model.config.rms_norm_eps),
        **more,
    }
    return gguf({"general.architecture": architecture} | {f"{architecture}.{key}": value for key, value in keys.items()}, tensors)


def made(kind: str, own: Mapping[str, Any], *, around_zero: bool) -> tuple[Any, NDArray[Any]]:
    """A random model, and its logits."""
    torch.manual_seed(0)
    config = getattr(transformers, kind)(**{**COMMON, **own})
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            centre = 0.0 if parameter.ndim > 1 or around_zero else 1.0
            parameter.copy_(centre + (0.2 if "embed" not in name else 1.0) * torch.randn_like(parameter))
        return model, model(torch.tensor(IDS[None]), use_cache=False).logits[0].numpy()


def decoded(model: Any, first: int) -> NDArray[Any]:
    """The model's logits with a cache of its own: `first` tokens, then the others one by one."""
    cache = transformers.DynamicCache(config=model.config)
    portions = [IDS[:first], *IDS[first:, None]]
    with torch.no_grad():
        rows = [model(torch.tensor(ids[None]), past_key_values=cache, use_cache=True).logits[0] for ids in portions]
    return np.concatenate(rows)


def test_every_decoder_is_among_the_cases() -> None:
    assert {architecture for _, architecture, _, _ in CASES.values()} == set(ARCHITECTURES)


@pytest.mark.parametrize("case", CASES)
def test_logits_are_those_of_transformers(case: str) -> None:
    """Of a whole text at once, of its beginnings without what a cache held before, and token after token with the cache."""
    kind, architecture, own, keys = CASES[case]
    model, wanted = made(kind, own, around_zero=architecture.startswith("gemma"))
    mine = load(written(model, architecture, keys))
    near = 1e-4  # absolute; logits go to 5, those of gemma and gemma3 to 51 and 67
    assert np.abs(Text(mine, capacity=32).feed(IDS)[0] - wanted).max() < near
    for count in () if case == "phi3, longer than short" else (1, 9, 17):
        assert np.abs(Text(mine, capacity=32).feed(IDS[:count])[0] - wanted[:count]).max() < near
    text = Text(mine, capacity=32)
    pieces = [text.feed(IDS[:9])[0], *(text.feed(IDS[at : at + 1])[0] for at in range(9, TOKENS))]
    assert np.abs(np.concatenate(pieces) - decoded(model, 9)).max() < near


def test_texts_beyond_the_original_context_are_turned_alike_in_every_portion(monkeypatch: pytest.MonkeyPatch) -> None:
    """Text is fed in portions; where the factors change with the length, no portion may be turned by those of a short text."""
    import turnout

    monkeypatch.setattr("turnout_text.writer._CHUNK", 5)
    kind, architecture, own, keys = CASES["phi3, longer than short"]
    model, wanted = made(kind, own, around_zero=False)
    with turnout.load(written(model, architecture, keys), device="cpu", accuracy="exact", options={"gguf": {"keep": False}}) as mine:
        assert np.abs(mine.logits(IDS) - wanted).max() < 1e-4
        with torch.no_grad():
            short = model(torch.tensor(IDS[None, :16]), use_cache=False).logits[0].numpy()
        assert np.abs(mine.logits(IDS[:16]) - short).max() < 1e-4


def test_hidden_states_of_an_encoder_are_those_of_transformers() -> None:
    torch.manual_seed(0)
    own = {key: COMMON[key] for key in COMMON if key not in ("num_key_value_heads", "bos_token_id", "eos_token_id")}
    model = transformers.BertModel(transformers.BertConfig(**own), add_pooling_layer=False).eval()
    mask = np.ones((2, TOKENS), np.int64)
    mask[1, 15:] = 0
    ids = np.stack([IDS, IDS[::-1]]) * mask
    tensors = []
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            is_norm = "LayerNorm.weight" in name
            parameter.copy_(float(is_norm) + 0.2 * torch.randn_like(parameter))
            tensors.append(MadeTensor(renamed_in_bert(name), 0, parameter.shape, parameter.numpy().astype("<f4").tobytes()))
        wanted = model(torch.tensor(ids), attention_mask=torch.tensor(mask)).last_hidden_state.numpy()
    keys = {
        "block_count": BLOCKS,
        "context_length": 64,
        "embedding_length": WIDTH,
        "feed_forward_length": HIDDEN,
        "attention.head_count": HEADS,
        "attention.layer_norm_epsilon": float(model.config.layer_norm_eps),
    }
    mine = load(gguf({"general.architecture": "bert"} | {f"bert.{key}": value for key, value in keys.items()}, tensors))
    found = mine.run(input_ids=ids, attention_mask=mask)["hidden"]
    assert np.abs(found - wanted)[mask == 1].max() < 1e-4


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("case", CASES)
def test_a_folder_that_transformers_saved_gives_its_logits(case: str, dtype: str, tmp_path: Path) -> None:
    """turnout-recipes reads config.json and safetensors; the model is saved in bfloat16 after it was rounded to that."""
    import turnout

    kind, architecture, own, _ = CASES[case]
    if architecture == "gemma3":
        pytest.skip("its rope_parameters differ from layer to layer, which is refused")
    model, wanted = made(kind, own, around_zero=architecture.startswith("gemma"))
    if dtype == "bfloat16":
        with torch.no_grad():
            for parameter in model.parameters():  # not model.to(bfloat16), which rounds the frequencies of the positions too
                parameter.copy_(parameter.to(torch.bfloat16))
            wanted = model(torch.tensor(IDS[None]), use_cache=False).logits[0].numpy()
        model.to(torch.bfloat16)
    model.save_pretrained(tmp_path)
    with turnout.load(tmp_path, device="cpu") as mine:
        found = Text(mine, capacity=32).feed(IDS)[0]
    assert np.abs(found - wanted).max() < 1e-4 * max(1.0, float(np.abs(wanted).max()))
