"""Cases of older definitions that mean something else than the newest: attributes that became inputs, defaults and shapes that changed.

ONNX's own cases are of the newest definitions only, and its evaluator applies some of those to older operator sets as well; so
the outputs here are written down.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from turnout.testing.made.draft import Draft, Group

__all__ = ["groups"]

X = np.array([[[1, -2, 3], [0, 1, 2]], [[4, 0, -1], [2, 2, 2]]], np.float32)


def groups() -> Iterator[Group]:
    """One group per operator, all in float32."""
    for operator, drafts in _DRAFTS.items():
        yield Group(operator, "float", lambda drafts=drafts: drafts)  # type: ignore[misc]


def _draft(version: int, inputs: list[Any], attributes: dict[str, Any], *wanted: Any, constants: tuple[int, ...] = ()) -> Draft:
    return Draft("version", inputs, attributes, constants, outputs=len(wanted), version=version, wanted=wanted, title=f"at {version}")


def _int(*values: int) -> np.ndarray[Any, Any]:
    return np.array(values, np.int64)


def _flat_softmax(x: np.ndarray[Any, Any], axis: int) -> np.ndarray[Any, Any]:
    """Softmax before operator set 13: over all axes from `axis` on at once."""
    rows = x.reshape(int(np.prod(x.shape[:axis])), -1).astype(np.float64)
    powers = np.exp(rows - rows.max(axis=1, keepdims=True))
    return np.asarray((powers / powers.sum(axis=1, keepdims=True)).reshape(x.shape), x.dtype)


_FIRST = np.zeros((2, 6), np.float32)
_FIRST[[0, 1], [2, 0]] = 1
_ROWS = np.array([10, 20], np.float32)

_DRAFTS: dict[str, list[Draft]] = {
    "Softmax": [
        _draft(12, [X], {}, _flat_softmax(X, 1)),
        _draft(11, [X], {"axis": 0}, _flat_softmax(X, 0)),
        _draft(9, [X], {"axis": 2}, _flat_softmax(X, 2)),
    ],
    "LogSoftmax": [_draft(11, [X], {}, np.log(_flat_softmax(X, 1)))],
    "Hardmax": [_draft(11, [X], {}, _FIRST.reshape(X.shape))],
    "Clip": [
        _draft(6, [X], {"min": -1.0, "max": 2.0}, X.clip(-1, 2)),
        _draft(10, [X], {"max": 2.0}, X.clip(None, 2)),
    ],
    "Squeeze": [_draft(11, [X[:, :1]], {"axes": [1]}, X[:, 0]), _draft(9, [X[:1]], {"axes": [0]}, X[0])],
    "Unsqueeze": [_draft(11, [X], {"axes": [0, 4]}, X[None, ..., None])],
    "ReduceSum": [
        _draft(11, [X], {"axes": [-1], "keepdims": 0}, X.sum(-1)),
        _draft(9, [X], {"axes": [0, 1]}, X.sum((0, 1), keepdims=True)),
    ],
    "ReduceMax": [_draft(13, [X], {"axes": [1], "keepdims": 0}, X.max(1)), _draft(11, [X], {}, X.max(keepdims=True))],
    "ReduceMean": [_draft(13, [X], {"axes": [2]}, X.mean(2, keepdims=True))],
    "Slice": [_draft(9, [X], {"starts": [0, -2], "ends": [2, 1000], "axes": [1, 2]}, X[:, 0:2, -2:])],
    "Split": [
        _draft(11, [X], {"axis": 2, "split": [1, 2]}, X[..., :1], X[..., 1:]),
        _draft(13, [X, _int(2, 1)], {"axis": 2}, X[..., :2], X[..., 2:], constants=(1,)),
    ],
    "TopK": [_draft(9, [X], {"k": 1, "axis": 0}, X.max(0, keepdims=True), X.argmax(0)[None])],
    "Pad": [_draft(9, [X[0]], {"pads": [0, 1, 1, 0], "value": 5.0}, np.pad(X[0], ((0, 1), (1, 0)), constant_values=5))],
    "Dropout": [_draft(9, [X], {"ratio": 0.5}, X), _draft(12, [X, np.array(0.5, np.float32)], {}, X, constants=(1,))],
    "Add": [_draft(6, [X, _ROWS], {"broadcast": 1, "axis": 1}, X + _ROWS[:, None])],
    "Mul": [_draft(6, [X, _ROWS], {"broadcast": 1, "axis": 0}, X * _ROWS[:, None, None])],
    "Gemm": [_draft(9, [X[0], X[0], _ROWS[:1]], {"transB": 1}, X[0] @ X[0].T + 10)],
    "Scatter": [_draft(9, [X[0], np.array([[1, 0, 1]], np.int64), X[1][:1]], {}, np.array([[1, 0, 3], [4, 1, -1]], np.float32))],
    "BatchNormalization": [
        _draft(
            9, [X, _ROWS, _ROWS, _ROWS, np.ones(2, np.float32)], {"epsilon": 0.0}, (X - _ROWS[:, None]) * _ROWS[:, None] + _ROWS[:, None]
        )
    ],
    "Upsample": [_draft(9, [X[None], np.array([1, 1, 1, 2], np.float32)], {"mode": "nearest"}, X[None].repeat(2, -1), constants=(1,))],
    "Resize": [_draft(10, [X[None], np.array([1, 1, 2, 1], np.float32)], {"mode": "nearest"}, X[None].repeat(2, -2), constants=(1,))],
}
