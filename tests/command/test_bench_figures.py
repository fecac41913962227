from __future__ import annotations

import time

import pytest

from turnout.bench import Timing, bench


def test_percentiles_and_throughput() -> None:
    timing = Timing.of("one", 0.5, [0.001 * i for i in range(1, 102)])
    assert (timing.load, timing.runs) == (500, 101)
    assert [timing.p50, timing.p90, timing.p99] == pytest.approx([51, 91, 100])
    assert timing.per_second == pytest.approx(101 / (0.001 * 101 * 51))


def test_one_run_is_every_percentile() -> None:
    timing = Timing.of("one", 0.0, [0.002])
    assert [timing.p50, timing.p90, timing.p99] == pytest.approx([2, 2, 2])


def test_the_ratio_is_ours_over_theirs() -> None:
    sides = {"slow": (0.0, lambda: time.sleep(0.004)), "quick": (0.0, lambda: time.sleep(0.001))}
    found = bench(sides, model="m", devices=[], runs=6)
    assert found.ratio is not None
    assert found.ratio > 1.5
    assert [one.runs for one in found.timings] == [6, 6]


def test_time_is_shared_and_progress_is_told() -> None:
    told: list[float] = []
    begin = time.perf_counter()
    found = bench({"one": (0.0, lambda: time.sleep(0.01))}, model="m", devices=[], seconds=0.3, progress=told.append)
    assert time.perf_counter() - begin < 3
    assert found.timings[0].runs >= 2
    assert told[0] < 0.5
