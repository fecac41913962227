"""A few hundred mutated files; fuzz_gguf.py itself runs as many as one likes."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path

import fuzz_gguf
import pytest


@pytest.mark.timeout(120)
def test_mutated_files_are_built_or_refused() -> None:
    found = dict(fuzz_gguf.outcomes(0, 300, 10))
    crashes = {number: result for number, result in found.items() if result.startswith("CRASH")}
    assert not crashes
    assert sorted(found) == list(range(300))
    kinds = Counter(result.split(":")[0].split(",")[0] for result in found.values())
    assert kinds["built"] > 30  # mutations that only break the head of a file would leave the rest untried
    assert kinds["refused"] > 100
    assert len(set(found.values())) > 20


def test_a_child_that_dies_is_a_crash_and_the_next_case_goes_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    deadly = tmp_path / "deadly.py"
    deadly.write_text(
        "import os, sys\n"
        "first = int(sys.argv[sys.argv.index('--first') + 1])\n"
        "for number in range(first, 4):\n"
        "    if number == 2: os._exit(3)\n"
        "    print('\"built\"', flush=True)\n"
    )
    monkeypatch.setattr(fuzz_gguf, "__file__", str(deadly))
    found = dict(fuzz_gguf.outcomes(0, 4, 0))
    assert [found[number][:5] for number in range(4)] == ["built", "built", "CRASH", "built"]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells and limits what a process maps")
def test_the_limit_of_a_child_holds() -> None:
    code = "import numpy, fuzz_gguf; fuzz_gguf._limit(fuzz_gguf.HEADROOM); numpy.ones(2 * fuzz_gguf.HEADROOM, numpy.uint8)"
    done = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
    assert "MemoryError" in done.stderr
