"""What a node has to have by its operator's schema, checked before anybody below reads it.

Neither onnx's inference nor a runtime looks at everything that it reads, and some look with an assertion: a node with an output too many,
an attribute of another kind or a function that calls itself takes the process with it, without an exception.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import onnx
import onnx.defs

from turnout.errors import InvalidModel
from turnout.formats.tidy import bodies
from turnout.graph import ir, subgraphs

__all__ = ["check_functions", "check_nodes", "check_reads", "mend", "mend_nodes"]

_AGAIN = "export the model again"
_NODES = 1_000_000
"""No model expands to more nodes than this. One whose functions call each other twice each, thirty deep, would."""

Key = tuple[str, str]


@dataclass(frozen=True)
class _Form:
    """What a schema says of the form of a node. A `True` in `needed` is an input or output that cannot be left out."""

    inputs: tuple[int, int]
    outputs: tuple[int, int]
    needed_inputs: tuple[bool, ...]
    needed_outputs: tuple[bool, ...]
    attributes: Mapping[str, str]
    needed_attributes: Sequence[str]


@functools.cache
def _form(domain: str, op_type: str, version: int) -> _Form | None:
    """The form of an operator's nodes; None where ONNX does not know the operator."""
    try:
        schema = onnx.defs.get_schema(op_type, version, domain)
    except onnx.defs.SchemaError:
        return None
    single, optional = onnx.defs.OpSchema.FormalParameterOption.Single, onnx.defs.OpSchema.FormalParameterOption.Optional
    return _Form(
        (schema.min_input, schema.max_input),
        (schema.min_output, schema.max_output),
        tuple(one.option != optional for one in schema.inputs),
        tuple(one.option == single for one in schema.outputs),
        {name: one.type.name for name, one in schema.attributes.items()},
        [name for name, one in schema.attributes.items() if one.required],
    )


def check_nodes(model: onnx.ModelProto) -> None:
    """Raises InvalidModel where a node, in bodies and functions too, has not the form that its operator asks for."""
    own = {(function.domain, function.name) for function in model.functions}
    for title, node in _all(model.graph.node):
        if any(attribute.ref_attr_name for attribute in node.attribute):
            raise InvalidModel(f"{title} refers to an attribute of a function, and stands in none", hint=_AGAIN)
    places: list[tuple[Any, Any]] = [(model.graph.node, model.opset_import)]
    places += [(function.node, function.opset_import or model.opset_import) for function in model.functions]
    for nodes, imports in places:
        opsets = {"" if entry.domain == "ai.onnx" else entry.domain: entry.version for entry in imports}
        for title, node in _all(nodes):
            domain = "" if node.domain == "ai.onnx" else node.domain
            form = None if (node.domain, node.op_type) in own or domain not in opsets else _form(domain, node.op_type, opsets[domain])
            problem = "" if form is None else _misfit(node, form)
            if not problem and not domain and node.op_type in _CRASHES:
                problem = _CRASHES[node.op_type](node)
            if problem:
                raise InvalidModel(f"{title} {problem}", hint=_AGAIN)


def _all(nodes: Sequence[onnx.NodeProto]) -> Iterator[tuple[str, onnx.NodeProto]]:
    for position, node in enumerate(nodes):
        yield f"node {node.name or position} ({node.op_type})", node
        for body in bodies(node):
            yield from _all(body.node)


def _misfit(node: onnx.NodeProto, form: _Form) -> str:
    """What is wrong with the node's form, as the end of a sentence; "" where nothing is."""
    for what, names, (least, most), needed in (
        ("input", node.input, form.inputs, form.needed_inputs),
        ("output", node.output, form.outputs, form.needed_outputs),
    ):
        if not least <= len(names) <= most:
            span = f"{least} to {most}" if most < 2**31 - 1 else f"at least {least}"
            return f"has {len(names)} {what}s, and the operator takes {least if least == most else span}"
        left_out = next((at for at, name in enumerate(names) if not name and needed[min(at, len(needed) - 1)]), None)
        if left_out is not None and not (what == "input" and node.op_type in _CALLS):
            return f"leaves out its {what} {left_out}, which the operator needs"
    return _misfit_attributes(node, form)


_CALLS = frozenset({"Loop", "Scan"})  # whose inputs are those of a body: an optional there may be left out


def _misfit_attributes(node: onnx.NodeProto, form: _Form) -> str:
    found: dict[str, str] = {}
    for attribute in node.attribute:
        if attribute.name in found:
            return f"has two attributes {attribute.name!r}"
        found[attribute.name] = kind = onnx.AttributeProto.AttributeType.Name(attribute.type)
        wanted = form.attributes.get(attribute.name, kind)
        if kind not in (wanted, "UNDEFINED"):
            return f"has {attribute.name!r} of kind {kind}, and the operator takes {wanted}"
        if kind in ("GRAPH", "GRAPHS") and attribute.ref_attr_name:
            return f"takes {attribute.name!r} from an attribute of its function, which turnout does not do with graphs"
        if kind == "TENSOR" and not attribute.HasField("t") and not attribute.ref_attr_name:
            return f"has {attribute.name!r} without a tensor in it"
    missing = [name for name in form.needed_attributes if name not in found]
    return f"has no attribute {missing[0]!r}, which the operator needs" if missing else ""


def _given(node: onnx.NodeProto, name: str) -> onnx.AttributeProto | None:
    return next((one for one in node.attribute if one.name == name and not one.ref_attr_name), None)


def _split(node: onnx.NodeProto) -> str:
    wanted = _given(node, "num_outputs")
    return "" if wanted is None or wanted.i == len(node.output) else f"has {len(node.output)} outputs, and num_outputs is {wanted.i}"


