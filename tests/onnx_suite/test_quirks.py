"""Every row of turnout_ort.quirks, on ONNX Runtime alone: it fails there as the row says, and turnout is right."""

from __future__ import annotations

import contextlib
import pickle
import re
import subprocess
import sys

import numpy as np
import onnx
import onnxruntime
import pytest
from differences import difference
from witnesses import LETHAL, NEAR, WITNESSES, Witness

import turnout
from turnout.errors import NoProvider, RunError
from turnout.formats import open_source
from turnout.graph import ir
from turnout.provider import No, Yes
from turnout_cpu.provider import CpuProvider
from turnout_ort.quirks import QUIRKS, Quirk

VERSION = tuple(map(int, re.findall(r"\d+", onnxruntime.__version__)[:2]))

pytestmark = pytest.mark.filterwarnings("ignore::turnout.errors.SlowPathWarning", "ignore::RuntimeWarning")


LIVING = [row for row in QUIRKS if "ends the process" not in row.reason]
DEADLY = [row for row in QUIRKS if "ends the process" in row.reason]


def key_of(row: Quirk) -> str:
    (key,) = (beginning for beginning in (*WITNESSES, *LETHAL) if row.reason.startswith(beginning))
    return key


def title(row: Quirk) -> str:
    return f"{row.operators[0]}: {row.reason}"


def alone(witness: Witness) -> str:
    """What is wrong with ONNX Runtime's own answer; "" where nothing is."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(witness.model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        return differs(witness, session.run(None, witness.feed))
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def differs(witness: Witness, outputs: object) -> str:
    return difference(outputs, witness.wanted, witness.rtol, witness.atol)


def node_of(witness: Witness) -> ir.Node:
    (node,) = open_source(witness.model).model().graph
    return node


def rows_about(node: ir.Node, but: Quirk) -> list[Quirk]:
    """The other rows that hold here and concern the node."""
    return [row for row in QUIRKS if row is not but and node.op_type in row.operators and row.holds(VERSION) and row.where(node)]


def verdict(witness: Witness) -> Yes | No:
    provider = CpuProvider()
    graph = open_source(witness.model).model().graph
    return provider.supports(graph[0], graph, provider.probe()[0])


def outputs(witness: Witness, device: str | None = None) -> list[object]:
    return list(turnout.load(witness.model, device=device).run(witness.feed).values())


@pytest.mark.parametrize("row", LIVING, ids=title)
def test_a_row_is_true_of_the_versions_that_it_names_and_turnout_is_right(row: Quirk) -> None:
    if "locale" in row.reason and not sys.platform.startswith("linux"):
        pytest.skip("only glibc can be asked whether it has a locale")
    for make in WITNESSES[key_of(row)]:
        witness = make()
        node = node_of(witness)
        assert row.where(node)
        others = rows_about(node, row)
        if row.holds(VERSION):
            assert alone(witness), f"ONNX Runtime {onnxruntime.__version__} is right: set the row's `until`"
        if row.holds(VERSION) or others:
            assert str(getattr(verdict(witness), "reason", "")).endswith(tuple(one.reason for one in (row, *others)))
        else:
            assert not alone(witness), f"ONNX Runtime {onnxruntime.__version__} is still wrong: the row's `until` is too low"
        assert not differs(witness, outputs(witness))


@pytest.mark.parametrize("row", [row for row in LIVING if row.holds(VERSION) and NEAR[key_of(row)]], ids=title)
def test_a_row_lets_through_what_onnx_runtime_has_right(row: Quirk) -> None:
    for make in NEAR[key_of(row)]:
        witness = make()
        assert not row.where(node_of(witness))
        if rows_about(node_of(witness), row):
            continue
        assert not alone(witness)
        assert verdict(witness)
        assert not differs(witness, outputs(witness, "cpu"))


ALONE = """
import pickle, sys
import onnxruntime
content, feed = pickle.load(sys.stdin.buffer)
options = onnxruntime.SessionOptions()
options.log_severity_level = 4
onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"]).run(None, feed)
"""


def dies(content: bytes, feed: dict[str, object]) -> bool:
    """Whether ONNX Runtime alone dies of it, in a process of its own."""
    ended = subprocess.run([sys.executable, "-c", ALONE], input=pickle.dumps((content, feed)), capture_output=True, check=False)
    return ended.returncode < 0 or ended.returncode > 1


@pytest.mark.parametrize("row", DEADLY, ids=title)
def test_a_row_is_true_of_what_ends_the_process_and_turnout_outlives_it(row: Quirk) -> None:
    for witness in LETHAL[key_of(row)]():
        assert dies(witness.model.SerializeToString(), witness.feed)
        assert row.where(node_of(witness))
        assert row.reason in str(getattr(verdict(witness), "reason", ""))
        with contextlib.suppress(turnout.TurnoutError):  # the evaluator may know what to do with it, or refuse it too
            turnout.load(witness.model).run(witness.feed)


@pytest.mark.parametrize("operator", ["GRU", "LSTM"])
def test_an_empty_batch_that_only_the_run_knows_of_is_refused(operator: str) -> None:
    gates = {"GRU": 12, "LSTM": 16}[operator]
    body = f"{{ s = Relu(x) y = {operator}<hidden_size=4>(s, w, r) }}"
    text = f"float[T,B,3] x, float[1,{gates},3] w, float[1,{gates},4] r) => (float[T,1,B,4] y) {body}"
    model = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : 21]> g ({text}')
    feed = {"w": np.ones((1, gates, 3), np.float32), "r": np.ones((1, gates, 4), np.float32)}
    empty = {**feed, "x": np.ones((2, 0, 3), np.float32)}
    assert dies(model.SerializeToString(), empty)
    with turnout.load(model, device="cpu") as loaded:
        assert loaded.run({**feed, "x": np.ones((2, 5, 3), np.float32)})["y"].shape == (2, 1, 5, 4)
        with pytest.raises(RunError, match=rf"{operator}#1 got an empty tensor"):
            loaded.run(empty)
        with pytest.raises(RunError, match="empty tensor"):
            loaded.bind(empty)


def test_every_row_has_a_witness_and_no_witness_is_left_over() -> None:
    assert sorted(map(key_of, QUIRKS)) == sorted((*WITNESSES, *LETHAL))
    assert sorted(WITNESSES) == sorted(NEAR)


def test_an_expanded_node_is_not_handed_over_in_the_file_that_still_holds_it() -> None:
    witness = WITNESSES["refuses Attention with a mask for fewer keys"][0]()
    loaded = turnout.load(witness.model.SerializeToString())
    assert any("expanded" in remark for remark in loaded.explain().to_dict()["remarks"])
    assert not differs(witness, list(loaded.run(witness.feed).values()))


def test_a_refusal_names_the_version_and_what_is_wrong() -> None:
    with pytest.raises(NoProvider, match=r"ONNX Runtime \d+\.\d+.* knows one zero point for all of ConvInteger's weights"):
        turnout.load(WITNESSES["knows one zero point for all of ConvInteger"][0]().model, device="cpu")
