"""A wheel is asked what it holds in a process of its own, once: a made one ends the process, as onnxruntime-openvino 1.24.1 does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from turnout_ort.census import Census, census

_ENDS = "import os; os.abort()"
_ANSWERS = "return []"


def wheel(folder: Path, kernels: str) -> Path:
    """An import package `onnxruntime` in a folder; what it does when it is asked for its kernels."""
    capi = folder / "onnxruntime" / "capi"
    capi.mkdir(parents=True)
    (folder / "onnxruntime" / "__init__.py").write_text(
        "InferenceSession = None\ndef get_available_providers(): return ['StrangeExecutionProvider', 'CPUExecutionProvider']\n"
    )
    (capi / "__init__.py").touch()
    (capi / "build_and_package_info.py").write_text("package_name = 'onnxruntime-strange'\n__version__ = '1.0'\n")
    (capi / "_pybind_state.py").write_text(
        f"import os, sys\nprint('asked', file=open({str(folder / 'asked')!r}, 'a'))\ndef get_all_opkernel_def():\n    {kernels}\n"
    )
    return folder


def said(folder: Path) -> Census:
    code = "import json, dataclasses; from turnout_ort.census import census; print(json.dumps(dataclasses.asdict(census())))"
    paths = os.pathsep.join([str(folder), *sys.path])
    environment = {**os.environ, "PYTHONPATH": paths, "TURNOUT_CACHE": str(folder / "cache")}
    done = subprocess.run([sys.executable, "-P", "-c", code], env=environment, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    return Census(tuple(found["providers"]), found["kernels"])


@pytest.mark.parametrize(("kernels", "survives"), [(_ENDS, False), (_ANSWERS, True)])
def test_a_wheel_that_crashes_is_not_asked_again(tmp_path: Path, kernels: str, survives: bool) -> None:
    folder = wheel(tmp_path, kernels)
    wanted = Census(("StrangeExecutionProvider", "CPUExecutionProvider"), survives)
    assert said(folder) == wanted
    assert said(folder) == wanted
    assert (folder / "asked").read_text() == "asked\n"


def test_another_wheel_in_its_place_is_asked(tmp_path: Path) -> None:
    assert not said(wheel(tmp_path, _ENDS)).kernels
    info = tmp_path / "onnxruntime" / "capi" / "build_and_package_info.py"
    info.write_text(info.read_text().replace("1.0", "1.1"))
    module = tmp_path / "onnxruntime" / "capi" / "_pybind_state.py"
    module.write_text(module.read_text().replace(_ENDS, _ANSWERS))
    assert said(tmp_path).kernels


def test_the_plain_wheel_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    from turnout_ort import census as module

    monkeypatch.setattr(module, "_ask", lambda: pytest.fail("it holds nobody's library"))
    monkeypatch.setattr(module, "_wheel", lambda: ("onnxruntime", "key"))
    monkeypatch.setattr(sys, "platform", "linux")
    census.cache_clear()
    assert census() == Census()
    census.cache_clear()
