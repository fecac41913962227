"""Graphs on the stand-in driver: capture with forks and joins, explicit nodes, update in place, memory of graphs."""

import ctypes
import re

import numpy as np
import pytest
from cuda.bindings import driver
from cuda.core import GraphMemoryResource, LaunchConfig, launch
from cuda.core.graph import GraphCompleteOptions, GraphDefinition

import turnout_cudasim

OK = driver.CUresult.CUDA_SUCCESS
KERNELS = """
extern "C" __global__ void add(float* x, float value, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) x[i] += value;
}
extern "C" __global__ void times(float* x, float value, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) x[i] *= value;
}
"""
CONFIG = LaunchConfig(grid=1, block=32)


def check(result):
    assert result[0] == OK, result[0]
    return result[1] if len(result) == 2 else result[1:]


@pytest.fixture
def kernels(rig):
    return rig.compile(KERNELS, "add", "times")


def test_capture_replay(rig, kernels):
    add, times = kernels
    x = rig.upload(np.zeros(32, np.float32))
    builder = rig.device.create_graph_builder()
    builder.begin_building()
    assert builder.is_building
    launch(builder, CONFIG, add, x, np.float32(1), np.int32(32))
    launch(builder, CONFIG, times, x, np.float32(2), np.int32(32))
    graph = builder.end_building().complete()
    assert (rig.download(x, np.float32) == 0).all(), "capturing runs nothing"
    for expected in (2, 6, 14):
        graph.launch(rig.stream)
        assert (rig.download(x, np.float32) == expected).all()
    graph.close()
    builder.close()


def test_capture_of_copies_fills_and_callbacks(rig, kernels):
    x, y = rig.upload(np.zeros(32, np.float32)), rig.upload(np.arange(32, dtype=np.float32))
    calls = []
    builder = rig.stream.create_graph_builder()
    builder.begin_building()
    x.fill(b"\x00", stream=builder.stream)
    x.copy_from(y, stream=builder.stream)
    launch(builder, CONFIG, kernels[0], x, np.float32(1), np.int32(32))
    builder.callback(lambda: calls.append(len(calls)))
    graph = builder.end_building().complete()
    for _ in range(2):
        graph.launch(rig.stream)
    np.testing.assert_array_equal(rig.download(x, np.float32), np.arange(32) + 1)
    assert calls == [0, 1]


def test_fork_and_join(rig, kernels):
    add, times = kernels
    x, y = (rig.upload(np.ones(32, np.float32)) for _ in range(2))
    builder = rig.device.create_graph_builder()
    builder.begin_building()
    left, right = builder.split(2)
    launch(left, CONFIG, add, x, np.float32(1), np.int32(32))
    launch(right, CONFIG, add, y, np.float32(2), np.int32(32))
    joined = type(builder).join(left, right)
    launch(joined, CONFIG, times, x, np.float32(10), np.int32(32))
    graph = joined.end_building().complete()
    graph.launch(rig.stream)
    assert rig.download(x, np.float32)[0] == 20
    assert rig.download(y, np.float32)[0] == 3


def test_an_unjoined_fork_is_an_error(rig, kernels):
    x = rig.upload(np.ones(32, np.float32))
    main, side = (rig.device.create_stream() for _ in range(2))
    mode = driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_RELAXED
    check(driver.cuStreamBeginCapture(int(main.handle), mode))
    side.wait(main.record())
    launch(side, CONFIG, kernels[0], x, np.float32(1), np.int32(32))
    assert driver.cuStreamEndCapture(int(main.handle))[0] == driver.CUresult.CUDA_ERROR_STREAM_CAPTURE_UNJOINED
    for stream in (main, side):
        assert check(driver.cuStreamIsCapturing(int(stream.handle))) == driver.CUstreamCaptureStatus.CU_STREAM_CAPTURE_STATUS_NONE
    launch(side, CONFIG, kernels[0], x, np.float32(1), np.int32(32))
    assert rig.download(x, np.float32)[0] == 2


def test_a_capture_that_another_stream_ends_fails(rig):
    main, side = (rig.device.create_stream() for _ in range(2))
    check(driver.cuStreamBeginCapture(int(main.handle), driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_RELAXED))
    side.wait(main.record())
    assert driver.cuStreamEndCapture(int(side.handle))[0] == driver.CUresult.CUDA_ERROR_STREAM_CAPTURE_UNMATCHED
    assert driver.cuStreamEndCapture(int(main.handle))[0] == driver.CUresult.CUDA_ERROR_STREAM_CAPTURE_INVALIDATED


