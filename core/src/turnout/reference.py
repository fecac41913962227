"""The reference provider: ONNX's own evaluator, in NumPy. Last in order, so that whatever no plugin takes still runs: right, and slow."""

from __future__ import annotations

import functools
import graphlib
import importlib
import importlib.util
import inspect
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from turnout.device import Device
from turnout.errors import CompileError, RunError
from turnout.provider import Executable, No, Provider, Yes

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["REFERENCE", "ReferenceProvider"]


class ReferenceProvider(Provider):
    """`onnx.reference.ReferenceEvaluator` as a provider."""

    name: ClassVar[str] = "reference"
    rank: ClassVar[int] = 100

    def probe(self) -> Sequence[Device]:
        return [Device("reference", description="ONNX's reference evaluator (NumPy)")]

    def supports(self, node: ir.Node, graph: ir.Graph, device: Device) -> Yes | No:
        if node.domain not in _DOMAINS:
            return No(f"the reference evaluator has no operators of domain {node.domain}")
        if node.op_type in ("If", "Loop", "Scan"):
            if node.op_type == "Scan" and (node.version or 9) < 9:
                return No("the reference evaluator does not know the batch dimension that Scan had before operator set 9")
            return No(f"turnout runs {node.op_type} itself, so that its bodies go to the best device")
        if node.op_type == "ImageDecoder" and importlib.util.find_spec("PIL") is None:
            return No("ImageDecoder needs Pillow, which is not installed: pip install 'turnout[image]'")
        if _softcaps_raw_scores(node):
            return No("the reference evaluator gives soft-capped scores where Attention asks for raw ones (qk_matmul_output_mode 0)")
        return _implemented(node.domain, node.op_type, node.version or 1, tuple(sorted(node.attributes)))

    def compile(self, graph: ir.GraphView, device: Device, options: Any) -> Executable:
        return ReferenceExecutable(graph)

    def versions(self) -> Mapping[str, str]:
        import importlib.metadata

        return {"onnx": importlib.metadata.version("onnx")}


REFERENCE = ReferenceProvider()


# domain -> the evaluator's own table of that domain's operators
_DOMAINS = {
    "": "onnx.reference.ops._op_list",
    "ai.onnx": "onnx.reference.ops._op_list",
    "ai.onnx.ml": "onnx.reference.ops.aionnxml._op_list",
    "ai.onnx.preview.training": "onnx.reference.ops.aionnx_preview_training._op_list",
}


@functools.cache
def _implemented(domain: str, op_type: str, version: int, attributes: tuple[str, ...]) -> Yes | No:
    from onnx.defs import SchemaError, get_schema
    from onnx.reference import ReferenceEvaluator

    from turnout.corrections import correction

    schema_domain = "" if domain == "ai.onnx" else domain
    try:
        get_schema(op_type, version, schema_domain)
    except SchemaError:
        return No(f"operator set {version} has no operator {op_type}, or this onnx is older than the model")
    try:
        load_op = importlib.import_module(_DOMAINS[domain]).load_op
        more = {"evaluator_cls": ReferenceEvaluator} if not schema_domain else {}
        mended = None if schema_domain else correction(op_type, version)
        implementation = mended or load_op(schema_domain, op_type, version, **more)
    except Exception as error:  # the evaluator has half a dozen ways to say that it lacks an operator
        return No(f"the reference evaluator does not implement {op_type}: {str(error).partition('.')[0]}")
    for name in attributes:
        if _trips_over(implementation, name):
            return No(f"the reference evaluator does not know {op_type}'s attribute {name}")
    return Yes()


def _trips_over(implementation: Any, attribute: str) -> bool:
    """Whether it hands its attributes to a `_run` that has no place for this one."""
    from onnx.reference.op_run import OpRun

    if getattr(implementation, "run", None) is not OpRun.run:
        return False
    parameters = inspect.signature(implementation._run).parameters
    return attribute not in parameters and not any(one.kind is one.VAR_KEYWORD for one in parameters.values())


def _softcaps_raw_scores(node: ir.Node) -> bool:
    if node.op_type != "Attention" or len(node.outputs) < 4 or "softcap" not in node.attributes:
        return False
    mode = node.attributes["qk_matmul_output_mode"].as_int() if "qk_matmul_output_mode" in node.attributes else 0
    return mode == 0 and node.attributes["softcap"].as_float() != 0


class ReferenceExecutable(Executable):
    """A partition held by ONNX's evaluator, which interprets it node by node."""

    def __init__(self, graph: ir.GraphView) -> None:
        from onnx.reference import ReferenceEvaluator

        from turnout.corrections import corrected
        from turnout.graph import ir

        _check_trees(graph)
        proto = ir.serde.serialize_model(ir.Model(graph, ir_version=10))  # type: ignore[arg-type]
        self._inputs = [value.name or "" for value in graph.inputs]
        try:
            self._evaluator = ReferenceEvaluator(proto, new_ops=corrected(graph.opset_imports.get("", 1)))
        except Exception as error:
            raise CompileError(f"the reference evaluator cannot build this: {error}") from error

    def run(self, values: Sequence[Any], out: Sequence[Any] | None = None) -> Sequence[Any]:
        from turnout.tensor import host_results

        try:
            results = self._evaluator.run(None, dict(zip(self._inputs, values, strict=True)))
        except Exception as error:
            raise RunError(f"the reference evaluator failed: {type(error).__name__}: {error}") from error
        return host_results(results, values)


def _check_trees(graph: ir.GraphView) -> None:
    """Raises CompileError for trees that lead back to where they came from: the evaluator would follow them for ever."""
    for position, node in enumerate(graph):
        names = ("nodes_treeids", "nodes_nodeids", "nodes_truenodeids", "nodes_falsenodeids")
        if node.domain != "ai.onnx.ml" or not all(name in node.attributes for name in names[2:]):
            continue
        lists = {name: list(attribute.value) for name, attribute in node.attributes.items() if name in names}
        count = len(lists["nodes_truenodeids"])
        trees, ids = lists.get("nodes_treeids", [0] * count), lists.get("nodes_nodeids", range(count))
        below: dict[Any, set[Any]] = {key: set() for key in zip(trees, ids, strict=False)}
        modes = _modes(node, count)
        for tree, key, *children, branches in zip(trees, ids, lists["nodes_truenodeids"], lists["nodes_falsenodeids"], modes, strict=False):
            below[tree, key].update((tree, child) for child, branch in zip(children, branches, strict=True) if branch)
        try:
            for _ in graphlib.TopologicalSorter(below).static_order():
                pass
        except graphlib.CycleError:
            raise CompileError("its trees lead back to where they came from", nodes=[position]) from None


def _modes(node: ir.Node, count: int) -> list[tuple[bool, bool]]:
    """Whether a true, and whether a false, leads on to another node."""
    if "nodes_trueleafs" in node.attributes and "nodes_falseleafs" in node.attributes:  # TreeEnsemble-5
        leaves = zip(node.attributes["nodes_trueleafs"].as_ints(), node.attributes["nodes_falseleafs"].as_ints(), strict=False)
        return [(not true, not false) for true, false in leaves]
    modes = node.attributes["nodes_modes"].as_strings() if "nodes_modes" in node.attributes else ["LEAF"] * count
    return [(mode != "LEAF",) * 2 for mode in modes]
