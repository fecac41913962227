"""What the CUDA provider costs and reaches.

    python tests/benchmarks/cuda.py

With a GPU: kernels as a share of a ceiling that is measured in the same run: a copy of device memory (bytes read and written a second)
for what moves bytes, and torch's product of matrices, which is cuBLAS's, where torch is installed. Without one: what a launch and a
planned run cost the host, on a driver that does nothing (turnout-cudasim's "noop"), by the median of interleaved rounds.

Only float32 and float16 kernels of this package are timed, at sizes that no cache of a GPU holds, with buffers that take turns.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx

import turnout
from turnout.errors import Unavailable
from turnout.plugins import providers

ROUNDS, CALLS = 30, 200
NODES = 64


def main() -> int:
    sys.path.remove(str(Path(__file__).parent))  # where `import cuda` would find this file
    from turnout_cuda import driver

    try:
        gpus = driver.gpus()
    except Unavailable as error:
        print(f"no GPU here ({error.message}): the host's cost on a driver that does nothing")
        return host()
    print(f"{gpus[0].name}, driver for CUDA {gpus[0].driver // 1000}.{gpus[0].driver % 1000 // 10}")
    return device()


def _model(body: str, shape: str, dtype: str = "float") -> onnx.ModelProto:
    return onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : 23]> g ({dtype}[{shape}] x) => ({dtype}[{shape}] y) {{ {body} }}')


def _chain(nodes: int) -> onnx.ModelProto:
    """Softmax after softmax: as many launches as nodes, since no two of them are fused."""
    lines = [f"{'y' if k == nodes - 1 else f't{k}'} = Softmax({'x' if k == 0 else f't{k - 1}'})" for k in range(nodes)]
    return _model(" ".join(lines), "4,32")


def _prepared(model: onnx.ModelProto, arrays: Sequence[np.ndarray[Any, Any]], **options: Any) -> tuple[Callable[[], Any], Any, Any]:
    """A call that runs the model on the GPU, between buffers that are there already."""
    cuda = next(one for one in providers() if one.name == "cuda")
    place = cuda.probe()[0]
    (executable,) = turnout.load(model, device="cuda", options={"cuda": options})._program.executables
    values = [cuda.to_device(array, place) for array in arrays]
    out = executable.run(values)
    return lambda: executable.run(values, out), cuda.context(place), (values, out)  # type: ignore[attr-defined]


def host() -> int:
    """Microseconds of the host's time: a run of one launch, a run of many, and what one launch more costs."""
    import os

    os.environ["TURNOUT_CUDA"] = "sim"
    import turnout_cudasim

    turnout_cudasim.install("noop")
    x = np.ones((4, 32), np.float32)
    runs = {
        "a run of 1 launch": _prepared(_chain(1), [x], graphs=False)[0],
        f"a run of {NODES} launches": _prepared(_chain(NODES), [x], graphs=False)[0],
        f"a run of {NODES} launches as a CUDA graph": _prepared(_chain(NODES), [x])[0],
    }
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(ROUNDS):
        for name, run in runs.items():
            start = time.perf_counter()
            for _ in range(CALLS):
                run()
            times[name].append((time.perf_counter() - start) / CALLS * 1e6)
    medians = {name: statistics.median(found) for name, found in times.items()}
    for name, found in medians.items():
        print(f"{name:<36} {found:8.2f} us")
    one, many, _ = medians.values()
    print(f"{'each launch':<36} {(many - one) / (NODES - 1):8.2f} us")
    return 0


def _seconds(context: Any, calls: Sequence[Callable[[], Any]], rounds: int = 20) -> float:
    """The median time of a call on the device, by its own clock; the calls take turns, so that no cache holds what they read."""
    driver = context.driver
    context.enter()
    begin, end = (context.check(driver.cuEventCreate(0)) for _ in range(2))
    for call in calls:
        call()
    found = []
    for _ in range(rounds):
        context.check(driver.cuEventRecord(begin, context.stream))
        for call in calls:
            call()
        context.check(driver.cuEventRecord(end, context.stream))
        context.check(driver.cuEventSynchronize(end))
        found.append(context.check(driver.cuEventElapsedTime(begin, end)) * 1e-3 / len(calls))
    return statistics.median(found)


_MOVING: dict[str, tuple[str, tuple[int, int], str]] = {
    "elementwise chain of 4, float32, 256 MB": ("a = Mul(x, x) b = Sigmoid(a) c = Add(b, x) y = Relu(c)", (8192, 8192), "float"),
    "elementwise chain of 4, float16, 128 MB": ("a = Mul(x, x) b = Sigmoid(a) c = Add(b, x) y = Relu(c)", (8192, 8192), "float16"),
    "softmax, float32, rows of 1024": ("y = Softmax(x)", (65536, 1024), "float"),
    "softmax, float32, rows of 32768": ("y = Softmax(x)", (2048, 32768), "float"),
    "softmax, float16, rows of 4096": ("y = Softmax(x)", (16384, 4096), "float16"),
    "transpose, float32": ("a = Transpose(x) y = Transpose(a)", (8192, 8192), "float"),
}


def device() -> int:
    """The table, in shares of ceilings measured in the same run."""
    copied = None
    for name, (body, shape, dtype) in _MOVING.items():
        array = np.random.default_rng(0).standard_normal(shape).astype(np.float32 if dtype == "float" else np.float16)
        made = [_prepared(_model(body, ",".join(map(str, shape)), dtype), [array]) for _ in range(3)]
        context = made[0][1]
        if copied is None:
            copied = _copy(context, [keep for _, _, keep in made])
            print(f"copy of device memory, read and written: {copied / 1e12:.2f} TB/s")
        passes = 2 if "transpose" in name else 1
        rate = 2 * passes * array.nbytes / _seconds(context, [run for run, _, _ in made])
        print(f"{name:<42} {rate / 1e12:6.2f} TB/s  {rate / copied:5.0%} of copy")
    _products()
    return 0


def _copy(context: Any, keeps: Sequence[Any]) -> float:
    """Bytes a second of the driver's own copy."""

    def move(keep: Any) -> Callable[[], Any]:
        (source,), (target,) = keep
        return lambda: context.driver.cuMemcpyAsync(target.address, source.address, source.nbytes, context.stream)

    nbytes = keeps[0][0][0].nbytes
    return 2 * nbytes / _seconds(context, [move(keep) for keep in keeps])


def _products() -> None:
    for size, dtype in ((4096, "float"), (4096, "float16")):
        array = np.random.default_rng(0).standard_normal((size, size)).astype(np.float32 if dtype == "float" else np.float16)
        run, context, _ = _prepared(_model("y = MatMul(x, x)", f"{size},{size}", dtype), [array])
        rate = 2 * size**3 / _seconds(context, [run])
        line = f"{f'product {size}, {dtype}':<42} {rate / 1e12:6.1f} TFLOP/s"
        try:
            import torch
        except ImportError:
            print(f"{line}  (torch is not here to compare with)")
            continue
        with torch.no_grad():
            there = torch.from_numpy(array).cuda()
            best = 2 * size**3 / _torch_seconds(lambda there=there: there @ there)
        print(f"{line}  {rate / best:5.0%} of torch's")


def _torch_seconds(call: Callable[[], Any], rounds: int = 20) -> float:
    import torch

    found = []
    for _ in range(rounds + 3):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        call()
        end.record()
        end.synchronize()
        found.append(begin.elapsed_time(end) * 1e-3)
    return statistics.median(found[3:])


if __name__ == "__main__":
    sys.exit(main())
