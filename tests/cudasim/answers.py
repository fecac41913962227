"""What a driver answers to calls at the edges of the rules: python tests/cudasim/answers.py [--cuda=sim] [GROUP ...]

Prints a line per question. answers.txt is what this printed on an H100 with NVIDIA's driver 580 (CUDA 13.0); test_driver_answers.py asks
the simulator the same (and, with --cuda=real, the machine's driver). A group runs in a process of its own: some leave errors behind.
"""

from __future__ import annotations

import ctypes
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

GROUPS: dict[str, Callable[[], Iterator[tuple[str, object]]]] = {}
HEADER = ".version 8.0\n.target sm_75\n.address_size 64\n"
PTX = (
    HEADER
    + """.visible .entry k(.param .u64 x) { .reg .b64 %a; .reg .b32 %v, %t; ld.param.u64 %a, [x]; mov.u32 %t, %tid.x;
mad.wide.u32 %a, %t, 4, %a; ld.global.u32 %v, [%a]; add.u32 %v, %v, 1; st.global.u32 [%a], %v; ret; }
.visible .entry bounded(.param .u64 x) .maxntid 64 { ret; }
.visible .entry exact(.param .u64 x) .reqntid 64 { ret; }
.visible .entry shares(.param .u64 x) { .shared .align 4 .b8 tile[1024]; .reg .b32 %v; ld.shared.u32 %v, [tile]; ret; }
"""
)


def group(function):
    GROUPS[function.__name__] = function
    return function


def driver():
    from cuda.bindings import driver

    return driver


def said(result) -> str:
    """The name of a call's error, without its prefix."""
    return result[0].name.removeprefix("CUDA_").removeprefix("ERROR_")


def got(result):
    assert int(result[0]) == 0, result[0]
    return result[1] if len(result) == 2 else result[1:]


def start():
    d = driver()
    got(d.cuInit(0))
    got(d.cuCtxSetCurrent(got(d.cuDevicePrimaryCtxRetain(0))))
    return d


def kernel(d, name: bytes = b"k"):
    return got(d.cuModuleGetFunction(got(d.cuModuleLoadData(PTX.encode() + b"\0")), name))


def zeros(d, size: int = 4096):
    address = got(d.cuMemAlloc(size))
    got(d.cuMemsetD8(address, 0, size))
    return address


class Arguments:
    """kernelParams of one pointer; keep it while the call lasts."""

    def __init__(self, address) -> None:
        self.value = ctypes.c_uint64(int(address))
        self.pointers = (ctypes.c_void_p * 1)(ctypes.addressof(self.value))
        self.address = ctypes.addressof(self.pointers)


def launched(d, function, arguments, stream=0, grid=1, block=32, shared=0):
    return d.cuLaunchKernel(function, grid, 1, 1, block, 1, 1, shared, stream, arguments.address, 0)


@group
def images():
    def later(target):
        return HEADER.replace("8.0", "8.8").replace("sm_75", target).encode() + b".visible .entry k() { ret; }\0"

    d = start()
    for name, image in {
        "nothing": b"\0",
        "words": b"hello\0",
        "C": b"int main() { return 0; }\0",
        "PTX": PTX.encode() + b"\0",
        "PTX behind a comment": b"// c\n/* d */ " + PTX.encode() + b"\0",
        "PTX behind spaces": b"\n  " + PTX.encode() + b"\0",
        "PTX that never closes": HEADER.encode() + b".visible .entry k() {\0",
        "an instruction that is none": HEADER.encode() + b".visible .entry k() { foo; ret; }\0",
        "a later .version": HEADER.replace("8.0", "99.0").encode() + b".visible .entry k() { ret; }\0",
        "a later target": HEADER.replace("8.0", "8.8").replace("sm_75", "sm_120").encode() + b".visible .entry k() { ret; }\0",
        "the target of one architecture": HEADER.replace("8.0", "8.8").replace("sm_75", "sm_120a").encode()
        + b".visible .entry k() { ret; }\0",
    }.items():
        yield name, said(d.cuModuleLoadData(image))
    module = got(d.cuModuleLoadData(PTX.encode() + b"\0"))
    yield "a function that is not there", said(d.cuModuleGetFunction(module, b"nothing"))
    yield "a variable that is not there", said(d.cuModuleGetGlobal(module, b"nothing"))
    yield "a file that is not there", said(d.cuModuleLoad(b"/nowhere/k.ptx"))


