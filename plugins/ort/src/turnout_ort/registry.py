"""What an execution provider can run, from ONNX Runtime's own kernel registry and schemas.

A kernel is necessary and nearly sufficient: a provider may still refuse an attribute when the session is built.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from turnout.graph import subgraphs, type_name
from turnout.operator import operator_of
from turnout.provider import No, Yes
from turnout_ort.census import census
from turnout_ort.runtime import bindings

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["PLUGINS", "Kernel", "Registry", "Schemas", "registry", "schemas"]

_FOREVER = 2**31 - 1  # how ONNX Runtime writes a version range without an end
_SHOWN = 8  # types in a refusal; the rest is "..."


@dataclass(frozen=True, slots=True)
class Kernel:
    """One kernel: the operator's versions that it is for, and the ONNX types it takes, by constraint or parameter."""

    first: int
    last: int
    types: Mapping[str, frozenset[str]]

    def runs(self, since: int) -> bool:
        """Whether the kernel is for the definition of that version; an open end means that one definition only."""
        return since == self.first if self.last == _FOREVER else self.first <= since <= self.last

    def __str__(self) -> str:
        if self.last == _FOREVER:
            return f"{self.first}+"
        return str(self.first) if self.first == self.last else f"{self.first}-{self.last}"


@dataclass(frozen=True, slots=True)
class Types:
    """The ONNX types of a node's inputs and outputs; "" for what is missing or unknown."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    @classmethod
    def of(cls, node: ir.Node) -> Types:
        return cls(
            tuple("" if value is None else type_name(value) for value in node.inputs),
            tuple(type_name(value) for value in node.outputs),
        )

    def first(self, places: Iterable[tuple[bool, int]]) -> str:
        """The first known type among the places (is it an input, position); ONNX Runtime looks at no more."""
        for is_input, position in places:
            types = self.inputs if is_input else self.outputs
            if position < len(types) and types[position]:
                return types[position]
        return ""

    def replace(self, old: str, new: str) -> Types:
        return Types(
            tuple(new if name == old else name for name in self.inputs),
            tuple(new if name == old else name for name in self.outputs),
        )


class Schemas:
    """The operators that this ONNX Runtime knows, and up to which operator set."""

    def __init__(self, definitions: Iterable[Any]) -> None:
        self._by_name: dict[tuple[str, str], dict[int, Any]] = {}
        self.newest: dict[str, int] = {}
        for schema in definitions:
            self._by_name.setdefault((schema.domain, schema.name), {})[schema.since_version] = schema
            self.newest[schema.domain] = max(self.newest.get(schema.domain, 0), schema.since_version)

    def find(self, domain: str, name: str, version: int) -> Any | None:
        """The definition in force at an operator set version, or None."""
        known = self._by_name.get((domain, name), {})
        since = max((since for since in known if since <= version), default=None)
        return None if since is None else known[since]


@functools.cache
def schemas() -> Schemas:
    """The schemas of the installed ONNX Runtime."""
    return Schemas(bindings().get_all_operator_schema())


def places(schema: Any, constraint: str) -> list[tuple[bool, int]]:
    """Where a kernel's constraint looks: parameters whose type variable, or whose own name, it is."""
    found = []
    for is_input, parameters in ((True, schema.inputs), (False, schema.outputs)):
        found += [(is_input, i) for i, p in enumerate(parameters) if constraint in (p.typeStr, p.name)]
    return found


