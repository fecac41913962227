"""Expanding a node into the body that defines its operator: functions of the model, of ONNX's schemas, and of plugins' operators."""

from __future__ import annotations

import onnx
import onnx.inliner

from turnout.errors import InvalidModel
from turnout.graph import captures, ir, subgraphs, type_name
from turnout.operator import operator_of

__all__ = ["body_of", "expand_local_functions", "is_expanded", "mark_expanded", "splice"]

_EXPANDED = "turnout.expanded"
_WRONG_BODIES = {
    "Bernoulli": frozenset[str](),  # gives 1 with the probability 1 - p
    "MeanVarianceNormalization": frozenset({"tensor(float)"}),  # has a constant of float32, whatever the type
}
"""Operator -> the types of its first input for which ONNX's body is right (onnx 1.23)."""


def expand_local_functions(model: ir.Model) -> None:
    """Replaces every call of a function that the model itself defines, in bodies too: the model's definition is the truth."""
    if model.functions:
        _expand_calls(model.graph, model)


def _expand_calls(graph: ir.Graph, model: ir.Model) -> None:
    for node in list(graph):
        if node.op_identifier() in model.functions:
            body = body_of(node, model)
            if body is None:
                raise InvalidModel(
                    f"the function {node.domain}::{node.op_type} cannot be expanded: it calls itself", hint="export the model again"
                )
            splice(node, body)
        else:
            for _, body in subgraphs(node):
                _expand_calls(body, model)


def body_of(node: ir.Node, model: ir.Model) -> ir.Graph | None:
    """The nodes that define this node, as a graph of the same inputs and outputs by name; None where it has no such definition.

    ONNX's own inliner does the work on a model of this one node: it knows attribute references, nested calls and bodies that depend
    on the types of the inputs; it leaves a node alone whose body is written for a later operator set. Raises InvalidModel where it fails.
    """
    from turnout.formats.check import check_reads, mend_nodes
    from turnout.formats.infer import infer
    from turnout.formats.onnx import set_versions
    from turnout.formats.tidy import tidy_graph

    functions = _functions(node, model)
    if not functions:
        return None
    try:
        inlined = onnx.inliner.inline_local_functions(_shell(node, functions), True)
        tidy_graph(inlined.graph)
        mend_nodes(inlined.graph.node)
        inlined = infer(inlined)
    except Exception as error:
        raise InvalidModel(
            f"the function {node.domain}::{node.op_type} cannot be expanded: {error}", hint="export the model again"
        ) from error
    if any(one.op_type == node.op_type and one.domain == node.domain for one in inlined.graph.node):
        return None
    body = ir.serde.deserialize_graph(inlined.graph)
    check_reads(body)
    set_versions(body, {entry.domain: entry.version for entry in inlined.opset_import})
    return body


def _functions(node: ir.Node, model: ir.Model) -> list[onnx.FunctionProto]:
    """The function that defines the node, with those that it may call; none where nobody defines it for this operator set."""
    if node.op_identifier() in model.functions:
        return [ir.serde.serialize_function(function) for function in model.functions.values()]
    operator = operator_of(node)
    if operator is None:
        return []
    if operator.function is not None:
        return [operator.function]
    body = None if operator.schema is None else _schema_body(node, operator.schema)
    if body is None:
        return []
    function = onnx.FunctionProto.FromString(body)
    function.domain, function.name = node.domain, node.op_type
    if not function.opset_import:
        function.opset_import.append(onnx.helper.make_opsetid("", node.version or 1))
    return [function]


