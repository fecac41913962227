"""Builds the archives of cubins into the wheel, with the NVRTC of the build environment; no GPU is needed.

TURNOUT_CUBINS_ARCHS and TURNOUT_CUBINS_ONLY, lists of words, choose architectures and operators. An editable install gets none.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class CubinsBuildHook(BuildHookInterface[Any]):
    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if self.target_name != "wheel" or version == "editable":
            return
        self.folder = tempfile.TemporaryDirectory()
        command = [sys.executable, "-m", "turnout_cuda.ahead", self.folder.name]
        for option, variable in (("--arch", "TURNOUT_CUBINS_ARCHS"), ("--only", "TURNOUT_CUBINS_ONLY")):
            if words := os.environ.get(variable, "").split():
                command += [option, *words]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"the kernels could not be built:\n{done.stderr[-4000:]}")
        self.app.display_info(done.stdout.strip())
        for path in Path(self.folder.name).glob("*.zip"):
            build_data["force_include"][str(path)] = f"turnout_cuda_cubins/{path.name}"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        if hasattr(self, "folder"):
            self.folder.cleanup()
