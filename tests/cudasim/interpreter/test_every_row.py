"""Every row of the opcode table has a right kernel: CUDA C++ in right.cu and hopper.cu, or a card of PTX here, against NumPy."""

from __future__ import annotations

import ctypes
import re
from pathlib import Path

import numpy as np
import pytest
from ptx_card import compiled, device_with, instructions

from turnout_cudasim import opcodes
from turnout_cudasim.flatten import flatten
from turnout_cudasim.parse import Instruction, parse

pytest.importorskip("cuda.bindings.nvrtc")

HERE = Path(__file__).parent
T = np.arange(32)
A = np.array(
    [0, 1, 2, 5, 0x7FFF, 0x8000, 0xFFFF, 0x12345678, 0x7FFFFFFF, 0x80000000, 0x80000001, 0xFFFFFFFF, 0xDEADBEEF, 77, 100, 3], "u4"
).repeat(2)
B = A[::-1].copy()
SA, SB = A.view("i4"), B.view("i4")
WIDE = A.astype("i8"), B.astype("i8")


def clamp(x, low, high, code="i4"):
    return np.clip(x, low, high).astype(code)


def halves(x, code):
    return x.view(code).reshape(-1, 2).astype("i8")


def joined(pair):
    return (pair & 0xFFFF).astype("u2").reshape(-1).view("u4")


def dot2(a, b, high):
    return sum(a.view("u2").reshape(-1, 2)[:, k].astype("i8") * b.view("u1").reshape(-1, 4)[:, 2 * high + k] for k in range(2)).astype("u4")


