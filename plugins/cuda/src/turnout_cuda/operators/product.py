"""Matrix products: MatMul, Gemm, their quantized forms, Einsum, Det."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import replace

from turnout_cuda.array import Array
from turnout_cuda.call import Call, Given
from turnout_cuda.cublaslt import DTYPES, Problem, Scaled
from turnout_cuda.element import FLOATS, NUMBERS, Types
from turnout_cuda.fuse import broadcast_strides, collapse
from turnout_cuda.kernel import operator
from turnout_cuda.operators.convert import quantized
from turnout_cuda.operators.dense import few_rows
from turnout_cuda.plain_product import plain_product
from turnout_cuda.products import product, sum_of
from turnout_cuda.source import coordinates

__all__ = ["matrices"]

_BYTES: Types = frozenset({"int8", "uint8"})
_PLAIN: Types = frozenset(DTYPES)


class Matrices:
    """Two stacks of matrices: sizes, and C++ for where batch z begins in each."""

    def __init__(self, call: Call, a: Array, b: Array) -> None:
        if not a.ndim or not b.ndim:
            raise call.wrong("a scalar is no matrix")
        left = a.shape if a.ndim > 1 else (1, *a.shape)
        right = b.shape if b.ndim > 1 else (*b.shape, 1)
        if left[-1] != right[-2]:
            raise call.wrong("the matrices do not fit")
        self.m, self.k, self.n = left[-2], left[-1], right[-1]
        outer = call.broadcast(left[:-2], right[:-2])
        steps = [broadcast_strides(one[:-2], outer) for one in (left, right)]
        dense = broadcast_strides(outer, outer)
        sizes, (_, *strides) = collapse(outer, [dense, *steps])
        self.batch = math.prod(outer)
        self.numbers: Given = {"bn": sizes, "sa": strides[0], "sb": strides[1]}
        decode = coordinates("z", ["", *(f"bn{axis}" for axis in range(1, len(sizes)))], "c") if sizes else ""
        places = [" + ".join(f"c{axis} * {name}{axis}" for axis in range(len(sizes))) or "0" for name in ("sa", "sb")]
        self.before = f"{decode} const index za = ({places[0]}) * M * K, zb = ({places[1]}) * K * N;"
        self.shape = [*outer, *([self.m] if a.ndim > 1 else []), *([self.n] if b.ndim > 1 else [])]
        self.outer = outer

    def problem(self, element: str) -> Problem:
        """The same for cuBLASLt, where the stacks have one axis at most; rows of a stack that meet one matrix are rows of one product."""
        (left, *_), (right, *_) = ([*self.numbers[name], 0] for name in ("sa", "sb"))
        if left and not right:
            return Problem(element, self.batch * self.m, self.n, self.k)
        return Problem(element, self.m, self.n, self.k, count=self.batch, strides=(left * self.m * self.k, right * self.k * self.n))


matrices = Matrices


@operator("MatMul", takes=(NUMBERS,), plain=_PLAIN)
def matmul(call: Call) -> Array:
    a, b = call.input(0), call.input(1)
    both = Matrices(call, a, b)
    made = few_rows(call, a, b)
    if made is None and a.element.name in _PLAIN and len(both.numbers["bn"]) <= 1:
        made = plain_product(call, both.shape, both.problem(a.element.name), a, b)
    if made is not None:
        return made
    return product(
        call,
        call.new(both.shape, a.element),
        (both.m, both.n, both.k),
        "up(a_[za + m * K + k])",
        "up(b_[zb + k * N + n])",
        store="y[(z * M + m) * N + n] = down<Y>(a);",
        batch=both.batch,
        before=both.before,
        halves=a.element.c,
        plain=("a_ + za", "b_ + zb", False, "a"),
        a_=a,
        b_=b,
        **both.numbers,
    )


@operator("Gemm", since=7, takes=(NUMBERS,), plain=_PLAIN)
def gemm(call: Call) -> Array:
    a, b, c = call.input(0), call.input(1), call.optional(2)
    turned = [bool(call.attribute(name, 0)) for name in ("transA", "transB")]
    if a.ndim != 2 or b.ndim != 2:
        raise call.wrong("A and B are matrices")
    (m, k), (k2, n) = (shape[::-1] if turn else shape for shape, turn in zip((a.shape, b.shape), turned, strict=True))
    if k != k2:
        raise call.wrong("the matrices do not fit")
    alpha, beta = call.real("alpha", 1.0), call.real("beta", 1.0)
    if c is not None and call.broadcast(c.shape, (m, n)) != (m, n):
        raise call.wrong("C does not spread over the product")
    if a.element.name in _PLAIN:
        made = _plain_gemm(call, Problem(a.element.name, m, n, k, (turned[0], turned[1]), alpha=alpha), beta, c)
        if made is not None:
            return made
    work = a.element.work if a.element.work in ("float", "double") else "double"
    plain = work == "double" and a.element.name != "float64" and alpha == beta == 1.0
    value = "a" if plain or (alpha == 1.0 and a.element.name in FLOATS) else f"({work})alpha * a"
    given: Given = {} if value == "a" else {"alpha": alpha}
    if c is not None:
        strides = broadcast_strides(c.shape, (m, n))
        given |= {"c_": c, "cm": strides[0], "cn": strides[1]}
        scale = "" if plain or (beta == 1.0 and a.element.name in FLOATS) else f"({work})beta * "
        given |= {"beta": beta} if scale else {}
        value += f" + {scale}up(c_[m * cm + n * cn])"
    return product(
        call,
        call.new((m, n), a.element),
        (m, n, k),
        "up(a_[k * M + m])" if turned[0] else "up(a_[m * K + k])",
        "up(b_[n * K + k])" if turned[1] else "up(b_[k * N + n])",
        store=f"y[m * N + n] = down<Y>({value});",
        along=(not turned[0], turned[1]),
        halves=a.element.c,
        plain=None if turned[0] else ("a_", "b_", turned[1], value),
        a_=a,
        b_=b,
        **given,
    )


def _plain_gemm(call: Call, problem: Problem, beta: float, c: Array | None) -> Array | None:
    """Through cuBLASLt, which adds a row to each row as it stores them, and anything else as a matrix; None where it does not take it."""
    m, n = problem.m, problem.n
    if isinstance(call.cublaslt, str):
        return None
    if c is not None and beta == 1.0 and c.size == n and c.shape[-1:] == (n,):
        added = Scaled("bias")
    elif c is not None and beta:
        c, added = call.spread(c, (m, n)), Scaled("matrix", beta)
    else:
        c, added = None, Scaled()
    return plain_product(call, [m, n], replace(problem, added=added), call.input(0), call.input(1), c)


def _zero(call: Call, position: int, place: str) -> tuple[str, Given]:
    """C++ that takes away a zero point, which is one or one for each row (or column)."""
    zero = call.optional(position)
    if zero is None:
        return "", {}
    return f" - (int)up(zero{position}[{place if zero.size > 1 else '0'}])", {f"zero{position}": zero}


@operator("MatMulInteger", since=10, takes=(_BYTES,))
def matmul_integer(call: Call) -> Array:
    a, b = call.input(0), call.input(1)
    both = Matrices(call, a, b)
    (az, first), (bz, second) = _zero(call, 2, "m"), _zero(call, 3, "n")
    for zero, size in ((call.optional(2), both.m), (call.optional(3), both.n)):
        if zero is not None and zero.size not in (1, size):
            raise call.wrong("a zero point is one, or one for each row of A or column of B")
    return product(
        call,
        call.new(both.shape, "int32"),
        (both.m, both.n, both.k),
        f"(int)up(a_[za + m * K + k]){az}",
        f"(int)up(b_[zb + k * N + n]){bz}",
        store="y[(z * M + m) * N + n] = a;",
        batch=both.batch,
        before=both.before,
        a_=a,
        b_=b,
        **first,
        **second,
        **both.numbers,
    )


@operator("QLinearMatMul", since=10, takes=(_BYTES, FLOATS, _BYTES, _BYTES, FLOATS, _BYTES, FLOATS, _BYTES))
def qlinear_matmul(call: Call) -> Array:
    a, b, out = call.input(0), call.input(3), call.input(7).element
    both = Matrices(call, a, b)
    for place in (1, 2, 4, 5, 6, 7):
        if call.input(place).size != 1:
            raise call.wrong("the QLinearMatMul kernel takes one scale and zero point for each matrix")
    (az, first), (bz, second) = _zero(call, 2, "0"), _zero(call, 5, "0")
    value = "rint((float)a * ((float)up(scale1[0]) * (float)up(scale4[0]) / (float)up(scale6[0]))) + (float)up(zero7[0])"
    return product(
        call,
        call.new(both.shape, out),
        (both.m, both.n, both.k),
        f"(int)up(a_[za + m * K + k]){az}",
        f"(int)up(b_[zb + k * N + n]){bz}",
        store=f"y[(z * M + m) * N + n] = {quantized(value, out)};",
        batch=both.batch,
        before=both.before,
        sums="int",
        a_=a,
        b_=b,
        scale1=call.input(1),
        scale4=call.input(4),
        scale6=call.input(6),
        zero7=call.input(7),
        **first,
        **second,
        **both.numbers,
    )


def _equation(call: Call) -> tuple[list[list[str]], list[str]]:
    """The labels of each operand and of the result; the axes that an ellipsis stands for are labelled 0, 1 ..., aligned at the end."""
    text = call.attribute("equation")
    text = (text.decode() if isinstance(text, bytes) else text).replace(" ", "")
    left, arrow, right = text.partition("->")
    terms = left.split(",")
    if len(terms) != len(call.inputs):
        raise call.wrong(f"the equation {text!r} is for {len(terms)} operands")
    ranks = [call.input(place).ndim - len(re.sub(r"\.", "", term)) for place, term in enumerate(terms)]
    most = max([rank for rank, term in zip(ranks, terms, strict=True) if "..." in term], default=0)

    def labels(term: str, rank: int) -> list[str]:
        head, dots, tail = term.partition("...")
        return [*head, *(str(most - rank + k) for k in range(rank)), *tail] if dots else list(term)

    operands = [labels(term, rank) for term, rank in zip(terms, ranks, strict=True)]
    if arrow:
        return operands, labels(right, most)
    letters = [one for term in operands for one in term if one.isalpha()]
    return operands, [*map(str, range(most)), *sorted(one for one in set(letters) if letters.count(one) == 1)]


@operator("Einsum", since=12, takes=(NUMBERS,))
def einsum(call: Call) -> Array:
    """One thread for each element of the result, which sums over the labels that it lacks."""
    operands, result = _equation(call)
    arrays = [call.input(place) for place in range(len(operands))]
    sizes: dict[str, int] = {}
    for term, array in zip(operands, arrays, strict=True):
        if len(term) != array.ndim:
            raise call.wrong("the equation and the ranks differ")
        for label, size in zip(term, array.shape, strict=True):
            if sizes.setdefault(label, size) != size:
                if 1 not in (size, sizes[label]):
                    raise call.wrong(f"the label {label!r} stands for axes of {sizes[label]} and {size}")
                sizes[label] = max(size, sizes[label])
    summed = [label for label in sizes if label not in result]
    order = [*result, *summed]
    steps = [_steps(term, array.shape, order) for term, array in zip(operands, arrays, strict=True)]
    decode = coordinates("i", ["", *(f"n{k}" for k in range(1, len(result)))], "c")
    inner = coordinates("r", ["", *(f"n{k}" for k in range(len(result) + 1, len(order)))], "q")
    factors = []
    numbers: Given = {"n": [sizes[label] for label in order]}
    for place, own in enumerate(steps):
        at = [f"c{k} * s{place}_{k}" for k in range(len(result)) if own[k]]
        at += [f"q{k} * s{place}_{k + len(result)}" for k in range(len(summed)) if own[k + len(result)]]
        numbers |= {f"s{place}_{k}": step for k, step in enumerate(own) if step}
        factors.append(f"(A)up(x{place}[{' + '.join(at) or '0'}])")
    total = math.prod(sizes[label] for label in summed)
    element = arrays[0].element
    body = (
        f"{decode} typedef {sum_of(element)} A; A a = 0; for (index r = 0; r < total; ++r) {{ {inner if summed else ''}"
        f" a += {' * '.join(factors)}; }} y[i] = down<Y>(a);"
    )
    given: Given = {f"x{place}": array for place, array in enumerate(arrays)}
    y = call.new([sizes[label] for label in result], element)
    return call.each(y, body, total=total, **given, **numbers)


def _steps(term: Sequence[str], shape: Sequence[int], order: Sequence[str]) -> list[int]:
    """The operand's stride along each label; a label that it has twice walks its diagonal."""
    own = broadcast_strides(shape, shape)
    return [sum(step for one, step in zip(term, own, strict=True) if one == label) for label in order]