@group
def launches():
    d = start()
    x = Arguments(zeros(d))
    k, bounded, exact, shares = (kernel(d, name) for name in (b"k", b"bounded", b"exact", b"shares"))
    for name, answer in {
        "a block of 1025": lambda: launched(d, k, x, block=1025),
        "a block of 0": lambda: launched(d, k, x, block=0),
        "a grid of 0": lambda: launched(d, k, x, grid=0),
        "65536 blocks along y": lambda: d.cuLaunchKernel(k, 1, 65536, 1, 1, 1, 1, 0, 0, x.address, 0),
        "65 threads along z": lambda: d.cuLaunchKernel(k, 1, 1, 1, 1, 1, 65, 0, 0, x.address, 0),
        "48 KiB of dynamic shared memory": lambda: launched(d, shares, x, shared=48 << 10),
        "47 KiB of it beside 1 KiB": lambda: launched(d, shares, x, shared=47 << 10),
        "more threads than .maxntid": lambda: launched(d, bounded, x, block=96),
        "fewer threads than .maxntid": lambda: launched(d, bounded, x, block=32),
        "fewer threads than .reqntid": lambda: launched(d, exact, x, block=32),
        "more threads than .reqntid": lambda: launched(d, exact, x, block=96),
        "no parameters": lambda: d.cuLaunchKernel(k, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0),
        "a cooperative grid that does not fit": lambda: d.cuLaunchCooperativeKernel(k, 1 << 20, 1, 1, 256, 1, 1, 0, 0, x.address),
    }.items():
        yield name, said(answer())
    most = d.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
    yield "dynamic shared memory of a kernel that has 1 KiB", got(d.cuFuncGetAttribute(most, shares))
    yield "its occupancy with 47 KiB more", got(d.cuOccupancyMaxActiveBlocksPerMultiprocessor(shares, 64, 47 << 10)) > 0
    yield "with 48 KiB more", got(d.cuOccupancyMaxActiveBlocksPerMultiprocessor(shares, 64, 48 << 10)) > 0
    yield "of blocks above .maxntid", said(d.cuOccupancyMaxActiveBlocksPerMultiprocessor(bounded, 96, 0))
    yield "asking for 1 GiB", said(d.cuFuncSetAttribute(shares, most, 1 << 30))
    yield "asking for less than nothing", said(d.cuFuncSetAttribute(shares, most, -1))
    yield "then", said(d.cuCtxSynchronize())


def edge(d, port=0, kind=0, to=0):
    data = d.CUgraphEdgeData()
    data.from_port, data.to_port, data.type = port, to, kind
    return data


def kernel_node(d, graph, function, x, before=(), edges=()):
    params = d.CUgraphNodeParams()
    params.type = d.CUgraphNodeType.CU_GRAPH_NODE_TYPE_KERNEL
    params.kernel.func = function
    params.kernel.gridDimX = params.kernel.gridDimY = params.kernel.gridDimZ = 1
    params.kernel.blockDimX, params.kernel.blockDimY, params.kernel.blockDimZ = 32, 1, 1
    params.kernel.kernelParams = x.address
    return d.cuGraphAddNode(graph, list(before), list(edges), len(before), params)


def fill_params(d, address):
    params = d.CUDA_MEMSET_NODE_PARAMS()
    params.dst, params.elementSize, params.width, params.height, params.value = address, 4, 8, 1, 7
    return params


