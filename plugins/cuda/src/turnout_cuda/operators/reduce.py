"""Reductions, ArgMax and ArgMin, and running sums. A new reduction is one line."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from turnout_cuda.array import Array
from turnout_cuda.call import Call
from turnout_cuda.element import BOOL, FLOATS, INDEX, NUMBERS, Element, Types
from turnout_cuda.kernel import Declaration, declare, operator
from turnout_cuda.rows import SUM, Accumulator, accumulated, reduce_rows, rewrite_rows

__all__ = ["EXPONENTIALS", "axes_of", "lowest", "reduction"]

EXPONENTIALS = Accumulator(
    "Exponentials",
    "Exponentials{R(-INFINITY), R(0)}",
    "a = added(a, Exponentials{(R)x, R(1)});",
    "added(a, b)",
    # the sum is `sum` times e to the `top`, so that nothing overflows
    # (Milakov and Gimelshein, "Online normalizer calculation for softmax", 2018)
    """struct Exponentials { R top, sum; };
DEVICE Exponentials added(Exponentials a, Exponentials b) {
    const R top = a.top != a.top || a.top > b.top ? a.top : b.top;
    const R left = a.top == top ? a.sum : a.sum == 0 ? R(0) : a.sum * exp(a.top - top);
    const R right = b.top == top ? b.sum : b.sum == 0 ? R(0) : b.sum * exp(b.top - top);
    return Exponentials{top, left + right};
}""",
)


def lowest(element: Element, sign: int = -1) -> str:
    """The least number of a type in C++; with sign 1 the greatest."""
    if element.name in FLOATS:
        return "-INFINITY" if sign < 0 else "INFINITY"
    if element.name == "bool":
        return "false" if sign < 0 else "true"
    info = np.iinfo(element.dtype)
    if sign > 0:
        return f"{info.max}{'ull' if info.max > 2**63 else 'll'}"
    return f"(-{-(int(info.min) + 1)}ll - 1)" if info.min else "0"


def axes_of(call: Call, position: int = 1) -> list[int]:
    """The axes that a reduction takes together: an input or attribute; all where there are none, or none where the node says so."""
    axes = call.ints(position, "axes")
    if not axes:
        return [] if call.attribute("noop_with_empty_axes", 0) else list(range(call.x.ndim))
    return [call.checked_axis(axis, call.x.ndim) for axis in axes]


def kept_shape(call: Call, axes: Sequence[int]) -> list[int]:
    """The shape that is left."""
    keep = call.attribute("keepdims", 1)
    return [1 if k in axes else size for k, size in enumerate(call.x.shape) if keep or k not in axes]


def reduction(name: str, how: Accumulator, finish: str = "a", types: Types = NUMBERS) -> None:
    """Declares a reduction: how elements are taken together, and the result in terms of the state a and the number n of elements."""

    def rule(call: Call) -> Array:
        axes = axes_of(call)
        y = call.new(kept_shape(call, axes), call.x.element)
        bounds = {"LOWEST": lowest(call.x.element), "GREATEST": lowest(call.x.element, 1)}
        state = "int" if call.x.element.name == "bool" and how.state == "W" else how.state  # lanes exchange whole words
        own = Accumulator(state, bounds.get(how.start, how.start), how.step, how.join, how.functions)
        return reduce_rows(call, call.x, y, axes, own, finish, name)

    declare(Declaration(name, rule, takes=(types, INDEX), host=(1,), lazy=True))


reduction("ReduceL1", Accumulator("S", "0", "a += x > 0 ? x : 0 - x;", "a + b"))
reduction("ReduceL2", Accumulator("S", "0", "a += (S)x * x;", "a + b"), "sqrt((R)a)")
reduction("ReduceLogSum", SUM, "log((R)a)")
reduction("ReduceLogSumExp", EXPONENTIALS, "a.top + log(a.sum)")
reduction("ReduceMax", Accumulator("W", "LOWEST", "a = larger<A>(a, x);", "larger(a, b)"), types=NUMBERS | BOOL)
reduction("ReduceMean", SUM, "a / (S)n")
reduction("ReduceMin", Accumulator("W", "GREATEST", "a = smaller<A>(a, x);", "smaller(a, b)"), types=NUMBERS | BOOL)
reduction("ReduceProd", Accumulator("S", "1", "a *= x;", "a * b"))
reduction("ReduceSum", SUM)
reduction("ReduceSumSquare", Accumulator("S", "0", "a += (S)x * x;", "a + b"))


def _arg(name: str, better: str) -> None:
    def rule(call: Call) -> Array:
        axis = call.axis()
        first = "<" if not call.attribute("select_last_index", 0) else ">"
        # the place of the best; NaN is better than any number, as NumPy has it
        how = Accumulator(
            "Best",
            "Best{W(0), -1}",
            "a = best(a, Best{x, (int)r});",
            "best(a, b)",
            f"""struct Best {{ W value; int at; }};
DEVICE bool beats(W a, W b) {{ return a {better} b || (a != a && b == b); }}
DEVICE Best best(Best a, Best b) {{
    if (a.at < 0 || b.at < 0) return a.at < 0 ? b : a;
    if (beats(a.value, b.value)) return a;
    if (beats(b.value, a.value)) return b;
    return a.at {first} b.at ? a : b;
}}""",
        )
        y = call.new(kept_shape(call, [axis]), "int64")
        return reduce_rows(call, call.x, y, [axis], how, "a.at", name)

    declare(Declaration(name, rule, takes=(NUMBERS,)))


_arg("ArgMax", ">")
_arg("ArgMin", "<")


def _running(name: str, start: str, sign: str, since: int) -> None:
    def rule(call: Call) -> Array:
        x = call.x
        axis = call.checked_axis(int(call.host(1).reshape(-1)[0]), x.ndim)
        length, inner = x.shape[axis], int(np.prod(x.shape[axis + 1 :], dtype=int))
        first, step = ("length - 1", "-1") if call.attribute("reverse", 0) else ("0", "1")
        write = "y[at] = down<Y>(a);"
        take = f"a {sign}= up(x[at]);"
        body = f"const index at0 = i / inner * length * inner + i % inner; {sum_type(x.element)} a = {start};"
        body += f" for (index k = 0, c = {first}; k < length; ++k, c += {step}) {{ const index at = at0 + c * inner;"
        body += f" {write + take if call.attribute('exclusive', 0) else take + write} }}"
        y = call.new(x.shape, x.element)
        return call.each(y, body, count=x.size // max(length, 1), x=x, length=length, inner=inner)

    declare(Declaration(name, rule, since=since, takes=(NUMBERS, INDEX), host=(1,)))


def sum_type(element: Element) -> str:
    """What a sum of such elements is computed in."""
    return accumulated(element)[1]


_running("CumSum", "0", "+", 11)
_running("CumProd", "1", "*", 26)


@operator("Hardmax", since=13, takes=(FLOATS,))
def hardmax(call: Call) -> Array:
    x, axis = call.x, call.axis("axis", -1)
    how = Accumulator(
        "Best",
        "Best{R(-INFINITY), 0x7fffffff}",
        "a = best(a, Best{(R)x, (int)r});",
        "best(a, b)",
        "struct Best { R value; int at; };\n"
        "DEVICE Best best(Best a, Best b) { return a.value > b.value || (a.value == b.value && a.at < b.at) ? a : b; }",
    )
    return rewrite_rows(call, x, call.new(x.shape, x.element), [axis], how, "r == a.at ? R(1) : R(0)", "Hardmax")
