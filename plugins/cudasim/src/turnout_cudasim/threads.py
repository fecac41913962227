"""The threads that run a piece of generated code: all of a batch, or those that came the same way."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from turnout_cudasim.execute import Batch
    from turnout_cudasim.report import Kind

u4, u8 = np.uint32, np.uint64


class Special(dict[str, Any]):
    """Special registers of some threads, worked out when first read; values that all share are scalars."""

    def __init__(self, threads: Threads) -> None:
        self.threads = threads

    def __missing__(self, name: str) -> Any:
        value = self.threads.batch.special(name, self.threads)
        self[name] = value
        return value


class Threads:
    """Some threads of a batch, in the order of their numbers. A thread's *slot* is its number when every block is padded to whole warps."""

    def __init__(self, batch: Batch, index: Any = None) -> None:
        self.batch = batch
        self.everyone = index is None
        self.index = np.arange(batch.count) if index is None else index
        self.count = len(self.index)
        self.special = Special(self)
        self._leading = {32: self}

    @property
    def symbols(self) -> dict[str, Any]:
        """Addresses of module variables."""
        return self.batch.symbols

    @cached_property
    def block_row(self) -> Any:
        """Which of the batch's blocks."""
        return self.index // self.batch.block_size

    @cached_property
    def linear(self) -> Any:
        """The number of the thread in its block."""
        return self.index % self.batch.block_size

    @cached_property
    def slot(self) -> Any:
        return self.block_row * (self.batch.warps * 32) + self.linear

    @cached_property
    def lane(self) -> Any:
        return self.linear & 31

    @cached_property
    def warp_row(self) -> Any:
        """Which of the batch's warps."""
        return self.slot >> 5

    @cached_property
    def whole_warps(self) -> bool:
        """Whether these are all lanes of some warps, so that arrays can be cut into rows of 32."""
        if self.count % 32:
            return False
        slots = self.slot.reshape(-1, 32)
        return bool((slots[:, 0] & 31 == 0).all() and (slots[:, 31] - slots[:, 0] == 31).all())

    @cached_property
    def shared_base(self) -> Any:
        """Where each thread's block begins in the batch's shared memory."""
        if self.batch.blocks == 1:
            return np.int64(0)
        return self.block_row * self.batch.shared_stride

    @cached_property
    def local_base(self) -> Any:
        return self.index * self.batch.local_bytes

    def spread(self, value: Any) -> Any:
        """One element per thread, of a value that may be shared."""
        return value if getattr(value, "ndim", 0) else np.full(self.count, value)

    def take(self, chosen: Any) -> Threads:
        """Some of these threads: those at the positions `chosen`."""
        return Threads(self.batch, self.index[chosen])

    def leading(self, lanes: int) -> Threads:
        """The first lanes of each warp, where all of these are whole warps."""
        if lanes not in self._leading:
            self._leading[lanes] = self.take(np.arange(self.count).reshape(-1, 32)[:, :lanes].ravel())
        return self._leading[lanes]

    def fault(self, kind: Kind, site: int, message: str, position: int = 0) -> None:
        """Report what the thread at `position` did at instruction `site`."""
        self.batch.fault(kind, site, int(self.index[position]), message)
