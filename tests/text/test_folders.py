"""Folders of exported language models: Optimum's and onnxruntime-genai's, whole, incomplete and strange."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from text_decoders import EMBEDDINGS, HEAD, expected, folder, model

import turnout
from turnout.errors import InvalidModel
from turnout_text.caches import Growing, InPlace, switch_of
from turnout_text.session import sessions_of


def test_optimums_folder(tmp_path: Path) -> None:
    made = folder(tmp_path / "model", context=123)
    with turnout.load(made, device="cpu") as small:
        assert small.name == "model"
        assert small.origin.format == "optimum"
        assert small.origin.metadata == {"decoder": "model.onnx", "context_length": 123}
        assert np.array_equal(small.logits([1, 2, 3]), expected([1, 2, 3]))
        assert type(sessions_of(small)()) is Growing  # type: ignore[misc]
    (made / "onnx").mkdir()
    (made / "model.onnx").rename(made / "onnx" / "model.onnx")  # as the hub's folders are laid out
    with turnout.load(made, device="cpu") as small:
        assert small.generate("hi", max_tokens=2).result.generated_tokens == 2
    with turnout.load(made / "onnx" / "model.onnx", device="cpu") as small:  # the file finds the tokenizer beside its folder
        assert small.tokenize("a", ends=False) == [97]


@pytest.mark.parametrize("place", ["beside", "within"])
def test_a_folder_says_where_long_factors_begin(tmp_path: Path, place: str) -> None:
    name, scaling = "original_max_position_embeddings", {"type": "longrope", "long_factor": [2.0]}
    more = {"rope_scaling": scaling, name: 64} if place == "beside" else {"rope_parameters": {**scaling, name: 64}}
    with turnout.load(folder(tmp_path / "model", context=123, **more), device="cpu") as small:
        assert small.origin.metadata["original_context_length"] == 64
        assert switch_of(small.origin) == 64
        made = sessions_of(small)
        assert made is not None
        assert made().switch == 64


def grouped() -> onnx.ModelProto:
    """One layer of GroupQueryAttention with rotary positions left out, as onnxruntime-genai's exports have it."""
    width, heads, head = 16, 2, 8
    rng = np.random.default_rng(1)
    weights = {name: rng.standard_normal((width, width)).astype(np.float32) / 4 for name in ("q", "k", "v", "o")}
    table = rng.standard_normal((259, width)).astype(np.float32)
    int64, float32 = onnx.TensorProto.INT64, onnx.TensorProto.FLOAT
    cache = ["batch", heads, "past", head], ["batch", heads, "total", head]
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["x"]),
        *(helper.make_node("MatMul", ["x", name], [f"x.{name}"]) for name in ("q", "k", "v")),
        helper.make_node("ReduceSum", ["attention_mask", "axis"], ["counts"], keepdims=0),
        helper.make_node("Sub", ["counts", "one"], ["last"]),
        helper.make_node("Cast", ["last"], ["last.32"], to=onnx.TensorProto.INT32),
        helper.make_node("Shape", ["attention_mask"], ["total.64"], start=1, end=2),
        helper.make_node("Cast", ["total.64"], ["total.32"], to=onnx.TensorProto.INT32),
        helper.make_node(
            "GroupQueryAttention",
            ["x.q", "x.k", "x.v", "past_key_values.0.key", "past_key_values.0.value", "last.32", "total.32"],
            ["seen", "present.0.key", "present.0.value"],
            domain="com.microsoft",
            num_heads=heads,
            kv_num_heads=heads,
        ),
        helper.make_node("MatMul", ["seen", "o"], ["y"]),
        helper.make_node("Add", ["x", "y"], ["z"]),
        helper.make_node("MatMul", ["z", "head"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "grouped",
        [
            helper.make_tensor_value_info("input_ids", int64, ["batch", "tokens"]),
            helper.make_tensor_value_info("attention_mask", int64, ["batch", "total"]),
            *(helper.make_tensor_value_info(f"past_key_values.0.{part}", float32, cache[0]) for part in ("key", "value")),
        ],
        [
            helper.make_tensor_value_info("logits", float32, ["batch", "tokens", 259]),
            *(helper.make_tensor_value_info(f"present.0.{part}", float32, cache[1]) for part in ("key", "value")),
        ],
    )
    constants = {**weights, "table": table, "head": np.ascontiguousarray(table.T), "axis": np.array([1]), "one": np.array([[1]])}
    constants["one"] = np.array([1])
    graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in constants.items())
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def genai(path: Path, **decoder: Any) -> Path:
    """The folder that onnxruntime-genai's builder makes, with a small decoder in it."""
    folder(path)
    (path / "config.json").unlink()
    onnx.save(grouped(), path / "model.onnx")
    told = {
        "filename": "model.onnx",
        "inputs": {
            "input_ids": "input_ids",
            "attention_mask": "attention_mask",
            "past_key_names": "past_key_values.%d.key",
            "past_value_names": "past_key_values.%d.value",
        },
        "outputs": {"logits": "logits", "present_key_names": "present.%d.key", "present_value_names": "present.%d.value"},
        "session_options": {"provider_options": [{"cuda": {}}]},
        **decoder,
    }
    config = {"model": {"type": "phi3", "context_length": 400, "eos_token_id": [257, 258], "decoder": told}, "search": {}}
    (path / "genai_config.json").write_text(json.dumps(config))
    return path


