"""mbarriers: phases that end when enough threads have arrived and enough bytes have come (PTX ISA, section 9.7.13.16)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from turnout_cudasim.access import IN_FLIGHT, WRITTEN, locate
from turnout_cudasim.copies import copies_of, fill, land
from turnout_cudasim.memory import SHARED_WINDOW
from turnout_cudasim.report import Kind
from turnout_cudasim.threads import Threads

__all__ = [
    "copy_mbarrier_arrive", "mbarrier_arrive", "mbarrier_complete", "mbarrier_expect", "mbarrier_init", "mbarrier_invalidate",
    "mbarrier_wait",
]  # fmt: skip


@dataclass
class Mbarrier:
    """An mbarrier object. `phase` counts the phases that are over; `regions` are bytes in flight that the current one waits for."""

    expected: int
    pending: int
    transactions: int = 0
    phase: int = 0
    known: Any = None  # what those who arrived have seen (see hazards.py)
    published: Any = None  # the same, of the phases that are over
    regions: list[tuple[int, int]] = field(default_factory=list)
    arrived: list[tuple[int, int]] = field(default_factory=list)  # regions of phases that are over


def _barriers(t: Threads) -> dict[int, Mbarrier]:
    if t.batch.barriers is None:
        t.batch.barriers = {}
    found: dict[int, Mbarrier] = t.batch.barriers
    return found


def _barrier_places(t: Threads, space: str, address: Any, site: int) -> Any:
    """Bytes of shared memory where each thread's mbarrier lies."""
    if space == "generic":
        address = address - SHARED_WINDOW
    place = locate(t, "shared", address, 8, site)
    assert place is not None
    return t.spread(place[1])


def barrier_at(t: Threads, place: int, site: int, position: int) -> Mbarrier:
    found = _barriers(t).get(place)
    if found is None:
        offset = place % t.batch.shared_stride
        t.fault(Kind.INVALID_BARRIER, site, f"no mbarrier was initialised at offset {offset} of shared memory", position)
        found = _barriers(t)[place] = Mbarrier(1, 1)
    return found


def mbarrier_init(t: Threads, space: str, address: Any, count: Any, site: int) -> None:
    counts = t.spread(count)
    for position, place in enumerate(_barrier_places(t, space, address, site).tolist()):
        number = int(counts[position])
        if not 1 <= number < 1 << 20:
            t.fault(Kind.INVALID_BARRIER, site, f"an mbarrier for {number} arrivals; 1 to 1048575 are allowed", position)
        _barriers(t)[place] = Mbarrier(number, number)
        t.batch.shared_state[place : place + 8] = WRITTEN
        t.batch.shared[place : place + 8] = 0
    t.batch.progress += 1


def mbarrier_invalidate(t: Threads, space: str, address: Any, site: int) -> None:
    for place in _barrier_places(t, space, address, site).tolist():
        _barriers(t).pop(place, None)


def turn(t: Threads, barrier: Mbarrier) -> None:
    """Begin the next phase if everything that was expected has come."""
    if barrier.pending == 0 and barrier.transactions == 0:
        barrier.phase += 1
        barrier.pending = barrier.expected
        barrier.arrived += barrier.regions
        barrier.regions = []
        if barrier.known is not None:
            barrier.published = barrier.known if barrier.published is None else np.maximum(barrier.published, barrier.known)
            barrier.known = None
        t.batch.progress += 1


def _publish(t: Threads, barrier: Mbarrier, positions: Any) -> None:
    races = t.batch.races
    if races is not None:
        known = races.publish(np.unique(t.warp_row[positions]))
        barrier.known = known if barrier.known is None else np.maximum(barrier.known, known)


