"""Conversions (PTX ISA, section 9.7.9.21)."""

from __future__ import annotations

from turnout_cudasim import dtypes
from turnout_cudasim.emit import Emitter
from turnout_cudasim.opcodes import opcode
from turnout_cudasim.parse import Instruction

ROUNDINGS = {"rn": "n", "rz": "z", "rm": "m", "rp": "p", "rna": "na"}
INTEGRAL = ("rni", "rzi", "rmi", "rpi")
FLOATS = ("f16", "bf16", "f32", "f64", "tf32")
NUMBERS = "(u8|s8|u16|s16|u32|s32|u64|s64)"
TO, WHOLE = "(rn|rz|rm|rp)", "(rni|rzi|rmi|rpi)"
INTEGER_FORMS = (
    f"cvt[sat]{NUMBERS}{NUMBERS}", f"cvt{TO}[~ftz][sat](f16|f32|f64){NUMBERS}", f"cvt{TO}.bf16{NUMBERS}",
    f"cvt{WHOLE}[ftz][~sat]{NUMBERS}.f32", f"cvt{WHOLE}[~sat]{NUMBERS}(f16|bf16|f64)",
)  # fmt: skip
FLOAT_FORMS = (
    "cvt[ftz][sat].f32(f16|bf16|f32)", "cvt[ftz][sat].f64.f32", "cvt[sat].f64(f16|bf16|f64)", "cvt[sat].f16.f16",
    f"cvt{WHOLE}[ftz][sat].f32.f32", f"cvt{WHOLE}[sat].f64.f64", f"cvt{WHOLE}[sat].f16.f16",
    f"cvt{TO}[ftz][sat].f32.f64", f"cvt{TO}[ftz][sat].f16.f32", f"cvt{TO}[sat].f16.f64", f"cvt{TO}(f16|bf16)(f16|bf16|f64)",
    f"cvt{TO}[relu][satfinite](f16|bf16).f32", "cvt.rna[satfinite].tf32.f32", "cvt(rn|rz)[satfinite][relu].tf32.f32",
)  # fmt: skip
PAIR_FORMS = (
    "cvt(rn|rz)[relu][satfinite](f16x2|bf16x2).f32",
    "cvt.rn.satfinite[relu](e4m3x2|e5m2x2|e2m1x2|e2m3x2|e3m2x2)(f32|f16x2|bf16x2)",
    "cvt.rn[relu](f16x2|bf16x2)(e4m3x2|e5m2x2|e2m1x2|e2m3x2|e3m2x2)",
    "cvt(rz|rp)[satfinite].ue8m0x2(f32|bf16x2)", "cvt.rn.bf16x2.ue8m0x2",
)  # fmt: skip


def _mode(i: Instruction) -> str:
    return next((m for part, m in ROUNDINGS.items() if part in i.parts), "n")


def _options(i: Instruction) -> str:
    return (", relu=True" if i.has("relu") else "") + (", finite=True" if i.has("satfinite") else "")


@opcode(*INTEGER_FORMS, *FLOAT_FORMS, *PAIR_FORMS)
def convert(e: Emitter, i: Instruction) -> None:
    """All integers, f16, bf16, tf32, f32, f64; 8-, 6- and 4-bit floats in pairs; every rounding, .sat, .satfinite, .relu, .ftz."""
    to, source = i.parts[-2], i.parts[-1]
    if to.endswith("x2"):
        _to_pair(e, i, to.removesuffix("x2"))
    elif to in FLOATS and source in FLOATS:
        _float_to_float(e, i, to, source)
    elif to in FLOATS:
        value = e.read(i.operands[1], source)
        text = f'int_to_float({value}, "{_mode(i)}", "{dtypes.NUMPY[to]}")'
        if to == "bf16":
            e.write(i.operands[0], f'encode(int_to_odd({value}), "bf16", "{_mode(i)}")', "b16")
        else:
            e.write(i.operands[0], f"saturate({text})" if i.has("sat") else text, to)
    elif source in FLOATS:
        mode = next((m for m in INTEGRAL if m in i.parts), "rzi")
        e.write(i.operands[0], f'float_to_int({_float(e, i, source)}, "{mode}", "{dtypes.NUMPY[to]}")', to)
    else:
        _integer(e, i, to, source)


