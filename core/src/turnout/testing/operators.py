"""Level 3: every operator that the provider claims gives what ONNX says, on ONNX's own cases and on made ones.

One sweep over all cases serves two levels. A wrong result is a matter of this one; a claim that does not compile or run, inputs that were
written to and outputs that are inputs are matters of honesty, and are reported there. Such a case is skipped here, with the reason.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

import numpy as np

from turnout.errors import RunError, TurnoutError
from turnout.program import Program
from turnout.provider import No, Yes
from turnout.testing.case import Case
from turnout.testing.made import groups
from turnout.testing.onnx_cases import onnx_cases
from turnout.testing.result import Result
from turnout.testing.subject import Subject

__all__ = ["operators", "sweep"]

Only = Collection[str] | None
"""Names of the operators to look at; None for all."""

Progress = Callable[[str], None]


def operators(subject: Subject, only: Only = None, progress: Progress | None = None) -> Iterator[Result]:
    """The level: one result per case."""
    claimed = False
    for result in sweep(subject, only, progress):
        if result.level == "operators":
            claimed = claimed or result.outcome != "refused"
            yield result
    if not claimed:
        yield Result("operators", "claims/any", "skipped", "it claims none of the cases, so that nothing was checked")


def sweep(subject: Subject, only: Only = None, progress: Progress | None = None) -> Iterator[Result]:
    """What trying every case finds, for the levels "operators" and "honesty"; remembered once it is through."""
    if subject.swept is not None:
        yield from subject.swept
        return
    found: list[Result] = []
    for result in _swept(subject, only, progress or (lambda text: None)):
        found.append(result)
        yield result
    subject.swept = found


def _swept(subject: Subject, only: Only, progress: Progress) -> Iterator[Result]:
    which, shares = subject.share
    for case in itertools.islice(onnx_cases(), which, None, shares):
        if only is None or (case.operators and all(name in only for _, name, _ in case.operators)):
            progress(case.name)
            yield from attempt(subject, case)
    for group in itertools.islice(groups(), which, None, shares):
        if only is not None and group.operator not in only:
            continue
        plain, *others = group.cases
        progress(plain.name)
        results = list(attempt(subject, plain))
        yield from results
        if all(result.outcome != "refused" for result in results):
            for case in others:
                progress(case.name)
                yield from attempt(subject, case)


def attempt(subject: Subject, case: Case) -> Iterator[Result]:
    """Asks about a case, and runs it where it is claimed."""
    start = time.perf_counter()

    def result(outcome: Any, detail: str = "") -> Result:
        return Result("operators", case.name, outcome, detail, time.perf_counter() - start, case.operators, case.type)

    program = None
    try:
        yield from _answers(subject, case)
        refusal = subject.refusal(case.model)
        program = subject.program(case.model) if refusal is None else subject.rewritten(case.proto)
    except TurnoutError as error:
        yield from _broken(result, "compiles", case, f"it is claimed, but does not compile: {error.message}")
        return
    except Exception as error:
        yield from _broken(result, "asks", case, f"supports raised {type(error).__name__}: {error}")
        return
    if program is None:
        yield result("refused", refusal or "")
        return
    try:
        yield from _runs(program, case, result, subject.provider.finite if case.name.startswith("special/") else "")
    finally:
        program.close()


def _broken(result: Callable[..., Result], kind: str, case: Case, detail: str) -> Iterator[Result]:
    yield Result("honesty", f"{kind}/{case.name}", "failed", detail, operators=case.operators)
    yield result("skipped", f"its claim is not honest: {detail}")


def _answers(subject: Subject, case: Case) -> Iterator[Result]:
    """Faults in the answers themselves: of the wrong kind, not the same twice, or without a reason worth reading."""
    for node in case.model.graph:
        first = subject.provider.supports(node, case.model.graph, subject.device)
        second = subject.provider.supports(node, case.model.graph, subject.device)
        if not isinstance(first, (Yes, No)):
            detail = f"supports gave {first!r} for {node.op_type}, which is neither Yes() nor No(...)"
            yield Result("honesty", f"asks/{case.name}", "failed", detail)
        elif first != second:
            yield Result("honesty", f"pure/{case.name}", "failed", f"{node.op_type}: it said {first}, and then {second}")
        elif isinstance(first, No) and len(first.reason.split()) < _WORDS:
            detail = f"its reason for refusing {node.op_type} is {first.reason!r}: users want a sentence"
            yield Result("honesty", f"reasons/{case.name}", "failed", detail)
        if not first:
            return


_WORDS = 4
"""A reason with fewer words cannot say both what is refused and why."""


def _runs(program: Program, case: Case, result: Callable[..., Result], unpromised: str) -> Iterator[Result]:
    """unpromised: why a wrong result is none, where the provider promises nothing of such numbers."""
    for number, given in enumerate(case.runs):
        fed = [_copied(value) for value in given]
        try:
            with np.errstate(all="ignore"):  # some inputs are made to overflow
                got = program.run(fed)
        except RunError as error:
            yield from _broken(result, "runs", case, f"it is claimed, but does not run: {error.message}")
            return
        except Exception as error:
            detail = f"run raised {type(error).__name__}, which is no RunError: {error}"
            yield from _broken(result, "runs", case, detail)
            return
        if len(got) != len(case.model.graph.outputs):
            detail = f"run gave {len(got)} values for {len(case.model.graph.outputs)} outputs"
            yield from _broken(result, "runs", case, detail)
            return
        yield from _traces(case, fed, given, got)
        try:
            problem = case.problem(number, got)
        except NotImplementedError as error:
            yield result("skipped", str(error))
            return
        if problem:
            yield result("refused", f"{unpromised}: {problem}") if unpromised else result("failed", problem)
            return
    yield result("passed")


def _traces(case: Case, fed: Sequence[Any], given: Sequence[Any], got: Sequence[Any]) -> Iterator[Result]:
    """Inputs that are not what they were, and outputs that are inputs."""
    inputs = [value.name for value in case.model.graph.inputs]
    for name, after, before in zip(inputs, fed, given, strict=True):
        if not all(a.tobytes() == b.tobytes() for a, b in zip(_arrays(after), _arrays(before), strict=True) if a.dtype != object):
            yield Result("honesty", f"inputs/{case.name}", "failed", f"the run wrote to its input {name!r}")
        for value, output in zip(got, case.model.graph.outputs, strict=True):
            if any(np.shares_memory(a, b) for a in _arrays(value) for b in _arrays(after)):
                detail = f"output {output.name!r} lies in the memory of input {name!r}: writing to one changes the other"
                yield Result("honesty", f"aliasing/{case.name}", "failed", detail)


def _arrays(value: Any) -> list[np.ndarray[Any, Any]]:
    if isinstance(value, (list, tuple)):
        return [array for item in value for array in _arrays(item)]
    return [value] if isinstance(value, np.ndarray) else []


def _copied(value: Any) -> Any:
    """A copy for the provider to do with as it likes; an array that is not contiguous stays so."""
    if isinstance(value, list):
        return [_copied(item) for item in value]
    if not isinstance(value, np.ndarray) or value.flags.c_contiguous:
        return value.copy() if isinstance(value, np.ndarray) else value
    roomy = np.zeros([2 * size for size in value.shape], value.dtype)
    spread = roomy[tuple(slice(None, None, 2) for _ in value.shape)]
    spread[...] = value
    return spread
