"""Language models on CUDA: tokens a second, and shares of what the memory allows.

    python tests/benchmarks/cuda_text.py [--tiny] [PART ...]

With a GPU, a line for each part:

    kernels    products with 4-bit matrices, attention over a cache: shares of ceilings measured in the same run, beside the targets
    int4 fp16  a decoder in the shape of Phi-3 mini (3.8 billion weights, random): prompt of 512 tokens, decoding with 1, 8 and 64 texts,
               as a share of the time that its bytes take at the rate of the device's own copy
    gguf       SmolLM2-135M and a random Phi-3 mini out of GGUF files, and llama.cpp on the same files where llama-bench is on the PATH
    torch      the same decoder in torch, eager and compiled, where torch finds the GPU

Without one: the host's time for a token's step, on a driver that does nothing (turnout-cudasim's "noop"). --tiny runs every part at tiny
shapes in the simulator; its numbers say nothing, only that all of it works.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import turnout
from turnout.errors import Unavailable
from turnout.graph import declare_alias, ir
from turnout.plugins import providers

PARTS = ("kernels", "int4", "fp16", "gguf", "torch")
ROUNDS, STEPS = 20, 200
HALF, INT64 = ir.DataType.FLOAT16, ir.DataType.INT64


@dataclass(frozen=True)
class Shape:
    """A decoder's sizes. context: tokens in its cache."""

    blocks: int = 32
    width: int = 3072
    heads: int = 32
    key_heads: int = 32
    head: int = 96
    hidden: int = 8192
    vocabulary: int = 32064
    context: int = 1024
    prompt: int = 512
    texts: tuple[int, ...] = (1, 8, 64)


PHI3_MINI = Shape()
TINY = Shape(2, 64, 2, 2, 32, 96, 128, 48, 20, (1, 3))


