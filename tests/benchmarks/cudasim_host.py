"""What a CUDA call costs the host, with a driver that does nothing: `python tests/benchmarks/cudasim_host.py`.

Nanoseconds, the best of five rounds: what Python, cuda.core and cuda.bindings take before a real driver would begin.
"""

from __future__ import annotations

import ctypes
import timeit
from collections.abc import Callable

import turnout_cudasim

turnout_cudasim.install("noop")

import numpy as np  # noqa: E402  # the simulator comes before cuda.bindings
from cuda.bindings import driver  # noqa: E402
from cuda.core import Device, LaunchConfig, Program, ProgramOptions, launch  # noqa: E402


def show(what: str, call: Callable[[], object], rounds: int = 20_000) -> None:
    call()
    seconds = min(timeit.repeat(call, number=rounds, repeat=5)) / rounds
    print(f"{what:52s} {seconds * 1e9:8.0f} ns")


def main() -> None:
    device = Device()
    device.set_current()
    stream = device.create_stream()
    source = 'extern "C" __global__ void k(float* a, float* b, int n) {}'
    kernel = Program(source, "c++", ProgramOptions(arch=f"compute_{device.arch}")).compile("ptx").get_kernel("k")
    config, buffer, n = LaunchConfig(grid=4, block=64), device.allocate(64, stream=stream), np.int32(5)
    address = int(buffer.handle)

    show("launch, no arguments", lambda: launch(stream, config, kernel))
    show("launch, two buffers and an integer", lambda: launch(stream, config, kernel, buffer, buffer, n))
    show("launch, two addresses and an integer", lambda: launch(stream, config, kernel, address, address, n))
    sixteen = [address] * 14 + [n, n]
    show("launch, sixteen arguments", lambda: launch(stream, config, kernel, *sixteen))
    show("LaunchConfig(grid=4, block=64)", lambda: LaunchConfig(grid=4, block=64))
    function, handle = driver.CUfunction(int(kernel.handle)), driver.CUstream(int(stream.handle))
    typed = ((address, address, 5), (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int))
    show("cuLaunchKernel, three typed arguments", lambda: driver.cuLaunchKernel(function, 4, 1, 1, 64, 1, 1, 0, handle, typed, 0))
    raw = ctypes.CDLL("libcuda.so.1").cuLaunchKernel
    raw.argtypes = [ctypes.c_void_p] + [ctypes.c_uint] * 7 + [ctypes.c_void_p] * 3
    kernel_address, stream_address = int(kernel.handle), int(stream.handle)
    show("the library's cuLaunchKernel by ctypes", lambda: raw(kernel_address, 4, 1, 1, 64, 1, 1, 0, stream_address, None, None))

    show("allocate(64) and close", lambda: device.allocate(64, stream=stream).close())
    show("stream.record()", stream.record)
    show("stream.sync()", stream.sync)

    builder = device.create_graph_builder()
    builder.begin_building()
    for _ in range(100):
        launch(builder, config, kernel, buffer, buffer, n)
    graph = builder.end_building().complete()
    show("graph of 100 launches", lambda: graph.launch(stream))


if __name__ == "__main__":
    main()
