"""What the CUDA provider costs and reaches.

    python tests/benchmarks/cuda.py [--tiny]

With a GPU: each kernel as a share of a ceiling that is measured in the same run: a copy of device memory (bytes read and written a second)
for what moves bytes; for products cuBLASLt (turnout-cuda[cublas]) and torch's own, where they are installed; and ONNX Runtime's CUDA
provider beside it, where that is. Sizes are those that no cache of a GPU holds, or buffers take turns. What cannot be measured is a line
with the reason, and the rest goes on. Without a GPU: what a launch and a planned run cost the host, on a driver that does nothing
(turnout-cudasim's "noop"), by the median of interleaved rounds.

--tiny walks through all of the first part in the simulator, at sizes that say nothing about speed: that the command works, and that what it
times is what it says, is shown so.
"""

from __future__ import annotations

import gc
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

import turnout
from turnout.errors import Unavailable
from turnout.plugins import providers

ROUNDS, CALLS = 30, 200
NODES = 64
SECONDS = 1.0
"""How long a row is timed, roughly."""

TINY = "--tiny" in sys.argv
TYPES = {"float": np.dtype(np.float32), "float16": np.dtype(np.float16)}
RANDOM = np.random.default_rng(0)


def main() -> int:
    sys.path.remove(str(Path(__file__).parent))  # where `import cuda` would find this file
    if TINY:
        os.environ["TURNOUT_CUDA"] = "sim"
    from turnout_cuda import driver

    try:
        gpus = driver.gpus()
    except Unavailable as error:
        print(f"no GPU here ({error.message}): the host's cost on a driver that does nothing")
        return host()
    version = f"{gpus[0].driver // 1000}.{gpus[0].driver % 1000 // 10}"
    print(f"{time.strftime('%Y-%m-%d')}, {gpus[0].name}, driver for CUDA {version}{', sizes that say nothing' if TINY else ''}", flush=True)
    return device()


def _model(body: str, shape: str, dtype: str = "float") -> onnx.ModelProto:
    return onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : 23]> g ({dtype}[{shape}] x) => ({dtype}[{shape}] y) {{ {body} }}')


def _chain(nodes: int) -> onnx.ModelProto:
    """Softmax after softmax: as many launches as nodes, since no two of them are fused."""
    lines = [f"{'y' if k == nodes - 1 else f't{k}'} = Softmax({'x' if k == 0 else f't{k - 1}'})" for k in range(nodes)]
    return _model(" ".join(lines), "4,32")


def _prepared(
    model: onnx.ModelProto, arrays: Sequence[np.ndarray[Any, Any]], in_place: dict[int, int] | None = None, **options: Any
) -> tuple[Callable[[], Any], Any, Any]:
    """A call that runs the model on the GPU, between buffers that are there already; in_place: outputs to the inputs they lie in."""
    cuda = next(one for one in providers() if one.name == "cuda")
    place = cuda.probe()[0]
    (executable,) = turnout.load(model, device="cuda", options={"cuda": options})._program.executables
    values = [cuda.to_device(array, place) for array in arrays]
    buffers = [values[in_place[k]] if k in in_place else None for k in range(len(model.graph.output))] if in_place else None
    out = list(executable.run(values, buffers))
    return lambda: executable.run(values, out), cuda.context(place), (values, out)  # type: ignore[attr-defined]


def host() -> int:
    """Microseconds of the host's time: a run of one launch, a run of many, and what one launch more costs."""
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
        print(f"{name:<44} {found:8.2f} us")
    one, many, _ = medians.values()
    print(f"{'each launch':<44} {(many - one) / (NODES - 1):8.2f} us")
    return 0


