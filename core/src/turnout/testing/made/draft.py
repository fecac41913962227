"""From a draft (operator, inputs, attributes) to a case: a model of one node."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import onnx.defs
from onnx import helper

from turnout.testing.case import Case
from turnout.testing.made.definitions import DEFINITIONS
from turnout.testing.made.draw import dtypes_of

__all__ = ["Draft", "Group", "admitted", "newest", "schema_of"]


@dataclass(frozen=True)
class Draft:
    """One node to try.

    kind: what is tried about it. inputs: arrays, None for an input that is left out. constants: positions of inputs that are
    initializers of the model instead. more: further inputs for the same model, whose dimensions are then left open.
    outputs: how many. title: tells drafts of one kind and type apart. version: operator set, where it is not the newest definition's.
    wanted: the outputs, where ONNX's evaluator does not know this version. type_only: why values are not compared.
    """

    kind: str
    inputs: Sequence[Any]
    attributes: Mapping[str, Any] = field(default_factory=dict)
    constants: Sequence[int] = ()
    more: Sequence[Sequence[Any]] = ()
    outputs: int = 1
    title: str = ""
    version: int | None = None
    wanted: Sequence[Any] | None = None
    type_only: str = ""


class Group:
    """The cases of one operator and element type: the first asks whether it is claimed at all, the others go into detail."""

    def __init__(self, operator: str, dtype: str, drafts: Callable[[], Iterable[Draft]], domain: str = "") -> None:
        self.operator = operator
        self.dtype = dtype
        self._drafts = drafts
        self._domain = domain

    @functools.cached_property
    def cases(self) -> list[Case]:
        """The cases, made when they are first asked for."""
        return [_case(self.operator, self._domain, self.dtype, draft) for draft in self._drafts()]

    def __repr__(self) -> str:
        return f"Group({self.operator} {self.dtype})"


@functools.cache
def schema_of(operator: str, version: int | None = None, domain: str = "") -> Any:
    """The definition of an operator at an operator set version, or its newest."""
    if version is None:
        return onnx.defs.get_schema(operator, domain=domain)
    return onnx.defs.get_schema(operator, version, domain)


def admitted(operator: str, parameter: str = "") -> list[str]:
    """The element types of a type parameter, that of the first input where none is named; none where this onnx lacks the operator."""
    try:
        schema = schema_of(operator)
    except onnx.defs.SchemaError:
        return []
    parameter = parameter or schema.inputs[0].type_str
    return dtypes_of(schema, parameter) or [parameter.removeprefix("tensor(").removesuffix(")")]


def newest(operator: str, domain: str = "") -> int:
    """The operator set version that brought the newest definition."""
    return int(schema_of(operator, None, domain).since_version)


def _case(operator: str, domain: str, dtype: str, draft: Draft) -> Case:
    version = draft.version or newest(operator, domain)
    since = schema_of(operator, version, domain).since_version
    name = f"{draft.kind}/{operator}-{since}" + f" {dtype} {draft.title}".rstrip()
    runs = [[value for place, value in enumerate(run) if value is not None and place not in draft.constants] for run in _runs(draft)]
    return Case(name, _model(operator, domain, version, draft), runs, _wanted(operator, draft, since), type_only=draft.type_only)


def _wanted(operator: str, draft: Draft, since: int) -> Any:
    """The outputs, where they are known without ONNX's evaluator."""
    if draft.wanted is not None:
        return [list(draft.wanted)]
    definition = DEFINITIONS.get(operator)
    if definition is None or since != newest(operator):
        return None
    with np.errstate(all="ignore"):
        found = [definition(run, draft.attributes) for run in _runs(draft)]
    return None if any(one is None or len(one) != draft.outputs for one in found) else found


def _runs(draft: Draft) -> list[Sequence[Any]]:
    return [draft.inputs, *draft.more]


def _model(operator: str, domain: str, version: int, draft: Draft) -> onnx.ModelProto:
    names = ["" if value is None else f"x{place}" for place, value in enumerate(draft.inputs)]
    outputs = [f"y{place}" for place in range(draft.outputs)]
    node = helper.make_node(operator, names, outputs, domain=domain, **draft.attributes)
    inputs, initializers = [], []
    for place, value in enumerate(draft.inputs):
        if value is None:
            continue
        if place in draft.constants:
            initializers.append(_tensor(f"x{place}", value))
        else:
            inputs.append(_info(f"x{place}", [run[place] for run in _runs(draft)]))
    graph = helper.make_graph([node], "made", inputs, [onnx.ValueInfoProto(name=name) for name in outputs], initializers)
    opsets = [helper.make_opsetid(domain, version)] + ([helper.make_opsetid("", 21)] if domain else [])
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def _tensor(name: str, array: np.ndarray[Any, Any]) -> onnx.TensorProto:
    tensor = onnx.numpy_helper.from_array(np.ascontiguousarray(array).reshape(array.shape))
    tensor.name = name
    return tensor


def _info(name: str, values: Sequence[Any]) -> onnx.ValueInfoProto:
    """The input's declaration: dimensions that differ between the runs are left open."""
    array = values[0]
    kind = onnx.TensorProto.STRING if array.dtype == object else helper.np_dtype_to_tensor_dtype(array.dtype)
    shapes = [value.shape for value in values]
    dims = [sizes[0] if len(set(sizes)) == 1 else f"{name}_{axis}" for axis, sizes in enumerate(zip(*shapes, strict=True))]
    return helper.make_tensor_value_info(name, kind, dims)
