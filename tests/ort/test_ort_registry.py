"""Verdicts from the kernel registry, against what sessions really do."""

from __future__ import annotations

import time

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx.backend.test import loader

from turnout.device import Device
from turnout.graph import ir
from turnout.operator import operator_of
from turnout.provider import No, Yes
from turnout_ort import OrtProvider
from turnout_ort.quirks import quirk
from turnout_ort.registry import schemas

# operators with a kernel that refuses attribute values when it is made: layout=1, locales that the system lacks, and, in ONNX Runtime
# before 1.27, some of Attention's
_PICKY = {"GRU", "LSTM", "RNN", "StringNormalizer", "Attention"}

_RELU = '<ir_version: 10, opset_import: ["" : {opset}]> g ({type}[2] x) => ({type}[2] y) {{ y = {op}(x) }}'


def _one_node_models():
    for case in loader.load_model_tests(kind="node"):
        model = case.model if case.model is not None else onnx.load(f"{case.model_dir}/model.onnx")
        if len(model.graph.node) == 1 and not model.functions:
            model.ir_version = min(model.ir_version, 10)
            yield case.name, model


def _opens(model: onnx.ModelProto) -> bool:
    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 4, 1
    try:
        onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception:
        return False
    return True


def _is_function(node: ir.Node) -> bool:
    """Whether ONNX defines the operator by others: ONNX Runtime expands those by itself, and so does turnout."""
    schema = operator_of(node).schema
    return schema.has_function or schema.has_context_dependent_function


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # onnx computes its own cases
def test_a_yes_is_a_node_that_a_session_takes_and_a_no_one_that_it_does_not(read, refusal):
    wrong_yes, wrong_no, right = [], [], {True: 0, False: 0}
    for name, model in list(_one_node_models())[::3]:
        graph = read(model)
        opens, reason = _opens(model), refusal(graph)
        if opens != (not reason):
            (wrong_no if opens else wrong_yes).append((name, graph[0], reason))
        else:
            right[opens] += 1
    assert right[True] > 250
    assert right[False] > 10
    assert {node.op_type for _, node, _ in wrong_yes} <= _PICKY
    unexplained = [(name, reason) for name, node, reason in wrong_no if not _is_function(node) and quirk(node) is None]
    assert unexplained == []


@pytest.mark.parametrize(
    ("op", "kind", "opset", "reason"),
    [
        ("Relu", "bfloat16", 14, "CPU kernel of Relu takes float32, float64, int8, int32, not bfloat16"),
        ("Celu", "float", 27, "no CPU kernel for Celu since opset 12"),
        ("Nonsense", "float", 21, "this ONNX Runtime has no operator Nonsense at opset 21"),
    ],
)
def test_a_refusal_says_what_there_is(read, refusal, op, kind, opset, reason):
    graph = read(_RELU.format(op=op, type=kind, opset=opset), infer=False)
    assert refusal(graph) == reason or (op == "Celu" and refusal(graph) == "")


def test_a_refusal_names_the_versions_that_have_a_kernel(read, refusal):
    text = """<ir_version: 10, opset_import: ["" : 10]>
        g (float[1,1,2,2] x, float[4] s) => (y) { y = Upsample(x, s) }"""
    assert refusal(read(text, infer=False)) == "no CPU kernel for Upsample since opset 10 (it has 7-8, 9)"


def test_kernels_of_two_types_that_do_not_go_together(read, refusal):
    text = """<ir_version: 10, opset_import: ["" : 10]>
        g (int8[2,2] a, float s, int8 za, uint8[2,2] b, uint8 zb, int8 zy) => (int8[2,2] y)
        { y = QLinearMatMul(a, s, za, b, s, zb, s, zy) }"""
    assert refusal(read(text, infer=False)).startswith("no CPU kernel of QLinearMatMul takes these types together: int8")


def test_ai_onnx_is_the_domain_without_a_name(read, refusal):
    graph = read(_RELU.format(op="Relu", type="float", opset=21))
    graph[0].domain = "ai.onnx"
    assert refusal(graph) == ""


