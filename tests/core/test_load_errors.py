"""Whatever is given to `load` and `run`: a model that works, or one error of the right kind that names the thing and says what to do."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, numpy_helper, parser

import turnout
from turnout.errors import (
    Closed,
    CompileError,
    InvalidInput,
    InvalidModel,
    NoProvider,
    NoSuchDevice,
    NotGenerative,
    TurnoutError,
    UnknownFormat,
)

HEAD = '<ir_version: 10, opset_import: ["" : 21]>'
RELU = f"{HEAD} g (float[N,3] image, int64[N] label) => (float[N,3] y, int64[N] z) {{ y = Relu(image) z = Identity(label) }}"


def model_of(graph: str, head: str = HEAD) -> onnx.ModelProto:
    return parser.parse_model(f"{head} {graph}")


def fails(kind: type[TurnoutError], *names: str, call: Callable[[], Any]) -> TurnoutError:
    """Calls, and asserts an error of exactly this kind whose message has all the names, and that has a hint."""
    with pytest.raises(kind) as caught:
        call()
    error = caught.value
    assert type(error) is kind
    assert error.hint
    for name in names:
        assert name in error.message, error.message
    assert error.hint in str(error)
    return error


# files that are no models -------------------------------------------------------------------------------------------


def test_no_such_file(tmp_path: Path) -> None:
    (tmp_path / "resnet50.onnx").write_bytes(b"x")
    error = fails(InvalidModel, "resent50.onnx", call=lambda: turnout.load(tmp_path / "resent50.onnx"))
    assert "did you mean" in error.hint
    assert "resnet50.onnx" in error.hint
    fails(InvalidModel, "nothing.like", call=lambda: turnout.load(str(tmp_path / "nothing.like")))
    fails(InvalidModel, "gone", call=lambda: turnout.load(tmp_path / "gone" / "model.onnx"))
    fails(InvalidModel, "resnet50.onnx", call=lambda: turnout.load(tmp_path / "resnet50.onnx" / "model.onnx"))
    fails(InvalidModel, "model", call=lambda: turnout.load("model\0.onnx"))
    fails(InvalidModel, "a" * 5000, call=lambda: turnout.load("a" * 5000))


def test_a_folder(tmp_path: Path) -> None:
    fails(InvalidModel, tmp_path.name, "folder", call=lambda: turnout.load(tmp_path))


def pickled(protocol: int) -> bytes:
    return pickle.dumps({"weights": [1.0]}, protocol)


def zipped() -> bytes:
    import io

    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        archive.writestr("archive/data.pkl", b"x")
    return target.getvalue()


IMPOSTORS = {
    "empty": (b"", "empty"),
    "page": (b"<!DOCTYPE html>\n<html><body>404</body></html>", "HTML"),
    "page_after_spaces": (b"\n\n  <HTML><body>", "HTML"),
    "page_after_mark": (b"\xef\xbb\xbf<!doctype html>", "HTML"),
    "xml": (b'<?xml version="1.0"?><model/>', "XML"),
    "lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n", "Git LFS"),
    "zip": (zipped(), "zip"),
    "gzip": (b"\x1f\x8b\x08\x00\x00\x00\x00\x00", "gzip"),
    "json": (json.dumps({"model": "bert"}).encode(), "JSON"),
    **{f"pickle{protocol}": (pickled(protocol), "pickle") for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1)},
}


@pytest.mark.parametrize("name", IMPOSTORS)
@pytest.mark.parametrize("ending", [".onnx", ".bin", None])
def test_impostors(name: str, ending: str | None, tmp_path: Path) -> None:
    content, word = IMPOSTORS[name]
    path = tmp_path / f"model{ending}"
    path.write_bytes(content)
    given_model: Any = content if ending is None else path
    error = fails(InvalidModel, word, call=lambda: turnout.load(given_model))
    assert ("<bytes>" if ending is None else path.name) in error.message


@pytest.mark.parametrize("content", [b"PNG....", b"\x00" * 64, b"TFL3", "Übersicht".encode()])
def test_unknown_formats(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "model.bin").write_bytes(content)
    error = fails(UnknownFormat, "model.bin", call=lambda: turnout.load(tmp_path / "model.bin"))
    assert "onnx" in error.hint


def test_a_gguf_file_without_its_plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("turnout.formats.choose.plugins.calls", lambda hook: iter(()))
    (tmp_path / "model.gguf").write_bytes(b"GGUF\x03\x00\x00\x00")
    error = fails(UnknownFormat, "model.gguf", call=lambda: turnout.load(tmp_path / "model.gguf"))
    assert "turnout-gguf" in error.hint


@pytest.mark.parametrize("content", [b"onnx is a format", b"\x08", b"\x08\x0a", b"\x08\x0a\x3a\x00", b"\x08\x0a\x3a\x00\x42\x02\x10\x15"])
def test_onnx_files_with_nothing_in_them(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(content)
    if content.endswith(b"\x15"):  # an empty graph is a model of nothing
        assert turnout.load(tmp_path / "model.onnx").run() == {}
    else:
        fails(InvalidModel, "model.onnx", call=lambda: turnout.load(tmp_path / "model.onnx"))


def rich_model() -> onnx.ModelProto:
    """Weights large and small, a body, strings, a sequence: something of everything for bytes to go wrong in."""
    made = model_of(
        """g (float[N,8] x, bool b) => (float[N,40] y, z) <float[8] small = {1, 2, 3, 4, 5, 6, 7, 8}> {
            s = Mul(x, small)
            h = MatMul(s, w)
            c = Constant<value_floats = [0.5, 1.5]>()
            k = ReduceSum<keepdims = 0>(c)
            y = If (b) <then_branch = t () => (float[N,40] u) { u = Add(h, k) },
                        else_branch = e () => (float[N,40] v) { n = Neg(h) v = Relu(n) }>
            z = SequenceConstruct(x, s)
        }"""
    )
    made.graph.initializer.append(numpy_helper.from_array(np.ones((8, 40), np.float32), "w"))
    return made


WHOLE = rich_model().SerializeToString()


def load_and_run(content: bytes) -> None:
    """A model that may also run, or an error on purpose."""
    try:
        with turnout.load(content, device=["cpu", "reference"]) as model:
            if {info.name for info in model.inputs} == {"x", "b"}:
                model.run(x=np.ones((2, 8), np.float32), b=np.array(True))
    except TurnoutError:
        pass


@settings(max_examples=150)
@given(st.integers(0, len(WHOLE) - 1))
def test_files_that_end_too_soon(length: int) -> None:
    load_and_run(WHOLE[:length])


@settings(max_examples=250)
@given(st.lists(st.tuples(st.integers(0, len(WHOLE) - 1), st.integers(0, 255)), min_size=1, max_size=4))
def test_corrupted_files(changes: list[tuple[int, int]]) -> None:
    content = bytearray(WHOLE)
    for at, byte in changes:
        content[at] = byte
    load_and_run(bytes(content))


STRUCTURE = len(WHOLE) - 8 * 40 * 4  # all but the weight, which any bytes are good for


@settings(max_examples=200)
@given(st.data())
def test_files_with_pieces_missing_or_twice(data: st.DataObject) -> None:
    start = data.draw(st.integers(0, STRUCTURE))
    end = data.draw(st.integers(start, min(start + 40, STRUCTURE)))
    content = WHOLE[:start] + data.draw(st.sampled_from([b"", WHOLE[start:end] * 2])) + WHOLE[end:]
    load_and_run(content)


@settings(max_examples=100)
@given(st.binary(max_size=200))
def test_any_bytes(content: bytes) -> None:
    load_and_run(content)
    load_and_run(b"\x08\x0a" + content)


# external data ------------------------------------------------------------------------------------------------------


def external_model(location: str = "weights.bin", dims: tuple[int, ...] = (4,), **where: Any) -> onnx.ModelProto:
    made = model_of("g (float[4] x) => (float[4] y) { y = Add(x, w) }")
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=dims, data_location=TensorProto.EXTERNAL)
    for key, value in {"location": location, **where}.items():
        tensor.external_data.add(key=key, value=str(value))
    made.graph.initializer.append(tensor)
    return made


WEIGHTS = np.array([1, 2, 3, 4], np.float32)
ONES = np.ones(4, np.float32)


def write(folder: Path, model: onnx.ModelProto, data: bytes | None = WEIGHTS.tobytes(), data_name: str = "weights.bin") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    if data is not None:
        (folder / data_name).parent.mkdir(parents=True, exist_ok=True)
        (folder / data_name).write_bytes(data)
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    return folder / "model.onnx"


def assert_adds_weights(path: Path, devices: tuple[Any, ...] = (None, ["toy", "cpu"])) -> None:
    for device in devices:
        with turnout.load(path, device=device) as model:
            assert model.run(ONES)["y"].tolist() == [2, 3, 4, 5]


@pytest.mark.parametrize("offset", [0, 8, 3])
@pytest.mark.parametrize("location", ["weights.bin", "./weights.bin", "deeper/weights.bin", "deeper/../weights.bin"])
def test_external_data_is_read(location: str, offset: int, tmp_path: Path) -> None:
    (tmp_path / "deeper").mkdir()
    model = external_model(location, offset=offset, length=16)
    assert_adds_weights(write(tmp_path, model, bytes(offset) + WEIGHTS.tobytes(), location))


@pytest.mark.parametrize(
    ("where", "size", "word"),
    [
        ({}, None, "no such file"),
        ({}, 15, "has 15"),
        ({"offset": 4}, 16, "has 16"),
        ({"offset": -4}, 16, "has 16"),
        ({"offset": 2**62}, 16, "has 16"),
        ({"length": 12}, 16, "want 16"),
        ({"length": 20}, 32, "want 16"),
        ({"length": 2**70}, 32, "want 16"),
        ({"offset": "four"}, 16, "no number"),
        ({"length": "all"}, 16, "no number"),
        ({"dims": (2**40, 2**40)}, 16, "has 16"),
        ({"dims": (-4,)}, 16, "negative"),
    ],
    ids=str,
)
def test_external_data_that_is_not_what_it_says(where: dict[str, Any], size: int | None, word: str, tmp_path: Path) -> None:
    path = write(tmp_path, external_model(**where), None if size is None else bytes(size))
    error = fails(InvalidModel, "model.onnx", "'w'", word, call=lambda: turnout.load(path))
    assert size is not None or "weights.bin" in error.message


@pytest.mark.parametrize("location", ["../secret.bin", "a/../../secret.bin", "{absolute}", "", ".", "..", "a/../../inside/../secret.bin"])
def test_external_data_outside_the_folder_is_refused(location: str, tmp_path: Path) -> None:
    (tmp_path / "secret.bin").write_bytes(WEIGHTS.tobytes())
    inside = tmp_path / "inside"
    path = write(inside, external_model(location.format(absolute=tmp_path / "secret.bin")), None)
    (inside / "a").mkdir()
    fails(InvalidModel, "'w'", call=lambda: turnout.load(path))


@pytest.mark.skipif(sys.platform == "win32", reason="links need a privilege there")
@pytest.mark.parametrize("through", ["file", "folder"])
def test_external_data_that_links_out_of_the_folder_is_refused(through: str, tmp_path: Path) -> None:
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "weights.bin").write_bytes(WEIGHTS.tobytes())
    location = "weights.bin" if through == "file" else "deeper/weights.bin"
    path = write(tmp_path / "inside", external_model(location), None)
    if through == "file":
        (tmp_path / "inside" / "weights.bin").symlink_to("../secret/weights.bin")
    else:
        (tmp_path / "inside" / "deeper").symlink_to("../secret", target_is_directory=True)
    fails(InvalidModel, "'w'", "outside", call=lambda: turnout.load(path))


@pytest.mark.skipif(sys.platform == "win32", reason="links need a privilege there")
def test_a_hub_cache_is_accepted(tmp_path: Path) -> None:
    """Both files are links into a folder of blobs, and a third may link to the folder of the links."""
    blobs = tmp_path / "blobs"
    snapshot = tmp_path / "snapshots" / "0a1b"
    write(blobs, external_model(), data_name="2c3d").rename(blobs / "4e5f")
    snapshot.mkdir(parents=True)
    (snapshot / "model.onnx").symlink_to("../../blobs/4e5f")
    (snapshot / "weights.bin").symlink_to("../../blobs/2c3d")
    assert_adds_weights(snapshot / "model.onnx")
    (tmp_path / "here").symlink_to("snapshots/0a1b", target_is_directory=True)
    assert_adds_weights(tmp_path / "here" / "model.onnx")


def test_files_with_hard_links_are_accepted(tmp_path: Path) -> None:
    """Package installers make such files."""
    path = write(tmp_path, external_model())
    os.link(tmp_path / "weights.bin", tmp_path / "again.bin")
    assert_adds_weights(path)


def test_external_data_in_a_body(tmp_path: Path) -> None:
    made = model_of(
        """g (float[4] x, bool b) => (float[4] y) {
            y = If (b) <then_branch = t () => (float[4] u) { u = Add(x, w) }, else_branch = e () => (float[4] v) { v = Neg(x) }>
        }"""
    )
    made.graph.node[0].attribute[0].g.initializer.extend(external_model().graph.initializer)
    path = write(tmp_path, made)
    os.link(tmp_path / "weights.bin", tmp_path / "again.bin")
    for device in ("cpu", ["toy", "reference"]):
        with turnout.load(path, device=device) as model:
            assert model.run(ONES, np.array(True))["y"].tolist() == [2, 3, 4, 5]
    (tmp_path / "weights.bin").unlink()
    fails(InvalidModel, "'w'", "no such file", call=lambda: turnout.load(path))


def test_external_data_of_a_model_without_a_place() -> None:
    for given_model in (external_model().SerializeToString(), external_model()):
        error = fails(InvalidModel, "'w'", "weights.bin", call=lambda given_model=given_model: turnout.load(given_model))
        assert "path" in error.hint


MEMORY_SCRIPT = """
import resource, sys
import numpy as np
import turnout
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
with turnout.load(sys.argv[1]) as model:
    found = model.run(np.array([0, 5, 624999]))["y"]
    assert found.shape == (3, 1024), found.shape
    assert found[0].sum() == 0 and found[1].tolist() == [1.5] * 1024 and found[2].tolist() == [2.5] * 1024
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="counts memory in Linux's units")
def test_a_model_larger_than_protobuf_allows_is_mapped(tmp_path: Path) -> None:
    rows, width = 625_000, 1024
    with (tmp_path / "weights.bin").open("wb") as file:
        file.truncate(rows * width * 4)  # 2.56 GB, of which nothing lies on the disk
        for row, value in ((5, 1.5), (rows - 1, 2.5)):
            file.seek(row * width * 4)
            file.write(np.full(width, value, np.float32).tobytes())
    made = model_of(f"g (int64[N] i) => (float[N,{width}] y) {{ y = Gather(w, i) }}")
    made.graph.initializer.extend(external_model(dims=(rows, width)).graph.initializer)
    path = write(tmp_path, made, None)
    done = subprocess.run([sys.executable, "-c", MEMORY_SCRIPT, path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) * 1024 < rows * width * 4 / 2


# models that contradict themselves ----------------------------------------------------------------------------------

CONTRADICTIONS: dict[str, tuple[str, type[TurnoutError], str]] = {
    "unknown operator": ("g (float[2] x) => (float[2] y) { y = Reluu(x) }", NoProvider, "Reluu"),
    "unknown domain": ("g (float[2] x) => (float[2] y) { y = com.acme.Relu(x) }", NoProvider, "com.acme"),
    "constant twice": (
        "g (float[2] x) => (float[2] y) { c = Constant<value_float = 1.0>() c = Constant<value_float = 2.0>() y = Add(x, c) }",
        InvalidModel,
        "'c'",
    ),
    "constant for an input": ("g (float[2] x) => (float[2] y) { x = Constant<value_float = 1.0>() y = Neg(x) }", InvalidModel, "'x'"),
    "undefined value": ("g (float[2] x) => (float[2] y) { y = Add(x, nowhere) }", InvalidModel, "nowhere"),
    "undefined output": ("g (float[2] x) => (float[2] y) { z = Relu(x) }", InvalidModel, "'y'"),
    "value twice": ("g (float[2] x) => (float[2] y) { y = Relu(x) y = Neg(x) }", InvalidModel, "'y'"),
    "cycle": ("g (float[2] x) => (float[2] y) { a = Add(x, b) b = Neg(a) y = Relu(b) }", InvalidModel, "circle"),
    "cycle through a body": (
        """g (float[2] x, bool c) => (float[2] y) {
            y = If (c) <then_branch = t () => (float[2] u) { u = Relu(z) }, else_branch = e () => (float[2] v) { v = Neg(x) }>
            z = Neg(y)
        }""",
        InvalidModel,
        "circle",
    ),
    "body reads its own node": (
        """g (float[2] x, bool c) => (float[2] y) {
            y = If (c) <then_branch = t () => (float[2] u) { u = Relu(y) }, else_branch = e () => (float[2] v) { v = Neg(x) }>
        }""",
        InvalidModel,
        "circle",
    ),
    "shapes": ("g (float[2,3] x, float[4,5] w) => (float[2,5] y) { y = MatMul(x, w) }", CompileError, "MatMul"),
    "input twice": ("g (float[2] x, float[2] x) => (float[2] y) { y = Relu(x) }", InvalidModel, "'x'"),
    "branch missing": (
        "g (float[2] x, bool c) => (float[2] y) { y = If (c) <then_branch = t () => (float[2] u) { u = Relu(x) }> }",
        InvalidModel,
        "else_branch",
    ),
    "branches of other lengths": (
        """g (float[2] x, bool c) => (float[2] y) {
            y = If (c) <then_branch = t () => (float[2] u) { u = Relu(x) }, else_branch = e () => () { v = Neg(x) }>
        }""",
        InvalidModel,
        "else_branch gives 0",
    ),
    "loop body takes too little": (
        "g (int64 n, float[2] x) => (float[2] y) { y = Loop (n, , x) <body = b (int64 i) => (bool c, float[2] z) { z = Neg(x) }> }",
        InvalidModel,
        "body takes 1",
    ),
    "operator set of the future": ("g (float[2] x) => (float[2] y) { y = Relu(x) }", InvalidModel, "999"),
    "operator set of the past": ("g (float[2] x) => (float[2] y) { y = Relu(x) }", InvalidModel, "operator set is 0"),
}


@pytest.mark.parametrize("name", CONTRADICTIONS)
def test_models_that_contradict_themselves(name: str, tmp_path: Path) -> None:
    graph, kind, word = CONTRADICTIONS[name]
    opset = {"operator set of the future": 999, "operator set of the past": 0}.get(name, 21)
    made = model_of(graph, f'<ir_version: 10, opset_import: ["" : {opset}, "com.acme" : 1]>')
    fails(kind, word, call=lambda: turnout.load(made, device="cpu"))
    (tmp_path / "model.onnx").write_bytes(made.SerializeToString())
    fails(kind, word, call=lambda: turnout.load(tmp_path / "model.onnx", device="cpu"))
    fails(kind, word, call=lambda: turnout.load(made.SerializeToString(), device="cpu"))


@pytest.mark.parametrize("name", ["unknown operator", "unknown domain"])
def test_an_operator_that_nobody_knows_is_refused_by_everyone(name: str) -> None:
    graph, _, word = CONTRADICTIONS[name]
    made = model_of(graph, '<ir_version: 10, opset_import: ["" : 21, "com.acme" : 1]>')
    error = fails(NoProvider, word, "reference:0", call=lambda: turnout.load(made))
    assert error.plan is not None  # type: ignore[attr-defined]


def test_no_graph_or_no_operator_set() -> None:
    bare = onnx.ModelProto(ir_version=10)
    fails(InvalidModel, "graph", call=lambda: turnout.load(bare))
    made = model_of("g (float[2] x) => (float[2] y) { y = Relu(x) }")
    del made.opset_import[:]
    fails(InvalidModel, "operator set", call=lambda: turnout.load(made.SerializeToString()))


def test_a_weight_with_too_few_bytes() -> None:
    for size in (4, 4000):
        made = model_of(f"g (float[{size}] x) => (float[{size}] y) {{ y = Add(x, w) }}")
        made.graph.initializer.append(TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[size], raw_data=bytes(size * 4 - 4)))
        fails(InvalidModel, "'w'", str(size * 4 - 4), call=lambda made=made: turnout.load(made))
        fails(InvalidModel, "'w'", str(size * 4 - 4), call=lambda made=made: turnout.load(made.SerializeToString()))