class Registry:
    """The kernels of one execution provider. Verdicts are cached by operator, version and types."""

    def __init__(self, ep: str, kernels: Iterable[Any]) -> None:
        self.title = ep.removesuffix("ExecutionProvider")
        self._casts_float16 = ep == "CPUExecutionProvider"
        self._kernels: dict[tuple[str, str], list[Kernel]] = {}
        for k in kernels:
            types = {name: frozenset(allowed) for name, allowed in k.type_constraints.items()}
            first, last = k.version_range
            self._kernels.setdefault((k.domain, k.op_name), []).append(Kernel(first, last, types))
        self._verdicts: dict[Any, Yes | No] = {}

    def __bool__(self) -> bool:
        return bool(self._kernels)

    def verdict(self, node: ir.Node) -> Yes | No:
        """Whether there is a kernel for the node; a type that is unknown refuses nothing."""
        types = Types.of(node)
        key = (node.domain, node.op_type, node.version, types)
        found = self._verdicts.get(key)
        if found is None:
            found = self._verdicts[key] = self._decide(node, types)
        return found

    def _decide(self, node: ir.Node, types: Types) -> Yes | No:
        domain, name = "" if node.domain == "ai.onnx" else node.domain, node.op_type
        schema = self._schema(node, domain)
        if isinstance(schema, No):
            return schema
        if (domain, name) == ("", "Constant"):
            return Yes()  # a session makes an initializer of it, whatever the provider
        since = schema.since_version
        kernels = self._kernels.get((domain, name), [])
        matching = [kernel for kernel in kernels if kernel.runs(since)]
        if not matching:
            spans = sorted({(kernel.first, str(kernel)) for kernel in kernels})
            has = f" (it has {', '.join(span for _, span in spans)})" if spans else ""
            return No(f"no {self.title} kernel for {name} since opset {since}{has}")
        if self._match(matching, schema, types):
            return Yes()
        # the CPU provider runs what it has no float16 kernel for in float32, unless the node has a body
        widened = types.replace("tensor(float16)", "tensor(float)")
        casts = self._casts_float16 and widened != types and not any(subgraphs(node))
        if casts and self._match(matching, schema, widened):
            return Yes(remark="float16, computed in float32: there is no float16 kernel")
        return No(self._refusal(name, matching, schema, types))

    def _schema(self, node: ir.Node, domain: str) -> Any | No:
        """The definition that ONNX Runtime would use for the node, or why it has none."""
        version, newest = node.version or 1, schemas().newest.get(domain)
        if newest is None:
            return No(f"this ONNX Runtime has no operators of domain {domain}")
        if version > newest:
            operator = operator_of(node)
            if operator is not None and operator.since_version > newest:
                return No(
                    f"{node.op_type} since opset {operator.since_version} is newer than this ONNX Runtime, "
                    f"which knows {domain or 'ai.onnx'} up to opset {newest}"
                )
        schema = schemas().find(domain, node.op_type, version)
        return schema or No(f"this ONNX Runtime has no operator {node.op_type} at opset {version}")

    def _match(self, kernels: Sequence[Kernel], schema: Any, types: Types) -> bool:
        return any(not any(self._misfits(kernel, schema, types)) for kernel in kernels)

    def _misfits(self, kernel: Kernel, schema: Any, types: Types) -> Iterator[tuple[str, str]]:
        """The constraints that the types break: (constraint, type)."""
        for constraint, allowed in kernel.types.items():
            actual = types.first(places(schema, constraint))
            if actual and actual not in allowed:
                yield constraint, actual

    def _refusal(self, name: str, kernels: Sequence[Kernel], schema: Any, types: Types) -> str:
        for constraint, actual in (misfit for kernel in kernels for misfit in self._misfits(kernel, schema, types)):
            allowed = [allowed for kernel in kernels for allowed in sorted(kernel.types.get(constraint, ()))]
            if actual not in allowed:
                where = f" for {constraint}" if any(len(kernel.types) > 1 for kernel in kernels) else ""
                return f"{self.title} kernel of {name} takes {_listed(allowed)}{where}, not {plain(actual)}"
        given = ", ".join(plain(actual) for actual in (*types.inputs, *types.outputs) if actual)
        return f"no {self.title} kernel of {name} takes these types together: {given}"


def plain(onnx_type: str) -> str:
    """An ONNX type as a person writes it: `tensor(float)` is float32, `seq(tensor(int64))` is seq(int64)."""
    text = onnx_type.replace("sparse_tensor(", "sparse(").replace("tensor(", "").replace("))", ")")
    text = text.removesuffix(")") if "(" not in text else text
    return {"float": "float32", "double": "float64"}.get(text, text)


def _listed(onnx_types: Iterable[str]) -> str:
    names = list(dict.fromkeys(map(plain, onnx_types)))
    return ", ".join(names) if len(names) <= _SHOWN else ", ".join(names[:_SHOWN]) + " ..."


PLUGINS: set[str] = set()
"""Providers that were loaded from a library of their own."""


@functools.cache
def registry(ep: str) -> Registry:
    """The registry of an execution provider; false where it registers no kernels, as compiling ones do, or where asking would crash."""
    everything = bindings().get_all_opkernel_def() if census().kernels else ()
    kernels = [kernel for kernel in everything if kernel.provider == ep]
    of_plugin = getattr(bindings(), "get_registered_ep_kernel_defs", None)  # not in the first releases with plugins
    if not kernels and of_plugin is not None and ep in PLUGINS:
        kernels = list(of_plugin(ep))
    return Registry(ep, kernels)
