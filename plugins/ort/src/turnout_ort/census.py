"""What the installed ONNX Runtime wheel holds, by its own word: asked in a child process, once for each wheel.

A wheel with somebody else's library in it may crash the process that asks for its kernels (onnxruntime-openvino 1.24.1 does).
"""

from __future__ import annotations

import functools
import importlib.util
import json
import logging
import os
import re
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from turnout import probe

__all__ = ["Census", "census"]

log = logging.getLogger("turnout")

_SECONDS = 60.0
"""How long a wheel may take to answer."""


@dataclass(frozen=True, slots=True)
class Census:
    """providers: the execution providers compiled in. kernels: whether it can be asked for its kernels, and lives."""

    providers: tuple[str, ...] = ("CPUExecutionProvider",)
    kernels: bool = True


@functools.cache
def census() -> Census:
    """What the wheel says, or said when it was asked last."""
    name, key = _wheel()
    if not key or (name == "onnxruntime" and sys.platform != "darwin"):
        return Census()  # nobody else's code is in it; on macOS, CoreML is
    file = probe.remembered_file().with_name("onnxruntime.json")
    kept = probe.read_note(file)
    try:
        said = kept[key]
        return Census(tuple(said["providers"]), bool(said["kernels"]))
    except (KeyError, TypeError):  # another wheel, or no notes yet
        found = _ask()
    if found is not None:
        probe.write_note(file, {**(kept if isinstance(kept, dict) else {}), key: asdict(found)})
    return found or Census()


def _wheel() -> tuple[str, str]:
    """The name by which the wheel on disk was built, and what tells it from others; ("", "") where there is none. Imports nothing."""
    spec = importlib.util.find_spec("onnxruntime")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        try:
            words = Path(folder, "capi", "build_and_package_info.py").read_text("utf-8")
        except OSError:
            continue
        libraries = sorted(Path(folder, "capi").glob("onnxruntime_pybind11_state*"))
        name = re.search(r"package_name = '(.*)'", words)
        about = [(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in libraries]
        return name[1] if name else "", json.dumps([words, about])
    return "", ""


def _ask() -> Census | None:
    """None where no child process can be started, so that nothing can be known beforehand."""
    try:
        code, said = probe.in_child("turnout_ort.census", "", _SECONDS)
    except subprocess.TimeoutExpired:
        code, said = 1, ""
    except OSError as error:  # an embedded Python
        log.debug("no child process to ask ONNX Runtime in: %s", error)
        return None
    names = [line.removeprefix(_PROVIDERS) for line in said.splitlines() if line.startswith(_PROVIDERS)]
    return Census(tuple(json.loads(names[0])) if names else Census().providers, code == 0 and _KERNELS in said)


_PROVIDERS = "turnout: providers "
_KERNELS = "turnout: and its kernels"


def _child() -> None:
    from turnout_ort.runtime import bindings, onnxruntime

    print(_PROVIDERS + json.dumps(onnxruntime().get_available_providers()), flush=True)
    bindings().get_all_opkernel_def()
    print(_KERNELS, flush=True)
    os._exit(0)  # what crashes as the interpreter ends has answered


if __name__ == "__main__":
    _child()
