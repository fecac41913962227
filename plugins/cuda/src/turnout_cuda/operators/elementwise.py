"""Operators that work element by element. A new one is one line: its name, its formula in C++, and the types it takes.

In a formula x (or a, b) is the element in its work type (float for the halves), W that type, and an attribute stands under its own name.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from turnout_cuda.array import Array
from turnout_cuda.call import Call
from turnout_cuda.element import BOOL, ELEMENTS, FLOATS, INTS, NUMBERS, SIGNED, UNSIGNED, Types
from turnout_cuda.kernel import Declaration, declare, operator

__all__ = ["HALVES", "binary", "literal", "unary"]

HALVES: Types = FLOATS - {"float64"}
"""For what ONNX's evaluator computes in float32, whatever the type: there is nothing to hold a float64 kernel against."""

FLOATS_ALL: Types = frozenset(name for name, one in ELEMENTS.items() if one.work in ("float", "double"))


def literal(value: float) -> str:
    """A number in C++, in work type; the attribute's float32 value exactly."""
    if value != value:
        return "W(NAN)"
    if value in (float("inf"), float("-inf")):
        return "W(INFINITY)" if value > 0 else "W(-INFINITY)"
    return f"W({value!r})"


def _filled(text: str, names: Sequence[str], inputs: Sequence[Array], attributes: dict[str, Any]) -> str:
    """The formula with {0}, {1} ... for its operands, and its attributes written out."""
    given = {name: f"{{{place}}}" for place, name in enumerate(names)}
    given |= {name: value if isinstance(value, str) else literal(value) for name, value in attributes.items()}
    text = re.sub(r"\b[A-Za-z_]\w*\b", lambda word: given.get(word[0], word[0]), text)
    return re.sub(r"\bW\b", f"({inputs[0].element.work})", text)


def _declare(
    name: str, text: str, operands: Sequence[str], types: Types, makes: str, since: int, domain: str, attributes: dict[str, float]
) -> None:
    def rule(call: Call) -> Array:
        inputs = [call.input(place) for place in range(len(operands))]
        if len({one.element for one in inputs}) > 1:
            raise call.wrong("the operands are of different types")
        values = {key: call.real(key, default) for key, default in attributes.items()}
        return call.formula(_filled(text, operands, inputs, values), inputs, makes or inputs[0].element)

    declare(Declaration(name, rule, domain, since=since, takes=(types,), lazy=True))


def unary(name: str, text: str, types: Types = FLOATS, *, makes: str = "", since: int = 6, domain: str = "", **attributes: float) -> None:
    """Declares an operator of one operand, x."""
    _declare(name, text, ("x",), types, makes, since, domain, attributes)


def binary(name: str, text: str, types: Types = NUMBERS, *, makes: str = "", since: int = 7, domain: str = "", **attributes: float) -> None:
    """Declares an operator of two operands, a and b, that broadcast."""
    _declare(name, text, ("a", "b"), types, makes, since, domain, attributes)


unary("Abs", "x > 0 ? x : 0 - x", NUMBERS)
unary("Acos", "acos(x)", since=7)
unary("Acosh", "acosh(x)", since=9)
unary("Asin", "asin(x)", since=7)
unary("Asinh", "asinh(x)", since=9)
unary("Atan", "atan(x)", since=7)
unary("Atanh", "atanh(x)", since=9)
unary("BitwiseNot", "~x", INTS, since=18)
unary("Ceil", "ceil(x)")
unary("Celu", "x > 0 ? x : alpha * expm1(x / alpha)", since=12, alpha=1.0)
unary("Cos", "cos(x)", since=7)
unary("Cosh", "cosh(x)", since=9)
unary("Elu", "x < 0 ? alpha * expm1(x) : x", alpha=1.0)
unary("Erf", "erf(x)", HALVES, since=9)
unary("Exp", "exp(x)")
unary("Floor", "floor(x)")
unary("HardSigmoid", "larger(W(0), smaller(W(1), apart(alpha, x) + beta))", alpha=0.2, beta=0.5)
unary("HardSwish", "x * fmax(W(0), fmin(W(1), x / W(6) + W(0.5)))", HALVES, since=14)
unary("IsNaN", "x != x", FLOATS_ALL, makes="bool", since=9)
unary("LeakyRelu", "x < 0 ? alpha * x : x", alpha=0.01)
unary("Log", "log(x)")
unary("Mish", "x * tanh(fmax(x, W(0)) + log1p(exp(-fabs(x))))", since=18)
unary("Neg", "-x", FLOATS | SIGNED)
unary("Not", "!x", BOOL, since=1)
unary("Reciprocal", "W(1) / x")
unary("Relu", "x < 0 ? W(0) : x", FLOATS | SIGNED)
unary("Round", "rint(x)", since=11)
unary("Selu", "x > 0 ? gamma * x : gamma * alpha * expm1(x)", alpha=1.67326319217681884765625, gamma=1.05070102214813232421875)
unary("Shrink", "x < -lambd ? x + bias : x > lambd ? x - bias : W(0)", FLOATS, since=9, lambd=0.5, bias=0.0)
unary("Sigmoid", "W(1) / (W(1) + exp(-x))")
unary("Sign", "W((x > 0) - (x < 0))", NUMBERS, since=9)
unary("Sin", "sin(x)", since=7)
unary("Sinh", "sinh(x)", since=9)
unary("Softplus", "fmax(x, W(0)) + log1p(exp(-fabs(x)))", since=1)
unary("Softsign", "x / (W(1) + fabs(x))", since=1)
unary("Sqrt", "sqrt(x)")
unary("Swish", "x / (W(1) + exp(-alpha * x))", since=24, alpha=1.0)
unary("Tan", "tan(x)", since=7)
unary("Tanh", "tanh(x)")
unary("ThresholdedRelu", "x > alpha ? x : W(0)", since=10, alpha=1.0)

