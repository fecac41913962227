"""Eight threads on one model, and eight threads that each load and run their own: every result is right."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import onnx
import pytest
from onnx.numpy_helper import from_array

import turnout

pytestmark = pytest.mark.filterwarnings("ignore::turnout.errors.SlowPathWarning")

THREADS = 8
LOOP = """g (int64 trips, float[2,4] x) => (float[2,4] y, float[N,2,4] all) {
    go = Constant<value = bool {1}>()
    y, all = Loop(trips, go, x) <body = b (int64 i, bool c, float[2,4] v) => (bool d, float[2,4] w, float[2,4] o) {
        d = Identity(c) m = MatMul(v, weight) w = Tanh(m) o = Neg(w) }> }"""
MIXED = """g (int64 trips, float[2,4] x) => (float[2,4] y) {
    a = MatMul(x, weight) b = Relu(a) c = Add(b, x) t = Cast<to=1>(trips) y = Mul(c, t) }"""
BODY = """g (int64 trips, float[2,4] x) => (float[2,4] y) {
    a = Celu<alpha=0.3>(x) t = Cast<to=1>(trips) b = MatMul(a, weight) y = Mul(b, t) }"""
WEIGHT = np.random.default_rng(3).normal(size=(4, 4)).astype(np.float32)


def wanted_of(source: str, trips: Any, x: Any, scale: float = 1.0) -> list[Any]:
    """What a model gives, in NumPy."""
    weight = np.float32(scale) * WEIGHT
    if source == MIXED:
        return [(np.maximum(x @ weight, 0) + x) * trips]
    if source == BODY:
        celu = np.maximum(0, x) + np.minimum(0, 0.3 * (np.exp(x / 0.3) - 1))
        return [celu @ weight * trips]
    states = []
    for _ in range(int(trips)):
        x = np.tanh(x @ weight)
        states.append(-x)
    return [x, np.stack(states)]


def model(source: str, scale: float = 1.0) -> onnx.ModelProto:
    made = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : 21]> {source}')
    made.graph.initializer.append(from_array(np.float32(scale) * WEIGHT, "weight"))
    return made


def feed(number: int) -> dict[str, Any]:
    rng = np.random.default_rng(number)
    return {"trips": np.array(1 + number % 5), "x": rng.normal(size=(2, 4)).astype(np.float32)}


def in_threads(work: Callable[[int], list[str]]) -> None:
    """Runs it in all threads at once, and raises what any of them raised or found wrong."""
    start = threading.Barrier(THREADS)

    def begin(number: int) -> list[str]:
        start.wait()
        return work(number)

    with ThreadPoolExecutor(THREADS) as pool:
        wrong = [problem for problems in pool.map(begin, range(THREADS)) for problem in problems]
    assert not wrong


def compare(outputs: dict[str, Any], wanted: list[Any], what: str) -> list[str]:
    pairs = zip(outputs.items(), wanted, strict=True)
    return [f"{what}: {name}" for (name, have), want in pairs if not np.allclose(have, want, rtol=1e-4, atol=1e-5)]


@pytest.mark.parametrize("device", [None, ["toy", "cpu"], "reference"], ids=str)
@pytest.mark.parametrize("source", [LOOP, MIXED, BODY], ids=["loop", "mixed", "body"])
def test_one_model_in_eight_threads(source: str, device: Any) -> None:
    proto = model(source)
    wanted = [wanted_of(source, **feed(number)) for number in range(40)]
    with turnout.load(proto, device=device) as loaded:

        def work(thread: int) -> list[str]:
            numbers = [(thread + step) % 40 for step in range(40)]
            return [problem for n in numbers for problem in compare(loaded.run(feed(n)), wanted[n], f"thread {thread}, feed {n}")]

        in_threads(work)


def test_eight_threads_that_load_and_run_their_own_models() -> None:
    sources = (LOOP, MIXED, BODY)
    protos = [model(sources[thread % 3], 1 + thread / 10) for thread in range(THREADS)]
    wanted = [wanted_of(sources[thread % 3], **feed(thread), scale=1 + thread / 10) for thread in range(THREADS)]

    def work(thread: int) -> list[str]:
        found = []
        for turn in range(5):
            device = (None, ["toy", "cpu"], "cpu", "reference")[(thread + turn) % 4]
            with turnout.load(protos[thread].SerializeToString(), device=device) as loaded:
                found += compare(loaded.run(feed(thread)), wanted[thread], f"thread {thread}, turn {turn}")
        return found

    in_threads(work)
