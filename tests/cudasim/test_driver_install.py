"""Installing the simulator: its modes, what it refuses, the command and the pytest plugin. Each in a process of its own."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.cuda_sim_only
PROBE = """
import ctypes, turnout_cudasim
turnout_cudasim.install({mode!r}, arch={arch!r})
cuda = ctypes.CDLL("libcuda.so.1")
count, version, value = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
print(cuda.cuInit(0), cuda.cuDeviceGetCount(ctypes.byref(count)), count.value, end=" ")
print(cuda.cuDriverGetVersion(ctypes.byref(version)), version.value)
"""


@pytest.mark.parametrize(
    ("mode", "prints"),
    [
        ("run", "0 0 1 0 13050"),
        ("noop", "0 0 1 0 13050"),
        ("no-device", "100 3 0 0 13050"),
        ("driver-too-old", "0 0 1 0 11040"),
        ("driver-mismatch", "803 3 0 0 13050"),
        ("init-fails", "802 3 0 0 13050"),
    ],
)
def test_modes(python, mode, prints):
    result = python(PROBE.format(mode=mode, arch=None))
    assert result.stdout.strip() == prints, result.stderr


def test_a_driver_that_crashes_and_one_that_hangs(python):
    assert python(PROBE.format(mode="init-crashes", arch=None)).returncode < 0
    with pytest.raises(subprocess.TimeoutExpired):
        python(PROBE.format(mode="init-hangs", arch=None), timeout=2)


@pytest.mark.parametrize(("arch", "prints"), [("75", "7 5"), ("8.0", "8 0"), ("sm_90a", "9 0"), ("120", "12 0")])
def test_architectures(python, arch, prints):
    program = """
        import ctypes, turnout_cudasim
        turnout_cudasim.install("noop")
        cuda, major, minor = ctypes.CDLL("libcuda.so.1"), ctypes.c_int(), ctypes.c_int()
        assert cuda.cuInit(0) == 0
        cuda.cuDeviceComputeCapability(ctypes.byref(major), ctypes.byref(minor), 0)
        print(major.value, minor.value)
    """
    assert python(program, TURNOUT_CUDASIM_ARCH=arch).stdout.strip() == prints


@pytest.mark.parametrize(
    ("program", "says"),
    [
        ("import cuda.bindings.driver, turnout_cudasim; turnout_cudasim.install()", "imported already"),
        ("import turnout_cudasim as t; t.install('noop'); t.install('no-device')", "another process"),
        ("import turnout_cudasim; turnout_cudasim.install('fast')", "no mode 'fast': choose one of run, noop"),
        ("import turnout_cudasim; turnout_cudasim.install(arch='91')", "no architecture '91': choose one of 75"),
        ("from turnout_cudasim import installing as i; i.LIBRARY = i.LIBRARY / 'no'; i.install()", "needs Linux"),
    ],
)
def test_what_install_refuses(python, program, says):
    result = python(program)
    assert result.returncode == 1
    assert says in result.stderr.strip().splitlines()[-1] + result.stderr.strip().splitlines()[-2]


def test_no_call_dies_of_nulls(python):
    """Every entry point, with nothing but zeros for arguments, in a process of its own."""
    symbols = Path(__file__).parents[2] / "plugins" / "cudasim" / "native" / "symbols.def"
    program = f"""
        import ctypes, os, re, turnout_cudasim
        turnout_cudasim.install("noop")
        cuda, context = ctypes.CDLL("libcuda.so.1"), ctypes.c_void_p()
        assert (cuda.cuInit(0), cuda.cuDevicePrimaryCtxRetain(ctypes.byref(context), 0), cuda.cuCtxSetCurrent(context)) == (0, 0, 0)
        names = sorted(set(re.findall(r", (cu\\w+)\\)", open({str(symbols)!r}).read())))
        dead = []
        for name in names:
            if (child := os.fork()) == 0:
                getattr(cuda, name)(*[ctypes.c_void_p(0)] * 12)
                os._exit(0)
            if os.waitpid(child, 0)[1] != 0:
                dead.append(name)
        print(len(names) > 250, dead)
    """
    assert python(program).stdout.strip() == "True []"


def test_installing_twice_is_installing_once(python):
    assert python("import turnout_cudasim as t; t.install('noop'); t.install('noop'); print(t.mode())").stdout.strip() == "noop"


def test_an_old_driver_knows_no_libraries_of_kernels(python):
    program = """
        import turnout_cudasim
        turnout_cudasim.install("driver-too-old")
        from cuda.bindings import driver
        driver.cuInit(0)
        driver.cuLibraryLoadData(b"", None, None, 0, None, None, 0)
    """
    result = python(program)
    assert "cuLibraryLoadData" in result.stderr
    assert "not found" in result.stderr


def test_the_no_op_mode_takes_machine_code(python):
    program = """
        import turnout_cudasim
        turnout_cudasim.install("noop")
        from cuda.core import Device, LaunchConfig, Program, ProgramOptions, launch
        device = Device(); device.set_current(); stream = device.create_stream()
        kernel = Program('extern "C" __global__ void k(int* x) {}', "c++", ProgramOptions(arch="sm_90")).compile("cubin").get_kernel("k")
        launch(stream, LaunchConfig(grid=1, block=1), kernel, device.allocate(4, stream=stream))
        stream.sync()
        print("done")
    """
    result = python(program)
    assert result.stdout.strip() == "done", result.stderr


SCRIPT = """
import sys
from cuda.core import Device, LaunchConfig, Program, ProgramOptions, launch
source = '''
extern "C" __global__ void k(int* x) {
    x[threadIdx.x] = 1;  // the third line of k.cu
}'''
device = Device(); device.set_current(); stream = device.create_stream()
options = ProgramOptions(arch=f"compute_{device.arch}", lineinfo=True, name="k.cu")
kernel = Program(source, "c++", options).compile("ptx").get_kernel("k")
buffer = device.allocate(4 * int(sys.argv[1]), stream=stream)
launch(stream, LaunchConfig(grid=1, block=32), kernel, buffer)
stream.sync()
print("done")
"""


def test_the_command_runs_a_script(python, tmp_path):
    path = tmp_path / "script.py"
    path.write_text(SCRIPT)
    right = python(None, "-m", "turnout_cudasim", str(path), "32")
    assert (right.returncode, right.stdout.strip(), right.stderr) == (0, "done", "")
    wrong = python(None, "-m", "turnout_cudasim", str(path), "31")
    assert wrong.returncode == 1
    assert "out-of-bounds in k, block (0,0,0), thread (31,0,0), " in wrong.stderr
    assert "k.cu:3: writes 4 bytes" in wrong.stderr
    assert "CUDA_ERROR_ILLEGAL_ADDRESS" in wrong.stderr


def test_the_command_passes_the_scripts_own_exit_status_on(python, tmp_path):
    path = tmp_path / "script.py"
    path.write_text("import sys; sys.exit(int(sys.argv[1]))")
    assert python(None, "-m", "turnout_cudasim", str(path), "3").returncode == 3
    assert python(None, "-m", "turnout_cudasim", str(path), "0").returncode == 0
    assert python(None, "-m", "turnout_cudasim", "--mode", "wrong", str(path)).returncode == 2


def test_an_error_of_the_device_stays_until_it_is_cleared(python):
    program = SCRIPT.replace("sys.argv[1]", "31").replace("import sys", "import turnout_cudasim; turnout_cudasim.install()")
    program = program.replace(
        "launch(stream, LaunchConfig(grid=1, block=32), kernel, buffer)",
        """
