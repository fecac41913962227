"""The ways to launch: clusters, cooperative grids, programmatic dependent launch, tensor maps."""

import ctypes

import numpy as np
import pytest
from cuda.bindings import driver
from cuda.core import LaunchConfig, TensorMapDescriptorOptions, launch
from cuda.core.utils import StridedMemoryView

OK = driver.CUresult.CUDA_SUCCESS


def launch_with(stream, kernel, grid, block, arguments, *attributes, shared=0):
    """cuLaunchKernelEx with launch attributes."""
    config = driver.CUlaunchConfig()
    config.gridDimX, config.gridDimY, config.gridDimZ = grid, 1, 1
    config.blockDimX, config.blockDimY, config.blockDimZ = block, 1, 1
    config.sharedMemBytes, config.hStream = shared, int(stream.handle)
    config.attrs, config.numAttrs = list(attributes), len(attributes)
    pointers = (ctypes.c_void_p * len(arguments))(*(ctypes.addressof(a) for a in arguments))
    return driver.cuLaunchKernelEx(config, driver.CUfunction(int(kernel.handle)), ctypes.addressof(pointers), 0)[0]


def attribute(name, **value):
    made = driver.CUlaunchAttribute()
    made.id = getattr(driver.CUlaunchAttributeID, f"CU_LAUNCH_ATTRIBUTE_{name}")
    for field, content in value.items():
        if isinstance(content, tuple):
            made.value.clusterDim.x, made.value.clusterDim.y, made.value.clusterDim.z = content
        else:
            setattr(made.value, field, content)
    return made


CLUSTER = """
extern "C" __global__ void neighbour(int* out) {
    __shared__ int mine[32];
    unsigned rank, size, there;
    int got;
    asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
    asm("mov.u32 %0, %%cluster_nctarank;" : "=r"(size));
    mine[threadIdx.x] = 1000 * blockIdx.x + threadIdx.x;
    asm volatile("barrier.cluster.arrive.aligned; barrier.cluster.wait.aligned;" ::: "memory");
    unsigned here = (unsigned)__cvta_generic_to_shared(&mine[threadIdx.x]);
    asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(there) : "r"(here), "r"((rank + 1) % size));
    asm volatile("ld.shared::cluster.s32 %0, [%1];" : "=r"(got) : "r"(there) : "memory");
    out[blockIdx.x * 32 + threadIdx.x] = got;
    asm volatile("barrier.cluster.arrive.aligned; barrier.cluster.wait.aligned;" ::: "memory");
}
"""


