"""The program in docs/cudasim.md does what the page says."""

import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "cudasim.md"


@pytest.mark.cuda_sim_only
def test_the_example(python, tmp_path):
    program, said = re.search(r"```python\n(.*?)```.*?```\n(.*?)\n```", PAGE.read_text(), re.DOTALL).groups()
    (tmp_path / "scale.py").write_text(program)
    wrong = python(None, "-m", "turnout_cudasim", str(tmp_path / "scale.py"))
    report = re.sub(r" at 0x[0-9a-f]+|/\S+/(?=scale\.cu)", "", wrong.stderr.splitlines()[0])
    assert (wrong.returncode, report) == (1, said)
    (tmp_path / "scale.py").write_text(program.replace("i <= n", "i < n"))
    right = python(None, "-m", "turnout_cudasim", str(tmp_path / "scale.py"))
    assert (right.returncode, right.stderr) == (0, "")
