"""Real models give sensible answers to real questions: the whole way from raw data, through turnout, to meaning."""

from __future__ import annotations

import math
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from packages import model_path
from PIL import Image, ImageDraw, ImageFont
from sentence_encoder import tokenize, write

import turnout
from turnout.demo import FileTypes


@pytest.fixture
def sentences(tmp_path: Path) -> tuple[Path, Path]:
    """(the encoder, its tokenizer). The weights lie beside the graph, in the package's own safetensors file."""
    weights = model_path("sentences")
    try:
        os.link(weights, tmp_path / weights.name)
    except OSError:  # another file system
        shutil.copy(weights, tmp_path)
    write(weights, tmp_path / "encoder.onnx")
    return tmp_path / "encoder.onnx", weights.with_name("tokenizer.json")


def test_sentences_of_one_meaning_lie_close(sentences: tuple[Path, Path]) -> None:
    path, tokenizer = sentences
    said = ["A man is eating food.", "Someone is having a meal.", "The stock market crashed yesterday."]
    feed = tokenize(said, tokenizer)
    with turnout.load(path) as model:
        assert [part.device for part in model.explain().partitions] == ["cpu:0"]
        found = model.run(feed)["sentence"]
    likeness = found @ found.T
    assert likeness[0, 1] > 0.5 > 0.2 > max(likeness[0, 2], likeness[1, 2])
    assert np.array_equal(found, onnxruntime.InferenceSession(str(path)).run(None, feed)[0])
    with turnout.load(path, device=["toy", "cpu"]) as model:
        assert len(model.explain().partitions) > 30
        np.testing.assert_allclose(model.run(feed)["sentence"], found, rtol=1e-4, atol=1e-5)


def test_file_types(tmp_path: Path) -> None:
    files = {
        "code": "import os\n\n\ndef main(argv: list[str]) -> int:\n    for name in argv:\n        print(os.stat(name))\n    return 0\n",
        "page": "<!doctype html>\n<html><head><title>Hello</title></head><body><h1>Hello</h1><p>World.</p></body></html>\n",
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    model_file = model_path("magika")
    types = FileTypes(model_file.parents[2])
    with turnout.load(model_file) as model:
        guesses = types.guesses([tmp_path / name for name in files], model)
    assert [guess.label for guess in guesses.values()] == ["python", "html"]


def draw(text: str, height: int = 48) -> Image.Image:
    font = ImageFont.load_default(height * 0.7)
    width = math.ceil(font.getlength(text)) + 20
    image = Image.new("RGB", (width, height), "white")
    ImageDraw.Draw(image).text((10, height * 0.08), text, "black", font)
    return image


def as_input(image: Image.Image) -> np.ndarray[Any, Any]:
    """Channels first, from -1 to 1, in a batch of one."""
    return (np.asarray(image, np.float32).transpose(2, 0, 1)[None] / 127.5 - 1).astype(np.float32)


def test_text_is_read() -> None:
    path = model_path("ocr_recognition")
    session = onnxruntime.InferenceSession(str(path))
    letters = ["", *session.get_modelmeta().custom_metadata_map["character"].split("\n"), " "]
    with turnout.load(path) as model:
        (scores,) = model.run(as_input(draw("turnout 2048"))).values()
    best = scores[0].argmax(-1)
    kept = [letter for at, letter in enumerate(best) if at == 0 or letter != best[at - 1]]  # a repeated letter is one
    assert "".join(letters[letter] for letter in kept) == "turnout 2048"


def test_text_is_found() -> None:
    page = Image.new("RGB", (320, 160), "white")
    page.paste(draw("junction"), (40, 96))
    with turnout.load(model_path("ocr_detection")) as model:
        (heat,) = model.run(as_input(page)).values()
    rows, columns = np.nonzero(heat[0, 0] > 0.3)
    assert rows.size
    assert rows.min() > 90
    assert columns.min() > 30


@pytest.mark.parametrize("midi", [57, 69, 76])
def test_notes_are_heard(midi: int) -> None:
    path = model_path("music")
    time = np.arange(43844) / 22050
    tone = sum(np.sin(2 * np.pi * 440 * 2 ** ((midi - 69) / 12) * k * time) / k for k in (1, 2, 3))
    with turnout.load(path) as model:
        outputs = model.run((0.3 * tone).astype(np.float32)[None, :, None])
    assert midi - 21 in {int(array[0, 20:150].mean(0).argmax()) for array in outputs.values() if array.shape[-1] == 88}


def test_three_models_in_a_row_hear_no_wake_word_in_noise() -> None:
    noise = np.random.default_rng(3).standard_normal((1, 16000 * 2)).astype(np.float32) * 300
    with turnout.load(model_path("melspectrogram")) as mel, turnout.load(model_path("speech_embedding")) as embedding:
        spectrum = np.squeeze(mel.run(noise)["output"]) / np.float32(10) + np.float32(2)
        windows = np.stack([spectrum[at : at + 76] for at in range(0, len(spectrum) - 76, 8)])[..., None]
        embedded = embedding.run(windows)["conv2d_19"].reshape(1, -1, 96)
    with turnout.load(model_path("wake_word")) as word:
        (score,) = word.run(embedded[:, -16:]).values()
    assert embedded.shape[1] >= 16
    assert 0 <= score.item() < 0.1


def test_silence_is_no_voice() -> None:
    with turnout.load(model_path("vad")) as model:
        found = model.run(np.zeros((1, 576), np.float32), np.zeros((2, 1, 128), np.float32), np.array(16000, np.int64))
    assert found["output"].item() < 0.1
