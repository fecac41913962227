"""Unmodified cuda.core and cuda.bindings on the simulated device (or, with --cuda=real, on the machine's GPU)."""

import ctypes
import os
import subprocess
import sys
import textwrap
from dataclasses import dataclass

import numpy as np
import pytest

import turnout_cudasim
from turnout_cudasim.installing import LIBRARY

if not LIBRARY.exists():  # not Linux on x86-64 or arm64
    collect_ignore_glob = ["test_driver*"]
elif os.environ.get("TURNOUT_CUDA") != "real":
    turnout_cudasim.install()  # while tests are collected: before any of them imports cuda.bindings


@dataclass
class Rig:
    """A device with a stream, and the three things every test does with them."""

    device: object
    stream: object
    pinned: object

    def compile(self, source, *names, **options):
        from cuda.core import Program, ProgramOptions

        arch = self.device.arch
        code = Program(source, "c++", ProgramOptions(arch=f"compute_{arch}", lineinfo=True, **options)).compile("ptx")
        kernels = tuple(code.get_kernel(name) for name in names)
        return kernels[0] if len(kernels) == 1 else kernels

    def upload(self, array):
        host = self.pinned.allocate(array.nbytes)
        self.view(host, array.dtype)[:] = array.ravel()
        buffer = self.device.allocate(array.nbytes, stream=self.stream)
        buffer.copy_from(host, stream=self.stream)
        self.stream.sync()
        host.close()
        return buffer

    def download(self, buffer, dtype):
        host = self.pinned.allocate(buffer.size)
        buffer.copy_to(host, stream=self.stream)
        self.stream.sync()
        array = self.view(host, dtype).copy()
        host.close()
        return array

    @staticmethod
    def view(buffer, dtype):
        """The bytes of a buffer in host memory, as an array."""
        raw = (ctypes.c_uint8 * buffer.size).from_address(int(buffer.handle))
        return np.frombuffer(raw, dtype)


@pytest.fixture
def rig():
    from cuda.core import Device, LegacyPinnedMemoryResource

    device = Device(0)
    device.set_current()
    stream = device.create_stream()
    yield Rig(device, stream, LegacyPinnedMemoryResource())
    stream.close()


@pytest.fixture
def python():
    """Runs a program in a process of its own."""

    def run(program, *arguments, timeout=60, **environment):
        return subprocess.run(
            [sys.executable, *arguments, *(["-c", textwrap.dedent(program)] if program else [])],
            capture_output=True,
            text=True,
            timeout=timeout,
            env={**os.environ, **environment},
        )

    return run