@pytest.mark.parametrize("name", [b"Relu", b"image", b"thename", b"label"])
def test_names_that_are_no_text(name: bytes) -> None:
    made = parser.parse_model(RELU)
    made.graph.node[0].name = "thename"
    content = made.SerializeToString().replace(name, b"\xff" * len(name))
    fails(InvalidModel, "no text", call=lambda: turnout.load(content))


def test_functions_that_call_themselves() -> None:
    made = model_of(
        "g (float[2] x) => (float[2] y) { y = local.f(x) } "
        '<domain: "local", opset_import: ["" : 21, "local" : 1]> f (a) => (b) { b = local.f(a) }',
        '<ir_version: 10, opset_import: ["" : 21, "local" : 1]>',
    )
    fails(InvalidModel, "local", "f", call=lambda: turnout.load(made))


CRASHING_SCRIPT = """
import sys
from onnx import parser
import turnout
try:
    turnout.load(parser.parse_model(sys.argv[1]))
except turnout.errors.NoProvider as error:
    print(error.message)
"""


def test_a_function_whose_types_nobody_knows_ends_no_process() -> None:
    """onnx's inference crashes on some operators where a value has no type, so that this runs in a process of its own."""
    made = """<ir_version: 10, opset_import: ["" : 21, "ai.onnx.ml" : 3, "com.acme" : 1, "local" : 1]>
        g (float[3] x) => (r) { v = com.acme.Unknown(x) r = local.f(v) }
        <domain: "local", opset_import: ["" : 21, "ai.onnx.ml" : 3]>
        f (u) => (r) { r = ai.onnx.ml.LabelEncoder<keys_floats = [1.0], values_int64s = [1]>(u) }"""
    done = subprocess.run([sys.executable, "-c", CRASHING_SCRIPT, made], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "com.acme::Unknown" in done.stdout


# devices and options ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("device", ["warp", "cuda", "cup", "cpu:9", "cpu:x", "", [], ["cpu", "warp"], [3]])
def test_devices_that_cannot_be_had(device: Any) -> None:
    name = device[-1] if isinstance(device, list) and device else device
    fails(NoSuchDevice, str(name), call=lambda: turnout.load(parser.parse_model(RELU), device=device))


def test_a_misspelt_device_is_guessed() -> None:
    error = fails(NoSuchDevice, "'cup'", call=lambda: turnout.load(parser.parse_model(RELU), device="cup"))
    assert "cpu" in error.hint


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"cup": {"threads": 1}}, ["'cup'"]),
        ({"cpu": {"thread": 1}}, ["cpu", "thread"]),
        ({"cpu": {"threads": 0}}, ["cpu", "threads"]),
        ({"cpu": {"threads": "many"}}, ["cpu", "threads"]),
        ({"cpu": 3}, ["cpu"]),
        ({"cpu": None}, ["cpu"]),
        ({"toy": {}}, ["'toy'"]),
        ({3: {}}, ["3"]),
    ],
    ids=str,
)
def test_options_that_nobody_takes(options: Any, words: list[str]) -> None:
    fails(InvalidInput, *words, call=lambda: turnout.load(parser.parse_model(RELU), options=options))


