"""Device memory: one flat address space over host memory, with a record of who owns which byte and whether it was ever written."""

from __future__ import annotations

from bisect import bisect_right, insort
from collections import deque
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]

ALIGNMENT = 512
GUARD = 512  # bytes between allocations that belong to nobody
QUARANTINE = 64 << 20  # freed bytes that are not given out again yet, so that their late users are caught

# Windows of the generic address space (PTX ISA, section 6.4.1). Memory lies above all of them.
SHARED_WINDOW = 1 << 32
LOCAL_WINDOW = 1 << 36
PARAMETER_WINDOW = 1 << 37
LOWEST_BASE = 1 << 38


@dataclass(slots=True)
class Allocation:
    """A range of device memory, or of the host's that CUDA gave out. `written`: every byte holds a value, so its reads need no check."""

    address: int
    size: int
    label: str = ""
    written: bool = False
    freed: bool = False
    closed: bool = False  # to kernels: it was freed, or is the host's alone

    @property
    def end(self) -> int:
        return self.address + self.size

    @property
    def name(self) -> str:
        return f"{self.label or 'an allocation'} ({self.size} bytes at {self.address:#x})"


class Memory:
    """The device's memory of `size` bytes from address `base` on; `buffer`, if given, is the host memory to lay it over."""

    def __init__(self, size: int = 1 << 32, *, base: int = 1 << 40, buffer: Bytes | None = None) -> None:
        if base < LOWEST_BASE:
            raise ValueError(f"base {base:#x} lies in the windows of shared and local memory: choose {LOWEST_BASE:#x} or more")
        self.base = base
        self.bytes: Bytes = np.zeros(size, np.uint8) if buffer is None else buffer
        self.size = self.bytes.size
        self.written: Bytes = np.zeros(self.size, np.uint8)  # 1: the byte was written (the pages come lazily, as zeros)
        self.views: dict[str, npt.NDArray[np.generic]] = {}
        self.written_views: dict[str, npt.NDArray[np.generic]] = {}
        for code in ("u1", "i1", "u2", "i2", "f2", "u4", "i4", "f4", "u8", "i8", "f8"):
            whole = self.size & ~7
            self.views[code] = self.bytes[:whole].view(code)
            self.written_views[code] = self.written[:whole].view(f"u{np.dtype(code).itemsize}")
        self._top = self._highest = base + GUARD
        self._starts: list[int] = []
        self._allocations: dict[int, Allocation] = {}
        self._quarantine: deque[Allocation] = deque()
        self._quarantined = 0
        self._holes: list[tuple[int, int]] = []  # (address, size), free to be given out

    # ---- who owns what

    def allocate(self, size: int, *, written: bool = False, label: str = "") -> int:
        """Address of `size` new bytes, aligned to 512. Raises MemoryError."""
        room = -(-max(size, 1) // ALIGNMENT) * ALIGNMENT + GUARD
        address = self._take_hole(room)
        if address is None:
            address = -(-self._top // ALIGNMENT) * ALIGNMENT
            if address + room > self.base + self.size:
                raise MemoryError(f"{size} bytes asked for, {self.base + self.size - address} of {self.size} left")
            self._top = address + room
        self.adopt(address, size, written=written, label=label)
        return address

    def adopt(self, address: int, size: int, *, written: bool = False, label: str = "", closed: bool = False) -> None:
        """Note an allocation that somebody else made inside the arena; `closed`: kernels may not touch it."""
        self._range(address, size)
        for old in self._overlapping(address, size):
            if not old.freed:
                raise ValueError(f"{size} bytes at {address:#x} overlap {old.name}")
            self._forget(old)
        used = min(address + size, self._highest) - address
        if used > 0:  # above that nothing was ever written: leave the pages alone
            self.written[address - self.base : address - self.base + used] = 0
        self._highest = max(self._highest, address + size)
        self._allocations[address] = Allocation(address, size, label, written, closed=closed)
        insort(self._starts, address)

    def free(self, address: int) -> None:
        """Give an allocation back. Its bytes stay unused for a while, so that whoever still uses them is caught."""
        found = self._allocations.get(address)
        if found is None or found.freed:
            raise ValueError(f"{address:#x} is not the start of a live allocation; it lies {self.describe(address)}")
        found.freed = found.closed = True
        self._quarantine.append(found)
        self._quarantined += found.size
        while self._quarantined > QUARANTINE:
            oldest = self._quarantine.popleft()
            self._quarantined -= oldest.size
            self._holes.append((oldest.address, -(-max(oldest.size, 1) // ALIGNMENT) * ALIGNMENT + GUARD))

    def allocation(self, address: int) -> Allocation | None:
        """The allocation, live or freed, that holds this byte."""
        before = self._before(address)
        return before if before is not None and address < before.end else None

    def describe(self, address: int) -> str:
        """Where an address lies, for a report."""
        if address < LOWEST_BASE:
            return "at a null pointer" if address < 1 << 16 else f"at {address:#x}, which is no device address"
        before = self._before(address)
        if before is None:
            return f"at {address:#x}, before every allocation"
        if address < before.end:
            why = ", which was freed" if before.freed else ", to whose pool the device has no access" if before.closed else ""
            return f"{address - before.address} bytes into {before.name}{why}"
        after = bisect_right(self._starts, address)
        if after < len(self._starts) and self._starts[after] - address < address - before.end:
            following = self._allocations[self._starts[after]]
            return f"{following.address - address} bytes before {following.name}"
        return f"{address - before.end} bytes past the end of {before.name}"

    def _before(self, address: int) -> Allocation | None:
        at = bisect_right(self._starts, address)
        return self._allocations[self._starts[at - 1]] if at else None

    def _overlapping(self, address: int, size: int) -> list[Allocation]:
        at = max(0, bisect_right(self._starts, address) - 1)
        found = []
        while at < len(self._starts) and self._starts[at] < address + max(size, 1):
            allocation = self._allocations[self._starts[at]]
            if allocation.end > address or allocation.address == address:
                found.append(allocation)
            at += 1
        return found

    def _forget(self, allocation: Allocation) -> None:
        del self._allocations[allocation.address]
        self._starts.remove(allocation.address)

    def _take_hole(self, room: int) -> int | None:
        for at, (address, size) in enumerate(self._holes):
            if size >= room:
                del self._holes[at]
                if size > room:
                    self._holes.append((address + room, size - room))
                return address
        return None

    # ---- what the host does

    def write(self, address: int, data: object) -> None:
        """Host to device."""
        source = np.frombuffer(data, np.uint8)  # type: ignore[call-overload]
        at = self._range(address, source.size)
        self.bytes[at : at + source.size] = source
        self.mark_written(address, source.size)

    def read(self, address: int, size: int) -> Bytes:
        """A view of device memory."""
        at = self._range(address, size)
        return self.bytes[at : at + size]

    def copy(self, destination: int, source: int, size: int) -> None:
        """Device to device. Bytes that were never written stay so."""
        to, at = self._range(destination, size), self._range(source, size)
        self.bytes[to : to + size] = self.bytes[at : at + size].copy()
        self.mark_copied(destination, source, size)

    def mark_copied(self, destination: int, source: int, size: int) -> None:
        """Note that somebody copied these bytes."""
        to, at = self._range(destination, size), self._range(source, size)
        if (owner := self.allocation(source)) is not None and owner.written:
            self.mark_written(destination, size)
        else:
            self.written[to : to + size] = self.written[at : at + size].copy()

    def fill(self, address: int, pattern: bytes, count: int) -> None:
        """Repeat `pattern` `count` times."""
        size = len(pattern) * count
        at = self._range(address, size)
        self.bytes[at : at + size].reshape(count, len(pattern))[:] = np.frombuffer(pattern, np.uint8)
        self.mark_written(address, size)

    def mark_written(self, address: int, size: int) -> None:
        """Note that somebody wrote these bytes."""
        at = self._range(address, size)
        owner = self.allocation(address)
        if owner is not None and owner.written:
            return
        if owner is not None and owner.address == address and owner.size == size:
            owner.written = True
        else:
            self.written[at : at + size] = 1

    def settle(self, allocations: set[int]) -> None:
        """After a kernel: find out which of these allocations are now written everywhere, so that they need no more checks."""
        for address in allocations:
            found = self._allocations.get(address)
            if found is not None and not found.written:
                at = found.address - self.base
                found.written = bool(self.written[at : at + found.size].all())

    def _range(self, address: int, size: int) -> int:
        at = address - self.base
        if at < 0 or size < 0 or at + size > self.size:
            raise ValueError(f"{size} bytes at {address:#x} are not in device memory")
        return at
