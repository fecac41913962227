"""cuda.core on the stand-in driver: devices, streams, events, memory, kernels, DLPack."""

import ctypes

import numpy as np
import pytest
from cuda.bindings import driver
from cuda.core import (
    Device,
    DeviceMemoryResource,
    DeviceMemoryResourceOptions,
    EventOptions,
    LaunchConfig,
    LegacyPinnedMemoryResource,
    ManagedMemoryResource,
    Stream,
    StreamOptions,
    launch,
)
from cuda.core.utils import StridedMemoryView

SAXPY = """
extern "C" __global__ void saxpy(float a, const float* x, float* y, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) y[i] = a * x[i] + y[i];
}
extern "C" __global__ void twice(float* x, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) x[i] *= 2.0f;
}
"""


def test_the_device_says_what_it_is(rig):
    properties = rig.device.properties
    if rig.device.compute_capability == (9, 0):
        assert properties.max_shared_memory_per_block_optin == 232448
    assert properties.warp_size == 32
    assert len(rig.device.uuid) == 36


@pytest.mark.cuda_sim_only
def test_nobody_takes_the_simulator_for_a_gpu(rig):
    assert rig.device.name.startswith("turnout-cudasim")
    assert "no GPU" in rig.device.name
    assert rig.device.compute_capability == (9, 0)


def test_a_kernel_computes(rig):
    saxpy = rig.compile(SAXPY, "saxpy")
    x, y = np.arange(1000, dtype=np.float32), np.ones(1000, np.float32)
    bx, by = rig.upload(x), rig.upload(y)
    launch(rig.stream, LaunchConfig(grid=4, block=256), saxpy, np.float32(3), bx, by, np.int32(1000))
    np.testing.assert_array_equal(rig.download(by, np.float32), 3 * x + y)


def test_a_kernel_says_what_it_needs(rig):
    saxpy = rig.compile(SAXPY, "saxpy")
    assert [(p.offset, p.size) for p in saxpy.arguments_info] == [(0, 4), (8, 8), (16, 8), (24, 4)]
    assert saxpy.num_arguments == 4
    assert saxpy.attributes.max_threads_per_block == 1024
    assert saxpy.attributes.shared_size_bytes == 0
    assert 1 <= saxpy.attributes.num_regs <= 255
    assert saxpy.occupancy.max_active_blocks_per_multiprocessor(256, 0) == 8
    assert saxpy.occupancy.max_active_blocks_per_multiprocessor(256, 100_000) == 0, "so much must be asked for"
    most = driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
    assert driver.cuKernelSetAttribute(most, 100_000, driver.CUkernel(int(saxpy.handle)), 0) == (driver.CUresult.CUDA_SUCCESS,)
    assert saxpy.occupancy.max_active_blocks_per_multiprocessor(256, 100_000) == 2
    processors = rig.device.properties.multiprocessor_count
    assert saxpy.occupancy.max_potential_block_size(0, 0).min_grid_size == 2 * processors


def test_template_kernels_by_name_expression(rig):
    from cuda.core import Program, ProgramOptions

    source = "template <typename T, int N> __global__ void fill(T* x) { x[threadIdx.x] = T(N); }"
    program = Program(source, "c++", ProgramOptions(arch=f"compute_{rig.device.arch}"))
    kernel = program.compile("ptx", name_expressions=["fill<double, 7>"]).get_kernel("fill<double, 7>")
    buffer = rig.device.allocate(8 * 32, stream=rig.stream)
    launch(rig.stream, LaunchConfig(grid=1, block=32), kernel, buffer)
    assert (rig.download(buffer, np.float64) == 7).all()