def test_what_no_device_takes_names_it() -> None:
    error = fails(NoProvider, "toy:0", "Identity", call=lambda: turnout.load(parser.parse_model(RELU), device="toy"))
    assert "device=" in error.hint


# inputs -------------------------------------------------------------------------------------------------------------

IMAGE = np.zeros((2, 3), np.float32)
LABEL = np.zeros(2, np.int64)
WRONG: dict[str, tuple[tuple[Any, ...], dict[str, Any], str]] = {
    "misspelt": ((), {"imagee": IMAGE, "label": LABEL}, "'imagee'"),
    "missing": ((), {"image": IMAGE}, "'label'"),
    "nothing": ((), {}, "'image'"),
    "extra": ((), {"image": IMAGE, "label": LABEL, "mask": LABEL}, "'mask'"),
    "extra in mapping": (({"image": IMAGE, "label": LABEL, 3: LABEL},), {}, "3"),
    "too many": ((IMAGE, LABEL, LABEL), {}, "3"),
    "twice": ((IMAGE, LABEL), {"image": IMAGE}, "'image'"),
    "twice in mapping": (({"image": IMAGE},), {"image": IMAGE, "label": LABEL}, "'image'"),
    "rank": ((IMAGE[0], LABEL), {}, "'image'"),
    "shape": ((np.zeros((2, 4), np.float32), LABEL), {}, "'image'"),
    "dtype": ((IMAGE.astype(np.float64), LABEL), {}, "float64"),
    "integer": ((IMAGE, LABEL.astype(np.int32)), {}, "'label'"),
    "strings": ((np.array([["a"] * 3]), LABEL), {}, "'image'"),
    "objects": ((np.array([[None] * 3]), LABEL), {}, "'image'"),
    "none": ((None, LABEL), {}, "'image'"),
    "ragged": (([[1, 2, 3], [1, 2]], LABEL), {}, "'image'"),
    "text": (("picture.png", LABEL), {}, "'image'"),
    "object": ((object(), LABEL), {}, "'image'"),
    "lossy": ((IMAGE, [0.5, 1]), {}, "'label'"),
}