@group
def edges():
    d = start()
    function, x = kernel(d), Arguments(zeros(d))
    context = got(d.cuCtxGetCurrent())
    graph = got(d.cuGraphCreate(0))
    nodes = {
        "kernel": lambda: got(kernel_node(d, graph, function, x)),
        "empty": lambda: got(d.cuGraphAddEmptyNode(graph, [], 0)),
        "fill": lambda: got(d.cuGraphAddMemsetNode(graph, [], 0, fill_params(d, x.value.value), context)),
    }
    for start_kind, end_kind in (("kernel", "kernel"), ("kernel", "empty"), ("empty", "kernel"), ("fill", "kernel"), ("kernel", "fill")):
        for port, kind, to in ((1, 1, 0), (2, 1, 0), (0, 1, 0), (1, 0, 0), (2, 0, 0), (3, 1, 0), (1, 2, 0), (1, 1, 1)):
            first, second = nodes[start_kind](), nodes[end_kind]()
            answer = said(d.cuGraphAddDependencies(graph, [first], [second], [edge(d, port, kind, to)], 1))
            yield f"{start_kind} to {end_kind}, port {port}, type {kind}, to port {to}", answer
    first, second = nodes["kernel"](), nodes["kernel"]()
    early, plain = edge(d, 1, 1), edge(d)
    yield "a kernel added behind a programmatic edge", said(kernel_node(d, graph, function, x, [first], [early]))
    yield "a kernel added behind an empty node's", said(kernel_node(d, graph, function, x, [nodes["empty"]()], [early]))
    yield "added", said(d.cuGraphAddDependencies(graph, [first], [second], [early], 1))
    yield "added again", said(d.cuGraphAddDependencies(graph, [first], [second], [early], 1))
    yield "a plain edge beside it", said(d.cuGraphAddDependencies(graph, [first], [second], [plain], 1))
    yield "removed as plain", said(d.cuGraphRemoveDependencies(graph, [first], [second], [plain], 1))
    yield "removed", said(d.cuGraphRemoveDependencies(graph, [first], [second], [early], 1))
    yield "removed again", said(d.cuGraphRemoveDependencies(graph, [first], [second], [early], 1))
    yield "to itself", said(d.cuGraphAddDependencies(graph, [first], [first], [plain], 1))
    other = got(d.cuGraphCreate(0))
    yield "to another graph's", said(d.cuGraphAddDependencies(graph, [first], [got(d.cuGraphAddEmptyNode(other, [], 0))], [plain], 1))
    graph = got(d.cuGraphCreate(0))
    first, second, third = (got(kernel_node(d, graph, function, x)) for _ in range(3))
    got(d.cuGraphAddDependencies(graph, [first, second], [third, third], [early, plain], 2))
    yield "instantiated with a plain one beside it", said(d.cuGraphInstantiate(graph, 0))
    _, _, found, count = got(d.cuGraphGetEdges(graph, 2))
    yield "edges", (count, sorted((e.from_port, e.to_port, int(e.type)) for e in found))
    graph = got(d.cuGraphCreate(0))
    first = got(kernel_node(d, graph, function, x))
    second = got(kernel_node(d, graph, function, x, [first], [edge(d, 2, 1)]))
    yield "instantiated in the order of launches", said(d.cuGraphInstantiate(graph, 0))


@group
def changes():
    d = start()
    function, bounded, x = kernel(d), kernel(d, b"bounded"), Arguments(zeros(d))
    context = got(d.cuCtxGetCurrent())

    def made():
        graph = got(d.cuGraphCreate(0))
        node = got(kernel_node(d, graph, function, x))
        fill = got(d.cuGraphAddMemsetNode(graph, [node], 1, fill_params(d, x.value.value), context))
        params = got(d.cuGraphKernelNodeGetParams(node))
        params.kernelParams = x.address  # what it points to goes with the node
        return graph, node, fill, got(d.cuGraphInstantiate(graph, 0)), params

    graph, node, fill, executable, params = made()
    params.blockDimX = 2048
    yield "a block of 2048", said(d.cuGraphExecKernelNodeSetParams(executable, node, params))
    params.blockDimX = 64
    yield "a block of 64", said(d.cuGraphExecKernelNodeSetParams(executable, node, params))
    yield "a fill's node as a kernel", said(d.cuGraphExecKernelNodeSetParams(executable, fill, params))
    wide = fill_params(d, x.value.value)
    wide.width = 16
    yield "a wider fill", said(d.cuGraphExecMemsetNodeSetParams(executable, fill, wide, context))
    got(d.cuGraphDestroyNode(node))
    yield "a kernel's node that is gone", said(d.cuGraphExecKernelNodeSetParams(executable, node, params))
    yield "launched without it", said(d.cuGraphLaunch(executable, 0))
    graph, node, fill, executable, params = made()
    got(d.cuGraphDestroy(graph))
    yield "a kernel's node whose graph is gone", said(d.cuGraphExecKernelNodeSetParams(executable, node, params))
    yield "a fill's node whose graph is gone", said(d.cuGraphExecMemsetNodeSetParams(executable, fill, wide, context))
    yield "enabling it", said(d.cuGraphNodeSetEnabled(executable, node, 0))
    yield "launched without the graph", said(d.cuGraphLaunch(executable, 0))
    graph, node, fill, executable, params = made()
    other, other_node, *_ = made()
    yield "another graph's node", said(d.cuGraphExecKernelNodeSetParams(executable, other_node, params))
    yield "updated from a graph alike", said(d.cuGraphExecUpdate(executable, other))
    got(kernel_node(d, other, bounded, x))
    yield "updated from a larger one", said(d.cuGraphExecUpdate(executable, other))
    yield "disabled", said(d.cuGraphNodeSetEnabled(executable, fill, 0))
    yield "launched", said(d.cuGraphLaunch(executable, 0))
    yield "then", said(d.cuCtxSynchronize())


