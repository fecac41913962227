"""a * b + c with one rounding: the operation that NumPy lacks, in C (native/fused/fma.c)."""

from __future__ import annotations

import ctypes
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["fma"]

LIBRARY = Path(__file__).parents[1] / "libfused.so"


def fma(a: Any, b: Any, c: Any) -> Any:
    """a * b + c of float32 or float64, rounded once to the nearest. Each is an array of one dimension, or a scalar for all elements."""
    type_ = a.dtype
    values = [np.ascontiguousarray(v, type_) for v in (a, b, c)]
    result = np.empty(max(v.size for v in values), type_)
    pointers = [argument for v in values for argument in (v.ctypes.data, v.size > 1)]
    _function(type_.char)(result.size, *pointers, result.ctypes.data)
    return result if a.ndim or b.ndim or c.ndim else result[0]


@lru_cache(maxsize=2)
def _function(char: str) -> Any:
    function = getattr(ctypes.CDLL(str(LIBRARY)), {"f": "fma_f4", "d": "fma_f8"}[char])
    function.argtypes = [ctypes.c_size_t, *[ctypes.c_void_p, ctypes.c_size_t] * 3, ctypes.c_void_p]
    function.restype = None
    return function
