"""What turnout costs above ONNX Runtime, on a model so small that nothing else is left: a 3x2 multiply.

    python tests/benchmarks/overhead.py

Rounds of the four calls are interleaved in one process, and the median over all rounds is taken, so that whatever else the machine
does falls on all of them alike.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime

import turnout

_MODEL = """
<ir_version: 10, opset_import: ["" : 21]>
smallest (float[3,2] x) => (float[3,2] y) <float[3,2] w = {1, 2, 3, 4, 5, 6}> { y = Mul(x, w) }
"""
_ROUNDS = 100
_CALLS = 1000


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "smallest.onnx"
        onnx.save(onnx.parser.parse_model(_MODEL), path)
        times = measure(path)
    for name, seconds in times.items():
        print(f"{name:<36} {seconds * 1e6:6.2f} us")
    print(f"bound ratio: {times['turnout bound.run()'] / times['InferenceSession.run_with_iobinding']:.2f}")
    print(f"ratio: {times['turnout model.run(x=x)'] / times['InferenceSession.run']:.2f}")
    return 0


def measure(path: Path) -> dict[str, float]:
    """Median seconds of a call, by name."""
    x = np.arange(6, dtype=np.float32).reshape(3, 2)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    theirs, ours = np.empty_like(x), np.empty_like(x)
    binding = session.io_binding()
    binding.bind_ortvalue_input("x", onnxruntime.OrtValue.ortvalue_from_numpy(x))
    binding.bind_ortvalue_output("y", onnxruntime.OrtValue.ortvalue_from_numpy(theirs))
    with turnout.load(path, device="cpu") as model:
        bound = model.bind(x=x, outputs={"y": ours})
        times = interleave(
            {
                "InferenceSession.run": lambda: session.run(None, {"x": x}),
                "turnout model.run(x=x)": lambda: model.run(x=x),
                "InferenceSession.run_with_iobinding": lambda: session.run_with_iobinding(binding),
                "turnout bound.run()": lambda: bound.run(),
            }
        )
        right = np.array_equal(model.run(x=x)["y"], session.run(None, {"x": x})[0])
    if not right or not np.array_equal(ours, theirs):
        sys.exit("turnout and ONNX Runtime disagree")
    return times


def interleave(calls: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Median seconds of each call over rounds that take turns."""
    rounds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(_ROUNDS):
        for name, call in calls.items():
            start = time.perf_counter()
            for _ in range(_CALLS):
                call()
            rounds[name].append((time.perf_counter() - start) / _CALLS)
    return {name: statistics.median(times) for name, times in rounds.items()}


if __name__ == "__main__":
    sys.exit(main())