@pytest.mark.parametrize("device", ["cpu", ["toy", "cpu"], "reference"], ids=str)
@pytest.mark.parametrize("name", WRONG)
def test_wrong_inputs(name: str, device: Any) -> None:
    arrays, named, word = WRONG[name]
    with turnout.load(parser.parse_model(RELU), device=device) as model:
        error = fails(InvalidInput, word, call=lambda: model.run(*arrays, **named))
        fails(InvalidInput, word, call=lambda: model.bind(*arrays, **named))
        assert name != "misspelt" or "did you mean 'image'" in error.hint
        model.run(IMAGE, LABEL)  # and it goes on working


def test_a_misspelt_input_is_not_hidden_by_a_default() -> None:
    made = model_of("g (float[2] x, float[2] bias = {1, 1}) => (float[2] y) { y = Add(x, bias) }")
    x = np.zeros(2, np.float32)
    with turnout.load(made) as model:
        error = fails(InvalidInput, "'bais'", call=lambda: model.run(x=x, bais=x))
        assert "'bias'" in error.hint
        fails(InvalidInput, "'bais'", call=lambda: model.bind(x=x, bais=x))


@pytest.mark.parametrize("device", ["cpu", ["toy", "cpu"]], ids=str)
def test_use_after_close(device: Any) -> None:
    model = turnout.load(parser.parse_model(RELU), device=device)
    bound = model.bind(IMAGE, LABEL)
    bound.run()
    model.close()
    for call in (lambda: model.run(IMAGE, LABEL), lambda: model.bind(IMAGE, LABEL), bound.run, lambda: model.generate("hi")):
        fails(Closed, "g ", call=call)
    assert "closed" in repr(model)
    assert str(model.explain())