@pytest.mark.parametrize("mode", ["GLOBAL", "THREAD_LOCAL"])
@pytest.mark.parametrize(
    "call",
    [lambda stream: driver.cuMemAlloc(64), lambda stream: driver.cuStreamSynchronize(int(stream.handle))],
    ids=["allocating", "synchronising"],
)
def test_what_may_wait_ends_a_capture_with_an_error(rig, kernels, call, mode):
    x = rig.upload(np.ones(32, np.float32))
    stream = rig.device.create_stream()
    check(driver.cuStreamBeginCapture(int(stream.handle), getattr(driver.CUstreamCaptureMode, f"CU_STREAM_CAPTURE_MODE_{mode}")))
    launch(stream, CONFIG, kernels[0], x, np.float32(1), np.int32(32))
    assert call(stream)[0] == driver.CUresult.CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED
    status = check(driver.cuStreamIsCapturing(int(stream.handle)))
    assert status == driver.CUstreamCaptureStatus.CU_STREAM_CAPTURE_STATUS_INVALIDATED
    with pytest.raises(Exception, match="CAPTURE_INVALIDATED"):
        launch(stream, CONFIG, kernels[0], x, np.float32(1), np.int32(32))
    assert driver.cuStreamEndCapture(int(stream.handle))[0] == driver.CUresult.CUDA_ERROR_STREAM_CAPTURE_INVALIDATED
    stream.sync()


def test_update_in_place_from_another_graph(rig, kernels):
    add = kernels[0]
    x = rig.upload(np.zeros(32, np.float32))

    def captured(value, *steps):
        builder = rig.device.create_graph_builder()
        builder.begin_building()
        for kernel in steps:
            launch(builder, CONFIG, kernel, x, np.float32(value), np.int32(32))
        return builder.end_building()

    graph = captured(1, add, add).complete()
    graph.update(captured(5, add, add))
    graph.launch(rig.stream)
    assert rig.download(x, np.float32)[0] == 10
    with pytest.raises(Exception, match=r"[Uu]pdate"):
        graph.update(captured(5, add))
    graph.launch(rig.stream)
    assert rig.download(x, np.float32)[0] == 20, "a refused update changes nothing"


def test_kernel_parameters_are_changed_in_an_executable_graph(rig, kernels):
    add = kernels[0]
    x, y = (rig.upload(np.zeros(32, np.float32)) for _ in range(2))
    stream = rig.device.create_stream()
    check(driver.cuStreamBeginCapture(int(stream.handle), driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_RELAXED))
    launch(stream, CONFIG, add, x, np.float32(1), np.int32(32))
    graph = check(driver.cuStreamEndCapture(int(stream.handle)))
    nodes, count = check(driver.cuGraphGetNodes(graph, 8))
    assert count == 1
    executable = check(driver.cuGraphInstantiate(graph, 0))
    params = check(driver.cuGraphKernelNodeGetParams(nodes[0]))
    assert (params.gridDimX, params.blockDimX) == (1, 32)
    values = (ctypes.c_uint64(int(y.handle)), ctypes.c_float(7), ctypes.c_int(32))
    pointers = (ctypes.c_void_p * 3)(*(ctypes.addressof(v) for v in values))
    params.kernelParams = ctypes.addressof(pointers)
    check(driver.cuGraphExecKernelNodeSetParams(executable, nodes[0], params))
    check(driver.cuGraphLaunch(executable, int(stream.handle)))
    assert rig.download(x, np.float32)[0] == 0
    assert rig.download(y, np.float32)[0] == 7
    check(driver.cuGraphNodeSetEnabled(executable, nodes[0], 0))
    check(driver.cuGraphLaunch(executable, int(stream.handle)))
    assert rig.download(y, np.float32)[0] == 7, "a disabled node does not run"
    check(driver.cuGraphExecDestroy(executable))
    check(driver.cuGraphDestroy(graph))


def test_explicit_nodes_run_after_what_they_depend_on(rig, kernels):
    add, times = kernels
    x = rig.upload(np.zeros(32, np.float32))
    definition = GraphDefinition()
    last = definition.launch(CONFIG, add, x, np.float32(1), np.int32(32))
    for value in (2, 3):
        last = last.launch(CONFIG, times, x, np.float32(value), np.int32(32))
        last = last.launch(CONFIG, add, x, np.float32(1), np.int32(32))
    assert len(definition.nodes()) == 5
    assert len(definition.edges()) == 4
    graph = definition.instantiate()
    graph.launch(rig.stream)
    assert rig.download(x, np.float32)[0] == ((0 + 1) * 2 + 1) * 3 + 1


