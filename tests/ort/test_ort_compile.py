"""Sessions from graphs: what is handed over, what is refused, and who is blamed."""

from __future__ import annotations

import gc
import sys

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper

from turnout.device import Device
from turnout.errors import CompileError, Unavailable
from turnout.graph import declare_place, ir
from turnout_cpu.provider import Options
from turnout_ort import OrtProvider
from turnout_ort.registry import schemas
from turnout_ort.serialize import to_model

_CHAIN = """<ir_version: 10, opset_import: ["" : 21]>
    g (float[N,3] x) => (float[N,3] z) { y = Neg(x)  z = Relu(y) }"""


def _added(weight: np.ndarray, name: str = "w") -> onnx.ModelProto:
    """x + w, by the shape of w."""
    kind = helper.np_dtype_to_tensor_dtype(weight.dtype)
    make = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", name], ["y"])],
        "g",
        [make("x", kind, weight.shape)],
        [make("y", kind, weight.shape)],
        [onnx.numpy_helper.from_array(weight, name)],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def test_a_part_of_a_graph(provider, device, read):
    graph = read(_CHAIN)
    inner = graph[1]
    part = ir.GraphView([inner.inputs[0]], [inner.outputs[0]], nodes=[inner], opset_imports=graph.opset_imports)
    x = np.array([[-1, 0, 2]], np.float32)
    assert provider.compile(part, device, None).run([x])[0].tolist() == [[0, 0, 2]]


def test_placement_counts_nodes_by_execution_provider(build):
    assert build(_CHAIN, Options(graph_optimization="none")).placement() == {"CPUExecutionProvider": 2}


def test_the_whole_file_is_handed_over_as_it_is(tmp_path, provider, device, read, view, monkeypatch):
    model = onnx.parser.parse_model(_CHAIN)
    path = tmp_path / "chain.onnx"
    onnx.save(model, path)
    opened = []
    real = onnxruntime.InferenceSession

    def spy(source, *args, **kwargs):
        opened.append(source)
        return real(source, *args, **kwargs)

    monkeypatch.setattr(onnxruntime, "InferenceSession", spy)
    for file, source in ((path, str(path)), (model.SerializeToString(), model.SerializeToString())):
        executable = provider.compile(view(read(model), file=file), device, None)
        assert executable.run([np.array([[-1, 0, 2]], np.float32)])[0].tolist() == [[1, 0, 0]]
        assert opened.pop() == source
        assert opened == []


def test_a_file_that_is_too_new_runs_as_a_graph(provider, device, read, view):
    model = onnx.parser.parse_model(_CHAIN)
    model.opset_import[0].version = schemas().newest[""] + 1
    graph = read(onnx.parser.parse_model(_CHAIN))
    graph.opset_imports[""] = schemas().newest[""] + 1
    executable = provider.compile(view(graph, file=model.SerializeToString()), device, None)
    assert executable.run([np.array([[-1, 0, 2]], np.float32)])[0].tolist() == [[1, 0, 0]]


def test_domains_that_no_node_uses_are_not_imported(read, view):
    graph = read(_CHAIN)
    graph.opset_imports["acme"] = 9
    model = onnx.load_from_string(to_model(view(graph), {"": 28}).proto)
    assert [(one.domain, one.version) for one in model.opset_import] == [("", 21)]


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "int64", "int32", "uint8"])
def test_weights_in_memory_stay_out_of_the_model(build, read, view, dtype):
    weight = np.arange(1000 * 16).reshape(1000, 16).astype(dtype)
    graph = view(read(_added(weight)))
    graph.initializers["w"].const_value = ir.tensor(weight)
    model = to_model(graph, {"": 28})
    assert len(model.proto) < 1000
    assert np.shares_memory(model.weights["w"].array, weight)
    y = build(_added(weight)).run([np.zeros_like(weight)])[0]
    np.testing.assert_array_equal(y, weight)


