"""Recorded: the steps of a segment as a CUDA graph. What does not depend on each other may run at once, and a replay costs one call.

Dependencies follow from the bytes that steps read and write, places in the arena among them, so a graph is right whatever the memory plan
did. Where inputs or outputs lie elsewhere than at the last run, only the nodes that name them are told. A kernel that itself waits for
those before it (`await_earlier_kernels`, prelude.cuh) is launched while they still run: its edges are programmatic ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from turnout_cuda.array import Buffer, Launch, Move, Outside, Step

if TYPE_CHECKING:
    from turnout_cuda.context import Context
    from turnout_cuda.memory import Placement

__all__ = ["Recorded", "dependencies"]


def dependencies(steps: Sequence[Step], offsets: Placement) -> list[list[int]]:
    """For each step, the earlier ones that it has to wait for: those that wrote what it reads or writes, or read what it writes.

    Those are left out that another one waits for in its turn: a kernel is launched early only where few stand before it.
    """
    live: dict[Any, list[tuple[int, int, int, bool]]] = {}  # by place: begin, end, step, whether it writes there
    found: list[list[int]] = []
    before: list[int] = []  # by step: a bit for each step that it waits for, directly or not
    for number, step in enumerate(steps):
        wanted: set[int] = set()
        named = [value for _, value in step.arguments if isinstance(value, Buffer)] if isinstance(step, Launch) else []
        spans = [(*_span(buffer, offsets), False) for buffer in dict.fromkeys((*step.reads, *named)) if buffer not in step.writes]
        spans += [(*_span(buffer, offsets), True) for buffer in step.writes]
        for place, begin, end, writes in spans:
            for start, stop, other, wrote in live.get(place, ()):
                if (writes or wrote) and start < end and begin < stop:
                    wanted.add(other)
        for place, begin, end, writes in spans:
            there = live.setdefault(place, [])
            if writes:  # whoever comes later waits for this step, and so for those that it waited for
                there[:] = [one for one in there if one[2] == number or not (begin <= one[0] and one[1] <= end)]
            there.append((begin, end, number, writes))
        reached, direct = 0, []
        for other in sorted(wanted, reverse=True):
            if not reached >> other & 1:
                direct.append(other)
                reached |= before[other] | 1 << other
        before.append(reached)
        found.append(direct[::-1])
    return found


def _span(buffer: Buffer, offsets: Placement) -> tuple[Any, int, int]:
    if buffer.home == "scratch":
        return "arena", offsets[buffer], offsets[buffer] + max(buffer.nbytes, 1)
    return buffer, 0, max(buffer.nbytes, 1)


class Recorded:
    """A graph that can be launched, and the addresses that its nodes were told last.

    calls: per step the arguments of cuLaunchKernel, or the step itself where it is none. addresses: where buffers lie that such steps name.
    """

    def __init__(
        self,
        context: Context,
        steps: Sequence[Step],
        offsets: Placement,
        calls: Sequence[tuple[Any, ...] | Step],
        addresses: Mapping[Buffer, int],
    ) -> None:
        driver = context.driver
        self._context = context
        self.told: tuple[int, ...] = ()
        self._nodes: list[tuple[Any, Any] | None] = []
        self._graph = graph = context.check(driver.cuGraphCreate(0))  # it lives on: the driver knows nodes by it
        try:
            made: list[Any] = []
            early = [_waits_itself(context, step) for step in steps]
            for number, (step, call, waits) in enumerate(zip(steps, calls, dependencies(steps, offsets), strict=True)):
                if isinstance(step, Launch):
                    overlapped = [other for other in waits if early[number] and early[other]]
                    before = [made[other] for other in waits if other not in overlapped]
                    told = _kernel(driver, call)
                    made.append(context.check(driver.cuGraphAddKernelNode(graph, before, len(before), told)))
                    self._nodes.append((made[-1], told))
                    if overlapped:
                        _programmatic(context, graph, [made[other] for other in overlapped], made[-1])
                else:
                    made.append(_other(context, graph, [made[other] for other in waits], step, addresses))
                    self._nodes.append(None)
            self._exec = context.check(driver.cuGraphInstantiate(graph, 0))
        except BaseException:
            driver.cuGraphDestroy(graph)
            raise

    def tell(self, steps: Iterable[int]) -> None:
        """The arguments of these launches are others now."""
        for number in steps:
            known = self._nodes[number]
            if known is not None:
                self._context.check(self._context.driver.cuGraphExecKernelNodeSetParams(self._exec, *known))

    def launch(self) -> None:
        """Puts the graph on the context's stream."""
        (code,) = self._context.driver.cuGraphLaunch(self._exec, self._context.stream)
        if code:
            raise self._context.raised(code)

    def close(self) -> None:
        """Gives it back."""
        self._context.driver.cuGraphExecDestroy(self._exec)
        self._context.driver.cuGraphDestroy(self._graph)


