"""cuda.bindings on the stand-in driver: what it answers to right and to wrong calls."""

import ctypes
import gc
import threading
from pathlib import Path

import numpy as np
import pytest
from cuda.bindings import driver, nvrtc

CUresult = driver.CUresult
OK = CUresult.CUDA_SUCCESS


def check(result):
    assert result[0] == OK, result[0]
    return result[1] if len(result) == 2 else result[1:]


def ptx(source, arch="compute_90", output="PTX"):
    """PTX (or a cubin) from NVRTC, with a 0 behind it."""
    program = check(nvrtc.nvrtcCreateProgram(source.encode(), b"k.cu", 0, None, None))
    (status,) = nvrtc.nvrtcCompileProgram(program, 2, [f"-arch={arch}".encode(), b"-lineinfo"])
    assert status == nvrtc.nvrtcResult.NVRTC_SUCCESS
    size = check(getattr(nvrtc, f"nvrtcGet{output}Size")(program))
    code = bytearray(size + 1)
    check(getattr(nvrtc, f"nvrtcGet{output}")(program, code))
    return bytes(code)


KERNEL = """
__device__ int counter = 5;
__constant__ float weights[4] = {1, 2, 3, 4};
struct Pair { int a; double b; };
extern "C" __global__ void k(double* out, Pair pair) { out[threadIdx.x] = counter + weights[1] + pair.a * pair.b; }
"""


@pytest.fixture
def module(rig):
    module = check(driver.cuModuleLoadData(ptx(KERNEL)))
    yield module
    driver.cuModuleUnload(module)


def test_modules_variables_and_structures_by_value(rig, module):
    function = check(driver.cuModuleGetFunction(module, b"k"))
    address, size = check(driver.cuModuleGetGlobal(module, b"counter"))
    assert size == 4
    value = ctypes.c_int()
    check(driver.cuMemcpyDtoH(ctypes.addressof(value), address, 4))
    assert value.value == 5
    value.value = 10
    check(driver.cuMemcpyHtoD(address, ctypes.addressof(value), 4))

    class Pair(ctypes.Structure):
        _fields_ = (("a", ctypes.c_int), ("b", ctypes.c_double))

    out = check(driver.cuMemAlloc(8 * 32))
    arguments = (ctypes.c_uint64(int(out)), Pair(3, 0.5))
    pointers = (ctypes.c_void_p * 2)(*(ctypes.addressof(a) for a in arguments))
    check(driver.cuLaunchKernel(function, 1, 1, 1, 32, 1, 1, 0, 0, ctypes.addressof(pointers), 0))
    result = np.zeros(32)
    check(driver.cuMemcpyDtoH(result.ctypes.data, out, result.nbytes))
    assert (result == 10 + 2 + 1.5).all()
    check(driver.cuMemFree(out))


@pytest.mark.cuda_sim_only
def test_images_that_are_not_ptx_say_so(rig, capfd):
    assert driver.cuModuleLoadData(ptx(KERNEL, "sm_90", "CUBIN"))[0] == CUresult.CUDA_ERROR_NO_BINARY_FOR_GPU
    assert "the simulator runs PTX" in capfd.readouterr().err
    assert driver.cuModuleLoadData(b"int main() {}\0")[0] == CUresult.CUDA_ERROR_INVALID_IMAGE
    assert "no PTX" in capfd.readouterr().err
    assert driver.cuModuleLoadData(ptx(KERNEL, "compute_100"))[0] == CUresult.CUDA_ERROR_INVALID_PTX
    assert "TURNOUT_CUDASIM_ARCH" in capfd.readouterr().err


def test_the_error_log_of_a_bad_image(rig):
    log = bytes(200)  # cuda.bindings wants bytes, and the driver writes into them
    options = [driver.CUjit_option.CU_JIT_ERROR_LOG_BUFFER, driver.CUjit_option.CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES]
    values = [log, len(log)]
    assert driver.cuModuleLoadDataEx(b"no PTX at all\0", 2, options, values)[0] == CUresult.CUDA_ERROR_INVALID_IMAGE
    bad = b"// nearly\n.version 8.4\n.target sm_75\n.address_size 64\n.visible .entry k() { ret;\0"
    assert driver.cuModuleLoadDataEx(bad, 2, options, values)[0] == CUresult.CUDA_ERROR_INVALID_PTX
    assert log.strip(b"\0").decode()


def test_modules_from_files(rig, tmp_path):
    path = tmp_path / "k.ptx"
    path.write_bytes(ptx(KERNEL).rstrip(b"\0"))
    library = check(driver.cuLibraryLoadFromFile(bytes(path), None, None, 0, None, None, 0))
    assert check(driver.cuLibraryGetKernelCount(library)) == 1
    kernel = check(driver.cuLibraryGetKernel(library, b"k"))
    assert check(driver.cuKernelGetName(kernel)) == b"k"
    assert driver.cuLibraryGetKernel(library, b"other")[0] == CUresult.CUDA_ERROR_NOT_FOUND
    assert driver.cuModuleLoad(bytes(Path("nowhere.ptx")))[0] == CUresult.CUDA_ERROR_FILE_NOT_FOUND


