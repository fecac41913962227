"""Operators that draw random numbers: what they draw is distributed as asked for, and a seed repeats it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnx.helper as oh
import pytest
from random_cases import MANY, fair, reseeded

import turnout
from turnout.errors import NoProvider

pytestmark = pytest.mark.filterwarnings("ignore::turnout.errors.SlowPathWarning")

FLOAT, DOUBLE, INT64 = onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE, onnx.TensorProto.INT64
Bounds = Callable[[np.ndarray[Any, Any]], str]


def model(operator: str, kind: int, given: dict[str, np.ndarray[Any, Any]], **attributes: Any) -> onnx.ModelProto:
    node = oh.make_node(operator, list(given), ["y"], **attributes)
    inputs = [oh.make_tensor_value_info(name, oh.np_dtype_to_tensor_dtype(x.dtype), x.shape) for name, x in given.items()]
    graph = oh.make_graph([node], "drawn", inputs, [oh.make_tensor_value_info("y", kind, None)])
    return oh.make_model(graph, ir_version=10, opset_imports=[oh.make_opsetid("", 21)])


def uniform(low: float, high: float) -> Bounds:
    def check(drawn: np.ndarray[Any, Any]) -> str:
        if drawn.min() < low or drawn.max() > high:
            return f"from {drawn.min()} to {drawn.max()}"
        return fair(drawn < low + 0.3 * (high - low), np.float64(0.3), "the lowest 30 %")

    return check


def normal(mean: float, scale: float) -> Bounds:
    def check(drawn: np.ndarray[Any, Any]) -> str:
        within = fair(abs(drawn - mean) < scale, np.float64(0.6827), "within one standard deviation")
        return within or fair(drawn < mean, np.float64(0.5), "below the mean")

    return check


def like() -> dict[str, np.ndarray[Any, Any]]:
    return {"x": np.zeros(MANY, np.float32)}


CASES = {
    "RandomUniform": (lambda: ("RandomUniform", FLOAT, {}, {"shape": [MANY], "low": -2.0, "high": 6.0}), uniform(-2, 6)),
    "RandomUniform double": (lambda: ("RandomUniform", DOUBLE, {}, {"shape": [MANY], "dtype": DOUBLE}), uniform(0, 1)),
    "RandomUniformLike": (lambda: ("RandomUniformLike", FLOAT, like(), {"low": 1.0, "high": 2.0}), uniform(1, 2)),
    "RandomNormal": (lambda: ("RandomNormal", FLOAT, {}, {"shape": [MANY], "mean": 3.0, "scale": 2.0}), normal(3, 2)),
    "RandomNormalLike": (lambda: ("RandomNormalLike", FLOAT, like(), {"mean": -1.0, "scale": 0.5}), normal(-1, 0.5)),
}


@pytest.mark.parametrize("device", [None, "reference"])
@pytest.mark.parametrize("seed", [None, 7.0])
@pytest.mark.parametrize("name", CASES)
def test_drawn_numbers(name: str, seed: float | None, device: str | None) -> None:
    make, bounds = CASES[name]
    operator, kind, given, attributes = make()
    if seed is not None:
        attributes["seed"] = seed
    outputs, problem = reseeded(model(operator, kind, given, **attributes), given, seeded=seed is not None, device=device)
    assert not problem
    assert outputs["y"].dtype == oh.tensor_dtype_to_np_dtype(kind)
    assert outputs["y"].shape == (MANY,)
    assert not bounds(outputs["y"])


@pytest.mark.parametrize("seed", [None, 7.0])
def test_multinomial(seed: float | None) -> None:
    chances = np.array([[0.1, 0.2, 0.7], [0.5, 0.25, 0.25]], np.float32)
    attributes = {"sample_size": MANY} | ({} if seed is None else {"seed": seed})
    given = {"x": np.log(chances)}
    outputs, problem = reseeded(model("Multinomial", onnx.TensorProto.INT32, given, **attributes), given, seeded=seed is not None)
    assert not problem
    drawn = outputs["y"]
    assert (drawn.dtype, drawn.shape) == (np.int32, (2, MANY))
    for row, wanted in zip(drawn, chances, strict=True):
        assert set(np.unique(row)) == {0, 1, 2}
        for category, chance in enumerate(wanted):
            assert not fair(row == category, np.float64(chance), f"category {category}")


def test_bernoulli_is_not_expanded_into_the_body_that_turns_its_odds_around() -> None:
    given = {"x": np.full(MANY, 0.9, np.float32)}
    proto = model("Bernoulli", FLOAT, given)
    assert not fair(turnout.load(proto).run(given)["y"], np.float64(0.9), "ones")
    with pytest.raises(NoProvider, match="Bernoulli"):
        turnout.load(proto, device="cpu")