def mbarrier_arrive(t: Threads, space: str, address: Any, count: Any, transactions: Any, drop: bool, site: int) -> Any:
    """Arrive `count` times, expecting `transactions` more bytes before; returns the phase, as the state to wait for."""
    places = _barrier_places(t, space, address, site)
    counts, bytes_ = t.spread(count).astype(np.int64), t.spread(transactions).astype(np.int64)
    states = np.zeros(t.count, np.uint64)
    for place in dict.fromkeys(places.tolist()):
        positions = np.flatnonzero(places == place)
        barrier = barrier_at(t, place, site, int(positions[0]))
        _publish(t, barrier, positions)
        for position in positions.tolist():  # one after the other: a phase may end in the middle
            states[position] = barrier.phase
            barrier.transactions += int(bytes_[position])
            arrivals = int(counts[position])
            if arrivals > barrier.pending:
                message = f"{arrivals} arrivals where the mbarrier expects {barrier.pending} more"
                t.fault(Kind.INVALID_BARRIER, site, message, position)
            barrier.pending -= arrivals
            if drop:
                barrier.expected -= arrivals
            turn(t, barrier)
    return states


def mbarrier_expect(t: Threads, space: str, address: Any, transactions: Any, site: int) -> None:
    """Expect more bytes in this phase."""
    bytes_ = t.spread(transactions).astype(np.int64)
    for position, place in enumerate(_barrier_places(t, space, address, site).tolist()):
        barrier = barrier_at(t, place, site, position)
        barrier.transactions += int(bytes_[position])


def mbarrier_complete(t: Threads, space: str, address: Any, transactions: Any, site: int) -> None:
    """Simulate the arrival of bytes."""
    bytes_ = t.spread(transactions).astype(np.int64)
    for position, place in enumerate(_barrier_places(t, space, address, site).tolist()):
        barrier = barrier_at(t, place, site, position)
        barrier.transactions -= int(bytes_[position])
        turn(t, barrier)


def mbarrier_wait(t: Threads, space: str, address: Any, phase: Any, parity: bool, site: int) -> Any:
    """test_wait and try_wait: whether the phase is over. Who waits in vain lets the others go first."""
    places = _barrier_places(t, space, address, site)
    phases = t.spread(phase).astype(np.int64)
    over = np.zeros(t.count, bool)
    for place in dict.fromkeys(places.tolist()):
        positions = np.flatnonzero(places == place)
        barrier = barrier_at(t, place, site, int(positions[0]))
        done = (barrier.phase & 1) != (phases[positions] & 1) if parity else barrier.phase > phases[positions]
        over[positions] = done
        if done.any():
            _see(t, barrier, positions[done])
    if not over.all():
        t.batch.aside, t.batch.waiting_at = True, site
    return over


def _see(t: Threads, barrier: Mbarrier, positions: Any) -> None:
    """What the phases that are over have brought is now there for those who waited."""
    for low, high in barrier.arrived:
        state = t.batch.shared_state[low:high]
        state[state == IN_FLIGHT] = WRITTEN
    barrier.arrived = []
    if t.batch.races is not None and barrier.published is not None:
        t.batch.races.learn(np.unique(t.warp_row[positions]), barrier.published)


def copy_mbarrier_arrive(t: Threads, space: str, address: Any, counted: bool, site: int) -> None:
    """cp.async.mbarrier.arrive: arrive when the thread's copies have landed. Without .noinc the arrival adds itself to what is expected."""
    copies = copies_of(t)
    limit = np.full(t.batch.count, -1, np.int64)
    limit[t.index] = np.iinfo(np.int64).max
    landed = land(t, copies, limit)
    places = _barrier_places(t, space, address, site)
    for place in dict.fromkeys(places.tolist()):
        positions = np.flatnonzero(places == place)
        barrier = barrier_at(t, place, site, int(positions[0]))
        for first, size in landed:
            fill(t.batch.shared_state, first, size, IN_FLIGHT)
            barrier.regions += [(at, at + size) for at in first.tolist()]
        landed = []
        _publish(t, barrier, positions)
        if counted:
            barrier.pending -= len(positions)
        turn(t, barrier)