class Build:
    """The decoder's graph, in ONNX Runtime's operators, of a precision ("int4" in blocks of 32, or "fp16"), for some texts at once.

    Every block has weights of its own on the device; on the host they share one array, so that 3.8 billion of them fit anywhere.
    """

    def __init__(self, shape: Shape, precision: str, texts: int) -> None:
        self.shape, self.precision, self.texts = shape, precision, texts
        self.random = np.random.default_rng(0)
        self.nodes: list[ir.Node] = []
        self.weights: list[ir.Value] = []
        self.arrays: dict[Any, Any] = {}
        self.nbytes = 0
        """Of all that a step reads of the weights."""

    def model(self) -> ir.Model:
        s, b = self.shape, self.texts
        ids, past, wanted = (
            _value(*one) for one in (("input_ids", INT64, (b, "t")), ("past_tokens", INT64, (b,)), ("wanted_tokens", INT64, ("w",)))
        )
        count = self.add("Squeeze", [self.add("Shape", [ids], INT64, (1,), start=1, end=2)], INT64, ())
        last = self.add("Sub", [self.add("Add", [past, count], INT64, (b,)), self.constant("one", np.array([1]))], INT64, (b,))
        lengths = self.add("Cast", [last], ir.DataType.INT32, (b,), to=int(ir.DataType.INT32))
        total = self.constant("total", np.array(s.context, np.int32))
        angles = np.outer(np.arange(s.context), 1e4 ** (-np.arange(s.head // 2) * 2 / s.head))
        tables = [self.constant(name, of(angles).astype(np.float16)) for name, of in (("cosines", np.cos), ("sines", np.sin))]
        x = self.add("Gather", [self.weight("embedding", (s.vocabulary, s.width), read=False), ids], HALF, (b, "t", s.width))
        normed = self.norm(x)
        inputs, outputs = [ids, past, wanted], []
        for block in range(s.blocks):
            qkv = self.product(normed, s.width, (s.heads + 2 * s.key_heads) * s.head)
            kept = [_value(f"past_{which}.{block}", HALF, (b, s.key_heads, s.context, s.head)) for which in ("key", "value")]
            made = [_value(f"present_{which}.{block}", HALF, (b, s.key_heads, s.context, s.head)) for which in ("key", "value")]
            seen = _value(f"seen.{block}", HALF, (b, "t", s.heads * s.head))
            how = {"num_heads": s.heads, "kv_num_heads": s.key_heads, "do_rotary": 1}
            read = [qkv, None, None, *kept, lengths, total, *tables]
            self.nodes.append(ir.node("GroupQueryAttention", read, how, domain="com.microsoft", outputs=[seen, *made], version=1))
            for one, other in zip(kept, made, strict=True):
                declare_alias(other, one)
            inputs, outputs = inputs + kept, outputs + made
            x, normed = self.sum_and_norm(x, self.product(seen, s.heads * s.head, s.width))
            both = self.product(normed, s.width, 2 * s.hidden)
            gate, up = _value(f"gate.{block}", HALF, (b, "t", s.hidden)), _value(f"up.{block}", HALF, (b, "t", s.hidden))
            sizes = self.constant("halves", np.array([s.hidden, s.hidden]))
            self.nodes.append(ir.node("Split", [both, sizes], {"axis": -1}, outputs=[gate, up], version=24))
            silu = self.add("Mul", [gate, self.add("Sigmoid", [gate], HALF, gate.shape)], HALF, gate.shape)
            x, normed = self.sum_and_norm(x, self.product(self.add("Mul", [silu, up], HALF, gate.shape), s.hidden, s.width))
        rows = self.add("Gather", [normed, wanted], HALF, (b, "w", s.width), axis=1)
        logits = _value("logits", ir.DataType.FLOAT, (b, "w", s.vocabulary))
        self.nodes.append(ir.node("Cast", [self.product(rows, s.width, s.vocabulary)], {"to": 1}, outputs=[logits], version=24))
        opsets = {"": 24, "com.microsoft": 1}
        graph = ir.Graph(inputs, [logits, *outputs], nodes=self.nodes, initializers=self.weights, opset_imports=opsets, name="phi3")
        return ir.Model(graph, ir_version=11)

    def add(self, operator: str, inputs: Sequence[Any], kind: Any, shape: Any, domain: str = "", **how: Any) -> ir.Value:
        made = _value(f"v{len(self.nodes)}", kind, shape)
        self.nodes.append(ir.node(operator, list(inputs), how, domain=domain, outputs=[made], version=1 if domain else 24))
        return made

    def constant(self, name: str, array: Any) -> ir.Value:
        made = _value(f"{name}.{len(self.weights)}", ir.DataType.from_numpy(array.dtype), array.shape)
        made.const_value = ir.Tensor(array, name=made.name)
        self.weights.append(made)
        return made

    def weight(self, name: str, shape: tuple[int, ...], *, read: bool = True) -> ir.Value:
        """Halves of about the size that keeps a stream as it is."""
        array = self.arrays.get(shape)
        if array is None:
            some = (self.random.standard_normal(1 << 16) / shape[-1] ** 0.5).astype(np.float16)
            array = self.arrays[shape] = np.resize(some, shape)
        self.nbytes += array.nbytes if read else 0
        return self.constant(name, array)

    def product(self, x: ir.Value, k: int, n: int) -> ir.Value:
        shape = (*tuple(x.shape or ())[:-1], n)
        if self.precision == "fp16":
            return self.add("MatMul", [x, self.weight("w", (k, n))], HALF, shape)
        parts = self.arrays.get((k, n))
        if parts is None:
            values = np.resize(self.random.integers(0, 256, 1 << 16, dtype=np.uint8), (n, k // 32, 16))
            parts = self.arrays[k, n] = values, np.full((n, k // 32), 0.2 / k**0.5, np.float16)
        self.nbytes += sum(part.nbytes for part in parts)
        names = [self.constant("w", part) for part in parts]
        return self.add("MatMulNBits", [x, *names], HALF, shape, "com.microsoft", K=k, N=n, bits=4, block_size=32)

    def norm(self, x: ir.Value) -> ir.Value:
        scale = self.constant("scale", np.ones(self.shape.width, np.float16))
        return self.add("RMSNormalization", [x, scale], HALF, tuple(x.shape or ()), axis=-1, epsilon=1e-5)

    def sum_and_norm(self, x: ir.Value, more: ir.Value) -> tuple[ir.Value, ir.Value]:
        total = self.add("Add", [x, more], HALF, tuple(x.shape or ()))
        return total, self.norm(total)


def _value(name: str, kind: Any, shape: Any) -> ir.Value:
    return ir.Value(name=name, type=ir.TensorType(kind), shape=ir.Shape(list(shape)))


class Running:
    """A model on the GPU, and what it takes to run it there between buffers of its own."""

    def __init__(self, model: Any) -> None:
        self.cuda: Any = next(one for one in providers() if one.name == "cuda")
        self.device = self.cuda.probe()[0]
        self.context = self.cuda.context(self.device)
        self.model = turnout.load(model, device="cuda")
        self.executable: Any = self.model.executable

    def there(self, array: Any) -> Any:
        return self.cuda.to_device(array, self.device)

    def empty(self, shape: tuple[int, ...], dtype: Any) -> Any:
        """Zeros that were made there."""
        from turnout_cuda.context import Memory
        from turnout_cuda.tensor import DeviceTensor

        made = DeviceTensor(shape, np.dtype(dtype), Memory(self.context, int(np.prod(shape)) * np.dtype(dtype).itemsize))
        self.context.check(self.context.driver.cuMemsetD8Async(made.address, 0, made.nbytes, self.context.stream))
        return made

    def seconds(self, calls: Sequence[Callable[[], Any]], rounds: int = ROUNDS) -> float:
        """The median time of a call by the device's own clock; the calls take turns."""
        driver, context = self.context.driver, self.context
        context.enter()
        begin, end = (context.check(driver.cuEventCreate(0)) for _ in range(2))
        for call in (*calls, *calls, *calls):
            call()
        found = []
        for _ in range(rounds):
            context.check(driver.cuEventRecord(begin, context.stream))
            for call in calls:
                call()
            context.check(driver.cuEventRecord(end, context.stream))
            context.check(driver.cuEventSynchronize(end))
            found.append(context.check(driver.cuEventElapsedTime(begin, end)) * 1e-3 / len(calls))
        return max(statistics.median(found), 1e-9)

    def copy_rate(self, nbytes: int) -> float:
        """Bytes a second that the driver's own copy reads and writes."""
        pairs = [[self.there(np.zeros(nbytes, np.uint8)) for _ in range(2)] for _ in range(2)]

        def move(source: Any, target: Any) -> Callable[[], Any]:
            return lambda: self.context.driver.cuMemcpyAsync(target.address, source.address, nbytes, self.context.stream)

        return 2 * nbytes / self.seconds([move(*pair) for pair in pairs])


def decoder(shape: Shape, precision: str) -> None:
    for texts in shape.texts:
        build = Build(shape, precision, texts)
        run = Running(build.model())
        rate = run.copy_rate(1 << 28 if shape is PHI3_MINI else 1 << 12)
        size = (texts, shape.key_heads, shape.context, shape.head)
        caches = [run.empty(size, np.float16) for _ in range(2 * shape.blocks)]

        def feed(tokens: int, past: int, run: Running = run, texts: int = texts, caches: list[Any] = caches) -> Callable[[], Any]:
            ids = np.random.default_rng(1).integers(0, shape.vocabulary, (texts, tokens))
            given = [ids, np.full(texts, past), np.array([tokens - 1])]
            values = [*(run.there(one) for one in given), *caches]
            out = run.executable.run(values, [None, *caches])
            return lambda: run.executable.run(values, [out[0], *caches])

        past = shape.prompt
        prompt = run.seconds([feed(past, 0)], rounds=3) if texts <= 8 else 0.0  # 64 of them would take the better part of a lease
        step = run.seconds([feed(1, past)])
        seen = texts * 2 * shape.blocks * shape.key_heads * shape.head * 2 * (past + 1)
        floor = (build.nbytes + seen) / rate
        print(
            f"{precision}, {texts:2} texts: "
            + (f"prompt {texts * past / prompt:9.0f} tokens/s, " if prompt else "")
            + f"decode {texts / step:8.1f} tokens/s,"
            f" a step {step * 1e3:.3f} ms, its bytes {floor * 1e3:.3f} ms at {rate / 1e12:.2f} TB/s: {floor / step:.0%}"
            + (" (target 450, good 800)" if (precision, texts) == ("int4", 1) else ""),
            flush=True,
        )
        if texts == 1:
            rates = [1 / _session_step(run.model, shape, 20, chosen=chosen) for chosen in (False, True)]
            print(f"{precision},  1 text, through a session: {rates[0]:8.1f} tokens/s, chosen on the device {rates[1]:8.1f}", flush=True)
        run.model.close()


def _session_step(model: Any, shape: Shape, steps: int, clock: Callable[[], float] = time.perf_counter, *, chosen: bool = False) -> float:
    """Seconds of a token's step as turnout-text asks for it: the logits on the host, or the next token, chosen on the device."""
    session = model.executable.new_session()
    session.feed(list(range(1, 6)), [4])
    chooser = session.chooser(temperature=0.8, top_k=40, top_p=0.95, min_p=0.0, repetition_penalty=1.0, seen=[])
    step: Callable[[], Any] = (lambda: chooser(1, 0.5)) if chosen else (lambda: session.feed([1], [0]))
    step()
    steps = min(steps, shape.context - 7)
    start = clock()
    for _ in range(steps):
        step()
    seconds = (clock() - start) / steps
    session.close()
    return seconds


def kernels(shape: Shape) -> None:
    """Single kernels beside the targets: at least, and good."""
    tiny = shape is not PHI3_MINI
    rows = [("int4, 1 row, the vocabulary", 1, 32064 * 4, 3072, (0.85, 0.92)), ("int4, 1 row, 8192 x 3072", 1, 8192, 3072, (0.5, 0.65))]
    rows += [("int4, 8 rows, 8192 x 3072", 8, 8192, 3072, (0.5, 0.65)), ("int4, 1 row, 3072 x 8192", 1, 3072, 8192, (0.5, 0.65))]
    rate = 0.0
    for name, tokens, n, k, (least, good) in rows:
        n, k = (64, 64) if tiny else (n, k)
        built = Build(shape, "int4", 1)
        x, copies = _value("x", HALF, (tokens, k)), 2 if tiny else max(2, (1 << 28) // (n * k // 2))
        made = [built.product(x, k, n) for _ in range(copies)]  # one after another: together more than any cache holds
        graph = ir.Graph([x], made, nodes=built.nodes, initializers=built.weights, opset_imports={"": 24, "com.microsoft": 1}, name="one")
        run = Running(ir.Model(graph, ir_version=11))
        rate = rate or run.copy_rate(1 << 12 if tiny else 1 << 28)
        values = [run.there(np.ones((tokens, k), np.float16))]
        out = run.executable.run(values)
        seconds = run.seconds([lambda run=run, values=values, out=out: run.executable.run(values, out)])  # type: ignore[misc]
        _share(name, built.nbytes / seconds, rate, least, good)
        run.model.close()
    _attention(shape, rate, tiny)


def _attention(shape: Shape, rate: float, tiny: bool) -> None:
    b, heads, key_heads, head, length = (1, 2, 1, 32, 40) if tiny else (8, 32, 8, 128, 8192)
    nodes: list[ir.Node] = []
    qkv = _value("qkv", HALF, (b, 1, (heads + 2 * key_heads) * head))
    kept = [_value(f"past_{which}", HALF, (b, key_heads, length, head)) for which in ("key", "value")]
    made = [_value(f"present_{which}", HALF, (b, key_heads, length, head)) for which in ("key", "value")]
    lengths, total = _value("lengths", ir.DataType.INT32, (b,)), _value("total", ir.DataType.INT32, ())
    seen, how = _value("y", HALF, (b, 1, heads * head)), {"num_heads": heads, "kv_num_heads": key_heads}
    read = [qkv, None, None, *kept, lengths, total]
    nodes.append(ir.node("GroupQueryAttention", read, how, domain="com.microsoft", outputs=[seen, *made], version=1))
    for one, other in zip(kept, made, strict=True):
        declare_alias(other, one)
    inputs = [qkv, *kept, lengths, total]
    graph = ir.Graph(inputs, [seen, *made], nodes=nodes, opset_imports={"": 24, "com.microsoft": 1}, name="attention")
    run = Running(ir.Model(graph, ir_version=11))
    caches = [run.empty((b, key_heads, length, head), np.float16) for _ in kept]
    given = [np.zeros((b, 1, (heads + 2 * key_heads) * head), np.float16), np.full(b, length - 1, np.int32), np.array(length, np.int32)]
    values = [run.there(given[0]), *caches, run.there(given[1]), run.there(given[2])]
    out = run.executable.run(values, [None, *caches])
    seconds = run.seconds([lambda: run.executable.run(values, [out[0], *caches])])
    _share(f"attention, 1 token after {length}, {b} texts", 2 * caches[0].nbytes / seconds, rate, 0.65, 0.8)
    run.model.close()


def _share(name: str, reached: float, rate: float, least: float, good: float) -> None:
    print(f"{name:<44} {reached / 1e12:6.2f} TB/s {reached / rate:5.0%} of copy (at least {least:.0%}, good {good:.0%})", flush=True)


def gguf_files(tiny: bool) -> None:
    """SmolLM2 and a Phi-3 mini with random weights out of their files, here and in llama.cpp's own benchmark where that is on the PATH.

    Both read 512 tokens at once, and then, from an empty cache, write 128 one at a time, each with its logits on the host.
    """
    import pytest

    sys.path += [str(Path(__file__).parents[1] / "models"), str(Path(__file__).parent)]
    import packages
    import random_phi3

    sys.path.remove(str(Path(__file__).parent))
    prompt, count = (9, 4) if tiny else (512, 128)
    with tempfile.TemporaryDirectory() as away:
        made = Path(away) / "phi3.gguf"
        sizes = random_phi3.Sizes(2, 64, 2, 96, 64, 2000) if tiny else random_phi3.Sizes()
        random_phi3.write(made, "q4_0", sizes)
        files = {"Phi-3 mini, random, Q4_0": made}
        try:
            files |= {} if tiny else {"SmolLM2, Q4_1": packages.model_path("smollm2")}
        except pytest.skip.Exception as error:
            print(f"SmolLM2 is not here: {error}")
        for name, path in files.items():
            with turnout.load(path, device="cuda") as model:
                own = _session_rates(model, prompt, count)
            print(f"{name}: prompt {own[0]:9.1f} tokens/s, decode {own[1]:8.1f} tokens/s", flush=True)
            _beside_llamacpp(name, path, prompt, count, own)


def _session_rates(model: Any, prompt: int, count: int) -> tuple[float, float]:
    """Tokens a second of a prompt at once, and of tokens one at a time; the best of five."""
    session, tokens = model.executable.new_session(), np.random.default_rng(0).integers(0, 1000, prompt).tolist()
    rates: list[tuple[float, float]] = []
    for _ in range(5):
        session.truncate(0)
        start = time.perf_counter()
        session.feed(tokens, [prompt - 1])
        read = time.perf_counter() - start
        session.truncate(0)
        session.feed(tokens[:1], [0])
        start = time.perf_counter()
        for _ in range(count):
            session.feed([1], [0])
        rates.append((prompt / read, count / (time.perf_counter() - start)))
    session.close()
    return max(one[0] for one in rates), max(one[1] for one in rates)


def _beside_llamacpp(name: str, path: Path, prompt: int, count: int, own: tuple[float, float]) -> None:
    program = shutil.which("llama-bench")
    if program is None:
        print(f"{name}: there is no llama-bench on the PATH to compare with")
        return
    command = [program, "-m", str(path), "-p", str(prompt), "-n", str(count), "-ngl", "99", "-fa", "1", "-r", "5", "-o", "json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        print(f"{name}: llama-bench ended with {done.returncode}: {done.stderr.strip()[-200:]}")
        return
    found = json.loads(done.stdout)
    if not found[0].get("gpu_info"):  # without a GPU it takes the CPU, and says "CUDA" all the same
        print(f"{name}: llama-bench finds no GPU")
        return
    best = [max(one["samples_ts"]) for one in sorted(found, key=lambda one: one["n_gen"])]
    build = f"llama.cpp {found[0].get('build_commit', '')}, {found[0].get('backends', '')}"
    print(
        f"{name}: {build}: prompt {best[0]:9.1f} tokens/s, decode {best[1]:8.1f} tokens/s;"
        f" we read {own[0] / best[0]:.2f} and write {own[1] / best[1]:.2f} times as fast",
        flush=True,
    )


def torch_peer(shape: Shape) -> None:
    """The same decoder in torch: halves, a static cache, scaled_dot_product_attention."""
    try:
        import torch
    except ImportError:
        print("torch is not installed")
        return
    if not torch.cuda.is_available() and shape is PHI3_MINI:
        print("torch finds no GPU")
        return
    place, dtype = ("cuda", torch.float16) if torch.cuda.is_available() else ("cpu", torch.float32)
    s = shape

    def weight(*sizes: int) -> Any:
        return torch.randn(sizes, device=place, dtype=dtype) / sizes[0] ** 0.5

    layers = [
        (weight(s.width, 3 * s.heads * s.head), weight(s.heads * s.head, s.width), weight(s.width, 2 * s.hidden), weight(s.hidden, s.width))
        for _ in range(s.blocks)
    ]
    table, head = weight(s.vocabulary, s.width), weight(s.width, s.vocabulary)

    def norm(x: Any) -> Any:
        return x * torch.rsqrt(x.float().pow(2).mean(-1, keepdim=True) + 1e-5).to(x.dtype)

    def layer(x: Any, at: Any, mask: Any, weights: Any, keys: Any, values: Any) -> Any:
        qkv, o, both, down = weights
        q, k, v = (norm(x) @ qkv).view(len(x), 1, 3, s.heads, s.head).permute(2, 0, 3, 1, 4)
        keys.index_copy_(2, at, k)
        values.index_copy_(2, at, v)
        seen = torch.nn.functional.scaled_dot_product_attention(q, keys, values, attn_mask=mask)
        x = x + seen.transpose(1, 2).reshape(len(x), 1, -1) @ o
        gate, up = (norm(x) @ both).chunk(2, -1)
        return x + (torch.nn.functional.silu(gate) * up) @ down

    def step(one: Any, ids: Any, at: Any, mask: Any, cache: Any) -> Any:
        x = table[ids]
        for weights, (keys, values) in zip(layers, cache, strict=True):
            x = one(x, at, mask, weights, keys, values)
        return norm(x) @ head

    for texts in s.texts:
        cache = [[torch.zeros(texts, s.heads, s.context, s.head, device=place, dtype=dtype) for _ in range(2)] for _ in range(s.blocks)]
        ids, at = torch.zeros(texts, 1, dtype=torch.long, device=place), torch.tensor([s.prompt], device=place)
        mask = (torch.arange(s.context, device=place) <= s.prompt)[None]
        given = ids, at, mask, cache
        with torch.no_grad():
            _torch_rate("eager", texts, lambda given=given: step(layer, *given))  # type: ignore[misc]
            if place == "cuda":  # the layers' code is the same, and so compiled once
                compiled = torch.compile(layer)
                step(compiled, *given)
                torch.cuda.synchronize()
                graph = torch.cuda.CUDAGraph()
                with torch.cuda.graph(graph):
                    step(compiled, *given)
                _torch_rate("compiled, as a CUDA graph", texts, graph.replay)


def _torch_rate(name: str, texts: int, call: Callable[[], Any]) -> None:
    import torch

    wait = torch.cuda.synchronize if torch.cuda.is_available() else lambda: None
    for _ in range(3):
        call()
    wait()
    start = time.perf_counter()
    for _ in range(20):
        call()
    wait()
    print(f"torch {name}, fp16, {texts:2} texts: decode {20 * texts / (time.perf_counter() - start):8.1f} tokens/s", flush=True)


def host() -> int:
    """Microseconds of the processor's time for a token's step, whatever else the machine does; at most 15 are due."""
    os.environ["TURNOUT_CUDA"] = "sim"
    import turnout_cudasim

    turnout_cudasim.install("noop")
    shape = Shape(32, 64, 2, 2, 32, 96, 32064, 1024, 9, (1,))  # Phi-3 mini's launches; how wide they are costs the host nothing
    with turnout.load(Build(shape, "int4", 1).model(), device="cuda") as model:
        (prepared,) = _step_plans(model, shape)
        print(
            f"a token's step on a driver that does nothing, {len(prepared.segment.steps)} launches in one graph; target 15 us, at least 30"
        )
        for chosen, what in ((False, "its logits on the host"), (True, "the next token chosen on the device")):
            times = [_session_step(model, shape, STEPS, time.thread_time, chosen=chosen) * 1e6 for _ in range(ROUNDS)]
            print(f"{what}: {statistics.median(times):.1f} us of the processor's time ({min(times):.1f} to {max(times):.1f})")
    return 0


def _step_plans(model: Any, shape: Shape) -> list[Any]:
    _session_step(model, shape, 1)
    plans = model.executable._plans
    return [plan for key, plan in plans.items() if key[0][0] == (1, 1)]


def main() -> int:
    sys.path.remove(str(Path(__file__).parent))  # where `import cuda` would find a file of this folder
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"{', '.join(PARTS)}; all where none is named")
    parser.add_argument("--tiny", action="store_true", help="tiny shapes, in the simulator")
    asked = parser.parse_args()
    if strangers := set(asked.parts) - set(PARTS):
        parser.error(f"there is no part {min(strangers)}")
    if asked.tiny:
        os.environ["TURNOUT_CUDA"] = "sim"
        import turnout_cudasim

        turnout_cudasim.install()
    from turnout_cuda import driver

    try:
        print(driver.gpus()[0].name)
    except Unavailable as error:
        print(f"no GPU here ({error.message}): the host's time")
        return host()
    shape = TINY if asked.tiny else PHI3_MINI
    for part in asked.parts or PARTS:
        if part == "gguf":
            gguf_files(asked.tiny)
        elif part == "torch":
            torch_peer(shape)
        elif part == "kernels":
            kernels(shape)
        else:
            decoder(shape, part)
    if asked.tiny:
        found = turnout_cudasim.reports()
        print(f"simulator: {len(found)} reports {found[:3]}")
        return 1 if found else 0
    return 0


if __name__ == "__main__":
    sys.exit(main())
