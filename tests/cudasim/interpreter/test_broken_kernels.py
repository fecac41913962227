"""Every mistake is found, and named with its kernel, block, thread and source line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ptx_card import card

from turnout_cudasim.report import KernelFault

pytest.importorskip("cuda.bindings.nvrtc")
pytestmark = pytest.mark.cuda_sim_only  # what a GPU does with them is anybody's guess

SOURCE = Path(__file__).with_name("broken.cu").read_text()


def expected() -> dict[str, tuple[str, list[int]]]:
    """Kernel -> the kind and the lines that its comments name."""
    found: dict[str, tuple[str, list[int]]] = {}
    kernel = ""
    for number, line in enumerate(SOURCE.splitlines(), 1):
        if line.startswith("KERNEL"):
            kernel = line.split()[1].partition("(")[0]
        if kernel and "// finds: " in line:
            kind = line.rpartition("// finds: ")[2]
            found.setdefault(kernel, (kind, []))[1].append(number)
    return found


X = np.arange(512, dtype="f4")
THREADS = {"misaligned_vector": 32, "wrong_shuffle_mask": 32, "shuffle_from_absent_lane": 32, "missing_barrier": 128}
ARGUMENTS = {
    "two_warps_one_place": "y", "divergent_barrier": "y", "barrier_for_too_many": "y", "never_written_shared": "y",
    "wrong_shuffle_mask": "y",
    "shuffle_that_never_meets": "y", "mbarrier_that_nobody_completes": "y", "endless": "z", "barrier_after_return": "y 40",
    "shuffle_from_absent_lane": "y 20", "shared_overrun": "y 100", "off_by_one": "x y 256", "missing_second_barrier": "x y 3",
    "histogram_without_barrier": "i y", "trapped": "n y", "through_a_freed_pointer": "freed y", "never_written_global": "new y",
}  # fmt: skip


@pytest.mark.parametrize("kernel", expected())
def test_the_mistake_is_found(kernel):
    kind, lines = expected()[kernel]
    device = card(SOURCE, name="broken.cu")
    negative = np.where(np.arange(512) == 3, -1, 1).astype("f4")
    places = {
        "x": device.put(X, "x"), "y": device.put(np.zeros(256, "f4"), "y"), "z": device.put(np.zeros(8, "i4")),
        "i": device.put(np.arange(512, dtype="i4")), "n": device.put(negative), "new": device.empty(2048, "new"),
        "freed": device.put(X, "freed"),
    }  # fmt: skip
    device.memory.free(places["freed"])
    arguments = [places[a] if a in places else int(a) for a in ARGUMENTS.get(kernel, "x y").split()]
    threads = THREADS.get(kernel, 128 if kernel in ("missing_second_barrier", "off_by_one", "histogram_without_barrier") else 64)
    grid = 3 if kernel == "off_by_one" else 1
    with pytest.raises(KernelFault) as caught:
        device.run(kernel, grid, threads, *arguments, dynamic_shared=400 if kernel == "shared_overrun" else 0, max_steps=20_000)
    report = caught.value.report
    assert report.kind == kind, report
    assert report.kernel == kernel
    assert Path(report.file).name == "broken.cu"  # NVRTC puts the folder before it
    assert report.line in lines, report
    assert all(0 <= at < size for at, size in zip(report.thread, (threads, 1, 1), strict=True))
    if kernel == "off_by_one":
        assert (report.block, report.thread) == ((2, 0, 0), (0, 0, 0))


def test_soft_findings_are_collected_and_the_kernel_goes_on():
    device = card(SOURCE, name="broken.cu")
    y = device.put(np.zeros(256, "f4"))
    reports = []
    device.run("missing_barrier", 1, 128, device.put(X), y, reports=reports)
    assert [r.kind for r in reports] == ["shared-race"]
    np.testing.assert_array_equal(device.get(y, 128, "f4"), X[:128][::-1])


def test_a_report_reads_like_a_sentence():
    device = card(SOURCE, name="broken.cu")
    with pytest.raises(
        KernelFault, match=r"shared-race in missing_barrier, block \(0,0,0\), thread \(\d+,0,0\), \S*broken.cu:7: warp 0 reads"
    ):
        device.run("missing_barrier", 1, 128, device.put(X), device.put(np.zeros(128, "f4")))
