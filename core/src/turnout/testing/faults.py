"""Level 7: what goes wrong comes out as one of turnout's errors, with a message, and never as a crash or a wrong result."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import onnx
from onnx import helper

from turnout.errors import CompileError, DeviceLost, InvalidInput, OutOfMemory, RunError, TurnoutError
from turnout.formats import open_source
from turnout.graph import ir
from turnout.testing.finding import Unreachable, in_child
from turnout.testing.result import Outcome, Result
from turnout.testing.subject import Subject
from turnout.testing.workhorse import NONE, Workhorse, workhorse

__all__ = ["faults", "starve"]

SECONDS = 120.0
"""How long the child process may take that runs out of memory."""


def faults(subject: Subject) -> Iterator[Result]:
    """The level."""
    horse = workhorse(subject)
    if horse is None:
        yield Result("faults", "workhorse/any", "skipped", NONE)
    else:
        for kind, check in _CHECKS.items():
            yield _result(kind, horse.operator, check, subject, horse)
    yield from _malformed(subject)
    yield _memory(subject)
    yield _lost(subject, horse)


def _result(kind: str, what: str, check: Callable[..., str], *given: Any) -> Result:
    start = time.perf_counter()
    try:
        problem = check(*given)
    except Exception as error:
        problem = f"{type(error).__name__}, which is no error of turnout's: {error}"
    outcome: Outcome = "failed" if problem else "passed"
    return Result("faults", f"{kind}/{what}", outcome, problem, time.perf_counter() - start)


def _refused(wrong: Any) -> Callable[[Subject, Workhorse], str]:
    """The check that a model of 8x8 matrices refuses an input; and so does the executable, where it says that it looks itself."""

    def check(subject: Subject, horse: Workhorse) -> str:
        with subject.opened(horse.model()) as model:
            try:
                model.run(x=wrong)
            except InvalidInput:
                pass
            else:
                return f"a model for float32[8,8] took {wrong.dtype}{list(wrong.shape)} without a word"
            (executable,) = model._program.executables
            if not executable.checks_inputs:
                return ""
            try:
                executable.run([wrong])
            except InvalidInput:
                return ""
            return f"its executable says that it checks inputs, and took {wrong.dtype}{list(wrong.shape)} for float32[8,8]"

    return check


def _mismatch(subject: Subject, horse: Workhorse) -> str:
    """Shapes that are fine as declared and do not fit each other: only the run can tell."""
    if horse.operator not in ("Add", "Mul", "Sub"):
        return ""
    with subject.opened(_open_rows(horse)) as model:
        try:
            model.run(x=np.ones((5, 8), np.float32))
        except RunError as error:
            return "" if error.message else "it failed, and does not say why"
        return "five rows, and a weight of eight, gave a result"


def _open_rows(horse: Workhorse) -> onnx.ModelProto:
    model = horse.model(rows="rows")
    del model.graph.output[0].type.tensor_type.shape.dim[:]
    model.graph.output[0].ClearField("type")
    return model


_CHECKS: dict[str, Callable[[Subject, Workhorse], str]] = {
    "dtype": _refused(np.ones((8, 8), np.float64)),
    "rank": _refused(np.ones((8, 8, 1), np.float32)),
    "shape": _refused(np.ones((7, 8), np.float32)),
    "mismatch": _mismatch,
}


def _malformed(subject: Subject) -> Iterator[Result]:
    """Nodes with attributes that no definition admits, and a weight that cannot be read: refused, or one of turnout's errors."""
    for what, (proto, spoil) in _spoilt().items():
        model = open_source(proto).model()
        try:
            if subject.refusal(model) is not None:
                continue  # it does not take the operator at all
        except Exception:  # an answer that raises is a matter of honesty, and reported there
            continue
        spoil(model.graph)
        yield _result("compile", what, _spoilt_run, subject, model, proto, spoil is _unreadable)


def _spoilt_run(subject: Subject, model: ir.Model, proto: onnx.ModelProto, hopeless: bool) -> str:
    """hopeless: no result can be right. (turnout checks attributes as it reads a model, so that a provider need not.)"""
    if subject.refusal(model) is not None:
        return ""
    program = None
    try:
        program = subject.program(model)
        shape = [dim.dim_value for dim in proto.graph.input[0].type.tensor_type.shape.dim]
        program.run([np.ones(shape, np.float32)])
    except (CompileError, RunError) as error:
        return "" if error.message else "it failed, and does not say why"
    except TurnoutError:
        return ""
    except Exception as error:
        return f"it raised {type(error).__name__}, which is no error of turnout's: {error}"
    finally:
        if program is not None:
            program.close()
    return "it gave a result" if hopeless else ""


Spoil = Callable[[ir.Graph], None]


