"""A plan: who runs what, and why. What runs is what `explain()` prints.

Planning goes one way: lower and ask (assign), expand (expand), split and veto (split), then copies where a value crosses devices.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from turnout.assign import Assignment, assign
from turnout.device import HOST, Device
from turnout.errors import NoProvider
from turnout.expand import expand_local_functions
from turnout.graph import captures, describe, ir, is_constant, label, nbytes, partition, subgraphs
from turnout.ledger import Candidate, Ledger
from turnout.provider import Rewrite
from turnout.split import Run, veto

__all__ = ["Control", "Copy", "NotUsed", "Partition", "Plan", "plan"]


@dataclass(frozen=True)
class NotUsed:
    """A device or provider that had no part, and why."""

    name: str
    reason: str


@dataclass(frozen=True)
class Copy:
    """A value that crosses devices. `nbytes` is None where the shape is not known before the run; 0 where both share host memory."""

    value: str
    type: str
    source: str
    target: str
    nbytes: int | None


@dataclass
class Partition:
    """A part of the graph on one device. `graph` is what the provider compiles, in its dialect."""

    candidate: Candidate
    nodes: list[ir.Node]
    inputs: list[ir.Value]
    outputs: list[ir.Value]
    rewrites: list[Rewrite] = field(default_factory=list)
    graph: ir.GraphView = None  # type: ignore[assignment]
    lowered: list[ir.Node | None] = field(default_factory=list)
    """For each node of `graph`, the node of the model that it comes from."""
    placement: Mapping[str, int] = field(default_factory=dict)
    """What a runtime below reported of its own placement, once compiled."""
    whole: str = ""
    """The title of a source that was taken whole; it has no nodes then, and no graph."""

    @property
    def device(self) -> Device:
        return self.candidate.device


@dataclass
class Control:
    """An If, Loop or Scan that turnout runs itself; its bodies are plans of their own."""

    nodes: list[ir.Node]
    """The one node."""
    inputs: list[ir.Value]
    """What must be in host memory before it runs: its own inputs and what its bodies take from outside, constants left out."""
    outputs: list[ir.Value]
    bodies: dict[str, Plan]

    @property
    def node(self) -> ir.Node:
        return self.nodes[0]

    @property
    def device(self) -> Device:
        return HOST


@dataclass
class Plan:
    """Steps in the order in which they run, the copies between them, and the ledger of every decision."""

    graph: ir.Graph
    candidates: Sequence[Candidate]
    ledger: Ledger
    steps: list[Partition | Control]
    copies: list[Copy]
    not_used: list[NotUsed] = field(default_factory=list)
    captured: list[ir.Value] = field(default_factory=list)
    """For a body: the values from outside that it reads; they come after its own inputs."""

    def walk(self) -> Iterator[Partition | Control]:
        """Every step, those of bodies after the step that they belong to."""
        for step in self.steps:
            yield step
            if isinstance(step, Control):
                for body in step.bodies.values():
                    yield from body.walk()

    def nodes_per_device(self) -> dict[str, int]:
        """Device name to the number of nodes that run there."""
        counts: Counter[str] = Counter()
        for step in self.walk():
            counts[step.device.name] += len(step.nodes)
        return dict(counts)

    @property
    def whole(self) -> Partition | None:
        """The one step of a source that was taken whole; None where the plan is one of an operator graph."""
        return next((step for step in self.steps if isinstance(step, Partition) and step.whole), None)

    def release_weights(self) -> None:
        """Lets go of the weights once everything is compiled: the executables have what they need, and the plan is kept."""
        for step in self.walk():
            if isinstance(step, Partition) and not step.whole:
                step.graph.meta.clear()
                for value in step.graph.initializers.values():
                    value.const_value = None
        for value in self.graph.initializers.values():
            value.const_value = None

    @property
    def fingerprint(self) -> str:
        """Changes with the graph's structure, the devices, the providers' versions or any placement; 16 hex digits."""
        said = json.dumps(self._identity(), sort_keys=True, default=str)
        return hashlib.sha256(said.encode()).hexdigest()[:16]

    def _identity(self) -> dict[str, Any]:
        return {
            "candidates": [[one.name, one.device.description, dict(one.provider.versions())] for one in self.candidates],
            "steps": [_step_identity(step) for step in self.steps],
            "inputs": [[value.name, describe(value)] for value in self.graph.inputs],
            "outputs": [[value.name, describe(value)] for value in self.graph.outputs],
        }


def _step_identity(step: Partition | Control) -> list[Any]:
    if isinstance(step, Control):
        return ["host", _node_identity(step.node), {name: body._identity() for name, body in step.bodies.items()}]
    if step.whole:
        return [step.device.name, step.whole]
    return [step.device.name, [_node_identity(node) for node in step.nodes], [rewrite.title for rewrite in step.rewrites]]


def _node_identity(node: ir.Node) -> list[Any]:
    attributes = {name: str(a.value) for name, a in node.attributes.items() if a.type.name not in _BULKY}
    return [
        node.domain,
        node.op_type,
        node.version,
        [value.name if value is not None else "" for value in node.inputs],
        [value.name for value in node.outputs],
        attributes,
    ]


_BULKY = frozenset({"GRAPH", "GRAPHS", "TENSOR", "TENSORS"})


def plan(
    model: ir.Model,
    candidates: Sequence[Candidate],
    *,
    barred: Mapping[tuple[ir.Node, str], str] | None = None,
    not_used: Sequence[NotUsed] = (),
) -> Plan:
    """Plans a model on the candidates, in their order. The model's graph is changed where functions are expanded.

    barred: (node, device name) to the reason why that device may not have it, from a compile that failed.
    Raises NoProvider, with the plan as far as it came, where nobody takes a node; BrokenPlugin where a provider raises when asked.
    """
    expand_local_functions(model)
    ledger = Ledger(barred=dict(barred or {}))
    return _plan_graph(model.graph, candidates, ledger, model, list(not_used), [])


def _plan_graph(
    graph: ir.Graph,
    candidates: Sequence[Candidate],
    ledger: Ledger,
    model: ir.Model,
    not_used: list[NotUsed],
    captured: list[ir.Value],
) -> Plan:
    assignment = assign(graph, candidates, ledger, model)
    if homeless := assignment.homeless():
        raise _no_provider(homeless, Plan(graph, candidates, ledger, [], [], not_used, captured))
    runs = veto(assignment, candidates)
    steps = [_step(run, assignment, candidates, model) for run in runs]
    return Plan(graph, candidates, ledger, steps, _copies(steps, graph), not_used, captured)


def _step(run: Run, assignment: Assignment, candidates: Sequence[Candidate], model: ir.Model) -> Partition | Control:
    inputs, outputs = _border(run, assignment)
    if run.candidate is not None:
        return _partition(run, assignment, inputs, outputs)
    (node,) = run.nodes
    captured = [value for value in captures(node) if value in inputs]
    bodies = {name: _plan_graph(body, candidates, assignment.ledger, model, [], captured) for name, body in subgraphs(node)}
    return Control([node], inputs, list(node.outputs), bodies)


def _border(run: Run, assignment: Assignment) -> tuple[list[ir.Value], list[ir.Value]]:
    """Values that enter a run and values that leave it, in order of first use and of making."""
    inside = set(run.nodes)
    formal = set(assignment.graph.inputs)
    inputs: dict[ir.Value, None] = {}
    for node in run.nodes:
        for value in assignment.reads[node]:
            if value.producer() not in inside and (value in formal or not is_constant(value)):
                inputs[value] = None
    wanted = set(assignment.graph.outputs)
    for node, values in assignment.reads.items():
        if node not in inside:
            wanted.update(values)
    outputs = [value for node in run.nodes for value in node.outputs if value in wanted and value.name]
    return _in_order(list(inputs), assignment.graph.inputs), _in_order(outputs, assignment.graph.outputs)


def _in_order(values: list[ir.Value], of_graph: Sequence[ir.Value]) -> list[ir.Value]:
    """Where these are all of the graph's, its own order: then one partition is the whole model, and nothing stands before it."""
    return list(of_graph) if len(values) == len(of_graph) and set(values) == set(of_graph) else values


