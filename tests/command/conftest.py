from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import onnx
import pytest
from click.testing import CliRunner, Result
from onnx import TensorProto, helper


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TURNOUT_CACHE", str(tmp_path / "cache"))


@pytest.fixture(autouse=True)
def _log_as_it_was() -> Iterator[None]:
    """The command sets up turnout's log; a test must not leave that behind."""
    import logging

    log = logging.getLogger("turnout")
    handlers, level = list(log.handlers), log.level
    yield
    log.handlers[:] = handlers
    log.setLevel(level)


@pytest.fixture
def turnout() -> Callable[..., Result]:
    """The command, in this process."""
    from turnout.cli import cli

    try:
        runner = CliRunner(mix_stderr=False)  # click 8.1; later ones keep the two apart without being asked
    except TypeError:
        runner = CliRunner()
    return lambda *arguments: runner.invoke(cli, [str(one) for one in arguments])


def write(path: Path, nodes: list[Any], inputs: dict[str, Any], outputs: dict[str, Any]) -> Path:
    """A model file; inputs and outputs are name to (element type, shape)."""
    infos = [[helper.make_tensor_value_info(name, kind, shape) for name, (kind, shape) in values.items()] for values in (inputs, outputs)]
    graph = helper.make_graph(nodes, "made", *infos)
    onnx.save(helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)]), path)
    return path


@pytest.fixture
def scale(tmp_path: Path) -> Path:
    """y = x * factor, for x of float32[N,3]."""
    kind = TensorProto.FLOAT
    node = helper.make_node("Mul", ["x", "factor"], ["y"], name="scaling")
    return write(tmp_path / "scale.onnx", [node], {"x": (kind, ["N", 3]), "factor": (kind, [])}, {"y": (kind, ["N", 3])})


@pytest.fixture
def words(tmp_path: Path) -> Path:
    """The same words again, and a row of numbers that are not finite."""
    nodes = [helper.make_node("Identity", ["words"], ["same/words:0"]), helper.make_node("Log", ["x"], ["logs"])]
    kinds = {"words": (TensorProto.STRING, ["N"]), "x": (TensorProto.FLOAT, [2])}
    outputs = {"same/words:0": (TensorProto.STRING, ["N"]), "logs": (TensorProto.FLOAT, [2])}
    return write(tmp_path / "words.onnx", nodes, kinds, outputs)
