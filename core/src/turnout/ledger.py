"""The ledger: the one object that writes planning decisions, so that an unrecorded one cannot exist."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from turnout.provider import No, Yes

if TYPE_CHECKING:
    import onnx_ir as ir

    from turnout.device import Device
    from turnout.provider import Provider
    from turnout.verified import Wrong

__all__ = ["Candidate", "Ledger", "Placement"]


@dataclass(frozen=True, slots=True)
class Candidate:
    """One device that may be used, in the order of preference.

    last_resort: asked only for what nobody else takes. wrong: what verifying found wrong with it (`turnout.verified`).
    """

    provider: Provider
    device: Device
    last_resort: bool = False
    wrong: Mapping[Wrong, str] = field(default_factory=dict, hash=False)

    @property
    def name(self) -> str:
        return self.device.name


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a node goes: to a candidate, or to turnout itself (None, for control flow). `group` numbers a fused claim."""

    candidate: Candidate | None
    group: int | None = None
    seconds: float | None = None
    title: str = ""


@dataclass
class Ledger:
    """Every answer about every node, and where each went. Writing an answer and placing a node have no other door.

    refusals carried in (`barred`) come from a compile that failed: they stand above whatever the provider says.
    """

    barred: dict[tuple[ir.Node, str], str] = field(default_factory=dict)
    answers: dict[ir.Node, dict[str, Yes | No]] = field(default_factory=dict)
    placements: dict[ir.Node, Placement] = field(default_factory=dict)
    notes: dict[ir.Node, list[str]] = field(default_factory=dict)
    general: list[str] = field(default_factory=list)

    def answer(self, node: ir.Node, candidate: Candidate, verdict: Yes | No) -> Yes | No:
        """Writes what a candidate said of a node; a bar turns any Yes into its reason."""
        if (barred := self.barred.get((node, candidate.name))) is not None:
            verdict = No(barred)
        self.answers.setdefault(node, {})[candidate.name] = verdict
        return verdict

    def place(self, node: ir.Node, placement: Placement) -> None:
        """Writes where a node goes."""
        self.placements[node] = placement

    def note(self, node: ir.Node, text: str) -> None:
        """Writes a decision about one node in words."""
        self.notes.setdefault(node, []).append(text)

    def remark(self, text: str) -> None:
        """Writes a decision about the whole plan in words."""
        if text not in self.general:
            self.general.append(text)

    def refusals(self, node: ir.Node) -> Iterator[tuple[str, str]]:
        """(device, reason) for each candidate that said No."""
        for name, verdict in self.answers.get(node, {}).items():
            if isinstance(verdict, No):
                yield name, verdict.reason

    def remarks(self, node: ir.Node, device: str) -> Iterator[str]:
        """What the device that took the node had to say of it."""
        verdict = self.answers.get(node, {}).get(device)
        if isinstance(verdict, Yes) and verdict.remark:
            yield verdict.remark