def _partition(run: Run, assignment: Assignment, inputs: list[ir.Value], outputs: list[ir.Value]) -> Partition:
    assert run.candidate is not None
    made = Partition(run.candidate, run.nodes, inputs, outputs)
    nodes: list[ir.Node] = []
    for node in run.nodes:
        group = assignment.ledger.placements[node].group
        claim = None if group is None else assignment.groups[group]
        if not isinstance(claim, Rewrite):
            nodes.append(node)
            made.lowered.append(node)
        elif not any(claim is rewrite for rewrite in made.rewrites):  # its nodes stand together: a fused claim is one unit
            made.rewrites.append(claim)
            nodes += claim.replacement
            made.lowered += [node] * len(claim.replacement)
    made.graph = partition(nodes, inputs, outputs, assignment.graph.opset_imports, name=assignment.graph.name or "graph")
    return made


def _copies(steps: Sequence[Partition | Control], graph: ir.Graph) -> list[Copy]:
    where: dict[str | None, Device] = {value.name: HOST for value in graph.inputs}
    copies: dict[tuple[str, str], Copy] = {}

    def cross(value: ir.Value, target: Device) -> None:
        source = where.get(value.name, HOST)
        involved = source.name != target.name and HOST not in (source, target)
        if involved or (source.name != target.name and not (source.on_host and target.on_host)):
            size = 0 if source.on_host and target.on_host else nbytes(value)
            copies.setdefault((value.name or "", target.name), Copy(value.name or "", describe(value), source.name, target.name, size))

    for step in steps:
        for value in step.inputs:
            cross(value, step.device)
        where.update((value.name, step.device) for value in step.outputs)
    for value in graph.outputs:
        cross(value, HOST)
    return list(copies.values())


def _no_provider(homeless: Sequence[ir.Node], plan: Plan) -> NoProvider:
    kinds = Counter((node.domain, node.op_type) for node in homeless)
    names = ", ".join(f"{f'{domain}::' if domain else ''}{op} ({count})" for (domain, op), count in kinds.most_common(5))
    more = f" and {len(kinds) - 5} more" if len(kinds) > 5 else ""
    devices = ", ".join(one.name for one in plan.candidates) or "no device"
    reasons = dict.fromkeys(f"  {name}: {reason}" for node in homeless for name, reason in plan.ledger.refusals(node))
    shown = "\n".join(list(reasons)[:5])
    position = next(i for i, node in enumerate(plan.graph) if node is homeless[0])
    return NoProvider(
        f"{devices} cannot run {len(homeless)} of the nodes: {names}{more}; the first is {label(homeless[0], position)}\n{shown}".rstrip(),
        hint=_widen(plan, homeless),
        plan=plan,
    )


def _widen(plan: Plan, homeless: Sequence[ir.Node]) -> str:
    named = [one.device.provider for one in plan.candidates]
    if "reference" in named:
        return "the reasons are above; a plugin can bring the operator, in code or as a function of others (turnout_operators)"
    if not all(node.domain.partition(".")[0] in ("", "ai") for node in homeless):  # the reference has only ONNX's own operators
        return f"allow another device to help, in a list after {', '.join(named) or 'none'}; `turnout devices` shows which there are"
    return f"allow another device to help: device={[*named, 'reference']!r}"