def test_genais_folder_has_its_cache_in_place(tmp_path: Path) -> None:
    with turnout.load(genai(tmp_path / "phi"), device="cpu") as phi:
        assert phi.origin.format == "onnxruntime-genai"
        assert phi.origin.metadata == {"decoder": "model.onnx", "context_length": 400, "made_for": "cuda"}
        assert phi._writer().language.ends == {257, 258}
        make = sessions_of(phi)
        assert make is not None
        session = make()
        assert type(session) is InPlace
        tokens = np.random.default_rng(0).integers(0, 250, 300).tolist()
        whole = phi.logits(tokens)
        rows = [session.feed(tokens[:5], range(5)), *(session.feed([token], [0]).copy() for token in tokens[5:9])]
        rows.append(session.feed(tokens[9:300], range(291)))  # a longer cache on the way, and many tokens after others
        np.testing.assert_allclose(np.concatenate(rows), whole, rtol=1e-4, atol=1e-4)
        assert session.truncate(7) == 7
        np.testing.assert_allclose(session.feed(tokens[7:20], [12])[0], whole[19], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"filename": "gone.onnx"}, "gone.onnx"),
        ({"filename": "../model.onnx"}, "names '../model.onnx'"),
        ({"filename": 3}, "names 3"),
        ({"pipeline": [{}]}, "several graphs"),
        ({"inputs": {"input_ids": "tokens"}}, "calls input_ids 'tokens'"),
        ({"inputs": ["input_ids"]}, "inputs are"),
        ({"outputs": "logits"}, "outputs are 'logits'"),
    ],
)
def test_genais_folders_that_are_not_for_us(tmp_path: Path, changed: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidModel, match=said) as wrong:
        turnout.load(genai(tmp_path / "phi", **changed))
    assert wrong.value.hint


def test_a_graph_that_computes_no_cache_is_named_with_the_way_out(tmp_path: Path) -> None:
    """The builder's float32 graphs for cuda and dml list outputs that no node gives."""
    made = genai(tmp_path / "phi")
    proto = onnx.load(made / "model.onnx")
    attention = next(node for node in proto.graph.node if node.op_type == "GroupQueryAttention")
    del attention.output[1:], attention.input[3:5]
    onnx.save(proto, made / "model.onnx")
    with pytest.raises(InvalidModel, match=r"phi: .*'present.0.key' is given by no node; onnxruntime-genai's builder") as wrong:
        turnout.load(made)
    assert "-p fp16" in wrong.value.hint


@pytest.mark.parametrize(
    "settings", [b"\xff\xfe", {"chat_template": [{"name": [1], "template": 5}]}, {"chat_template": [[]]}, {"eos_token": 5}]
)
def test_settings_of_the_tokenizer_that_are_odd(tmp_path: Path, settings: Any) -> None:
    made = genai(tmp_path / "phi")
    if isinstance(settings, bytes):
        (made / "chat_template.jinja").write_bytes(settings)
    else:
        (made / "tokenizer_config.json").write_text(json.dumps(settings))
    with turnout.load(made, device="cpu") as phi:
        if isinstance(settings, bytes):
            with pytest.raises(InvalidModel, match=r"chat_template.jinja cannot be read"):
                phi.generate("hello")
        else:
            assert phi.generate("hello", max_tokens=1).result.generated_tokens == 1


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"model": 3}', '{"model": {"decoder": []}}'])
def test_a_config_that_is_none(tmp_path: Path, text: str) -> None:
    made = genai(tmp_path / "phi")
    (made / "genai_config.json").write_text(text)
    with pytest.raises(InvalidModel):
        turnout.load(made)


def test_folders_without_a_decoder(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(InvalidModel, match="no format installed here knows"):
        turnout.load(tmp_path)
    onnx.save(model("whole"), tmp_path / "encoder.onnx")
    with pytest.raises(InvalidModel) as wrong:
        turnout.load(tmp_path)
    assert "encoder.onnx" in wrong.value.hint
    assert EMBEDDINGS.shape[1] == HEAD.shape[0]
