"""Smaller models: what comes out runs, is as near as its bits allow, and says so."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.helper as oh
import onnx.numpy_helper as nh
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

import turnout
from turnout.errors import InvalidInput
from turnout_recipes.blocks import dequantised, rounded
from turnout_recipes.command import optimize as command
from turnout_recipes.optimize import optimize
from turnout_recipes.recipe import Recipe

RANDOM = np.random.default_rng(0)
FIRST, SECOND = (RANDOM.standard_normal(shape).astype(np.float32) for shape in ((70, 64), (40, 64)))
BIAS = RANDOM.standard_normal(40).astype(np.float32)


def model(path: Path, **changes: Any) -> Path:
    """x [n, 70] by a MatMul, Relu, and a Gemm with a transposed B and a bias; then a product with a matrix too small to count."""
    weights = {"first": FIRST, "second": SECOND, "bias": BIAS, "tiny": np.eye(40, 3, dtype=np.float32), **changes}
    nodes = [
        oh.make_node("MatMul", ["x", "first"], ["a"], name="one"),
        oh.make_node("Relu", ["a"], ["b"]),
        oh.make_node("Gemm", ["b", "second", "bias"], ["y"], name="two", transB=1),
        oh.make_node("MatMul", ["y", "tiny"], ["z"], name="three"),
    ]
    io = [[oh.make_tensor_value_info(name, 1, ["n", size])] for name, size in (("x", 70), ("y", 40))]
    io[1].append(oh.make_tensor_value_info("z", 1, ["n", 3]))
    graph = oh.make_graph(nodes, "g", *io, [nh.from_array(value, name) for name, value in weights.items()])
    onnx.save(oh.make_model(graph, opset_imports=[oh.make_opsetid("", 21)], ir_version=10), path)
    return path


@settings(max_examples=40)
@given(
    st.integers(1, 90),
    st.integers(1, 9),
    st.sampled_from([4, 8]),
    st.sampled_from([16, 32]),
    st.integers(0, 99),
    st.sampled_from([1e-30, 1, 1e30]),
)
def test_no_weight_is_off_by_more_than_a_step(rows: int, columns: int, bits: int, block: int, seed: int, size: float) -> None:
    """Half a step for the value, half for the zero point, which is rounded too."""
    weight = (size * np.random.default_rng(seed).standard_normal((rows, columns))).astype(np.float32)
    for symmetric in (False, True):
        blocks = rounded(weight, bits, block, symmetric=symmetric)
        steps = np.repeat(np.abs(blocks.scales), block, axis=1)[:, :rows].T
        assert (np.abs(dequantised(blocks) - weight) <= 1.001 * steps).all()


def test_zeros_stay_zeros() -> None:
    weight = np.zeros((64, 2), np.float32)
    weight[5, 1] = 3
    for bits in (4, 8):
        found = dequantised(rounded(weight, bits, 32))
        np.testing.assert_array_equal(found == 0, weight == 0)
        assert found[5, 1] == pytest.approx(3, rel=1e-6)


@pytest.mark.parametrize(("precision", "bound"), [("int4-rtn", 0.12), ("int8", 0.01)])
def test_what_comes_out_runs_as_the_blocks_say(tmp_path: Path, precision: Any, bound: float) -> None:
    recipe = Recipe(precision=precision, accuracy_level=1)
    report = optimize(model(tmp_path / "m.onnx"), tmp_path / "small.onnx", recipe)
    assert [one.name for one in report.layers] == ["one", "two"]
    assert "smaller than a block" in report.kept["three"]
    assert all(0 < one.error < bound and one.after < one.before for one in report.layers)
    x = RANDOM.standard_normal((5, 70)).astype(np.float32)
    first, second = (dequantised(rounded(weight, recipe.bits, 32)) for weight in (FIRST, np.ascontiguousarray(SECOND.T)))
    with turnout.load(tmp_path / "small.onnx", device="cpu") as small:
        found = small.run(x=x)
    assert list(found) == ["y", "z"]
    np.testing.assert_allclose(found["y"], np.maximum(x @ first, 0) @ second + BIAS, rtol=1e-4, atol=1e-3)
    assert "MatMulNBits" in str(onnx.load(tmp_path / "small.onnx", load_external_data=False).graph)


def test_the_recipe_keeps_what_it_names(tmp_path: Path) -> None:
    report = optimize(model(tmp_path / "m.onnx"), tmp_path / "small.onnx", Recipe(keep=("o*",)))
    assert [one.name for one in report.layers] == ["two"]
    assert report.kept["one"] == "the recipe keeps it"


def test_one_matrix_used_twice_is_still_right(tmp_path: Path) -> None:
    square = RANDOM.standard_normal((64, 64)).astype(np.float32)
    nodes = [oh.make_node("MatMul", [a, "w"], [b], name=b) for a, b in (("x", "h"), ("h", "y"))]
    info = [[oh.make_tensor_value_info(name, 1, [2, 64])] for name in "xy"]
    graph = oh.make_graph(nodes, "g", *info, [nh.from_array(square, "w")])
    onnx.save(oh.make_model(graph, opset_imports=[oh.make_opsetid("", 21)], ir_version=10), tmp_path / "m.onnx")
    optimize(tmp_path / "m.onnx", tmp_path / "small.onnx", Recipe(precision="int8", accuracy_level=1))
    x = RANDOM.standard_normal((2, 64)).astype(np.float32)
    with turnout.load(tmp_path / "small.onnx", device="cpu") as small:
        np.testing.assert_allclose(small.run(x=x)["y"], x @ square @ square, atol=0.02 * np.abs(x @ square @ square).max())


def test_weights_that_are_not_finite_stay(tmp_path: Path) -> None:
    bad = FIRST.copy()
    bad[0, 0] = np.inf
    report = optimize(model(tmp_path / "m.onnx", first=bad), tmp_path / "small.onnx", Recipe())
    assert report.kept["one"] == "its weights are not all finite"


def test_what_cannot_be_made_smaller_is_an_error(tmp_path: Path) -> None:
    path = model(tmp_path / "m.onnx")
    with pytest.raises(InvalidInput, match=r"m\.onnx is the model itself"):
        optimize(path, path, Recipe())
    with pytest.raises(InvalidInput, match="the recipe keeps it"):
        optimize(path, tmp_path / "small.onnx", Recipe(keep=("*",)))
    optimize(path, tmp_path / "small.onnx", Recipe())
    with pytest.raises(InvalidInput, match="nothing in"):
        optimize(tmp_path / "small.onnx", tmp_path / "again.onnx", Recipe())
    assert not (tmp_path / "again.onnx").exists()


def test_the_command_and_its_documents(tmp_path: Path) -> None:
    path, run = model(tmp_path / "m.onnx"), CliRunner()
    printed = run.invoke(command, [str(path), "x", "--precision", "int8", "--block", "64", "--print-recipe"])
    (tmp_path / "recipe.json").write_text(printed.output)
    made = run.invoke(command, [str(path), str(tmp_path / "s.onnx"), "--recipe", str(tmp_path / "recipe.json")], catch_exceptions=False)
    assert "int8 for cpu; 2 layers" in made.output or "int8 for cpu; 1 layers" in made.output
    report = json.loads((tmp_path / "s.onnx.report.json").read_text())
    assert (report["recipe"]["precision"], report["recipe"]["block"]) == ("int8", 64)
    for wrong in (["--block", "48"], ["--block", "8"]):
        failed = run.invoke(command, [str(path), "x", *wrong])
        assert isinstance(failed.exception, InvalidInput)
        assert "block" in failed.exception.message
    (tmp_path / "recipe.json").write_text('{"precisoin": "int8"}')
    assert isinstance(run.invoke(command, [str(path), "x", "--recipe", str(tmp_path / "recipe.json")]).exception, InvalidInput)
