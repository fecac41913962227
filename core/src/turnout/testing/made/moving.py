"""Cases of operators that move values and compute nothing: every element type passes bit by bit, strings too."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from turnout.testing.made.draft import Draft, Group, admitted
from turnout.testing.made.draw import DTYPES, draw, is_narrow, strided

__all__ = ["groups"]


def groups() -> Iterator[Group]:
    """Each operator with every element type that it moves."""
    for operator, make in _MOVES.items():
        for name in admitted(operator):
            yield Group(operator, name, functools.partial(make, DTYPES[name]))
    for name in admitted("ConstantOfShape", "T2"):
        yield Group("ConstantOfShape", name, functools.partial(_constant_of_shape, DTYPES[name]))
    for name in admitted("Range", "T"):
        yield Group("Range", name, functools.partial(_range, DTYPES[name]))


def _int(*values: int) -> np.ndarray[Any, Any]:
    return np.array(values, np.int64)


def _by(dtype: np.dtype[Any], rows: Sequence[tuple[str, Sequence[int], np.ndarray[Any, Any]]]) -> Iterator[Draft]:
    """Drafts of an operator with a shape-like second input: as a constant, and the first also as an input of the model."""
    for number, (kind, shape, second) in enumerate(rows):
        x = draw(dtype, shape, "data")
        yield Draft(kind, [x, second], constants=[1], title=str(second.tolist()))
        if not number:
            yield Draft(kind, [x, second], title="as an input")
            yield Draft("strided", [strided(x), second], constants=[1])


def _reshape(dtype: np.dtype[Any]) -> Iterator[Draft]:
    yield from _by(
        dtype,
        [
            ("plain", (2, 3, 4), _int(4, 6)),
            ("plain", (2, 3, 4), _int(0, -1)),
            ("plain", (2, 3, 4), _int(-1)),
            ("scalar", (1, 1), _int()),
            ("empty", (0, 3), _int(0, 9)),
        ],
    )
    yield Draft("empty", [draw(dtype, (0, 3), "data"), _int(3, 0)], {"allowzero": 1}, [1], title="allowzero=1")


def _transpose(dtype: np.dtype[Any]) -> Iterator[Draft]:
    x = draw(dtype, (2, 3, 4), "data")
    yield Draft("plain", [x])
    yield Draft("attributes", [x], {"perm": [1, 2, 0]}, title="perm=[1,2,0]")
    yield Draft("attributes", [x], {"perm": [0, 2, 1]}, title="perm=[0,2,1]")
    yield Draft("odd", [draw(dtype, (1, 7, 13), "data")], {"perm": [2, 0, 1]})
    yield Draft("large", [draw(dtype, (131, 67), "data")])
    yield Draft("empty", [draw(dtype, (2, 0, 3), "data")])
    yield Draft("strided", [strided(x)])


def _concat(dtype: np.dtype[Any]) -> Iterator[Draft]:
    def parts(*shapes: Sequence[int]) -> list[Any]:
        return [draw(dtype, shape, f"part {place}") for place, shape in enumerate(shapes)]

    yield Draft("plain", parts((2, 3), (4, 3)), {"axis": 0})
    yield Draft("plain", parts((2, 3), (2, 1), (2, 5)), {"axis": -1}, title="three")
    yield Draft("plain", parts((2, 3)), {"axis": 1}, title="one")
    yield Draft("empty", parts((2, 0), (2, 3)), {"axis": 1})
    yield Draft("constant", parts((2, 3), (4, 3)), {"axis": 0}, [1])
    yield Draft("strided", [strided(part) for part in parts((2, 3), (4, 3))], {"axis": 0})


def _slice(dtype: np.dtype[Any]) -> Iterator[Draft]:
    x = draw(dtype, (4, 5, 6), "data")
    rows = {
        "two axes": (_int(1, 0), _int(3, 4), _int(0, 2), _int(1, 2)),
        "backwards": (_int(-1), _int(-7), _int(2), _int(-1)),
        "past the end": (_int(2), _int(1000), _int(1), _int(1)),
        "nothing": (_int(3), _int(3), _int(0), _int(1)),
    }
    for title, places in rows.items():
        kind = "empty" if title == "nothing" else "plain"
        yield Draft(kind, [x, *places], constants=[1, 2, 3, 4], title=title)
    yield Draft("plain", [x, *rows["two axes"]], title="as inputs")
    yield Draft("strided", [strided(x), *rows["two axes"]], constants=[1, 2, 3, 4])


def _split(dtype: np.dtype[Any]) -> Iterator[Draft]:
    x = draw(dtype, (6, 4), "data")
    yield Draft("plain", [x, _int(1, 2, 3)], constants=[1], outputs=3)
    yield Draft("attributes", [x], {"num_outputs": 2, "axis": 1}, outputs=2, title="num_outputs=2")
    yield Draft("odd", [x], {"num_outputs": 4}, outputs=4, title="uneven")
    yield Draft("empty", [x, _int(0, 6)], constants=[1], outputs=2)


def _gather(dtype: np.dtype[Any]) -> Iterator[Draft]:
    x = draw(dtype, (4, 5), "data")
    yield Draft("plain", [x, _int(0, 3, 1)])
    yield Draft("plain", [x, np.array([[0, -1], [2, 1]], np.int32)], {"axis": 1}, title="axis=1, negative")
    yield Draft("scalar", [x, np.array(2, np.int64)])
    yield Draft("empty", [x, _int()])
    yield Draft("constant", [x, _int(0, 3, 1)], constants=[0])
    yield Draft("strided", [strided(x), _int(0, 3, 1)])


def _gather_elements(dtype: np.dtype[Any]) -> Iterator[Draft]:
    x = draw(dtype, (3, 4), "data")
    yield Draft("plain", [x, np.array([[0, 2, 1, 1], [-1, 0, 0, 2]], np.int64)])
    yield Draft("attributes", [x, np.array([[3], [0], [-2]], np.int32)], {"axis": 1}, title="axis=1")


def _gather_nd(dtype: np.dtype[Any]) -> Iterator[Draft]:
    x = draw(dtype, (2, 3, 4), "data")
    yield Draft("plain", [x, np.array([[0, 2], [1, -1]], np.int64)])
    yield Draft("attributes", [x, np.array([[1], [2]], np.int64)], {"batch_dims": 1}, title="batch_dims=1")


def _scatter_elements(dtype: np.dtype[Any]) -> Iterator[Draft]:
    x, updates = draw(dtype, (3, 4), "data"), draw(dtype, (2, 4), "updates")
    yield Draft("plain", [x, np.array([[0, 2, 1, 1], [-1, 0, 0, 2]], np.int64), updates])
    yield Draft("attributes", [x, np.array([[3], [0], [-2]], np.int32), updates.reshape(4, 2)[:3, :1].copy()], {"axis": 1})


def _scatter_nd(dtype: np.dtype[Any]) -> Iterator[Draft]:
    x, updates = draw(dtype, (4, 3), "data"), draw(dtype, (2, 3), "updates")
    yield Draft("plain", [x, np.array([[3], [-4]], np.int64), updates])


def _expand(dtype: np.dtype[Any]) -> Iterator[Draft]:
    yield from _by(
        dtype,
        [
            ("plain", (3, 1), _int(2, 1, 4)),
            ("plain", (3, 4), _int(1)),
            ("scalar", (), _int(2, 3)),
            ("empty", (1, 3), _int(0, 3)),
        ],
    )


def _tile(dtype: np.dtype[Any]) -> Iterator[Draft]:
    yield from _by(dtype, [("plain", (2, 3), _int(2, 3)), ("plain", (2, 3), _int(1, 1)), ("empty", (2, 3), _int(0, 2))])


def _squeeze(dtype: np.dtype[Any]) -> Iterator[Draft]:
    yield from _by(dtype, [("plain", (1, 3, 1, 4), _int(0, -2)), ("scalar", (1,), _int(0)), ("empty", (1, 0), _int(0))])
    yield Draft("attributes", [draw(dtype, (1, 3, 1), "data")], title="no axes")


def _unsqueeze(dtype: np.dtype[Any]) -> Iterator[Draft]:
    yield from _by(dtype, [("plain", (3, 4), _int(0, 3)), ("plain", (3, 4), _int(-1)), ("scalar", (), _int(0)), ("empty", (0,), _int(1))])


def _flatten(dtype: np.dtype[Any]) -> Iterator[Draft]:
    x = draw(dtype, (2, 3, 4), "data")
    yield Draft("plain", [x])
    for axis in (0, 3, -1):
        yield Draft("attributes", [x], {"axis": axis}, title=f"axis={axis}")
    yield Draft("empty", [draw(dtype, (0, 3, 4), "data")])


def _pad(dtype: np.dtype[Any]) -> Iterator[Draft]:
    x, fill = draw(dtype, (3, 4), "data"), draw(dtype, (), "fill", 1.0, 3.0)
    yield Draft("plain", [x, _int(1, 0, 2, 1)], constants=[1])
    yield Draft("plain", [x, _int(1, 0, 2, 1), fill], constants=[1], title="with a value")
    yield Draft("plain", [x, _int(1, 0, 2, 1)], title="pads as an input")
    yield Draft("plain", [x, _int(-1, 0, 0, -2)], constants=[1], title="negative")
    for mode in ("reflect", "edge", "wrap"):
        yield Draft("attributes", [x, _int(1, 0, 2, 1)], {"mode": mode}, [1], title=mode)
    yield Draft("attributes", [x, _int(1, 2), None, _int(1)], constants=[1, 3], title="axes")
    yield Draft("empty", [x[:0], _int(1, 0, 0, 0)], constants=[1])


def _shape(dtype: np.dtype[Any]) -> Iterator[Draft]:
    yield Draft("plain", [draw(dtype, (2, 3, 4), "data")])
    yield Draft("attributes", [draw(dtype, (2, 3, 4), "data")], {"start": -2, "end": 10}, title="start=-2 end=10")
    yield Draft("scalar", [draw(dtype, (), "data")])
    yield Draft("empty", [draw(dtype, (2, 0), "data")])


def _size(dtype: np.dtype[Any]) -> Iterator[Draft]:
    yield Draft("plain", [draw(dtype, (2, 3, 4), "data")])
    yield Draft("scalar", [draw(dtype, (), "data")])
    yield Draft("empty", [draw(dtype, (2, 0), "data")])


def _depth(dtype: np.dtype[Any]) -> Iterator[Draft]:
    x = draw(dtype, (2, 8, 2, 3), "data")
    yield Draft("plain", [x], {"blocksize": 2})
    yield Draft("attributes", [x], {"blocksize": 2, "mode": "CRD"}, title="mode=CRD")


def _space(dtype: np.dtype[Any]) -> Iterator[Draft]:
    yield Draft("plain", [draw(dtype, (2, 3, 4, 6), "data")], {"blocksize": 2})


def _compress(dtype: np.dtype[Any]) -> Iterator[Draft]:
    x = draw(dtype, (3, 4), "data")
    yield Draft("plain", [x, np.array([True, False, True])], {"axis": 0})
    yield Draft("plain", [x, np.array([False, True, True, False, True])], title="flat")
    yield Draft("empty", [x, np.array([False, False, False])], {"axis": 0})


def _trilu(dtype: np.dtype[Any]) -> Iterator[Draft]:
    x = draw(dtype, (4, 5), "data")
    yield Draft("plain", [x])
    yield Draft("attributes", [x, np.array(1, np.int64)], {"upper": 0}, [1], title="lower k=1")
    yield Draft("attributes", [x, np.array(-2, np.int64)], constants=[1], title="upper k=-2")
    yield Draft("empty", [x[:0]])


def _non_zero(dtype: np.dtype[Any]) -> Iterator[Draft]:
    yield Draft("plain", [draw(dtype, (3, 4), "data", -1.0, 1.0)])
    yield Draft("empty", [draw(dtype, (0, 4), "data")])


def _unique(dtype: np.dtype[Any]) -> Iterator[Draft]:
    yield Draft("plain", [draw(dtype, (12,), "data").astype(dtype)], outputs=4)
    yield Draft("attributes", [draw(dtype, (12,), "data")], {"sorted": 0}, outputs=4, title="sorted=0")


def _reverse(dtype: np.dtype[Any]) -> Iterator[Draft]:
    x = draw(dtype, (4, 3), "data")
    yield Draft("plain", [x, _int(1, 4, 2)], {"time_axis": 0, "batch_axis": 1})


def _eye(dtype: np.dtype[Any]) -> Iterator[Draft]:
    yield Draft("plain", [draw(dtype, (3, 4), "data")])
    yield Draft("attributes", [draw(dtype, (3, 4), "data")], {"k": 1}, title="k=1")


def _one_hot(dtype: np.dtype[Any]) -> Iterator[Draft]:
    if dtype.kind not in "iuf" or is_narrow(dtype):
        return
    indices = np.array([0, 2, 1], dtype)
    yield Draft("plain", [indices, np.array(3, np.int64), np.array([0, 1], np.float32)])
    yield Draft("attributes", [indices, np.array([4], np.int64), np.array([5, -2], np.int64)], {"axis": 0}, title="axis=0")


def _constant_of_shape(dtype: np.dtype[Any]) -> Iterator[Draft]:
    from onnx import numpy_helper

    value = numpy_helper.from_array(draw(dtype, (1,), "value", 1.0, 3.0))
    yield Draft("plain", [_int(2, 3)], {"value": value})
    yield Draft("scalar", [_int()], {"value": value})
    yield Draft("empty", [_int(2, 0)], {"value": value})


def _range(dtype: np.dtype[Any]) -> Iterator[Draft]:
    def ends(*values: float) -> list[Any]:
        return [np.array(value, dtype) for value in values]

    yield Draft("plain", ends(1, 10, 3))
    yield Draft("constant", ends(0, 7, 1), constants=[0, 1, 2])
    yield Draft("empty", ends(3, 3, 1))
    yield Draft("attributes", ends(10, 1, -2), title="backwards")


_MOVES = {
    "Reshape": _reshape,
    "Transpose": _transpose,
    "Concat": _concat,
    "Slice": _slice,
    "Split": _split,
    "Gather": _gather,
    "GatherElements": _gather_elements,
    "GatherND": _gather_nd,
    "ScatterElements": _scatter_elements,
    "ScatterND": _scatter_nd,
    "Expand": _expand,
    "Tile": _tile,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Flatten": _flatten,
    "Pad": _pad,
    "Shape": _shape,
    "Size": _size,
    "DepthToSpace": _depth,
    "SpaceToDepth": _space,
    "Compress": _compress,
    "Trilu": _trilu,
    "NonZero": _non_zero,
    "Unique": _unique,
    "ReverseSequence": _reverse,
    "EyeLike": _eye,
    "OneHot": _one_hot,
}
