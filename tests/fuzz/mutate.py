"""Ways to spoil a model: as bytes, as a protobuf message, and as a graph."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import onnx
from corpus import Seed

__all__ = ["mutate"]

ODD_INTS = (0, 1, -1, 2, 3, 5, -2, 7, 16, 63, 64, 127, 255, 1000, 2**15, 2**31 - 1, -(2**31), 2**31, 2**40, 2**62, 2**63 - 1, -(2**63))
ODD_FLOATS = (0.0, -0.0, 1.0, -1.0, 1e-45, 1e38, float("inf"), float("-inf"), float("nan"), 0.5)
ODD_TEXTS = (
    "",
    "x",
    "y",
    "w",
    "\0",
    "a" * 3000,
    "../weights.bin",
    "/etc/passwd",
    "weights.bin",
    "ai.onnx",
    "com.microsoft",
    "NOTSET",
    "\u00e9",
)
MESSAGE, STRING, BYTES, ENUM, BOOL = 11, 9, 12, 14, 8
FLOATING = (1, 2)


def mutate(seed: Seed, others: Sequence[Seed], rng: random.Random) -> tuple[bytes, dict[str, bytes]]:
    """A spoilt copy of the seed's model, and of the files beside it."""
    files = dict(seed.files)
    if files and rng.random() < 0.2:
        name = rng.choice(sorted(files))
        files[name] = _spoil(files[name], rng)
    kind = rng.random()
    if kind < 0.3:
        return _spoil(seed.model.SerializeToString(), rng), files
    model = onnx.ModelProto()
    model.CopyFrom(seed.model)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 5))):
        change = rng.choice(_GRAPH_CHANGES) if kind > 0.65 else _any_field
        change(model, others, rng)
    content = model.SerializeToString()
    return (_spoil(content, rng) if rng.random() < 0.05 else content), files


def _spoil(content: bytes, rng: random.Random) -> bytes:
    made = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 4, 16))):
        if not made:
            break
        at = rng.randrange(len(made))
        what = rng.randrange(7)
        if what == 0:
            made[at] ^= 1 << rng.randrange(8)
        elif what == 1:
            made[at] = rng.randrange(256)
        elif what == 2:
            del made[at:]
        elif what == 3:
            del made[at : at + rng.randrange(1, 9)]
        elif what == 4:
            made[at:at] = bytes(rng.randrange(256) for _ in range(rng.randrange(1, 9)))
        elif what == 5:
            made[at:at] = made[at : at + rng.randrange(1, 200)]
        else:
            made[at : at + 5] = b"\xff\xff\xff\xff\x07"
    return bytes(made)


# protobuf-level


def _messages(message: Any) -> Iterator[Any]:
    yield message
    for field, value in message.ListFields():
        if field.type == MESSAGE:
            for one in value if _repeated(field) else (value,):
                yield from _messages(one)


def _repeated(field: Any) -> bool:
    return bool(field.is_repeated) if hasattr(field, "is_repeated") else field.label == field.LABEL_REPEATED


def _any_field(model: onnx.ModelProto, others: Sequence[Seed], rng: random.Random) -> None:
    message = rng.choice(list(_messages(model)))
    fields = message.DESCRIPTOR.fields if rng.random() < 0.1 else [field for field, _ in message.ListFields()]
    if not fields:
        return
    field = rng.choice(list(fields))
    try:
        if _repeated(field):
            _change_list(model, message, field, rng)
        elif field.type == MESSAGE:
            _change_message(model, message, field, rng)
        else:
            setattr(message, field.name, _value(model, field, getattr(message, field.name), rng))
    except (ValueError, TypeError, UnicodeError):  # protobuf itself refuses some values; then nothing has changed
        pass


def _change_list(model: onnx.ModelProto, message: Any, field: Any, rng: random.Random) -> None:
    values = getattr(message, field.name)
    what = rng.randrange(5)
    if not values or (what == 0 and field.type != MESSAGE):
        if field.type != MESSAGE:
            values.append(_value(model, field, values[0] if values else None, rng))
        return
    at = rng.randrange(len(values))
    if what == 1:
        del values[at]
    elif what == 2:
        values.extend([values[at]] if field.type != MESSAGE else _copies(values[at : at + 1]))
    elif what == 3 and len(values) > 1:
        shuffled = _copies(values) if field.type == MESSAGE else list(values)
        rng.shuffle(shuffled)
        del values[:]
        values.extend(shuffled)
    elif field.type == MESSAGE:
        _replace(model, values[at], rng)
    else:
        values[at] = _value(model, field, values[at], rng)