LOW24 = A & 0xFFFFFF, B & 0xFFFFFF
CARDS = {  # body, inputs, what the outputs must be
    "switch": (
        """rem.u32 %r0, %i0, 3; TABLE: .branchtargets L0, L1, L2; brx.idx %r0, TABLE;
        L0: mov.u32 %o0, 10; bra DONE; L1: mov.u32 %o0, 20; bra DONE; L2: mov.u32 %o0, 30; DONE:""",
        (A,), [np.array([10, 20, 30], "u4")[A % 3]],
    ),
    "no trap": ("setp.gt.u32 %p0, %me, 1000; @%p0 trap; nanosleep.u32 20; mov.u32 %o0, %i0;", (A,), [A]),
    "spaces": (
        """.shared .align 8 .b8 tile[64]; mov.u64 %d0, tile; cvta.shared.u64 %d0, %d0; isspacep.shared %p0, %d0; isspacep.global %p1, %d0;
        ld.param.u64 %d1, [in0]; isspacep.global %p2, %d1; isspacep.shared %p3, %d1; getctarank.u64 %r0, %d0; mul.lo.u32 %r0, %r0, 16;
        selp.u32 %o0, 1, 0, %p0; @%p1 add.u32 %o0, %o0, 2; @%p2 add.u32 %o0, %o0, 4; @%p3 add.u32 %o0, %o0, 8; add.u32 %o0, %o0, %r0;""",
        (A,), [np.full(32, 5, "u4")],
    ),
    "select": (
        "slct.u32.s32 %o0, %i0, %i1, %i0; set.lt.u32.s32 %o1, %i0, %i1; set.ge.f32.u32 %o2, %i0, %i1;",
        (A, B), [np.where(SA >= 0, A, B), np.where(SA < SB, 0xFFFFFFFF, 0).astype("u4"), (A >= B).astype("f4")],
    ),
    "saturated": (
        "add.sat.s32 %o0, %i0, %i1; sub.sat.s32 %o1, %i0, %i1;",
        (A, B), [clamp(SA.astype("i8") + SB, -(2**31), 2**31 - 1), clamp(SA.astype("i8") - SB, -(2**31), 2**31 - 1)],
    ),
    "pairs of integers": (
        "add.u16x2 %o0, %i0, %i1; min.s16x2 %o1, %i0, %i1; max.relu.s16x2 %o2, %i0, %i1;",
        (A, B), [
            joined(halves(A, "u2") + halves(B, "u2")), joined(np.minimum(halves(A, "i2"), halves(B, "i2"))),
            joined(np.maximum(0, np.maximum(halves(A, "i2"), halves(B, "i2")))),
        ],
    ),
    "24 bits": (
        "mul24.lo.u32 %o0, %i0, %i1; mul24.hi.u32 %o1, %i0, %i1; mad24.lo.u32 %o2, %i0, %i1, 7;",
        (A, B), [
            (LOW24[0].astype("u8") * LOW24[1]).astype("u4"), (LOW24[0].astype("u8") * LOW24[1] >> np.uint64(16)).astype("u4"),
            (LOW24[0].astype("u8") * LOW24[1] + np.uint64(7)).astype("u4"),
        ],
    ),
    "distances": (
        "abs.s32 %o0, %i0; sad.u32 %o1, %i0, %i1, 9; cnot.b32 %o2, %i0;",
        (A, B), [np.abs(SA).view("u4"), (abs(WIDE[0] - WIDE[1]) + 9).astype("u4"), (A == 0).astype("u4")],
    ),
    "fields": (
        """bfe.u32 %o0, %i0, 4, 8; bfe.s32 %o1, %i0, 28, 4; bmsk.clamp.b32 %o2, 3, 5; szext.clamp.s32 %o3, %i0, 8; fns.b32 %o4, %i0, 0, 1;
        dp2a.lo.u32.u32 %o5, %i0, %i1, 1; dp2a.hi.u32.u32 %o6, %i0, %i1, 1;""",
        (A, B), [
            A >> 4 & 255, SA >> 28, np.full(32, 0xF8, "u4"), A.astype("u1").view("i1").astype("i4"),
            np.where(A, np.bitwise_count((A & (~A + np.uint32(1))) - np.uint32(1)).astype("u4"), np.uint32(0xFFFFFFFF)),
            dot2(A, B, 0) + np.uint32(1), dot2(A, B, 1) + np.uint32(1),
        ],
    ),
    "classes": (
        """testp.finite.f32 %p0, %i0; testp.notanumber.f32 %p1, %i0; testp.subnormal.f32 %p2, %i0;
        selp.u32 %o0, 1, 0, %p0; @%p1 add.u32 %o0, %o0, 2; @%p2 add.u32 %o0, %o0, 4;""",
        (np.array([1, np.inf, np.nan, 1e-40], "f4").repeat(8),), [np.array([1, 0, 2, 5], "u4").repeat(8)],
    ),
    "packed": (
        "cvt.pack.sat.s16.s32 %o0, %i0, %i1; cvt.pack.sat.u8.s32.b32 %o1, %i0, %i1, 0;",
        (A, B), [
            joined(np.stack([clamp(SB, -32768, 32767), clamp(SA, -32768, 32767)], 1)),
            clamp(SA, 0, 255, "u4") << 8 | clamp(SB, 0, 255, "u4"),
        ],
    ),
    "mbarriers": (
        """.shared .align 8 .b64 full; .shared .align 8 .b64 bytes; .shared .align 16 .b8 tile[128];
        mov.u32 %r0, full; mov.u32 %r1, bytes; mov.u32 %r2, tile; setp.eq.u32 %p0, %me, 0;
        ld.param.u64 %d1, [out0]; mul.wide.u32 %d2, %me, 4;
        add.u64 %d3, %d1, %d2; st.global.u32 [%d3], 5; ld.param.u64 %d4, [in0]; add.u64 %d4, %d4, %d2; mad.lo.u32 %r3, %me, 4, %r2;
        @%p0 mbarrier.init.shared.b64 [%r0], 32; @%p0 mbarrier.init.shared.b64 [%r1], 1; bar.sync 0;
        cp.async.ca.shared.global [%r3], [%d4], 4; cp.async.mbarrier.arrive.noinc.shared.b64 [%r0];
        @%p0 mbarrier.expect_tx.relaxed.cta.shared::cta.b64 [%r1], 16; @%p0 mbarrier.arrive.shared.b64 _, [%r1];
        @%p0 mbarrier.complete_tx.relaxed.cta.shared::cta.b64 [%r1], 16;
        ONE: mbarrier.test_wait.parity.shared.b64 %p1, [%r0], 0; @!%p1 bra ONE;
        TWO: mbarrier.test_wait.parity.shared.b64 %p1, [%r1], 0; @!%p1 bra TWO;
        ld.shared.u32 %r4, [%r3]; st.shared.u32 [%r3], %r4; fence.proxy.async; bar.sync 0;
        @%p0 mbarrier.inval.shared.b64 [%r0]; @%p0 mbarrier.inval.shared.b64 [%r1];
        @%p0 cp.reduce.async.bulk.global.shared::cta.bulk_group.add.u32 [%d1], [%r2], 128; @%p0 cp.async.bulk.commit_group;
        @%p0 cp.async.bulk.wait_group 0; bar.sync 0; ld.global.u32 %o0, [%d3];""",
        (A,), [A + np.uint32(5)],
    ),
}  # fmt: skip

