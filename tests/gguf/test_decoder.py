"""Small random decoders of every architecture and type, against the oracle; and what is said of files that cannot be built."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

import gguf_decoders
import numpy as np
import pytest
from forward import Oracle
from made import BY_NAME, MadeTensor, gguf, tensor
from running import Text, load, logits_of

import turnout
from turnout.errors import InvalidModel, RunError
from turnout_gguf.blocks import QUANTISED
from turnout_gguf.format import GgufFormat
from turnout_gguf.reader import read
from turnout_gguf.weights import DENSE

ORT = tuple(int(part) for part in version("onnxruntime").split(".")[:2])
IDS = np.random.default_rng(0).integers(0, gguf_decoders.VOCABULARY, (2, 13))


def error(file: bytes, accuracy: turnout.Accuracy) -> float:
    """What logits differ from the oracle's by at most, as a share of the largest."""
    model = load(file, accuracy=accuracy)
    logits = np.stack([logits_of(model, row) for row in IDS])
    wanted = np.stack([Oracle(read(file)).logits(row) for row in IDS])
    assert logits.dtype == np.float32
    assert logits.shape == wanted.shape
    assert np.abs(wanted).max() > 0.1
    return float(np.abs(logits - wanted).max() / np.abs(wanted).max())


def check(file: bytes) -> None:
    assert error(file, "exact") < 2e-5


@pytest.mark.parametrize("kind", [*DENSE, *QUANTISED])
def test_every_type_of_weights(kind: str) -> None:
    check(gguf_decoders.decoder(kind=kind))


def levels(accuracy: turnout.Accuracy, **how: Any) -> set[int]:
    graph = GgufFormat().open(gguf_decoders.decoder(**how), accuracy=accuracy).model().graph
    return {node.attributes["accuracy_level"].value for node in graph if node.op_type == "MatMulNBits"}


@pytest.mark.parametrize("kind", ["Q4_0", "Q4_1", "Q6_K"])
def test_with_rounded_activations_the_logits_stay_near(kind: str) -> None:
    file = gguf_decoders.decoder(kind=kind)
    fast, near, exact = (error(file, accuracy) for accuracy in ("fast", "near", "exact"))
    assert fast < 0.1
    assert exact < near < fast / 2
    assert near < 1e-3


def test_small_models_are_computed_near_by_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    assert levels("auto", kind="Q4_0") == levels("near", kind="Q4_0") == {2}
    monkeypatch.setattr("turnout_gguf.format._SMALL", 1000)
    assert levels("auto", kind="Q4_0") == levels("fast", kind="Q4_0") == {4, 2}
    assert levels("exact", kind="Q4_0") == {0}
    multiplied = GgufFormat().open(gguf_decoders.decoder(kind="Q4_0"))._multiplied()
    monkeypatch.setattr("turnout_gguf.format._SMALL", multiplied)
    assert levels("auto", kind="Q4_0") == {2}
    assert levels("auto", kind="Q4_0", tied=False) == {2}  # a table that is only gathered from counts for nothing


