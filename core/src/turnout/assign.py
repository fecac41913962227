"""Steps one to three of a plan: lower and ask every candidate, assign nodes, expand what nobody takes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

from turnout.device import Device
from turnout.expand import body_of, mark_expanded, splice
from turnout.graph import captures, ir, label, subgraphs
from turnout.ledger import Candidate, Ledger, Placement
from turnout.provider import Claim, No, Rewrite, Yes
from turnout.verified import against

__all__ = ["CONTROL_FLOW", "Assignment", "assign", "reads"]

CONTROL_FLOW = frozenset({"If", "Loop", "Scan"})
"""What turnout runs itself where nobody takes it whole."""

AnyClaim = TypeVar("AnyClaim", bound=Claim)


class Assignment:
    """The nodes of one graph, each with a place or without one; `groups` are the fused claims that stood, by number."""

    def __init__(self, graph: ir.Graph, ledger: Ledger) -> None:
        self.graph = graph
        self.ledger = ledger
        self.groups: list[Claim] = []
        self.nodes: list[ir.Node] = list(graph)
        self.reads: dict[ir.Node, list[ir.Value]] = {node: reads(node) for node in self.nodes}

    def homeless(self) -> list[ir.Node]:
        """Nodes that have no place yet, in graph order."""
        return [node for node in self.nodes if node not in self.ledger.placements]


def reads(node: ir.Node) -> list[ir.Value]:
    """Every value that a node needs: its inputs, and what its bodies take from outside."""
    own = [value for value in node.inputs if value is not None]
    return own + captures(node) if any(True for _ in subgraphs(node)) else own


def assign(graph: ir.Graph, candidates: Sequence[Candidate], ledger: Ledger, functions: ir.Model) -> Assignment:
    """Gives each node of the graph to the first candidate that takes it.

    A node that nobody takes and that has a function body is replaced by the body, and everybody is asked again: `graph` changes.
    """
    first_choice = [one for one in candidates if not one.last_resort]
    last_resort = [one for one in candidates if one.last_resort]
    kept: set[ir.Node] = set()
    while True:
        assignment = Assignment(graph, ledger)
        _offer(assignment, first_choice)
        expanded = Counter(
            node.op_type for node in assignment.homeless() if _expanded(node, graph, first_choice, last_resort, functions, kept)
        )
        for op_type, count in expanded.items():
            ledger.remark(f"{op_type} x{count} was expanded into its function body: no device takes it whole")
        if not expanded:
            break
        for node in assignment.nodes:
            ledger.placements.pop(node, None)
    _offer(assignment, last_resort)
    for node in assignment.homeless():
        if _is_control_flow(node):
            ledger.place(node, Placement(None))
            ledger.note(node, "no device takes it whole, so turnout runs it and plans its bodies like graphs")
    return assignment


def _expanded(
    node: ir.Node,
    graph: ir.Graph,
    first_choice: Sequence[Candidate],
    last_resort: Sequence[Candidate],
    functions: ir.Model,
    kept: set[ir.Node],
) -> bool:
    """Replaces a node by its body, where that gives all of it a place, and a better one than the last resort taking it whole."""
    body = None if node in kept else body_of(node, functions)
    if body is None:
        return False
    whole = any(one.provider.supports(node, graph, one.device) for one in last_resort)
    if not _all_taken(body, first_choice if whole else [*first_choice, *last_resort], functions):
        kept.add(node)
        return False
    splice(node, body)
    mark_expanded(graph)
    return True


def _all_taken(body: ir.Graph, candidates: Sequence[Candidate], functions: ir.Model) -> bool:
    """Whether the candidates take every node of a body, expanding further where they must."""
    trial = Ledger()
    for node in body:
        if any(_supports(node, body, one, trial) for one in candidates):
            continue
        if _is_control_flow(node):
            inner = [graph for _, graph in subgraphs(node)]
        else:
            deeper = body_of(node, functions)
            inner = [] if deeper is None else [deeper]
        if not inner or not all(_all_taken(graph, candidates, functions) for graph in inner):
            return False
    return True


def _is_control_flow(node: ir.Node) -> bool:
    if node.domain not in ("", "ai.onnx") or node.op_type not in CONTROL_FLOW:
        return False
    return node.op_type != "Scan" or (node.version or 9) >= 9  # Scan of opset 8 has a batch dimension: another operator


def _offer(assignment: Assignment, candidates: Sequence[Candidate]) -> None:
    for candidate in candidates:
        _offer_groups(assignment, candidate)
        for node in assignment.homeless():
            verdict = ask(node, assignment.graph, candidate, assignment.ledger)
            if isinstance(verdict, Yes):
                assignment.ledger.place(node, Placement(candidate, seconds=verdict.seconds))


def ask(node: ir.Node, graph: ir.Graph, candidate: Candidate, ledger: Ledger) -> Yes | No:
    """One candidate's answer about one node, bodies included, written down."""
    return ledger.answer(node, candidate, _supports(node, graph, candidate, ledger))


