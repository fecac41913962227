"""Single instructions against exact arithmetic, on values that hypothesis likes: NaN, infinities, subnormals, halfway cases, wrap."""

from __future__ import annotations

import math
from fractions import Fraction

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ptx_card import instructions

from turnout_cudasim.semantics.fused import fma

EXAMPLES = settings(max_examples=15)
N = 32


def words(bits: int):
    """Arrays of N integers of so many bits, edges first."""
    edge = st.sampled_from([0, 1, 2, (1 << bits) - 1, 1 << (bits - 1), (1 << (bits - 1)) - 1, (1 << (bits // 2)) - 1, 1 << (bits // 2)])
    small = st.integers(0, 70)
    return st.lists(edge | small | st.integers(0, (1 << bits) - 1), min_size=N, max_size=N).map(lambda v: np.array(v, f"u{bits // 8}"))


def floats(width: int):
    """Arrays of N floats, with special values, subnormals and values that differ in the last bit."""
    dtype = f"f{width // 8}"
    special = st.sampled_from(
        [0.0, -0.0, 1.0, -1.0, math.inf, -math.inf, math.nan, float(np.finfo(dtype).tiny), float(np.finfo(dtype).max)]
    )
    value = special | st.floats(width=width) | st.integers(-20, 20).map(float) | st.floats(-4, 4, width=width)
    return st.lists(value, min_size=N, max_size=N).map(lambda v: np.array(v, dtype))


def signed(value: int, bits: int) -> int:
    value %= 1 << bits
    return value - (1 << bits) if value >> (bits - 1) else value


def each(function, *arrays):
    return [function(*values) for values in zip(*(a.tolist() for a in arrays), strict=True)]


def same_bits(got, want, bits=32):
    assert [int(g) % (1 << bits) for g in got.tolist()] == [int(w) % (1 << bits) for w in want]


@EXAMPLES
@given(words(32), words(32), words(32))
def test_integers_of_32_bits(a, b, c):
    body = """
    add.u32 %o0, %i0, %i1;  sub.s32 %o1, %i0, %i1;  mul.lo.s32 %o2, %i0, %i1;  mul.hi.u32 %o3, %i0, %i1;  mul.hi.s32 %o4, %i0, %i1;
    mad.lo.u32 %o5, %i0, %i1, %i2;  add.sat.s32 %o6, %i0, %i1;  min.s32 %o7, %i0, %i1;  max.u32 %o8, %i0, %i1;  sad.s32 %o9, %i0, %i1, %i2;
    mul24.lo.u32 %o10, %i0, %i1;  div.u32 %o11, %i0, %i1;  rem.u32 %o12, %i0, %i1;  div.s32 %o13, %i0, %i1;  rem.s32 %o14, %i0, %i1;
    """
    b = np.where(b == 0, 3, b).astype("u4")
    out = instructions(body, (a, b, c), "u4 " * 15)

    def s(v):
        return signed(v, 32)

    def cut(p, q):
        return abs(p) // abs(q) * (1 if (p < 0) == (q < 0) else -1)

    wants = [
        each(lambda x, y: x + y, a, b), each(lambda x, y: x - y, a, b), each(lambda x, y: x * y, a, b),
        each(lambda x, y: x * y >> 32, a, b),
        each(lambda x, y: s(x) * s(y) >> 32, a, b), each(lambda x, y, z: x * y + z, a, b, c),
        each(lambda x, y: min(max(s(x) + s(y), -(2**31)), 2**31 - 1), a, b), each(lambda x, y: min(s(x), s(y)), a, b), each(max, a, b),
        each(lambda x, y, z: z + abs(s(x) - s(y)), a, b, c), each(lambda x, y: (x & 0xFFFFFF) * (y & 0xFFFFFF), a, b),
        each(lambda x, y: x // y, a, b), each(lambda x, y: x % y, a, b), each(lambda x, y: cut(s(x), s(y)), a, b),
        each(lambda x, y: s(x) - cut(s(x), s(y)) * s(y), a, b),
    ]  # fmt: skip
    for got, want in zip(out, wants, strict=True):
        same_bits(got, want)


@EXAMPLES
@given(words(64), words(64), words(64))
def test_integers_of_64_bits(a, b, c):
    body = """
    add.u64 %o0, %i0, %i1;  mul.lo.u64 %o1, %i0, %i1;  mul.hi.u64 %o2, %i0, %i1;  mul.hi.s64 %o3, %i0, %i1;
    shl.b64 %o4, %i0, 7;  shr.s64 %o5, %i0, 9;  min.s64 %o6, %i0, %i2;  brev.b64 %o7, %i0;  mad.lo.s64 %o8, %i0, %i1, %i2;
    add.cc.u64 %o9, %i0, %i1;  addc.u64 %o10, %i2, 0;  sub.cc.u64 %o11, %i0, %i1;  subc.u64 %o12, %i2, 0;
    """
    out = instructions(body, (a, b, c), "u8 " * 13)

    def s(v):
        return signed(v, 64)

    wants = [
        each(lambda x, y: x + y, a, b), each(lambda x, y: x * y, a, b), each(lambda x, y: x * y >> 64, a, b),
        each(lambda x, y: s(x) * s(y) >> 64, a, b), each(lambda x: x << 7, a), each(lambda x: s(x) >> 9, a),
        each(lambda x, z: min(s(x), s(z)), a, c), each(lambda x: int(f"{x:064b}"[::-1], 2), a), each(lambda x, y, z: x * y + z, a, b, c),
        each(lambda x, y: x + y, a, b), each(lambda x, y, z: z + (x + y >> 64), a, b, c),
        each(lambda x, y: x - y, a, b), each(lambda x, y, z: z - (x < y), a, b, c),
    ]  # fmt: skip
    for got, want in zip(out, wants, strict=True):
        same_bits(got, want, 64)


@EXAMPLES
@given(words(32), words(32), words(32))
def test_bits(a, b, c):
    body = """
    shl.b32 %o0, %i0, %i1;  shr.u32 %o1, %i0, %i1;  shr.s32 %o2, %i0, %i1;  shf.l.wrap.b32 %o3, %i0, %i1, %i2;
    shf.r.clamp.b32 %o4, %i0, %i1, %i2;  bfe.u32 %o5, %i0, %i1, %i2;  bfe.s32 %o6, %i0, %i1, %i2;  bfi.b32 %o7, %i2, %i0, %i1, 5;
    clz.b32 %o8, %i0;  popc.b32 %o9, %i0;  bfind.u32 %o10, %i0;  bfind.s32 %o11, %i0;  bfind.shiftamt.u32 %o12, %i0;
    lop3.b32 %o13, %i0, %i1, %i2, 0xd8;  prmt.b32 %o14, %i0, %i1, %i2;  prmt.b32.f4e %o15, %i0, %i1, %i2;  brev.b32 %o16, %i0;
    """
    out = instructions(body, (a, b, c), "u4 " * 17)

    def s(v):
        return signed(v, 32)

    def field(x, position, length, negative):
        position, length = position & 255, length & 255
        top = min(position + length - 1, 31)
        sign = negative and length > 0 and x >> top & 1
        return sum((x >> position + i & 1 if position + i <= 31 and i < length else sign) << i for i in range(32))

    def insert(x, into, position):
        position &= 255
        mask = 31 << position & 0xFFFFFFFF
        return (x << position) & mask | into & ~mask

    def permuted(x, y, control):
        pair, result = y << 32 | x, 0
        for i in range(4):
            nibble = control >> 4 * i & 15
            byte = pair >> 8 * (nibble & 7) & 255
            result |= (255 * (byte >> 7) if nibble & 8 else byte) << 8 * i
        return result

    def forward(x, y, control):
        pair = y << 32 | x
        return sum((pair >> 8 * ((control & 3) + i) & 255) << 8 * i for i in range(4))

    def select(x, y, z):
        return sum((0xD8 >> ((x >> i & 1) * 4 + (y >> i & 1) * 2 + (z >> i & 1)) & 1) << i for i in range(32))

    wants = [
        each(lambda x, y: x << y if y < 32 else 0, a, b), each(lambda x, y: x >> min(y, 40), a, b),
        each(lambda x, y: s(x) >> min(y, 31), a, b),
        each(lambda x, y, z: (y << 32 | x) << (z & 31) >> 32, a, b, c), each(lambda x, y, z: (y << 32 | x) >> min(z, 32), a, b, c),
        each(lambda x, y, z: field(x, y, z, False), a, b, c), each(lambda x, y, z: field(x, y, z, True), a, b, c),
        each(lambda x, y, z: insert(z, x, y), a, b, c), each(lambda x: 32 - x.bit_length(), a), each(int.bit_count, a),
        each(lambda x: x.bit_length() - 1, a), each(lambda x: (x if s(x) >= 0 else ~x % 2**32).bit_length() - 1, a),
        each(lambda x: 32 - x.bit_length() if x else -1, a), each(select, a, b, c), each(permuted, a, b, c), each(forward, a, b, c),
        each(lambda x: int(f"{x:032b}"[::-1], 2), a),
    ]  # fmt: skip
    for number, (got, want) in enumerate(zip(out, wants, strict=True)):
        try:
            same_bits(got, want)
        except AssertionError as error:
            raise AssertionError(f"output {number}") from error


# ---- floats, against exact fractions


def round_exactly(value: Fraction, mode: str, dtype) -> float:
    """The float next to an exact value: n nearest even, z, m, p."""
    info = ml_dtypes.finfo(dtype)
    precision, lowest = info.nmant + 1, int(info.minexp)
    if value == 0:
        return 0.0
    exponent = max(_floor_log2(abs(value)), lowest)
    unit = Fraction(2) ** (exponent - precision + 1)
    scaled = value / unit
    units = {"n": round, "z": math.trunc, "m": math.floor, "p": math.ceil}[mode](scaled)
    result = units * unit
    limit = Fraction(float(info.max))
    if abs(result) > limit:
        grows = mode == "n" or (mode == "p" and value > 0) or (mode == "m" and value < 0)
        return (math.inf if grows else float(limit)) * (1 if value > 0 else -1)
    return math.copysign(float(result), -1 if value < 0 else 1)


def _floor_log2(value: Fraction) -> int:
    guess = value.numerator.bit_length() - value.denominator.bit_length()
    return guess if Fraction(2) ** guess <= value else guess - 1


def check_floats(got, want):
    for g, w in zip(got.tolist(), want, strict=True):
        assert (math.isnan(g) and math.isnan(w)) or (g == w and math.copysign(1, g) == math.copysign(1, w)), (g, w)


def exact(function, mode, dtype, *arrays):
    """The function of finite values, rounded exactly; what NumPy says of the others."""
    results = []
    with np.errstate(all="ignore"):
        for values in zip(*arrays, strict=True):
            plain = function(*(np.float64(v) for v in values))
            if not all(math.isfinite(v) for v in values):  # beside those, only the signs of others matter, and whether they are 0
                results.append(float(function(*(np.float64(np.sign(v) if math.isfinite(v) and v else v) for v in values))))
                continue
            try:
                value = function(*(Fraction(float(v)) for v in values))
            except ZeroDivisionError:
                results.append(float(plain))
                continue
            if value:
                results.append(round_exactly(value, mode, dtype))
            else:
                results.append(_zero(function, mode, values))
    return results


def _zero(function, mode, values) -> float:
    """The sign of an exact zero: of a product by its factors, of a sum minus only when rounding down, unless both are -0."""
    plain = float(function(*(np.float64(v) for v in values)))
    products_agree = plain == 0 and math.copysign(1, plain) < 0
    if mode == "m" and function is not PRODUCT and function is not QUOTIENT:
        positive = all(math.copysign(1, float(t)) > 0 for t in _terms(function, values))
        return 0.0 if positive else -0.0
    return -0.0 if products_agree else 0.0


def _terms(function, values):
    if function is FMA:
        with np.errstate(all="ignore"):
            product = np.float64(values[0]) * np.float64(values[1])
        sign = math.copysign(1, float(values[0])) * math.copysign(1, float(values[1]))
        return [math.copysign(float(product) or 0.0, sign), values[2]]
    return [values[0], values[1] if function is SUM else -values[1]]


def SUM(x, y):
    return x + y


def DIFFERENCE(x, y):
    return x - y


def PRODUCT(x, y):
    return x * y


def QUOTIENT(x, y):
    return x / y


def FMA(x, y, z):
    return x * y + z


MODES = {"rn": "n", "rz": "z", "rm": "m", "rp": "p"}


@pytest.mark.parametrize("width", [32, 64])
@pytest.mark.parametrize("rounding", MODES)
@EXAMPLES
@given(st.data())
def test_floats_are_rounded_once(width, rounding, data):
    a, b, c = (data.draw(floats(width)) for _ in range(3))
    t, r = f"f{width}", rounding
    body = f"""
    add.{r}.{t} %o0, %i0, %i1;  sub.{r}.{t} %o1, %i0, %i1;  mul.{r}.{t} %o2, %i0, %i1;  fma.{r}.{t} %o3, %i0, %i1, %i2;
    div.{r}.{t} %o4, %i0, %i1;
    """
    code = f"f{width // 8}"
    out = instructions(body, (a, b, c), f"{code} " * 5)
    mode = MODES[rounding]
    for got, function in zip(out[:4], (SUM, DIFFERENCE, PRODUCT, FMA), strict=True):
        arrays = (a, b, c) if function is FMA else (a, b)
        check_floats(got, exact(function, mode, code, *arrays))
    check_floats(out[4], exact(QUOTIENT, mode, code, a, b))


@pytest.mark.parametrize("rounding", MODES)
def test_a_product_that_vanishes_keeps_its_sign(rounding):
    """Rounding down, only an exact zero is -0: a tiny positive sum that underflows is +0 (found by the test above)."""
    a, b, c = (np.full(32, value) for value in (-2.192629178350756e-272, -2.225073858507e-311, -0.0))
    (out,) = instructions(f"fma.{rounding}.f64 %o0, %i0, %i1, %i2;", (a, b, c), "f8")
    check_floats(out, exact(FMA, MODES[rounding], "f8", a, b, c))


@pytest.mark.parametrize("rounding", MODES)
@EXAMPLES
@given(floats(32))
def test_square_roots(rounding, a):
    (got,) = instructions(f"sqrt.{rounding}.f32 %o0, %i0;", (a,), "f4")
    want = []
    for v in a.tolist():
        if not v > 0 or math.isinf(v):
            want.append(float(np.sqrt(np.float64(v))) if v >= 0 or v == 0 else math.nan)
            continue
        value = Fraction(v)
        scale = 2 ** (2 * 200)
        root = math.isqrt(value.numerator * scale * value.denominator)
        inexact = root * root != value.numerator * scale * value.denominator
        want.append(round_exactly(Fraction(2 * root + inexact, 2 * value.denominator * 2**200), MODES[rounding], "f4"))
    check_floats(got, want)


def test_a_fused_multiply_add_is_not_rounded_twice():
    """The exact result is a hair above the middle of two floats; float64 alone would round it to the middle, then down."""
    a = np.full(N, 1 + 2.0**-23, "f4")
    b = np.full(N, 1 + 2.0**-23, "f4")
    c = np.full(N, 2.0**-60, "f4")
    (got,) = instructions("fma.rn.f32 %o0, %i0, %i1, %i2;", (a, b, c), "f4")
    check_floats(got, exact(FMA, "n", "f4", a, b, c))
    a, b = np.full(N, 1 + 2.0**-12, "f4"), np.full(N, 1 + 2.0**-12, "f4")
    (got,) = instructions("fma.rn.f32 %o0, %i0, %i1, %i2;", (a, b, c), "f4")
    assert got[0] == np.float32(1 + 2.0**-11 + 2.0**-23)


@pytest.mark.parametrize("rounding", ["rn", "rz", "rm", "rp"])
def test_a_product_that_is_too_large_is_no_infinity_yet(rounding):
    a, c = np.full(N, np.finfo("f8").max), np.full(N, -np.inf)
    (got,) = instructions(f"fma.{rounding}.f64 %o0, %i0, %i0, %i1;", (a, c), "f8")
    assert (got == -np.inf).all()


def test_a_fused_multiply_add_takes_scalars_and_every_second_element():
    a, b = np.arange(10, dtype="f4")[::2], np.float32(3)
    np.testing.assert_array_equal(fma(a, b, a), 4 * a)
    np.testing.assert_array_equal(fma(b, a, b), 3 * a + 3)
    assert fma(b, b, b) == 12
    assert fma(b, b, b).dtype == np.float32
    assert fma(np.float64(1 + 2.0**-52), np.float64(1 - 2.0**-52), np.float64(-1)) == -(2.0**-104)


@EXAMPLES
@given(floats(32), floats(32))
def test_minimum_and_maximum(a, b):
    body = "min.f32 %o0, %i0, %i1; max.f32 %o1, %i0, %i1; min.NaN.f32 %o2, %i0, %i1; max.ftz.f32 %o3, %i0, %i1;"
    low, high, strict, flushed = instructions(body, (a, b), "f4 " * 4)

    def pick(x, y, least, nan):
        if math.isnan(x) or math.isnan(y):
            return math.nan if nan or (math.isnan(x) and math.isnan(y)) else y if math.isnan(x) else x
        if x == y == 0:
            negative = [math.copysign(1, v) < 0 for v in (x, y)]
            return -0.0 if (any(negative) if least else all(negative)) else 0.0
        return min(x, y) if least else max(x, y)

    def flush(x):
        return math.copysign(0.0, x) if abs(x) < 2.0**-126 else x

    check_floats(low, each(lambda x, y: pick(x, y, True, False), a, b))
    check_floats(high, each(lambda x, y: pick(x, y, False, False), a, b))
    check_floats(strict, each(lambda x, y: pick(x, y, True, True), a, b))
    check_floats(flushed, each(lambda x, y: pick(flush(x), flush(y), False, False), a, b))


@EXAMPLES
@given(floats(32), floats(32))
def test_comparisons_know_nan(a, b):
    names = ["eq", "ne", "lt", "le", "gt", "ge", "equ", "neu", "ltu", "leu", "gtu", "geu", "num", "nan"]
    body = "".join(f"setp.{name}.f32 %p{n}, %i0, %i1; selp.u32 %o{n}, 1, 0, %p{n};" for n, name in enumerate(names))
    out = instructions(body, (a, b), "u4 " * len(names))
    plain = {"eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">="}
    for name, got in zip(names, out, strict=True):
        for x, y, g in zip(a.tolist(), b.tolist(), got.tolist(), strict=True):
            nan = math.isnan(x) or math.isnan(y)
            if name in ("num", "nan"):
                want = nan == (name == "nan")
            elif nan:
                want = name.endswith("u")
            else:
                want = eval(f"x {plain[name.rstrip('u')]} y")
            assert g == want, (name, x, y)


@EXAMPLES
@given(floats(32))
def test_floats_to_integers_saturate(a):
    kinds = ["rni.s32", "rzi.u32", "rmi.s64", "rpi.u64", "rzi.s16", "rni.u8"]
    codes = ["i4", "u4", "i8", "u8", "i2", "u2"]
    body = "".join(f"cvt.{kind}.f32 %o{n}, %i0;" for n, kind in enumerate(kinds))
    out = instructions(body, (a,), " ".join(codes))
    functions = [round, math.trunc, math.floor, math.ceil, math.trunc, round]
    for kind, code, got, function in zip(kinds, codes, out, functions, strict=True):
        limits = np.iinfo("u1") if kind == "rni.u8" else np.iinfo(code)
        for x, g in zip(a.tolist(), got.tolist(), strict=True):
            nan = -(2**63) if kind == "rmi.s64" else 2**63 if kind == "rpi.u64" else 0
            want = nan if math.isnan(x) else limits.max if x == math.inf else limits.min if x == -math.inf else function(x)
            assert g == min(max(want, limits.min), limits.max), (kind, x)


def test_nan_to_integers():
    """0, but the highest bit alone where the source or the result has 64 bits (found on a GPU by the test above)."""
    single, double = np.full(32, np.nan, "f4"), np.full(32, np.nan)
    body = "".join(
        f"cvt.rzi.{kind}.f32 %o{n}, %i0; cvt.rzi.{kind}.f64 %o{n + 4}, %i1;" for n, kind in enumerate(("s32", "u32", "s64", "u64"))
    )
    out = instructions(body, (single, double), "u4 u4 u8 u8 " * 2)
    assert [int(o[0]) for o in out] == [0, 0, 1 << 63, 1 << 63, 1 << 31, 1 << 31, 1 << 63, 1 << 63]


@pytest.mark.parametrize("rounding", MODES)
@EXAMPLES
@given(words(64))
def test_integers_to_floats(rounding, a):
    body = f"cvt.{rounding}.f32.s64 %o0, %i0; cvt.{rounding}.f64.u64 %o1, %i0; cvt.u32.u64 %r1, %i0; cvt.{rounding}.f32.u32 %o2, %r1;"
    out = instructions(body, (a,), "f4 f8 f4")
    mode = MODES[rounding]
    check_floats(out[0], each(lambda x: round_exactly(Fraction(signed(x, 64)), mode, "f4"), a))
    check_floats(out[1], each(lambda x: round_exactly(Fraction(x), mode, "f8"), a))
    check_floats(out[2], each(lambda x: round_exactly(Fraction(x % 2**32), mode, "f4"), a))


@EXAMPLES
@given(floats(32), floats(32))
def test_narrow_floats(a, b):
    body = """
    cvt.rn.f16.f32 %o0, %i0;  cvt.rn.bf16.f32 %o1, %i0;  cvt.rn.bf16x2.f32 %o2, %i0, %i1;  cvt.rn.f16x2.f32 %o3, %i0, %i1;
    cvt.rn.satfinite.e4m3x2.f32 %o4, %i0, %i1;  cvt.rn.satfinite.e5m2x2.f32 %o5, %i0, %i1;  cvt.rz.f16.f32 %o6, %i0;
    cvt.rz.bf16.f32 %o7, %i0;
    """
    out = instructions(body, (a, b), "u2 u2 u4 u4 u2 u2 u2 u2")

    def numbers(codes, dtype):
        return codes.astype(f"u{np.dtype(dtype).itemsize}").view(dtype).astype("f8")

    def clipped(x, limit):
        return np.where(np.isnan(x), x, np.clip(x, -limit, limit))

    with np.errstate(all="ignore"):
        half, brain = ml_dtypes.bfloat16, ml_dtypes.bfloat16
        check_floats(numbers(out[0], "f2"), a.astype("f2").astype("f8").tolist())
        check_floats(numbers(out[1], brain), a.astype(half).astype("f8").tolist())
        check_floats(numbers(out[2] & 0xFFFF, brain), b.astype(half).astype("f8").tolist())
        check_floats(numbers(out[3] >> 16, "f2"), a.astype("f2").astype("f8").tolist())
        e4, e5 = ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2
        check_floats(numbers(out[4] & 0xFF, e4), clipped(b, 448).astype(e4).astype("f8").tolist())
        check_floats(numbers(out[5] >> 8, e5), clipped(a, 57344).astype(e5).astype("f8").tolist())
        finite = np.isfinite(a)
        want = [round_exactly(Fraction(v), "z", "f2") if f and v else v for v, f in zip(a.tolist(), finite, strict=True)]
        check_floats(numbers(out[6], "f2"), want)
        check_floats(numbers(out[7], brain), (a.view("u4") & 0xFFFF0000).view("f4").astype("f8").tolist())


@pytest.mark.parametrize("format_", ["f16", "bf16"])
@EXAMPLES
@given(st.data())
def test_halves_are_rounded_once(format_, data):
    dtype = np.dtype("f2" if format_ == "f16" else ml_dtypes.bfloat16)
    a, b, c = (data.draw(words(16)) for _ in range(3))
    body = f"fma.rn.{format_} %o0, %i0, %i1, %i2; add.{format_} %o1, %i0, %i1; mul.{format_} %o2, %i0, %i1; max.{format_} %o3, %i0, %i1;"
    out = instructions(body, (a, b, c), "u2 " * 4)
    x, y, z = (v.view(dtype).astype("f8") for v in (a, b, c))
    for got, function, arrays in zip(out[:3], (FMA, SUM, PRODUCT), ((x, y, z), (x, y), (x, y)), strict=True):
        check_floats(got.view(dtype).astype("f8"), exact(function, "n", "f2" if format_ == "f16" else ml_dtypes.bfloat16, *arrays))


def test_a_negative_number_is_cut_to_the_narrow_type_before_a_wide_product():
    a = np.arange(N, dtype="u4")
    unsigned, signed_ = instructions("mul.wide.u32 %o0, %i0, -3; mul.wide.s32 %o1, %i0, -3;", (a,), "u8 i8")
    same_bits(unsigned, [int(v) * (2**32 - 3) for v in a], 64)
    same_bits(signed_, [int(v) * -3 for v in a], 64)


def test_ftz_of_comparisons_and_halves():
    """.ftz flushes subnormals before a comparison too, and in half precision."""
    tiny = np.array([1e-40, -1e-40, 1.0, 0.0], "f4").repeat(8)
    zero = np.zeros(32, "f4")
    body = """setp.gt.ftz.f32 %p0, %i0, %i1; selp.u32 %o0, 1, 0, %p0; setp.gt.f32 %p1, %i0, %i1; selp.u32 %o1, 1, 0, %p1;
    set.lt.ftz.f32.f32 %o2, %i0, %i1; slct.ftz.u32.f32 %o3, 7, 9, %i0; slct.u32.f32 %o4, 7, 9, %i0;"""
    out = instructions(body, (tiny, zero), "u4 u4 f4 u4 u4")
    for got, want in zip(out, ([0, 0, 1, 0], [1, 0, 1, 0], [0, 0, 0, 0], [7, 7, 7, 7], [7, 9, 7, 7]), strict=True):
        np.testing.assert_array_equal(got[::8], want)
    half = np.array([3, 0x8003, 0x3C00, 0x0400], "u2").repeat(8)
    out = instructions(
        "add.ftz.f16 %o0, %i0, %i0; add.f16 %o1, %i0, %i0; mov.b16 %h0, 0; setp.ne.ftz.f16 %p0, %i0, %h0; selp.u16 %o2, 1, 0, %p0;",
        (half,),
        "u2 " * 3,
    )
    for got, want in zip(out, ([0, 0x8000, 0x4000, 0x0800], [6, 0x8006, 0x4000, 0x0800], [0, 0, 1, 1]), strict=True):
        np.testing.assert_array_equal(got[::8], want)


def test_long_integers_to_bfloat_round_once():
    tie = (1 << 63) + (1 << 55)  # halfway between two bfloat16 numbers, and exactly what float64 makes of the one above it
    values = np.array([tie, tie + 1, (1 << 63) + 1, 5], "u8").repeat(8)
    up, down = instructions("cvt.rn.bf16.u64 %o0, %i0; cvt.rz.bf16.u64 %o1, %i0;", (values,), "u2 u2")
    np.testing.assert_array_equal(up[::8], [0x5F00, 0x5F01, 0x5F00, 0x40A0])
    np.testing.assert_array_equal(down[::8], [0x5F00, 0x5F00, 0x5F00, 0x40A0])


@pytest.mark.cuda_sim_only  # sm_100a alone has it
def test_redux_of_floats_skips_nan_unless_told_not_to():
    values = np.arange(32, dtype="f4") - 20
    values[3] = np.nan
    body = "redux.sync.min.f32 %o0, %i0, -1; redux.sync.max.abs.f32 %o1, %i0, -1; redux.sync.min.NaN.f32 %o2, %i0, -1;"
    least, most, nan = instructions(body, (values,), "f4 f4 f4")
    assert (least[0], most[0], nan.view("u4")[0]) == (-20, 20, 0x7FFFFFFF)


def test_min_of_magnitudes_with_nan():
    a, b = np.array([np.nan, -3], "f4").repeat(16), np.full(32, 2, "f4")
    plain, strict = instructions("min.xorsign.abs.f32 %o0, %i0, %i1; min.NaN.xorsign.abs.f32 %o1, %i0, %i1;", (a, b), "f4 f4")
    assert plain[0] == 2
    assert np.isnan(strict[0])
    assert plain[16] == strict[16] == -2


def test_a_product_that_underflows_is_no_exact_zero():
    a, b, c = np.full(32, 2.0**-1022), np.full(32, 2.0**-1000), np.full(32, -0.0)
    down, up = instructions("fma.rm.f64 %o0, %i0, %i1, %i2; fma.rp.f64 %o1, %i0, %i1, %i2;", (a, b, c), "f8 f8")
    assert not np.signbit(down[0])
    assert up[0] == 5e-324
