"""What a format of a plugin is told (accuracy, options), folders, and what a loaded model keeps of its source."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import numpy as np
import onnx
import pytest
from onnx import parser
from pydantic import BaseModel, ConfigDict

import turnout
from turnout import hookimpl, plugins
from turnout.errors import InvalidInput, InvalidModel, NotGenerative
from turnout.formats import Format
from turnout.formats.onnx import OnnxSource

RELU = parser.parse_model('<ir_version: 10, opset_import: ["" : 21]> g (float[2] x) => (float[2] y) { y = Relu(x) }')


class Boxed(Format):
    """A folder with a file named `box`, or a file that begins with BOX."""

    name = "boxed"

    class Options(BaseModel):
        model_config = ConfigDict(extra="forbid")
        lid: str = "closed"

    def __init__(self) -> None:
        self.told: list[Any] = []

    def accepts(self, head: bytes, name: str) -> bool:
        return head.startswith(b"BOX")

    def accepts_folder(self, folder: Path) -> bool:
        return (folder / "box").exists()

    def open(self, file: Path | bytes, *, accuracy: str = "fast", options: Any = None) -> OnnxSource:
        self.told.append((file, accuracy, options))
        source = OnnxSource(RELU)
        source.format = self.name
        source.path = file if isinstance(file, Path) else None
        return source


@pytest.fixture
def boxed() -> Iterator[Boxed]:
    made = Boxed()

    class Hooks:
        @staticmethod
        @hookimpl
        def turnout_formats() -> list[Format]:
            return [made]

    plugins.register(Hooks, "boxed")
    yield made
    plugins.unregister("boxed")


def test_a_format_is_told_accuracy_and_its_own_options(boxed: Boxed) -> None:
    turnout.load(b"BOX", device="cpu").close()
    names = get_args(turnout.Accuracy)
    for accuracy in names:
        turnout.load(b"BOX", device="cpu", accuracy=accuracy, options={"boxed": {"lid": "open"}}).close()
    told = [("fast", "closed"), *((accuracy, "open") for accuracy in names)]
    assert [(accuracy, options.lid) for _, accuracy, options in boxed.told] == told


def test_options_and_accuracy_that_nobody_knows(boxed: Boxed) -> None:
    with pytest.raises(InvalidInput, match="options\\['boxed'\\]: there is no option 'lit'") as wrong:
        turnout.load(b"BOX", options={"boxed": {"lit": 1}})
    assert wrong.value.hint == "its options are: lid"
    with pytest.raises(InvalidInput, match="'box'") as unknown:
        turnout.load(b"BOX", options={"box": {}})
    assert "boxed" in unknown.value.hint
    with pytest.raises(InvalidInput, match="'precise' is none of 'fast', 'near', 'exact', 'auto'"):
        turnout.load(b"BOX", accuracy="precise")  # type: ignore[arg-type]


def test_a_folder_goes_to_the_format_that_knows_it(boxed: Boxed, tmp_path: Path) -> None:
    (tmp_path / "box").touch()
    with turnout.load(tmp_path, device="cpu") as model:
        assert model.origin.path == tmp_path
        assert model.origin.format == "boxed"
    assert boxed.told[0][0] == tmp_path


def test_folders_that_no_format_knows(tmp_path: Path) -> None:
    with pytest.raises(InvalidModel, match="is a folder") as empty:
        turnout.load(tmp_path)
    assert empty.value.hint == "give a model file"
    (tmp_path / "onnx").mkdir()
    onnx.save(RELU, tmp_path / "onnx" / "model.onnx")
    with pytest.raises(InvalidModel, match="is a folder") as full:
        turnout.load(tmp_path)
    assert full.value.hint == f"give the file inside it: {tmp_path / 'onnx' / 'model.onnx'}"
    (tmp_path / "small.gguf").touch()
    with pytest.raises(InvalidModel, match="is a folder") as more:
        turnout.load(tmp_path)
    assert more.value.hint == f"give one of the files in it: {tmp_path / 'onnx' / 'model.onnx'}, {tmp_path / 'small.gguf'}"
    for number in range(4):
        (tmp_path / f"{number}.gguf").touch()
    with pytest.raises(InvalidModel, match="is a folder") as many:
        turnout.load(tmp_path)
    assert many.value.hint.endswith("3.gguf ...")


def test_a_model_knows_where_it_came_from(tmp_path: Path) -> None:
    made = onnx.ModelProto()
    made.CopyFrom(RELU)
    made.metadata_props.add(key="names", value="{0: 'cat'}")
    onnx.save(made, tmp_path / "cat.onnx")
    for given, path, name in ((tmp_path / "cat.onnx", tmp_path / "cat.onnx", "cat.onnx"), (made, None, "g")):
        with turnout.load(given, device="cpu") as model:
            assert (model.origin.format, model.origin.path, model.origin.name) == ("onnx", path, name)
            assert model.origin.metadata == {"names": "{0: 'cat'}"}


def test_what_a_model_keeps_of_its_source_holds_no_weights() -> None:
    class Array(np.ndarray):  # type: ignore[type-arg]
        """An array that can be watched."""

    weight = np.ones(1 << 20, np.float32).view(Array)
    watch = weakref.ref(weight)
    model = turnout.load(_with(weight), device="reference")
    del weight
    model.close()
    gc.collect()
    assert watch() is None
    assert model.origin.name == "g"


def _with(weight: Any) -> Any:
    from turnout.graph import ir

    made = OnnxSource(
        parser.parse_model('<ir_version: 10, opset_import: ["" : 21]> g (float[N] x, float[1] w) => (float[N] y) { y = Add(x, w) }')
    )
    model = made.model()
    (value,) = [one for one in model.graph.inputs if one.name == "w"]
    model.graph.inputs.remove(value)
    value.shape = ir.Shape(weight.shape)
    value.const_value = ir.Tensor(weight, name="w")
    model.graph.register_initializer(value)
    return model


@pytest.mark.parametrize("ask", [lambda m: m.tokenize("a"), lambda m: m.detokenize([1]), lambda m: m.logits([1])], ids=["t", "d", "l"])
def test_a_model_of_no_language_has_no_tokens(ask: Any) -> None:
    with turnout.load(RELU, device="cpu") as model, pytest.raises(NotGenerative):
        ask(model)


def test_text_is_left_to_whoever_takes_the_model() -> None:
    class Writer:
        def tokenize(self, text: str) -> list[int]:
            return [len(text)]

        def detokenize(self, tokens: list[int]) -> str:
            return "x" * tokens[0]

        def logits(self, tokens: list[int]) -> Any:
            return np.zeros((len(tokens), 3), np.float32)

    class Hooks:
        @staticmethod
        @hookimpl
        def turnout_text(model: Any) -> Any:
            return Writer()

    plugins.register(Hooks, "writer")
    try:
        with turnout.load(RELU, device="cpu") as model:
            assert model.tokenize("abc") == [3]
            assert model.detokenize([2]) == "xx"
            assert model.logits([1, 2]).shape == (2, 3)
    finally:
        plugins.unregister("writer")