@opcode("cvt.pack.sat(u16|s16).s32", "cvt.pack.sat(u8|s8).s32.b32")
def pack(e: Emitter, i: Instruction) -> None:
    """Two 32-bit integers to 16 or 8 bits, saturated, side by side."""
    to = i.parts[3]
    a, b = (e.read(o, "s32") for o in i.operands[1:3])
    c = f", {e.read(i.operands[3], 'u32')}" if len(i.operands) > 3 else ""
    e.write(i.operands[0], f'pack_integers({a}, {b}, "{dtypes.NUMPY[to]}"{c})', "b32")


def _float(e: Emitter, i: Instruction, source: str) -> str:
    """The source as a NumPy float."""
    if source in ("f16", "bf16"):
        return f'decode({e.read(i.operands[1], "b16")}, "{source}")'
    text = e.read(i.operands[1], "f32" if source == "tf32" else source)
    return f"flush({text})" if i.has("ftz") and source == "f32" else text


def _float_to_float(e: Emitter, i: Instruction, to: str, source: str) -> None:
    value = _float(e, i, source)
    integral = next((m for m in INTEGRAL if m in i.parts), "")
    if integral:
        value = f'round_integral({value}, "{integral}")'
    if i.has("sat"):
        value = f"saturate({value})"
    if to == "f16":
        e.write(i.operands[0], f'to_f2({value}, "{_mode(i)}"{_options(i)})', "f16")
    elif to == "bf16":
        e.write(i.operands[0], f'encode({value}, "bf16", "{_mode(i)}"{_options(i)})', "b16")
    elif to == "tf32":
        e.write(i.operands[0], f'to_tf32({value}, "{_mode(i)}"{_options(i)})', "b32")
    elif to == "f32":
        text = f'to_f4({value}, "{_mode(i)}")' if source == "f64" else value
        e.write(i.operands[0], f"flush({text})" if i.has("ftz") else text, "f32", computed=True)
    else:
        e.write(i.operands[0], f"{value}.astype(F8)" if source != "f64" else value, "f64", computed=True)


def _to_pair(e: Emitter, i: Instruction, base: str) -> None:
    """To f16x2, bf16x2 or two small floats; the first source is the upper half."""
    source = i.parts[-1]
    if source == "f32":
        high, low = (f'encode({_flushed(e, i, o)}, "{base}", "{_mode(i)}"{_options(i)})' for o in i.operands[1:3])
    elif source in ("f16x2", "bf16x2"):
        pair = f'pairs({e.read(i.operands[1], "b32")}, "u2")'
        low, high = (f'encode(decode({pair}[{n}], "{source[:-2]}"), "{base}", "{_mode(i)}"{_options(i)})' for n in range(2))
    else:
        small = source.removesuffix("x2")
        width = 4 if small == "e2m1" else 8
        code = e.read(i.operands[1], "b8" if width == 4 else "b16")
        mask = "U1(15)" if width == 4 else "U2(255)"
        shift = f"U{1 if width == 4 else 2}({width})"
        low, high = (
            f'encode(decode({part}, "{small}"), "{base}", "n"{", relu=True" if i.has("relu") else ""})'
            for part in (f"({code} & {mask})", f"({code} >> {shift})")
        )
    if base in ("f16", "bf16"):
        e.write(i.operands[0], f"join({low}, {high})", "b32")
    elif base == "e2m1":
        e.write(i.operands[0], f"({low} | ({high} << U1(4)))", "b8")
    else:
        e.write(i.operands[0], f"join({low}, {high})", "b16")


def _flushed(e: Emitter, i: Instruction, operand: str) -> str:
    text = e.read(operand, "f32")
    return f"flush({text})" if i.has("ftz") else text


def _integer(e: Emitter, i: Instruction, to: str, source: str) -> None:
    value = e.read(i.operands[1], source)
    if i.has("sat"):
        e.write(i.operands[0], f'int_to_int_saturated({value}, "{dtypes.NUMPY[to]}")', to)
        return
    # A result wider than its type is extended to the register by the type's own sign, so narrow first.
    code = dtypes.NUMPY[to]
    e.write(i.operands[0], f"{value}.astype({code.upper()})" if code != dtypes.NUMPY[source] else value, to)
