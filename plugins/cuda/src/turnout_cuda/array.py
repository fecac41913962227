"""What a launch rule works with: arrays whose values are in device memory, on the host, or not computed yet."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from turnout_cuda.element import ELEMENTS, Element

__all__ = ["Array", "Buffer", "Formula", "Launch", "Move", "Outside", "Step"]


class Buffer:
    """A piece of device memory that a plan speaks of before it has an address.

    home: "input" (given to the run), "constant" (a weight, `address` is known), "output" (made for the caller), "kept" (lives for one run)
    or "scratch" (a place in the arena, which the memory plan finds).
    """

    __slots__ = ("address", "home", "nbytes", "owner")

    def __init__(self, nbytes: int, home: str = "scratch", address: int = 0, owner: Any = None) -> None:
        self.nbytes = nbytes
        self.home = home
        self.address = address
        self.owner = owner


@dataclass
class Formula:
    """A value that is a formula of others, element by element: `text` is C++ over {0}, {1} ..., each of its array's work type.

    Nothing is launched before somebody needs the value, and a formula that one other formula reads becomes part of that one.
    """

    text: str
    inputs: Sequence[Array]


class Array:
    """A dense tensor, last axis fastest. Its values are in `buffer`, or a `formula`, or on the `host`; at least one of them is there."""

    __slots__ = ("buffer", "element", "formula", "host", "readers", "shape")

    def __init__(
        self,
        shape: Sequence[int],
        element: Element,
        buffer: Buffer | None = None,
        *,
        formula: Formula | None = None,
        host: Any = None,
    ) -> None:
        self.shape = tuple(int(size) for size in shape)
        self.element = element
        self.buffer = buffer
        self.formula = formula
        self.host = host
        self.readers = 1

    @property
    def size(self) -> int:
        """Elements."""
        return math.prod(self.shape)

    @property
    def ndim(self) -> int:
        """Axes."""
        return len(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of memory."""
        return self.size * self.element.size

    def as_type(self, name: str) -> Array:
        """The same bytes taken as elements of another type of that size."""
        element = ELEMENTS[name]
        assert element.size == self.element.size
        assert self.buffer is not None
        return Array(self.shape, element, self.buffer)

    def __repr__(self) -> str:
        return f"Array({self.element}{list(self.shape)})"


@dataclass
class Launch:
    """One kernel launch of a plan. arguments: (C type, value), where a value is a number or a Buffer. grid, block: up to three sizes.

    in_place: (written, read) buffers, where each thread reads only those elements that it then writes.
    operations: adds, multiplications and the like that the results ask for, None where nobody counted them.
    """

    source: str
    entry: str
    grid: tuple[int, int, int]
    block: int
    arguments: list[tuple[str, Any]]
    reads: list[Buffer] = field(default_factory=list)
    writes: list[Buffer] = field(default_factory=list)
    in_place: list[tuple[Buffer, Buffer]] = field(default_factory=list)
    shared: int = 0
    operations: int | None = None


@dataclass
class Move:
    """A copy inside device memory, or with `fill` a byte repeated."""

    target: Buffer
    source: Buffer | None
    nbytes: int
    target_offset: int = 0
    source_offset: int = 0
    fill: int = 0

    @property
    def reads(self) -> list[Buffer]:
        return [] if self.source is None else [self.source]

    @property
    def writes(self) -> list[Buffer]:
        return [self.target]


@dataclass
class Outside:
    """Work that a library puts onto a stream by itself. issue: gets where a buffer lies, as a function, and the stream; raises RunError.

    In writes: what it needs beside its operands, too.
    """

    issue: Callable[[Callable[[Buffer], int], Any], None]
    reads: list[Buffer]
    writes: list[Buffer]


Step = Launch | Move | Outside
"""What plans are made of."""
