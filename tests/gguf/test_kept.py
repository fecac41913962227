"""Loads kept on disk: the second is the first one over again, and nothing that changed or broke in between gets into it."""

from __future__ import annotations

import json
import logging
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf_decoders
import numpy as np
import onnx
import pytest
from running import logits_of

import turnout
from turnout.model import Model


@pytest.fixture(autouse=True)
def cache(own_cache: Path) -> Path:
    return own_cache / "kept"


@pytest.fixture
def load(caplog: pytest.LogCaptureFixture) -> Callable[..., tuple[Model, bool]]:
    """Loads on the CPU, and says whether the load was taken from what was kept."""
    caplog.set_level(logging.INFO, "turnout")

    def loaded(file: Path, **how: Any) -> tuple[Model, bool]:
        caplog.clear()
        model = turnout.load(file, **{"device": "cpu", **how})
        return model, "taken from the last load" in caplog.text

    return loaded


@pytest.fixture
def in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three sessions for what is one without, so small as it is."""
    monkeypatch.setattr("turnout_cpu.provider.CpuProvider.at_once", lambda self: 3)
    monkeypatch.setattr("turnout_ort.pieces._LEAST", 1)
    monkeypatch.setattr("turnout_ort.pieces._SLACK", 0.3)


@pytest.mark.parametrize("device", ["cpu", None, ["cpu", "reference"]])
@pytest.mark.parametrize("accuracy", ["fast", "near", "exact", "auto"])
def test_the_second_load_is_the_first_one(file: Path, load: Callable[..., Any], device: Any, accuracy: turnout.Accuracy) -> None:
    first, was_kept = load(file, device=device, accuracy=accuracy)
    second, is_kept = load(file, device=device, accuracy=accuracy)
    assert (was_kept, is_kept) == (False, True)
    assert (logits_of(second, [1, 2, 3]) == logits_of(first, [1, 2, 3])).all()
    assert (second.inputs, second.outputs, second.fingerprint) == (first.inputs, first.outputs, first.fingerprint)
    assert second.explain() == first.explain()
    assert second.origin.metadata["general.architecture"] == "llama"


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16", "Q8_0", "Q6_K", "TQ2_0"])
def test_weights_of_every_element_type_come_back(tmp_path: Path, load: Callable[..., Any], kind: str) -> None:
    file = tmp_path / "other.gguf"
    wide = {"llama.embedding_length": 256, "llama.feed_forward_length": 256} if kind in ("Q6_K", "TQ2_0") else {}
    file.write_bytes(gguf_decoders.decoder(changes=wide, kind=kind))
    for accuracy in ("fast", "exact"):
        first, _ = load(file, accuracy=accuracy)
        second, is_kept = load(file, accuracy=accuracy)
        assert is_kept
        assert (logits_of(second, [1, 2, 3]) == logits_of(first, [1, 2, 3])).all()


def test_what_is_kept_is_rewritten_and_its_weights_lie_where_they_lay(file: Path, cache: Path, load: Callable[..., Any]) -> None:
    load(file)
    (graph,) = cache.glob("*/graph/0")
    before, after = (onnx.load(graph / name, load_external_data=False).graph for name in ("graph.onnx", "rewritten.onnx"))
    assert {"Sigmoid"} < {node.op_type for node in before.node}
    assert {"QuickGelu"} < {node.op_type for node in after.node} >= {"GroupQueryAttention", "MatMulNBits"}
    assert {"Sigmoid"}.isdisjoint(node.op_type for node in after.node)
    said = json.loads((graph / "weights.json").read_text())
    assert said["folder"] == str((cache.parent / "gguf").resolve())
    mapped = [one for one in after.initializer if {"location": "given-by-turnout"} != {e.key: e.value for e in one.external_data} != {}]
    assert sum(math.prod(one.dims) for one in mapped) > sum(math.prod(place[3]) for place in said["weights"].values())


def test_nothing_but_the_cache_is_written(file: Path, cache: Path, load: Callable[..., Any]) -> None:
    """ONNX Runtime deletes the file that it writes weights to; that was the null device once."""
    before = os.stat(os.devnull).st_ino, sorted(file.parent.iterdir())
    load(file)
    assert (os.stat(os.devnull).st_ino, sorted(file.parent.iterdir())) == (before[0], sorted([*before[1], cache.parent]))
    (graph,) = cache.glob("*/graph")
    names = {"graph.onnx", "rewritten.onnx", "weights.bin", "weights.json"}
    assert {str(one.relative_to(graph)) for one in graph.rglob("*.*")} == {"graph.json", *(f"0/{name}" for name in names)}


def test_no_rewriting_is_used_where_another_level_was_asked_for(file: Path, load: Callable[..., Any]) -> None:
    options = {"cpu": {"graph_optimization": "none"}}
    first, _ = load(file, options=options)
    second, is_kept = load(file, options=options)
    assert is_kept
    assert (logits_of(second, [1, 2, 3]) == logits_of(first, [1, 2, 3])).all()


def test_pieces_are_kept_each_for_itself(file: Path, cache: Path, load: Callable[..., Any], request: pytest.FixtureRequest) -> None:
    whole = turnout.load(file.read_bytes(), device="cpu")
    request.getfixturevalue("in_pieces")
    first, _ = load(file)
    second, is_kept = load(file)
    assert is_kept
    assert len([*cache.glob("*/graph/*/rewritten.onnx")]) == 3
    for tokens in ([1, 2, 3], [4], [5, 6]):
        assert (logits_of(first, tokens) == logits_of(second, tokens)).all()
        np.testing.assert_allclose(logits_of(second, tokens), logits_of(whole, tokens), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("cut_up", [False, True], ids=["whole", "in pieces"])
def test_caches_stay_in_place(file: Path, load: Callable[..., Any], request: pytest.FixtureRequest, cut_up: bool) -> None:
    if cut_up:
        request.getfixturevalue("in_pieces")
    for expected in (False, True):
        model, is_kept = load(file)
        assert is_kept == expected
        sized = {
            info.name: (1, info.shape[1], 8, info.shape[3])
            for info in model.inputs
            if info.name.startswith("past_") and len(info.shape) == 4
        }
        cache = {name: np.zeros(shape, np.float32) for name, shape in sized.items()}
        plain = {"input_ids": np.array([[1, 2]]), "past_tokens": np.array([0]), "wanted_tokens": np.array([1])}
        outputs = {info.name: cache[info.alias] for info in model.outputs if info.alias}
        bound = model.bind({**plain, **cache}, outputs=outputs)
        bound.run()
        assert all(array[:, :, :2].any() and not array[:, :, 2:].any() for array in cache.values())


@pytest.mark.parametrize(
    "change",
    [
        lambda file, cache: os.utime(file, ns=(0, 0)),
        lambda file, cache: file.write_bytes(gguf_decoders.decoder(kind="Q4_1", changes={"llama.rope.freq_base": 7.0})),
        lambda file, cache: [os.utime(one, ns=(1, 1)) for one in (cache.parent / "gguf").iterdir()],
        lambda file, cache: shutil.rmtree(cache.parent / "gguf"),
        lambda file, cache: [one.write_bytes(b"{") for one in cache.glob("*/load.json")],
        lambda file, cache: [one.write_bytes(one.read_bytes()[:-9]) for one in cache.glob("*/graph/0/*.onnx")],
        lambda file, cache: [one.unlink() for one in cache.glob("*/graph/0/weights.json")],
    ],
    ids=["touched", "rewritten", "store touched", "store gone", "record broken", "graph cut short", "half gone"],
)
def test_what_changed_is_loaded_in_full(file: Path, cache: Path, load: Callable[..., Any], change: Callable[[Path, Path], Any]) -> None:
    load(file)
    change(file, cache)
    model, is_kept = load(file)
    assert not is_kept
    fresh = turnout.load(file.read_bytes(), device="cpu")  # bytes are never kept
    assert (logits_of(model, [1, 2, 3]) == logits_of(fresh, [1, 2, 3])).all()
    assert load(file)[1]


def test_other_options_are_another_load(file: Path, load: Callable[..., Any]) -> None:
    load(file)
    assert not load(file, options={"gguf": {"batch": None}}, device=["cpu", "reference"])[1]
    assert not load(file, options={"cpu": {"threads": 1}})[1]
    assert not load(file, accuracy="exact")[1]
    assert load(file)[1]


def test_a_plugin_of_another_version_is_another_load(file: Path, load: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    load(file)
    monkeypatch.setattr("turnout_cpu.provider.CpuProvider.keeps", lambda self, device: "another version")
    assert not load(file)[1]


def test_a_provider_that_breaks_when_asked_is_one_that_keeps_nothing(
    file: Path, cache: Path, load: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("turnout_cpu.provider.CpuProvider.keeps", lambda self, device: 1 / 0)
    load(file)
    assert not load(file)[1]
    assert not cache.exists()


def test_nothing_is_kept_where_that_is_not_wanted(file: Path, cache: Path, load: Callable[..., Any]) -> None:
    load(file, options={"gguf": {"keep": False}})
    assert not cache.exists()


def test_a_folder_that_cannot_be_written_costs_nothing_else(file: Path, cache: Path, load: Callable[..., Any]) -> None:
    cache.parent.mkdir()
    cache.write_text("in the way")
    assert not load(file)[1]
    assert not load(file)[1]


def test_only_so_many_are_kept(tmp_path: Path, cache: Path, load: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("turnout.kept._MOST", 2)
    for number in range(4):
        file = tmp_path / f"{number}.gguf"
        file.write_bytes(gguf_decoders.decoder(kind="Q4_0"))
        load(file)
    assert len(list(cache.iterdir())) == 2
    assert load(file)[1]


def in_a_process_of_its_own(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


SPARED = ("onnx", "onnx_ir", "tokenizers", "ml_dtypes", "turnout_ort.build", "turnout_ort.registry", "turnout_gguf.reader")


def test_a_kept_load_imports_nothing_that_it_does_not_need(file: Path, load: Callable[..., Any]) -> None:
    """Of onnx, protobuf and onnx_ir alone it takes longer than the rest of such a load."""
    code = f"import sys, turnout; turnout.load({str(file)!r}, device='cpu'); print({set(SPARED)} & set(sys.modules))"
    said = [in_a_process_of_its_own(code) for _ in range(2)]
    assert said[1] == "set()"


def test_a_kept_load_with_types_that_numpy_has_not(tmp_path: Path, load: Callable[..., Any]) -> None:
    file = tmp_path / "b.gguf"
    file.write_bytes(gguf_decoders.decoder(kind="BF16"))
    wanted = logits_of(load(file)[0], [1, 2, 3])
    code = f"""if True:
        import sys
        sys.path.append({str(Path(__file__).parent)!r})
        from running import logits_of
        import turnout
        model = turnout.load({str(file)!r}, device="cpu")
        assert "turnout_gguf.reader" not in sys.modules, "it was not kept"
        print(logits_of(model, [1, 2, 3]).tolist())"""
    assert json.loads(in_a_process_of_its_own(code)) == wanted.tolist()