def test_a_weight_that_onnx_runtime_rearranges_is_still_right(build):
    # a transpose moves through the Add, so that ONNX Runtime transposes the weight: it must not do so to our memory, nor miss it
    weight = np.arange(64 * 64, dtype=np.float32).reshape(64, 64)
    model = _added(weight)
    nodes = [
        helper.make_node("Transpose", ["x"], ["t"], perm=[1, 0]),
        helper.make_node("Add", ["t", "w"], ["u"]),
        helper.make_node("Transpose", ["u"], ["y"], perm=[1, 0]),
    ]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    before = weight.copy()
    np.testing.assert_array_equal(build(model).run([np.zeros_like(weight)])[0], weight.T)
    np.testing.assert_array_equal(weight, before)


def test_small_weights_are_in_the_model(read, view):
    model = to_model(view(read(_added(np.ones((2, 2), np.float32)))), {"": 28})
    assert (model.weights, model.folder) == ({}, None)
    assert len(onnx.load_from_string(model.proto).graph.initializer[0].raw_data) == 16


def test_weights_in_a_file_stay_in_the_file(tmp_path, read, view, provider, device):
    weight = np.arange(4096, dtype=np.float32).reshape(64, 64)
    path = tmp_path / "big.onnx"
    onnx.save(_added(weight), path, save_as_external_data=True, location="big.bin", size_threshold=0)
    graph = view(read(onnx.load(path, load_external_data=False), base_dir=tmp_path))
    model = to_model(graph, {"": 28})
    assert model.weights == {}
    assert model.folder == tmp_path.resolve()
    executable = provider.compile(graph, device, None)
    np.testing.assert_array_equal(executable.run([np.zeros_like(weight)])[0], weight)


def test_of_weights_with_a_place_those_in_the_fullest_folder_are_mapped(tmp_path, read, view, provider, device):
    """ONNX Runtime copies what is handed over, which costs a load time and memory."""
    model = onnx.parser.parse_model("""<ir_version: 10, opset_import: ["" : 21]>
        g (float[512] x) => (float[512] y) { a = Add(x, w0)  b = Add(a, w1)  y = Add(b, w2) }""")
    names = ["w0", "w1", "w2"]
    rng = np.random.default_rng(0)
    weights = {name: rng.standard_normal(512).astype(np.float32) for name in names}
    model.graph.initializer.extend(onnx.numpy_helper.from_array(array, name) for name, array in weights.items())
    graph = view(read(model))
    for name, folder in zip(names, ("few", "many", "many"), strict=True):
        file = tmp_path / folder / f"{name}.bin"
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(bytes(64) + weights[name].tobytes())
        declare_place(graph.initializers[name].const_value, file, 64)
    made = to_model(graph, {"": 28})
    assert (set(made.weights), made.folder, made.files) == ({"w0"}, (tmp_path / "many").resolve(), {"w1.bin", "w2.bin"})
    x = np.zeros(512, np.float32)
    np.testing.assert_allclose(provider.compile(graph, device, None).run([x])[0], sum(weights.values()), rtol=1e-6)


