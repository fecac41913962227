"""A plan as text, as a dict with a published schema, and as a page."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from turnout.graph import label
from turnout.plan import Control, Partition, Plan

__all__ = ["CopyStory", "Explanation", "NodeStory", "NotUsedStory", "PartitionStory", "RefusalStory", "explanation"]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True)


class PartitionStory(_Record):
    """A part of the graph on one device."""

    number: int
    device: str
    description: str
    nodes: int = Field(description="nodes of the model, before any rewriting")
    operators: dict[str, int] = Field(description="operator to number of nodes, most first")
    rewritten: dict[str, int] = Field(default_factory=dict, description="what nodes were fused into, to how often")
    placement: dict[str, int] = Field(default_factory=dict, description="where a runtime below put its (fused) nodes")
    body_of: str = Field("", description="the control-flow node whose body this is a part of")
    whole: str = Field("", description="what a device that took the file whole calls it; it has no nodes then")


class CopyStory(_Record):
    """A value that crosses devices."""

    value: str
    type: str
    source: str
    target: str
    bytes: int | None = Field(description="None where the shape is not known before the run; 0 where memory is shared")


class RefusalStory(_Record):
    """What a device would not take, and why; nodes that were refused for the same reason are counted together."""

    device: str
    operator: str
    nodes: int
    reason: str


class NotUsedStory(_Record):
    """A device that had no part."""

    device: str
    reason: str


class NodeStory(_Record):
    """One node: where it runs, who refused it, what else was decided."""

    name: str
    operator: str
    device: str
    partition: int
    refusals: dict[str, str]
    notes: list[str]

    def __str__(self) -> str:
        lines = [f"{self.name} ({self.operator}) runs on {self.device}, in partition {self.partition}"]
        lines += [f"  {device} refused: {reason}" for device, reason in self.refusals.items()]
        return "\n".join(lines + [f"  {note}" for note in self.notes])


class Explanation(_Record):
    """Who runs what, and why. `str()` is the short story; `node(name)` one node's; `to_dict()` all of it."""

    model: str
    fingerprint: str
    partitions: list[PartitionStory]
    copies: list[CopyStory]
    refusals: list[RefusalStory]
    not_used: list[NotUsedStory]
    remarks: list[str]
    nodes: list[NodeStory]

    def to_dict(self) -> dict[str, Any]:
        """Plain data, as `Explanation.model_json_schema()` (docs/explanation.schema.json) describes it."""
        return self.model_dump(mode="json")

    def node(self, name: str) -> NodeStory:
        """One node's story. Raises KeyError, with the names that come close, where there is no such node."""
        import difflib

        for story in self.nodes:
            if story.name == name:
                return story
        close = difflib.get_close_matches(name, [story.name for story in self.nodes], n=3)
        raise KeyError(f"no node {name!r}" + (f"; did you mean {', '.join(close)}?" if close else ""))

    def to_html(self) -> str:
        """The same as a page of its own."""
        from html import escape

        rows = "".join(f"<details><summary>{escape(one.name)}</summary><pre>{escape(str(one))}</pre></details>" for one in self.nodes)
        title = escape(self.model)
        return f"<!doctype html><meta charset=utf-8><title>{title}</title><pre>{escape(str(self))}</pre><h2>Nodes</h2>{rows}"

    def __str__(self) -> str:
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        real = [copy for copy in self.copies if copy.bytes != 0]
        crossing = sum(copy.bytes or 0 for copy in real)
        top = [part for part in self.partitions if not part.body_of]
        copies = f"{_count(len(real), 'copy', 'copies')}{f' ({_size(crossing)})' if crossing else ''}"
        nodes = sum(part.nodes for part in self.partitions)
        if any(part.whole for part in self.partitions):
            yield f"{self.model}: taken whole, no operator graph; plan {self.fingerprint}"
        else:
            yield f"{self.model}: {_count(nodes, 'node')} in {_count(len(top), 'partition')}, {copies}; plan {self.fingerprint}"
        for part in self.partitions:
            yield from _partition_lines(part)
        yield from _section("crossings", [f"{c.value} {c.type}  {c.source} -> {c.target}  {_size(c.bytes)}" for c in self.copies])
        yield from _section("refused", [f"{r.device}: {r.operator} x{r.nodes}: {r.reason}" for r in self.refusals])
        yield from _section("not used", [f"{n.device}: {n.reason}" for n in self.not_used])
        yield from _section("remarks", self.remarks)


