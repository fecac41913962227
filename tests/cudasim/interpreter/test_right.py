"""Kernels that are right compute what NumPy does in float64, and nothing is reported."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from ptx_card import Card, DriverCard, card, compiled

from turnout_cudasim.installing import LIBRARY

pytest.importorskip("cuda.bindings.nvrtc")

SOURCE = Path(__file__).with_name("right.cu").read_text()
CASES: dict[str, Callable] = {}
RANDOM = np.random.default_rng(5)
f8 = np.float64
bf16 = ml_dtypes.bfloat16


def case(check):
    CASES[check.__name__] = check
    return check


def normal(*shape, scale=1.0):
    return RANDOM.standard_normal(shape) * scale


class Bench:
    """A device, one kernel, and no patience for reports."""

    def __init__(self, name: str) -> None:
        self.name, self.device = name, card(SOURCE, name="right.cu")
        self.reports = []

    def run(self, grid, block, *arguments, **options):
        """Arrays are copied in; returns what they hold afterwards."""
        placed = [self.device.put(a) if isinstance(a, np.ndarray) and a.ndim else a for a in arguments]
        self.device.run(self.name, grid, block, *placed, reports=self.reports, **options)
        assert self.reports == [], [str(r) for r in self.reports]
        return [
            self.device.get(p, a.shape, a.dtype) for p, a in zip(placed, arguments, strict=True) if isinstance(a, np.ndarray) and a.ndim
        ]


def near(got, want, tolerance):
    got, want = np.asarray(got, f8), np.asarray(want, f8)
    error = np.linalg.norm(got - want) / max(np.linalg.norm(want), 1e-30)
    assert error < tolerance, error


@pytest.mark.parametrize("name", [line.split()[1].partition("(")[0] for line in SOURCE.splitlines() if line.startswith("KERNEL")])
def test_right(name):
    CASES[name](Bench(name))


def elementwise(dtype, function, tolerance, size=1000, scale=2.0):
    def check(bench):
        x = normal(size, scale=scale).astype(dtype)
        y = bench.run(-(-size // 128), 128, x, np.zeros_like(x), size)[1]
        near(y, function(x.astype(f8)), tolerance)

    return check


erf = np.vectorize(math.erf)
CASES["gelu"] = elementwise("f4", lambda v: 0.5 * v * (1 + erf(v * 0.70710678)), 1e-6)
CASES["silu_half"] = elementwise("f2", lambda v: v / (1 + np.exp(-v)), 5e-4)
CASES["mish_bfloat"] = elementwise(bf16, lambda v: v * np.tanh(np.log1p(np.exp(v))), 4e-3)
CASES["functions"] = elementwise(
    "f4",
    lambda v: np.sin(v) + np.cos(2 * v) + np.exp(-v * v) + np.log(1 + abs(v)) + np.sqrt(abs(v)) + 1 / np.sqrt(1 + v * v) + np.cbrt(v)
    + np.arctan(v) + abs(v) ** 1.3,
    1e-6,
)  # fmt: skip
CASES["functions_double"] = elementwise(
    "f8",
    lambda v: np.sin(v) * np.exp(-v) + np.log(1 + abs(v)) + np.sqrt(abs(v)) / (1 + v * v) + (3 * v + 1) + erf(v),
    1e-14,
)
CASES["sine_of_large"] = elementwise("f4", np.sin, 1e-6, scale=1e6, size=256)


@case
def by_value_struct(bench):
    x = normal(400).astype("f4")
    packed = struct.pack("<qqif", 3, 20, 5, 1.5)
    y = bench.run(1, 128, x, np.zeros(100, "f4"), packed, 100)[1]
    i = np.arange(100)
    near(y, 1.5 * x[5 + i // 16 * 3 + i % 16 * 20], 1e-7)


@case
def struct_with_array(bench):
    shape = [3, 4, 5, 6, 7]
    y = bench.run(1, 32, np.zeros(32, "i4"), struct.pack("<9i", *shape, 0, 0, 0, 5))[0]
    np.testing.assert_array_equal(y, [math.prod(shape) + shape[t % 5] for t in range(32)])


@case
def device_function(bench):
    x = normal(100).astype("f4")

    def horner(v, degree):
        r = 0.0
        for i in range(degree):
            r = r * v + i
        return r

    y = bench.run(1, 128, x, np.zeros(100, "f4"), 100)[1]
    near(y, [horner(v, 3 + i % 3) + horner(-v, 4) for i, v in enumerate(x.astype(f8))], 1e-6)


@case
def constant_and_global(bench):
    y = bench.run(1, 32, np.zeros(32, "f4"))[0]
    np.testing.assert_array_equal(y, np.tile([1, -2, 3, -4, 5, -6, 7, -8], 4))
    address, size = bench.device.symbol("counter")
    assert bench.device.get(address, 1, "i4")[0] == 40 + 64
    assert size == 4


@case
def local_array(bench):
    x = RANDOM.integers(0, 100, 32).astype("i4")
    y = bench.run(1, 32, x, np.zeros(32, "i4"))[1]
    for t in range(32):
        box = [int(v) * 2 for v in x[:16]]
        for i in range(8):
            a = int(x[(t + i) & 15]) & 15
            box[a], box[i] = box[i], box[a]
        assert y[t] == sum(b * (i + 1) for i, b in enumerate(box))


@case
def generic_addresses(bench):
    g = np.arange(100, dtype="f4") + 10
    y = bench.run(1, 40, g, np.zeros(40, "f4"))[1]
    t = np.arange(40)
    np.testing.assert_array_equal(y, np.where(t % 3 == 0, g[t], np.where(t % 3 == 1, 39 - t, (t & 3) + 1 + g[0])))


@case
def jump_table(bench):
    x = RANDOM.integers(0, 9, 64).astype("i4")
    y = bench.run(1, 64, x, np.zeros(64, "i4"))[1]
    table = {
        0: lambda v: v + 11,
        1: lambda v: v * v * 7,
        2: lambda v: 1000 - v,
        3: lambda v: v << 5,
        4: lambda v: ~v,
        5: lambda v: v * 333,
        6: lambda v: -v,
    }
    assert list(y) == [table.get(v, lambda _: 99)(v) for v in x.tolist()]


@case
def collatz(bench):
    x = np.arange(1, 257).astype("i4")
    y = bench.run(1, 256, x, np.zeros(256, "i4"))[1]
    for v, steps in zip(x.tolist(), y.tolist(), strict=True):
        n = 0
        while v != 1:
            v, n = (3 * v + 1 if v & 1 else v // 2), n + 1
        assert n == steps


@case
def integer_division(bench):
    a = RANDOM.integers(-(2**31), 2**31, 500).astype("i4")
    b = RANDOM.integers(-1000, 1000, 500).astype("i4")
    b[b == 0] = 3
    y = bench.run(4, 128, a, b, np.zeros(500, "i4"), 500)[2]
    for p, q, got in zip(a.tolist(), b.tolist(), y.tolist(), strict=True):
        quotient = int(math.copysign(abs(p) // abs(q), p * q)) if abs(p) >= abs(q) else 0
        unsigned = (p % 2**32) // ((q | 1) % 2**32)
        product = p * q
        third = abs(product) // 7 * (1 if product > 0 else -1)
        want = (quotient * 1000 + (p - quotient * q) + unsigned + third) % 2**32
        assert got % 2**32 == want


@case
def bits(bench):
    x = RANDOM.integers(0, 2**32, 300).astype("u4")
    x[:3] = [0, 1, 0xFFFFFFFF]
    y = bench.run(3, 128, x, np.zeros(300, "u4"), 300)[1]
    for i, (v, got) in enumerate(zip(x.tolist(), y.tolist(), strict=True)):
        reverse = int(f"{v:032b}"[::-1], 2)
        pair = (i << 32) | v
        perm = sum(((pair >> 8 * s) & 255) << 8 * k for k, s in enumerate([0, 4, 1, 5]))
        funnel = (((i << 32 | v) << 7) >> 32) & 0xFFFFFFFF
        want = v.bit_count() + (32 - v.bit_length()) * 3 + ((v & -v).bit_length()) * 5 + (reverse >> 3) + perm + funnel
        assert got == want % 2**32


@case
def carries(bench):
    a, b = (RANDOM.integers(0, 2**64, 100, dtype="u8") for _ in range(2))
    y = bench.run(1, 128, a, b, np.zeros(100, "u8"), 100)[2]
    for p, q, got in zip(a.tolist(), b.tolist(), y.tolist(), strict=True):
        total = p + q
        assert got == (((p * q) % 2**64 ^ (p * q) >> 64) + total % 2**64 + (total >> 64)) % 2**64


@case
def half2_polynomial(bench):
    x = normal(600).astype("f2")
    y = bench.run(3, 128, x, np.zeros_like(x), 300)[1]
    v = x.astype(f8)
    near(y, np.maximum(v * v + 0.5, v - 2 * v), 5e-4)


@case
def bfloat2_polynomial(bench):
    x = normal(600).astype(bf16)
    y = bench.run(3, 128, x, np.zeros_like(x), 300)[1]
    v = x.astype(f8)
    near(y, v * 3 + np.minimum(v, 0.25), 4e-3)


@case
def through_fp8(bench):
    x = normal(600, scale=30).astype("f4")
    y = bench.run(5, 128, x, np.zeros_like(x), 600)[1]
    want = np.clip(x, -448, 448).astype(ml_dtypes.float8_e4m3fn).astype("f4") + 1000 * x.astype(ml_dtypes.float8_e5m2).astype("f4")
    np.testing.assert_array_equal(y, want.astype("f4"))


@case
def int8_dot(bench):
    a, b = (RANDOM.integers(-128, 128, 800).astype("i1") for _ in range(2))
    y = bench.run(1, 32, a.view("i4"), b.view("i4"), np.zeros(1, "i4"), 200)[2]
    assert y[0] == (a.astype(int) * b).sum()


@case
def int4_dequantize(bench):
    q = RANDOM.integers(0, 2**32, 100).astype("u4")
    y = bench.run(1, 128, q, np.zeros((100, 4, 2), "f2"), 100)[1]
    want = np.stack([np.stack([(q >> (4 * j)) & 15, (q >> (4 * j + 16)) & 15], -1) for j in range(4)], 1).astype(f8) - 8
    np.testing.assert_array_equal(y, want)


@case
def roundings(bench):
    x = np.concatenate([normal(90, scale=10), [0.5, 1.5, -0.5, -1.5, 2.5e9, -2.5e9, np.nan, np.inf, -np.inf, 0.0]]).astype("f4")
    y = bench.run(1, 128, x, np.zeros((100, 4), "i4"), 100)[1]
    v = np.nan_to_num(x.astype(f8), nan=0, posinf=1e12, neginf=-1e12)
    for n, function in enumerate((np.rint, np.trunc, np.ceil, np.floor)):
        np.testing.assert_array_equal(y[:, n], np.clip(function(v), -(2**31), 2**31 - 1))


@case
def block_sum(bench):
    x = normal(5000).astype("f4")
    y = bench.run(4, 256, x, np.zeros(1, "f4"), 5000)[1]
    assert abs(y[0] - x.astype(f8).sum()) < 1e-3


@case
def softmax(bench):
    x = normal(7, 300, scale=3).astype("f4")
    y = bench.run(7, 128, x, np.zeros_like(x), 300, dynamic_shared=1200)[1]
    e = np.exp(x.astype(f8) - x.max(1, keepdims=True))
    near(y, e / e.sum(1, keepdims=True), 1e-6)


@case
def layer_norm(bench):
    x, g = normal(5, 200).astype("f4"), normal(200).astype("f4")
    y = bench.run(5, 32, x, g, np.zeros_like(x), 200)[2]
    v = x.astype(f8)
    near(y, (v - v.mean(1, keepdims=True)) / np.sqrt(v.var(1, keepdims=True) + 1e-5) * g, 1e-5)


@case
def transpose(bench):
    x = normal(70, 45).astype("f4")
    y = bench.run((2, 3), (32, 8), x, np.zeros((45, 70), "f4"), 70, 45)[1]
    np.testing.assert_array_equal(y, x.T)


@case
def prefix_sum(bench):
    x = RANDOM.integers(-50, 50, 256).astype("i4")
    np.testing.assert_array_equal(bench.run(1, 256, x, np.zeros(256, "i4"))[1], np.cumsum(x))


@case
def bitonic_sort(bench):
    x = normal(256).astype("f4")
    np.testing.assert_array_equal(bench.run(1, 256, x)[0], np.sort(x))


@case
def histogram(bench):
    x = RANDOM.integers(0, 256, 3000).astype("u1")
    y = bench.run(3, 256, x, np.zeros(256, "i4"), 3000)[1]
    np.testing.assert_array_equal(y, np.bincount(x, minlength=256))


@case
def bytes_in_shared(bench):
    x = RANDOM.integers(0, 256, 128).astype("u1")
    y = bench.run(1, 128, x, np.zeros(128, "u1"))[1]
    s = np.zeros(128, "u1")
    s[np.arange(128) * 5 % 128] = x
    np.testing.assert_array_equal(y, s[::-1])


@case
def convolution(bench):
    x, k = normal(150).astype("f4"), normal(5).astype("f4")
    y = bench.run(3, 64, x, k, np.zeros_like(x), 150)[2]
    near(y, np.correlate(x.astype(f8), k.astype(f8), "same"), 1e-6)


@case
def shuffles(bench):
    x = RANDOM.integers(0, 1000, 64).astype("i4")
    y = bench.run(1, 64, x, np.zeros(64, "i4"))[1]
    for t in range(64):
        w, lane = x[t // 32 * 32 :][:32].tolist(), t % 32
        up = w[lane - 3] if lane >= 3 else w[lane]
        down = w[lane + 7] if lane % 16 + 7 < 16 else w[lane]
        assert y[t] == w[5] + 3 * up + 5 * down + 7 * w[lane ^ 9] + 11 * w[lane * 3 % 32]


@case
def votes(bench):
    x = RANDOM.integers(0, 9, 64).astype("i4")
    y = bench.run(1, 64, x, np.zeros(64, "u4"))[1]
    for t in range(64):
        w = x[t // 32 * 32 :][:32].tolist()
        ballot = sum(1 << n for n, v in enumerate(w) if v > 3)
        match = sum(1 << n for n, v in enumerate(w) if v == x[t])
        assert y[t] == (ballot + (7 in w) * 2 + 5 + match + sum(w) + max(w)) % 2**32


@case
def half_a_warp(bench):
    x = normal(64).astype("f4")
    y = bench.run(1, 64, x, np.zeros(64, "f4"))[1]
    t = np.arange(64)
    near(y, np.where(t % 32 < 16, x + x[t ^ 8], x * x[t ^ 4]), 1e-7)


@case
def compact(bench):
    x = RANDOM.integers(-5, 5, 128).astype("i4")
    _, y, count = bench.run(1, 128, x, np.zeros(128, "i4"), np.zeros(1, "i4"))
    kept = x[x > 0]
    assert count[0] == len(kept)
    assert sorted(y[: len(kept)].tolist()) == sorted(kept.tolist())


@case
def atomics(bench):
    x = RANDOM.integers(0, 1000, 300).astype("i4")
    y = np.array([2**31 - 1, -(2**31), 0, -1, 0, 0, 90], "i4")
    got, f, d, u = bench.run(3, 128, x, y, np.zeros(1, "f4"), np.zeros(1, "f8"), np.zeros(1, "u8"), 300)[1:]
    v = x.astype(int)
    want = [v.min(), v.max(), np.bitwise_or.reduce(v), np.bitwise_and.reduce(v), np.bitwise_xor.reduce(v), -v.sum(), (90 + 300) % 100]
    assert got.tolist() == want
    assert (f[0], d[0], u[0]) == (v.sum(), v.sum() / 2, v.sum())


@case
def tickets(bench):
    _, y = bench.run(3, 64, np.zeros(1, "i4"), np.full(192, -1, "i4"))
    assert sorted(y.tolist()) == list(range(192))


@case
def atomic_maximum_of_floats(bench):
    x = normal(200).astype("f4")
    assert bench.run(2, 128, x, np.full(1, -1e30, "f4"), 200)[1][0] == x.max()


@case
def atomics_of_halves(bench):
    h, b = bench.run(1, 64, np.zeros(2, "f2"), np.zeros(2, bf16))
    assert h.tolist() == [64, 128]
    assert b.astype("f4").tolist() == [64, 32]


@case
def last_block_sums(bench):
    x = normal(320).astype("f4")
    y = bench.run(10, 32, x, np.zeros(10, "f4"), np.zeros(1, "f4"), np.zeros(1, "u4"))[2]
    assert abs(y[0] - x.astype(f8).sum()) < 1e-4


@case
def named_barriers(bench):
    x = normal(3, 64).astype("f4")
    near(bench.run(1, 128, x, np.zeros(64, "f4"))[1], x.sum(0)[::-1], 1e-6)


@case
def barrier_counts(bench):
    x = RANDOM.integers(0, 100, 96).astype("i4")
    y = bench.run(1, 96, x, np.zeros(96, "i4"))[1]
    odd = x & 1
    assert set(y.tolist()) == {int(odd.sum()) * 4 + int(odd.any()) * 2 + int(odd.all())}


@case
def copy_pipeline(bench):
    x = normal(5, 64, 4).astype("f4")
    y = bench.run(1, 64, x, np.zeros(64, "f4"), 5)[1]
    near(y, (x.astype(f8) @ [1, 2, 3, 4]).sum(0)[::-1], 1e-6)


@case
def copy_with_zero_fill(bench):
    x = normal(40).astype("f4")
    y = bench.run(1, 64, x, np.zeros(64, "f4"), 40)[1]
    np.testing.assert_array_equal(y, np.concatenate([x, np.zeros(24, "f4")])[::-1])


@case
def wmma_product(bench):
    a, b = normal(16, 16).astype("f2"), normal(16, 16).astype("f2")
    c = bench.run(1, 32, a, b, np.zeros((16, 16), "f4"))[2]
    near(c, 2 * (a.astype(f8) @ b.astype(f8).T + 1), 1e-6)


@case
def wmma_integers(bench):
    a, b = RANDOM.integers(-128, 128, (32, 16)).astype("i1"), RANDOM.integers(-128, 128, (16, 8)).astype("i1")
    c = bench.run(1, 32, a, b, np.zeros((32, 8), "i4"))[2]
    np.testing.assert_array_equal(c, a.astype(int) @ b + 7)


@case
def ldmatrix_product(bench):
    a, b = normal(16, 16).astype("f2"), normal(16, 8).astype("f2")
    c = bench.run(1, 32, a, b, np.zeros((16, 8), "f4"))[2]
    near(c, a.astype(f8) @ b.astype(f8), 1e-6)


@case
def stmatrix_and_movmatrix(bench):
    x = normal(8, 8).astype("f2")
    y = bench.run(1, 32, x, np.zeros((16, 8), "f2"))[1]
    np.testing.assert_array_equal(y[:8], x)
    np.testing.assert_array_equal(y[8:], x.T)


@case
def one_ahead(bench):
    x = RANDOM.integers(0, 9, (20, 64)).astype("i4")
    ahead, total, thread = x[0].copy(), np.zeros(64, "i4"), np.arange(64)
    for i in range(1, 20):
        total = total * 3 + ahead
        ahead = np.where(i % 7 < thread % 8, x[i], ahead)
    np.testing.assert_array_equal(bench.run(1, 64, x, np.zeros(64, "i4"), 20)[1], total)


def test_there_are_many():
    assert len(CASES) >= 40


@pytest.mark.cuda_sim_only
def test_they_run_on_the_interpreter_itself():
    assert isinstance(Bench("gelu").device, Card)


@pytest.mark.parametrize("name", ["gelu", "by_value_struct", "constant_and_global"])
def test_right_through_the_driver(name, monkeypatch):
    """What --cuda=real does with every kernel above, on the stand-in."""
    if not LIBRARY.exists():
        pytest.skip("the stand-in driver is not built here")
    monkeypatch.setitem(globals(), "card", lambda source, **options: DriverCard(compiled(source, **options)))
    CASES[name](Bench(name))