def test_a_model_that_makes_no_text() -> None:
    with turnout.load(parser.parse_model(RELU)) as model:
        fails(NotGenerative, "g ", call=lambda: model.generate("hello"))
        fails(NotGenerative, "g ", call=model.chat)


def test_wrong_buffers() -> None:
    frozen = np.empty((2, 3), np.float32)
    frozen.flags.writeable = False
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"yy": np.empty((2, 3), np.float32)}, "'yy'"),
        ({"y": np.empty((2, 3), np.float64)}, "float64"),
        ({"y": np.empty((2, 4), np.float32)}, "'y'"),
        ({"y": np.empty(6, np.float32)}, "'y'"),
        ({"y": np.empty((3, 2), np.float32).T}, "'y'"),
        ({"y": frozen}, "'y'"),
        ({"y": [[0.0] * 3] * 2}, "'y'"),
    ]
    with turnout.load(parser.parse_model(RELU)) as model:
        for outputs, word in wrong:
            fails(InvalidInput, word, call=lambda outputs=outputs: model.bind(IMAGE, LABEL, outputs=outputs))


def test_a_run_that_fails_says_where() -> None:
    made = model_of("g (float[N] x, int64[M] shape) => (y) { y = Reshape(x, shape) }")
    for device in ("cpu", "reference"):
        with turnout.load(made, device=device) as model, pytest.raises(turnout.errors.RunError, match=r"(?i)reshape"):
            model.run(np.zeros(6, np.float32), np.array([4, 4]))
