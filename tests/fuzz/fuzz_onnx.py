"""Feeds turnout with spoilt ONNX files, and counts how it takes them.

    uv run python tests/fuzz/fuzz_onnx.py --count 20000 --seed 0 --jobs 2

A file may run or be refused with one of turnout's errors; anything else is a bug: another exception, a process that dies, that does not
end, or that wants more than 4 GB. Every file that does such a thing is kept. The last line is `crashes: N`.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import queue
import random
import select
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from corpus import Seed, seeds
from mutate import mutate

SECONDS = 20.0  # for one file
FILES = 400  # for one child: what libraries below leak is not our subject


@dataclass
class Outcome:
    """How one file was taken."""

    number: int
    seed: str
    kind: str
    detail: str = ""

    @property
    def is_bug(self) -> bool:
        return self.kind in ("bug", "crash", "hang")


@dataclass
class Report:
    outcomes: list[Outcome] = field(default_factory=list)
    kept: Path | None = None

    @property
    def bugs(self) -> list[Outcome]:
        return [one for one in self.outcomes if one.is_bug]

    def text(self) -> str:
        lines = [f"{len(self.outcomes)} files"]
        lines += [f"{count:7d}  {kind}" for kind, count in Counter(one.kind for one in self.outcomes).most_common()]
        for bug in self.bugs[:50]:
            lines.append(f"{bug.kind}: file {bug.number} ({bug.seed}): {bug.detail}")
        if self.bugs:
            lines.append(f"kept in {self.kept}")
        return "\n".join([*lines, f"crashes: {len(self.bugs)}"])


class Child:
    """One process of child.py, started again after each death."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.process: subprocess.Popen[str] | None = None
        self.left = 0

    def attempt(self, number: int, content: bytes, files: dict[str, bytes]) -> tuple[str, str]:
        """(kind of outcome, detail) for one file."""
        place = self.folder / "case"
        place.mkdir(exist_ok=True)
        for name, data in files.items():
            (place / name).write_bytes(data)
        path = place / "model.onnx"
        path.write_bytes(content)
        process = self._started()
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            print(number, number, path, int(not files and number % 3 > 0), file=process.stdin, flush=True)
            ready, _, _ = select.select([process.stdout], [], [], SECONDS)
            answer = process.stdout.readline() if ready else None
        except BrokenPipeError:
            answer = ""
        if answer:
            self.left -= 1
            _, kind, detail = json.loads(answer)
            return kind, detail
        self.close(kill=answer is None)
        if answer is None:
            return "hang", f"no answer in {SECONDS:.0f} s"
        code = process.returncode
        return "crash", f"died of {signal.Signals(-code).name}" if code < 0 else f"exited with {code}"

    def _started(self) -> subprocess.Popen[str]:
        if self.process is not None and self.left <= 0:
            self.close()
        if self.process is None:
            log = (self.folder / "stderr").open("wb")
            self.process = subprocess.Popen(
                [sys.executable, str(Path(__file__).with_name("child.py"))],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )
            log.close()
            self.left = FILES
        return self.process

    def close(self, *, kill: bool = False) -> None:
        if self.process is None:
            return
        assert self.process.stdin is not None
        if kill:
            self.process.kill()
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()
        self.process = None


def case(number: int, seed: int, corpus: Sequence[Seed]) -> tuple[Seed, bytes, dict[str, bytes]]:
    """File number `number` of a run: always the same."""
    rng = random.Random(f"{seed} {number}")
    chosen = rng.choice(corpus)
    content, files = mutate(chosen, corpus, rng)
    return chosen, content, files


def fuzz(count: int, seed: int, jobs: int, keep: Path | None = None, corpus: Sequence[Seed] | None = None, *, first: int = 0) -> Report:
    """Tries `count` files, several at a time."""
    corpus = corpus or seeds()
    report = Report(kept=keep or Path(tempfile.mkdtemp(prefix="turnout-fuzz-")))
    numbers: queue.SimpleQueue[int] = queue.SimpleQueue()
    for number in range(first, first + count):
        numbers.put(number)

    def work() -> None:
        with tempfile.TemporaryDirectory() as folder:
            child = Child(Path(folder))
            while True:
                try:
                    number = numbers.get_nowait()
                except queue.Empty:
                    break
                chosen, content, files = case(number, seed, corpus)
                outcome = Outcome(number, chosen.name, *child.attempt(number, content, files))
                report.outcomes.append(outcome)
                if outcome.is_bug:
                    _keep(report.kept, outcome, content, files)
            child.close()

    with ThreadPoolExecutor(jobs) as pool:
        for done in [pool.submit(work) for _ in range(jobs)]:
            done.result()
    report.outcomes.sort(key=lambda one: one.number)
    return report


def _keep(folder: Path | None, outcome: Outcome, content: bytes, files: dict[str, bytes]) -> None:
    assert folder is not None
    place = folder / f"{outcome.kind}-{outcome.number}"
    place.mkdir(parents=True, exist_ok=True)
    (place / "model.onnx").write_bytes(content)
    for name, data in files.items():
        (place / name).write_bytes(data)
    (place / "detail.txt").write_text(outcome.detail)


def onnx_cases() -> list[Seed]:
    """ONNX's own test models as seeds: every operator there is."""
    import onnx
    from onnx.backend.test.case.node import collect_testcases

    return [Seed(one.name, onnx.ModelProto.FromString(one.model.SerializeToString())) for one in collect_testcases(None)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--first", type=int, default=0, help="number of the first file, to repeat one of a run")
    parser.add_argument("--keep", type=Path, help="where files are kept that do what they must not")
    parser.add_argument("--operators", action="store_true", help="start from ONNX's own test models too")
    given = parser.parse_args()
    corpus = [*seeds(), *onnx_cases()] if given.operators else seeds()
    report = fuzz(given.count, given.seed, given.jobs, given.keep, corpus, first=given.first)
    print(report.text())
    sys.exit(bool(report.bugs))


if __name__ == "__main__":
    main()