@pytest.mark.cuda_sim_only  # a driver follows them, and crashes
def test_handles_that_are_none(rig, module):
    stream = check(driver.cuStreamCreate(0))
    check(driver.cuStreamDestroy(stream))
    assert driver.cuStreamSynchronize(stream)[0] == CUresult.CUDA_ERROR_INVALID_HANDLE
    assert driver.cuStreamSynchronize(0xDEAD0000)[0] == CUresult.CUDA_ERROR_INVALID_HANDLE
    assert driver.cuEventQuery(int(module))[0] == CUresult.CUDA_ERROR_INVALID_HANDLE
    assert driver.cuGraphLaunch(0x10, 0)[0] == CUresult.CUDA_ERROR_INVALID_VALUE
    other = check(driver.cuModuleLoadData(ptx(KERNEL)))
    function = check(driver.cuModuleGetFunction(other, b"k"))
    check(driver.cuModuleUnload(other))
    assert driver.cuLaunchKernel(function, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0)[0] == CUresult.CUDA_ERROR_INVALID_HANDLE


def test_copies_outside_of_allocations_are_errors_not_crashes(rig):
    host = np.zeros(64, np.uint8)
    device = check(driver.cuMemAlloc(64))
    assert driver.cuMemcpyHtoD(device, host.ctypes.data, 64) == (OK,)
    assert driver.cuMemcpyHtoD(int(device) + 1, host.ctypes.data, 64)[0] == CUresult.CUDA_ERROR_INVALID_VALUE
    assert driver.cuMemcpyDtoH(host.ctypes.data, int(device) + 60, 8)[0] == CUresult.CUDA_ERROR_INVALID_VALUE
    assert driver.cuMemsetD8(device, 1, 65)[0] == CUresult.CUDA_ERROR_INVALID_VALUE
    assert driver.cuMemsetD32(int(device) + 2, 1, 4)[0] == CUresult.CUDA_ERROR_INVALID_VALUE
    assert driver.cuMemsetD8(host.ctypes.data, 1, 64)[0] == CUresult.CUDA_ERROR_INVALID_VALUE
    assert driver.cuMemFree(int(device) + 8)[0] == CUresult.CUDA_ERROR_INVALID_VALUE
    assert driver.cuMemFree(device) == (OK,)
    assert driver.cuMemFree(device)[0] == CUresult.CUDA_ERROR_INVALID_VALUE
    assert driver.cuMemcpyDtoH(host.ctypes.data, device, 8)[0] == CUresult.CUDA_ERROR_INVALID_VALUE
    assert driver.cuMemAlloc(0)[0] == CUresult.CUDA_ERROR_INVALID_VALUE


@pytest.mark.cuda_sim_only  # a driver follows it, and crashes
def test_a_host_pointer_that_is_none_is_an_error(rig):
    device = check(driver.cuMemAlloc(64))
    assert driver.cuMemcpyHtoD(device, 0x10, 64)[0] == CUresult.CUDA_ERROR_INVALID_VALUE
    assert driver.cuMemFree(device) == (OK,)


def test_copies_of_two_dimensions(rig):
    rows = np.arange(6 * 16, dtype=np.uint8).reshape(6, 16)
    address, pitch = check(driver.cuMemAllocPitch(16, 6, 4))
    copy = driver.CUDA_MEMCPY2D()
    copy.srcMemoryType, copy.dstMemoryType = driver.CUmemorytype.CU_MEMORYTYPE_HOST, driver.CUmemorytype.CU_MEMORYTYPE_DEVICE
    copy.srcHost, copy.srcPitch, copy.dstDevice, copy.dstPitch, copy.WidthInBytes, copy.Height = rows.ctypes.data, 16, address, pitch, 16, 6
    assert driver.cuMemcpy2D(copy) == (OK,)
    back = np.zeros((4, 8), np.uint8)
    copy = driver.CUDA_MEMCPY2D()
    copy.srcMemoryType, copy.dstMemoryType = driver.CUmemorytype.CU_MEMORYTYPE_DEVICE, driver.CUmemorytype.CU_MEMORYTYPE_HOST
    copy.srcDevice, copy.srcPitch, copy.srcXInBytes, copy.srcY = address, pitch, 4, 1
    copy.dstHost, copy.dstPitch, copy.WidthInBytes, copy.Height = back.ctypes.data, 8, 8, 4
    assert driver.cuMemcpy2DAsync(copy, 0) == (OK,)
    np.testing.assert_array_equal(back, rows[1:5, 4:12])
    driver.cuMemFree(address)


