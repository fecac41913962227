"""Products whose activations are rounded to 8 bits: no further off than that rounding itself."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper
from products import BLOCK, K, N, alone, packed, product

from turnout_cpu.nodes import constant


@pytest.mark.parametrize("tokens", [1, 40])
@pytest.mark.parametrize(("bits", "zero_points"), [(2, True), (4, False), (4, True), (8, True)])
def test_the_error_is_that_of_rounding(bits: int, zero_points: bool, tokens: int) -> None:
    """With some large activations among small ones, as language models have them. In halves a 100th of it is left at most."""
    random = np.random.default_rng(bits + tokens)
    centre = 2 ** (bits - 1)
    values = np.clip(np.round(random.normal(centre, centre * 0.4, (N, K))), 0, 2 * centre - 1)
    scales = random.uniform(0.5, 1, (N, K // BLOCK)).astype(np.float32)
    x = random.standard_normal((1, tokens, K)).astype(np.float32)
    x[..., random.integers(0, K, 6)] *= 20
    weights = (values - centre) * np.repeat(scales, BLOCK, 1)
    wanted = x @ weights.T
    blocks = x.reshape(1, tokens, -1, BLOCK)
    step = abs(blocks).max(-1, keepdims=True) / 127
    rounded = (np.round(blocks / step) * step).reshape(x.shape) @ weights.T

    def error(y: Any) -> float:
        return float(np.sqrt(((y - wanted) ** 2).mean() / (wanted**2).mean()))

    fast, halves, exact = (error(product(bits, zero_points, level, values, scales).run(x=x)["y"]) for level in (4, 2, 0))
    assert exact < 1e-5
    assert 0 < fast < 1.05 * error(rounded)
    assert halves < error(rounded) / 100


@pytest.mark.parametrize("tokens", [1, 7])
def test_halves_where_products_without_zero_points_round_whole_rows(tokens: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on arm64, which tests/rigs/arm64/run has; here it is seen that zero points are given and change nothing."""
    random = np.random.default_rng(tokens)
    values, scales = random.integers(0, 16, (N, K)), random.uniform(0.5, 1, (N, K // BLOCK)).astype(np.float32)
    x = random.standard_normal((1, tokens, K)).astype(np.float32)
    here = product(4, False, 2, values, scales).run(x=x)["y"]
    given: list[str] = []
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    monkeypatch.setattr("turnout_cpu.products.constant", lambda name, array: given.append(name) or constant(name, array))
    there = product(4, False, 2, values, scales).run(x=x)["y"]
    assert [name for name in given if name.startswith("zeros")] == [f"zeros.8.{N}.{K // BLOCK // 2}", f"zeros.8.{BLOCK}.1"]
    assert np.abs(here - there).max() < 1e-5 * np.abs(here).max()


@settings(max_examples=40, deadline=None)
@given(
    bits=st.sampled_from([2, 8]),
    columns=st.integers(16, 200),
    size=st.sampled_from([16, 32, 64, 128]),
    tokens=st.integers(0, 5),
    zero_points=st.sampled_from([None, "flat", "matrix"]),
    seed=st.integers(0, 2**32 - 1),
)
def test_exactly_by_nibbles(bits: int, columns: int, size: int, tokens: int, zero_points: str | None, seed: int) -> None:
    """Columns that end in the middle of a block, odd numbers of blocks, zero points at will; as exact as float32 sums are."""
    random, rows = np.random.default_rng(seed), 7
    blocks, centre = -(-columns // size), 2 ** (bits - 1)
    codes = random.integers(0, 2**bits, (rows, blocks, size)).astype(np.uint8)
    scales = random.uniform(0.5, 1, (rows, blocks)).astype(np.float32)
    zeros = random.integers(0, 2**bits, (rows, blocks)).astype(np.uint8)
    weights = [numpy_helper.from_array(packed(codes, bits), "codes"), numpy_helper.from_array(scales, "scales")]
    if zero_points is not None:
        written = packed(zeros, bits)
        weights.append(numpy_helper.from_array(written if zero_points == "matrix" else written.ravel(), "zeros"))
    how = {"K": columns, "N": rows, "bits": bits, "block_size": size, "domain": "com.microsoft"}
    node = helper.make_node("MatMulNBits", ["x", *(one.name for one in weights)], ["y"], **how)
    x = random.standard_normal((1, tokens, columns)).astype(np.float32)
    whole = (codes.astype(np.float64) - (zeros if zero_points else np.full_like(zeros, centre))[..., None]) * scales[..., None]
    matrix = whole.reshape(rows, -1)[:, :columns]
    with alone(node, weights, columns, rows) as model:
        assert "MatMulNBits of nibbles" in str(model.explain())
        assert np.abs(model.run(x=x)["y"] - x @ matrix.T).max(initial=0) < 1e-5 * centre * columns**0.5
