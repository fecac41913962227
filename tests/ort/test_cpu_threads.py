"""How many threads the CPU takes where nobody says, and where they may run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from turnout.device import Device
from turnout_cpu import threads
from turnout_cpu.provider import CpuProvider, Options

pytestmark = pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="only Linux tells a process what it may use")

LOAD = """
import os
only = min(os.sched_getaffinity(0))
os.sched_setaffinity(0, {only})
import onnx.parser, turnout
text = '<ir_version: 10, opset_import: ["" : 21]> g (float[8] x) => (float[8] y) { y = Relu(x) }'
model = turnout.load(onnx.parser.parse_model(text), device="cpu")
states = [open(f"/proc/self/task/{task}/status").read().splitlines() for task in os.listdir("/proc/self/task")]
lines = [row.split()[1] for state in states for row in state if row.startswith("Cpus_allowed_list")]
print(sum(row != str(only) for row in lines))
"""


def settings(**options: int) -> int:
    return int(CpuProvider().session_options(Device("cpu"), Options(**options)).intra_op_num_threads)


def test_what_is_asked_for_is_taken() -> None:
    assert settings(threads=3) == 3


def test_processors_of_one_core_count_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 1, 2, 3}, raising=False)
    monkeypatch.setattr(threads, "_siblings", lambda processor: str(processor // 2))
    monkeypatch.setattr(threads, "_own_group", lambda: Path("nowhere"))
    threads._cores.cache_clear()
    try:
        assert settings() == 2
    finally:
        threads._cores.cache_clear()


@pytest.mark.parametrize(
    ("inner", "outer", "wanted"), [("max 100000", "max 100000", 8), ("max 100000", "250000 100000", 2), ("50000 100000", "", 1)]
)
def test_a_quota_bounds_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, inner: str, outer: str, wanted: int) -> None:
    group = tmp_path / "outer" / "inner"
    group.mkdir(parents=True)
    (group / "cpu.max").write_text(inner + "\n")
    (group.parent / "cpu.max").write_text(outer)
    monkeypatch.setattr(threads, "_own_group", lambda: group)
    monkeypatch.setattr(threads, "_cores", lambda processors: 8)
    assert settings() == wanted


def test_no_thread_leaves_the_processors_of_its_process() -> None:
    """ONNX Runtime ties threads to cores that it counts itself."""
    ran = subprocess.run([sys.executable, "-c", LOAD], capture_output=True, text=True, check=True)
    assert ran.stdout.split() == ["0"]
