"""Cases made for each operator and element type: shapes that are empty, odd, large and scalar, broadcasting, strides, NaN, constants."""

from __future__ import annotations

import functools

from turnout.testing.made import converting, elementwise, linear, moving, reducing, versions
from turnout.testing.made.draft import Group

__all__ = ["groups"]


@functools.cache
def groups() -> tuple[Group, ...]:
    """Every group, in a fixed order; their cases are made when they are first asked for."""
    return tuple(group for family in (elementwise, reducing, moving, linear, converting, versions) for group in family.groups())
