"""The kernels of language models: right in the simulator, and built as meant."""

import subprocess
import sys
from pathlib import Path

import pytest
from language_cases import FAMILIES

from turnout_cuda.build import Target, make
from turnout_cuda.dry import launches
from turnout_cuda.sass import features, nvdisasm

HERE = Path(__file__).parent


def script(name: str, *arguments: str) -> str:
    done = subprocess.run([sys.executable, str(HERE / name), *arguments], capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
    return done.stdout


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the simulator stands in for Linux's driver only")
def test_all_cases_are_right() -> None:
    assert "simulator: 0 reports" in script("language.py")


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(sys.platform != "linux", reason="the simulator stands in for Linux's driver only")
def test_decoders_are_right_whole() -> None:
    assert "0 reports" in script("decoders.py", "2")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the simulator stands in for Linux's driver only")
def test_sessions_hold_their_caches_on_the_device() -> None:
    assert "0 reports" in script("sessions.py")


@pytest.mark.skipif(nvdisasm() is None, reason="nvidia-cuda-nvdisasm is not here")
@pytest.mark.parametrize(
    ("family", "kernel", "name", "instruction"),
    [
        ("MatMulNBits", "4 bits, 1 rows, float16", "few_4_bits", "LDGSTS"),
        ("MatMulNBits", "4 bits, 1 rows, float16", "few_4_bits", "HMMA"),
        ("MatMulNBits", "4 bits, 1 rows, float16, short blocks", "gemv_4_bits", "LDG.E.128"),
        ("MatMulNBits", "4 bits, 40 rows, float16", "gemm_4_bits", "HMMA"),
        ("attention", "1 tokens, heads of 96, float16", "attention_of_token", "LDG.E.128"),
        ("attention", "1 tokens, heads of 96, float16", "attention_of_token", "HMMA"),
        ("attention", "40 tokens, heads of 64, float16", "attention_of_prompt", "HMMA"),
    ],
)
def test_kernels_became_the_instructions_that_they_are_meant_to(family: str, kernel: str, name: str, instruction: str) -> None:
    case = next(one for one in FAMILIES[family]() if one.kernel.endswith(kernel))
    found = [one for entry, one in launches(case.model, list(case.inputs.values()), arch="sm_90a").items() if entry.startswith(name)]
    assert len(found) == 1
    became = features(make(found[0].source, Target("sm_90a")))
    assert became is not None
    assert became[instruction] > 0
