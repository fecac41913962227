"""The memory plan: where in the arena each scratch buffer of a plan lies, so that those never overlap that live at the same time.

"At the same time" has two meanings. In a stream, steps come one after the other. In a CUDA graph, steps run at once that do not wait for
each other, and sharing memory would make them wait: so buffers share there only if one's last use comes before the other's first by the
data itself. That takes more memory, and is done where it is little more.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from turnout_cuda.array import Buffer, Launch, Step
from turnout_cuda.graph import dependencies

__all__ = ["ALIGNMENT", "Placement", "place"]

ALIGNMENT = 256
"""Bytes: what the driver's own allocations are aligned to, so that every vector load is."""
_MORE, _SPARE = 1.25, 16 << 20
"""How much longer an arena may be, as a factor or in bytes, for branches to run at once."""

Placement = dict[Buffer, int]
"""Buffer to its offset in the arena, in bytes."""

_Uses = dict[Buffer, int]
"""Buffer to the steps that touch it, a bit each."""
_Over = Callable[[int, int], bool]
"""Whether the steps of the first mask are all done when those of the second begin."""


def place(steps: Sequence[Step], *, at_once: bool = True) -> tuple[Placement, int]:
    """Offsets of all scratch buffers of the steps, and the arena's size. Largest first, each at the lowest offset where it fits.

    A result takes over the memory of an operand that is read there for the last time, where the kernel allows it.
    at_once: whether steps are to wait for each other by their data only, where that takes little more memory.
    """
    uses = _uses(steps)
    tight = _packed(steps, dict(uses), lambda first, then: first.bit_length() <= _first(then))
    if not at_once:
        return tight
    ancestors = _ancestors(steps, uses)
    loose = _packed(steps, dict(uses), lambda first, then: not first & ~ancestors[_first(then)])
    return loose if loose[1] <= max(_MORE * tight[1], tight[1] + _SPARE) else tight


def _first(mask: int) -> int:
    return (mask & -mask).bit_length() - 1


def _uses(steps: Sequence[Step]) -> _Uses:
    found: _Uses = {}
    for number, step in enumerate(steps):
        for buffer in (*step.writes, *step.reads):
            if buffer.home == "scratch":
                found[buffer] = found.get(buffer, 0) | 1 << number
    return found


def _ancestors(steps: Sequence[Step], uses: _Uses) -> list[int]:
    """For each step, those that it waits for by its data, at any remove: as if no two buffers shared memory."""
    apart, top = {}, 0
    for buffer in uses:
        apart[buffer] = top
        top += max(buffer.nbytes, 1)
    found: list[int] = []
    for waits in dependencies(steps, apart):
        own = 0
        for number in waits:
            own |= found[number] | 1 << number
        found.append(own)
    return found


def _packed(steps: Sequence[Step], uses: _Uses, over: _Over) -> tuple[Placement, int]:
    heirs = _inherit(steps, uses, over)
    offsets: Placement = {}
    placed: list[tuple[int, int, int]] = []
    top = 0
    for buffer, own in sorted(uses.items(), key=lambda row: -row[0].nbytes):
        size = -(-max(buffer.nbytes, 1) // ALIGNMENT) * ALIGNMENT
        offset = 0
        for start, end, other in placed:
            if start < offset + size and offset < end and not over(own, other) and not over(other, own):
                offset = end
        offsets[buffer] = offset
        placed.append((offset, offset + size, own))
        placed.sort()
        top = max(top, offset + size)
    for heir, buffer in heirs.items():
        root = buffer
        while root in heirs:
            root = heirs[root]
        offsets[heir] = offsets[root]
    return offsets, top


def _inherit(steps: Sequence[Step], uses: _Uses, over: _Over) -> dict[Buffer, Buffer]:
    """Result to the operand whose memory it takes over; the operand's uses then are the result's too."""
    heirs: dict[Buffer, Buffer] = {}
    owner: dict[Buffer, Buffer] = {}
    for number, step in enumerate(steps):
        here = 1 << number
        for written, read in step.in_place if isinstance(step, Launch) else ():
            root = owner.get(read, read)
            fits = written in uses and written not in owner and root in uses and written.nbytes <= root.nbytes
            if fits and _first(uses[written]) == number and uses[root] & here and over(uses[root] & ~here, here):
                heirs[written] = root
                owner[written] = root
                uses[root] |= uses.pop(written)
                break
    return heirs
