"""Where ONNX's evaluator is wrong, or lacks a library: the reference provider mends it, or says so."""

from __future__ import annotations

import importlib.util
import locale

import numpy as np
import onnx
import onnx.helper as oh
import pytest

import turnout
from turnout.errors import NoProvider

pytestmark = pytest.mark.filterwarnings("ignore::turnout.errors.SlowPathWarning")


def words(**attributes: object) -> onnx.ModelProto:
    node = oh.make_node("StringNormalizer", ["x"], ["y"], **attributes)
    info = oh.make_tensor_value_info
    graph = oh.make_graph([node], "words", [info("x", onnx.TensorProto.STRING, None)], [info("y", onnx.TensorProto.STRING, None)])
    return oh.make_model(graph, opset_imports=[oh.make_opsetid("", 10)], ir_version=10)


@pytest.mark.parametrize(
    ("attributes", "given", "wanted"),
    [
        ({"case_change_action": "UPPER", "is_case_sensitive": 1}, ["\u00e9t\u00e9", "a", ""], ["\u00c9T\u00c9", "A", ""]),
        ({"case_change_action": "LOWER", "stopwords": ["A"], "is_case_sensitive": 1}, ["A", "a", "B"], ["a", "b"]),
        ({"case_change_action": "LOWER", "stopwords": ["A"], "is_case_sensitive": 0}, ["A", "a", "B"], ["b"]),
        ({"stopwords": ["a"], "is_case_sensitive": 0}, [["A", "B"]], [["B"]]),
        ({"stopwords": ["a", "b"], "is_case_sensitive": 0}, [["A", "B"]], [[""]]),
        ({"stopwords": ["a"], "is_case_sensitive": 1}, ["a"], [""]),
    ],
)
def test_words_keep_their_accents_and_the_process_its_locale(attributes, given, wanted):
    before = locale.setlocale(locale.LC_ALL)
    result = turnout.load(words(locale="C", **attributes), device="reference").run(x=np.array(given, object))["y"]
    assert result.dtype == object
    assert result.tolist() == wanted
    assert locale.setlocale(locale.LC_ALL) == before


def test_scores_before_the_soft_cap_are_those_that_mode_0_asks_for():
    source = """g (double[1,1,2,4] q, double[1,1,3,4] k, double[1,1,3,4] v) => (double[1,1,2,4] y, double[1,1,2,3] scores) {
        y, "", "", scores = Attention<softcap = 1.5, qk_matmul_output_mode = 0>(q, k, v) }"""
    model = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : 24]> {source}')
    rng = np.random.default_rng(2)
    feed = {name: 3 * rng.normal(size=shape) for name, shape in (("q", (1, 1, 2, 4)), ("k", (1, 1, 3, 4)), ("v", (1, 1, 3, 4)))}
    outputs = turnout.load(model).run(feed)
    raw = feed["q"] @ feed["k"].swapaxes(-1, -2) / 2
    weights = np.exp(1.5 * np.tanh(raw / 1.5))
    np.testing.assert_allclose(outputs["scores"], raw, rtol=1e-6)
    np.testing.assert_allclose(outputs["y"], weights / weights.sum(-1, keepdims=True) @ feed["v"], rtol=1e-6)


IMAGE = onnx.parser.parse_model(
    '<ir_version: 10, opset_import: ["" : 20]> g (uint8[N] data) => (uint8[H,W,3] image) { image = ImageDecoder<pixel_format="RGB">(data) }'
)


def test_images_say_that_they_need_pillow(monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: None if name == "PIL" else found(name, *more))
    with pytest.raises(NoProvider, match=r"ImageDecoder needs Pillow, which is not installed: pip install 'turnout\[image\]'"):
        turnout.load(IMAGE)


def test_images_are_decoded_where_pillow_is_there():
    image = pytest.importorskip("PIL.Image")
    import io

    pixels = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    file = io.BytesIO()
    image.fromarray(pixels).save(file, "png")
    result = turnout.load(IMAGE).run(data=np.frombuffer(file.getvalue(), np.uint8))["image"]
    np.testing.assert_array_equal(result, pixels)
