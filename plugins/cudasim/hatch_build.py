"""Builds native/*.c into the package's libcuda.so.1, and native/fused/*.c into its libfused.so, with the C compiler of the `ziglang` wheel:
no compiler is needed on the machine.

The wheel is for the machine that builds it; TURNOUT_CUDASIM_TARGET=aarch64 (or x86_64) builds for the other. Where the target is not
Linux, the wheel holds no library, and `turnout_cudasim.install` says so.
"""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

LIBRARIES = {"libcuda.so.1": "native", "libfused.so": "native/fused"}  # in the package <- the folder of its sources
GLIBC = "2.17"  # the oldest that manylinux still names; every later one will do
FLAGS = ["-std=gnu11", "-O2", "-Wall", "-Wextra", "-fPIC", "-fvisibility=hidden", "-shared", "-s"]


class NativeBuildHook(BuildHookInterface[Any]):
    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if self.target_name != "wheel":
            return
        machine = os.environ.get("TURNOUT_CUDASIM_TARGET") or (platform.machine() if sys.platform == "linux" else None)
        if machine is None:
            return
        if machine not in ("x86_64", "aarch64"):
            raise ValueError(f"no build for {machine!r}: TURNOUT_CUDASIM_TARGET is x86_64 or aarch64")
        for name, built in self.build(Path(self.root), machine).items():
            if version == "editable":
                installed = Path(self.root) / "src/turnout_cudasim" / name
                installed.unlink(missing_ok=True)  # a process may have the old one mapped: never write into it
                installed.write_bytes(built.read_bytes())
            else:
                build_data["force_include"][str(built)] = f"turnout_cudasim/{name}"
        build_data["tag"] = f"py3-none-manylinux_{GLIBC.replace('.', '_')}_{machine}"

    def build(self, root: Path, machine: str) -> dict[str, Path]:
        """The libraries for that machine, from build/ where nothing has changed since they were made."""
        with tempfile.TemporaryDirectory() as scratch:  # zig's cache of compiled C library parts, made anew: about four seconds
            environment = {"ZIG_GLOBAL_CACHE_DIR": scratch, "ZIG_LOCAL_CACHE_DIR": scratch} | os.environ
            return {name: _library(root, machine, name, folder, environment) for name, folder in LIBRARIES.items()}


def _library(root: Path, machine: str, name: str, folder: str, environment: dict[str, str]) -> Path:
    sources = sorted((root / folder).glob("*.c"))
    target = ["-target", f"{machine}-linux-gnu.{GLIBC}"]
    command = [sys.executable, "-m", "ziglang", "cc", *target, *FLAGS, f"-Wl,-soname,{name}", *map(str, sources)]
    library = root / "build" / machine / name
    stamp = library.with_name(f"{name}.stamp")
    ingredients = [repr(command[3:]).encode(), *(path.read_bytes() for path in sorted((root / folder).iterdir()) if path.is_file())]
    digest = hashlib.sha256(b"\0".join(ingredients)).hexdigest()
    if library.exists() and stamp.exists() and stamp.read_text() == digest:
        return library
    library.parent.mkdir(parents=True, exist_ok=True)
    result = subprocess.run([*command, "-o", str(library)], env=environment, capture_output=True, text=True)
    if result.returncode != 0:
        raise RuntimeError(f"building {name} failed:\n{result.stderr}")
    stamp.write_text(digest)
    return library
