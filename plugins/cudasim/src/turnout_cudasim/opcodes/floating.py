"""Floating point arithmetic (PTX ISA, sections 9.7.3 to 9.7.5)."""

from __future__ import annotations

from turnout_cudasim import dtypes
from turnout_cudasim.emit import Emitter
from turnout_cudasim.opcodes import opcode
from turnout_cudasim.parse import Instruction

DIRECTIONS = {"rz": "z", "rm": "m", "rp": "p"}
HALVES = ("f16", "bf16", "f16x2", "bf16x2")
ROUNDED, MUST = "[~rn|rz|rm|rp]", "(rn|rz|rm|rp)"
SUMS = tuple(
    f"{name}{form}"
    for name in ("add", "sub", "mul")
    for form in (
        f"{ROUNDED}[ftz][sat].f32", f"{ROUNDED}.f64", "[~rn][ftz].f32x2", "[~rn][ftz][sat](f16|f16x2)", "[~rn](bf16|bf16x2)",
    )
)  # fmt: skip
PRODUCTS = (
    f"fma{MUST}[ftz][sat].f32", f"fma{MUST}.f64", "fma.rn[ftz].f32x2", "fma.rn[ftz][sat|relu](f16|f16x2)", "fma.rn[relu](bf16|bf16x2)",
    f"mad{MUST}[ftz][sat].f32", f"mad{MUST}.f64",
)  # fmt: skip


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


@opcode(*SUMS, *PRODUCTS)
def arithmetic(e: Emitter, i: Instruction) -> None:
    """add, sub, mul, fma of f32, f64, f16, bf16 and pairs: one rounding, in every direction; .ftz, .sat, .relu."""
    type_ = i.parts[-1]
    if type_ in HALVES:
        half(e, i)
        return
    if type_ == "f32x2":
        _pair_of_floats(e, i)
        return
    values = operands(e, i, type_)
    mode = direction(i)
    if i.name in ("fma", "mad"):
        text = f'directed_fma({", ".join(values)}, "{mode}")' if mode else f"fma({', '.join(values)})"
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
        texts = [f"flush({text})" for text in texts] if i.has("ftz") else texts
        if i.name == "fma":
            half = f"fma({', '.join(texts)})"
        else:
            half = f"({texts[0]} {'+' if i.name == 'add' else '-' if i.name == 'sub' else '*'} {texts[1]})"
        halves.append(f"flush({half})" if i.has("ftz") else half)
    e.write(i.operands[0], f"join({halves[0]}, {halves[1]})", "b64")


def half(e: Emitter, i: Instruction) -> None:
    """16-bit floats, one or two to a register."""
    format_ = i.parts[-1].removesuffix("x2")
    names = (("NaN", "nan"), ("relu", "relu"), ("sat", "saturate"), ("ftz", "flushed"))
    options = "".join(f", {name}=True" for part, name in names if part in i.parts)
    if i.parts[-1].endswith("x2"):
        texts = [f'pairs({e.read(o, "b32")}, "u2")' for o in i.operands[1:]]
        low, high = (f'half_arithmetic("{i.name}", "{format_}", {", ".join(f"{t}[{n}]" for t in texts)}{options})' for n in range(2))
        e.write(i.operands[0], f"join({low}, {high})", "b32")
    else:
        texts = [e.read(o, "b16") for o in i.operands[1:]]
        e.write(i.operands[0], f'half_arithmetic("{i.name}", "{format_}", {", ".join(texts)}{options})', "b16")


@opcode(
    *(
        f"{name}{form}"
        for name in ("min", "max")
        for form in (
            "[ftz][NaN].f32",
            "[ftz][NaN].xorsign.abs.f32",
            "[ftz][NaN].abs.f32",
            ".f64",
            "[ftz][NaN](f16|f16x2)",
            "[NaN](bf16|bf16x2)",
        )
    )
)
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
        text = (
            f"copy_sign({a} * copy_sign({b}, {e.constant(1, dtypes.NUMPY[type_])}), {function}(np.abs({a}), np.abs({b}), {i.has('NaN')}))"
        )
    else:
        magnitudes = [f"np.abs({v})" for v in values] if i.has("abs") else values
        text = f"{function}({magnitudes[0]}, {magnitudes[1]}, {i.has('NaN')})"
        if len(values) == 3:
            text = f"{function}({text}, {magnitudes[2]}, {i.has('NaN')})"
    finish(e, i, text, type_)


