"""Whole sources: which device takes a file as it is, and what is tried before and after it.

A provider such as llama.cpp reads files by itself. Its devices have a place in the order of devices like any other: those before it get
the operator graph first, and keep it if they run all of it; else the file goes to it, and only then are those after it asked to help.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from turnout.errors import CompileError, InvalidModel, NoProvider, TurnoutError
from turnout.graph import ir
from turnout.ledger import Candidate, Ledger
from turnout.plan import NotUsed, Partition, Plan
from turnout.provider import No, WholeExecutable, Yes

if TYPE_CHECKING:
    from turnout.formats import Source

__all__ = ["Route", "first_that_works", "routes", "whole_plan"]

log = logging.getLogger("turnout")


@dataclass(frozen=True)
class Route:
    """One thing to try: the operator graph on these candidates, or (`whole`) the source as it is on the only one."""

    candidates: tuple[Candidate, ...]
    whole: Yes | None = None

    def __str__(self) -> str:
        return ", ".join(one.name for one in self.candidates)


def routes(source: Source, candidates: Sequence[Candidate]) -> tuple[list[Route], list[NotUsed]]:
    """What to try, in order, and the candidates that have no part in it.

    Raises InvalidModel where a provider finds the file broken, NoProvider where none of the candidates takes it or runs operators.
    """
    found: list[Route] = []
    refused: list[NotUsed] = []
    graph: list[Candidate] = []
    for candidate in candidates:
        verdict = _asked(source, candidate)
        if verdict is None:
            graph.append(candidate)
        elif isinstance(verdict, No):
            refused.append(NotUsed(candidate.name, verdict.reason))
        else:
            found += _of_graph(graph, found)
            found.append(Route((candidate,), verdict))
    found += _of_graph(graph, found)
    if not found and candidates:
        reasons = "\n".join(f"  {one.name}: {one.reason}" for one in refused)
        raise NoProvider(f"{source.name} cannot be run there:\n{reasons}", hint="allow another device: device=[...] is a list of them")
    return found or [Route(())], refused


def _of_graph(graph: Sequence[Candidate], before: Sequence[Route]) -> list[Route]:
    """The route of the operator graph on these candidates, unless there are none, or no more than were tried before."""
    tried = any(route.candidates == tuple(graph) for route in before)
    return [Route(tuple(graph))] if graph and not tried else []


def _asked(source: Source, candidate: Candidate) -> Yes | No | None:
    try:
        return candidate.provider.takes_whole(source, candidate.device)
    except TurnoutError:
        raise
    except Exception as error:  # one broken plugin never takes the others down
        return No(f"its plugin raised {type(error).__name__} when asked for the whole file: {error}")


def first_that_works(
    tries: Sequence[Route],
    run: Callable[[Route, list[NotUsed]], tuple[Plan, Any]],
    name: str,
) -> tuple[Plan, Any]:
    """The first route that plans and compiles, its plan telling of the others.

    run: makes a plan and a program of a route; what it is given goes into the plan's `not_used`.
    Raises what the last route of the operator graph raised, or else the last of all, with the other reasons added.
    """
    failed: list[tuple[Route, TurnoutError]] = []
    for position, route in enumerate(tries):
        if route.whole is None and any(isinstance(error, InvalidModel) and one.whole is None for one, error in failed):
            continue  # no device makes a graph of a file that has none
        try:
            plan, program = run(route, _elsewhere(tries, position, failed))
        except (NoProvider, CompileError, InvalidModel) as error:
            if len(tries) == 1:
                raise
            log.info("%s: %s: %s", name, route, error.message)
            failed.append((route, error))
            continue
        _tell(plan, route, failed)
        return plan, program
    raise _all_failed(failed) from failed[-1][1]


def _all_failed(failed: Sequence[tuple[Route, TurnoutError]]) -> TurnoutError:
    chosen = next((error for route, error in reversed(failed) if route.whole is None), failed[-1][1])
    for route, error in failed:
        if error is not chosen and route.whole is not None:
            chosen.message = f"{chosen.message}\n  {route}, which takes files whole: {error.message}"
    return chosen


def _elsewhere(tries: Sequence[Route], position: int, failed: Sequence[tuple[Route, TurnoutError]]) -> list[NotUsed]:
    """The candidates of the other routes, and why they have no part in this one."""
    here = tries[position]
    reasons: dict[str, str] = {}
    for route, error in failed:
        for one in route.candidates:
            reasons[one.name] = error.message.splitlines()[0]
    for route in tries[position + 1 :]:
        if route.whole is not None:
            reason = f"takes the file whole, but {here} goes first and runs all of it; name it to use it"
        elif here.whole is not None:
            reason = f"would have been asked to run the operator graph, but {here} goes first and takes the file whole"
        else:
            reason = "devices before it took every node"
        for one in route.candidates:
            reasons.setdefault(one.name, reason)
    for one in here.candidates:
        reasons.pop(one.name, None)
    return [NotUsed(name, reason) for name, reason in reasons.items()]


def _tell(plan: Plan, route: Route, failed: Sequence[tuple[Route, TurnoutError]]) -> None:
    """The decision in words, where there was one to take."""
    if route.whole is not None:
        why = f": {route.whole.remark}" if route.whole.remark else ""
        plan.ledger.remark(f"{route} takes the file whole, so no operator graph was built{why}")
    for one, error in failed:
        what = "did not open the file" if one.whole is not None else "cannot run the operator graph"
        plan.ledger.remark(f"{one} {what}: {error.message.splitlines()[0]}")


def whole_plan(source: Source, executable: WholeExecutable, candidate: Candidate, not_used: Sequence[NotUsed]) -> Plan:
    """The plan of a source that was taken whole: one step without nodes. Its graph says what goes in and out, and no more."""
    inputs, outputs = list(executable.inputs), list(executable.outputs)
    graph = ir.Graph(inputs, outputs, nodes=(), name=source.name)
    step = Partition(candidate, [], inputs, outputs, whole=executable.title)
    return Plan(graph, [candidate], Ledger(), [step], [], list(not_used))