TENSOR = """.version 8.4\n.target sm_90a\n.address_size 64
.visible .entry k(.param .align 64 .b8 map[128]) { .reg .b64 %a; .reg .b32 %t, %s; .reg .pred %p; .shared .align 128 .b8 tile[512];
mov.u32 %t, %tid.x; mov.u32 %s, tile; mad.lo.u32 %s, %t, 16, %s; st.shared.v4.u32 [%s], {%t, %t, %t, %t}; fence.proxy.async; bar.sync 0;
setp.eq.u32 %p, %t, 0; mov.u64 %a, map; cvta.param.u64 %a, %a; mov.u32 %s, tile;
@%p cp.reduce.async.bulk.tensor.2d.global.shared::cta.add.tile.bulk_group [%a, {4, 1}], [%s];
@%p cp.async.bulk.commit_group; @%p cp.async.bulk.wait_group 0; ret; }"""
TALK = """extern "C" __global__ void talk(int* y) {
    int i = threadIdx.x;
    assert(i < 64);
    if (i == 3) printf("%d %s %.2f\\n", i, "three", 1.5);
    y[i] = i;
}"""


@pytest.mark.parametrize("name", CARDS)
def test_card(name):
    body, inputs, wanted = CARDS[name]
    got = instructions(body, inputs, " ".join(w.dtype.str[1:] for w in wanted))
    for n, (have, want) in enumerate(zip(got, wanted, strict=True)):
        np.testing.assert_array_equal(have.view(want.dtype), want, err_msg=f"output {n}")


def test_a_tensor_is_reduced_where_it_lies():
    card = device_with(TENSOR, 1 << 24)
    x = card.put(np.full((16, 16), 100, "u4"))
    tensor = card.tensor_map(element="u32", address=x, shape=(16, 16), strides=(64,), box=(8, 16), element_strides=(1, 1))
    card.run("k", 1, 32, tensor)
    want = np.full((16, 16), 100)
    want[1:16, 4:12] += np.arange(32).repeat(4).reshape(16, 8)[:15]  # the last row lies outside
    np.testing.assert_array_equal(card.get(x, (16, 16), "u4"), want)


def test_printf_and_a_true_assertion(capfd):
    card = device_with(compiled(TALK), 1 << 24)
    y = card.empty(128)
    card.run("talk", 1, 32, y)
    np.testing.assert_array_equal(card.get(y, 32, "i4"), T)
    ctypes.CDLL(None).fflush(None)  # a driver prints through C's stdout
    assert capfd.readouterr().out == "3 three 1.50\n"


def test_every_row_has_a_right_kernel():
    found = set()
    texts = [compiled((HERE / name).read_text(), name=name) for name in ("right.cu", "hopper.cu")]
    for text in (*texts, compiled(TALK), TENSOR):
        for kernel in parse(text).kernels.values():
            found |= {opcodes.find(instruction).emit for instruction in flatten(kernel).instructions}
    for body, _, _ in CARDS.values():
        for opcode in re.findall(r"(?:^|[;:{])\s*(?:@!?%p\d\s+)?([a-z]\w*(?:\.[\w:]+)*)(?=\s|;)", body):
            found.add(opcodes.find(Instruction(opcode, [])).emit)
    missing = [str(h.forms[0]) for h in opcodes.TABLE if not h.refused and h.emit not in found]
    assert not missing