def test_an_unknown_type_refuses_nothing(read, refusal):
    graph = read(_RELU.format(op="Relu", type="bfloat16", opset=21))
    assert refusal(graph)
    graph[0].inputs[0].type = None
    graph[0].outputs[0].type = None
    assert refusal(graph) == ""


def test_float16_runs_in_float32_where_there_is_no_kernel(read, refusal, build):
    text = _RELU.format(op="Relu", type="float16", opset=21)
    assert refusal(read(text)) == ""
    (y,) = build(text).run([np.array([-1, 2], np.float16)])
    assert (y.dtype, y.tolist()) == (np.float16, [0, 2])


def test_the_operators_of_microsoft(read, refusal):
    text = """<ir_version: 10, opset_import: ["" : 21, "com.microsoft" : 1]>
        g (TYPE[2,8] x) => (TYPE[2,8] y) { y = com.microsoft.QuickGelu(x) }"""
    assert refusal(read(text.replace("TYPE", "float"), infer=False)) == ""
    assert refusal(read(text.replace("TYPE", "int32"), infer=False)).endswith("not int32")


def test_a_domain_that_onnx_runtime_does_not_have(read, refusal):
    text = '<ir_version: 10, opset_import: ["" : 21, "acme" : 1]> g (float[2] x) => (float[2] y) { y = acme.Magic(x) }'
    assert refusal(read(text, infer=False)) == "this ONNX Runtime has no operators of domain acme"


def test_an_operator_set_that_is_too_new_stops_only_operators_that_are(read, refusal, build, provider, device):
    newest = schemas().newest[""]
    graph = read(_RELU.format(op="Relu", type="float", opset=newest))
    graph[0].version = graph.opset_imports[""] = newest + 1
    if onnx.defs.onnx_opset_version() > newest:
        assert refusal(graph) == ""
    assert isinstance(provider.supports(graph[0], graph, device), Yes)


def test_an_operator_that_is_too_new(read, refusal, monkeypatch):
    monkeypatch.setitem(schemas().newest, "", 12)
    from turnout_ort.registry import Registry

    graph = read(_RELU.format(op="Relu", type="float", opset=21))
    verdict = Registry("CPUExecutionProvider", []).verdict(graph[0])
    assert verdict == No(
        "Relu since opset 14 is newer than this ONNX Runtime, which knows ai.onnx up to opset 12",
    )


def test_ten_thousand_nodes_are_asked_in_a_moment(read, provider, device):
    lines = "\n".join(f"x{i + 1} = {('Relu', 'Neg', 'Abs', 'Exp')[i % 4]}(x{i})" for i in range(10_000))
    text = f'<ir_version: 10, opset_import: ["" : 21]> g (float[2] x0) => (float[2] x10000) {{ {lines} }}'
    graph = read(text)
    start = time.process_time()
    assert all(provider.supports(node, graph, device) for node in graph)
    assert time.process_time() - start < 1.0  # 0.15 s on an idle machine


class _Compiling(OrtProvider):
    """Stands in for a provider that compiles: no kernels, so that it is asked by trial sessions."""

    name = "compiling"
    ep = "CPUExecutionProvider"

    def supports(self, node, graph, device):
        return self._try(node, graph, device)


def test_a_provider_without_kernels_is_asked_by_a_session_of_one_node(read):
    provider = _Compiling()
    device = Device("compiling")
    graph = read(_RELU.format(op="Relu", type="float", opset=21))
    assert provider.supports(graph[0], graph, device) == Yes()
    graph = read(_RELU.format(op="Relu", type="bfloat16", opset=21))
    verdict = provider.supports(graph[0], graph, device)
    assert verdict.reason.startswith("CPUExecutionProvider does not take Relu: Could not find an implementation for Relu")


class _Azure(_Compiling):
    """A provider that is compiled into every wheel and takes no ordinary node."""

    name = "azure"
    ep = "AzureExecutionProvider"

    def supports(self, node, graph, device):
        return OrtProvider.supports(self, node, graph, device)


def test_a_node_that_falls_back_to_the_cpu_is_a_no(read):
    provider = _Azure()
    graph = read(_RELU.format(op="Relu", type="float", opset=21))
    verdict = provider.supports(graph[0], graph, Device("azure"))
    assert verdict == No("AzureExecutionProvider leaves Relu to CPUExecutionProvider")