def _schema_body(node: ir.Node, schema: onnx.defs.OpSchema) -> bytes | None:
    """The schema's body for the node's operator set version (some depend on the types of the inputs); None where it has none for it."""
    version = node.version or 1
    right = _WRONG_BODIES.get(node.op_type) if node.domain in ("", "ai.onnx") else None
    if right is not None and (node.inputs[0] is None or type_name(node.inputs[0]) not in right):
        return None
    try:
        if schema.has_context_dependent_function:
            if not all(value is None or type_name(value) for value in node.inputs):
                return None  # onnx's own builders read the types without asking whether there are any
            types = [onnx.TypeProto() if value is None else ir.serde.serialize_value(value).type for value in node.inputs]
            proto = ir.serde.serialize_node(node)
            at = max((one for one in schema.context_dependent_function_opset_versions if one <= version), default=None)
            return (
                None
                if at is None
                else schema.get_context_dependent_function_with_opset_version(
                    at, proto.SerializeToString(), [kind.SerializeToString() for kind in types]
                )
            )
        at = max((one for one in schema.function_opset_versions if one <= version), default=None)
        return None if at is None else schema.get_function_with_opset_version(at)
    except Exception:  # a body that cannot be built for these types is no body
        return None


def _shell(node: ir.Node, functions: list[onnx.FunctionProto]) -> onnx.ModelProto:
    """A model of this one node, its inputs and outputs typed as they are, with the functions that define it."""
    given = {value.name: value for value in (*node.inputs, *captures(node)) if value is not None and value.name}
    graph = onnx.helper.make_graph(
        [_with_defaults(node)],
        "call",
        [ir.serde.serialize_value(value) for value in given.values()],
        [ir.serde.serialize_value(value) for value in node.outputs if value.name],
    )
    owner = node.graph
    assert isinstance(owner, ir.Graph)
    opsets = {**owner.opset_imports}
    opsets.setdefault(node.domain, node.version or 1)
    imports = [onnx.helper.make_opsetid(domain, version) for domain, version in opsets.items()]
    shell = onnx.helper.make_model(graph, opset_imports=imports, ir_version=10)
    shell.functions.extend(functions)
    return shell


def _with_defaults(node: ir.Node) -> onnx.NodeProto:
    """The node with every attribute that its schema has a default for: a schema's body refers to them, given or not."""
    proto = ir.serde.serialize_node(node)
    operator = operator_of(node)
    if operator is not None and operator.schema is not None:
        for name, attribute in operator.schema.attributes.items():
            if name not in node.attributes and attribute.default_value.type:
                proto.attribute.append(attribute.default_value)
    return proto


def splice(node: ir.Node, body: ir.Graph) -> None:
    """Puts the body in the node's place; the values that the node gave keep their names, types and users."""
    owner = node.graph
    assert isinstance(owner, ir.Graph)
    outer = {value.name or "": value for value in (*node.inputs, *captures(node)) if value is not None and value.name}
    prefix = f"{node.outputs[0].name}/"
    for value in body.inputs:
        value.replace_all_uses_with(outer[value.name or ""])
    made = {value.name: value for value in body.outputs}
    body.outputs.clear()
    for name, value in list(body.initializers.items()):
        body.initializers.pop(name)
        if name not in made:
            value.name = prefix + name
        owner.register_initializer(value)
    inner = list(body)
    body.remove(inner)
    for new in inner:
        for value in new.outputs:
            if value.name and value.name not in made:
                value.name = prefix + value.name
    owner.insert_before(node, inner)
    for old in node.outputs:
        if old.name:
            _take_over(owner, old, made[old.name])
    owner.remove(node, safe=True)


def mark_expanded(graph: ir.Graph) -> None:
    """Notes that a body stands in the place of a node that was refused. (A call of the model's own function never was asked about.)"""
    graph.meta[_EXPANDED] = True


def is_expanded(graph: ir.Graph) -> bool:
    """Whether a refused node was expanded, in the graph or a body of it: the file that it came from still holds the node."""
    return any(_EXPANDED in one.meta for one in (graph, *graph.subgraphs()))


def _take_over(owner: ir.Graph, old: ir.Value, new: ir.Value) -> None:
    """`new` stands wherever `old` stood, outputs of the graph included, and keeps what is known of its type."""
    new.type = new.type or old.type
    new.shape = new.shape or old.shape
    old.replace_all_uses_with(new, replace_graph_outputs=True)