def _supports(node: ir.Node, graph: ir.Graph, candidate: Candidate, ledger: Ledger) -> Yes | No:
    try:
        verdict = candidate.provider.supports(node, graph, candidate.device)
    except Exception as error:  # one broken plugin never takes the others down
        ledger.remark(f"{candidate.name}: broken plugin: {type(error).__name__} when asked about {node.op_type}: {error}")
        return No(f"its plugin raised {type(error).__name__} when asked: {error}")
    if verdict and (known := against(node, candidate.wrong)):
        verdict = No(f"it gave a wrong result on this machine when it was verified: {known}")
    if not verdict:
        return verdict
    for name, body in subgraphs(node):
        for position, inner in enumerate(body):
            answer = ask(inner, body, candidate, ledger)
            if isinstance(answer, No):
                return No(f"its {name} has {label(inner, position)}: {answer.reason}")
    return verdict


def _offer_groups(assignment: Assignment, candidate: Candidate) -> None:
    """Rewrites and fused claims of one candidate: each whole or not at all, and only while the graph of groups stays acyclic."""
    ledger = assignment.ledger
    fresh: list[int] = []
    for claim in _claims(assignment, candidate):
        number = len(assignment.groups)
        assignment.groups.append(claim)
        fresh.append(number)
        for node in claim.nodes:
            ledger.answer(node, candidate, Yes())
            ledger.place(node, Placement(candidate, group=number, title=claim.title, seconds=claim.seconds))
    while fresh and (circle := _circle(assignment)):
        dropped = max((number for number in circle if number in fresh), default=None)
        if dropped is None:
            break
        fresh.remove(dropped)
        for node in assignment.groups[dropped].nodes:
            del ledger.placements[node]
            ledger.note(
                node,
                f"{candidate.name} would fuse it into {assignment.groups[dropped].title}, but then parts would wait for each other",
            )


def _claims(assignment: Assignment, candidate: Candidate) -> Iterator[Claim]:
    """What the candidate claims whole and may have: nobody has any of it, nothing bars it, and all of the replacement is supported."""
    taken = set(assignment.ledger.placements)
    members = set(assignment.nodes)
    for claim in (*_lowered(assignment, candidate), *_called(candidate.provider.claims, assignment, candidate)):
        nodes = set(claim.nodes)
        if not nodes or nodes & taken or not nodes <= members:
            continue
        if any((node, candidate.name) in assignment.ledger.barred for node in nodes):
            continue
        taken |= nodes
        yield claim


def _lowered(assignment: Assignment, candidate: Candidate) -> Iterator[Rewrite]:
    for rewrite in _called(candidate.provider.lower, assignment, candidate):
        for new in rewrite.replacement:
            verdict = candidate.provider.supports(new, assignment.graph, candidate.device)
            if isinstance(verdict, No):
                for node in rewrite.nodes:
                    assignment.ledger.note(node, f"{candidate.name} would run it as {rewrite.title}, but: {verdict.reason}")
                break
        else:
            yield rewrite


def _called(method: Callable[[ir.Graph, Device], Iterable[AnyClaim]], assignment: Assignment, candidate: Candidate) -> list[AnyClaim]:
    try:
        return list(method(assignment.graph, candidate.device))
    except Exception as error:
        assignment.ledger.remark(f"{candidate.name}: broken plugin: {type(error).__name__} in {method.__name__}: {error}")
        return []


def _circle(assignment: Assignment) -> set[int] | None:
    """Numbers of groups that wait for each other, directly or through other nodes; None where there are none.

    Each group is contracted into one vertex; a strongly connected component with a group in it and more than one vertex is a circle
    (Tarjan 1972, written as a loop since graphs are deeper than Python's stack).
    """
    vertex = {node: _vertex(assignment, node) for node in assignment.nodes}
    successors: dict[object, set[object]] = {one: set() for one in vertex.values()}
    for node, values in assignment.reads.items():
        for value in values:
            producer = value.producer()
            if producer in vertex and vertex[producer] != vertex[node]:
                successors[vertex[producer]].add(vertex[node])
    for component in components(successors):
        groups = {one for one in component if isinstance(one, int)}
        if len(component) > 1 and groups:
            return groups
    return None


def _vertex(assignment: Assignment, node: ir.Node) -> object:
    placement = assignment.ledger.placements.get(node)
    return node if placement is None or placement.group is None else placement.group


def components(successors: dict[object, set[object]]) -> Iterator[list[object]]:
    """Strongly connected components of a graph given by its successors."""
    order: dict[object, int] = {}
    low: dict[object, int] = {}
    stack: list[object] = []
    on_stack: set[object] = set()
    for root in successors:
        if root in order:
            continue
        work = [(root, iter(successors[root]))]
        order[root] = low[root] = len(order)
        stack.append(root)
        on_stack.add(root)
        while work:
            vertex, rest = work[-1]
            for after in rest:
                if after not in order:
                    order[after] = low[after] = len(order)
                    stack.append(after)
                    on_stack.add(after)
                    work.append((after, iter(successors[after])))
                    break
                if after in on_stack:
                    low[vertex] = min(low[vertex], order[after])
            else:
                work.pop()
                if work:
                    low[work[-1][0]] = min(low[work[-1][0]], low[vertex])
                if low[vertex] == order[vertex]:
                    at = stack.index(vertex)
                    component = stack[at:]
                    del stack[at:]
                    on_stack.difference_update(component)
                    yield component
