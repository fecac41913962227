"""Level 4: what is claimed compiles and runs, what is refused says why, and nobody's memory is touched."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from turnout.graph import ir
from turnout.provider import No
from turnout.testing.operators import Only, Progress, sweep
from turnout.testing.result import Outcome, Result
from turnout.testing.subject import Subject

__all__ = ["KINDS", "honesty"]

KINDS = {
    "asks": "supports answers Yes() or No(...) and raises nothing",
    "pure": "supports says the same when it is asked twice",
    "reasons": "every refusal is a sentence",
    "compiles": "what is claimed compiles",
    "runs": "what is claimed runs, and gives one value per output",
    "inputs": "a run leaves its inputs as they were",
    "aliasing": "no output lies in the memory of an input",
}
"""What the sweep over the operators' cases looks for besides wrong results."""


def honesty(subject: Subject, only: Only = None, progress: Progress | None = None) -> Iterator[Result]:
    """The level: what the sweep over all cases found, kind by kind, and answers about nodes that no case has."""
    found: Counter[str] = Counter()
    claimed = asked = 0
    for result in sweep(subject, only, progress):
        if result.level == "honesty":
            found[result.kind] += 1
            yield result
        else:
            asked += 1
            claimed += result.outcome != "refused"
    for kind, sentence in KINDS.items():
        if not found[kind]:
            count = claimed if kind in ("compiles", "runs", "inputs", "aliasing") else asked
            yield Result("honesty", f"{kind}/all cases", "passed", f"{sentence} ({count} cases)")
    yield from _strangers(subject)


def _strangers(subject: Subject) -> Iterator[Result]:
    """Nodes that nobody can run are refused in words, and break nothing."""
    for what, domain, operator in (("operator", "", "NoSuchOperator"), ("domain", "org.example.nowhere", "Add")):
        x = ir.val("x", dtype=ir.DataType.FLOAT, shape=[2])
        node = ir.Node(domain, operator, [x, x], version=21, num_outputs=1)
        graph = ir.Graph([x], list(node.outputs), nodes=[node], opset_imports={"": 21, domain: 21}, name="stranger")
        yield Result("honesty", f"strangers/{what}", *_refused(subject, node, graph))
    node = ir.Node("", "Add", [ir.Value(name="a"), ir.Value(name="b")], version=21, num_outputs=1)
    graph = ir.Graph(node.inputs, node.outputs, nodes=[node], opset_imports={"": 21}, name="untyped")  # type: ignore[arg-type]
    try:
        subject.provider.supports(node, graph, subject.device)
    except Exception as error:
        detail = f"supports raised {type(error).__name__} for a node whose types nobody could infer: {error}"
        yield Result("honesty", "strangers/types", "failed", detail)
    else:
        yield Result("honesty", "strangers/types", "passed")


def _refused(subject: Subject, node: ir.Node, graph: ir.Graph) -> tuple[Outcome, str]:
    try:
        answer = subject.provider.supports(node, graph, subject.device)
    except Exception as error:
        return "failed", f"supports raised {type(error).__name__} for an operator that nobody has: {error}"
    if isinstance(answer, No):
        return "passed", ""
    return "failed", f"it claims {node.domain or 'ai.onnx'}::{node.op_type}, which nobody has defined"
