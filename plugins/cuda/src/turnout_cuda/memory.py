"""The memory plan: where in the arena each scratch buffer of a plan lies, so that those never overlap that live at the same time."""

from __future__ import annotations

from collections.abc import Sequence

from turnout_cuda.array import Buffer, Launch, Step

__all__ = ["ALIGNMENT", "Placement", "place"]

ALIGNMENT = 256
"""Bytes: what the driver's own allocations are aligned to, so that every vector load is."""

Placement = dict[Buffer, int]
"""Buffer to its offset in the arena, in bytes."""


def place(steps: Sequence[Step]) -> tuple[Placement, int]:
    """Offsets of all scratch buffers of the steps, and the arena's size. Largest first, each at the lowest offset where it fits.

    A result takes over the memory of an operand that is read there for the last time, where the kernel allows it.
    """
    lives = _lifetimes(steps)
    heirs = _inherit(steps, lives)
    offsets: Placement = {}
    placed: list[tuple[int, int, int, int]] = []
    top = 0
    for buffer, (first, last) in sorted(lives.items(), key=lambda row: -row[0].nbytes):
        size = -(-max(buffer.nbytes, 1) // ALIGNMENT) * ALIGNMENT
        offset = 0
        for start, end, begins, ends in placed:
            if begins <= last and first <= ends and start < offset + size and offset < end:
                offset = end
        offsets[buffer] = offset
        placed.append((offset, offset + size, first, last))
        placed.sort()
        top = max(top, offset + size)
    for heir, buffer in heirs.items():
        root = buffer
        while root in heirs:
            root = heirs[root]
        offsets[heir] = offsets[root]
    return offsets, top


def _lifetimes(steps: Sequence[Step]) -> dict[Buffer, tuple[int, int]]:
    """Scratch buffer to the first and last step that touches it."""
    lives: dict[Buffer, tuple[int, int]] = {}
    for number, step in enumerate(steps):
        for buffer in (*step.writes, *step.reads):
            if buffer.home == "scratch":
                lives[buffer] = (lives.get(buffer, (number, 0))[0], number)
    return lives


def _inherit(steps: Sequence[Step], lives: dict[Buffer, tuple[int, int]]) -> dict[Buffer, Buffer]:
    """Result to the operand whose memory it takes over; the operand's life then lasts as long as the result's."""
    heirs: dict[Buffer, Buffer] = {}
    owner: dict[Buffer, Buffer] = {}
    for number, step in enumerate(steps):
        for written, read in step.in_place if isinstance(step, Launch) else ():
            root = owner.get(read, read)
            fits = written in lives and written not in owner and root in lives and written.nbytes <= root.nbytes
            if fits and lives[root][1] == number and lives[written][0] == number:
                heirs[written] = root
                owner[written] = root
                lives[root] = (lives[root][0], lives.pop(written)[1])
                break
    return heirs