for attempt in range(2):
    try:
        launch(stream, LaunchConfig(grid=1, block=32), kernel, buffer)
    except Exception as error:
        print(str(error)[:27], len(turnout_cudasim.reports()))
try:
    device.allocate(4, stream=stream)
except Exception as error:
    print(str(error)[:27])
turnout_cudasim.clear()
launch(stream, LaunchConfig(grid=1, block=31), kernel, buffer)
print(len(turnout_cudasim.reports()))
""",
    )
    lines = python(program).stdout.strip().splitlines()
    assert lines == [f"{'CUDA_ERROR_ILLEGAL_ADDRESS:'} 1"] * 2 + ["CUDA_ERROR_ILLEGAL_ADDRESS:", "0", "done"]


TESTS = """
import pytest
from cuda.core import Device, LaunchConfig, Program, ProgramOptions, launch

def run(elements):
    device = Device(); device.set_current(); stream = device.create_stream()
    source = 'extern "C" __global__ void k(int* x) { x[threadIdx.x] = 1; }'
    kernel = Program(source, "c++", ProgramOptions(arch=f"compute_{device.arch}")).compile("ptx").get_kernel("k")
    launch(stream, LaunchConfig(grid=1, block=32), kernel, device.allocate(4 * elements, stream=stream))
    stream.sync()

def test_right(): run(32)
def test_wrong(): run(31)
def test_wrong_and_hidden():
    with pytest.raises(Exception): run(31)
@pytest.mark.cuda_reports("out-of-bounds")
def test_expected():
    with pytest.raises(Exception): run(31)
@pytest.mark.cuda_reports("out-of-bounds")
def test_expected_but_right(): run(32)
def test_still_right(): run(32)
@pytest.mark.cuda_sim_only
def test_simulated(): assert "simulated" in Device().name
"""


def test_a_real_gpu_that_is_not_there_is_said_at_once(tmp_path):
    path = tmp_path / "test_it.py"
    path.write_text("def test_it(): raise AssertionError('ran')")
    command = [sys.executable, "-m", "pytest", "--cuda=real", "-p", "no:cacheprovider", "-p", "no:hypothesispytest", str(path)]
    environment = {**os.environ, "LD_LIBRARY_PATH": "", "CUDA_VISIBLE_DEVICES": "-1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment, cwd=tmp_path)
    assert done.returncode == 4
    assert re.search(r"--cuda=real: .*; --cuda=sim runs these tests without a GPU", done.stderr)


def test_the_pytest_plugin(tmp_path):
    path = tmp_path / "test_it.py"
    path.write_text(TESTS)
    command = [sys.executable, "-m", "pytest", "-v", "--cuda=sim", "-p", "no:cacheprovider", "-p", "no:hypothesispytest", str(path)]
    environment = {key: value for key, value in os.environ.items() if key != "TURNOUT_CUDA"}
    output = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=tmp_path, env=environment).stdout
    lines = [line.split("::")[1].split() for line in output.splitlines() if "::" in line and "%]" in line]
    outcomes = {name: outcome for name, outcome, *_ in lines}
    wrong = {"test_wrong", "test_wrong_and_hidden", "test_expected_but_right"}
    assert outcomes == {name: "FAILED" if name in wrong else "PASSED" for name in outcomes}
    assert len(outcomes) == 7
    assert "turnout-cudasim: out-of-bounds in k, block (0,0,0), thread (31,0,0)" in output
