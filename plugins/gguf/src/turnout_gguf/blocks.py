"""What the blocks of GGUF's quantised types hold: small integers, and how they become weights.

Every type here is, whatever its bytes look like, groups of integer codes with a scale, and for some a minimum:

    weight = scale * code + minimum

`unpack` gives the three; `dequantise` computes the line above in float32, bit by bit what ggml computes; `repack.py` writes the codes
down as other runtimes want them. Sources: the structures of ggml-common.h and their reference dequantisation in ggml-quants.c.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

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
}
"""The quantised types that can be read, by name."""
