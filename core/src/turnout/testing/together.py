"""Level 5: split with another provider, it gives what the whole gives; and values survive the way there and back, bit by bit."""

from __future__ import annotations

import random
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import helper

from turnout.device import Device
from turnout.errors import TurnoutError
from turnout.ledger import Candidate
from turnout.plan import Partition, plan
from turnout.provider import Claim, Executable, No, Provider, Rewrite, Yes
from turnout.reference import REFERENCE
from turnout.testing.bounds import difference
from turnout.testing.case import Case, host_array
from turnout.testing.fakes import FakeProvider
from turnout.testing.made.draw import DTYPES, draw
from turnout.testing.result import Result
from turnout.testing.subject import Subject

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["GRAPHS", "together"]

GRAPHS = 40
"""Random graphs to split."""

_UNARY = ("Neg", "Relu", "Abs", "Identity", "Sigmoid", "Tanh")
_BINARY = ("Add", "Sub", "Mul", "Max")
_SHAPE = (3, 4)


def together(subject: Subject) -> Iterator[Result]:
    """The level."""
    split = 0
    for number in range(GRAPHS):
        start = time.perf_counter()
        both, problem = _trial(subject, number)
        split += both
        outcome: Any = "failed" if problem else "passed"
        yield Result("together", f"split/random graph {number}", outcome, problem, time.perf_counter() - start)
    if not split:
        yield Result("together", "split/any", "skipped", f"it takes none of {', '.join((*_UNARY, *_BINARY))} in float32: nothing was split")
    yield from _copies(subject)


def _graph(seed: int) -> onnx.ModelProto:
    """A random graph of a dozen nodes over whole numbers, the same for the same seed."""
    choose = random.Random(seed)
    known, nodes = ["x", "y", "w"], []
    for number in range(choose.randint(4, 14)):
        name = f"t{number}"
        if choose.random() < 0.4:
            nodes.append(helper.make_node(choose.choice(_UNARY), [choose.choice(known)], [name]))
        else:
            nodes.append(helper.make_node(choose.choice(_BINARY), [choose.choice(known), choose.choice(known)], [name]))
        known.append(name)
    outputs = sorted({known[-1], choose.choice(known[3:])})
    float32 = onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        nodes,
        f"random graph {seed}",
        [helper.make_tensor_value_info(name, float32, _SHAPE) for name in ("x", "y")],
        [onnx.ValueInfoProto(name=name) for name in outputs],
        [helper.make_tensor("w", float32, _SHAPE[1:], [1, -2, 0.5, 3])],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14)], ir_version=8)


def _trial(subject: Subject, seed: int) -> tuple[bool, str]:
    """Whether both had a part in it, and what was wrong."""
    proto = _graph(seed)
    inputs = [draw(np.dtype(np.float32), _SHAPE, name).round() for name in ("x", "y")]
    case = Case(f"random/{seed}", proto, [inputs])
    half = Candidate(Half(subject.provider, seed), subject.device)
    try:
        made = plan(case.model, [half, _partner(subject)])
        program = subject.built(made)
    except TurnoutError as error:
        return False, f"it could not be built: {error.message}"
    parts = {step.candidate.name for step in made.steps if isinstance(step, Partition)}
    try:
        got = program.run([value.copy() for value in inputs])
    except Exception as error:
        return len(parts) > 1, f"it did not run: {type(error).__name__}: {error}"
    finally:
        program.close()
    pairs = zip(got, case.wanted[0], strict=True)
    problems = (difference(value, wanted, "sum", rtol=1e-5, atol=1e-5) for value, wanted in pairs)
    problem = next((f"a result {text}" for text in problems if text), "")
    return len(parts) > 1, f"{problem}; the graph is {onnx.printer.to_text(proto.graph)}" if problem else ""


def _partner(subject: Subject) -> Candidate:
    """Who takes what the provider under test leaves: the reference provider, or a fake where that is the one under test."""
    other = REFERENCE if subject.provider.name != REFERENCE.name else FakeProvider("other")
    return Candidate(other, other.probe()[0], last_resort=True)


class Half(Provider):
    """The provider under test, refusing every third node or so, so that another has to take it."""

    name = "half"  # each has that of its provider

    def __init__(self, whole: Provider, seed: int) -> None:
        self.name = whole.name  # type: ignore[misc]
        self._whole = whole
        self._seed = seed

    def probe(self) -> Sequence[Device]:
        return self._whole.probe()

    def supports(self, node: ir.Node, graph: ir.Graph, device: Device) -> Yes | No:
        if random.Random(f"{self._seed} {node.outputs[0].name}").random() < 0.35:
            return No("this half of the graph is left to the other provider")
        return self._whole.supports(node, graph, device)

    def compile(self, graph: ir.GraphView, device: Device, options: Any) -> Executable:
        return self._whole.compile(graph, device, options)

    def claims(self, graph: ir.Graph, device: Device) -> Iterable[Claim]:
        return self._whole.claims(graph, device)

    def lower(self, graph: ir.Graph, device: Device) -> Iterable[Rewrite]:
        return self._whole.lower(graph, device)

    def to_device(self, array: Any, device: Device) -> Any:
        return self._whole.to_device(array, device)

    def to_host(self, value: Any, device: Device) -> Any:
        return self._whole.to_host(value, device)


_COPIED: tuple[tuple[int, ...], ...] = ((), (0,), (3,), (2, 3), (1, 0, 2), (5, 7, 3))


def _copies(subject: Subject) -> Iterator[Result]:
    """There and back, for each element type that it takes in an Identity, a Cast, an Add or the like."""
    if subject.device.on_host:
        yield Result("together", "copies/any", "refused", "its values live in host memory: nothing is copied")
        return
    for name in _taken(subject):
        start = time.perf_counter()
        problem = next(filter(None, (_moved(subject, array) for array in _arrays(name))), "")
        yield Result("together", f"copies/{name}", "failed" if problem else "passed", problem, time.perf_counter() - start)


def _arrays(name: str) -> Iterator[Any]:
    for shape in _COPIED:
        yield draw(DTYPES[name], shape, "copy")
    yield draw(DTYPES[name], (4, 6), "copy")[::2, ::3]
    yield draw(DTYPES[name], (4, 6), "copy").T


def _moved(subject: Subject, array: Any) -> str:
    kept = array.copy()
    try:
        there = subject.provider.to_device(array, subject.device)
        back = host_array(subject.provider.to_host(there, subject.device))
    except Exception as error:
        return f"copying {kept.dtype}{list(kept.shape)} raised {type(error).__name__}: {error}"
    if getattr(back, "dtype", None) != kept.dtype or back.shape != kept.shape:
        return f"{kept.dtype}{list(kept.shape)} came back as {getattr(back, 'dtype', type(back).__name__)}{list(np.shape(back))}"
    same = back.tolist() == kept.tolist() if kept.dtype == object else back.tobytes() == kept.tobytes()
    return "" if same else f"{kept.dtype}{list(kept.shape)} came back with other bits than it went"


def _taken(subject: Subject) -> list[str]:
    """The element types that it claims anything of."""
    from turnout.testing.made import groups

    found: set[str] = set()
    for group in groups():
        if group.operator in ("Identity", "Cast", "Add", "Mul", "Relu", "MatMul", "Transpose") and group.dtype not in found:
            try:
                if subject.refusal(group.cases[0].model) is None:
                    found.add(group.dtype)
            except Exception:  # an answer that raises is a matter of honesty, and reported there
                continue
    return [name for name in DTYPES if name in found]
