"""From a kernel's source to what a device loads: what was built ahead, or NVRTC and a cache of its results on disk.

A cubin is built wherever a real device loads it: a driver refuses PTX that is newer than itself, and takes any cubin of its major
version. The simulator wants PTX. `target` is the one place that decides.
"""

from __future__ import annotations

import functools
import hashlib
import logging
import os
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from turnout.errors import CompileError
from turnout_cuda import cubins
from turnout_cuda.driver import Gpu
from turnout_cuda.source import whole

__all__ = ["Target", "Usage", "build", "cache_folder", "compiler_version", "compiles", "key_of", "make", "target", "usage"]

log = logging.getLogger("turnout")

_OPTIONS = ("--std=c++17", "-default-device", "--extra-device-vectorization", "--disable-warnings", "--ptxas-options=-v")
"""Not --restrict: results may lie in the memory of operands."""


@dataclass(frozen=True)
class Target:
    """What to build for: an architecture ("sm_90"), and whether as PTX."""

    arch: str
    ptx: bool = False

    @property
    def option(self) -> str:
        return f"--gpu-architecture={self.arch.replace('sm_', 'compute_') if self.ptx else self.arch}"


def target(gpu: Gpu) -> Target:
    """What the device loads. Hopper's own instructions ("sm_90a") are asked for by their exact name."""
    arch = "sm_90a" if gpu.capability == (9, 0) else gpu.arch
    return Target(arch, ptx=gpu.simulated)


def build(source: str, wanted: Target) -> bytes:
    """The cubin, or PTX, of a kernel source without its prelude: built ahead, or from the cache, or built now.

    Raises CompileError with NVRTC's words, or where there is no NVRTC.
    """
    ahead = cubins.archive(wanted)
    if ahead is not None:
        found = ahead.get(key_of(source, wanted if wanted.ptx else Target(ahead.arch), ahead.compiler))
        if found is not None:
            return found
    if not compiles():
        there = 0 if ahead is None else len(ahead)
        raise CompileError(
            f"a kernel that it wants is not among the {there} built ahead for {wanted.arch}, and NVRTC is not here",
            hint="pip install nvidia-cuda-nvrtc",
        )
    path = cache_folder() / f"{key_of(source, wanted, compiler_version())}.{'ptx' if wanted.ptx else 'cubin'}"
    try:
        return path.read_bytes()
    except OSError:
        pass
    binary = make(source, wanted)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
            file.write(binary)
        os.replace(file.name, path)
    except OSError as error:
        log.debug("cannot keep a kernel in %s: %s", path.parent, error)
    return binary


def make(source: str, wanted: Target) -> bytes:
    """The same, by NVRTC whatever is there. Raises CompileError."""
    return _compile(whole(source), wanted)[0]


@dataclass(frozen=True)
class Usage:
    """What ptxas says of a kernel: registers and bytes spilled a thread, bytes of static shared memory a block, and what it warns of."""

    registers: int
    spilled: int
    shared: int
    warnings: tuple[str, ...] = ()


def usage(source: str, wanted: Target) -> Usage:
    """What a kernel takes of a multiprocessor; always built anew, since the cache keeps no log."""
    _, said = _compile(whole(source), wanted)
    registers = [int(n) for n in re.findall(r"Used (\d+) registers", said)]
    spilled = sum(int(n) for n in re.findall(r"(\d+) bytes spill (?:stores|loads)", said))
    shared = [int(n) for n in re.findall(r"(\d+) bytes smem", said)]
    warnings = tuple(re.findall(r"Potential Performance Loss: ([^\n]*)", said))
    return Usage(max(registers, default=0), spilled, max(shared, default=0), warnings)


def cache_folder() -> Path:
    """Where built kernels are kept; TURNOUT_CACHE moves it."""
    if folder := os.environ.get("TURNOUT_CACHE"):
        return Path(folder) / "cuda"
    import platformdirs

    return Path(platformdirs.user_cache_dir("turnout", appauthor=False)) / "cuda"


@functools.cache
def compiler_version() -> str:
    """NVRTC's version, "13.5"."""
    _, major, minor = _nvrtc().nvrtcVersion()
    return f"{major}.{minor}"


@functools.cache
def compiles() -> bool:
    """Whether NVRTC is here."""
    try:
        return bool(compiler_version())
    except Exception as error:  # cuda.pathfinder's own kinds, and whatever a broken library raises
        log.debug("no NVRTC here: %s", error)
        return False


def _nvrtc() -> Any:
    from cuda.bindings import nvrtc  # type: ignore[import-untyped,unused-ignore]

    return nvrtc


def key_of(source: str, wanted: Target, compiler: str) -> str:
    """What a kernel is kept by: its source, the options, the compiler's version and the architecture, in one number."""
    parts = "\0".join((whole(source), wanted.option, *_OPTIONS, compiler))
    return hashlib.sha256(parts.encode()).hexdigest()[:40]


def _compile(text: str, wanted: Target) -> tuple[bytes, str]:
    nvrtc = _nvrtc()
    code, program = nvrtc.nvrtcCreateProgram(text.encode(), b"kernel.cu", 0, [], [])
    if code.value:
        raise CompileError(f"NVRTC: {code.name}")
    try:
        options = [option.encode() for option in (wanted.option, *_OPTIONS)]
        (code,) = nvrtc.nvrtcCompileProgram(program, len(options), options)
        said = _log(nvrtc, program)
        if code.value:
            raise CompileError(f"NVRTC could not build a kernel for {wanted.arch}: {code.name}: {said.strip()[:2000]}")
        size_of, content_of = (nvrtc.nvrtcGetPTXSize, nvrtc.nvrtcGetPTX) if wanted.ptx else (nvrtc.nvrtcGetCUBINSize, nvrtc.nvrtcGetCUBIN)
        _, size = size_of(program)
        binary = bytes(int(size))
        content_of(program, binary)
    finally:
        nvrtc.nvrtcDestroyProgram(program)
    return binary, said


def _log(nvrtc: Any, program: Any) -> str:
    _, size = nvrtc.nvrtcGetProgramLogSize(program)
    text = bytes(int(size) + 1)  # NVRTC writes into it: never a bytes object of one byte, which Python shares
    nvrtc.nvrtcGetProgramLog(program, text)
    return text.decode(errors="replace").strip("\0 \n")
