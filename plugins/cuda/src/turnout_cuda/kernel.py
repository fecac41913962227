"""Declarations: what a kernel is for, what it takes, and how it is launched. `supports` reads them, and so cannot drift from what runs.

    @operator("Gather", takes=(ANY, INDEX))
    def gather(call: Call) -> Array: ...

The function is the launch rule. It sees arrays with their shapes, and says which kernels compute the node's outputs from them.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from turnout_cuda.element import ANY, Types, element_of

if TYPE_CHECKING:
    import onnx_ir as ir

    from turnout_cuda.array import Array
    from turnout_cuda.call import Call

__all__ = ["MODULES", "Declaration", "Rule", "declarations", "declare", "find", "operator"]

Rule = Callable[["Call"], "Array | Sequence[Array | None]"]

MODULES = (
    "elementwise",
    "reduce",
    "normalize",
    "move",
    "index",
    "shape",
    "convert",
    "product",
    "convolve",
    "pool",
    "search",
    "resize",
    "recurrent",
    "attention",
    "signal",
    "blocks",
    "cache",
    "stream",
    "dense",
    "sample",
)
"""The modules of `turnout_cuda.operators`: each declares a family."""


@dataclass(frozen=True)
class Declaration:
    """What one kernel, or one rule over several, is for.

    operator, domain: what it computes. since, until: the operator set versions whose definition it follows; None for every later one.
    takes: element types by input position, the last of them for all further inputs. host: positions of inputs that are read on the host,
    because shapes follow from them. lazy: the rule takes inputs that are formulas yet. refuses: a sentence about what it does not take of
    a node, "" where it takes it. tier: the least compute capability. plain: element types of which it is a product that cuBLASLt takes,
    where that is here. rule: how it is launched.
    """

    operator: str
    rule: Rule
    domain: str = ""
    since: int = 1
    until: int | None = None
    takes: tuple[Types, ...] = (ANY,)
    host: tuple[int, ...] = ()
    lazy: bool = False
    refuses: Callable[[ir.Node], str] | None = None
    tier: int = 75
    plain: Types = frozenset()

    def refusal(self, node: ir.Node) -> str:
        """Why it does not take the node, as a sentence; "" where it does."""
        version = node.version or 1
        if version < self.since or (self.until is not None and version > self.until):
            span = f"{self.since} and later" if self.until is None else f"{self.since} to {self.until}"
            return f"the {self.operator} kernel follows the definition of operator set {span}, not {version}"
        for position, value in enumerate(node.inputs):
            if value is None:
                continue
            why = _untaken(value, self.takes[min(position, len(self.takes) - 1)] if self.takes else ANY)
            if why:
                return f"the {self.operator} kernel {why} for input {position}"
        for value in node.outputs:
            if value.name and value.type is not None:
                why = _untaken(value, ANY)
                if why:
                    return f"the {self.operator} kernel {why} for an output"
        return self.refuses(node) if self.refuses is not None else ""


def _untaken(value: ir.Value, types: Types) -> str:
    from turnout.graph import describe, ir

    if not isinstance(value.type, ir.TensorType):
        return f"takes tensors, not {describe(value) or 'a value of unknown type'},"
    element = element_of(value.type.dtype)
    if element is None:
        return f"takes numbers, not {value.type.dtype.name.lower()},"
    if element.name not in types:
        return f"takes {', '.join(sorted(types))}, not {element.name},"
    return ""


_TABLE: dict[tuple[str, str], list[Declaration]] = {}
_loaded = False


def declare(declaration: Declaration) -> None:
    """Adds a declaration. A later one for the same operator is asked after the earlier ones."""
    _TABLE.setdefault((declaration.domain, declaration.operator), []).append(declaration)


def operator(name: str, **facts: Any) -> Callable[[Rule], Rule]:
    """Declares the launch rule below it as that of an operator; `facts` are the fields of Declaration. Put it twice for two operators."""

    def mark(rule: Rule) -> Rule:
        declare(Declaration(name, rule, **facts))
        return rule

    return mark


def _table() -> dict[tuple[str, str], list[Declaration]]:
    global _loaded
    if not _loaded:
        for name in MODULES:
            importlib.import_module(f"turnout_cuda.operators.{name}")
        _loaded = True
    return _TABLE


def declarations() -> Iterator[Declaration]:
    """All that there are."""
    for rows in _table().values():
        yield from rows


def find(node: ir.Node) -> Declaration | str:
    """The declaration that takes the node, or why none does."""
    rows = _table().get(("" if node.domain == "ai.onnx" else node.domain, node.op_type), ())
    reason = f"there is no CUDA kernel for {node.op_type} yet"
    for row in rows:
        reason = row.refusal(node)
        if not reason:
            return row
    return reason
