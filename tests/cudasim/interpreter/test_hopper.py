"""wgmma, TMA, mbarriers and clusters, against NumPy in float64; nothing is reported."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ptx_card import card

from turnout_cudasim.report import KernelFault

pytest.importorskip("cuda.bindings.nvrtc")

SOURCE = Path(__file__).with_name("hopper.cu").read_text()
RANDOM = np.random.default_rng(6)
f8 = np.float64


def run(name, grid, block, *arguments, **options):
    device = card(SOURCE, name="hopper.cu")
    placed = [device.put(a) if isinstance(a, np.ndarray) else a for a in arguments]
    reports = []
    device.run(name, grid, block, *placed, reports=reports, **options)
    assert reports == [], [str(r) for r in reports]
    return [device.get(p, a.shape, a.dtype) for p, a in zip(placed, arguments, strict=True) if isinstance(a, np.ndarray)]


@pytest.mark.parametrize("name", ["wgmma_128", "wgmma_64", "wgmma_32", "wgmma_plain", "wgmma_transposed"])
def test_wgmma(name):
    a, b = (RANDOM.standard_normal((64, 64)).astype("f2") for _ in range(2))
    c = run(name, 1, 128, a, b, np.zeros((64, 64), "f4"))[2]
    right = b if name == "wgmma_transposed" else b.T
    np.testing.assert_allclose(c, a.astype(f8) @ right.astype(f8), atol=1e-4)


def test_bulk_copies():
    x = RANDOM.standard_normal((5, 256)).astype("f4")
    y = run("bulk_copies", 1, 256, x, np.zeros(256, "f4"), 5)[1]
    np.testing.assert_allclose(y, x.sum(0)[::-1], atol=1e-5)


def test_producer_and_consumers():
    x = RANDOM.standard_normal((6, 96)).astype("f4")
    y = run("producer_and_consumers", 1, 128, x, np.zeros(96, "f4"), 6)[1]
    np.testing.assert_allclose(y, (x * np.arange(1, 7)[:, None]).sum(0)[::-1], atol=1e-4)


@pytest.mark.parametrize(("c0", "c1"), [(0, 0), (64, 8), (-3, 30), (120, -5)])
@pytest.mark.parametrize("swizzle", [0, 3])
def test_tensor_copy(c0, c1, swizzle):
    device = card(SOURCE, name="hopper.cu")
    x = RANDOM.standard_normal((40, 152)).astype("f2")
    px, py = device.put(x), device.put(np.zeros_like(x))
    options = {"element": "f16", "shape": (150, 40), "strides": (304,), "box": (64, 16), "element_strides": (1, 1), "swizzle": swizzle}
    reports = []
    maps = [device.tensor_map(address=address, **options) for address in (px, py)]
    device.run("tensor_copy", 1, 64, *maps, c0, c1, reports=reports)
    assert reports == []
    want = np.zeros_like(x)
    rows, columns = slice(max(c1, 0), max(c1 + 16, 0)), slice(max(c0, 0), min(c0 + 64, 150))
    want[rows, columns] = x[rows, columns] + np.float16(1)
    np.testing.assert_array_equal(device.get(py, x.shape, "f2"), want)


def test_a_swizzled_tensor_lies_in_shared_memory_as_wgmma_wants_it():
    from turnout_cudasim.matrices import swizzled
    from turnout_cudasim.tensormap import decode, encode

    box = decode(encode(element="f16", address=1 << 40, shape=(64, 64), strides=(128,), box=(64, 8), element_strides=(1, 1), swizzle=3))
    index = box.shared_index(2048, 0)
    np.testing.assert_array_equal(index, swizzled(2048 + np.arange(512) * 2, 128))


def test_cluster():
    x = RANDOM.standard_normal((8, 64)).astype("f4")
    y = run("cluster_sum", 8, 64, x, np.zeros_like(x))[1]
    want = np.repeat(x.reshape(2, 4, 64).sum(1), 4, axis=0) + np.tile(np.arange(4), 2)[:, None]
    np.testing.assert_allclose(y, want, atol=1e-5)


def test_multicast():
    x = RANDOM.standard_normal(64).astype("f4")
    y = run("multicast", 2, 64, x, np.zeros((2, 64), "f4"))[1]
    np.testing.assert_array_equal(y, [x, 2 * x])


def test_one_lane_is_elected():
    np.testing.assert_array_equal(run("elected", 1, 64, np.zeros(64, "u4"))[0], np.tile([1] + [0] * 31, 2))


def test_a_barrier_across_the_grid():
    x = RANDOM.standard_normal((20, 32)).astype("f4")
    y = run("grid_barrier", 20, 32, x, np.zeros((40, 32), "f4"), cooperative=True)[1]
    np.testing.assert_allclose(y[20:], np.tile(x.sum(0), (20, 1)), atol=1e-4)


@pytest.mark.cuda_sim_only
def test_a_block_that_does_not_run_is_waited_for_in_vain():
    device = card(SOURCE, name="hopper.cu")
    x = device.put(np.zeros((2000, 32), "f4"))
    with pytest.raises(KernelFault, match="endless-loop"):
        device.run("grid_barrier", 2000, 32, x, device.put(np.zeros((4000, 32), "f4")), max_steps=3000)


def test_cooperative_groups_find_their_barrier():
    source = """
    #include <cooperative_groups.h>
    extern "C" __global__ void k(int* x) {
        auto grid = cooperative_groups::this_grid();
        atomicAdd(x, 1);
        grid.sync();
        x[1 + grid.thread_rank()] = *(volatile int*)x;
        grid.sync();
        if (grid.thread_rank() == 0) x[0] = x[grid.size()];
    }"""
    device = card(source)
    x = device.put(np.zeros(97, "i4"))
    device.run("k", 3, 32, x, cooperative=True)
    assert set(device.get(x, 97, "i4").tolist()) == {96}
