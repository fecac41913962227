"""Level 6: models come, run, run at once, and go, and nothing of one is left behind or shows in another."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from turnout.errors import Closed
from turnout.provider import Executable
from turnout.testing.held import held
from turnout.testing.result import Result
from turnout.testing.subject import Subject
from turnout.testing.workhorse import NONE, Workhorse, workhorse

__all__ = ["lifetime"]

LOADS = 100
WEIGHT = 512
"""Rows of the weight that each of the loads brings: one MB of float32."""
GROWTH = 60e6
"""Bytes that the process may grow over a hundred loads of 1 MB: room for allocators that keep what they had, but not for a leak."""
THREADS, RUNS = 8, 25


def lifetime(subject: Subject) -> Iterator[Result]:
    """The level: each check by itself; one that raises has failed."""
    horse = workhorse(subject)
    if horse is None:
        yield Result("lifetime", "workhorse/any", "skipped", NONE)
        return
    for kind, check in _CHECKS.items():
        start = time.perf_counter()
        try:
            problem = check(subject, horse)
        except Exception as error:
            problem = f"{type(error).__name__}: {error}"
        outcome: Any = "failed" if problem else "passed"
        if problem.startswith(_SKIP):
            outcome, problem = "skipped", problem.removeprefix(_SKIP)
        yield Result("lifetime", f"{kind}/{horse.operator}", outcome, problem, time.perf_counter() - start)


_SKIP = "skip: "


def _x(number: int, size: int = 8) -> np.ndarray[Any, Any]:
    return np.full((size, size), number, np.float32)


def _closed(subject: Subject, horse: Workhorse) -> str:
    """Closing is heard once, raises nothing, and runs that follow raise Closed."""
    model = subject.opened(horse.model())
    model.run(x=_x(1))
    watched = [_Watched(one) for one in model._program.executables]
    model._program.executables[:] = watched
    model.close()
    model.close()
    for one in watched:
        if one.calls != 1 or one.fault:
            return one.fault or f"close() was called {one.calls} times"
    try:
        model.run(x=_x(1))
    except Closed:
        return ""
    except Exception as error:
        return f"a run after close() raised {type(error).__name__}, not Closed: {error}"
    return "a run after close() gave a result"


class _Watched:
    """Stands in for an executable as it is closed: turnout logs what close raises, and goes on; here it counts."""

    def __init__(self, executable: Executable) -> None:
        self._executable = executable
        self.calls = 0
        self.fault = ""

    def close(self) -> None:
        self.calls += 1
        try:
            self._executable.close()
        except Exception as error:
            self.fault = f"close() raised {type(error).__name__}: {error}"


def _again(subject: Subject, horse: Workhorse) -> str:
    """Many runs of one model: each gives what its inputs ask for, and results of earlier runs stay as they were."""
    with subject.opened(horse.model()) as model:
        kept: list[tuple[int, Any]] = []
        for number in (3, -1, 3, 7, 0):
            result = model.run(x=_x(number))["y"]
            if not np.array_equal(result, horse.wanted(_x(number))):
                return f"run {len(kept) + 1} gave {result.flat[0]} where {horse.wanted(_x(number)).flat[0]} was due"
            kept.append((number, result))
        for place, (number, result) in enumerate(kept):
            if not np.array_equal(result, horse.wanted(_x(number))):
                return f"the result of run {place + 1} changed as others followed: it is {result.flat[0]} now"
    return ""


def _buffers(subject: Subject, horse: Workhorse) -> str:
    """A bound model reads its inputs anew at each run and writes where it was told to."""
    x, y = _x(3), np.full((8, 8), np.nan, np.float32)
    with subject.opened(horse.model()) as model:
        bound = model.bind(x=x, outputs={"y": y})
        for number in (3, 5):
            x[...] = number
            given = bound.run()["y"]
            if given is not y:
                return "a bound run gave an array other than the buffer it was given"
            if not np.array_equal(y, horse.wanted(_x(number))):
                return f"a bound run left {y.flat[0]} in its buffer where {horse.wanted(_x(number)).flat[0]} was due"
    return ""


def _two(subject: Subject, horse: Workhorse) -> str:
    """Two models at once keep to their own weights, and closing one leaves the other alone."""
    first, second = subject.opened(horse.model(weight=2.0)), subject.opened(horse.model(weight=5.0))
    try:
        for round_number in range(3):
            for model, weight in ((first, 2.0), (second, 5.0)):
                wanted = horse.wanted(_x(round_number + 1), weight)
                if not np.array_equal(model.run(x=_x(round_number + 1))["y"], wanted):
                    return "with two models loaded, one gave a result that is not its own"
        first.close()
        if not np.array_equal(second.run(x=_x(4))["y"], horse.wanted(_x(4), 5.0)):
            return "after one of two models was closed, the other gave a wrong result"
    finally:
        first.close()
        second.close()
    return ""


def _threads(subject: Subject, horse: Workhorse) -> str:
    """Eight threads on one model, each with its own inputs, get what one thread gets."""
    faults: list[str] = []
    start = threading.Barrier(THREADS)
    with subject.opened(horse.model()) as model:

        def work(number: int) -> None:
            try:
                wanted = horse.wanted(_x(number))
                start.wait()
                for _ in range(RUNS):
                    if not np.array_equal(model.run(x=_x(number))["y"], wanted):
                        faults.append("a run gave a wrong result while other threads ran the same model")
                        return
            except Exception as error:
                faults.append(f"a run raised {type(error).__name__} while other threads ran the same model: {error}")

        interval = sys.getswitchinterval()
        sys.setswitchinterval(1e-6)  # threads take turns as often as they can
        try:
            workers = [threading.Thread(target=work, args=(number,)) for number in range(THREADS)]
            for worker in workers:
                worker.start()
            for worker in workers:
                worker.join()
        finally:
            sys.setswitchinterval(interval)
    return faults[0] if faults else ""


def _growth(subject: Subject, horse: Workhorse) -> str:
    """A hundred models with a weight of one MB each, loaded, run and closed, leave memory, files and threads as they were."""
    proto = horse.model(WEIGHT)
    for _ in range(10):
        _once(subject, proto)
    before = held()
    for _ in range(LOADS):
        _once(subject, proto)
    after = held()
    if before is None or after is None:
        return f"{_SKIP}this system does not tell what a process holds"
    grown = {what: after[what] - before[what] for what in after}
    if grown["bytes"] > GROWTH:
        return f"the process grew by {grown['bytes'] / 1e6:.0f} MB over {LOADS} models that were loaded, run and closed"
    for what, count in grown.items():
        if what != "bytes" and count > LOADS // 10:
            return f"{count} {what} are left open after {LOADS} models were loaded, run and closed"
    return ""


def _once(subject: Subject, proto: Any) -> None:
    with subject.opened(proto) as model:
        model.run(x=_x(1, WEIGHT))


_CHECKS: dict[str, Callable[[Subject, Workhorse], str]] = {
    "closed": _closed,
    "again": _again,
    "buffers": _buffers,
    "two": _two,
    "threads": _threads,
    "growth": _growth,
}
"""Each says what is wrong, "" where nothing is, or begins with "skip: "."""
