"""Matrix instructions (PTX ISA, sections 9.7.14 and 9.7.15)."""

from __future__ import annotations

import re

from turnout_cudasim.emit import Emitter
from turnout_cudasim.opcodes import WARP, opcode
from turnout_cudasim.opcodes.data import space_of
from turnout_cudasim.parse import Instruction
from turnout_cudasim.report import NotModelled

SMALL = ("f16", "bf16", "tf32", "f64", "s8", "u8", "s4", "u4", "b1", "e4m3", "e5m2")
RESULTS = ("f16", "f32", "f64", "s32")
CTA = "[shared|~shared::cta]"
MMA_FORMS = tuple(
    f"mma.sync.aligned{form}"
    for form in (
        "(m16n8k8|m16n8k16).row.col(f16|f32).f16.f16(f16|f32)",
        "(m16n8k8|m16n8k16).row.col.f32.bf16.bf16.f32",
        "(m16n8k4|m16n8k8).row.col.f32.tf32.tf32.f32",
        "(m8n8k4|m16n8k4|m16n8k8|m16n8k16).row.col[~rn].f64.f64.f64.f64",
        "(m8n8k16|m16n8k16|m16n8k32).row.col[satfinite].s32(u8|s8)(u8|s8).s32",
        "(m8n8k32|m16n8k32|m16n8k64).row.col[satfinite].s32(u4|s4)(u4|s4).s32",
        "(m8n8k128|m16n8k128|m16n8k256).row.col.s32.b1.b1.s32(and|xor).popc",
        "(m16n8k16|m16n8k32).row.col(f16|f32)(e4m3|e5m2)(e4m3|e5m2)(f16|f32)",
    )
)
LOADED = (  # shape and types of wmma.load of A and B
    "(m8n32k16|m16n16k16|m32n8k16)[global|shared|~shared::cta](f16|bf16|u8|s8)", ".m16n16k8[global|shared|~shared::cta].tf32",
    ".m8n8k4[global|shared|~shared::cta].f64", ".m8n8k32[global|shared|~shared::cta](u4|s4)", ".m8n8k128[global|shared|~shared::cta].b1",
)  # fmt: skip
SUMS = "(m16n16k16|~m16n16k8|m8n32k16|m32n8k16|m8n8k4|m8n8k32|m8n8k128)[global|shared|~shared::cta](f16|f32|f64|s32)"
WMMA_SHAPES = "(m16n16k16|m8n32k16|m32n8k16)"
WMMA_FORMS = tuple(
    f"wmma.mma{form}"
    for form in (
        f".sync.aligned(~row|~col)(~row|~col){WMMA_SHAPES}(f16|f32)(f16|f32)",
        f".sync.aligned(~row|~col)(~row|~col){WMMA_SHAPES}.f32.bf16.bf16.f32",
        ".sync.aligned(~row|~col)(~row|~col).m16n16k8.f32.tf32.tf32.f32",
        ".sync.aligned(~row|~col)(~row|~col).m8n8k4[~rn].f64.f64.f64.f64",
        f".sync.aligned(~row|~col)(~row|~col){WMMA_SHAPES}.s32(u8|s8)(u8|s8).s32[satfinite]",
        ".sync.aligned.row.col.m8n8k32.s32(u4|s4)(u4|s4).s32[satfinite]",
        "(and|xor).popc.sync.aligned.row.col.m8n8k128.s32.b1.b1.s32",
    )
)
WGMMA_FORMS = tuple(
    f"wgmma.mma_async.sync.aligned{form}"
    for form in (
        ".m64n*k16(f16|f32).f16.f16", ".m64n*k16.f32.bf16.bf16", ".m64n*k8.f32.tf32.tf32", ".m64n*k32(f16|f32)(e4m3|e5m2)(e4m3|e5m2)",
        ".m64n*k32[satfinite].s32(u8|s8)(u8|s8)", ".m64n*k256.s32.b1.b1.and.popc",
    )
)  # fmt: skip


def warp(i: Instruction) -> str:
    return WARP


def shape_of(i: Instruction) -> tuple[int, int, int]:
    found = re.search(r"\.m(\d+)n(\d+)k(\d+)", i.opcode)
    if found is None:
        raise NotModelled(f"opcode {i.opcode}")
    return int(found[1]), int(found[2]), int(found[3])


