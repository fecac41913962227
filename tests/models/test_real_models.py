"""Real models load, run and give what ONNX Runtime alone gives, whole and cut into pieces."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from packages import model_path

import turnout

Feed = dict[str, Any]
RNG = np.random.default_rng(7)


def normal(*shape: int) -> np.ndarray[Any, Any]:
    return RNG.standard_normal(shape).astype(np.float32)


def zeros(*shape: int) -> np.ndarray[Any, Any]:
    return np.zeros(shape, np.float32)


def speechlike() -> np.ndarray[Any, Any]:
    time = np.arange(576) / 16000
    return (0.3 * np.sin(2 * np.pi * 180 * time) + 0.1 * np.sin(2 * np.pi * 720 * time)).astype(np.float32)[None]


@dataclass(frozen=True)
class Real:
    """A model of the table: its inputs, and whether any of its nodes is one that the toy runs."""

    name: str
    feed: Callable[[], Feed]
    splits: bool = True
    has_if: bool = False


RATE = np.array(16000, np.int64)
STRINGS = [["*", "助詞", "*", "名詞", "*", "動詞"], ["a", "b", "c", "d", "e", "f"]]
REAL = [
    Real("magika", lambda: {"bytes": RNG.integers(0, 257, (3, 2048), np.int32)}),
    # ONNX Runtime takes an If with its bodies whole, so that nothing outside is left for the toy
    Real("vad", lambda: {"input": speechlike(), "state": zeros(2, 1, 128), "sr": RATE}, splits=False, has_if=True),
    Real("vad_op15", lambda: {"input": speechlike(), "state": zeros(2, 1, 128), "sr": RATE}),
    Real("vad_sequence", lambda: {"input": normal(4, 576), "h": zeros(1, 1, 128), "c": zeros(1, 1, 128)}),
    Real("vad_half", lambda: {"input": speechlike(), "state": zeros(2, 1, 128)}),
    Real("vad_one_if", lambda: {"input": speechlike(), "sr": RATE, "state": zeros(2, 1, 128)}, splits=False, has_if=True),
    Real("ocr_detection", lambda: {"x": normal(1, 3, 96, 160)}),
    Real("ocr_recognition", lambda: {"x": normal(2, 3, 48, 120)}),
    Real("ocr_direction", lambda: {"x": normal(2, 3, 48, 192)}),
    Real("layout", lambda: {"image": normal(1, 3, 800, 608)}),
    Real("orientation", lambda: {"x": normal(2, 3, 224, 224)}),
    Real("music", lambda: {"serving_default_input_2:0": normal(1, 43844, 1)}),
    Real("melspectrogram", lambda: {"input": 1000 * normal(1, 16000)}),
    Real("speech_embedding", lambda: {"input_1": normal(3, 76, 32, 1)}),
    Real("wake_word", lambda: {"input_1": normal(2, 16, 96)}),
    Real("timer_words", lambda: {"onnx::Flatten_0": normal(1, 34, 96)}),
    Real("masked_language", lambda: {"input_1": RNG.integers(1, 30, (2, 32))}),
    Real("phoneme_encoder", lambda: {"input_1": normal(2, 9, 28)}, splits=False),  # LSTM and its plumbing alone
    Real("phoneme_decoder", lambda: {"input_2": normal(2, 9, 32), "input_3": normal(2, 256), "input_4": normal(2, 256)}),
    Real("one_hot_strings", lambda: {"input": np.array(STRINGS, object)}, splits=False),  # strings, then OneHotEncoder
    Real("trees", lambda: {"input": (normal(5, 131) > 0).astype(np.float32)}, splits=False),  # one node, TreeEnsemble
]


@pytest.fixture(params=REAL, ids=lambda real: real.name)
def real(request: pytest.FixtureRequest) -> Real:
    return request.param


@pytest.fixture
def path(real: Real) -> Path:
    return model_path(real.name)


def alone(path: Path, feed: Feed) -> dict[str, Any]:
    """What ONNX Runtime gives when nothing stands before it."""
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 4
    session = onnxruntime.InferenceSession(str(path), settings, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, feed), strict=True))


def assert_same(got: dict[str, Any], wanted: dict[str, Any]) -> None:
    assert list(got) == list(wanted)
    for name, array in wanted.items():
        assert got[name].dtype == array.dtype
        assert np.array_equal(got[name], array), name


def assert_close(got: dict[str, Any], wanted: dict[str, Any]) -> None:
    assert list(got) == list(wanted)
    for name, array in wanted.items():
        assert got[name].dtype == array.dtype
        np.testing.assert_allclose(got[name], array, rtol=1e-4, atol=1e-5, err_msg=name)


def test_equals_onnx_runtime_alone(real: Real, path: Path) -> None:
    feed = real.feed()
    with turnout.load(path) as model:
        (part,) = model.explain().partitions
        assert (part.device, part.body_of) == ("cpu:0", "")
        assert_same(model.run(feed), alone(path, feed))


def test_a_model_in_memory_equals_the_file(real: Real, path: Path) -> None:
    """Not the file but the graph that turnout made of it reaches ONNX Runtime."""
    feed = real.feed()
    with turnout.load(onnx.load(path)) as model:
        assert_close(model.run(feed), alone(path, feed))


def test_split_between_devices(real: Real, path: Path) -> None:
    feed = real.feed()
    with turnout.load(path, device=["toy", "cpu"]) as model:
        devices = {part.device for part in model.explain().partitions}
        assert devices == ({"toy:0", "cpu:0"} if real.splits else {"cpu:0"})
        assert_close(model.run(feed), alone(path, feed))


@pytest.mark.parametrize("real", [real for real in REAL if real.has_if], ids=lambda real: real.name)
def test_bodies_split_between_devices(real: Real, path: Path) -> None:
    """Neither the toy nor the reference takes an If, so turnout runs them, and the bodies are cut up like graphs."""
    feed = real.feed()
    with turnout.load(path, device=["toy", "reference"]) as model:
        story = model.explain()
        assert {part.device for part in story.partitions if part.body_of} >= {"toy:0", "reference:0"}
        assert {part.device for part in story.partitions if "If" in part.operators} == {"host"}
        assert_close(model.run(feed), alone(path, feed))


def test_state_goes_around() -> None:
    """The voice detector over a second of sound, its state fed back each time, as it is meant to be used."""
    path = model_path("vad")
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    ours = theirs = zeros(2, 1, 128)
    with turnout.load(path) as model:
        for sound in normal(31, 1, 576) * 0.05:
            mine = model.run(input=sound, state=ours, sr=RATE)
            ours = mine["stateN"]
            output, theirs = session.run(["output", "stateN"], {"input": sound, "state": theirs, "sr": RATE})
            assert np.array_equal(mine["output"], output)
    assert np.array_equal(ours, theirs)
    assert np.abs(ours).max() > 0


def test_other_rates_take_the_other_branch() -> None:
    feed = {"input": speechlike()[:, :288], "state": zeros(2, 1, 128), "sr": np.array(8000, np.int64)}
    path = model_path("vad")
    with turnout.load(path, device=["toy", "reference"]) as model:
        assert_close(model.run(feed), alone(path, feed))
