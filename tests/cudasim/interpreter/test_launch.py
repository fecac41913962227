"""Parsing, parameters and launches, on PTX by hand."""

from __future__ import annotations

import numpy as np
import pytest
from ptx_card import HEADER, Card

from turnout_cudasim.parse import parse
from turnout_cudasim.report import KernelFault, LaunchError, NotModelled, ParseError
from turnout_cudasim.translate import translate

SAXPY = (
    HEADER
    + """
.visible .entry saxpy(.param .f32 a, .param .u64 x, .param .u64 y, .param .u32 n)
.maxntid 256, 1, 1
{
    .reg .pred %p<2>; .reg .f32 %f<5>; .reg .b32 %r<6>; .reg .b64 %rd<8>;
    ld.param.f32 %f1, [a];
    ld.param.u64 %rd1, [x];
    ld.param.u64 %rd2, [y];
    ld.param.u32 %r2, [n];
    mov.u32 %r3, %ctaid.x;
    mov.u32 %r4, %ntid.x;
    mov.u32 %r5, %tid.x;
    mad.lo.s32 %r1, %r3, %r4, %r5;
    setp.ge.s32 %p1, %r1, %r2;
    @%p1 bra $done;
    mul.wide.s32 %rd5, %r1, 4;
    add.s64 %rd6, %rd1, %rd5;
    ld.global.f32 %f2, [%rd6];
    add.s64 %rd7, %rd2, %rd5;
    ld.global.f32 %f3, [%rd7];
    fma.rn.f32 %f4, %f1, %f2, %f3;
    st.global.f32 [%rd7], %f4;
$done:
    ret;
}
"""
)


def test_a_kernel_computes():
    device = Card(SAXPY)
    x, y = np.arange(1000, dtype="f4"), np.ones(1000, "f4")
    px, py = device.put(x), device.put(y)
    device.run("saxpy", 8, 128, 2.0, px, py, 1000)
    np.testing.assert_array_equal(device.get(py, 1000, "f4"), 2 * x + 1)


def test_a_value_that_nobody_reads_any_more_is_let_go():
    translation = translate(parse(SAXPY).kernels["saxpy"])
    lines = "".join(translation.source(block) for block in translation.blocks).splitlines()
    (fused,) = [line for line in lines if "fma(" in line]
    assert "f4 = fma(f1, f2, f3); del f2, f3" in fused


def test_parameters_are_aligned_as_in_c():
    kernel = parse(SAXPY).kernels["saxpy"]
    assert [(p.offset, p.size) for p in kernel.parameters] == [(0, 4), (8, 8), (16, 8), (24, 4)]
    assert kernel.parameter_bytes == 28
    assert kernel.max_threads == 256


def test_past_the_end_is_reported_with_its_thread():
    device = Card(SAXPY)
    px, py = device.put(np.ones(100, "f4"), "x"), device.put(np.ones(128, "f4"), "y")
    with pytest.raises(KernelFault) as caught:
        device.run("saxpy", 1, 128, 2.0, px, py, 128)
    report = caught.value.report
    assert (report.kind, report.kernel, report.block, report.thread) == ("out-of-bounds", "saxpy", (0, 0, 0), (100, 0, 0))
    assert "past the end of x (400 bytes" in report.message


@pytest.mark.parametrize(
    ("grid", "block", "why"),
    [((1, 1, 1), (257, 1, 1), "compiled for 256"), ((1, 70000, 1), (1, 1, 1), "larger"), ((1, 1, 1), (1025, 1, 1), "1024 is the limit")],
)
def test_bad_launches_are_refused(grid, block, why):
    device = Card(SAXPY)
    with pytest.raises(LaunchError, match=why):
        device.run("saxpy", grid, block, 2.0, 0, 0, 1)


def test_unknown_opcodes_name_themselves_before_anything_runs():
    device = Card(HEADER + ".visible .entry k() {\n.reg .b32 %r<3>;\nfoo.bar.u32 %r1, %r2;\ntex.1d.v4.s32.s32 {%r1}, [t, {%r1}];\nret;\n}")
    with pytest.raises(NotModelled, match=r"opcode foo\.bar\.u32, opcode tex\.1d"):
        device.run("k", 1, 32)


def test_what_is_no_ptx_is_refused():
    with pytest.raises(ParseError, match="not PTX"):
        parse("hello")
    with pytest.raises(ParseError, match="PTX line 5"):
        _ = parse(HEADER + ".visible .entry k() {\n  ???;\n}").kernels["k"].body


def test_registers_may_have_any_name():
    """Names that Python, NumPy or the generated code use themselves."""
    names = ["t", "np", "if", "load", "f4", "U4", "exp2", "value1", "None", "s_x"]
    sums = " ".join(f"mov.u32 %{name}, {n}; add.u32 %sum, %sum, %{name};" for n, name in enumerate(names, 1))
    declared = " ".join(f".reg .b32 %{name};" for name in names)
    text = (
        f"{HEADER}.visible .entry k(.param .u64 p) {{ .reg .b64 %a; .reg .b32 %sum; {declared}\n"
        f"ld.param.u64 %a, [p]; mov.u32 %sum, 0; {sums} st.global.u32 [%a], %sum; ret; }}"
    )
    device = Card(text)
    p = device.empty(4)
    device.run("k", 1, 1, p)
    assert device.get(p, 1, "u4")[0] == 55
