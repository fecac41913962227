"""How fast the CUDA simulator is: sixty freshly compiled operators, a GEMM, and a product of int4 weights with a vector.

    uv run python tests/benchmarks/cudasim.py

Every result is checked against NumPy in float64, and every finding of the simulator stops the run. Times are of the processor (one core),
so that others at work on the machine count less; the best of ten.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
import numpy as np

sys.path.pop(0)  # this folder, whose cuda.py hides NVIDIA's cuda
sys.path.insert(0, str(Path(__file__).parents[1] / "cudasim" / "interpreter"))
from ptx_card import Card, compiled

HERE = Path(__file__).parent
RANDOM = np.random.default_rng(0)
OPERATORS = {
    "add": ("a + b", lambda a, b: a + b),
    "sub": ("a - b", lambda a, b: a - b),
    "mul": ("a * b", lambda a, b: a * b),
    "div": ("a / b", lambda a, b: a / b),
    "relu": ("a > 0 ? a : 0.f", lambda a, b: np.maximum(a, 0)),
    "sigmoid": ("1.f / (1.f + __expf(-a))", lambda a, b: 1 / (1 + np.exp(-a))),
    "silu": ("a / (1.f + __expf(-a))", lambda a, b: a / (1 + np.exp(-a))),
    "gelu": ("0.5f * a * (1.f + tanhf(0.8f * (a + 0.044f * a * a * a)))", lambda a, b: 0.5 * a * (1 + np.tanh(0.8 * (a + 0.044 * a**3)))),
    "tanh": ("tanhf(a)", lambda a, b: np.tanh(a)),
    "exp": ("__expf(a)", lambda a, b: np.exp(a)),
    "sqrt": ("sqrtf(fabsf(a))", lambda a, b: np.sqrt(abs(a))),
    "rsqrt": ("rsqrtf(fabsf(a) + 1.f)", lambda a, b: 1 / np.sqrt(abs(a) + 1)),
    "abs": ("fabsf(a)", lambda a, b: abs(a)),
    "neg": ("-a", lambda a, b: -a),
    "max": ("fmaxf(a, b)", np.maximum),
    "min": ("fminf(a, b)", np.minimum),
    "floor": ("floorf(a)", lambda a, b: np.floor(a)),
    "ceil": ("ceilf(a)", lambda a, b: np.ceil(a)),
    "sin": ("__sinf(a)", lambda a, b: np.sin(a)),
    "log": ("__logf(fabsf(a) + 1.f)", lambda a, b: np.log(abs(a) + 1)),
}
TYPES = {"float": (np.float32, 1e-5), "__half": (np.float16, 2e-3), "double": (np.float64, 1e-6)}


def error(got, want) -> float:
    return float(np.linalg.norm(got.astype(np.float64) - want) / np.linalg.norm(want))


def operators() -> None:
    """Compile, translate, run and check, each operator in each type."""
    compiling = running = 0.0
    start = time.perf_counter()
    for name, (text, reference) in OPERATORS.items():
        for type_, (dtype, tolerance) in TYPES.items():
            include = "#include <cuda_fp16.h>\n" if type_ == "__half" else ""
            source = (
                f'{include}extern "C" __global__ void op_{name}(const {type_}* A, const {type_}* B, {type_}* Y, int n) {{\n'
                "int i = blockIdx.x * blockDim.x + threadIdx.x;\nif (i >= n) return;\n"
                f"float a = (float)A[i], b = (float)B[i]; Y[i] = ({type_})({text}); }}"
            )
            clock = time.process_time()
            ptx = compiled(source, arch="compute_90")
            compiling += time.process_time() - clock
            clock = time.process_time()
            card = Card(ptx, 1 << 20)
            a, b = RANDOM.standard_normal(1000).astype(dtype), (RANDOM.standard_normal(1000) + 3).astype(dtype)
            out = card.empty(a.nbytes)
            card.run(f"op_{name}", 4, 256, card.put(a), card.put(b), out, 1000)
            got = card.get(out, 1000, dtype)
            assert error(got, reference(a.astype(np.float64), b.astype(np.float64))) < tolerance, (name, type_)
            running += time.process_time() - clock
    count = len(OPERATORS) * len(TYPES)
    wall = time.perf_counter() - start
    print(f"{count} freshly compiled operators: NVRTC {compiling:.2f} s, simulator {running:.2f} s of processor; {wall:.2f} s by the clock")


def best(run) -> float:
    times = []
    for _ in range(10):
        clock = time.process_time()
        run()
        times.append(time.process_time() - clock)
    return min(times) * 1e3


def gemm(size: int = 256) -> None:
    card = Card(compiled((HERE / "cudasim.cu").read_text(), arch="compute_90"))
    a, b = (RANDOM.standard_normal((size, size)).astype(np.float16) for _ in range(2))
    pa, pb, pc = card.put(a), card.put(b), card.empty(a.nbytes)
    spent = best(lambda: card.run("gemm", (size // 64, size // 64), 128, pa, pb, pc, size, size, size))
    assert error(card.get(pc, a.shape, np.float16), a.astype(np.float64) @ b.astype(np.float64)) < 1e-3
    print(f"GEMM {size}^3: {spent:.0f} ms")


def gemv(size: int = 4096) -> None:
    card = Card(compiled((HERE / "cudasim.cu").read_text(), arch="compute_90"))
    groups = size // 32
    q = RANDOM.integers(0, 256, (size, groups, 16), dtype=np.uint8)
    scale = (RANDOM.random((size, groups)) * 0.02).astype(np.float16)
    zero = RANDOM.integers(0, 256, (size, groups // 2), dtype=np.uint8)
    x = RANDOM.standard_normal(size).astype(np.float16)
    places = [card.put(v) for v in (x, q, scale, zero)]
    y = card.empty(size * 2)
    spent = best(lambda: card.run("gemv_int4", size // 4, 128, *places, y, size, size))
    weights = np.stack([q & 15, q >> 4], -1).reshape(size, groups, 32).astype(np.float64)
    zeros = np.stack([zero & 15, zero >> 4], -1).reshape(size, groups, 1)
    want = ((weights - zeros) * scale[..., None].astype(np.float64)).reshape(size, size) @ x.astype(np.float64)
    assert error(card.get(y, size, np.float16), want) < 1e-3
    print(f"int4 GEMV {size}^2: {spent:.0f} ms")


if __name__ == "__main__":
    operators()
    gemm()
    gemv()