def status(d, stream) -> str:
    return got(d.cuStreamIsCapturing(stream)).name.rpartition("STATUS_")[2]


@group
def captures():
    d = start()
    modes = d.CUstreamCaptureMode
    main, side, loose = (got(d.cuStreamCreate(n)) for n in (1, 1, 0))
    event = got(d.cuEventCreate(2))
    function, x = kernel(d), Arguments(zeros(d))
    spare = [got(d.cuMemAlloc(64)) for _ in range(20)]
    host = (ctypes.c_uint8 * 64)()
    done = got(d.cuEventCreate(0))
    got(d.cuEventRecord(done, main))
    got(d.cuStreamSynchronize(main))
    calls = {
        "cuMemAlloc": lambda: d.cuMemAlloc(64),
        "cuMemFree": lambda: d.cuMemFree(spare.pop()),
        "cuMemHostAlloc": lambda: d.cuMemHostAlloc(64, 0),
        "cuMemAllocManaged": lambda: d.cuMemAllocManaged(64, 1),
        "cuMemAllocAsync on another stream": lambda: d.cuMemAllocAsync(64, side),
        "cuMemcpyDtoH": lambda: d.cuMemcpyDtoH(ctypes.addressof(host), x.value.value, 64),
        "cuMemcpyHtoD": lambda: d.cuMemcpyHtoD(x.value.value, ctypes.addressof(host), 64),
        "cuMemcpyDtoD": lambda: d.cuMemcpyDtoD(x.value.value, x.value.value + 64, 64),
        "cuMemsetD8": lambda: d.cuMemsetD8(x.value.value, 0, 64),
        "cuMemGetInfo": lambda: d.cuMemGetInfo(),
        "cuCtxSynchronize": lambda: d.cuCtxSynchronize(),
        "cuStreamSynchronize of itself": lambda: d.cuStreamSynchronize(main),
        "cuStreamQuery of itself": lambda: d.cuStreamQuery(main),
        "cuStreamSynchronize of another": lambda: d.cuStreamSynchronize(side),
        "cuStreamQuery of another": lambda: d.cuStreamQuery(side),
        "cuEventQuery of a recorded one": lambda: d.cuEventQuery(done),
        "cuEventSynchronize of a recorded one": lambda: d.cuEventSynchronize(done),
        "cuStreamWaitEvent of a recorded one": lambda: d.cuStreamWaitEvent(main, done, 0),
        "cuModuleLoadData": lambda: d.cuModuleLoadData(PTX.encode() + b"\0"),
        "cuStreamCreate": lambda: d.cuStreamCreate(1),
        "cuEventCreate": lambda: d.cuEventCreate(0),
        "a launch on the legacy stream": lambda: launched(d, function, x),
        "a launch on another stream": lambda: launched(d, function, x, side),
        "a launch that is wrong": lambda: launched(d, function, x, main, block=2048),
        "beginning again": lambda: d.cuStreamBeginCapture(main, modes.CU_STREAM_CAPTURE_MODE_GLOBAL),
        "ending what never began": lambda: d.cuStreamEndCapture(side),
    }
    for mode in (modes.CU_STREAM_CAPTURE_MODE_GLOBAL, modes.CU_STREAM_CAPTURE_MODE_RELAXED):
        for name, call in calls.items():
            got(d.cuStreamBeginCapture(main, mode))
            answer = said(call())
            yield f"{mode.name.rpartition('_')[2].lower()}: {name}", (answer, status(d, main), said(d.cuStreamEndCapture(main)))
    pooled, host_memory = got(d.cuMemAllocAsync(64, side)), got(d.cuMemHostAlloc(64, 0))
    plain = got(d.cuGraphCreate(0))
    more = {
        "cuMemFreeAsync on another stream": lambda: d.cuMemFreeAsync(pooled, side),
        "cuMemFreeHost": lambda: d.cuMemFreeHost(host_memory),
        "cuMemPoolCreate": lambda: d.cuMemPoolCreate(pool_of(d, "host")),
        "cuGraphInstantiate": lambda: d.cuGraphInstantiate(plain, 0),
        "cuMemsetD8Async on another stream": lambda: d.cuMemsetD8Async(x.value.value, 0, 64, side),
        "cuStreamDestroy of another": lambda: d.cuStreamDestroy(got(d.cuStreamCreate(1))),
    }
    for name, call in more.items():
        got(d.cuStreamBeginCapture(main, modes.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL))
        answer = said(call())
        yield f"thread-local: {name}", (answer, status(d, main), said(d.cuStreamEndCapture(main)))
    got(d.cuStreamBeginCapture(loose, modes.CU_STREAM_CAPTURE_MODE_RELAXED))
    answer = said(launched(d, function, x))
    yield "a blocking stream's: a launch on the legacy stream", (answer, status(d, loose), said(d.cuStreamEndCapture(loose)))
    relaxed = modes.CU_STREAM_CAPTURE_MODE_RELAXED

    def forked():
        got(d.cuStreamBeginCapture(main, relaxed))
        got(d.cuEventRecord(event, main))
        got(d.cuStreamWaitEvent(side, event, 0))

    forked()
    yield "a fork without work, not joined", said(d.cuStreamEndCapture(main))
    yield "then", (status(d, main), status(d, side))
    forked()
    got(launched(d, function, x, side))
    yield "a fork with work, not joined", said(d.cuStreamEndCapture(main))
    yield "then both", (status(d, main), status(d, side))
    forked()
    yield "ended on the fork", said(d.cuStreamEndCapture(side))
    yield "statuses", (status(d, main), status(d, side))
    yield "then ended", said(d.cuStreamEndCapture(main))
    yield "statuses after that", (status(d, main), status(d, side))
    forked()
    yield "the event that forked, asked", (said(d.cuEventQuery(event)), status(d, main))
    d.cuStreamEndCapture(main)
    yield "the event after the capture", said(d.cuEventQuery(event))
    yield "waiting for it on a stream", said(d.cuStreamWaitEvent(main, event, 0))
    got(d.cuStreamBeginCapture(main, relaxed))
    got(d.cuStreamBeginCapture(side, relaxed))
    got(d.cuEventRecord(event, main))
    answer = said(d.cuStreamWaitEvent(side, event, 0))
    yield (
        "joining two captures",
        (answer, status(d, main), status(d, side), said(d.cuStreamEndCapture(main)), said(d.cuStreamEndCapture(side))),
    )
    yield "at the end", said(d.cuCtxSynchronize())


