"""Accesses at constant offsets of one register share their checks: what they find must not depend on it."""

from __future__ import annotations

import numpy as np
import pytest
from ptx_card import HEADER, Card, device_with

from turnout_cudasim.report import KernelFault

LINE = ".reg .b64 %a, %b; .reg .b32 %t, %x, %y, %z; .reg .pred %p;\nld.param.u64 %a, [x]; mov.u32 %t, %tid.x; mad.wide.u32 %a, %t, 4, %a;\n"
END = "add.u32 %x, %x, %y; add.u32 %x, %x, %z; ld.param.u64 %b, [y]; mad.wide.u32 %b, %t, 4, %b; st.global.u32 [%b], %x; ret;\n"


def run(body: str, words: int = 128, start: int = 0, threads: int = 32) -> np.ndarray:
    """x[...] are 0, 1, 2 ...; %a points to x[start + thread]."""
    card = device_with(f"{HEADER}.visible .entry k(.param .u64 x, .param .u64 y) {{\n{LINE}{body}\n{END}}}\n", 1 << 24)
    x, y = card.put(np.arange(words, dtype="u4"), "x"), card.empty(4 * threads)
    card.run("k", 1, threads, x + 4 * start, y)
    return card.get(y, threads, "u4")


def test_offsets_on_both_sides():
    got = run("ld.global.u32 %x, [%a]; ld.global.u32 %y, [%a+64]; ld.global.u32 %z, [%a+-32];", start=16)
    np.testing.assert_array_equal(got, 3 * (16 + np.arange(32)) + 16 - 8)


def test_a_register_that_changes_between():
    first = "ld.global.u32 %x, [%a]; add.u64 %a, %a, 8; ld.global.u32 %y, [%a];"
    got = run(f"{first} setp.gt.u32 %p, %t, 7; @%p add.u64 %a, %a, 4; ld.global.u32 %z, [%a];")
    thread = np.arange(32)
    np.testing.assert_array_equal(got, thread + (thread + 2) + (thread + 2 + (thread > 7)))


def test_an_offset_that_mends_the_alignment():
    got = run("add.u64 %a, %a, 2; ld.global.u32 %x, [%a+2]; ld.global.u16 %y, [%a+4]; mov.u32 %z, 0;")
    thread = np.arange(32)
    np.testing.assert_array_equal(got, thread + 1 + 0)  # the upper half of a small number is 0


@pytest.mark.cuda_sim_only
@pytest.mark.parametrize(("body", "kind", "thread"), [
    ("ld.global.u32 %x, [%a]; ld.global.u32 %y, [%a+388]; mov.u32 %z, 0;", "out-of-bounds", 31),
    ("ld.global.u32 %x, [%a]; ld.global.u32 %y, [%a+-4]; mov.u32 %z, 0;", "out-of-bounds", 0),
    ("ld.global.u32 %x, [%a]; ld.global.u32 %y, [%a+6]; mov.u32 %z, 0;", "misaligned", 0),
    ("ld.global.u32 %x, [%a]; st.global.u32 [%a+388], %x; mov.u32 %y, 0; mov.u32 %z, 0;", "out-of-bounds", 31),
])  # fmt: skip
def test_each_offset_is_checked(body, kind, thread):
    with pytest.raises(KernelFault) as caught:
        run(body)
    assert (caught.value.report.kind, caught.value.report.thread[0]) == (kind, thread)


@pytest.mark.cuda_sim_only
def test_never_written_behind_a_written_part():
    body = f"{LINE}ld.global.u32 %x, [%a]; ld.global.u32 %y, [%a+128]; mov.u32 %z, 0;\n{END}"
    card = Card(f"{HEADER}.visible .entry k(.param .u64 x, .param .u64 y) {{\n{body}}}\n", 1 << 24)
    x, y = card.empty(256, "x"), card.empty(128)
    card.memory.write(x, np.zeros(36, "u4"))
    with pytest.raises(KernelFault, match="nobody wrote") as caught:
        card.run("k", 1, 32, x, y)
    assert caught.value.report.thread == (4, 0, 0)


def test_a_shared_address_that_is_negative_before_its_offset():
    """32-bit registers wrap: compilers keep `-x` in one, and the table's end is an offset. Two blocks, each with its own table."""
    body = (
        f"{LINE}.shared .b32 table[32]; shl.b32 %x, %t, 2; neg.s32 %x, %x; mov.u32 %y, %ctaid.x; mad.lo.u32 %y, %y, 100, %t;\n"
        "st.shared.u32 [%x+124], %y; bar.sync 0; ld.shared.u32 %z, [%x+124];\n"
        "shl.b32 %x, %t, 2; ld.shared.u32 %x, [%x]; add.u32 %x, %x, %z;\n"
        "ld.param.u64 %b, [y]; mov.u32 %y, %ctaid.x; mad.lo.u32 %y, %y, 32, %t;\n"
        "mad.wide.u32 %b, %y, 4, %b; st.global.u32 [%b], %x; ret;\n"
    )
    card = device_with(f"{HEADER}.visible .entry k(.param .u64 x, .param .u64 y) {{\n{body}}}\n", 1 << 24)
    y = card.empty(4 * 64)
    card.run("k", 2, 32, y, y)
    thread, block = np.arange(32), np.arange(2)[:, None]
    np.testing.assert_array_equal(card.get(y, 64, "u4").reshape(2, 32), 2 * 100 * block + thread + (31 - thread))