def _partition_lines(part: PartitionStory) -> Iterator[str]:
    operators = [f"{name} {count}" if count > 1 else name for name, count in part.operators.items()]
    shown = ", ".join(operators[:6]) + (f" and {len(operators) - 6} more" if len(operators) > 6 else "")
    indent = "     " if part.body_of else "  "
    of = f"  [in {part.body_of}]" if part.body_of else ""
    if part.whole:
        yield f"{indent}{part.number}  {part.device}  {part.whole}"
        return
    yield f"{indent}{part.number}  {part.device}  {_count(part.nodes, 'node')}: {shown}{of}"
    for title, count in part.rewritten.items():
        yield f"{indent}     as {title} x{count}"


def _section(title: str, lines: list[str]) -> Iterator[str]:
    if lines:
        yield f"  {title}"
        yield from (f"    {line}" for line in lines)


def _count(number: int, one: str, many: str = "") -> str:
    return f"{number} {one if number == 1 else many or one + 's'}"


def _size(nbytes: int | None) -> str:
    if nbytes is None:
        return "size known at the run"
    if nbytes == 0:
        return "shared memory"
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if nbytes >= scale:
            return f"{nbytes / scale:.1f} {unit}"
    return f"{nbytes} bytes"


def explanation(name: str, plan: Plan) -> Explanation:
    """The story of a plan."""
    teller = _Teller(plan)
    teller.tell(plan, "")
    return Explanation(
        model=name,
        fingerprint=plan.fingerprint,
        partitions=teller.partitions,
        copies=teller.copies,
        refusals=_refusals(teller.nodes),
        not_used=[NotUsedStory(device=one.name, reason=one.reason) for one in plan.not_used] + teller.idle(),
        remarks=list(plan.ledger.general),
        nodes=teller.nodes,
    )


class _Teller:
    """Walks a plan and the plans of its bodies, in the order in which they run."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.partitions: list[PartitionStory] = []
        self.copies: list[CopyStory] = []
        self.nodes: list[NodeStory] = []

    def tell(self, plan: Plan, body_of: str) -> None:
        positions = {node: position for position, node in enumerate(plan.graph)}
        for step in plan.steps:
            number = len(self.partitions) + 1
            self.partitions.append(_partition_story(step, number, body_of))
            for node in step.nodes:
                self._tell_node(node, label(node, positions[node]), step.device.name, number)
            if isinstance(step, Control):
                for name, body in step.bodies.items():
                    self.tell(body, f"{name} of {label(step.node, positions[step.node])}")
        self.copies += [CopyStory(value=c.value, type=c.type, source=c.source, target=c.target, bytes=c.nbytes) for c in plan.copies]

    def _tell_node(self, node: Any, name: str, device: str, number: int) -> None:
        self.nodes.append(
            NodeStory.model_construct(
                name=name,
                operator=f"{node.domain}::{node.op_type}" if node.domain else node.op_type,
                device=device,
                partition=number,
                refusals=dict(self.plan.ledger.refusals(node)),
                notes=[*self.plan.ledger.remarks(node, device), *self.plan.ledger.notes.get(node, [])],
            )
        )

    def idle(self) -> list[NotUsedStory]:
        """Devices that were allowed and got nothing."""
        used = {part.device for part in self.partitions}
        refused = Counter(device for node in self.nodes for device in node.refusals)
        return [
            NotUsedStory(
                device=one.name,
                reason=f"refused {_count(refused[one.name], 'node')}" if refused[one.name] else "devices before it took every node",
            )
            for one in self.plan.candidates
            if one.name not in used
        ]


def _partition_story(step: Partition | Control, number: int, body_of: str) -> PartitionStory:
    return PartitionStory(
        number=number,
        device=step.device.name,
        description=step.device.description,
        nodes=len(step.nodes),
        operators=dict(Counter(node.op_type for node in step.nodes).most_common()),
        rewritten=dict(Counter(rewrite.title for rewrite in step.rewrites)) if isinstance(step, Partition) else {},
        placement=dict(step.placement) if isinstance(step, Partition) else {},
        body_of=body_of,
        whole=step.whole if isinstance(step, Partition) else "",
    )


def _refusals(nodes: list[NodeStory]) -> list[RefusalStory]:
    counted = Counter((device, node.operator, reason) for node in nodes for device, reason in node.refusals.items())
    return [RefusalStory(device=d, operator=o, nodes=count, reason=reason) for (d, o, reason), count in counted.items()]
