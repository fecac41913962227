"""How fast a model runs: latency percentiles and throughput, alone or against the same file run without turnout."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from turnout import plugins
from turnout.errors import SelectionError
from turnout.table import table

__all__ = ["Bench", "Timing", "bench", "peer"]

_MOST_RUNS = 1_000_000
_WARM_UP_RUNS = 3
_TURN_SECONDS = 0.2
"""How long one side goes on, at most, before the other has its turn."""
_PAUSE_SECONDS = 0.1
"""Between turns: a library's idle threads go on spinning for tens of milliseconds, and would slow the other side."""


class Timing(BaseModel):
    """One side of a bench. Times are in milliseconds."""

    name: str
    load: float
    runs: int
    p50: float
    p90: float
    p99: float
    per_second: float

    @classmethod
    def of(cls, name: str, load_seconds: float, seconds: list[float]) -> Timing:
        """The figures for runs that took so many seconds each."""
        cuts = statistics.quantiles(seconds, n=100, method="inclusive") if len(seconds) > 1 else seconds * 99
        return cls(
            name=name,
            load=load_seconds * 1000,
            runs=len(seconds),
            p50=cuts[49] * 1000,
            p90=cuts[89] * 1000,
            p99=cuts[98] * 1000,
            per_second=len(seconds) / sum(seconds),
        )


class Bench(BaseModel):
    """What a bench measured. `ratio` is turnout's time over the peer's: 1.05 means five percent slower.

    It is the median, over the rounds, of the ratio of the round's medians: load from elsewhere hits both alike.
    """

    model: str
    devices: list[str]
    timings: list[Timing]
    ratio: float | None = None

    def __str__(self) -> str:
        heads = ("", "load", "p50", "p90", "p99", "per second", "runs")
        rows = [
            (
                one.name,
                *(f"{ms:.3g} ms" for ms in (one.load, one.p50, one.p90, one.p99)),
                f"{one.per_second:.4g}",
                str(one.runs),
            )
            for one in self.timings
        ]
        lines = [f"{self.model} on {', '.join(self.devices)}", table(rows, heads, right=range(1, 7))]
        if self.ratio is not None:
            ours, theirs = self.timings
            lines.append(f"{ours.name} takes {self.ratio:.3f} times as long as {theirs.name} (ratio of medians; they took turns)")
        return "\n".join(lines)


def bench(
    sides: Mapping[str, tuple[float, Callable[[], Any]]],
    *,
    model: str,
    devices: list[str],
    runs: int | None = None,
    seconds: float = 3.0,
    progress: Callable[[float], None] = lambda fraction: None,
) -> Bench:
    """Times each side: name to (load seconds, run). The first is turnout's own; a second makes the ratio.

    The sides take turns, so that a machine that slows down slows both. `runs` counts for each side; without it,
    `seconds` of the clock are shared.
    """
    functions = {name: run for name, (_, run) in sides.items()}
    warm = [min(_times(run, _WARM_UP_RUNS)) for run in functions.values()]
    each = max(1, int(_TURN_SECONDS / max(*warm, 1e-6)))
    rounds = list(_rounds(functions, each, runs, seconds, progress))
    timings = [Timing.of(name, load, [taken for turns in rounds for taken in turns[name]]) for name, (load, _) in sides.items()]
    ratio = None
    if len(sides) == 2:
        ours, theirs = sides
        ratio = statistics.median(statistics.median(one[ours]) / statistics.median(one[theirs]) for one in rounds)
    return Bench(model=model, devices=devices, timings=timings, ratio=ratio)


def _rounds(
    sides: dict[str, Callable[[], Any]],
    each: int,
    runs: int | None,
    seconds: float,
    progress: Callable[[float], None],
) -> Iterator[dict[str, list[float]]]:
    """Each round is a turn of `each` runs for each side, in alternating order."""
    order = list(sides)
    done = 0
    begin = time.perf_counter()
    while done < runs if runs else not done or time.perf_counter() - begin < seconds:
        progress(done / runs if runs else (time.perf_counter() - begin) / seconds)
        count = min(each, runs - done) if runs else each
        turns: dict[str, list[float]] = {}
        for name in order:
            if len(order) > 1:
                time.sleep(_PAUSE_SECONDS)
            turns[name] = _times(sides[name], count)
        yield turns
        done += count
        order.reverse()


def _times(run: Callable[[], Any], count: int) -> list[float]:
    taken: list[float] = []
    for _ in range(count):
        start = time.perf_counter()
        run()
        taken.append(time.perf_counter() - start)
    return taken


def peer(name: str, path: Path) -> Callable[[Mapping[str, Any]], Any]:
    """A way to run the file with the library `name`, without turnout. Raises SelectionError where there is none."""
    found = plugins.first("turnout_peer", name=name, path=str(path))
    if found is None:
        raise SelectionError(
            f"no installed plugin can run {path.name} with {name!r} directly, to compare with",
            hint="`--vs onnxruntime` comes with turnout-cpu; `turnout plugins` lists what is installed",
        )
    return found  # type: ignore[no-any-return]  # hooks are untyped; the hook's signature says what it gives