binary("Add", "a + b")
binary("And", "a && b", BOOL, makes="bool")
binary("BitwiseAnd", "a & b", INTS, since=18)
binary("BitwiseOr", "a | b", INTS, since=18)
binary("BitwiseXor", "a ^ b", INTS, since=18)
binary("Div", "a / b")
binary("Equal", "a == b", NUMBERS | BOOL, makes="bool")
binary("Greater", "a > b", makes="bool")
binary("GreaterOrEqual", "a >= b", makes="bool", since=12)
binary("Less", "a < b", makes="bool")
binary("LessOrEqual", "a <= b", makes="bool", since=12)
binary("Mul", "a * b")
binary("Or", "a || b", BOOL, makes="bool")
binary("PRelu", "a < 0 ? a * b : a")
binary("Sub", "a - b")
binary("Xor", "a != b", BOOL, makes="bool")


@operator("BitShift", since=11, takes=(UNSIGNED,), lazy=True)
def bit_shift(call: Call) -> Array:
    sign = "<<" if call.attribute("direction") == "LEFT" else ">>"
    return call.formula(f"{{1}} < {8 * call.x.element.size} ? {{0}} {sign} {{1}} : 0", [call.x, call.input(1)], call.x.element)


@operator("Clip", since=6, takes=(NUMBERS,), lazy=True)
def clip(call: Call) -> Array:
    x, text, inputs = call.x, "{0}", [call.x]
    for position, name, sign in ((1, "min", "<"), (2, "max", ">")):
        bound = call.optional(position)
        if bound is not None:
            if bound.size != 1:
                raise call.wrong("min and max are scalars")
            text = f"({text} {sign} {{{len(inputs)}}} ? {{{len(inputs)}}} : {text})"
            inputs.append(bound)
        elif call.attribute(name) is not None:
            value = _filled(literal(call.attribute(name)), (), [x], {})
            text = f"({text} {sign} {value} ? {value} : {text})"
    return call.formula(text, inputs, x.element, x.shape)


@operator("Gelu", since=20, takes=(HALVES,), lazy=True)
def gelu(call: Call) -> Array:
    text = "W(0.5) * x * (W(1) + erf(x * W(0.70710678118654752440)))"
    if call.attribute("approximate", "none") == "tanh":
        text = "W(0.5) * x * (W(1) + tanh(W(0.79788456080286535588) * (x + W(0.044715) * x * x * x)))"
    return call.formula(_filled(text, ("x",), [call.x], {}), [call.x], call.x.element)


@operator("IsInf", since=10, takes=(FLOATS_ALL,), lazy=True)
def is_inf(call: Call) -> Array:
    texts = [f"{{0}} == {sign}INFINITY" for name, sign in (("positive", ""), ("negative", "-")) if call.attribute(f"detect_{name}", 1)]
    return call.formula(" || ".join(texts) or "{0} != {0} && false", [call.x], "bool")


@operator("Mod", since=10, takes=(NUMBERS,), lazy=True)
def mod(call: Call) -> Array:
    floating = call.x.element.name in FLOATS
    remainder = "fmod(a, b)" if floating else "(a % b)"
    text = remainder
    if not call.attribute("fmod", 0):  # the sign is the divisor's
        text = f"{remainder} != 0 && ({remainder} < 0) != (b < 0) ? {remainder} + b : {remainder}"
    inputs = [call.x, call.input(1)]
    return call.formula(_filled(text, ("a", "b"), inputs, {}), inputs, call.x.element)


@operator("Pow", since=7, takes=(NUMBERS,), lazy=True)
def power(call: Call) -> Array:
    x, exponent = call.x, call.input(1)
    if x.element.name in FLOATS:
        text = f"pow({{0}}, ({x.element.work}){{1}})"
    elif exponent.element.name in FLOATS:
        text = "pow((double){0}, (double){1})"
    else:
        text = "whole_power({0}, {1})"
    return call.formula(text, [x, exponent], x.element)


def _variadic(name: str, step: str, last: str, types: Types, since: int) -> None:
    def rule(call: Call) -> Array:
        inputs = [call.input(place) for place in range(len(call.inputs))]
        text = "{0}"
        for place in range(1, len(inputs)):
            text = step % (text, f"{{{place}}}")
        return call.formula(last % text, inputs, inputs[0].element)

    declare(Declaration(name, rule, since=since, takes=(types,), lazy=True))


_variadic("Max", "larger(%s, %s)", "%s", NUMBERS, 8)
_variadic("Min", "smaller(%s, %s)", "%s", NUMBERS, 8)
_variadic("Sum", "(%s + %s)", "%s", FLOATS, 8)


@operator("Mean", since=8, takes=(FLOATS,), lazy=True)
def mean(call: Call) -> Array:
    inputs = [call.input(place) for place in range(len(call.inputs))]
    total = " + ".join(f"{{{place}}}" for place in range(len(inputs)))
    return call.formula(f"({total}) / {len(inputs)}", inputs, inputs[0].element)


@operator("Where", since=9, takes=(BOOL, frozenset(ELEMENTS)), lazy=True)
def where(call: Call) -> Array:
    return call.formula("{0} ? {1} : {2}", [call.input(0), call.input(1), call.input(2)], call.input(1).element)


@operator("Identity", since=1)
def identity(call: Call) -> Array:
    return call.view(call.x, call.x.shape)