@pytest.mark.parametrize("kind", ["INT4", "UINT4"])
def test_packed_weights(build, kind):
    values = np.arange(5000) % 15 - (7 if kind == "INT4" else 0)
    tensor = helper.make_tensor("w", onnx.TensorProto.DataType.Value(kind), [5000], values.tolist())
    graph = helper.make_graph(
        [helper.make_node("Cast", ["w"], ["y"], to=1)],
        "g",
        [],
        [helper.make_tensor_value_info("y", 1, [5000])],
        [tensor],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    np.testing.assert_array_equal(build(model).run([])[0], values)


def test_weights_outlive_the_graph(build):
    executable = build(_added(np.full((500, 500), 7, np.float32)))
    gc.collect()
    assert executable.run([np.zeros((500, 500), np.float32)])[0].min() == 7


def test_the_nodes_at_fault_are_named_by_position(build):
    text = """<ir_version: 10, opset_import: ["" : 21]>
        g (float[2] x, bfloat16[2] b) => (float[2] y, bfloat16[2] d)
        { y = Neg(x)  c = Relu(b)  d = Relu(c) }"""
    with pytest.raises(CompileError, match="Could not find an implementation for Relu") as caught:
        build(text)
    assert caught.value.nodes == (1, 2)


def test_a_kernel_that_refuses_an_attribute_is_found_by_trying_nodes_alone(build):
    text = """<ir_version: 10, opset_import: ["" : 21]>
        g (float[2,3,4] x, float[1,5,4] w, float[1,5,5] r) => (h, z)
        { z = Neg(x)  y, h = RNN <hidden_size = 5, layout = 1> (z, w, r) }"""
    with pytest.raises(CompileError, match="layout == 1") as caught:
        build(text)
    assert caught.value.nodes == (1,)
    assert "/" not in caught.value.message  # no path of a C++ file


def test_a_fault_in_a_body_is_the_fault_of_the_node_around_it(build):
    text = """<ir_version: 10, opset_import: ["" : 21]>
        g (bool c, bfloat16[2] b) => (bfloat16[2] y)
        { n = Not(c)
          y = If (n) <then_branch = t () => (bfloat16[2] p) { p = Relu(b) },
                      else_branch = e () => (bfloat16[2] q) { q = Identity(b) }> }"""
    with pytest.raises(CompileError) as caught:
        build(text)
    assert caught.value.nodes == (1,)


def test_an_input_without_a_type(provider, device, read, view):
    graph = read(_CHAIN)
    graph.inputs[0].type = None
    with pytest.raises(CompileError, match="input 'x' of the partition has no type"):
        provider.compile(view(graph), device, None)


def test_the_graph_is_left_as_it_was(provider, device, read, view):
    graph = read(_added(np.ones((100, 100), np.float32)))
    before = ir.serde.serialize_graph(graph).SerializeToString()
    provider.compile(view(graph), device, None)
    assert ir.serde.serialize_graph(graph).SerializeToString() == before


class _Cuda(OrtProvider):
    name = "ort-cuda"
    ep = "CUDAExecutionProvider"
    hint = "pip install onnxruntime-gpu"


class _Azure(OrtProvider):
    name = "azure"
    ep = "AzureExecutionProvider"


def test_a_provider_that_is_not_compiled_in(read, view):
    with pytest.raises(Unavailable, match=r"has no CUDAExecutionProvider, only .*CPUExecutionProvider") as caught:
        _Cuda().probe()
    assert caught.value.hint == "pip install onnxruntime-gpu"
    with pytest.raises(CompileError, match="CUDAExecutionProvider"):
        _Cuda().compile(view(read(_CHAIN)), Device("ort-cuda"), None)


def test_no_node_falls_back_to_the_cpu(read, view):
    with pytest.raises(CompileError, match="fallback to CPU EP has been explicitly disabled") as caught:
        _Azure().compile(view(read(_CHAIN)), Device("azure"), None)
    assert caught.value.nodes == (0, 1)


def test_without_onnx_runtime(provider, monkeypatch):
    from turnout_ort import runtime

    runtime.onnxruntime.cache_clear()
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(Unavailable, match="no ONNX Runtime is installed"):
        provider.probe()
    monkeypatch.undo()
    runtime.onnxruntime.cache_clear()


def test_nothing_heavy_is_imported_before_the_probe():
    import subprocess

    code = (
        "import sys, turnout_ort.hooks, turnout_cpu.hooks;"
        "provider = turnout_cpu.hooks.turnout_providers()[0]; provider.versions();"
        "assert 'onnxruntime' not in sys.modules and 'onnx' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_device(device):
    assert (device.name, device.on_host) == ("cpu:0", True)
    assert device.description
    assert device.memory is None or device.memory > 2**28


def test_options():
    with pytest.raises(ValueError, match="thread"):
        Options(thread=2)
    with pytest.raises(ValueError, match="greater than or equal to 1"):
        Options(threads=0)


def test_versions_are_those_of_the_installed_wheel(provider):
    assert onnxruntime.__version__ in provider.versions().values()
