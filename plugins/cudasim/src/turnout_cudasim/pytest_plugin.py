"""`pytest --cuda=sim`: CUDA tests on the simulated device; what it reports fails the test. `--cuda=real` runs the same tests on a GPU."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Generator

import pytest

import turnout_cudasim


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("cuda")
    group.addoption("--cuda", choices=("sim", "real"), help="run CUDA tests on the simulated device (sim) or on the machine's GPU (real)")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "cuda_sim_only: needs the simulated device; skipped with --cuda=real")
    config.addinivalue_line("markers", "cuda_reports(*kinds): the simulator must report exactly these kinds, as in 'out-of-bounds'")


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests(early_config: pytest.Config) -> None:
    """Before any conftest can import cuda.bindings."""
    chosen = early_config.known_args_namespace.cuda or os.environ.get("TURNOUT_CUDA")
    if chosen:
        os.environ["TURNOUT_CUDA"] = chosen  # for whoever chooses devices, in this process and in those it starts
    if chosen == "sim":
        try:
            turnout_cudasim.install()
        except (turnout_cudasim.InstallError, ValueError) as error:
            raise pytest.UsageError(str(error)) from None
    elif early_config.known_args_namespace.cuda == "real" and (why := _no_gpu()):
        raise pytest.UsageError(f"--cuda=real: {why}; --cuda=sim runs these tests without a GPU")


def _no_gpu() -> str:
    """Why there is no GPU to test on; empty if there is one."""
    name = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
    try:
        driver = ctypes.CDLL(name)
    except OSError as error:
        return f"no NVIDIA driver is installed ({error})"
    count = ctypes.c_int(0)
    result = driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count))
    return f"the driver cannot start (error {result})" if result else "" if count.value else "the driver finds no GPU"


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("cuda_sim_only") and os.environ.get("TURNOUT_CUDA") == "real":
        pytest.skip("needs the simulated device")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """Fail a test in which the simulator found something, whatever the test itself says of it."""
    if turnout_cudasim.mode() is None:
        return (yield)
    turnout_cudasim.clear()
    marker = item.get_closest_marker("cuda_reports")
    try:
        result = yield
    except Exception as error:
        for report in turnout_cudasim.reports():
            error.add_note(f"turnout-cudasim: {report}")
        raise
    finally:
        found = turnout_cudasim.reports()
        turnout_cudasim.clear()
    if marker is not None:
        kinds = {report.kind for report in found}
        if kinds != set(marker.args):
            pytest.fail(f"expected reports of {sorted(marker.args)}, got {sorted(kinds)}", pytrace=False)
    elif found:
        pytest.fail("\n".join(f"turnout-cudasim: {report}" for report in found), pytrace=False)
    return result