def _waits_itself(context: Context, step: Step) -> bool:
    """Whether it is a kernel that awaits earlier ones. Of two such, one may be launched while the other runs: waiting for it is for all."""
    return context.gpu.capability >= (9, 0) and isinstance(step, Launch) and "await_earlier_kernels()" in step.source


def _programmatic(context: Context, graph: Any, before: list[Any], node: Any) -> None:
    driver = context.driver
    edge = driver.CUgraphEdgeData()
    edge.from_port = driver.CU_GRAPH_KERNEL_NODE_PORT_PROGRAMMATIC
    edge.type = driver.CUgraphDependencyType.CU_GRAPH_DEPENDENCY_TYPE_PROGRAMMATIC.value
    count = len(before)
    context.check(driver.cuGraphAddDependencies(graph, before, [node] * count, [edge] * count, count))


def _kernel(driver: Any, call: Any) -> Any:
    """The arguments of cuLaunchKernel as a node's."""
    told = driver.CUDA_KERNEL_NODE_PARAMS()
    told.func, told.gridDimX, told.gridDimY, told.gridDimZ, told.blockDimX, told.blockDimY, told.blockDimZ = call[:7]
    told.sharedMemBytes, told.kernelParams = call[7], call[9]
    return told


def _other(context: Context, graph: Any, before: list[Any], step: Move | Outside, addresses: Mapping[Buffer, int]) -> Any:
    if isinstance(step, Outside):
        return _captured(context, graph, before, step, addresses)
    driver = context.driver
    target = addresses[step.target] + step.target_offset
    if step.source is None:
        fill = driver.CUDA_MEMSET_NODE_PARAMS()
        fill.dst, fill.value, fill.elementSize, fill.width, fill.height = driver.CUdeviceptr(target), step.fill, 1, step.nbytes, 1
        return context.check(driver.cuGraphAddMemsetNode(graph, before, len(before), fill, context.handle))
    copy = driver.CUDA_MEMCPY3D()
    copy.srcMemoryType = copy.dstMemoryType = driver.CUmemorytype.CU_MEMORYTYPE_DEVICE
    copy.srcDevice = driver.CUdeviceptr(addresses[step.source] + step.source_offset)
    copy.dstDevice = driver.CUdeviceptr(target)
    copy.WidthInBytes, copy.Height, copy.Depth = step.nbytes, 1, 1
    return context.check(driver.cuGraphAddMemcpyNode(graph, before, len(before), copy, context.handle))


def _captured(context: Context, graph: Any, before: list[Any], step: Outside, addresses: Mapping[Buffer, int]) -> Any:
    """What a library puts onto a stream, as a graph within the graph. It may load its kernels at that, so the capture is a relaxed one."""
    driver = context.driver
    stream = context.check(driver.cuStreamCreate(driver.CUstream_flags.CU_STREAM_NON_BLOCKING.value))
    try:
        context.check(driver.cuStreamBeginCapture(stream, driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_RELAXED))
        try:
            step.issue(addresses.__getitem__, stream)
        finally:
            ended = driver.cuStreamEndCapture(stream)
        within = context.check(ended)
        try:
            return context.check(driver.cuGraphAddChildGraphNode(graph, before, len(before), within))
        finally:
            driver.cuGraphDestroy(within)
    finally:
        driver.cuStreamDestroy(stream)