@group
def programmatic():
    d = start()
    function, x = kernel(d), Arguments(zeros(d))
    stream, side = got(d.cuStreamCreate(1)), got(d.cuStreamCreate(1))
    event = got(d.cuEventCreate(2))
    attribute = d.CUlaunchAttribute()
    attribute.id = d.CUlaunchAttributeID.CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION
    attribute.value.programmaticStreamSerializationAllowed = 1
    config = d.CUlaunchConfig()
    config.gridDimX = config.gridDimY = config.gridDimZ = config.blockDimY = config.blockDimZ = 1
    config.blockDimX, config.hStream, config.attrs, config.numAttrs = 32, stream, [attribute], 1

    def captured(*steps):
        got(d.cuStreamBeginCapture(stream, d.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_RELAXED))
        for step in steps:
            got(step())
        graph = got(d.cuStreamEndCapture(stream))
        found = got(d.cuGraphGetEdges(graph, 16))
        return sorted((e.from_port, e.to_port, int(e.type)) for e in found[2][: found[3]]), said(d.cuGraphInstantiate(graph, 0))

    early = lambda: d.cuLaunchKernelEx(config, function, x.address, 0)  # noqa: E731
    plain = lambda: launched(d, function, x, stream)  # noqa: E731
    fill = lambda: d.cuMemsetD8Async(x.value.value, 0, 64, stream)  # noqa: E731
    fork = [lambda: d.cuEventRecord(event, stream), lambda: d.cuStreamWaitEvent(side, event, 0), lambda: launched(d, function, x, side)]
    join = [lambda: d.cuEventRecord(event, side), lambda: d.cuStreamWaitEvent(stream, event, 0)]
    yield "early behind nothing", captured(early)
    yield "early behind plain", captured(plain, early)
    yield "early behind early", captured(early, early, early)
    yield "early behind a fill", captured(fill, early)
    yield "plain behind early", captured(early, plain)
    yield "a fill behind early", captured(plain, early, fill)
    yield "early behind two kernels", captured(plain, *fork, plain, *join, early)
    yield "on a stream", said(early())
    yield "at the end", said(d.cuCtxSynchronize())