def test_a_block_reads_its_neighbour_in_the_cluster(rig):
    kernel = rig.compile(CLUSTER, "neighbour")
    out = rig.upload(np.zeros(8 * 32, np.int32))
    launch(rig.stream, LaunchConfig(grid=2, cluster=4, block=32), kernel, out)  # cuda.core counts the grid in clusters
    expected = [1000 * (block // 4 * 4 + (block + 1) % 4) + np.arange(32) for block in range(8)]
    np.testing.assert_array_equal(rig.download(out, np.int32).reshape(8, 32), expected)


def test_clusters_that_do_not_fit_are_errors(rig):
    kernel = rig.compile(CLUSTER, "neighbour")
    out = rig.upload(np.zeros(16 * 32, np.int32))
    address = ctypes.c_uint64(int(out.handle))
    for grid, cluster in ((3, 2), (16, 16), (4, 0)):
        result = launch_with(rig.stream, kernel, grid, 32, [address], attribute("CLUSTER_DIMENSION", clusterDim=(cluster, 1, 1)))
        assert result in (driver.CUresult.CUDA_ERROR_INVALID_VALUE, driver.CUresult.CUDA_ERROR_INVALID_CLUSTER_SIZE)


def test_a_cooperative_grid_waits_for_all_of_it(rig):
    source = """
    extern "C" __global__ void sum(int* parts, unsigned* arrived, int* out) {
        if (threadIdx.x == 0) {
            parts[blockIdx.x] = blockIdx.x + 1;
            __threadfence();
            atomicAdd(arrived, 1u);
            while (atomicAdd(arrived, 0u) < gridDim.x) { }
            __threadfence();
            int total = 0;
            for (int i = 0; i < gridDim.x; i++) total += ((volatile int*)parts)[i];
            out[blockIdx.x] = total;
        }
    }"""
    kernel = rig.compile(source, "sum")
    parts, arrived, out = (rig.upload(np.zeros(n, np.int32)) for n in (6, 1, 6))
    launch(rig.stream, LaunchConfig(grid=6, block=32, is_cooperative=True), kernel, parts, arrived, out)
    assert (rig.download(out, np.int32) == 21).all()
    many = [ctypes.c_uint64(int(b.handle)) for b in (parts, arrived, out)]
    result = launch_with(rig.stream, kernel, 1_000_000, 32, many, attribute("COOPERATIVE", cooperative=1))
    assert result == driver.CUresult.CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE


def test_programmatic_dependent_launch_keeps_the_order(rig):
    source = """
    extern "C" __global__ void first(int* x) {
        asm volatile("griddepcontrol.launch_dependents;");
        x[threadIdx.x] = threadIdx.x;
    }
    extern "C" __global__ void second(int* x) {
        asm volatile("griddepcontrol.wait;" ::: "memory");
        x[threadIdx.x] *= 2;
    }"""
    first, second = rig.compile(source, "first", "second")
    buffer = rig.device.allocate(128, stream=rig.stream)
    address = ctypes.c_uint64(int(buffer.handle))
    serialized = attribute("PROGRAMMATIC_STREAM_SERIALIZATION", programmaticStreamSerializationAllowed=1)
    assert launch_with(rig.stream, first, 1, 32, [address]) == OK
    assert launch_with(rig.stream, second, 1, 32, [address], serialized) == OK
    np.testing.assert_array_equal(rig.download(buffer, np.int32), 2 * np.arange(32))


TILE = """
struct alignas(64) Map { unsigned long long opaque[16]; };
extern "C" __global__ void tile(const __grid_constant__ Map map, float* out, int x, int y) {
    __shared__ alignas(128) float tile[8 * 16];
    __shared__ alignas(8) unsigned long long barrier;
    unsigned here = (unsigned)__cvta_generic_to_shared(tile), bar = (unsigned)__cvta_generic_to_shared(&barrier), done = 0;
    if (threadIdx.x == 0) {
        asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" :: "r"(bar) : "memory");
        asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
        asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], 512;" :: "r"(bar) : "memory");
        asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3}], [%4];"
                     :: "r"(here), "l"(&map), "r"(x), "r"(y), "r"(bar) : "memory");
    }
    __syncthreads();
    while (!done)
        asm volatile("{ .reg .pred p; mbarrier.try_wait.parity.shared::cta.b64 p, [%1], 0; selp.u32 %0, 1, 0, p; }"
                     : "=r"(done) : "r"(bar) : "memory");
    out[threadIdx.x] = tile[threadIdx.x];
}
"""


def test_a_tile_by_tma_through_a_tensor_map(rig):
    image = np.arange(64 * 32, dtype=np.float32).reshape(64, 32)
    buffer, out = rig.upload(image), rig.upload(np.zeros(128, np.float32))
    view = StridedMemoryView.from_buffer(buffer, shape=(64, 32), dtype=np.dtype(np.float32))
    tensor_map = view.as_tensor_map(box_dim=(8, 16))
    kernel = rig.compile(TILE, "tile")
    launch(rig.stream, LaunchConfig(grid=1, block=128), kernel, tensor_map, out, np.int32(4), np.int32(60))
    expected = np.zeros((8, 16), np.float32)
    expected[:4] = image[60:, 4:20]  # what lies outside reads as zero
    np.testing.assert_array_equal(rig.download(out, np.float32).reshape(8, 16), expected)


def test_tensor_maps_have_limits(rig):
    buffer = rig.upload(np.zeros((8, 64), np.float32))
    view = StridedMemoryView.from_buffer(buffer, shape=(8, 64), dtype=np.dtype(np.float32))
    with pytest.raises(Exception, match=r"256|INVALID_VALUE"):
        view.as_tensor_map(options=TensorMapDescriptorOptions(box_dim=(8, 257)))