def register_type(type_: str) -> str:
    """What a fragment's elements of that type are held in."""
    return "b64" if type_ == "f64" else "b32"


def words(e: Emitter, operand: str, type_: str = "b32") -> str:
    """The registers of a fragment, as text of a tuple."""
    return "(" + "".join(f"{e.read(r, type_)}, " for r in e.vector(operand)) + ")"


def options(i: Instruction) -> str:
    operation = "xor" if i.has("xor") else "and" if i.has("and") else ""
    return (f', operation="{operation}"' if operation else "") + (", saturate=True" if i.has("satfinite") else "")


@opcode(f"ldmatrix.sync.aligned.m8n8(x1|x2|x4)[trans]{CTA}.b16", effect=True, mask=warp)
def load_matrix(e: Emitter, i: Instruction) -> None:
    """8x8 matrices of 16-bit elements, x1, x2, x4, .trans."""
    targets = e.vector(i.operands[0])
    space = "generic" if space_of(i) == "generic" else "shared"
    e.note_shared_access("shared", 16)
    e.write_all(targets, f'ldmatrix(t, "{space}", {e.address(i.operands[1])}, {len(targets)}, {i.has("trans")}, {e.site})', "b32")


@opcode(f"stmatrix.sync.aligned.m8n8(x1|x2|x4)[trans]{CTA}.b16", effect=True, mask=warp)
def store_matrix(e: Emitter, i: Instruction) -> None:
    """The inverse of ldmatrix."""
    space = "generic" if space_of(i) == "generic" else "shared"
    e.do(f'stmatrix(t, "{space}", {e.address(i.operands[0])}, {words(e, i.operands[1])}, {i.has("trans")}, {e.site})')


@opcode("movmatrix.sync.aligned.m8n8.trans.b16", effect=True, mask=warp)
def transpose_matrix(e: Emitter, i: Instruction) -> None:
    """Transpose an 8x8 matrix across the warp."""
    e.write(i.operands[0], f"movmatrix(t, {e.read(i.operands[1], 'b32')}, {e.site})", "b32")


@opcode(*MMA_FORMS, effect=True, mask=warp)
def multiply(e: Emitter, i: Instruction) -> None:
    """D = A B + C for f16, bf16, tf32, f64, s8, u8, s4, u4, b1, e4m3, e5m2 in every dense shape from m8n8k4 (f64) to m16n8k256."""
    d_type, a_type, b_type, c_type = i.parts[-4:]
    if c_type not in RESULTS and len(i.parts) > 5:  # .b1 ends with .xor.popc
        d_type, a_type, b_type, c_type = (p for p in i.parts if p in RESULTS or p in SMALL)
    m, n, k = shape_of(i)
    width = register_type(a_type)
    _, a, b, c = i.operands[:4]
    e.do(f"check_whole(t, {e.site})")
    left = e.once(e.vector(a), f'matrix(t, "a", "{a_type}", {m}, {k}, {words(e, a, width)})')
    right = e.once(e.vector(b), f'matrix(t, "b", "{b_type}", {k}, {n}, {words(e, b, width)})')
    _product(e, i, f'mma(t, {left}, {right}, {words(e, c, width)}, "{d_type}", "{c_type}"{options(i)})', d_type)


def _product(e: Emitter, i: Instruction, text: str, type_: str) -> None:
    """Write the registers of D, which are `text`."""
    targets = i.operands[0]
    name = e.temporary()
    e.do(f"{name} = {text}")
    kept = {"f32": "f32", "s32": "s32", "f64": "f64"}.get(type_, "b32")
    for n, target in enumerate(e.vector(targets)):
        view = ".view(F4)" if kept == "f32" else ".view(F8)" if kept == "f64" else ".view(I4)" if kept == "s32" else ""
        e.write(target, f"{name}[{n}]{view}", kept)


WMMA_TYPES = ("f16", "bf16", "tf32", "f32", "f64", "s8", "u8", "s4", "u4", "b1", "s32")


def _wmma_shape(i: Instruction) -> tuple[int, int]:
    m, n, k = shape_of(i)
    which = i.parts[2]
    return {"a": (m, k), "b": (k, n), "c": (m, n), "d": (m, n)}[which]