def test_shared_memory_static_dynamic_and_above_48_kib(rig):
    source = """
    extern __shared__ int dynamic[];
    extern "C" __global__ void reverse(int* x) {
        __shared__ int fixed[64];
        int i = threadIdx.x;
        dynamic[i] = x[i];
        fixed[i] = i;
        __syncthreads();
        x[i] = dynamic[63 - i] + 100 * fixed[63 - i];
    }"""
    kernel = rig.compile(source, "reverse")
    assert kernel.attributes.shared_size_bytes == 256
    buffer = rig.upload(np.arange(64, dtype=np.int32))
    launch(rig.stream, LaunchConfig(grid=1, block=64, shmem_size=256), kernel, buffer)
    np.testing.assert_array_equal(rig.download(buffer, np.int32), 101 * np.arange(63, -1, -1))
    with pytest.raises(Exception, match="INVALID_VALUE"):
        launch(rig.stream, LaunchConfig(grid=1, block=64, shmem_size=100_000), kernel, buffer)
    function = driver.CUkernel(int(kernel.handle))
    most = driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
    assert driver.cuKernelSetAttribute(most, 100_000, function, 0) == (driver.CUresult.CUDA_SUCCESS,)
    launch(rig.stream, LaunchConfig(grid=1, block=64, shmem_size=100_000), kernel, buffer)
    assert driver.cuKernelSetAttribute(most, 300_000, function, 0) == (driver.CUresult.CUDA_ERROR_INVALID_VALUE,)


@pytest.mark.parametrize(
    ("config", "error"),
    [
        ({"grid": 1, "block": 2048}, "INVALID_VALUE"),
        ({"grid": (1, 70_000), "block": 1}, "INVALID_VALUE"),
        ({"grid": 16, "block": 32, "cluster": 16}, "INVALID_CLUSTER_SIZE"),
        ({"grid": 1_000_000, "block": 256, "is_cooperative": True}, "exceeds the limit"),
    ],
)
def test_what_a_device_cannot_launch_is_an_error(rig, config, error):
    twice = rig.compile(SAXPY, "twice")
    buffer = rig.upload(np.zeros(8, np.float32))
    with pytest.raises(Exception, match=error):
        launch(rig.stream, LaunchConfig(**config), twice, buffer, np.int32(8))
    launch(rig.stream, LaunchConfig(grid=1, block=32), twice, buffer, np.int32(8))  # such an error does not stay


def test_launch_bounds_are_kept(rig):
    kernel = rig.compile('extern "C" __global__ void __launch_bounds__(64) k(int* x) { x[threadIdx.x] = 1; }', "k")
    assert kernel.attributes.max_threads_per_block == 64
    buffer = rig.upload(np.zeros(128, np.int32))
    with pytest.raises(Exception, match="INVALID_VALUE"):
        launch(rig.stream, LaunchConfig(grid=1, block=128), kernel, buffer)


def test_streams_and_events_keep_their_order(rig):
    twice = rig.compile(SAXPY, "twice")
    other = rig.device.create_stream(options=StreamOptions(nonblocking=True, priority=-1))
    assert other.priority == -1
    assert other.is_nonblocking
    buffer = rig.upload(np.ones(32, np.float32))
    for _ in range(3):
        launch(rig.stream, LaunchConfig(grid=1, block=32), twice, buffer, np.int32(32))
        other.wait(rig.stream.record())
        launch(other, LaunchConfig(grid=1, block=32), twice, buffer, np.int32(32))
        rig.stream.wait(other)
    assert (rig.download(buffer, np.float32) == 64).all()
    assert other.context == rig.stream.context
    other.close()


def test_streams_of_others_and_the_default_stream(rig):
    twice = rig.compile(SAXPY, "twice")
    buffer = rig.upload(np.ones(32, np.float32))
    foreign = Stream.from_handle(int(rig.stream.handle))
    for stream in (foreign, rig.device.default_stream):
        launch(stream, LaunchConfig(grid=1, block=32), twice, buffer, np.int32(32))
    assert (rig.download(buffer, np.float32) == 4).all()


def test_events_measure_time(rig):
    timed = EventOptions(timing_enabled=True)
    start = rig.stream.record(options=timed)
    end = rig.stream.record(options=timed)
    end.sync()
    assert end.is_done
    assert 0 <= end - start < 1000
    untimed = rig.stream.record()
    with pytest.raises(RuntimeError, match=r"[Tt]iming"):
        _ = end - untimed


