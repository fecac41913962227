"""CudaExecutable: a partition that runs. Plans are made per set of shapes and remembered; a run is a walk over prepared launches."""

from __future__ import annotations

import functools
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from turnout.errors import Closed, CompileError, InvalidInput, RunError
from turnout.graph import constant_array
from turnout.provider import Executable
from turnout_cuda.array import Array, Buffer, Launch, Outside
from turnout_cuda.context import ALLOWED, Context, Memory
from turnout_cuda.element import element_of
from turnout_cuda.graph import Recorded
from turnout_cuda.memory import place
from turnout_cuda.partition import Partition
from turnout_cuda.session import DeviceSession, decoder_of
from turnout_cuda.tensor import MIRRORED, DeviceTensor
from turnout_cuda.trace import Segment, State, Trace

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["CudaExecutable"]

PLANS = 64
"""Sets of shapes that an executable remembers the plan of."""

GRAPH, GRAPHS = 4, 4
"""Steps from which on a segment is worth recording as a CUDA graph, and sets of addresses of its copies that it is recorded for."""


class CudaExecutable(Executable):
    """A partition on one GPU."""

    def __init__(self, graph: ir.GraphView, context: Context, *, graphs: bool = True) -> None:
        self._context = context
        self._graphs = graphs
        self._partition = Partition(graph)
        self._decoder = decoder_of(graph)
        self.lock = threading.RLock()
        """Held while the arena's address is in use; a session that replays a graph holds it too."""
        self._plans: dict[Any, Prepared] = {}
        self._arena: Memory | None = None
        self._closed = False
        self._weights: dict[str, Array] = {}
        self._owned: list[DeviceTensor] = []
        self._on_host = [k for k, name in enumerate(self._partition.inputs) if name in self._partition.host_values]
        context.enter()
        for value in graph.initializers.values():
            self._weights[value.name or ""] = self._weight(value)

    def _weight(self, value: ir.Value) -> Array:
        try:
            array = constant_array(value)
        except Exception as error:
            raise CompileError(f"the weight {value.name!r} could not be read: {error}") from error
        element = element_of(array.dtype)
        if element is None:
            raise CompileError(f"the weight {value.name!r} is of a type that a GPU does not hold")
        tensor = self._context.upload(array)
        self._owned.append(tensor)
        known = array if array.size <= MIRRORED or value.name in self._partition.host_values else None
        return Array(array.shape, element, Buffer(tensor.nbytes, "constant", tensor.address), host=known)

    def run(self, values: Sequence[Any], out: Sequence[Any] | None = None) -> Sequence[Any]:
        if self._closed:
            raise Closed("this model was closed")
        context = self._context
        with self.lock:
            context.enter()
            in_place = self._in_place(values, out)
            key = self._key(values), *in_place
            prepared = self._plans.get(key)
            if prepared is None:
                prepared = self._first(key, values, in_place)
            addresses: dict[Buffer, Any] = {}
            while prepared.segment.waits is not None:
                self._launch(prepared, values, addresses, None)
                prepared = self._next(prepared, values, addresses)
            self._launch(prepared, values, addresses, out)
            return [_result(array, values, addresses) for array in prepared.segment.outputs]

    @property
    def arena(self) -> int:
        """Where intermediate values lie now; a longer run may move them."""
        return self._arena.address if self._arena is not None else 0

    @property
    def new_session(self) -> Any:
        """How to make sessions that hold their caches on the device; None where the graph is no decoder."""
        decoder = self._decoder
        return None if decoder is None else lambda: DeviceSession(self, self._context, decoder)

    @functools.cached_property
    def choice(self) -> CudaExecutable:
        """What chooses a token from a decoder's logits."""
        from turnout_cuda.sampling import choice

        assert self._decoder is not None
        graph: Any = choice(self._decoder.vocabulary, self._decoder.logits)  # a whole graph reads as a part of one does
        return CudaExecutable(graph, self._context)

    def recorded(self, values: Sequence[Any], out: Sequence[Any]) -> Recorded:
        """A run at these addresses as a CUDA graph, which the caller launches and closes.

        He holds `lock` for that, and records anew when `arena` is another.
        """
        if self._closed:
            raise Closed("this model was closed")
        in_place = self._in_place(values, out)
        key = self._key(values), *in_place
        prepared = self._plans.get(key) or self._first(key, values, in_place)
        if prepared.segment.waits is not None:
            raise RunError("shapes of this decoder follow from values", hint="use run()")
        prepared.point(values, self._addresses(prepared, {}, out), self.arena)
        try:
            return prepared.recorded()
        finally:
            prepared.let_go()

    def close(self) -> None:
        self._closed = True
        with self.lock:
            for prepared in self._plans.values():
                prepared.forget()
            self._plans.clear()
            self._weights.clear()
            self._owned.clear()
            self._arena = None

    # plans

    def _key(self, values: Sequence[DeviceTensor]) -> Any:
        shapes = tuple([value.shape for value in values])
        if not self._on_host:
            return shapes
        return shapes, tuple([self._mirror(values[k]).tobytes() for k in self._on_host])

    def _in_place(self, values: Sequence[DeviceTensor], out: Sequence[Any] | None) -> dict[str, str]:
        """Outputs whose buffer is the input that they may lie in."""
        partition = self._partition
        if out is None or not partition.aliases:
            return {}
        found = {}
        for name, buffer in zip(partition.outputs, out, strict=True):
            source = partition.aliases.get(name)
            if source is not None and buffer is not None and buffer.memory is values[partition.inputs.index(source)].memory:
                found[name] = source
        return found

    def _mirror(self, value: DeviceTensor) -> np.ndarray[Any, Any]:
        if value.mirror is None:
            value.mirror = self._context.download(value.address, value.shape, value.dtype)
        return value.mirror

    def _first(self, key: Any, values: Sequence[DeviceTensor], in_place: dict[str, str]) -> Prepared:
        arrays = {name: _fresh(array) for name, array in self._weights.items()}
        for k, (name, value) in enumerate(zip(self._partition.inputs, values, strict=True)):
            element = element_of(value.dtype)
            if element is None:
                raise InvalidInput(f"input {name!r} is {value.dtype}, which a GPU does not hold")
            host = self._mirror(value) if k in self._on_host else None
            arrays[name] = Array(value.shape, element, Buffer(value.nbytes, "input", k), host=host)
        for name, array in arrays.items():
            array.readers = self._partition.readers.get(name, 0)
        if len(self._plans) >= PLANS:
            for old in self._plans.values():
                old.forget()
            self._plans.clear()
        prepared = self._plans[key] = self._prepare(State(0, arrays, in_place))
        return prepared

    def _next(self, prepared: Prepared, values: Sequence[DeviceTensor], addresses: dict[Buffer, Any]) -> Prepared:
        """The segment that follows, by the values that it waited for."""
        segment = prepared.segment
        waited = segment.waits
        assert waited is not None
        assert waited.buffer is not None
        address = _address(waited.buffer, values, addresses)
        found = self._context.download(address, waited.shape, waited.element.dtype)
        key = found.tobytes()
        following = prepared.following.get(key)
        if following is None:
            arrays = {name: _fresh(array) for name, array in segment.state.arrays.items()}
            arrays[segment.waits_for].host = found
            if len(prepared.following) >= PLANS:
                for old in prepared.following.values():
                    old.forget()
                prepared.following.clear()
            following = prepared.following[key] = self._prepare(State(segment.state.position, arrays, segment.state.in_place))
        return following

    def _prepare(self, state: State) -> Prepared:
        try:
            return Prepared(Trace(self._partition, self._context, state).segment(), self._context)
        except CompileError as error:  # kernels are built when the shapes are known, and so in a run
            raise RunError(error.message, hint=error.hint or "report it to turnout-cuda, with the model") from error

    # runs

    def _launch(self, prepared: Prepared, values: Sequence[DeviceTensor], addresses: dict[Buffer, Any], out: Sequence[Any] | None) -> None:
        self._addresses(prepared, addresses, out)
        prepared.point(values, addresses, self.arena)
        try:
            prepared.run(graphs=self._graphs)
        finally:
            prepared.let_go()

    def _addresses(self, prepared: Prepared, addresses: dict[Buffer, Any], out: Sequence[Any] | None) -> dict[Buffer, Any]:
        """Memory for what the segment keeps and gives, and an arena that is long enough."""
        for buffer in prepared.own:
            if buffer not in addresses:
                addresses[buffer] = self._given(prepared, buffer, out) or Memory(self._context, buffer.nbytes)
        if prepared.arena_bytes and (self._arena is None or self._arena.nbytes < prepared.arena_bytes):
            self._arena = None
            self._arena = Memory(self._context, prepared.arena_bytes)
        return addresses

    def _given(self, prepared: Prepared, buffer: Buffer, out: Sequence[Any] | None) -> Any:
        """The caller's own memory for an output, where he gave some that fits."""
        for array, given in zip(prepared.segment.outputs, out or (), strict=False):
            if array.buffer is buffer and given is not None and (given.shape, given.dtype) == (array.shape, array.element.dtype):
                return given.memory
        return None