def _spoilt() -> dict[str, tuple[onnx.ModelProto, Spoil]]:
    """Valid models, and what to do to the graph of each so that nobody can run it."""

    def attribute(name: str, value: Any) -> Spoil:
        def spoil(graph: ir.Graph) -> None:
            next(iter(graph)).attributes[name] = ir.convenience.convert_attribute(name, value)

        return spoil

    models: dict[str, tuple[onnx.ModelProto, Spoil]] = {
        "Softmax axis=9": (_one("Softmax", axis=-1), attribute("axis", 9)),
        "Transpose perm=[0,0]": (_one("Transpose", perm=[1, 0]), attribute("perm", [0, 0])),
        "Concat axis=7": (_one("Concat", axis=0), attribute("axis", 7)),
        "Cast to=999": (_one("Cast", to=11), attribute("to", 999)),
        "Flatten axis=7": (_one("Flatten", axis=1), attribute("axis", 7)),
    }
    for operator in ("Add", "Mul"):
        models[f"{operator} with a weight that cannot be read"] = (Workhorse(operator).model(), _unreadable)
    return models


def _one(operator: str, **attributes: Any) -> onnx.ModelProto:
    x = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [8, 8])
    graph = helper.make_graph([helper.make_node(operator, ["x"], ["y"], **attributes)], "spoilt", [x], [onnx.ValueInfoProto(name="y")])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


def _unreadable(graph: ir.Graph) -> None:
    """The weight's file is gone by the time somebody reads it."""

    def gone() -> Any:
        raise OSError("the file that held this weight is gone")

    for value in graph.initializers.values():
        value.const_value = ir.LazyTensor(gone, dtype=ir.DataType.FLOAT, shape=ir.Shape([8, 8]))


def _memory(subject: Subject) -> Result:
    """A run that needs more memory than there is, in a child process, since a system may end whoever tries."""
    start = time.perf_counter()

    def result(outcome: Outcome, detail: str = "") -> Result:
        return Result("faults", f"memory/{subject.provider.name}", outcome, detail, time.perf_counter() - start)

    try:
        found = in_child("memory", subject.provider, SECONDS)
    except Unreachable as error:
        return result("skipped", str(error))
    if "ended" in found:
        return result("failed", f"asked for more memory than there is, the process {found['ended']}; its last words: {found['said']}")
    if "error" in found:
        return result("failed", f"asked for more memory than there is, it ended in {found['error']}")
    if not found["tried"]:
        return result("refused", f"it takes none of {', '.join(_HUNGRY)}, which could ask for so much")
    return result("failed" if found["problem"] else "passed", found["problem"])


_HUNGRY = ("ConstantOfShape", "Expand", "Tile", "Add", "Mul")
_SIDE = 2**25  # two sides of float32 make 2^52 bytes: more than the 2^47 that a process can address
_ROW = np.array([[1]], np.float32)


def starve(subject: Subject) -> dict[str, Any]:
    """Runs the first hungry operator that the provider takes: {"tried": its name or "", "problem": what was wrong}."""
    shape = np.array([_SIDE, _SIDE], np.int64)
    feeds: dict[str, list[Any]] = {
        "ConstantOfShape": [shape],
        "Expand": [_ROW, shape],
        "Tile": [_ROW, shape],
        "Add": [np.ones((_SIDE, 1), np.float32), np.ones((1, _SIDE), np.float32)],
        "Mul": [np.ones((_SIDE, 1), np.float32), np.ones((1, _SIDE), np.float32)],
    }
    for operator in _HUNGRY:
        model = open_source(_hungry(operator, feeds[operator])).model()
        if subject.refusal(model) is None:
            return {"tried": operator, "problem": _starved(subject, model, feeds[operator])}
    return {"tried": "", "problem": ""}


def _hungry(operator: str, values: list[Any]) -> onnx.ModelProto:
    inputs = [
        helper.make_tensor_value_info(
            f"x{place}", helper.np_dtype_to_tensor_dtype(value.dtype), [f"x{place}_{axis}" for axis in range(value.ndim)]
        )
        for place, value in enumerate(values)
    ]
    node = helper.make_node(operator, [info.name for info in inputs], ["y"])
    graph = helper.make_graph([node], f"hungry {operator}", inputs, [onnx.ValueInfoProto(name="y")])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


def _starved(subject: Subject, model: ir.Model, values: list[Any]) -> str:
    try:
        subject.program(model).run(values)
    except OutOfMemory:
        return ""
    except RunError as error:
        return "" if error.message else "it failed, and does not say why"
    except Exception as error:
        return f"asked for more memory than there is, it raised {type(error).__name__}, which is no RunError: {error}"
    return "asked for more memory than there is, it gave a result"


def _lost(subject: Subject, horse: Workhorse | None) -> Result:
    """A device that goes away in the middle: only for providers that can pretend it, by a method `lose(device)`."""
    lose = getattr(subject.provider, "lose", None)
    if lose is None or horse is None:
        return Result("faults", "lost/device", "refused", "it has no method `lose(device)` with which a test could take the device away")
    return _result("lost", "device", _taken_away, subject, horse, lose)


def _taken_away(subject: Subject, horse: Workhorse, lose: Any) -> str:
    with subject.opened(horse.model()) as model, lose(subject.device):
        try:
            model.run(x=np.ones((8, 8), np.float32))
        except DeviceLost:
            return ""
        except Exception as error:
            return f"with the device gone, a run raised {type(error).__name__}, not DeviceLost: {error}"
        return "with the device gone, a run gave a result"
