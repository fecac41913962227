"""What is loaded when, and how the command ends: in processes of their own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)


LOADED = "import sys; before = set(sys.modules); {code}; import json; print(json.dumps(sorted(set(sys.modules) - before)))"


def loaded(code: str) -> set[str]:
    """The modules that the code loads, by their top names."""
    done = python(LOADED.format(code=code))
    assert done.returncode == 0, done.stderr
    return {name.partition(".")[0] for name in json.loads(done.stdout.splitlines()[-1])}


def test_import_turnout_loads_the_standard_library_only() -> None:
    assert loaded("import turnout") - set(sys.stdlib_module_names) == {"turnout"}


# other plugins that are installed beside these may load what they like
ONLY_CPU = """
import importlib.metadata as metadata
found = metadata.entry_points
metadata.entry_points = lambda **what: [one for one in found(**what) if one.name in ("cpu", "ort")]
"""


def test_listing_devices_loads_no_model_library() -> None:
    code = f"exec({ONLY_CPU!r}); from turnout.cli import cli; cli.main(['devices'], standalone_mode=False)"
    assert loaded(code).isdisjoint({"onnx", "onnx_ir", "sympy", "rich", "ml_dtypes"})


def test_loading_the_command_loads_neither_numpy_nor_rich() -> None:
    assert loaded("import turnout.cli").isdisjoint({"numpy", "rich", "pydantic", "onnx", "onnx_ir", "pluggy"})


@pytest.fixture
def command() -> list[str]:
    return [sys.executable, "-P", "-m", "turnout"]


def test_python_dash_m_turnout_is_the_command(command: list[str]) -> None:
    done = subprocess.run([*command, "--version"], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout.startswith("turnout ")


def test_errors_reach_the_shell(command: list[str]) -> None:
    done = subprocess.run([*command, "run", "nowhere.onnx"], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 4
    assert done.stdout == ""
    assert done.stderr.startswith("error: there is no file nowhere.onnx\nhint: ")


@pytest.mark.skipif("os.name == 'nt'", reason="pipes of POSIX")
@pytest.mark.parametrize("arguments", [["devices"], ["devices", "--json"], ["--help"], ["doctor"]])
def test_a_closed_pipe_is_quiet(command: list[str], arguments: list[str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([*command, *arguments], stdout=writer, stderr=subprocess.PIPE, text=True, timeout=120, check=False)
    os.close(writer)
    assert done.stderr == ""
    assert done.returncode != 0


@pytest.mark.skipif("os.name == 'nt'", reason="a shell of POSIX")
def test_a_closed_output_is_no_error(command: list[str]) -> None:
    done = subprocess.run(["sh", "-c", '"$@" >&-', "sh", *command, "devices"], stderr=subprocess.PIPE, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.skipif("not os.path.exists('/dev/full')", reason="Linux has a disk that is always full")
@pytest.mark.parametrize("arguments", [["devices"], ["devices", "--json"], ["--help"]])
def test_a_full_disk_is_told(command: list[str], arguments: list[str]) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run([*command, *arguments], stdout=full, stderr=subprocess.PIPE, text=True, timeout=120, check=False)
    assert done.returncode == 1
    assert done.stderr == "error: the output could not be written: No space left on device\nhint: make room there, or write elsewhere\n"


@pytest.mark.skipif("os.name == 'nt'", reason="signals of POSIX")
def test_control_c_is_quiet(command: list[str], scale: Path) -> None:
    arguments = ["bench", str(scale), "-d", "reference", "--seconds", "60", "-v"]
    process = subprocess.Popen(
        [*command, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background jobs, CI's perhaps, ignore it
    )
    assert process.stderr is not None
    assert "planned and compiled" in process.stderr.readline()
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    output, error = process.communicate(timeout=30)
    assert (process.returncode, output, error) == (130, "", "")
