"""Rounding that makes up for itself: what it may change, and that it helps where channels go together."""

from __future__ import annotations

import numpy as np
import pytest

from turnout_recipes.awq import narrowed, output_error, plain
from turnout_recipes.blocks import dequantised
from turnout_recipes.compensate import compensated


def together(rows: int, samples: int = 512) -> tuple[np.ndarray, np.ndarray]:
    """(weights [rows, 96], activations [samples, rows] of channels that go together)."""
    random = np.random.default_rng(rows)
    mixed = random.standard_normal((samples, 16)) @ random.standard_normal((16, rows)) + 0.3 * random.standard_normal((samples, rows))
    return random.standard_normal((rows, 96)).astype(np.float32), mixed.astype(np.float32)


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize(("rows", "block"), [(160, 32), (300, 128), (33, 16)])
def test_it_loses_less(rows: int, block: int, symmetric: bool) -> None:
    weight, x = together(rows)
    for first in (plain(weight, 4, block, symmetric=symmetric), narrowed(weight, x, 4, block, symmetric=symmetric)):
        better = compensated(weight, x, first)
        assert better.scales is first.scales
        assert better.zeros is first.zeros
        assert better.values.shape == first.values.shape
        before, after = (output_error(x, weight, lambda part, one=one: dequantised(one, part)) for one in (first, better))
        assert after < 0.8 * before


def test_channels_that_are_alone_are_rounded_to_the_nearest() -> None:
    weight, _ = together(64)
    first = plain(weight, 4, 32, symmetric=False)
    alone = compensated(weight, np.eye(64, dtype=np.float32), first)
    np.testing.assert_array_equal(alone.values, first.values)


def test_channels_that_are_always_zero_do_no_harm() -> None:
    weight, x = together(64)
    x[:, 5:40] = 0
    found = dequantised(compensated(weight, x, plain(weight, 4, 32, symmetric=False)))
    assert np.isfinite(found).all()
    assert np.abs(found - weight).max() < 3
    np.testing.assert_array_equal(
        compensated(weight, 0 * x, plain(weight, 4, 32, symmetric=False)).values, plain(weight, 4, 32, symmetric=False).values
    )


def test_what_a_row_behind_the_last_block_holds_stays_zero() -> None:
    weight, x = together(33)
    blocks = compensated(weight, x, plain(weight, 4, 16, symmetric=False))
    whole = blocks.values.reshape(96, -1)
    padded = np.stack([whole & 15, whole >> 4], -1).reshape(96, -1)[:, 33:]
    assert (padded == (blocks.zeros[:, 1:2] & 15)).all()