def _seconds(context: Any, calls: Sequence[Callable[[], Any]]) -> float:
    """The median time of a call on the device, by its own clock; the calls take turns, so that no cache holds what they read."""
    driver = context.driver
    context.enter()
    begin, end = (context.check(driver.cuEventCreate(0)) for _ in range(2))

    def timed() -> float:
        context.check(driver.cuEventRecord(begin, context.stream))
        for call in calls:
            call()
        context.check(driver.cuEventRecord(end, context.stream))
        context.check(driver.cuEventSynchronize(end))
        return float(context.check(driver.cuEventElapsedTime(begin, end))) * 1e-3 / len(calls)

    for _ in range(1 if TINY else 3):  # kernels are loaded and graphs recorded
        first = timed() * len(calls)
        if first > SECONDS / 2:
            break
    rounds = 2 if TINY else int(min(50, max(2, SECONDS / max(first, 1e-6))))
    return max(statistics.median(timed() for _ in range(rounds)), 1e-9)


def device() -> int:
    """The table. A row that fails says why, and the next one comes."""
    copied = _row("copy of device memory, read and written", _copy)
    for name, (body, shape, dtype, inputs) in _moving().items():
        _row(name, lambda b=body, s=shape, d=dtype, i=inputs: _moves(b, s, d, i, copied))
    for rows, columns, count in _GEMV[TINY]:
        _row(
            f"int4 GEMV {columns}x{rows}{f', {count} in a chain' if count > 1 else ', head'}",
            lambda k=rows, n=columns, c=count: _gemv(k, n, c, copied),
        )
    for size, dtype in ((4096, "float"), (4096, "float16"), (8192, "float16")):
        _row(f"product {size}, {dtype}", lambda s=size, d=dtype: _product(64 if TINY else s, d))
    for tokens in (512, 2048):
        _row(f"int4 product, {tokens} rows, 4096x4096", lambda t=tokens: _int4_product(t))
    for tokens in (2048, 8192):
        _row(f"attention, 32 heads of 128, {tokens} tokens, causal", lambda t=tokens: _prefill(t))
    for batch in (1, 16):
        _row(f"GQA decode, batch {batch}, 8192 tokens, 8 of 32 heads", lambda b=batch: _decode(b, copied))
    _row(f"host time of a run of {NODES} launches as a graph", _host_of_graph)
    return 0


def _row(name: str, measure: Callable[[], Any]) -> Any:
    """Prints a row as soon as it is known; gives what it measured, None where it could not."""
    try:
        text, value = measure()
    except Exception as error:  # whatever it is, the other rows are worth having
        text, value = f"not measured: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}", None
    print(f"{name:<52} {text}", flush=True)
    gc.collect()  # what the row held on the device
    return value


def _of(rate: float, ceiling: float | None, what: str) -> str:
    return "" if ceiling is None else f"  {rate / ceiling:5.0%} of {what}"