@opcode(
    *(f"wmma.load(a|b).sync.aligned(row|col){form}" for form in LOADED), f"wmma.load.c.sync.aligned(row|col){SUMS}", effect=True, mask=warp
)
def wmma_load(e: Emitter, i: Instruction) -> None:
    """Fragments of A, B and C from memory, row or column major."""
    targets = e.vector(i.operands[0])
    type_ = i.parts[-1]
    rows, columns = _wmma_shape(i)
    stride = e.read(i.operands[2], "u32") if len(i.operands) > 2 else e.constant(columns if i.has("row") else rows, "u4")
    space = "shared" if space_of(i) == "shared" else space_of(i)
    e.note_shared_access(space, 2)
    width = register_type(type_)
    matrix = f'"{space}", {(rows, columns)}, {len(targets)}, "{type_}", {i.has("row")}'
    text = f"wmma_load(t, {matrix}, {e.address(i.operands[1])}, {stride}, {e.site})"
    e.write_all(targets, text, width)


@opcode(f"wmma.store.d.sync.aligned(row|col){SUMS}", effect=True, mask=warp)
def wmma_store(e: Emitter, i: Instruction) -> None:
    """Fragments of D to memory."""
    type_ = i.parts[-1]
    rows, columns = _wmma_shape(i)
    stride = e.read(i.operands[2], "u32") if len(i.operands) > 2 else e.constant(columns if i.has("row") else rows, "u4")
    e.note_shared_access(space_of(i), 2)
    width = register_type(type_)
    values = words(e, i.operands[1], width)
    matrix = f'"{space_of(i)}", {(rows, columns)}, "{type_}", {i.has("row")}'
    e.do(f"wmma_store(t, {matrix}, {e.address(i.operands[0])}, {stride}, {values}, {e.site})")


@opcode(*WMMA_FORMS, effect=True, mask=warp)
def wmma_multiply(e: Emitter, i: Instruction) -> None:
    """D = A B + C on fragments; their layout is our own, since the ISA leaves it open."""
    named = [p for p in i.parts[3:] if p in WMMA_TYPES]
    types = (named[0], "f16", "f16", named[1]) if len(named) == 2 else (named[0], named[1], named[2], named[3])
    width = register_type(types[1])
    fragments = ", ".join(words(e, operand, width) for operand in i.operands[1:4])
    _product(e, i, f"wmma_mma(t, {shape_of(i)}, {types}, {fragments}, {e.site}{options(i)})", types[0])


@opcode(*WGMMA_FORMS, effect=True, mask=warp)
def warpgroup_multiply(e: Emitter, i: Instruction) -> None:
    """64 x N x K: f16, bf16, tf32, e4m3, e5m2, s8, u8, b1; A in registers or shared memory; every swizzle and both majors. Done at once."""
    width = shape_of(i)[1]
    if width % 8 or not 8 <= width <= 256:
        raise NotModelled(f"opcode {i.opcode} (N of {width})")
    d_type, a_type, b_type = (p for p in i.parts if p in RESULTS or p in SMALL)
    targets, a, b, accumulate, *flags = i.operands
    numbers = [int(f) for f in flags]
    floating = d_type in ("f16", "f32")
    scales = (numbers[0], numbers[1]) if floating and len(numbers) > 1 else (1, 1)
    transposed = [bool(n) for n in numbers[2:]]
    pair = (False, transposed[0]) if len(transposed) == 1 else (transposed[0], transposed[1]) if transposed else (False, False)
    left = words(e, a) if a.startswith("{") else e.read(a, "u64")
    keep = e.read(accumulate, "pred") if e.is_register(accumulate) else e.constant(int(accumulate), "?")
    name = e.temporary()
    e.do(
        f"{name} = wgmma(t, {shape_of(i)}, {(d_type, a_type, b_type)}, {words(e, targets)}, {left}, {e.read(b, 'u64')}, "
        f"{keep}, {scales}, {pair}, {e.site}{options(i)})"
    )
    kept, view = {"f32": ("f32", ".view(F4)"), "s32": ("s32", ".view(I4)")}.get(d_type, ("b32", ""))
    for n, target in enumerate(e.vector(targets)):
        e.write(target, f"{name}[{n}]{view}", kept)


@opcode("wgmma(~fence|~commit_group|~wait_group).sync.aligned", mask=warp)
def warpgroup_order(e: Emitter, i: Instruction) -> None:
    """Nothing to wait for: wgmma is done at once."""
