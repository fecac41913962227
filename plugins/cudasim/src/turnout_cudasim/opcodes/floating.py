"""Floating point arithmetic (PTX ISA, sections 9.7.3 to 9.7.5)."""

from __future__ import annotations

from turnout_cudasim import dtypes
from turnout_cudasim.emit import Emitter
from turnout_cudasim.opcodes import opcode
from turnout_cudasim.parse import Instruction
from turnout_cudasim.report import NotModelled

DIRECTIONS = {"rz": "z", "rm": "m", "rp": "p"}
HALVES = ("f16", "bf16", "f16x2", "bf16x2")


def direction(i: Instruction) -> str:
    """z, m or p for a directed rounding; empty for the nearest."""
    return next((d for part, d in DIRECTIONS.items() if part in i.parts), "")


def operands(e: Emitter, i: Instruction, type_: str) -> list[str]:
    """The sources; with .ftz, their subnormals are flushed."""
    texts = [e.read(o, type_) for o in i.operands[1:]]
    return [f"flush({t})" for t in texts] if i.has("ftz") and type_ == "f32" else texts


def finish(e: Emitter, i: Instruction, text: str, type_: str) -> None:
    """Write a result, flushed and saturated as the opcode says."""
    if i.has("ftz") and type_ == "f32":
        text = f"flush({text})"
    if i.has("sat"):
        text = f"saturate({text})"
    e.write(i.operands[0], text, type_, computed=True)


@opcode("add", "sub", "mul", "fma", "mad")
def arithmetic(e: Emitter, i: Instruction) -> None:
    """add, sub, mul, fma of f32, f64, f16, bf16 and pairs: one rounding, in every direction; .ftz, .sat, .relu."""
    type_ = i.parts[-1]
    if type_ in HALVES:
        half(e, i)
        return
    if type_ == "f32x2":
        _pair_of_floats(e, i)
        return
    if type_ not in ("f32", "f64"):
        raise NotModelled(f"opcode {i.opcode}")
    values = operands(e, i, type_)
    mode = direction(i)
    size = dtypes.NUMPY[type_]
    if i.name in ("fma", "mad"):
        text = f'directed_fma({", ".join(values)}, "{mode}")' if mode else f"fma_{size}({', '.join(values)})"
    elif mode:
        a, b = values
        function = "directed_multiply" if i.name == "mul" else "directed_add"
        text = f'{function}({a}, {f"-{b}" if i.name == "sub" else b}, "{mode}")'
    else:
        text = f" {'+' if i.name == 'add' else '-' if i.name == 'sub' else '*'} ".join(values)
    finish(e, i, text, type_)


def _pair_of_floats(e: Emitter, i: Instruction) -> None:
    halves = []
    for n in range(2):
        texts = [f'pairs({e.read(o, "b64")}, "f4")[{n}]' for o in i.operands[1:]]
        if i.name == "fma":
            halves.append(f"fma_f4({', '.join(texts)})")
        else:
            halves.append(f"({texts[0]} {'+' if i.name == 'add' else '-' if i.name == 'sub' else '*'} {texts[1]})")
    if direction(i):
        raise NotModelled(f"directed rounding in {i.opcode}")
    e.write(i.operands[0], f"join({halves[0]}, {halves[1]})", "b64")


def half(e: Emitter, i: Instruction) -> None:
    """16-bit floats, one or two to a register."""
    format_ = i.parts[-1].removesuffix("x2")
    options = "".join(f", {name}=True" for part, name in (("NaN", "nan"), ("relu", "relu"), ("sat", "saturate")) if part in i.parts)
    if i.parts[-1].endswith("x2"):
        texts = [f'pairs({e.read(o, "b32")}, "u2")' for o in i.operands[1:]]
        low, high = (f'half_arithmetic("{i.name}", "{format_}", {", ".join(f"{t}[{n}]" for t in texts)}{options})' for n in range(2))
        e.write(i.operands[0], f"join({low}, {high})", "b32")
    else:
        texts = [e.read(o, "b16") for o in i.operands[1:]]
        e.write(i.operands[0], f'half_arithmetic("{i.name}", "{format_}", {", ".join(texts)}{options})', "b16")