def test_what_a_pointer_is(rig):
    attribute = driver.CUpointer_attribute
    device, host = check(driver.cuMemAlloc(1024)), check(driver.cuMemHostAlloc(512, 0))
    managed = check(driver.cuMemAllocManaged(256, 1))

    def of(address, *attributes):
        return check(driver.cuPointerGetAttributes(len(attributes), list(attributes), address))

    kind, ordinal, start, size = (
        attribute.CU_POINTER_ATTRIBUTE_MEMORY_TYPE,
        attribute.CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL,
        attribute.CU_POINTER_ATTRIBUTE_RANGE_START_ADDR,
        attribute.CU_POINTER_ATTRIBUTE_RANGE_SIZE,
    )
    types = driver.CUmemorytype
    assert [int(v) for v in of(int(device) + 100, kind, ordinal, start, size)] == [types.CU_MEMORYTYPE_DEVICE, 0, int(device), 1024]
    assert [int(v) for v in of(int(host), kind, ordinal)] == [types.CU_MEMORYTYPE_HOST, 0]
    assert [int(v) for v in of(int(managed), kind, attribute.CU_POINTER_ATTRIBUTE_IS_MANAGED)] == [types.CU_MEMORYTYPE_DEVICE, 1]
    mine = np.zeros(8)
    assert [int(v) % 2**32 for v in of(mine.ctypes.data, kind, ordinal)] == [0, 2**32 - 2]  # old bindings lose the sign
    assert driver.cuPointerGetAttribute(kind, mine.ctypes.data)[0] == CUresult.CUDA_ERROR_INVALID_VALUE
    for address in (device, managed):
        driver.cuMemFree(address)
    driver.cuMemFreeHost(host)


@pytest.mark.cuda_sim_only
@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: driver.cuMemAddressReserve(1 << 21, 0, 0, 0), "virtual memory"),
        (lambda: driver.cuLinkCreate(0, [], []), "linking"),
        (lambda: driver.cuMemHostRegister(0x1000, 4096, 0), "cuMemHostAlloc"),
        (lambda: driver.cuStreamWaitValue32(0, 0, 0, 0), "streams"),
        (lambda: driver.cuArrayCreate(driver.CUDA_ARRAY_DESCRIPTOR()), "textures"),
        (lambda: driver.cuCtxCreate(None, 0, 0), "one context"),
    ],
)
def test_what_is_not_modelled_is_refused_with_a_reason(rig, call, says, capfd):
    assert call()[0] == CUresult.CUDA_ERROR_NOT_SUPPORTED
    first = capfd.readouterr().err
    assert not first or says in first  # said once in a process


def test_names_and_words_of_errors():
    for error in CUresult:
        name = driver.cuGetErrorName(error)
        if name[0] == OK:
            assert name[1] == error.name.encode()
            assert driver.cuGetErrorString(error)[1]
    assert driver.cuGetErrorName(CUresult.CUDA_ERROR_ILLEGAL_ADDRESS)[1] == b"CUDA_ERROR_ILLEGAL_ADDRESS"


def test_threads_share_the_device(rig, module):
    """Each thread has its own current context, and streams of its own; kernels run one after the other."""
    source = 'extern "C" __global__ void fill(int* x, int value) { x[blockIdx.x * blockDim.x + threadIdx.x] = value; }'
    kernel = check(driver.cuModuleGetFunction(check(driver.cuModuleLoadData(ptx(source))), b"fill"))
    device, problems = rig.device, []

    def work(value):
        try:
            assert driver.cuStreamCreate(0)[0] == CUresult.CUDA_ERROR_INVALID_CONTEXT
            device.set_current()
            stream = check(driver.cuStreamCreate(1))
            for _ in range(5):
                address = check(driver.cuMemAlloc(4 * 256))
                arguments = (ctypes.c_uint64(int(address)), ctypes.c_int(value))
                pointers = (ctypes.c_void_p * 2)(*(ctypes.addressof(a) for a in arguments))
                assert driver.cuLaunchKernel(kernel, 2, 1, 1, 128, 1, 1, 0, stream, ctypes.addressof(pointers), 0) == (OK,)
                out = np.zeros(256, np.int32)
                assert driver.cuMemcpyDtoHAsync(out.ctypes.data, address, out.nbytes, stream) == (OK,)
                assert driver.cuStreamSynchronize(stream) == (OK,)
                assert (out == value).all()
                assert driver.cuMemFree(address) == (OK,)
        except BaseException as problem:
            problems.append(problem)

    threads = [threading.Thread(target=work, args=(value,)) for value in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not problems


@pytest.mark.cuda_sim_only
def test_freed_memory_goes_back_to_the_host(rig):
    """A gigabyte goes through the device, 32 MiB at a time; the process holds a part of it."""

    def resident():
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

    gc.collect()
    before = resident()
    for _ in range(32):
        address = check(driver.cuMemAlloc(32 << 20))
        assert driver.cuMemsetD8(address, 1, 32 << 20) == (OK,)
        assert driver.cuMemFree(address) == (OK,)
    assert resident() - before < 300 << 20