@operator("Det", since=11, takes=(FLOATS,))
def det(call: Call) -> Array:
    """Elimination with pivots, one thread a matrix, in a copy of it."""
    x = call.x
    if x.ndim < 2 or x.shape[-1] != x.shape[-2]:
        raise call.wrong("a determinant is that of square matrices")
    size = x.shape[-1]
    work = call.new(x.shape, "float64" if x.element.name == "float64" else "float32")
    call.each(work, "y[i] = up(x[i]);", x=x)
    body = (
        "w_w d = 1; w_t* p = w + i * size * size; for (index c = 0; c < size; ++c) { index best = c;"
        ' _Pragma("unroll 1")'  # unrolled, it holds so many values that some are spilled
        " for (index r = c + 1; r < size; ++r) if (fabs(p[r * size + c]) > fabs(p[best * size + c])) best = r;"
        " if (best != c) { d = -d; for (index k = 0; k < size; ++k) { const w_t v = p[c * size + k]; p[c * size + k] = p[best * size + k];"
        " p[best * size + k] = v; } } const w_t pivot = p[c * size + c]; d *= pivot; if (pivot == 0) break;"
        " for (index r = c + 1; r < size; ++r) { const w_t f = p[r * size + c] / pivot;"
        " for (index k = c; k < size; ++k) p[r * size + k] -= f * p[c * size + k]; } } y[i] = down<Y>(d);"
    )
    return call.each(call.new(x.shape[:-2], x.element), body, also=["w"], w=work, size=size)