def _copy() -> tuple[str, float]:
    """Bytes a second of the driver's own copy, read and written."""
    size = 1 << 12 if TINY else 256 << 20
    kept = [_prepared(_model("y = Neg(x)", f"{size // 4}"), [np.zeros(size // 4, np.float32)]) for _ in range(3)]
    context = kept[0][1]

    def move(keep: Any) -> Callable[[], Any]:
        (source,), (target,) = keep
        return lambda: context.driver.cuMemcpyAsync(target.address, source.address, source.nbytes, context.stream)

    rate = 2 * size / _seconds(context, [move(keep) for _, _, keep in kept])
    return f"{rate / 1e12:6.2f} TB/s", rate


def _moving() -> dict[str, tuple[str, tuple[int, int], str, str]]:
    """Name to body, shape, type and further inputs: what reads and writes each element once."""
    chain = "a = Mul(x, x) b = Sigmoid(a) c = Add(b, x) y = Relu(c)"
    rows = {
        "elementwise chain of 4, float32, 256 MB": (chain, (8192, 8192), "float", ""),
        "elementwise chain of 4, float16, 128 MB": (chain, (8192, 8192), "float16", ""),
        "transpose, float32, 256 MB": ("y = Transpose(x)", (8192, 8192), "float", ""),
    }
    for dtype, width in (("float", 1024), ("float", 32768), ("float16", 1024), ("float16", 4096), ("float16", 32768)):
        shape = ((64 << 20) // width, width)
        rows[f"softmax, {dtype}, rows of {width}"] = ("y = Softmax(x)", shape, dtype, "")
        rows[f"LayerNormalization, {dtype}, rows of {width}"] = ("y = LayerNormalization(x, s, s)", shape, dtype, "s")
        rows[f"RMSNormalization, {dtype}, rows of {width}"] = ("y = RMSNormalization(x, s)", shape, dtype, "s")
    return {name: (body, (8, 64) if TINY else shape, dtype, inputs) for name, (body, shape, dtype, inputs) in rows.items()}


def _moves(body: str, shape: tuple[int, int], dtype: str, extra: str, copied: float | None) -> tuple[str, float]:
    out = f"{shape[1]},{shape[0]}" if "Transpose" in body else f"{shape[0]},{shape[1]}"
    further = f", {dtype}[{shape[1]}] {extra}" if extra else ""
    text = f"g ({dtype}[{shape[0]},{shape[1]}] x{further}) => ({dtype}[{out}] y) {{ {body} }}"
    model = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : 23]> {text}')
    array = RANDOM.standard_normal(shape, np.float32).astype(TYPES[dtype])
    arrays = [array, *([np.ones(shape[1], TYPES[dtype])] if extra else [])]
    made = [_prepared(model, arrays) for _ in range(3)]
    rate = 2 * array.nbytes / _seconds(made[0][1], [run for run, _, _ in made])
    return f"{rate / 1e12:6.2f} TB/s{_of(rate, copied, 'copy')}{_peer(model, arrays, 2 * array.nbytes / rate)}", rate


_GEMV = {False: ((4096, 4096, 32), (8192, 8192, 16), (3072, 128256, 1)), True: ((64, 64, 2), (64, 96, 1))}
"""Rows of the matrix (K), its columns (N), and how many of them one product after the other reads; by whether it is tiny."""


def _quantised(k: int, n: int, count: int, tokens: int) -> tuple[onnx.ModelProto, list[np.ndarray[Any, Any]]]:
    """MatMulNBits of 4 bits in blocks of 32 with float16 scales, `count` of them one after the other; the matrices are inputs."""
    nodes, inputs, arrays = [], [helper.make_tensor_value_info("x", TensorProto.FLOAT16, [tokens, k])], []
    arrays.append(RANDOM.standard_normal((tokens, k), np.float32).astype(np.float16))
    facts = {"K": k, "N": n, "bits": 4, "block_size": 32}
    between = []
    for number in range(count):
        inputs.append(helper.make_tensor_value_info(f"w{number}", TensorProto.UINT8, [n, k // 32, 16]))
        inputs.append(helper.make_tensor_value_info(f"s{number}", TensorProto.FLOAT16, [n, k // 32]))
        arrays += [RANDOM.integers(0, 256, (n, k // 32, 16), np.uint8), np.full((n, k // 32), 0.01, np.float16)]
        source, target = "x" if number == 0 else f"t{number - 1}", "y" if number == count - 1 else f"t{number}"
        nodes.append(helper.make_node("MatMulNBits", [source, f"w{number}", f"s{number}"], [target], domain="com.microsoft", **facts))
        between.append(helper.make_tensor_value_info(target, TensorProto.FLOAT16, [tokens, n]))
    graph = helper.make_graph(nodes, "g", inputs, between[-1:], value_info=between[:-1])
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10), arrays


def _gemv(k: int, n: int, count: int, copied: float | None) -> tuple[str, float]:
    model, arrays = _quantised(k, n, count, 1)
    made = [_prepared(model, arrays) for _ in range(2 if count == 1 else 1)]
    nbytes = sum(array.nbytes for array in arrays[1:])
    rate = nbytes / _seconds(made[0][1], [run for run, _, _ in made])
    # a copy's bytes are read and written; here nearly all are read
    return f"{rate / 1e12:6.2f} TB/s{_of(rate, copied, 'copy')}  {nbytes / count / rate * 1e6:6.1f} us each", rate


def _product(size: int, dtype: str) -> tuple[str, float]:
    array = RANDOM.standard_normal((size, size), np.float32).astype(TYPES[dtype])
    model = _model("y = MatMul(x, x)", f"{size},{size}", dtype)
    cuda = next(one for one in providers() if one.name == "cuda")
    context = cuda.context(cuda.probe()[0])  # type: ignore[attr-defined]
    library, context.cublaslt = context.cublaslt, "this row is of our own kernel"
    try:
        run, _, _ = _prepared(model, [array])
    finally:
        context.cublaslt = library
    seconds = _seconds(context, [run])
    rate = 2 * size**3 / seconds
    beside = f"  ({library})" if isinstance(library, str) else ""
    if not beside:
        through, _, _ = _prepared(model, [array])
        beside = f"  {_seconds(context, [through]) / seconds:5.0%} of cuBLASLt's speed"
    best = _torch(lambda torch: torch.from_numpy(array).cuda(), lambda there: there @ there)
    return f"{rate / 1e12:6.1f} TFLOP/s{beside}{_against(seconds, best)}{_peer(model, [array], seconds)}", rate


def _int4_product(tokens: int) -> tuple[str, float]:
    k = n = 64 if TINY else 4096
    tokens = 24 if TINY else tokens
    model, arrays = _quantised(k, n, 1, tokens)
    run, context, _ = _prepared(model, arrays)
    seconds = _seconds(context, [run])
    x, w = arrays[0], np.ones((k, n), np.float16)
    best = _torch(lambda torch: (torch.from_numpy(x).cuda(), torch.from_numpy(w).cuda()), lambda pair: pair[0] @ pair[1])
    return f"{2 * tokens * k * n / seconds / 1e12:6.1f} TFLOP/s{_against(seconds, best)} in float16", seconds


def _prefill(tokens: int) -> tuple[str, float]:
    heads, tokens = (2, 24) if TINY else (32, tokens)
    shape = f"1,{heads},{tokens},128"
    parameters = ", ".join(f"float16[{shape}] {name}" for name in "qkv")
    text = f"g ({parameters}) => (float16[{shape}] y) {{ y = Attention<is_causal = 1>(q, k, v) }}"
    model = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : 23]> {text}')
    array = RANDOM.standard_normal((1, heads, tokens, 128), np.float32).astype(np.float16)
    run, context, _ = _prepared(model, [array] * 3)
    seconds = _seconds(context, [run])
    rate = 4 * heads * tokens**2 * 128 / 2 / seconds  # causal: half of the scores
    best = _torch(lambda torch: (torch, torch.from_numpy(array).cuda()), _scaled_dot_product)
    return f"{rate / 1e12:6.1f} TFLOP/s{_against(seconds, best)}", rate


def _scaled_dot_product(given: Any) -> Any:
    torch, x = given
    return torch.nn.functional.scaled_dot_product_attention(x, x, x, is_causal=True)


def _decode(batch: int, copied: float | None) -> tuple[str, float]:
    """One token for each of a batch, over a cache that is written in place."""
    from turnout.formats import open_source
    from turnout.graph import declare_alias

    heads, key_heads, context_length, head = (4, 2, 32, 64) if TINY else (32, 8, 8192, 128)
    cache = [batch, key_heads, context_length, head]
    half, whole = TensorProto.FLOAT16, TensorProto.INT32
    inputs = {
        "q": (half, [batch, 1, heads * head]),
        "k": (half, [batch, 1, key_heads * head]),
        "v": (half, [batch, 1, key_heads * head]),
        "pk": (half, cache),
        "pv": (half, cache),
        "n": (whole, [batch]),
        "total": (whole, [1]),
    }
    outputs = {"y": (half, [batch, 1, heads * head]), "ck": (half, cache), "cv": (half, cache)}
    node = helper.make_node(
        "GroupQueryAttention", list(inputs), list(outputs), domain="com.microsoft", num_heads=heads, kv_num_heads=key_heads
    )
    named = [[helper.make_tensor_value_info(name, kind, shape) for name, (kind, shape) in side.items()] for side in (inputs, outputs)]
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    proto = helper.make_model(helper.make_graph([node], "g", *named), opset_imports=opsets, ir_version=10)
    model = open_source(proto).model()
    for output, source in ((1, 3), (2, 4)):
        declare_alias(model.graph.outputs[output], model.graph.inputs[source])
    arrays = [np.zeros(shape, np.float16) for kind, shape in inputs.values() if kind == half]
    arrays += [np.full(batch, context_length - 1, np.int32), np.array([context_length], np.int32)]
    made = [_in_place(model, arrays, {1: 3, 2: 4}) for _ in range(3 if batch == 1 else 1)]
    nbytes = 2 * arrays[3].nbytes
    rate = nbytes / _seconds(made[0][1], [run for run, _, _ in made])
    return f"{rate / 1e12:6.2f} TB/s{_of(rate, copied, 'copy')}  {nbytes / rate * 1e6:6.1f} us", rate


def _in_place(model: Any, arrays: Sequence[Any], places: dict[int, int]) -> tuple[Callable[[], Any], Any, Any]:
    cuda = next(one for one in providers() if one.name == "cuda")
    place = cuda.probe()[0]
    (executable,) = turnout.load(model, device="cuda")._program.executables
    values = [cuda.to_device(array, place) for array in arrays]
    first = executable.run(values, [values[places[k]] if k in places else None for k in range(len(model.graph.outputs))])
    assert all(first[k].memory is values[source].memory for k, source in places.items()), "the cache is not written in place"
    return lambda: executable.run(values, first), cuda.context(place), (values, first)  # type: ignore[attr-defined]


def _host_of_graph() -> tuple[str, float]:
    """What the host spends on a run that is one graph; the device may be slower, and is waited for at the end."""
    run, context, _ = _prepared(_chain(NODES), [np.ones((4, 32), np.float32)])
    found = []
    for _ in range(3 if TINY else 50):
        run()
        context.settle()
        start = time.perf_counter()
        run()
        found.append((time.perf_counter() - start) * 1e6)
        context.settle()
    return f"{statistics.median(found):6.1f} us", statistics.median(found)


# peers


def _torch(make: Callable[[Any], Any], call: Callable[[Any], Any]) -> float | str:
    """Seconds of torch's own, or why there are none."""
    try:
        import torch
    except ImportError:
        return "torch is not here"
    if not torch.cuda.is_available():
        return "this torch has no CUDA"
    with torch.no_grad():
        given, found = make(torch), []
        for _ in range(23):
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            call(given)
            end.record()
            end.synchronize()
            found.append(begin.elapsed_time(end) * 1e-3)
    return statistics.median(found[3:])


def _against(seconds: float, best: float | str) -> str:
    return f"  ({best})" if isinstance(best, str) else f"  {best / seconds:5.0%} of torch's speed"


def _peer(model: onnx.ModelProto, arrays: Sequence[np.ndarray[Any, Any]], seconds: float) -> str:
    """The same model in ONNX Runtime's CUDA provider, between buffers on the device; "" where that is not here."""
    try:
        import onnxruntime as ort
    except ImportError:
        return ""
    if "CUDAExecutionProvider" not in ort.get_available_providers():
        return ""
    try:
        session = ort.InferenceSession(model.SerializeToString(), providers=["CUDAExecutionProvider"])
        bound = session.io_binding()
        for value, array in zip(session.get_inputs(), arrays, strict=True):
            bound.bind_ortvalue_input(value.name, ort.OrtValue.ortvalue_from_numpy(array, "cuda", 0))
        bound.bind_output(session.get_outputs()[0].name, "cuda", 0)
        found = []
        for _ in range(13):
            start = time.perf_counter()
            for _ in range(10):
                session.run_with_iobinding(bound)
            bound.synchronize_outputs()
            found.append((time.perf_counter() - start) / 10)
    except Exception as error:  # onnxruntime has no error class of its own
        return f"  (ONNX Runtime: {str(error).splitlines()[0][:60]})"
    return f"  {statistics.median(found[3:]) / seconds:5.0%} of ONNX Runtime's speed"


if __name__ == "__main__":
    sys.exit(main())