@group
def memory():
    d = start()
    device = got(d.cuMemAlloc(4096))
    host = (ctypes.c_uint8 * 8192)()
    at = ctypes.addressof(host)
    info = d.CUmemPoolProps()
    info.allocType, info.location.type, info.location.id = 1, d.CUmemLocationType.CU_MEM_LOCATION_TYPE_DEVICE, 0
    info.maxSize = 1 << 20
    pool, stream = got(d.cuMemPoolCreate(info)), got(d.cuStreamCreate(1))
    for name, answer in {
        "a copy past an allocation's end": lambda: d.cuMemcpyHtoD(int(device) + 4092, at, 8),
        "a copy from past its end": lambda: d.cuMemcpyDtoH(at, int(device) + 4092, 8),
        "a fill past its end": lambda: d.cuMemsetD8(device, 1, 4097),
        "a fill that is not aligned": lambda: d.cuMemsetD32(int(device) + 2, 1, 4),
        "a fill of host memory": lambda: d.cuMemsetD8(at, 1, 64),
        "no bytes": lambda: d.cuMemAlloc(0),
        "2^50 bytes": lambda: d.cuMemAlloc(1 << 50),
        "freeing its middle": lambda: d.cuMemFree(int(device) + 8),
        "freeing nothing": lambda: d.cuMemFree(0),
        "freeing host memory": lambda: d.cuMemFree(at),
        "the range around its middle": lambda: d.cuMemGetAddressRange(int(device) + 8),
        "the range around host memory": lambda: d.cuMemGetAddressRange(at),
        "a pool of 1 MiB giving 2": lambda: d.cuMemAllocFromPoolAsync(2 << 20, pool, stream),
        "giving 28 more": lambda: d.cuMemAllocFromPoolAsync(28 << 20, pool, stream),
        "giving 64 more": lambda: d.cuMemAllocFromPoolAsync(64 << 20, pool, stream),
        "freeing": lambda: d.cuMemFree(device),
        "freeing again": lambda: d.cuMemFree(device),
        "reading what was freed": lambda: d.cuMemcpyDtoH(at, device, 8),
    }.items():
        yield name, said(answer())
    yield "at the end", said(d.cuCtxSynchronize())


def pool_of(d, where: str):
    info = d.CUmemPoolProps()
    types = d.CUmemLocationType
    info.allocType = 2 if where == "managed" else 1
    info.location.type = {"managed": types.CU_MEM_LOCATION_TYPE_NONE, "host": types.CU_MEM_LOCATION_TYPE_HOST}[where]
    return info


