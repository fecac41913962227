"""Conversions between element types: casts, quantizing and back."""

from __future__ import annotations

import math

import numpy as np

from turnout_cuda.array import Array
from turnout_cuda.call import Call, Given
from turnout_cuda.element import ANY, ELEMENTS, FLOATS, Element, Types, element_of
from turnout_cuda.kernel import operator

__all__ = ["quantized"]

_REAL: Types = frozenset(name for name in ELEMENTS if not name.startswith("complex"))
_SMALL_FLOATS: Types = frozenset(name for name in ELEMENTS if name.startswith(("float8e4", "float8e5", "float4")))
_QUANTIZED: Types = _SMALL_FLOATS | {"int8", "uint8", "int16", "uint16", "int4", "uint4", "int2", "uint2"}


def _cast(call: Call, element: Element) -> Array:
    x = call.x
    if element == x.element:
        return call.view(x, x.shape)
    text = "{0}"
    if element.name.startswith("float8e") and not call.attribute("saturate", 1):
        text = f"Down<{element.c}>::from({{0}}, false)"
    elif element.name in ("int4", "uint4", "int2", "uint2") and x.element.work != "int":
        text = "(long long){0}"
    return call.formula(text, [x], element)


def _refuses_cast(node: object) -> str:
    target = node.attributes.get("to")  # type: ignore[attr-defined]
    source = node.inputs[0].dtype if node.inputs[0] is not None else None  # type: ignore[attr-defined]
    element = element_of(target.value) if target is not None else None
    if element is None:
        return "no kernel casts to a type that a GPU does not hold"
    same = source is not None and int(source) == element.onnx
    if not same and (element.name.startswith("complex") or element.name == "float8e8m0"):
        return f"no kernel casts to {element.name}"
    return ""


@operator("Cast", since=6, takes=(_REAL,), lazy=True, refuses=_refuses_cast)
def cast(call: Call) -> Array:
    element = element_of(call.attribute("to"))
    assert element is not None
    return _cast(call, element)


def _refuses_like(node: object) -> str:
    like = node.inputs[1]  # type: ignore[attr-defined]
    element = element_of(like.dtype) if like is not None and like.dtype is not None else None
    if element is None or element.name.startswith("complex") or element.name == "float8e8m0":
        return "no kernel casts to the type of the second input"
    return ""


@operator("CastLike", since=15, takes=(_REAL, ANY), lazy=True, refuses=_refuses_like)
def cast_like(call: Call) -> Array:
    return _cast(call, call.input(1).element)


def _refuses_bits(node: object) -> str:
    target = element_of(node.attributes["to"].value)  # type: ignore[attr-defined]
    source = node.inputs[0].dtype  # type: ignore[attr-defined]
    if target is None or source is None or target.name in _PACKED or element_of(source).name in _PACKED:  # type: ignore[union-attr]
        return "elements of less than a byte lie one to a byte here, so that their bits cannot be taken as others"
    return ""


_PACKED: Types = frozenset({"int4", "uint4", "int2", "uint2", "float4e2m1"})


@operator("BitCast", since=26, refuses=_refuses_bits)
def bit_cast(call: Call) -> Array:
    element = element_of(call.attribute("to"))
    assert element is not None
    x = call.ready(call.x)
    if element.size != x.element.size:
        raise call.wrong(f"{x.element} and {element} differ in size")
    return x.as_type(element.name)


def _scales(call: Call, x: Array, scale: Array, axis: int, block: int) -> tuple[str, Given]:
    """C++ for the place of element i's scale, and the numbers that it names: one scale, one per axis, or one per block of it."""
    if scale.size == 1 and not block:
        return "0", {}
    inner, size = math.prod(x.shape[axis + 1 :]), x.shape[axis]
    if not block:
        if scale.size != size:
            raise call.wrong(f"{scale.size} scales are given for an axis of {size}")
        return "i / inner % size", {"inner": inner, "size": size}
    return "(i / inner / size * blocks + i / inner % size / block) * inner + i % inner", {
        "inner": inner,
        "size": size,
        "blocks": scale.shape[axis],
        "block": block,
    }


