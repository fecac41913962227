"""mma.sync of every shape and type, on PTX by hand; the fragments are cut here from the tables of the PTX ISA, lane by lane."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from ptx_card import HEADER, device_with

from turnout_cudasim.report import NotModelled

RANDOM = np.random.default_rng(8)
BITS = {"f64": 64, "tf32": 32, "f16": 16, "bf16": 16, "s8": 8, "u8": 8, "e4m3": 8, "e5m2": 8, "s4": 4, "u4": 4, "b1": 1}
NUMPY = {"f16": np.float16, "bf16": ml_dtypes.bfloat16, "e4m3": ml_dtypes.float8_e4m3fn, "e5m2": ml_dtypes.float8_e5m2}
CASES = [
    *(("m16n8k8", t, "f32") for t in ("f16", "bf16", "tf32")), ("m16n8k4", "tf32", "f32"), ("m16n8k16", "f16", "f32"),
    ("m16n8k16", "bf16", "f32"),
    ("m16n8k8", "f16", "f16"), ("m16n8k16", "f16", "f16"), *((f"m16n8k{k}", t, "s32") for k in (16, 32) for t in ("s8", "u8")),
    ("m8n8k16", "s8", "s32"), *((f"m16n8k{k}", t, "s32") for k in (32, 64) for t in ("s4", "u4")), ("m8n8k32", "s4", "s32"),
    ("m16n8k128", "b1", "s32"), ("m16n8k256", "b1", "s32"), ("m8n8k128", "b1", "s32"), ("m16n8k32", "e4m3", "f32"),
    ("m16n8k32", "e5m2", "f32"),
    *((f"m16n8k{k}", "f64", "f64") for k in (4, 8, 16)), ("m8n8k4", "f64", "f64"),
]  # fmt: skip


def numbers(type_: str, rows: int, columns: int):
    """A random matrix: its values, and the bits of its elements."""
    if type_ in ("s8", "u8", "s4", "u4", "b1"):
        low, high = {"s8": (-128, 128), "u8": (0, 256), "s4": (-8, 8), "u4": (0, 16), "b1": (0, 2)}[type_]
        values = RANDOM.integers(low, high, (rows, columns))
        return values, values & ((1 << BITS[type_]) - 1)
    values = RANDOM.standard_normal((rows, columns))
    if type_ == "tf32":
        codes = values.astype("f4").view("u4") & 0xFFFFE000
        return codes.view("f4").astype("f8"), codes
    if type_ == "f64":
        return values, values.view("u8")
    narrow = values.astype(NUMPY[type_])
    return narrow.astype("f8"), narrow.view(f"u{BITS[type_] // 8}")


def registers(codes, places, bits):
    """Registers of a lane: `places` are the (row, column) of its elements in the ISA's order."""
    per = max(1, 32 // bits)
    elements = [int(codes[p]) for p in places]
    return [sum(e << bits * n for n, e in enumerate(elements[at : at + per])) for at in range(0, len(elements), per)]


def a_places(lane, rows, depth, bits):
    """PTX ISA, "Matrix Fragments for mma": groupID is the row, plus 8 for every second register, columns go on by 4 registers' elements."""
    group, member, per = lane >> 2, lane % 4, max(1, 32 // bits)
    count = rows * depth // 32 // per
    down = rows // 8
    return [(group + 8 * (r % down), member * per + e + 4 * per * (r // down)) for r in range(count) for e in range(per)]


def b_places(lane, depth, bits):
    group, member, per = lane >> 2, lane % 4, max(1, 32 // bits)
    return [(member * per + e + 4 * per * r, group) for r in range(depth * 8 // 32 // per) for e in range(per)]


def c_places(lane, rows):
    return [((lane >> 2) + 8 * r, lane % 4 * 2 + e) for r in range(rows // 8) for e in range(2)]


def run_mma(shape: str, type_: str, d_type: str, mnemonic: str):
    rows, _, depth = (int(n) for n in shape[1:].replace("n", " ").replace("k", " ").split())
    bits = BITS[type_]
    (a, a_codes), (b, b_codes) = numbers(type_, rows, depth), numbers(type_, depth, 8)
    c = RANDOM.integers(-50, 50, (rows, 8)).astype({"s32": "i4", "f32": "f4", "f16": "f2", "f64": "f8"}[d_type])
    word = "u8" if type_ == "f64" else "u4"
    in_a = np.array([registers(a_codes, a_places(lane, rows, depth, bits), bits) for lane in range(32)], word)
    in_b = np.array([registers(b_codes, b_places(lane, depth, bits), bits) for lane in range(32)], word)
    cells = np.array([[c[p] for p in c_places(lane, rows)] for lane in range(32)], c.dtype)
    in_c = np.ascontiguousarray(cells).view(word)
    kind, size = ("b64", 8) if word == "u8" else ("b32", 4)
    counts = [in_a.shape[1], in_b.shape[1], in_c.shape[1]]
    names = [[f"%{letter}{n}" for n in range(count)] for letter, count in zip("abc", counts, strict=True)]
    loads = "".join(
        f"ld.param.u64 %p, [in{m}]; mad.wide.u32 %p, %t, {size * len(group)}, %p;"
        + "".join(f"ld.global.{kind} {name}, [%p+{size * n}];" for n, name in enumerate(group))
        for m, group in enumerate(names)
    )
    stores = f"ld.param.u64 %p, [out]; mad.wide.u32 %p, %t, {size * counts[2]}, %p;" + "".join(
        f"st.global.{kind} [%p+{size * n}], %d{n};" for n in range(counts[2])
    )
    a_set, b_set, c_set = ("{" + ", ".join(group) + "}" for group in names)
    d_set = "{" + ", ".join(f"%d{n}" for n in range(counts[2])) + "}"
    ptx = (
        f"{HEADER}.visible .entry k(.param .u64 in0, .param .u64 in1, .param .u64 in2, .param .u64 out) {{ .reg .b64 %p; .reg .b32 %t;"
        f".reg .{kind} %a<9>; .reg .{kind} %b<9>; .reg .{kind} %c<9>; .reg .{kind} %d<9>; mov.u32 %t, %tid.x; {loads}\n"
        f"{mnemonic} {d_set}, {a_set}, {b_set}, {c_set};\n{stores} ret; }}"
    )
    device = device_with(ptx, 1 << 22)
    out = device.empty(in_c.nbytes)
    device.run("k", 1, 32, device.put(in_a), device.put(in_b), device.put(in_c), out)
    got_cells = device.get(out, in_c.shape, word).view(c.dtype)
    got = np.zeros_like(c)
    for lane in range(32):
        for place, value in zip(c_places(lane, rows), got_cells[lane], strict=True):
            got[place] = value
    return a, b, c, got


@pytest.mark.parametrize(("shape", "type_", "d_type"), CASES)
def test_dense(shape, type_, d_type):
    tail = f"{type_}.{type_}.{d_type}" + (".xor.popc" if type_ == "b1" else "")
    a, b, c, got = run_mma(shape, type_, d_type, f"mma.sync.aligned.{shape}.row.col.{d_type}.{tail}")
    product = (a[:, :, None] != b[None, :, :]).sum(1) if type_ == "b1" else a.astype("f8") @ b.astype("f8")
    tolerance = {"f16": 3e-2, "f32": 1e-4, "f64": 1e-12, "s32": 0}[d_type]
    np.testing.assert_allclose(got.astype("f8"), product + c.astype("f8"), atol=tolerance)


def test_mixed_signs_and_saturation():
    a, b, c, got = run_mma("m16n8k32", "s8", "s32", "mma.sync.aligned.m16n8k32.row.col.satfinite.s32.s8.s8.s32")
    np.testing.assert_array_equal(got, a @ b + c)


@pytest.mark.cuda_sim_only
@pytest.mark.parametrize(
    "opcode", ["mma.sync.aligned.m8n8k4.row.col.f32.f16.f16.f32", "mma.sp.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32"]
)
def test_shapes_that_are_not_modelled_are_refused(opcode):
    with pytest.raises(NotModelled, match="opcode mma"):
        run_mma("m16n8k16", "f16", "f32", opcode)