@pytest.mark.parametrize("kind", ["TQ1_0", "TQ2_0"])
def test_models_of_three_values_a_weight_are_computed_near(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("turnout_gguf.format._SMALL", 1000)
    assert levels("fast", kind=kind) == levels("auto", kind=kind) == {2}
    assert levels("exact", kind=kind) == {0}


CASES: dict[str, dict[str, Any]] = {
    "a head of its own": {"tied": False},
    "table and matrices of different types": {"table": "Q6_K", "kind": "Q4_K"},
    "biases": {"biases": "q k v output"},
    "linear scaling": {"changes": {"rope.scaling.type": "linear", "rope.scaling.factor": 4.0}},
    "linear scaling, as older files say it": {"changes": {"rope.scale_linear": 2.0}},
    "another base": {"changes": {"rope.freq_base": 500.0}},
    "half of each head turned": {"changes": {"rope.dimension_count": 32}},
    "a key head for each head, by leaving the key out": {"key_heads": 4, "changes": {"attention.head_count_kv": None}},
    "one number of heads for each block": {"changes": {"attention.head_count_kv": np.array([2, 2], "i4")}},
    "heads wider than their share": {"changes": {"attention.key_length": 64, "attention.value_length": 64}},
}


@pytest.mark.parametrize("case", CASES)
def test_llama(case: str) -> None:
    check(gguf_decoders.decoder(**CASES[case]))


def test_llama_3_stretches_each_frequency() -> None:
    factors = np.linspace(1, 8, 32).astype("<f4")
    made = [MadeTensor("rope_freqs.weight", 0, (32,), factors.tobytes()), *gguf_decoders.tensors()]
    check(gguf(gguf_decoders.keys(), made))


@pytest.mark.parametrize("kind", ["F16", "Q4_1"])
def test_qwen2(kind: str) -> None:
    check(gguf_decoders.decoder("qwen2", kind=kind, biases="q k v"))


@pytest.mark.parametrize("kind", ["F32", "Q8_0"])
def test_qwen3(kind: str) -> None:
    check(gguf_decoders.decoder("qwen3", kind=kind, head_norms=True))


def factors(which: str, start: float, stop: float) -> MadeTensor:
    return MadeTensor(f"rope_factors_{which}.weight", 0, (32,), np.linspace(start, stop, 32).astype("<f4").tobytes())


LONG = {"rope.scaling.original_context_length": 8, "rope.scaling.attn_factor": 1.2}
YARN = {"rope.scaling.type": "yarn", "rope.scaling.factor": 4.0, "rope.scaling.original_context_length": 16}

FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {},
    "llama in a window": {"changes": {"attention.sliding_window": 5}},
    "llama by YaRN": {"changes": YARN},
    "qwen2 by YaRN": {"architecture": "qwen2", "changes": YARN},
    "qwen3": {"architecture": "qwen3", "head_norms": True},
    "phi3": {"architecture": "phi3", "tied": False},
    "phi3 in a window": {"architecture": "phi3", "changes": {"attention.sliding_window": 5}},
    "phi3, some of each head turned": {"architecture": "phi3", "changes": {"rope.dimension_count": 48}},
    "gemma": {"architecture": "gemma"},
    "gemma2": {"architecture": "gemma2", "changes": {"attn_logit_softcapping": 5.0, "final_logit_softcapping": 3.0}},
    "gemma2 in a window": {"architecture": "gemma2", "changes": {"attention.sliding_window": 5, "attn_logit_softcapping": 5.0}},
    "gemma3": {"architecture": "gemma3", "blocks": 6, "changes": {"attention.sliding_window": 5, "rope.freq_base": 500.0}},
    "gemma3, scaled": {"architecture": "gemma3", "blocks": 6, "changes": {"rope.scaling.type": "linear", "rope.scaling.factor": 8.0}},
}


@pytest.mark.parametrize("kind", ["F32", "Q4_1"])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family(family: str, kind: str) -> None:
    check(gguf_decoders.decoder(**FAMILIES[family], kind=kind))


@pytest.mark.parametrize("tokens", [8, 13])
def test_long_texts_have_factors_of_their_own(tokens: int) -> None:
    file = gguf_decoders.decoder("phi3", LONG, [factors("long", 1, 8), factors("short", 1, 2)])
    wanted = Oracle(read(file)).logits(IDS[0, :tokens])
    assert np.abs(logits_of(load(file), IDS[0, :tokens]) - wanted).max() < 2e-5 * np.abs(wanted).max()


@pytest.mark.parametrize("family", FAMILIES)
def test_tokens_may_come_in_any_portions(family: str) -> None:
    file = gguf_decoders.decoder(**FAMILIES[family], kind="Q4_1")
    wanted = Oracle(read(file)).logits(IDS[0])
    text = Text(load(file), capacity=20)  # what lies in the cache beyond its tokens does not matter
    pieces, start = [], 0
    for portion in (5, 1, 4, 1, 2):
        pieces.append(text.feed(IDS[:1, start : start + portion])[0])
        start += portion
    logits = np.concatenate(pieces)
    assert start == IDS.shape[1]
    assert np.abs(logits - wanted).max() < 2e-5 * np.abs(wanted).max()