def _copies(messages: Any) -> list[Any]:
    return [type(one).FromString(one.SerializeToString()) for one in messages]


def _change_message(model: onnx.ModelProto, message: Any, field: Any, rng: random.Random) -> None:
    if rng.random() < 0.5:
        message.ClearField(field.name)
    else:
        _replace(model, getattr(message, field.name), rng)


def _replace(model: onnx.ModelProto, message: Any, rng: random.Random) -> None:
    """Another message of the same kind, from anywhere in the model."""
    alike = [one for one in _messages(model) if one.DESCRIPTOR is message.DESCRIPTOR]
    if alike:
        message.CopyFrom(type(message).FromString(rng.choice(alike).SerializeToString()))


def _value(model: onnx.ModelProto, field: Any, old: Any, rng: random.Random) -> Any:
    if field.type == STRING:
        return rng.choice(_names(model) if rng.random() < 0.6 else list(ODD_TEXTS))
    if field.type == BYTES:
        return _spoil(old or b"\0\1\2\3", rng) if rng.random() < 0.7 else rng.choice(ODD_TEXTS).encode()
    if field.type == ENUM:
        return rng.choice([one.number for one in field.enum_type.values])
    if field.type == BOOL:
        return not old
    if field.type in FLOATING:
        return rng.choice(ODD_FLOATS)
    number = rng.choice(ODD_INTS) if rng.random() < 0.7 or not old else old + rng.choice((-1, 1, 2, 8))
    return number if field.type in (3, 16, 18) or -(2**31) <= number < 2**31 else rng.randrange(30)


def _names(model: onnx.ModelProto) -> list[str]:
    return sorted(
        {name for one in _messages(model) if one.DESCRIPTOR.name == "NodeProto" for name in (*one.input, *one.output, one.op_type)}
    ) or [""]


# graph-level


def _graphs(model: onnx.ModelProto) -> list[Any]:
    return [one for one in _messages(model) if one.DESCRIPTOR.name in ("GraphProto", "FunctionProto")]


def _node(model: onnx.ModelProto, rng: random.Random) -> Any:
    nodes = [node for graph in _graphs(model) for node in graph.node]
    return rng.choice(nodes) if nodes else onnx.NodeProto()


def _swap_inputs(model: onnx.ModelProto, others: Sequence[Seed], rng: random.Random) -> None:
    node = _node(model, rng)
    if node.input:
        node.input[rng.randrange(len(node.input))] = rng.choice(_names(model))


def _drop_or_add_inputs(model: onnx.ModelProto, others: Sequence[Seed], rng: random.Random) -> None:
    node = _node(model, rng)
    names = node.input if rng.random() < 0.6 else node.output
    what = rng.randrange(4)
    if what == 0 and names:
        del names[rng.randrange(len(names))]
    elif what == 1 and names:
        names[rng.randrange(len(names))] = ""
    elif what == 2:
        names.append("")
    else:
        names.append(rng.choice(_names(model)) if names is node.input else f"new{rng.randrange(1000)}")


def _circle(model: onnx.ModelProto, others: Sequence[Seed], rng: random.Random) -> None:
    first, second = _node(model, rng), _node(model, rng)
    if first.input and second.output:
        first.input[0] = second.output[0]


def _operator(model: onnx.ModelProto, others: Sequence[Seed], rng: random.Random) -> None:
    node, other = _node(model, rng), _node(rng.choice(others).model, rng)
    node.op_type, node.domain = other.op_type, other.domain
    if rng.random() < 0.5:
        del node.attribute[:]
        node.attribute.extend(_copies(other.attribute))


def _attribute(model: onnx.ModelProto, others: Sequence[Seed], rng: random.Random) -> None:
    node = _node(model, rng)
    if not node.attribute:
        return
    attribute = rng.choice(list(node.attribute))
    what = rng.randrange(5)
    if what == 0:
        node.attribute.remove(attribute)
    elif what == 1:
        attribute.i = rng.choice(ODD_INTS)
    elif what == 2 and attribute.ints:
        attribute.ints[rng.randrange(len(attribute.ints))] = rng.choice(ODD_INTS)
    elif what == 3:
        attribute.f = rng.choice(ODD_FLOATS)
    else:
        attribute.type = rng.choice([one for one in onnx.AttributeProto.AttributeType.values() if one])


