"""A sentence encoder out of GGUF against the same weights as an ONNX graph, and its tokens against a WordPiece of the tests' own."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import bert_file
import made
import numpy as np
import pytest

import turnout
from turnout.errors import InvalidInput, InvalidModel, NotGenerative

TEXTS = ["A man is eating food.", "The girl is carrying a baby, isn't she?", "hello", "Ångström's café: 12 %", "[CLS] is no sign here"]


pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture(scope="session")
def safetensors() -> Path:
    import packages

    return packages.model_path("sentences")


@pytest.fixture(scope="session")
def files(safetensors: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """The encoder as GGUF, written when it is first asked for."""
    folder = tmp_path_factory.mktemp("bert")

    def written(kind: str, pooling: str = "MEAN") -> Path:
        path = folder / f"{kind}-{pooling}.gguf"
        if not path.exists():
            bert_file.write(safetensors, path, kind, pooling)
        return path

    return written


@pytest.fixture(scope="session")
def oracle(safetensors: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[list[str]], Any]:
    """Vectors of texts by the graph of tests/models, on the reference of its package's own weights."""
    import sentence_encoder

    folder = tmp_path_factory.mktemp("oracle")
    shutil.copy(safetensors, folder)
    sentence_encoder.write(folder / safetensors.name, folder / "minilm.onnx")
    model = turnout.load(folder / "minilm.onnx", device="cpu")
    tokenizer = safetensors.with_name("tokenizer.json")
    return lambda texts: model.run(**sentence_encoder.tokenize(texts, tokenizer))["sentence"]


@pytest.mark.parametrize("accuracy", ["exact", "fast"])
def test_float32_is_what_the_package_says(files: Callable[..., Path], oracle: Any, accuracy: turnout.Accuracy) -> None:
    texts = TEXTS[:3]
    with turnout.load(files("F32"), device="cpu", accuracy=accuracy) as model:
        found = model.embed(texts)
    assert found.shape == (3, 384)
    assert found.dtype == np.float32
    assert abs(found - oracle(texts)).max() < 1e-5


_SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    ("kind", "off"), [("F16", 3e-4), ("Q8_0", 0.01), pytest.param("Q5_1", 0.04, marks=_SLOW), pytest.param("Q4_1", 0.08, marks=_SLOW)]
)
def test_quantised_is_close(files: Callable[..., Path], oracle: Any, kind: str, off: float) -> None:
    with turnout.load(files(kind), device="cpu", accuracy="exact") as model:
        assert abs(model.embed(TEXTS[:3]) - oracle(TEXTS[:3])).max() < off


def test_rounded_activations_stay_near(files: Callable[..., Path]) -> None:
    found = {}
    for accuracy in ("exact", "near", "fast"):
        with turnout.load(files("Q8_0"), device="cpu", accuracy=accuracy) as model:  # type: ignore[arg-type]
            found[accuracy] = model.embed(TEXTS[:3])
    near, fast = (abs(found[one] - found["exact"]).max() for one in ("near", "fast"))
    assert 0 < near < 2e-4
    assert near < fast / 10


def test_company_and_order_change_nothing(files: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    with turnout.load(files("F32"), device="cpu") as model:
        alone = np.concatenate([model.embed([text]) for text in TEXTS])
        assert abs(model.embed(TEXTS) - alone).max() < 1e-5
        monkeypatch.setattr("turnout_text.embedding._AT_ONCE", 24)
        assert abs(model.embed(TEXTS[::-1]) - alone[::-1]).max() < 1e-5
        assert model.embed([]).shape == (0, 384)


def test_tokens_are_those_of_its_tokenizer(files: Callable[..., Path], safetensors: Path) -> None:
    from tokenizers import Tokenizer

    own = Tokenizer.from_file(str(safetensors.with_name("tokenizer.json")))
    own.no_truncation()
    own.no_padding()
    with turnout.load(files("F32"), device="cpu") as model:
        for text in TEXTS[:4]:
            assert model.tokenize(text) == own.encode(text).ids


def test_each_pooling_takes_its_tokens(files: Callable[..., Path]) -> None:
    """All of them together make the mean."""
    ids = np.array([[101, 7592, 102, 0, 0], [101, 2158, 7592, 2158, 102]])
    feed = {"input_ids": ids, "attention_mask": (ids > 0).astype(np.int64)}
    found = {}
    for pooling in ("NONE", "MEAN", "CLS", "LAST"):
        with turnout.load(files("F32", pooling), device="cpu") as model:
            (found[pooling],) = model.run(feed).values()
    hidden = found["NONE"]
    assert hidden.shape == (2, 5, 384)
    assert np.isfinite(hidden).all()
    assert abs(found["CLS"] - hidden[:, 0]).max() < 1e-5
    assert abs(found["LAST"] - np.stack([hidden[0, 2], hidden[1, 4]])).max() < 1e-5
    assert abs(found["MEAN"] - np.stack([hidden[0, :3].mean(0), hidden[1].mean(0)])).max() < 1e-5


def test_what_cannot_be_embedded_is_said(files: Callable[..., Path]) -> None:
    with turnout.load(files("F32"), device="cpu") as model:
        with pytest.raises(InvalidInput, match="text 1 is 702 tokens"):
            model.embed(["short", "word " * 700])
        with pytest.raises(InvalidInput, match="no list"):
            model.embed("one text")
        with pytest.raises(NotGenerative):
            model.generate("hello")
        assert abs(np.linalg.norm(model.embed(["hello"], normalize=False)) - 1) > 0.01
    with turnout.load(files("F32", "NONE"), device="cpu") as model, pytest.raises(NotGenerative, match="no embeddings"):
        model.embed(["hello"])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"bert.attention.causal": True}, "causal"),
        ({"bert.pooling_type": 4}, "pooling_type is 4"),
        ({"bert.pooling_type": np.array([1, 2], np.int32)}, "pooling_type is array"),
        ({"bert.attention.causal": np.array([0, 1], np.int32)}, "causal"),
        ({"bert.attention.head_count": 7}, "cannot be shared"),
        ({"bert.attention.layer_norm_epsilon": None}, "layer_norm_epsilon is missing"),
        ({}, "tensor 'token_embd.weight' is missing"),
    ],
)
def test_a_file_that_contradicts_itself_is_refused(change: dict[str, Any], said: str) -> None:
    keys = {
        "general.architecture": "bert",
        "bert.block_count": 1,
        "bert.context_length": 8,
        "bert.embedding_length": 32,
        "bert.feed_forward_length": 64,
        "bert.attention.head_count": 4,
        "bert.attention.layer_norm_epsilon": 1e-12,
        **change,
    }
    with pytest.raises(InvalidModel, match=said):
        turnout.load(made.gguf({key: value for key, value in keys.items() if value is not None}), device="cpu")
