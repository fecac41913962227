"""What differs between two outputs: their kind, dtype, shape or values."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["difference"]

_BFLOAT16_RTOL = 2**-6  # two units in the last place, as ONNX's own runner has it


def difference(got: Any, wanted: Any, rtol: float, atol: float) -> str:
    """How `got` differs from `wanted`; "" where it does not."""
    if wanted is None or got is None:
        return "" if got is wanted else f"{_brief(got)} instead of {_brief(wanted)}"
    if isinstance(wanted, (list, tuple)):
        if not isinstance(got, (list, tuple)) or len(got) != len(wanted):
            return f"{_brief(got)} instead of {_brief(wanted)}"
        each = (difference(have, want, rtol, atol) for have, want in zip(got, wanted, strict=True))
        return next((f"element {i}: {problem}" for i, problem in enumerate(each) if problem), "")
    if not isinstance(got, np.ndarray):
        return f"a {type(got).__name__} instead of an array"
    wanted = np.asarray(wanted)
    text = wanted.dtype.kind in "OUS"
    if got.shape != wanted.shape or (got.dtype != (np.dtype(object) if text else wanted.dtype)):
        return f"{_brief(got)} instead of {_brief(wanted)}"
    if text:
        same = [str(one) for one in got.reshape(-1)] == [str(one) for one in wanted.reshape(-1)]
        return "" if same else f"{got.tolist()} instead of {wanted.tolist()}"
    return _values(got, wanted, rtol, atol)


def _values(got: np.ndarray[Any, Any], wanted: np.ndarray[Any, Any], rtol: float, atol: float) -> str:
    if got.dtype.kind in "biu":
        close = np.isclose(got, wanted, rtol=rtol, atol=atol) if got.dtype.kind != "b" else got == wanted
    else:
        rtol = max(rtol, _BFLOAT16_RTOL) if got.dtype.name == "bfloat16" else rtol
        wide = np.complex128 if got.dtype.kind == "c" else np.float64
        close = np.isclose(got.astype(wide), wanted.astype(wide), rtol=rtol, atol=atol, equal_nan=True)
    if close.all():
        return ""
    at = tuple(int(one) for one in np.argwhere(~close)[0])
    return f"{int((~close).sum())} of {close.size} values differ, first at {at}: {got[at]} instead of {wanted[at]}"


def _brief(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"{value.dtype}{list(value.shape)}"
    return f"a list of {len(value)}" if isinstance(value, (list, tuple)) else repr(value)