def test_nodes_of_every_kind(rig, kernels):
    add, _ = kernels
    x, y = rig.upload(np.zeros(32, np.float32)), rig.upload(np.full(32, 5, np.float32))
    calls = []
    inner = GraphDefinition()
    inner.launch(CONFIG, add, x, np.float32(100), np.int32(32))
    event = rig.device.create_event()
    definition = GraphDefinition()
    node = definition.memset(int(x.handle), 0, 128)
    node = node.memcpy(int(x.handle), int(y.handle), 128)
    node = node.embed(inner)
    node = node.record(event)
    node = node.wait(event)
    node = node.callback(lambda: calls.append(1))
    node = definition.join(node)
    kinds = {type(n).__name__ for n in definition.nodes()}
    assert kinds == {"MemsetNode", "MemcpyNode", "ChildGraphNode", "EventRecordNode", "EventWaitNode", "HostCallbackNode", "EmptyNode"}
    definition.instantiate().launch(rig.stream)
    rig.stream.sync()
    assert rig.download(x, np.float32)[0] == 105
    assert calls == [1]


def test_memory_of_a_graph(rig, kernels):
    memory = GraphMemoryResource(rig.device)
    out = rig.upload(np.zeros(32, np.float32))
    builder = rig.device.create_graph_builder()
    builder.begin_building()
    scratch = memory.allocate(128, stream=builder.stream)
    scratch.fill(b"\x00", stream=builder.stream)
    launch(builder, CONFIG, kernels[0], scratch, np.float32(3), np.int32(32))
    out.copy_from(scratch, stream=builder.stream)
    scratch.close(stream=builder.stream)
    graph = builder.end_building().complete()
    for _ in range(2):
        graph.launch(rig.stream)
        assert (rig.download(out, np.float32) == 3).all()
    assert memory.attributes.used_mem_current >= 0


def test_memory_that_a_graph_leaves_is_freed_before_the_next_launch_if_asked(rig):
    memory = GraphMemoryResource(rig.device)
    builder = rig.device.create_graph_builder()
    builder.begin_building()
    kept = memory.allocate(128, stream=builder.stream)
    kept.fill(b"\x01", stream=builder.stream)
    address = int(kept.handle)
    graph = builder.end_building().complete(options=GraphCompleteOptions(auto_free_on_launch=True))
    graph.launch(rig.stream)
    graph.launch(rig.stream)
    rig.stream.sync()
    assert check(driver.cuMemGetAddressRange(address))[1] == 128


@pytest.mark.cuda_sim_only  # on a GPU that memory may still be there
@pytest.mark.cuda_reports("use-after-free")
def test_a_graph_that_uses_what_it_freed_is_reported(rig, kernels):
    memory = GraphMemoryResource(rig.device)
    stream = rig.device.create_stream()
    check(driver.cuStreamBeginCapture(int(stream.handle), driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_RELAXED))
    scratch = memory.allocate(128, stream=stream)
    scratch.fill(b"\x00", stream=stream)
    address = int(scratch.handle)
    scratch.close(stream=stream)
    launch(stream, CONFIG, kernels[0], address, np.float32(3), np.int32(32))
    graph = check(driver.cuStreamEndCapture(int(stream.handle)))
    executable = check(driver.cuGraphInstantiate(graph, 0))
    assert driver.cuGraphLaunch(executable, int(stream.handle))[0] == driver.CUresult.CUDA_ERROR_ILLEGAL_ADDRESS


def test_a_cycle_is_refused(rig):
    graph = check(driver.cuGraphCreate(0))
    first = check(driver.cuGraphAddEmptyNode(graph, None, 0))
    second = check(driver.cuGraphAddEmptyNode(graph, [first], 1))
    check(driver.cuGraphAddDependencies(graph, [second], [first], [driver.CUgraphEdgeData()], 1))
    assert driver.cuGraphInstantiate(graph, 0)[0] == driver.CUresult.CUDA_ERROR_INVALID_VALUE


def test_a_chain_of_a_thousand_nodes(rig, kernels):
    x = rig.upload(np.zeros(32, np.float32))
    definition = GraphDefinition()
    node = definition.memset(int(x.handle), 0, 128)
    for _ in range(1000):
        node = node.join()
    node.launch(CONFIG, kernels[0], x, np.float32(1), np.int32(32))
    definition.instantiate().launch(rig.stream)
    assert rig.download(x, np.float32)[0] == 1