def _fresh(array: Array) -> Array:
    """A copy that a trace may settle without another trace's seeing it."""
    own = Array(array.shape, array.element, array.buffer, formula=array.formula, host=array.host)
    own.readers = array.readers
    return own


def _result(array: Array, values: Sequence[DeviceTensor], addresses: dict[Buffer, Any]) -> DeviceTensor:
    assert array.buffer is not None
    if array.buffer.home == "input":  # written in place
        return values[array.buffer.address]
    return DeviceTensor(array.shape, array.element.dtype, addresses[array.buffer])


def _address(buffer: Buffer, values: Sequence[DeviceTensor], addresses: dict[Buffer, Any]) -> int:
    if buffer.home == "input":
        return values[buffer.address].address
    return buffer.address if buffer.home == "constant" else int(addresses[buffer].address)


_NUMPY = {"int": np.int32, "long long": np.int64, "double": np.float64, "float": np.float32}


class Prepared:
    """A segment with everything written down that a run needs: argument blocks, and which words of them hold which address.

    `point` writes this run's addresses; `run` makes the launches, one call of the driver for each, or replays them as one CUDA graph.
    """

    def __init__(self, segment: Segment, context: Context) -> None:
        self.segment = segment
        self.following: dict[bytes, Prepared] = {}
        self._context = context
        offsets, self.arena_bytes = place(segment.steps)
        self._offsets = offsets
        self._words, places = self._arguments()
        self._pointers = (self._words.ctypes.data + 8 * np.arange(len(self._words) or 1)).astype(np.uint64)
        self._places = places
        touched = dict.fromkeys(buffer for step in segment.steps for buffer in (*step.writes, *step.reads))
        touched.update(dict.fromkeys(array.buffer for array in segment.outputs if array.buffer is not None))
        self.own = [buffer for buffer in touched if buffer.home in ("kept", "output")]
        self._scratch = [(word, offsets[buffer]) for buffer, words in places.items() if buffer.home == "scratch" for word in words]
        self._outer = [(buffer, words) for buffer, words in places.items() if buffer.home in ("input", "kept", "output")]
        self._readers = [self._steps_at(words) for _, words in self._outer]
        for buffer, words in places.items():
            if buffer.home == "constant":
                for word in words:
                    self._words[word] = buffer.address
        self._arena = -1
        self._outside: tuple[int, ...] = ()
        self._key: tuple[int, ...] = ()
        self._now: tuple[Sequence[DeviceTensor], dict[Buffer, Any], int] = ((), {}, 0)
        self._graphs: dict[tuple[int, ...], Recorded] = {}
        self._seen: set[tuple[int, ...]] = set()
        moved = [one for step in segment.steps if not isinstance(step, Launch) for one in (*step.reads, *step.writes)]
        self._moved = [one for one in dict.fromkeys(moved) if one.home in ("input", "kept", "output")]
        self._moves = {step for step in range(len(segment.steps)) if not isinstance(segment.steps[step], Launch)}
        self._calls = self._launches()

    def _arguments(self) -> tuple[np.ndarray[Any, Any], dict[Buffer, list[int]]]:
        """One word of eight bytes for each argument of each launch."""
        places: dict[Buffer, list[int]] = {}
        words: list[np.ndarray[Any, Any]] = []
        self._step_of: list[int] = []
        for number, step in enumerate(self.segment.steps):
            for kind, value in step.arguments if isinstance(step, Launch) else ():
                word = np.zeros(8, np.uint8)
                if isinstance(value, Buffer):
                    places.setdefault(value, []).append(len(words))
                elif kind == "pointer":
                    pass
                else:
                    raw = np.array([value], _NUMPY[kind])
                    word[: raw.nbytes] = raw.view(np.uint8)
                words.append(word)
                self._step_of.append(number)
        return (np.concatenate(words) if words else np.zeros(8, np.uint8)).view(np.uint64), places

    def _launches(self) -> list[tuple[Any, ...]]:
        """The arguments of cuLaunchKernel, launch by launch; the step itself where it is none."""
        calls: list[Any] = []
        first = 0
        stream = self._context.stream
        for step in self.segment.steps:
            if isinstance(step, Launch):
                function = self._context.function(step.source, step.entry)
                handle = self._context.driver.CUfunction(function)
                if step.shared > ALLOWED:
                    self._context.allow(handle, step.shared)
                pointers = int(self._pointers.ctypes.data) + 8 * first
                calls.append((handle, *step.grid, step.block, 1, 1, step.shared, stream, pointers, 0))
                first += len(step.arguments)
            else:
                calls.append(step)
        return calls

    def point(self, values: Sequence[DeviceTensor], addresses: dict[Buffer, Any], arena: int) -> None:
        """Writes this run's addresses."""
        words = self._words
        now = []
        for buffer, places in self._outer:
            address = values[buffer.address].address if buffer.home == "input" else addresses[buffer].address
            now.append(address)
            for word in places:
                words[word] = address
        if arena != self._arena:
            for word, offset in self._scratch:
                words[word] = arena + offset
            self._arena = arena
        self._now = (values, addresses, arena)
        self._outside = tuple(now)
        self._key = (arena, *(self._at(buffer) for buffer in self._moved))

    def run(self, *, graphs: bool) -> None:
        """Does the work of the segment: launch by launch at first, and as a CUDA graph from the second run on.

        Copies and libraries name addresses for good: where those are new at each run, so would be the graph, and there is none.
        """
        if not graphs or len(self._calls) < GRAPH or self._key not in self._seen:
            self._remember(self._key)
            self._issue()
            return
        graph = self._graphs.get(self._key) or self._record()
        if graph.told != self._outside:
            pairs = zip(self._readers, graph.told, self._outside, strict=True)
            graph.tell(dict.fromkeys(step for steps, before, now in pairs if before != now for step in steps))
            graph.told = self._outside
        graph.launch()

    def _remember(self, key: tuple[int, ...]) -> None:
        if len(self._seen) >= PLANS:
            self._seen.clear()
        self._seen.add(key)

    def _record(self) -> Recorded:
        if len(self._graphs) >= GRAPHS:
            self.forget()
        graph = self._graphs[self._key] = self.recorded()
        return graph

    def recorded(self) -> Recorded:
        """The segment as a graph at this run's addresses."""
        steps = self.segment.steps
        moved = {buffer: self._at(buffer) for step in steps if not isinstance(step, Launch) for buffer in (*step.reads, *step.writes)}
        graph = Recorded(self._context, steps, self._offsets, self._calls, moved)
        graph.told = self._outside
        return graph

    def _steps_at(self, words: Sequence[int]) -> list[int]:
        """The steps whose arguments these words are."""
        return list(dict.fromkeys(self._step_of[word] for word in words))

    def let_go(self) -> None:
        """Holds no run's memory any longer."""
        self._now = ((), {}, 0)

    def forget(self) -> None:
        """Gives the recorded graphs back."""
        while self._graphs:
            self._graphs.popitem()[1].close()
        for following in self.following.values():
            following.forget()

    def _issue(self) -> None:
        """Hands every step to the stream."""
        launch = self._context.driver.cuLaunchKernel
        if not self._moves:
            for call in self._calls:
                (code,) = launch(*call)
                if code:
                    raise self._context.raised(code)
            return
        for number, call in enumerate(self._calls):
            (code,) = self._move(call, self._context.stream) if number in self._moves else launch(*call)
            if code:
                raise self._context.raised(code)

    def _move(self, step: Any, stream: Any) -> Any:
        if isinstance(step, Outside):
            step.issue(self._at, stream)
            return (0,)
        driver = self._context.driver
        target = self._at(step.target) + step.target_offset
        if step.source is None:
            return driver.cuMemsetD8Async(target, step.fill, step.nbytes, stream)
        return driver.cuMemcpyAsync(target, self._at(step.source) + step.source_offset, step.nbytes, stream)

    def _at(self, buffer: Buffer) -> int:
        values, addresses, arena = self._now
        return arena + self._offsets[buffer] if buffer.home == "scratch" else _address(buffer, values, addresses)