def test_only_wanted_logits_are_computed() -> None:
    model = load(gguf_decoders.decoder(kind="Q4_1"))
    every = logits_of(model, IDS[0])
    some = Text(model).feed(IDS[:1], wanted=[12, 3])[0]
    assert some.shape == (2, gguf_decoders.VOCABULARY)
    assert np.abs(some - every[[12, 3]]).max() < 1e-6 * np.abs(every).max()


SCATTERS = ["cpu", "reference"]  # the CPU provider has TensorScatter in the newer ONNX Runtimes only


@pytest.mark.parametrize("portion", [1, 2])
def test_rows_may_be_of_different_lengths(portion: int) -> None:
    file = gguf_decoders.decoder()
    text = Text(load(file, batch=None, device=SCATTERS), rows=2, capacity=20)
    text.feed(IDS[:, :6])
    text.past = np.array([6, 4])  # the second row forgets two tokens and goes on from the fourth
    found = text.feed(np.array([IDS[0, 6 : 6 + portion], IDS[1, 4 : 4 + portion]]))
    oracle = Oracle(read(file))
    wanted = np.stack([oracle.logits(IDS[0, : 6 + portion])[6:], oracle.logits(IDS[1, : 4 + portion])[4:]])
    assert np.abs(found - wanted).max() < 2e-5 * np.abs(wanted).max()


@pytest.mark.skipif(ORT < (1, 32), reason="GroupQueryAttention of older ONNX Runtimes does not look at its lengths: 1.24 hangs")
@pytest.mark.parametrize("past", [-1, 19, 1000, 100000])
def test_more_tokens_than_the_cache_holds_are_an_error(past: int) -> None:
    text = Text(load(gguf_decoders.decoder(kind="Q4_1")), capacity=20)
    text.past = np.array([past])
    with pytest.raises(RunError):
        text.feed(IDS[:1, :2] if past > 0 else IDS[:1, :1])


def test_the_cache_is_updated_in_place() -> None:
    model = load(gguf_decoders.decoder(kind="Q4_1"))
    caches = {info.name: info.alias for info in model.outputs if info.alias}
    assert caches == {f"present_{what}.{n}": f"past_{what}.{n}" for n in range(2) for what in ("key", "value")}
    text = Text(model)
    past, ids = np.zeros(1, np.int64), np.zeros((1, 1), np.int64)
    buffers = {present: text.state[name] for present, name in caches.items()}
    feed = {"input_ids": ids, "past_tokens": past, "wanted_tokens": np.zeros(1, np.int64), **text.state}
    bound = model.bind(feed, outputs=buffers)
    wanted = logits_of(model, IDS[0])
    for position, token in enumerate(IDS[0]):
        ids[0, 0], past[0] = token, position
        found = bound.run()
        assert found["present_key.1"] is text.state["past_key.1"]
        assert np.abs(found["logits"][0, 0] - wanted[position]).max() < 1e-5 * np.abs(wanted).max()


def test_the_order_of_the_tokens_matters() -> None:
    model = load(gguf_decoders.decoder())
    one, other = logits_of(model, [5, 6, 7]), logits_of(model, [6, 5, 7])
    assert np.abs(one[-1] - other[-1]).max() > 1e-3 * np.abs(one).max()


def test_a_path_loads_by_itself(tmp_path: Any) -> None:
    path = tmp_path / "small.gguf"
    path.write_bytes(gguf_decoders.decoder(kind="Q4_K"))
    with turnout.load(path, device="cpu") as model:
        assert [str(value) for value in (*model.inputs[:3], model.outputs[0])] == [
            "int64[1,tokens]",
            "int64[1]",
            "int64[wanted]",
            "float32[1,wanted,96]",
        ]
        assert logits_of(model, IDS[0]).shape == (13, 96)