def test_a_graph_prints_itself(rig, kernels, tmp_path):
    definition = GraphDefinition()
    definition.launch(CONFIG, kernels[0], rig.upload(np.zeros(32, np.float32)), np.float32(1), np.int32(32))
    definition.debug_dot_print(str(tmp_path / "graph.dot"))
    text = (tmp_path / "graph.dot").read_text()
    assert text.startswith("digraph dot {\nsubgraph cluster_")
    assert 'shape="octagon" label="0\nadd\n"];' in text


@pytest.mark.cuda_sim_only
def test_conditional_nodes_are_refused(rig):
    with pytest.raises(Exception, match="NOT_SUPPORTED"):
        GraphDefinition().create_condition(1)


PROGRAMMATIC = """
extern "C" __global__ void double_it(float* x, int n) {
    asm volatile("griddepcontrol.launch_dependents;");
    asm volatile("griddepcontrol.wait;" ::: "memory");
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) x[i] *= 2;
}
"""


def edge(port=driver.CU_GRAPH_KERNEL_NODE_PORT_PROGRAMMATIC, type=driver.CUgraphDependencyType.CU_GRAPH_DEPENDENCY_TYPE_PROGRAMMATIC):
    data = driver.CUgraphEdgeData()
    data.from_port, data.type = int(port), int(type)
    return data


def kernel_node(graph, kernel, before, edges, *values):
    """Adds a kernel node by cuGraphAddNode; the driver copies the values."""
    pointers = (ctypes.c_void_p * len(values))(*(ctypes.addressof(v) for v in values))
    params = driver.CUgraphNodeParams()
    params.type = driver.CUgraphNodeType.CU_GRAPH_NODE_TYPE_KERNEL
    params.kernel.kern = driver.CUkernel(int(kernel.handle))
    params.kernel.gridDimX = params.kernel.gridDimY = params.kernel.gridDimZ = 1
    params.kernel.blockDimX, params.kernel.blockDimY, params.kernel.blockDimZ = 32, 1, 1
    params.kernel.kernelParams = ctypes.addressof(pointers)
    return check(driver.cuGraphAddNode(graph, before, edges, len(before), params))


def test_programmatic_edges_lead_from_kernels_to_kernels(rig):
    double = rig.compile(PROGRAMMATIC, "double_it")
    x = rig.upload(np.ones(32, np.float32))
    values = ctypes.c_uint64(int(x.handle)), ctypes.c_int(32)
    graph = check(driver.cuGraphCreate(0))
    first = kernel_node(graph, double, [], [], *values)
    second = kernel_node(graph, double, [first], [edge()], *values)
    third = kernel_node(graph, double, [], [], *values)
    check(driver.cuGraphAddDependencies(graph, [second], [third], [edge()], 1))
    _, _, edges, count = check(driver.cuGraphGetEdges(graph, 2))
    assert count == 2
    assert {(e.from_port, e.to_port, e.type) for e in edges} == {(1, 0, 1)}
    executable = check(driver.cuGraphInstantiate(graph, 0))
    check(driver.cuGraphLaunch(executable, int(rig.stream.handle)))
    assert (rig.download(x, np.float32) == 8).all()

    invalid = driver.CUresult.CUDA_ERROR_INVALID_VALUE
    empty = check(driver.cuGraphAddEmptyNode(graph, [], 0))
    for start, end, data in (
        (empty, first, edge()),
        (third, empty, edge()),
        (first, third, edge(port=0)),
        (first, third, edge(type=0)),
        (first, third, edge(port=3)),
        (first, second, driver.CUgraphEdgeData()),
    ):
        assert driver.cuGraphAddDependencies(graph, [start], [end], [data], 1)[0] == invalid
    check(driver.cuGraphRemoveDependencies(graph, [first], [second], [edge()], 1))
    check(driver.cuGraphExecDestroy(executable))
    check(driver.cuGraphDestroy(graph))


