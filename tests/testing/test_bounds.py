"""What counts as the same result."""

import ml_dtypes
import numpy as np
import pytest

from turnout.testing.bounds import class_of, difference

ONE = np.array([1.0, 2.0], np.float32)


@pytest.mark.parametrize(
    ("got", "wanted", "says"),
    [
        (ONE.astype(np.float64), ONE, "dtype float64, not float32"),
        (ONE[:1], ONE, r"shape \[1\], not \[2\]"),
        (1.0, ONE, "a float, not a NumPy array"),
        (None, ONE, "None, not a NumPy array"),
        (ONE, None, "not an empty optional"),
        (ONE, [ONE], "not a sequence of 1"),
        ([ONE, ONE * 2], [ONE, ONE], "at position 1 is 2.0 where 1.0 was due"),
        (np.array([1.0, np.nan], np.float32), ONE, r"is nan where 2.0 was due at \[1\] \(1 of 2"),
        (ONE, np.array([1.0, np.nan], np.float32), "where nan was due"),
        (np.array([np.inf, 1], np.float32), np.array([-np.inf, 1], np.float32), "is inf where -inf was due"),
        (np.array([1, 2]), np.array([1, 3]), "is 2 where 3 was due"),
        (np.array(["a", "c"], object), np.array(["a", "b"], object), "is c where b was due"),
    ],
)
def test_what_differs_is_named(got, wanted, says):
    import re

    assert re.search(says, difference(got, wanted, "sum"))


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize(("kind", "inside", "outside"), [("rounded", 1, 8), ("function", 3, 40), ("sum", 15, 200)])
def test_bounds_are_counted_in_units_in_the_last_place(dtype, kind, inside, outside):
    eps = float(ml_dtypes.finfo(dtype).eps)
    wanted = np.array([1.0], dtype)
    assert not difference(np.array([1 + inside * eps], dtype), wanted, kind)
    assert difference(np.array([1 + outside * eps], dtype), wanted, kind)


def test_exact_means_exact_and_nan_is_nan():
    assert not difference(np.array([np.nan, np.inf, -0.0], np.float32), np.array([np.nan, np.inf, 0.0], np.float32), "exact")
    assert difference(np.nextafter(ONE, 3), ONE, "exact")
    assert not difference(np.nextafter(ONE, 3), ONE, "exact", rtol=1e-3)


def test_types_only():
    assert not difference(ONE * 5, ONE, "exact", values=False)
    assert difference(ONE.astype(np.float16), ONE, "exact", values=False)


def test_a_case_has_the_widest_class_of_its_operators():
    assert class_of({"Reshape"}) == "exact"
    assert class_of({"Reshape", "Add"}) == "rounded"
    assert class_of({"Reshape", "Exp", "MatMul"}) == "sum"
    assert class_of({"NoSuchOperator"}) == "function"
    assert class_of(set()) == "exact"
