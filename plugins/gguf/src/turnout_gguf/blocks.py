"""What the blocks of GGUF's quantised types hold: small integers, and how they become weights.

Every type here is, whatever its bytes look like, groups of integer codes with a scale, and for some a minimum:

    weight = scale * code + minimum

`unpack` gives the three; `dequantise` computes the line above in float32, bit by bit what ggml computes; `repack.py` writes the codes
down as other runtimes want them. Sources: the structures of ggml-common.h and their reference dequantisation in ggml-quants.c.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from importlib import resources
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from turnout_gguf.types import BlockType

__all__ = ["QUANTISED", "Codes", "Layout", "dequantise", "unpack"]

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Codes:
    """Unpacked blocks. codes: int8 [blocks, groups, group]; scales, and minimums where the type has them: float32 [blocks, groups]."""

    codes: NDArray[np.int8]
    scales: Floats
    minimums: Floats | None = None


@dataclass(frozen=True, slots=True)
class Layout:
    """One quantised type. group: elements under one scale. low, high: the smallest and largest code."""

    unpack: Callable[[Bytes], Codes]
    group: int
    low: int
    high: int
    has_minimum: bool = False


def unpack(raw: Bytes, kind: BlockType) -> Codes:
    """Blocks of a quantised type, uint8 [rows, bytes of a row], as codes."""
    with np.errstate(invalid="ignore", over="ignore"):  # a scale may be infinite or no number: then so are its weights
        return QUANTISED[kind.name].unpack(raw.reshape(-1, kind.nbytes))


def dequantise(raw: Bytes, kind: BlockType) -> Floats:
    """Any type in this module, uint8 [rows, bytes of a row], as float32 [rows, elements of a row]."""
    rows = raw.shape[0]
    if kind.name == "F32":
        numbers: Floats = raw.view(np.float32)
        return numbers.reshape(rows, -1)
    if kind.name == "F16":
        return _half(raw).reshape(rows, -1)
    if kind.name == "BF16":
        halves: Floats = raw.view(ml_dtypes.bfloat16).astype(np.float32)
        return halves.reshape(rows, -1)
    found = unpack(raw, kind)
    weights = found.codes.astype(np.float32)
    with np.errstate(invalid="ignore", over="ignore"):
        weights *= found.scales[:, :, None]
        if found.minimums is not None:
            weights += found.minimums[:, :, None]
    return weights.reshape(rows, -1)


def _half(raw: Bytes) -> Floats:
    """float16 as float32, [blocks, numbers]."""
    return np.ascontiguousarray(raw).view("<f2").astype(np.float32)


def _nibbles(packed: Bytes, group: int) -> NDArray[np.int8]:
    """Each run of `group` / 2 bytes holds the first half of a group in its low nibbles, the second in its high ones."""
    runs = packed.reshape(len(packed), -1, 1, group // 2)
    both = np.concatenate([runs, runs >> 4], 2) & np.uint8(15)
    codes: NDArray[np.int8] = both.view(np.int8)
    return codes.reshape(len(packed), -1, group)


def _fields(packed: Bytes, run: int, bits: int) -> NDArray[np.int8]:
    """Runs of `run` bytes, each 8 / bits fields after one another, lowest bits first: [blocks, elements]."""
    shifts = np.arange(0, 8, bits, dtype=np.uint8)[:, None]
    runs = packed.reshape(len(packed), -1, 1, run)
    fields: NDArray[np.int8] = ((runs >> shifts) & np.uint8(2**bits - 1)).view(np.int8)
    return fields.reshape(len(packed), -1)


# 32 elements under one float16 scale ------------------------------------------------------------------------------------


def _q4_0(raw: Bytes) -> Codes:
    return Codes(_nibbles(raw[:, 2:], 32) - 8, _half(raw[:, :2]))


def _q4_1(raw: Bytes) -> Codes:
    return Codes(_nibbles(raw[:, 4:], 32), _half(raw[:, :2]), _half(raw[:, 2:4]))


def _fifth(packed: Bytes) -> NDArray[np.int8]:
    """32 fifth bits in four bytes, as 0 or 16: [blocks, 1, 32]."""
    return (np.unpackbits(packed, axis=1, bitorder="little") << 4).view(np.int8)[:, None, :]


def _q5_0(raw: Bytes) -> Codes:
    return Codes((_nibbles(raw[:, 6:], 32) | _fifth(raw[:, 2:6])) - 16, _half(raw[:, :2]))


def _q5_1(raw: Bytes) -> Codes:
    return Codes(_nibbles(raw[:, 8:], 32) | _fifth(raw[:, 4:8]), _half(raw[:, :2]), _half(raw[:, 2:4]))


def _q8_0(raw: Bytes) -> Codes:
    return Codes(raw[:, None, 2:].view(np.int8), _half(raw[:, :2]))


# 256 elements under a float16 scale of smaller scales ("K") -------------------------------------------------------------


def _q2_k(raw: Bytes) -> Codes:
    scales, d, least = raw[:, :16], _half(raw[:, 80:82]), _half(raw[:, 82:84])
    codes = _fields(raw[:, 16:80], 32, 2).reshape(len(raw), 16, 16)
    return Codes(codes, d * (scales & 15), -(least * (scales >> 4)))


def _q3_k(raw: Bytes) -> Codes:
    high, low, packed, d = raw[:, :32], raw[:, 32:96], raw[:, 96:108], _half(raw[:, 108:])
    third = _fields(high, 32, 1) << 2  # the eight groups of 32 have a bit each, in order
    codes = (_fields(low, 32, 2) | third) - 4
    scales = _fields(packed[:, :8], 8, 4) | (_fields(packed[:, 8:], 4, 2) << 4)
    return Codes(codes.reshape(len(raw), 16, 16), d * (scales - 32))


def _six_bits(packed: Bytes) -> tuple[Bytes, Bytes]:
    """Eight scales and eight minimums of six bits each, in twelve bytes: two of [blocks, 8]."""
    first, second, mixed = packed[:, :4], packed[:, 4:8], packed[:, 8:]
    scales = np.concatenate([first & 63, (mixed & 15) | (first >> 6 << 4)], 1)
    minimums = np.concatenate([second & 63, (mixed >> 4) | (second >> 6 << 4)], 1)
    return scales, minimums


def _q4_k(raw: Bytes) -> Codes:
    scales, minimums = _six_bits(raw[:, 4:16])
    return Codes(_nibbles(raw[:, 16:], 64).reshape(-1, 8, 32), _half(raw[:, :2]) * scales, -(_half(raw[:, 2:4]) * minimums))


def _q5_k(raw: Bytes) -> Codes:
    scales, minimums = _six_bits(raw[:, 4:16])
    fifth = (_fields(raw[:, 16:48], 32, 1) << 4).reshape(-1, 8, 32)
    codes = _nibbles(raw[:, 48:], 64).reshape(-1, 8, 32) | fifth
    return Codes(codes, _half(raw[:, :2]) * scales, -(_half(raw[:, 2:4]) * minimums))


def _q6_k(raw: Bytes) -> Codes:
    low, high, scales, d = raw[:, :128], raw[:, 128:192], raw[:, 192:208].view(np.int8), _half(raw[:, 208:])
    codes = (_nibbles(low, 128).reshape(len(raw), -1) | (_fields(high, 32, 2) << 4)) - 32
    return Codes(codes.reshape(-1, 16, 16), d * scales)


# codes that stand for values in a table ---------------------------------------------------------------------------------

_NON_LINEAR = np.array([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], np.int8)
_E2M1_DOUBLED = np.array([0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12], np.int8)


def _iq4_nl(raw: Bytes) -> Codes:
    return Codes(_NON_LINEAR[_nibbles(raw[:, 2:], 32)], _half(raw[:, :2]))


def _iq4_xs(raw: Bytes) -> Codes:
    high = raw[:, 2:4].copy().view("<u2") >> np.arange(0, 16, 2, dtype=np.uint16) & 3
    low = np.stack([raw[:, 4:8] & 15, raw[:, 4:8] >> 4], 2).reshape(-1, 8)
    scales = (low | (high << 4)).astype(np.int8) - 32
    return Codes(_NON_LINEAR[_nibbles(raw[:, 8:], 32)], _half(raw[:, :2]) * scales)


def _mxfp4(raw: Bytes) -> Codes:
    """The shared scale is a power of two, 2 ** (byte - 128): half of what the format says, for the table holds doubled values."""
    exponents = raw[:, :1].astype(np.int32) - 128
    return Codes(_E2M1_DOUBLED[_nibbles(raw[:, 1:], 32)], np.ldexp(np.float32(1), exponents))


def _nvfp4(raw: Bytes) -> Codes:
    """Four groups of 16, each scaled by a float of 4 bits exponent and 3 bits mantissa; halved, for the table holds doubled values."""
    bits = raw[:, :4]
    exponent, mantissa = (bits >> 3 & 15).astype(np.int32), (bits & 7).astype(np.float32)
    small, other = mantissa * np.float32(2.0**-10), np.ldexp(1 + mantissa / np.float32(8), exponent - 8)
    scales = np.where(bits == 0x7F, np.float32(0), np.where(exponent == 0, small, other))
    return Codes(_E2M1_DOUBLED[_nibbles(raw[:, 4:], 16)], scales)


# codes that stand for vectors in a grid ---------------------------------------------------------------------------------


@functools.cache
def _grid(name: str) -> NDArray[np.int8]:
    """The vectors of a type, int8 [vectors, 4 or 8]; from ggml-common.h, which defines the types by them."""
    with resources.files("turnout_gguf").joinpath("grids.npz").open("rb") as file, np.load(file) as grids:
        found: NDArray[np.int8] = grids[name]
        return found


_SEVEN = np.arange(128, dtype=np.uint8)
_EVEN = _SEVEN | ((np.bitwise_count(_SEVEN) & 1) << 7)  # seven signs; the eighth makes the number of minuses even


def _signed(vectors: NDArray[np.int8], signs: Bytes, group: int) -> NDArray[np.int8]:
    """Vectors [blocks, n, 4 or 8] with a bit of `signs` [blocks, bytes] for each element: [blocks, groups, group]."""
    minus = np.unpackbits(np.ascontiguousarray(signs), axis=1, bitorder="little").view(np.int8)
    elements = vectors.reshape(len(vectors), -1)
    elements = vectors.reshape(len(vectors), -1)
    return (elements * (1 - 2 * minus)).reshape(len(vectors), -1, group)


def _sevens(packed: NDArray[np.uint32]) -> Bytes:
    """Four times seven signs in each number, [blocks, n], as four bytes each."""
    fields = packed[:, :, None] >> np.array([0, 7, 14, 21], np.uint32) & 127
    signs: Bytes = _EVEN[fields]
    return signs.reshape(len(packed), -1)


def _nibble_scales(packed: Bytes) -> Floats:
    return _fields(packed, 1, 4).astype(np.float32)


def _numbers(raw: Bytes, dtype: str) -> NDArray[Any]:
    return np.ascontiguousarray(raw).view(dtype)


def _iq2_xxs(raw: Bytes) -> Codes:
    numbers = _numbers(raw[:, 2:], "<u4").reshape(len(raw), -1, 2)
    places = np.ascontiguousarray(numbers[:, :, 0]).view(np.uint8)
    scales = _half(raw[:, :2]) * (np.float32(0.5) + (numbers[:, :, 1] >> 28).astype(np.float32)) * np.float32(0.25)
    return Codes(_signed(_grid("IQ2_XXS")[places], _sevens(numbers[:, :, 1]), 32), scales)


def _iq2_xs(raw: Bytes) -> Codes:
    numbers = _numbers(raw[:, 2:66], "<u2")
    scales = _half(raw[:, :2]) * (np.float32(0.5) + _nibble_scales(raw[:, 66:])) * np.float32(0.25)
    return Codes(_signed(_grid("IQ2_XS")[numbers & 511], _EVEN[numbers >> 9], 16), scales)


def _iq2_s(raw: Bytes) -> Codes:
    places = raw[:, 2:34].astype(np.uint16) | (_fields(raw[:, 66:74], 1, 2).astype(np.uint16) << 8)
    scales = _half(raw[:, :2]) * (np.float32(0.5) + _nibble_scales(raw[:, 74:])) * np.float32(0.25)
    return Codes(_signed(_grid("IQ2_S")[places], raw[:, 34:66], 16), scales)


def _iq3_xxs(raw: Bytes) -> Codes:
    numbers = _numbers(raw[:, 66:], "<u4")
    scales = _half(raw[:, :2]) * (np.float32(0.5) + (numbers >> 28).astype(np.float32)) * np.float32(0.5)
    return Codes(_signed(_grid("IQ3_XXS")[raw[:, 2:66]], _sevens(numbers), 32), scales)


def _iq3_s(raw: Bytes) -> Codes:
    places = raw[:, 2:66].astype(np.uint16) | (_fields(raw[:, 66:74], 1, 1).astype(np.uint16) << 8)
    scales = _half(raw[:, :2]) * (1 + 2 * _nibble_scales(raw[:, 106:]))
    return Codes(_signed(_grid("IQ3_S")[places], raw[:, 74:106], 32), scales)


# The IQ1 types add an eighth to each element of a vector or take it away: codes are eighths, and so are scales.


def _eighths(places: NDArray[Any], minus: NDArray[np.bool_], group: int) -> NDArray[np.int8]:
    codes: NDArray[np.int8] = _grid("IQ1")[places] * np.int8(8) + np.where(minus, np.int8(-1), np.int8(1))[:, :, None]
    return codes.reshape(len(places), -1, group)


def _iq1_s(raw: Bytes) -> Codes:
    high = _numbers(raw[:, 34:], "<u2")
    thirds = (high[:, :, None] >> np.array([0, 3, 6, 9], np.uint16) & 7).reshape(len(raw), -1)
    scales = _half(raw[:, :2]) * (2 * (high >> 12 & 7) + 1).astype(np.float32) * np.float32(0.125)
    return Codes(_eighths(raw[:, 2:34] | (thirds << 8), np.repeat(high >= 0x8000, 4, 1), 32), scales)


def _iq1_m(raw: Bytes) -> Codes:
    """The float16 scale lies in the upper four bits of four numbers, whose lower twelve are the scales of four groups."""
    packed = _numbers(raw[:, 48:], "<u2")
    whole = np.bitwise_or.reduce((packed >> 12) << np.array([0, 4, 8, 12], np.uint16), axis=1, keepdims=True)
    small = (packed[:, :, None] >> np.array([0, 3, 6, 9], np.uint16) & 7).reshape(len(raw), -1)
    scales = whole.view(np.float16).astype(np.float32) * (2 * small + 1).astype(np.float32) * np.float32(0.125)
    high = _fields(raw[:, 32:48], 1, 4)
    places = raw[:, :32] | ((high & 7).astype(np.uint16) << 8)
    return Codes(_eighths(places, (high & 8) > 0, 16), scales)


# three values: -1, 0, 1 -------------------------------------------------------------------------------------------------


def _tq1_0(raw: Bytes) -> Codes:
    """Five ternary digits in a byte (four in the last bytes), as a fraction: times 3 brings the next digit over the point."""
    parts = [_digits(raw[:, :32], 5), _digits(raw[:, 32:48], 5), _digits(raw[:, 48:52], 4)]
    return Codes(np.concatenate(parts, 1)[:, None, :] - 1, _half(raw[:, 52:]))


def _digits(packed: Bytes, count: int) -> NDArray[np.int8]:
    powers = np.array([1, 3, 9, 27, 81][:count], np.uint8)[:, None]
    fractions = packed[:, None, :] * powers
    return (fractions.astype(np.uint16) * 3 >> 8).astype(np.int8).reshape(len(packed), -1)


def _tq2_0(raw: Bytes) -> Codes:
    return Codes(_fields(raw[:, :64], 32, 2)[:, None, :] - 1, _half(raw[:, 64:]))


QUANTISED: dict[str, Layout] = {
    "Q4_0": Layout(_q4_0, 32, -8, 7),
    "Q4_1": Layout(_q4_1, 32, 0, 15, has_minimum=True),
    "Q5_0": Layout(_q5_0, 32, -16, 15),
    "Q5_1": Layout(_q5_1, 32, 0, 31, has_minimum=True),
    "Q8_0": Layout(_q8_0, 32, -128, 127),
    "Q2_K": Layout(_q2_k, 16, 0, 3, has_minimum=True),
    "Q3_K": Layout(_q3_k, 16, -4, 3),
    "Q4_K": Layout(_q4_k, 32, 0, 15, has_minimum=True),
    "Q5_K": Layout(_q5_k, 32, 0, 31, has_minimum=True),
    "Q6_K": Layout(_q6_k, 16, -32, 31),
    "IQ4_NL": Layout(_iq4_nl, 32, -127, 113),
    "IQ4_XS": Layout(_iq4_xs, 32, -127, 113),
    "TQ1_0": Layout(_tq1_0, 256, -1, 1),
    "TQ2_0": Layout(_tq2_0, 256, -1, 2),
    "MXFP4": Layout(_mxfp4, 32, -12, 12),
    "NVFP4": Layout(_nvfp4, 16, -12, 12),
    "IQ1_S": Layout(_iq1_s, 32, -9, 9),
    "IQ1_M": Layout(_iq1_m, 16, -9, 9),
    "IQ2_XXS": Layout(_iq2_xxs, 32, -43, 43),
    "IQ2_XS": Layout(_iq2_xs, 16, -43, 43),
    "IQ2_S": Layout(_iq2_s, 16, -43, 43),
    "IQ3_XXS": Layout(_iq3_xxs, 32, -62, 62),
    "IQ3_S": Layout(_iq3_s, 32, -15, 15),
}
"""The quantised types that can be read, by name."""