def _gather_nd(node: onnx.NodeProto) -> str:
    batch_dims = _given(node, "batch_dims")
    return f"has {batch_dims.i} batch dimensions" if batch_dims is not None and batch_dims.i < 0 else ""


def _layer_normalization(node: onnx.NodeProto) -> str:
    axis = _given(node, "axis")
    return "" if axis is None or -(2**31) <= axis.i < 2**31 else f"has the axis {axis.i}"


def _scan(node: onnx.NodeProto) -> str:
    count = _given(node, "num_scan_inputs")
    if count is None or 1 <= count.i <= len(node.input):
        return ""
    return f"has {len(node.input)} inputs, and num_scan_inputs is {count.i}"


_TERM = rb"[A-Za-z]*(?:\.\.\.[A-Za-z]*)?"
_EQUATION = re.compile(_TERM + rb"(?:," + _TERM + rb")*(?:->" + _TERM + rb")?")


def _einsum(node: onnx.NodeProto) -> str:
    equation = _given(node, "equation")
    if equation is None or _EQUATION.fullmatch(equation.s.replace(b" ", b"")):
        return ""
    return f"has the equation {equation.s!r}"


# operators of ONNX's own whose attributes can be such that onnx's inference (1.23) or ONNX Runtime (1.32) dies of them, or never ends
_CRASHES: Mapping[str, Callable[[onnx.NodeProto], str]] = {
    "Einsum": _einsum,
    "GatherND": _gather_nd,
    "LayerNormalization": _layer_normalization,
    "Scan": _scan,
    "Split": _split,
}


def mend(model: onnx.ModelProto) -> bool:
    """Writes what ONNX allows, and ONNX Runtime (1.32) dies of, in a way that it takes; whether there was anything of the kind.

    An output that a Split leaves out gets a name, and an input left out at the end is no longer listed.
    """
    places = (model.graph.node, *(function.node for function in model.functions))
    return sum(mend_nodes(nodes) for nodes in places) > 0


def mend_nodes(nodes: Sequence[onnx.NodeProto]) -> int:
    """How many of the nodes, and of those in their bodies, were written in another way."""
    mended = 0
    for number, (_, node) in enumerate(_all(nodes)):
        if node.input and not node.input[-1]:
            while node.input and not node.input[-1]:
                node.input.pop()
            mended += 1
        if node.op_type == "Split" and node.domain in ("", "ai.onnx") and "" in node.output:
            named = [name or f"unread/{node.output[-1]}/{number}/{at}" for at, name in enumerate(node.output)]
            del node.output[:]
            node.output.extend(named)
            mended += 1
    return mended


def check_functions(model: onnx.ModelProto) -> None:
    """Raises InvalidModel for functions that are no text, read what they do not define, or expand without end."""
    functions = {(function.domain, function.name): function for function in model.functions}
    for (domain, name), function in functions.items():
        texts = [domain, name, *function.input, *function.output, *function.attribute]
        texts += [text for node in function.node for text in (node.op_type, node.domain, *node.input, *node.output)]
        if any(not isinstance(text, str) for text in texts):
            raise InvalidModel(f"the function {name!r} holds a name that is no text", hint="fetch or export the file again; it is damaged")
        if len(set(function.input)) < len(function.input) or len(set(function.output)) < len(function.output):
            raise InvalidModel(f"the function {domain}::{name} has two inputs or outputs of one name", hint=_AGAIN)
        made = {*function.input, *(text for node in function.node for text in node.output)}
        if lacking := [text for text in function.output if text not in made]:
            raise InvalidModel(f"the function {domain}::{name} gives {lacking[0]!r}, which nothing in it defines", hint=_AGAIN)
    sizes: dict[Key, int] = {}
    total = sum(_size(node, functions, sizes, ()) for node in model.graph.node) if functions else 0
    if total > _NODES:
        raise InvalidModel(f"its functions expand to {total} nodes; turnout refuses more than {_NODES}", hint=_AGAIN)


def _size(node: onnx.NodeProto, functions: Mapping[Key, onnx.FunctionProto], sizes: dict[Key, int], calls: tuple[Key, ...]) -> int:
    """How many nodes stand where the node stands, once its function and those that it calls are expanded."""
    inside = sum(_size(inner, functions, sizes, calls) for body in bodies(node) for inner in body.node)
    key = (node.domain, node.op_type)
    if key not in functions:
        return 1 + inside
    if len(node.input) > len(functions[key].input) or len(node.output) > len(functions[key].output):
        raise InvalidModel(f"a call of the function {key[0]}::{key[1]} has more inputs or outputs than the function", hint=_AGAIN)
    if key in calls:
        raise InvalidModel(f"the function {key[0]}::{key[1]} calls itself", hint="ONNX has no recursion; use Loop")
    if key not in sizes:
        sizes[key] = sum(_size(inner, functions, sizes, (*calls, key)) for inner in functions[key].node)
    return sizes[key] + inside


def check_reads(graph: ir.Graph, outer: tuple[set[ir.Value], ...] = ()) -> None:
    """Raises InvalidModel where a value is read before anything defines it: a circle through a body, or a function's slip of the pen."""
    known: set[ir.Value] = {*graph.inputs, *graph.initializers.values()}
    scopes = (known, *outer)
    for node in graph:
        for value in node.inputs:
            if value is not None and not any(value in scope for scope in scopes):
                raise InvalidModel(f"a {node.op_type} reads {value.name!r}, which nothing before it defines", hint=_AGAIN)
        for _, body in subgraphs(node):
            check_reads(body, scopes)
        known.update(node.outputs)
    for value in graph.outputs:
        if not any(value in scope for scope in scopes):
            raise InvalidModel(f"nothing gives the output {value.name!r}", hint=_AGAIN)
