"""turnout as an ONNX backend: its functions one by one. (ONNX's own runner over it is in test_onnx_runner.py.)"""

from __future__ import annotations

import numpy as np
import onnx
import onnx.helper as oh
import pytest
from onnx.backend.base import Backend, BackendRep

import turnout.backend
from turnout.errors import InvalidInput, NoProvider, NoSuchDevice

ADD = onnx.parser.parse_model(
    '<ir_version: 10, opset_import: ["" : 21]> g (float[2] a, float[2] b) => (float[2] total, float[2] less) '
    "{ total = Add(a, b) less = Sub(a, b) }"
)
A, B = np.array([1, 2], np.float32), np.array([10, 20], np.float32)


def test_a_prepared_model_runs_by_position_and_by_name():
    prepared = turnout.backend.prepare(ADD)
    assert isinstance(prepared, BackendRep)
    for outputs in (prepared.run([A, B]), prepared.run({"b": B, "a": A})):
        np.testing.assert_array_equal(outputs[0], A + B)
        np.testing.assert_array_equal(outputs.less, A - B)
        assert len(outputs) == 2
    with pytest.raises(InvalidInput, match="a ndarray"):
        prepared.run(A)


def test_run_model_takes_turnouts_options_and_a_device():
    outputs = turnout.backend.run_model(ADD, [A, B], "CPU", options={"cpu": {"threads": 1}})
    np.testing.assert_array_equal(outputs[0], A + B)
    np.testing.assert_array_equal(turnout.backend.run_model(ADD, [A, B], "reference")[0], A + B)
    with pytest.raises(NoSuchDevice):
        turnout.backend.run_model(ADD, [A, B], "NOSUCH")


def test_run_node():
    made = turnout.backend.run_node(oh.make_node("Split", ["x"], ["", "rest"], num_outputs=2), [np.arange(4.0)], opset_version=18)
    np.testing.assert_array_equal(made.rest, [2.0, 3.0])
    concat = oh.make_node("ConcatFromSequence", ["parts"], ["y"], axis=0)
    np.testing.assert_array_equal(turnout.backend.run_node(concat, [[A, B]]).y, np.concatenate([A, B]))
    words = oh.make_node("StringConcat", ["a", "b"], ["y"])
    assert turnout.backend.run_node(words, [np.array(["x"]), np.array(["y"])], outputs_info=[(object, (1,))]).y.tolist() == ["xy"]
    scaled = oh.make_node("Scaler", ["x"], ["y"], domain="ai.onnx.ml", offset=[1.0], scale=[2.0])
    np.testing.assert_array_equal(turnout.backend.run_node(scaled, [A])[0], (A - 1) * 2)
    with pytest.raises(NoProvider):
        turnout.backend.run_node(oh.make_node("NoSuchThing", ["x"], ["y"], domain="nowhere"), [A], opset_version=1)


def test_what_it_says_of_itself():
    backend = turnout.backend.TurnoutBackend
    assert issubclass(backend, Backend)
    assert backend.supports_device("CPU")
    assert backend.supports_device("REFERENCE")
    assert not backend.supports_device("NOSUCH:1")
    assert backend.is_compatible(ADD)
    unknown = oh.make_model(oh.make_graph([oh.make_node("Nope", ["x"], ["y"], domain="n")], "g", [], []), opset_imports=[])
    assert not backend.is_compatible(unknown)