@opcode(*(f"{name}{form}" for name in ("neg", "abs") for form in ("[ftz].f32", ".f64", "[ftz](f16|f16x2)", "(bf16|bf16x2)")))
def sign(e: Emitter, i: Instruction) -> None:
    """Of floats: only the sign bit changes."""
    type_ = i.parts[-1]
    if type_ in HALVES:
        half(e, i)
        return
    (value,) = operands(e, i, type_)
    finish(e, i, f"-{value}" if i.name == "neg" else f"np.abs({value})", type_)


@opcode("copysign(f32|f64)")
def copy_sign(e: Emitter, i: Instruction) -> None:
    """The sign of the first with the magnitude of the second."""
    type_ = i.parts[-1]
    e.write(i.operands[0], f"copy_sign({e.read(i.operands[1], type_)}, {e.read(i.operands[2], type_)})", type_)


@opcode("testp(finite|infinite|number|notanumber|normal|subnormal)(f32|f64)")
def test_class(e: Emitter, i: Instruction) -> None:
    """finite, infinite, number, notanumber, normal, subnormal."""
    e.write(i.operands[0], f'testp({e.read(i.operands[1], i.parts[-1])}, "{i.parts[1]}")', "pred")


@opcode("div(approx|~full)[ftz].f32", f"div{MUST}[ftz].f32", f"div{MUST}.f64")
def divide(e: Emitter, i: Instruction) -> None:
    """Correctly rounded also for .approx and .full, where the hardware may err by 2 ulp."""
    type_ = i.parts[-1]
    a, b = operands(e, i, type_)
    mode = direction(i)
    finish(e, i, f'directed_divide({a}, {b}, "{mode}")' if mode else f"{a} / {b}", type_)


@opcode("rcp.approx[ftz].f32", f"rcp{MUST}[ftz].f32", f"rcp{MUST}.f64", "rcp.approx.ftz.f64")
def reciprocal(e: Emitter, i: Instruction) -> None:
    """Correctly rounded also for .approx, where the hardware may err by 1 ulp; .approx.ftz.f64 has only its upper 32 bits."""
    type_ = i.parts[-1]
    (a,) = operands(e, i, type_)
    one, mode = e.constant(1, dtypes.NUMPY[type_]), direction(i)
    if type_ == "f64" and i.has("approx"):
        e.write(i.operands[0], f"coarse({one} / coarse({a}))", type_, computed=True)
        return
    finish(e, i, f'directed_divide({one}, {a}, "{mode}")' if mode else f"{one} / {a}", type_)


@opcode("sqrt.approx[ftz].f32", f"sqrt{MUST}[ftz].f32", f"sqrt{MUST}.f64")
def square_root(e: Emitter, i: Instruction) -> None:
    """Correctly rounded also for .approx."""
    type_ = i.parts[-1]
    (a,) = operands(e, i, type_)
    mode = direction(i)
    finish(e, i, f'directed_sqrt({a}, "{mode}")' if mode else f"np.sqrt({a})", type_)


FUNCTIONS = {"rsqrt": "rsqrt", "sin": "sine", "cos": "cosine", "lg2": "log2", "ex2": "exp2", "tanh": "tanh"}


@opcode(
    *(f"{name}.approx[ftz].f32" for name in ("rsqrt", "sin", "cos", "lg2", "ex2")), "rsqrt.approx[ftz].f64",
    "ex2.approx(f16|f16x2)", "ex2.approx.ftz(bf16|bf16x2)", "tanh.approx(f32|f16|f16x2|bf16|bf16x2)",
)  # fmt: skip
def function(e: Emitter, i: Instruction) -> None:
    """rsqrt, sin, cos, lg2, ex2, tanh: to float32's precision, where the hardware approximates (up to 2 ulp, 2^-20.5 for sin and cos)."""
    type_ = i.parts[-1]
    if type_ in HALVES:
        half(e, i)
        return
    (a,) = operands(e, i, type_)
    if type_ == "f64" and i.has("ftz"):
        e.write(i.operands[0], f"coarse(rsqrt(coarse({a})))", type_, computed=True)
        return
    finish(e, i, f"{FUNCTIONS[i.name]}({a})", type_)
