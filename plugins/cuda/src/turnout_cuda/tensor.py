"""DeviceTensor: a value in a GPU's memory, as it passes between executables."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from turnout_cuda.context import Memory
    from turnout_cuda.dlpack import Borrowed

__all__ = ["MIRRORED", "DeviceTensor"]

MIRRORED = 1024
"""Elements up to which a tensor that came from the host keeps its values there too: shapes follow from such tensors."""


class DeviceTensor:
    """A dense tensor in device memory. shape: tuple of int. dtype: NumPy's. mirror: its values on the host, where few and known."""

    __slots__ = ("dtype", "memory", "mirror", "shape")

    def __init__(
        self, shape: Sequence[int], dtype: np.dtype[Any], memory: Memory | Borrowed, mirror: np.ndarray[Any, Any] | None = None
    ) -> None:
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

    def get(self) -> np.ndarray[Any, Any]:
        """A copy in host memory, when all that was asked for before is done."""
        return self.memory.context.download(self.address, self.shape, self.dtype)

    def __dlpack_device__(self) -> tuple[int, int]:
        return 2, self.memory.context.gpu.ordinal  # dlpack.h, kDLCUDA

    def __dlpack__(
        self,
        *,
        stream: int | None = None,
        max_version: tuple[int, int] | None = None,
        dl_device: tuple[int, int] | None = None,
        copy: bool | None = None,
    ) -> Any:
        """A capsule over this memory, by the array API standard. Raises BufferError for another device, or a type that DLPack lacks."""
        from turnout_cuda.dlpack import export

        if dl_device is not None and (int(dl_device[0]), int(dl_device[1])) != self.__dlpack_device__():
            raise BufferError(f"this tensor lies on {self.__dlpack_device__()}, and is not taken to {dl_device} here: use `get`")
        one = self.memory.context.copied(self) if copy else self
        return export(one, stream=stream, versioned=max_version is not None and max_version[0] >= 1)

    def __repr__(self) -> str:
        return f"DeviceTensor({self.dtype}{list(self.shape)} at {self.address:#x})"
