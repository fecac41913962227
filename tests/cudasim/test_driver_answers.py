"""The simulator answers as NVIDIA's driver did (answers.txt; answers.py asks). With --cuda=real: the machine's driver does."""

import os
from pathlib import Path

import answers
import pytest

import turnout_cudasim

WANTED = Path(answers.__file__).with_suffix(".txt").read_text().splitlines()
OTHERWISE = {  # where the simulator differs, and why
    "images: an instruction that is none": "a kernel's body is read when it is first launched",
    "edges: edges": "that driver takes the data of the first edge for all edges of a call",
    "faults: a launch that reads nowhere": "a kernel has run when its launch returns",
    "host_pool: launched": "the same",
}


@pytest.mark.parametrize("group", answers.GROUPS)
def test_the_driver_answers_as_nvidias(group, capfd):
    wanted = [line for line in WANTED if line.startswith(f"{group}: ")]
    if os.environ.get("TURNOUT_CUDA") == "real":
        assert answers.ask(group).splitlines() == wanted
        return
    turnout_cudasim.install()
    try:
        said = [f"{group}: {question}: {answer!r}" for question, answer in answers.GROUPS[group]()]
    finally:
        turnout_cudasim.clear()
        capfd.readouterr()
    assert len(said) == len(wanted) > 0
    for line, want in zip(said, wanted, strict=True):
        assert line == want or line.rpartition(": ")[0] in OTHERWISE


def test_what_differs_is_asked():
    asked = {line.rpartition(": ")[0] for line in WANTED}
    assert asked >= set(OTHERWISE)
