"""Cases of conversions between element types: Cast from each to each, quantizing and back."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import numpy as np
from onnx import helper

from turnout.testing.made.draft import Draft, Group, admitted
from turnout.testing.made.draw import DTYPES, draw, is_float, is_narrow, strided

__all__ = ["groups"]


def groups() -> Iterator[Group]:
    """Cast from every type, QuantizeLinear from every type, DequantizeLinear of every type, BitCast."""
    for name in admitted("Cast"):
        yield Group("Cast", name, functools.partial(_cast, name))
    for name in admitted("QuantizeLinear"):
        yield Group("QuantizeLinear", name, functools.partial(_quantize, DTYPES[name]))
    for name in admitted("DequantizeLinear"):
        yield Group("DequantizeLinear", name, functools.partial(_dequantize, DTYPES[name]))


def _number(name: str) -> int:
    return 8 if name == "string" else int(helper.np_dtype_to_tensor_dtype(DTYPES[name]))


def _cast(name: str) -> Iterator[Draft]:
    """Whole numbers that every type can hold: what becomes of others is written in ONNX's own cases."""
    source = DTYPES[name]
    x = _whole(source)
    targets = [other for other in admitted("Cast") if other != "string" and not (other == "float8e8m0" and name != "float8e8m0")]
    if name == "string":
        x = np.array(["1", "0", "0", "1"], object)
        targets = [other for other in targets if not is_narrow(DTYPES[other]) and other != "bool"]
    for target in targets:
        yield Draft("plain", [x], {"to": _number(target)}, title=f"to {target}")
    if name != "string":
        yield Draft("empty", [x[:0]], {"to": _number("float")})
        yield Draft("strided", [strided(x)], {"to": _number("float")})


def _whole(dtype: np.dtype[Any]) -> np.ndarray[Any, Any]:
    values = [[1, 1, 1], [1, 1, 1]] if "e8m0" in dtype.name else [[1, 1, 0], [0, 1, 0]]
    return np.array(values).astype(dtype)


def _quantize(dtype: np.dtype[Any]) -> Iterator[Draft]:
    x = draw(dtype, (3, 4), "QuantizeLinear", -60.0, 60.0)
    scale = np.array(0.5 if is_float(dtype) else 2, dtype)
    for name in ("uint8", "int8", "uint16", "int16"):
        zero = np.array(7, DTYPES[name])
        yield Draft("plain", [x, scale, zero], constants=[1, 2], title=f"to {name}")
    yield Draft("constant", [x, scale], title="no zero point")
    if is_float(dtype):
        scales, zeros = np.array([0.25, 0.5, 1.0, 2.0], dtype), np.array([1, 2, 3, 4], np.uint8)
        yield Draft("attributes", [x, scales, zeros], {"axis": 1}, [1, 2], title="per axis")
        yield Draft("empty", [x[:0], scale, np.array(7, np.uint8)], constants=[1, 2])


def _dequantize(dtype: np.dtype[Any]) -> Iterator[Draft]:
    x = draw(dtype, (3, 4), "DequantizeLinear", -6.0, 6.0)
    scale = np.array(0.5, np.float32)
    yield Draft("plain", [x, scale], constants=[1])
    if not is_float(dtype) and dtype != np.int32:
        yield Draft("plain", [x, scale, np.array(1, dtype)], constants=[1, 2], title="zero point")
    yield Draft("attributes", [x, np.array([0.25, 0.5, 1.0, 2.0], np.float32)], {"axis": 1}, [1], title="per axis")
    yield Draft("empty", [x[:0], scale], constants=[1])