def test_weights_that_a_runtime_reads_as_they_are_stay_in_the_file() -> None:
    file = gguf_decoders.decoder(kind="F16")
    initializers = GgufFormat().open(file).model().graph.initializers
    whole = np.frombuffer(file, np.uint8)
    for name in ("token_embd.weight", "blk.1.ffn_down.weight.transposed", "output_norm.weight"):
        array = initializers[name].const_value
        assert array is not None
        assert np.shares_memory(array.numpy(), whole), name


def test_planning_reads_no_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: Any) -> None:
        raise AssertionError("weights were repacked")

    monkeypatch.setattr("turnout_gguf.weights.repack", refuse)
    model = GgufFormat().open(gguf_decoders.decoder(kind="Q4_K")).model()
    with pytest.raises(AssertionError, match="repacked"):
        model.graph.initializers["token_embd.weight.scales"].const_value.numpy()  # type: ignore[union-attr]


def without(name: str) -> bytes:
    return gguf(gguf_decoders.keys(), [one for one in gguf_decoders.tensors() if one.name != name])


def changed(**changes: Any) -> bytes:
    return gguf_decoders.decoder(changes={key.replace("__", "."): value for key, value in changes.items()})


UNBUILDABLE: dict[str, tuple[bytes, str]] = {
    "no architecture": (gguf({}), "its architecture is None"),
    "an unknown one": (gguf({"general.architecture": "warp"}), "its architecture is 'warp', and turnout builds llama, qwen2, qwen3, phi3"),
    "an architecture that is a number": (gguf({"general.architecture": 7}), "its architecture is 7"),
    "a missing key": (changed(block_count=None), "llama.block_count is missing"),
    "a key of the wrong type": (changed(embedding_length="wide"), "embedding_length is 'wide'"),
    "a count of 0": (changed(attention__head_count=0), "head_count is 0"),
    "more blocks than tensors": (changed(block_count=2**31 - 1), "'blk.2.attn_norm.weight' is missing"),
    "heads that cannot be shared": (changed(attention__head_count_kv=3), "4 heads cannot share 3"),
    "heads that differ": (changed(attention__head_count_kv=np.array([2, 1], "i4")), "head_count_kv is array([2, 1]"),
    "keys and values of different sizes": (changed(attention__value_length=32), "different sizes"),
    "an odd number of turned elements": (changed(rope__dimension_count=33), "turn 33 elements"),
    "no epsilon": (changed(attention__layer_norm_rms_epsilon=float("nan")), "epsilon is nan"),
    "experts": (changed(expert_count=8), "expert_count is 8, which turnout cannot compute yet"),
    "an unknown scaling": (changed(rope__scaling__type="su"), "scaled by 'su'"),
    "scaling by an array": (changed(rope__scaling__type=np.array([], "i4")), "scaled by array([]"),
    "a missing tensor": (without("blk.1.ffn_up.weight"), "missing"),
    "a missing table": (without("token_embd.weight"), "'token_embd.weight' is missing"),
    "a tensor of another shape": (changed(embedding_length=128), "token_embd.weight' is [96, 256], and the metadata want [96, 128]"),
    "a tensor without a place": (gguf(gguf_decoders.keys(), [*gguf_decoders.tensors(), tensor("x.y", "F32", (4,))]), "no place"),
    "a bias where the family has none": (gguf_decoders.decoder("qwen2", biases="q").replace(b"attn_q.bias", b"ffn_up.bias"), "no place"),
    "a type that cannot be read": (
        gguf(gguf_decoders.keys(), [MadeTensor("token_embd.weight", 41, (96, 256), bytes(192 * BY_NAME["Q1_0"].nbytes))]),
        "type Q1_0",
    ),
}


@pytest.mark.parametrize("what", UNBUILDABLE)
def test_what_cannot_be_built_is_refused_with_the_reason(what: str) -> None:
    file, reason = UNBUILDABLE[what]
    with pytest.raises(InvalidModel) as caught:
        GgufFormat().open(file).model()
    assert reason in caught.value.message
    assert caught.value.hint
