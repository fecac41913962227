"""Steps four and five of a plan: partitions by topological order, and the veto on islands that do not pay for their copies."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass, field

from turnout.assign import Assignment, ask
from turnout.device import HOST, Device
from turnout.graph import describe, ir, nbytes
from turnout.ledger import Candidate, Placement
from turnout.provider import Yes

__all__ = ["Run", "split", "veto"]


@dataclass
class Run:
    """Nodes that run one after the other in one place: a candidate's partition, or (None) one control-flow node of turnout's own."""

    candidate: Candidate | None
    nodes: list[ir.Node] = field(default_factory=list)

    @property
    def device(self) -> Device:
        return HOST if self.candidate is None else self.candidate.device


def split(assignment: Assignment, candidates: Sequence[Candidate]) -> list[Run]:
    """The nodes in an order that respects every dependency, cut where the device changes.

    Stays on a device while anything there is ready (a fused claim is ready as a whole). On a change the least preferred device that
    has something ready goes first, so that the preferred one then finds more of its own.
    """
    units, waits, followers = _units(assignment)
    preference = {candidate.name: -number for number, candidate in enumerate(candidates)}
    ready: dict[str, list[int]] = {}
    runs: list[Run] = []

    def place_of(unit: int) -> Candidate | None:
        return assignment.ledger.placements[units[unit][0]].candidate

    def make_ready(unit: int) -> None:
        heapq.heappush(ready.setdefault(_name(place_of(unit)), []), unit)

    for unit, count in enumerate(waits):
        if count == 0:
            make_ready(unit)
    while ready:
        here = runs[-1].device.name if runs else ""
        if here not in ready or runs[-1].candidate is None:
            here = min(ready, key=lambda name: (preference.get(name, -len(preference)), name))
            runs.append(Run(place_of(ready[here][0])))
        unit = heapq.heappop(ready[here])
        if not ready[here]:
            del ready[here]
        runs[-1].nodes += units[unit]
        for follower in followers[unit]:
            waits[follower] -= 1
            if waits[follower] == 0:
                make_ready(follower)
    return runs


def _name(candidate: Candidate | None) -> str:
    return HOST.name if candidate is None else candidate.name


def _units(assignment: Assignment) -> tuple[list[list[ir.Node]], list[int], list[list[int]]]:
    """(nodes of each unit, number of units it waits for, units that wait for it); a unit is a node, or a fused claim whole."""
    units: list[list[ir.Node]] = []
    unit_of: dict[ir.Node, int] = {}
    group_unit: dict[int, int] = {}
    for node in assignment.nodes:
        group = assignment.ledger.placements[node].group
        number = len(units) if group is None else group_unit.setdefault(group, len(units))
        if number == len(units):
            units.append([])
        units[number].append(node)
        unit_of[node] = number
    before: list[set[int]] = [set() for _ in units]
    for node, values in assignment.reads.items():
        for value in values:
            producer = value.producer()
            if producer in unit_of and unit_of[producer] != unit_of[node]:
                before[unit_of[node]].add(unit_of[producer])
    followers: list[list[int]] = [[] for _ in units]
    for unit, sources in enumerate(before):
        for source in sources:
            followers[source].append(unit)
    return units, [len(sources) for sources in before], followers


def veto(assignment: Assignment, candidates: Sequence[Candidate]) -> list[Run]:
    """Splits, and moves each island whose gain is smaller than its copies to a neighbour, until none is left.

    Only where both sides gave times for every node: order decides, cost only vetoes, and the numbers are the reason.
    """
    runs = split(assignment, candidates)
    while any(_vetoed(run, assignment, candidates) for run in runs):
        runs = split(assignment, candidates)
    return runs


def _vetoed(run: Run, assignment: Assignment, candidates: Sequence[Candidate]) -> bool:
    if run.candidate is None or run.candidate.device.on_host:
        return False
    here = _seconds([assignment.ledger.placements[node] for node in run.nodes])
    if here is None:
        return False
    for other in _neighbours(run, assignment, candidates):
        there = _seconds_elsewhere(run, assignment, other)
        if there is None:
            continue
        saved = _copy_seconds(run, assignment, run.candidate.device) - _copy_seconds(run, assignment, other.device)
        if saved > 0 and there - here < saved:
            reason = f"vetoed: {_micro(there - here)} gained over {other.name} would be less than the {_micro(saved)} that its copies cost"
            _move(run, assignment, other, reason)
            return True
    return False


def _micro(seconds: float) -> str:
    return f"{seconds * 1e6:.1f} us"


def _seconds(placements: Sequence[Placement]) -> float | None:
    """The time of placed nodes; a fused claim counts once. None where any of them has none."""
    total, seen = 0.0, set()
    for placement in placements:
        if placement.seconds is None:
            return None
        if placement.group is None or placement.group not in seen:
            total += placement.seconds
            seen.add(placement.group)
    return total


def _seconds_elsewhere(run: Run, assignment: Assignment, other: Candidate) -> float | None:
    total = 0.0
    for node in run.nodes:
        verdict = ask(node, assignment.graph, other, assignment.ledger)
        if not isinstance(verdict, Yes) or verdict.seconds is None:
            return None
        total += verdict.seconds
    return total


def _crossings(run: Run, assignment: Assignment) -> list[tuple[ir.Value, Device]]:
    """(value, the device at its other end), for every value that enters or leaves the run, once per other device."""
    inside = set(run.nodes)
    placements = assignment.ledger.placements
    crossings: dict[tuple[ir.Value, Device], None] = {}
    for node in run.nodes:
        for value in assignment.reads[node]:
            producer = value.producer()
            if producer in placements and producer not in inside:
                crossings[value, _device(placements[producer])] = None
            elif producer is None and value.const_value is None:
                crossings[value, HOST] = None
    for node in assignment.nodes:
        if node not in inside:
            for value in assignment.reads[node]:
                if value.producer() in inside:
                    crossings[value, _device(placements[node])] = None
    for value in assignment.graph.outputs:
        if value.producer() in inside:
            crossings[value, HOST] = None
    return list(crossings)


def _device(placement: Placement) -> Device:
    return HOST if placement.candidate is None else placement.candidate.device


def _neighbours(run: Run, assignment: Assignment, candidates: Sequence[Candidate]) -> list[Candidate]:
    """Other candidates, those at the far end of a crossing first, then whoever works in host memory."""
    ends = {device.name for _, device in _crossings(run, assignment)}
    others = [one for one in candidates if one != run.candidate and (one.name in ends or one.device.on_host)]
    return sorted(others, key=lambda one: one.name not in ends)


def _copy_seconds(run: Run, assignment: Assignment, here: Device) -> float:
    """Seconds of the run's copies if it ran on `here`; an unknown size counts as none, so that only its latency speaks."""
    total = 0.0
    for value, there in _crossings(run, assignment):
        if there.name != here.name:
            total += sum(end.link.seconds(nbytes(value) or 0) for end in (here, there) if end.link is not None)
    return total


def _move(run: Run, assignment: Assignment, other: Candidate, reason: str) -> None:
    assert run.candidate is not None
    for node in run.nodes:
        verdict = assignment.ledger.answers[node][other.name]
        assignment.ledger.barred[node, run.candidate.name] = reason
        assignment.ledger.place(node, Placement(other, seconds=verdict.seconds if isinstance(verdict, Yes) else None))
        assignment.ledger.answer(node, run.candidate, Yes())
    crossing = ", ".join(f"{value.name} {describe(value)}" for value, _ in _crossings(run, assignment)[:3])
    assignment.ledger.remark(f"island of {len(run.nodes)} on {run.candidate.name} {reason} ({crossing})")
