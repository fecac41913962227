"""The kernels of language models: right in the simulator, and built as meant."""

import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


def script(name: str, *arguments: str) -> str:
    done = subprocess.run([sys.executable, str(HERE / name), *arguments], capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
    return done.stdout


@pytest.mark.skipif(sys.platform != "linux", reason="the simulator stands in for Linux's driver only")
def test_a_part_of_the_cases_is_right() -> None:
    assert "simulator: 0 reports" in script("language.py", "--few")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the simulator stands in for Linux's driver only")
def test_all_cases_are_right() -> None:
    assert "simulator: 0 reports" in script("language.py")


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(sys.platform != "linux", reason="the simulator stands in for Linux's driver only")
def test_decoders_are_right_whole() -> None:
    assert "0 reports" in script("decoders.py", "2")


@pytest.mark.skipif(sys.platform != "linux", reason="the simulator stands in for Linux's driver only")
def test_sessions_hold_their_caches_on_the_device() -> None:
    assert "0 reports" in script("sessions.py")