def quantized(value: str, element: Element) -> str:
    """C++ that brings a float to a quantized type: rounded to even and held within its range, or as a small float."""
    if element.name in _SMALL_FLOATS:
        return f"Down<{element.c}>::from((float)({value}), SATURATE)"
    low, high = _range(element)
    return f"down<{element.c}>((int)fmin(fmax(rint((float)({value})), {low}.f), {high}.f))"


def _range(element: Element) -> tuple[int, int]:
    if element.name in _PACKED:
        bits = int(element.name[-1])
        return (0, 2**bits - 1) if element.name.startswith("u") else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    info = np.iinfo(element.dtype)
    return int(info.min), int(info.max)


def _refuses_output(node: object) -> str:
    found = node.outputs[0].dtype  # type: ignore[attr-defined]
    element = element_of(found) if found is not None else None
    if element is not None and element.name not in _QUANTIZED:
        return f"no kernel quantizes to {element.name}"
    return ""


@operator("QuantizeLinear", since=10, takes=(FLOATS - {"float64"} | {"int32"}, ANY, ANY), refuses=_refuses_output)
def quantize_linear(call: Call) -> Array:
    x, scale, zero = call.x, call.input(1), call.optional(2)
    wanted = call.attribute("output_dtype", 0)
    element = zero.element if zero is not None else element_of(wanted) if wanted else ELEMENTS["uint8"]
    assert element is not None
    place, numbers = _scales(call, x, scale, _axis(call, x, scale), int(call.attribute("block_size", 0)))
    value = f"(float)up(x[i]) / (float)up(scale[{place}])"
    given: Given = {"scale": scale}
    if zero is not None:
        given["zero"] = zero
        value = f"rint({value}) + (float)up(zero[{place}])" if element.name not in _SMALL_FLOATS else value
    text = quantized(value, element).replace("SATURATE", "true" if call.attribute("saturate", 1) else "false")
    return call.each(call.new(x.shape, element), f"y[i] = {text};", x=x, **given, **numbers)


def _axis(call: Call, x: Array, scale: Array) -> int:
    return call.checked_axis(int(call.attribute("axis", 1)), x.ndim) if scale.size > 1 or call.attribute("block_size", 0) else 0


@operator("DequantizeLinear", since=10, takes=(_QUANTIZED | {"int32"}, FLOATS | {"float8e8m0"}, ANY))
def dequantize_linear(call: Call) -> Array:
    x, scale, zero = call.x, call.input(1), call.optional(2)
    wanted = call.attribute("output_dtype", 0)
    element = element_of(wanted) if wanted else scale.element
    assert element is not None
    place, numbers = _scales(call, x, scale, _axis(call, x, scale), int(call.attribute("block_size", 0)))
    given: Given = {"scale": scale}
    value = "up(x[i])"
    if zero is not None:
        given["zero"] = zero
        value = f"({value} - {'(int)' if zero.element.work == 'unsigned' else ''}up(zero[{place}]))"
        value = value.replace("up(x[i])", "(int)up(x[i])") if zero.element.work == "unsigned" else value
    work = "double" if element.name == "float64" else "float"
    return call.each(call.new(x.shape, element), f"y[i] = down<Y>(({work}){value} * ({work})up(scale[{place}]));", x=x, **given, **numbers)


@operator("DynamicQuantizeLinear", since=11, takes=(frozenset({"float32"}),))
def dynamic_quantize_linear(call: Call) -> list[Array]:
    """uint8 over the range of the input, which always holds 0: y_scale = (max - min) / 255, y_zero_point = round(-min / y_scale)."""
    from turnout_cuda.rows import Accumulator, reduce_rows

    x = call.x
    ends = []
    for name, join in (("smallest", "smaller"), ("largest", "larger")):
        how = Accumulator("W", "0", f"a = {join}(a, x);", f"{join}(a, b)")
        ends.append(reduce_rows(call, x, call.new((), x.element), list(range(x.ndim)), how, "a", name))
    scale = call.ready(call.formula("({1} - {0}) / 255.f", ends, "float32"))
    zero = call.ready(call.formula("fmin(fmax(rint(-{0} / {1}), 0.f), 255.f)", [ends[0], scale], "uint8"))
    y = call.formula("fmin(fmax(rint({0} / {1}) + (float){2}, 0.f), 255.f)", [x, scale, zero], "uint8")
    return [y, scale, zero]