def test_memory_pools_count_what_they_gave(rig):
    pool = DeviceMemoryResource(rig.device, options=DeviceMemoryResourceOptions(max_size=1 << 20))
    assert pool.attributes.used_mem_current == 0
    first = pool.allocate(1000, stream=rig.stream)
    second = pool.allocate(2000, stream=rig.stream)
    assert pool.attributes.used_mem_current >= 3000
    assert first.is_device_accessible
    assert not first.is_host_accessible
    assert int(first.handle) % 256 == 0
    assert first.device_id == 0
    with pytest.raises(Exception, match="OUT_OF_MEMORY"):
        pool.allocate(64 << 20, stream=rig.stream)  # a pool's greatest size is rounded up, to 32 MiB
    first.close(stream=rig.stream)
    second.close(stream=rig.stream)
    rig.stream.sync()
    assert pool.attributes.used_mem_current == 0
    assert pool.attributes.used_mem_high >= 3000


@pytest.mark.parametrize("resource", [LegacyPinnedMemoryResource, ManagedMemoryResource])
def test_pinned_and_managed_memory_are_the_hosts_too(rig, resource):
    twice = rig.compile(SAXPY, "twice")
    buffer = resource().allocate(128, stream=rig.stream)
    assert buffer.is_host_accessible
    rig.stream.sync()
    rig.view(buffer, np.float32)[:] = 21
    launch(rig.stream, LaunchConfig(grid=1, block=32), twice, buffer, np.int32(32))
    rig.stream.sync()
    assert (rig.view(buffer, np.float32) == 42).all()
    buffer.close(stream=rig.stream)


def test_buffers_copy_and_fill(rig):
    x = np.arange(256, dtype=np.uint8)
    source = rig.upload(x)
    target = rig.device.allocate(256, stream=rig.stream)
    target.copy_from(source, stream=rig.stream)
    np.testing.assert_array_equal(rig.download(target, np.uint8), x)
    for value, bits in ((b"\x07", 0x07), (b"\x01\x02", 0x0201), (b"\x01\x02\x03\x04", 0x04030201)):
        target.fill(value, stream=rig.stream)
        assert (rig.download(target, f"u{len(value)}") == bits).all()


def test_dlpack_out_and_in(rig):
    x = np.arange(24, dtype=np.float32)
    pinned = rig.pinned.allocate(x.nbytes)
    rig.view(pinned, np.float32)[:] = x
    np.testing.assert_array_equal(np.from_dlpack(pinned).view(np.float32), x)
    device = rig.upload(x)
    view = StridedMemoryView.from_dlpack(device, stream_ptr=-1)
    assert view.ptr == int(device.handle)
    assert view.is_device_accessible
    assert view.device_id == 0
    assert device.__dlpack_device__()[0] == 2  # kDLCUDA


def test_host_callbacks_run_in_order_and_may_not_call_cuda(rig):
    seen = []
    prototype = ctypes.CFUNCTYPE(None, ctypes.c_void_p)

    @prototype
    def callback(data):
        seen.append((data, driver.cuCtxSynchronize()[0]))

    function = driver.CUhostFn(ctypes.cast(callback, ctypes.c_void_p).value)
    assert driver.cuLaunchHostFunc(int(rig.stream.handle), function, 7) == (driver.CUresult.CUDA_SUCCESS,)
    rig.stream.sync()
    assert seen == [(7, driver.CUresult.CUDA_ERROR_NOT_PERMITTED)]


@pytest.mark.cuda_sim_only  # others may use a GPU's memory too
def test_a_device_has_the_memory_it_says(rig):
    _, free_before, total = driver.cuMemGetInfo()
    assert total == 4 << 30
    result, address = driver.cuMemAlloc(64 << 20)
    assert result == driver.CUresult.CUDA_SUCCESS
    assert free_before - driver.cuMemGetInfo()[1] >= 64 << 20
    assert driver.cuMemAlloc(4 << 30)[0] == driver.CUresult.CUDA_ERROR_OUT_OF_MEMORY
    driver.cuMemFree(address)
    assert driver.cuMemGetInfo()[1] == free_before


def test_one_device_one_context(rig):
    assert Device(0) is not None
    with pytest.raises(ValueError, match="device_id"):
        Device(1)
    result, context = driver.cuCtxGetCurrent()
    assert result == driver.CUresult.CUDA_SUCCESS
    assert driver.cuCtxPushCurrent(context) == (driver.CUresult.CUDA_SUCCESS,)
    assert driver.cuCtxPopCurrent() == (driver.CUresult.CUDA_SUCCESS, context)
