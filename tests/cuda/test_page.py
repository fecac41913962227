"""docs/write-a-kernel.md: its program is run as it stands."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from turnout_cuda.kernel import MODULES

PAGE = (Path(__file__).parents[2] / "docs" / "write-a-kernel.md").read_text("utf-8")


@pytest.mark.skipif(sys.platform != "linux", reason="the simulator stands in for Linux's driver only")
def test_the_program_runs(tmp_path: Path) -> None:
    (program,) = (block for block in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL) if "import turnout" in block)
    file = tmp_path / "cube.py"
    file.write_text(program, "utf-8")
    done = subprocess.run([sys.executable, str(file)], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "right" in done.stdout


def test_the_files_that_it_names_are_there() -> None:
    import turnout_cuda

    folder = Path(turnout_cuda.__file__).parent
    for name in re.findall(r"`([\w/]+\.(?:py|cu|cuh))`", PAGE):
        assert (folder / name).exists() or name == "cube.py", name
    for script in re.findall(r"python (tests/\S+\.py)", PAGE):
        assert (Path(__file__).parents[2] / script).exists(), script


def test_each_family_is_a_module() -> None:
    import turnout_cuda.operators

    there = {path.stem for path in Path(turnout_cuda.operators.__file__).parent.glob("[a-z]*.py")}
    assert there == set(MODULES)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the simulator stands in for Linux's driver only")
def test_every_row_of_the_benchmark_can_be_measured() -> None:
    script = Path(__file__).parents[1] / "benchmarks" / "cuda.py"
    done = subprocess.run([sys.executable, str(script), "--tiny"], capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert len(done.stdout.splitlines()) > 25
    assert "not measured" not in done.stdout