def test_programmatic_launches_are_captured_as_programmatic_edges(rig):
    double = rig.compile(PROGRAMMATIC, "double_it")
    x = rig.upload(np.ones(32, np.float32))
    values = ctypes.c_uint64(int(x.handle)), ctypes.c_int(32)
    pointers = (ctypes.c_void_p * 2)(*(ctypes.addressof(v) for v in values))
    stream = rig.device.create_stream()
    attribute = driver.CUlaunchAttribute()
    attribute.id = driver.CUlaunchAttributeID.CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION
    attribute.value.programmaticStreamSerializationAllowed = 1
    config = driver.CUlaunchConfig()
    config.gridDimX = config.gridDimY = config.gridDimZ = config.blockDimY = config.blockDimZ = 1
    config.blockDimX, config.hStream, config.attrs, config.numAttrs = 32, driver.CUstream(int(stream.handle)), [attribute], 1
    check(driver.cuStreamBeginCapture(int(stream.handle), driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_RELAXED))
    x.fill(np.float32(1), stream=stream)
    for _ in range(2):
        check(driver.cuLaunchKernelEx(config, driver.CUfunction(int(double.handle)), ctypes.addressof(pointers), 0))
    graph = check(driver.cuStreamEndCapture(int(stream.handle)))
    _, _, edges, count = check(driver.cuGraphGetEdges(graph, 2))
    assert count == 2
    assert sorted((e.from_port, e.type) for e in edges) == [(0, 0), (1, 1)], "no kernel starts before a copy has ended"
    executable = check(driver.cuGraphInstantiate(graph, 0))
    check(driver.cuGraphLaunch(executable, int(stream.handle)))
    assert (rig.download(x, np.float32) == 4).all()
    check(driver.cuGraphExecDestroy(executable))
    check(driver.cuGraphDestroy(graph))


EARLY = """
#define WAIT asm volatile("griddepcontrol.wait;" ::: "memory")
extern "C" __global__ void right(float* x, const float* weights) {
    float w = weights[threadIdx.x];
    WAIT;
    x[threadIdx.x] += w;
}
extern "C" __global__ void reads_early(float* x, const float* weights) {
    float value = x[threadIdx.x];
    WAIT;
    x[threadIdx.x] = value + weights[threadIdx.x];
}
extern "C" __global__ void writes_early(float* x, const float* weights) {
    x[threadIdx.x] = weights[threadIdx.x];
    WAIT;
}
extern "C" __global__ void some_wait(float* x, const float* weights) {
    if (threadIdx.x >= 16) WAIT;
    x[threadIdx.x] += weights[threadIdx.x];
}
extern "C" __global__ void none_waits(float* x, const float* weights) {
    float w = weights[threadIdx.x];
    if (w > 100) x[threadIdx.x] = w;
}
"""


def run_chain(rig, *steps):
    """Kernels on x = 0 and weights = 1, one after the other; a step is a kernel of EARLY, and whether its edge is programmatic."""
    x, weights = rig.upload(np.zeros(32, np.float32)), rig.upload(np.ones(32, np.float32))
    values = ctypes.c_uint64(int(x.handle)), ctypes.c_uint64(int(weights.handle))
    graph, before = check(driver.cuGraphCreate(0)), []
    kernels = dict(zip(names := sorted({name for name, _ in steps}), np.atleast_1d(rig.compile(EARLY, *names)), strict=True))
    for name, early in steps:
        before = [kernel_node(graph, kernels[name], before, [edge() if early else driver.CUgraphEdgeData()][: len(before)], *values)]
    executable = check(driver.cuGraphInstantiate(graph, 0))
    check(driver.cuGraphLaunch(executable, int(rig.stream.handle)))
    check(driver.cuGraphLaunch(executable, int(rig.stream.handle)))
    return rig.download(x, np.float32)


def test_kernels_that_wait_before_they_touch_what_others_do(rig):
    assert (run_chain(rig, ("right", False), ("right", True), ("right", True), ("reads_early", False), ("right", True)) == 10).all()


@pytest.mark.cuda_sim_only
@pytest.mark.cuda_reports("early-access")
@pytest.mark.parametrize(
    ("steps", "says"),
    [
        ((("right", False), ("reads_early", True)), r"thread \(0,0,0\), .*:9: reads 4 bytes 0 bytes into .*, which right writes, before"),
        ((("right", False), ("writes_early", True)), "writes 4 bytes 0 bytes into .*, which right writes, before griddepcontrol.wait"),
        ((("right", False), ("some_wait", True)), "reads 4 bytes"),
        ((("right", False), ("none_waits", True)), "no thread executes griddepcontrol.wait"),
        ((("reads_early", False), ("right", True), ("writes_early", True)), "which right writes"),
    ],
)
def test_what_a_kernel_touches_before_it_waits_is_reported(rig, steps, says):
    run_chain(rig, *steps)
    assert re.search(says, str(turnout_cudasim.reports()[0]))