def _dimension(model: onnx.ModelProto, others: Sequence[Seed], rng: random.Random) -> None:
    shapes = [one for one in _messages(model) if one.DESCRIPTOR.name in ("TensorShapeProto", "TensorProto")]
    if not shapes:
        return
    shape = rng.choice(shapes)
    if shape.DESCRIPTOR.name == "TensorProto":
        if rng.random() < 0.2:
            shape.data_type = rng.choice(onnx.TensorProto.DataType.values())
        elif shape.dims:
            shape.dims[rng.randrange(len(shape.dims))] = rng.choice(ODD_INTS)
        else:
            shape.dims.append(rng.choice(ODD_INTS))
        return
    if not shape.dim or rng.random() < 0.2:
        shape.dim.add(dim_value=rng.choice(ODD_INTS))
        return
    dim = rng.choice(list(shape.dim))
    if rng.random() < 0.3:
        dim.dim_param = rng.choice(ODD_TEXTS)
    else:
        dim.dim_value = rng.choice(ODD_INTS)


def _constant(model: onnx.ModelProto, others: Sequence[Seed], rng: random.Random) -> None:
    """Another value in a weight of integers: an axis, a shape, a length."""
    small = [one for one in model.graph.initializer if one.data_type == onnx.TensorProto.INT64 and one.raw_data]
    if small:
        tensor = rng.choice(small)
        count = len(tensor.raw_data) // 8
        tensor.raw_data = b"".join(rng.choice(ODD_INTS).to_bytes(8, "little", signed=True) for _ in range(count))


def _element_type(model: onnx.ModelProto, others: Sequence[Seed], rng: random.Random) -> None:
    types = [one for one in _messages(model) if one.DESCRIPTOR.full_name == "onnx.TypeProto.Tensor"]
    if types:
        rng.choice(types).elem_type = rng.choice(onnx.TensorProto.DataType.values())


def _twice(model: onnx.ModelProto, others: Sequence[Seed], rng: random.Random) -> None:
    graph = rng.choice(_graphs(model))
    if graph.node:
        node = onnx.NodeProto.FromString(rng.choice(list(graph.node)).SerializeToString())
        if rng.random() < 0.5:
            for at in range(len(node.output)):
                node.output[at] += "2"
        graph.node.insert(rng.randrange(len(graph.node)), node) if hasattr(graph.node, "insert") else graph.node.append(node)


def _graft(model: onnx.ModelProto, others: Sequence[Seed], rng: random.Random) -> None:
    """A graph as a body of a node: another's, or its own."""
    graphs = [graph for graph in _graphs(rng.choice(others).model) if graph.DESCRIPTOR.name == "GraphProto"]
    node = _node(model, rng)
    body = onnx.GraphProto.FromString(rng.choice(graphs).SerializeToString())
    held = [attribute for attribute in node.attribute if attribute.HasField("g")]
    if held:
        rng.choice(held).g.CopyFrom(body)
    else:
        node.attribute.append(onnx.helper.make_attribute("body", body))


def _opset(model: onnx.ModelProto, others: Sequence[Seed], rng: random.Random) -> None:
    entry = rng.choice(list(model.opset_import)) if model.opset_import else model.opset_import.add()
    entry.version = rng.choice((1, 2, 6, 7, 8, 9, 10, 11, 12, 13, 15, 17, 18, 20, 22, 23, 24, 26, 28, 99))


def _ir_version(model: onnx.ModelProto, others: Sequence[Seed], rng: random.Random) -> None:
    model.ir_version = rng.choice((0, 1, 3, 4, 7, 8, 9, 11, 13, 14, 99))


Change = Callable[[onnx.ModelProto, Sequence[Seed], random.Random], None]
_GRAPH_CHANGES: tuple[Change, ...] = (
    _swap_inputs, _swap_inputs, _drop_or_add_inputs, _drop_or_add_inputs, _circle, _operator, _operator, _attribute, _attribute,
    _attribute, _dimension, _dimension, _constant, _constant, _element_type, _element_type, _twice, _graft, _opset, _ir_version,
)  # fmt: skip
