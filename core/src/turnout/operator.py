"""Operator: the identity and schema of what a node does. ONNX's own come from `onnx.defs`; plugins add others and whole domains."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx
    import onnx_ir as ir

__all__ = ["Operator", "operator_of", "register"]


@dataclass(frozen=True)
class Operator:
    """One operator as of one operator set version.

    domain: "" is ONNX's own ("ai.onnx" is the same). since_version: the operator set version that brought this definition.
    attributes: name to attribute kind ("INT", "FLOATS", "GRAPH" ...). type_constraints: type parameter to the ONNX types it admits.
    schema: the `onnx.defs` schema where there is one. function: a body in other operators, for operators that plugins define.
    """

    domain: str
    name: str
    since_version: int
    attributes: Mapping[str, str] = field(default_factory=dict, compare=False)
    type_constraints: Mapping[str, Sequence[str]] = field(default_factory=dict, compare=False)
    schema: onnx.defs.OpSchema | None = field(default=None, compare=False, repr=False)
    function: onnx.FunctionProto | None = field(default=None, compare=False, repr=False)

    @classmethod
    def from_schema(cls, schema: onnx.defs.OpSchema) -> Operator:
        """The operator that an ONNX schema defines."""
        return cls(
            domain=schema.domain,
            name=schema.name,
            since_version=schema.since_version,
            attributes={name: attribute.type.name for name, attribute in schema.attributes.items()},
            type_constraints={c.type_param_str: tuple(c.allowed_type_strs) for c in schema.type_constraints},
            schema=schema,
        )

    def __str__(self) -> str:
        return f"{self.domain or 'ai.onnx'}::{self.name} (since {self.since_version})"


# operators that plugins brought: (domain, name) -> definitions, newest first
_EXTRA: dict[tuple[str, str], list[Operator]] = {}


def register(operator: Operator) -> None:
    """Adds an operator that ONNX does not have. Called for what the hook `turnout_operators` gives; safe to call twice."""
    known = _EXTRA.setdefault((operator.domain, operator.name), [])
    if operator not in known:
        known.append(operator)
        known.sort(key=lambda other: other.since_version, reverse=True)
        _lookup.cache_clear()


def operator_of(node: ir.Node) -> Operator | None:
    """The operator that a node names, at the operator set version that its model imports; None where nobody defines it."""
    return _lookup(node.domain, node.op_type, node.version or 1)


@functools.cache
def _lookup(domain: str, name: str, version: int) -> Operator | None:
    for operator in _EXTRA.get((domain, name), ()):
        if operator.since_version <= version:
            return operator
    import onnx.defs

    try:
        schema = onnx.defs.get_schema(name, version, "" if domain == "ai.onnx" else domain)
    except onnx.defs.SchemaError:
        return None
    return Operator.from_schema(schema)
