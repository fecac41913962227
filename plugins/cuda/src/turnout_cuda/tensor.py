"""DeviceTensor: a value in a GPU's memory, as it passes between executables."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from turnout_cuda.context import Memory

__all__ = ["MIRRORED", "DeviceTensor"]

MIRRORED = 1024
"""Elements up to which a tensor that came from the host keeps its values there too: shapes follow from such tensors."""


class DeviceTensor:
    """A dense tensor in device memory. shape: tuple of int. dtype: NumPy's. mirror: its values on the host, where few and known."""

    __slots__ = ("dtype", "memory", "mirror", "shape")

    def __init__(self, shape: Sequence[int], dtype: np.dtype[Any], memory: Memory, mirror: np.ndarray[Any, Any] | None = None) -> None:
        self.shape = tuple(shape)
        self.dtype = dtype
        self.memory = memory
        self.mirror = mirror

    @property
    def address(self) -> int:
        """Where it begins."""
        return self.memory.address

    @property
    def nbytes(self) -> int:
        """Bytes."""
        return math.prod(self.shape) * self.dtype.itemsize

    def __repr__(self) -> str:
        return f"DeviceTensor({self.dtype}{list(self.shape)} at {self.address:#x})"