def reached(d, where: str, *, allowed: bool = False):
    """Does a kernel reach a pool's memory, which the host wrote?"""
    pool, stream = got(d.cuMemPoolCreate(pool_of(d, where))), got(d.cuStreamCreate(1))
    access = d.CUmemAccessDesc()
    access.location.type, access.location.id, access.flags = d.CUmemLocationType.CU_MEM_LOCATION_TYPE_DEVICE, 0, 3
    if allowed:
        yield "allowing the device", said(d.cuMemPoolSetAccess(pool, [access], 1))
    yield "access of the device", int(got(d.cuMemPoolGetAccess(pool, access.location)))
    buffer = got(d.cuMemAllocFromPoolAsync(128, pool, stream))
    yield "allocated", said(d.cuStreamSynchronize(stream))
    words = (ctypes.c_uint32 * 32).from_address(int(buffer))
    words[:] = range(32)
    yield "launched", said(launched(d, kernel(d), Arguments(buffer), stream))
    yield "done", said(d.cuStreamSynchronize(stream))


@group
def host_pool():
    yield from reached(start(), "host")


@group
def host_pool_allowed():
    yield from reached(start(), "host", allowed=True)


@group
def managed_pool():
    yield from reached(start(), "managed")


@group
def default_host_pool():
    d = start()
    location = d.CUmemLocation()
    location.type = d.CUmemLocationType.CU_MEM_LOCATION_TYPE_HOST
    pool = got(d.cuMemGetDefaultMemPool(location, d.CUmemAllocationType.CU_MEM_ALLOCATION_TYPE_PINNED))
    location.type = d.CUmemLocationType.CU_MEM_LOCATION_TYPE_DEVICE
    yield "access of the device", int(got(d.cuMemPoolGetAccess(pool, location)))


@group
def faults():
    d = start()
    stream = got(d.cuStreamCreate(1))
    function = kernel(d)
    yield "a launch that reads nowhere", said(launched(d, function, Arguments(64), stream))
    yield "waiting for it", said(d.cuStreamSynchronize(stream))
    yield "again", said(d.cuStreamSynchronize(stream))
    yield "cuMemAlloc then", said(d.cuMemAlloc(64))
    yield "a launch then", said(launched(d, function, Arguments(64), stream))
    yield "cuStreamCreate then", said(d.cuStreamCreate(1))
    yield "cuEventCreate then", said(d.cuEventCreate(0))
    yield "cuCtxGetCurrent then", said(d.cuCtxGetCurrent())
    yield "cuDeviceGetAttribute then", said(d.cuDeviceGetAttribute(d.CUdevice_attribute.CU_DEVICE_ATTRIBUTE_WARP_SIZE, 0))
    yield "cuGraphCreate then", said(d.cuGraphCreate(0))
    yield "cuModuleLoadData then", said(d.cuModuleLoadData(PTX.encode() + b"\0"))


@group
def printed():
    d = start()
    function, x = kernel(d), Arguments(zeros(d))
    graph = got(d.cuGraphCreate(0))
    first = got(kernel_node(d, graph, function, x))
    got(kernel_node(d, graph, function, x, [first], [edge(d, 1, 1)]))
    fill = got(d.cuGraphAddMemsetNode(graph, [first], 1, fill_params(d, x.value.value), got(d.cuCtxGetCurrent())))
    got(d.cuGraphAddEmptyNode(graph, [fill], 1))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "graph.dot"
        got(d.cuGraphDebugDotPrint(graph, bytes(path), 0))
        yield "graph", re.sub(r"(cluster|graph)_\d+", r"\1_0", path.read_text())


def ask(name: str, *options: str) -> str:
    """The lines of one group, from a process of its own."""
    done = subprocess.run([sys.executable, __file__, *options, "--here", name], capture_output=True, text=True, check=False)
    problem = "" if not done.returncode else f"{name}: DIED ({done.returncode}) {done.stderr.strip().splitlines()[-1:]}\n"
    return done.stdout + problem


def main() -> None:
    arguments = sys.argv[1:]
    options = [a for a in arguments if a.startswith("--cuda")]
    chosen = [a for a in arguments if not a.startswith("--")] or list(GROUPS)
    if "--here" not in arguments:
        for name in chosen:
            print(ask(name, *options), end="", flush=True)
        return
    if options == ["--cuda=sim"]:
        import turnout_cudasim

        turnout_cudasim.install()
    for name in chosen:
        for question, answer in GROUPS[name]():
            print(f"{name}: {question}: {answer!r}", flush=True)


if __name__ == "__main__":
    main()
