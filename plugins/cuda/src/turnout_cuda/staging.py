"""Staging: how arrays cross between the host's memory and the device's, through two pieces of pinned memory that take turns.

While the device reads or writes one piece, the host copies the other. An upload does not wait for the device at all, and a large copy runs
at the speed of the bus: the driver's own way from pageable memory does neither.
"""

from __future__ import annotations

import ctypes
import threading
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from turnout_cuda.context import Context

__all__ = ["PIECE", "Staging"]

PIECE = 4 << 20
"""Bytes of a piece."""

Bytes = np.ndarray[Any, Any]


class Staging:
    """Two pieces of pinned memory, each with an event that says when the device is done with it. Any thread may use it."""

    def __init__(self, context: Context, piece: int = PIECE) -> None:
        driver = context.driver
        self._context = context
        self._piece = piece
        self._lock = threading.Lock()
        self._base = int(context.check(driver.cuMemHostAlloc(2 * piece, 0)))
        memory = np.ctypeslib.as_array((ctypes.c_ubyte * (2 * piece)).from_address(self._base))
        self._views = memory[:piece], memory[piece:]
        flag = driver.CUevent_flags.CU_EVENT_DISABLE_TIMING.value
        self._done = [context.check(driver.cuEventCreate(flag)) for _ in range(2)]
        self._next = 0

    def upload(self, source: Bytes, address: int) -> None:
        """Bytes to the device, in the stream's order. They may be changed as soon as this returns."""
        context, driver = self._context, self._context.driver
        with self._lock:
            for begin in range(0, source.size, self._piece):
                part, which = source[begin : begin + self._piece], self._take()
                self._views[which][: part.size] = part
                context.check(driver.cuMemcpyHtoDAsync(address + begin, self._base + which * self._piece, part.size, context.stream))
                context.check(driver.cuEventRecord(self._done[which], context.stream))

    def download(self, address: int, target: Bytes) -> None:
        """Bytes from the device, when all that was asked for before is done."""
        context, driver = self._context, self._context.driver
        with self._lock:
            under_way: list[tuple[int, int, int]] = []
            for begin in range(0, target.size, self._piece):
                size, which = min(self._piece, target.size - begin), self._take()
                context.check(driver.cuMemcpyDtoHAsync(self._base + which * self._piece, address + begin, size, context.stream))
                context.check(driver.cuEventRecord(self._done[which], context.stream))
                under_way.append((begin, size, which))
                if len(under_way) == 2:
                    self._land(*under_way.pop(0), target)
            for one in under_way:
                self._land(*one, target)

    def _take(self) -> int:
        """The piece whose turn it is, when the device is done with it."""
        which, self._next = self._next, 1 - self._next
        self._context.check(self._context.driver.cuEventSynchronize(self._done[which]))
        return which

    def _land(self, begin: int, size: int, which: int, target: Bytes) -> None:
        self._context.check(self._context.driver.cuEventSynchronize(self._done[which]))
        target[begin : begin + size] = self._views[which][:size]