@opcode("min", "max")
def minimum_maximum(e: Emitter, i: Instruction) -> None:
    """NaN loses unless .NaN; -0 < +0; .xorsign.abs; two or three operands."""
    type_ = i.parts[-1]
    if type_ in HALVES:
        half(e, i)
        return
    values = operands(e, i, type_)
    function = "minimum" if i.name == "min" else "maximum"
    if i.has("xorsign"):
        a, b = values
        text = f"copy_sign({a} * copy_sign({b}, {e.constant(1, dtypes.NUMPY[type_])}), {function}(np.abs({a}), np.abs({b})))"
    else:
        magnitudes = [f"np.abs({v})" for v in values] if i.has("abs") else values
        text = f"{function}({magnitudes[0]}, {magnitudes[1]}, {i.has('NaN')})"
        if len(values) == 3:
            text = f"{function}({text}, {magnitudes[2]}, {i.has('NaN')})"
    finish(e, i, text, type_)


@opcode("neg", "abs")
def sign(e: Emitter, i: Instruction) -> None:
    """Of floats: only the sign bit changes."""
    type_ = i.parts[-1]
    if type_ in HALVES:
        half(e, i)
        return
    (value,) = operands(e, i, type_)
    finish(e, i, f"-{value}" if i.name == "neg" else f"np.abs({value})", type_)


@opcode("copysign")
def copy_sign(e: Emitter, i: Instruction) -> None:
    """The sign of the first with the magnitude of the second."""
    type_ = i.parts[-1]
    e.write(i.operands[0], f"copy_sign({e.read(i.operands[1], type_)}, {e.read(i.operands[2], type_)})", type_)


@opcode("testp")
def test_class(e: Emitter, i: Instruction) -> None:
    """finite, infinite, number, notanumber, normal, subnormal."""
    e.write(i.operands[0], f'testp({e.read(i.operands[1], i.parts[-1])}, "{i.parts[1]}")', "pred")


@opcode("div")
def divide(e: Emitter, i: Instruction) -> None:
    """Correctly rounded also for .approx and .full, where the hardware may err by 2 ulp."""
    type_ = i.parts[-1]
    a, b = operands(e, i, type_)
    mode = direction(i)
    finish(e, i, f'directed_divide({a}, {b}, "{mode}")' if mode else f"{a} / {b}", type_)


@opcode("rcp")
def reciprocal(e: Emitter, i: Instruction) -> None:
    """Correctly rounded also for .approx, where the hardware may err by 1 ulp."""
    type_ = i.parts[-1]
    (a,) = operands(e, i, type_)
    one, mode = e.constant(1, dtypes.NUMPY[type_]), direction(i)
    finish(e, i, f'directed_divide({one}, {a}, "{mode}")' if mode else f"{one} / {a}", type_)


@opcode("sqrt")
def square_root(e: Emitter, i: Instruction) -> None:
    """Correctly rounded also for .approx."""
    type_ = i.parts[-1]
    (a,) = operands(e, i, type_)
    mode = direction(i)
    finish(e, i, f'directed_sqrt({a}, "{mode}")' if mode else f"np.sqrt({a})", type_)


FUNCTIONS = {"rsqrt": "rsqrt", "sin": "sine", "cos": "cosine", "lg2": "log2", "ex2": "exp2", "tanh": "tanh"}


@opcode(*FUNCTIONS)
def function(e: Emitter, i: Instruction) -> None:
    """rsqrt, sin, cos, lg2, ex2, tanh: to float32's precision, where the hardware approximates (up to 2 ulp, 2^-20.5 for sin and cos)."""
    type_ = i.parts[-1]
    if type_ in HALVES:
        half(e, i)
        return
    (a,) = operands(e, i, type_)
    finish(e, i, f"{FUNCTIONS[i.name]}({a})", type_)
