"""A decoder's session on the device: its caches live there, and a token's step is one CUDA graph, replayed.

What turnout-text asks of a session is written in its session.py; this is one, without importing it. A step copies three numbers to the
device and the logits back, from and to memory that the device reaches by itself.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from turnout_cuda.context import Context, Memory
from turnout_cuda.tensor import DeviceTensor

if TYPE_CHECKING:
    import onnx_ir as ir

    from turnout_cuda.executable import CudaExecutable

__all__ = ["Decoder", "DeviceSession", "decoder_of"]

_UNLIMITED = 1 << 30
_STEP = 256
"""Tokens: a cache is a multiple of it long."""
_NUMBERS = ("input_ids", "past_tokens", "wanted_tokens")
_APART = 256
"""Bytes from one of the numbers to the next on the device: what kernels take inputs to be aligned to."""


@dataclass(frozen=True)
class Decoder:
    """What a graph looks like to a session.

    inputs, outputs: names in order. caches: input to (output that updates it, key heads, head, element type).
    vocabulary: how many logits a token has. context: tokens of a text at most, as the tables of rotary positions go.
    """

    inputs: list[str]
    outputs: list[str]
    caches: dict[str, tuple[str, int, int, np.dtype[Any]]]
    vocabulary: int
    context: int


def decoder_of(graph: ir.GraphView) -> Decoder | None:
    """The decoder that a graph is, for one text at a time, by the names that canonical graphs have; None for any other graph."""
    from turnout.graph import alias_of

    inputs = {value.name or "": value for value in graph.inputs}
    outputs = [value.name or "" for value in graph.outputs]
    caches = {}
    for value in graph.outputs:
        source = inputs.get(alias_of(value) or "")
        if source is not None and source.shape is not None and source.dtype is not None and len(source.shape) == 4:
            batch, heads, _, head = source.shape
            if batch == 1 and isinstance(heads, int) and isinstance(head, int):
                caches[source.name or ""] = (value.name or "", heads, head, source.dtype.numpy())
    logits = next((value for value in graph.outputs if value.name == "logits"), None)
    if logits is None or logits.shape is None or not caches or {*inputs} != {*_NUMBERS, *caches} or len(outputs) != len(caches) + 1:
        return None
    vocabulary = logits.shape[-1]
    plain = all(inputs[name].dtype is not None and inputs[name].dtype.numpy() == np.int64 for name in _NUMBERS)  # type: ignore[union-attr]
    if not isinstance(vocabulary, int) or not plain or logits.dtype is None or logits.dtype.numpy() != np.float32:
        return None
    tables = [node.inputs[6] for node in graph if node.op_type == "CachedAttention"]
    rows = [value.shape[0] for value in tables if value is not None and value.shape is not None]
    return Decoder(list(inputs), outputs, caches, vocabulary, min([one for one in rows if isinstance(one, int)], default=_UNLIMITED))


class _Part:
    """A piece of another's memory."""

    __slots__ = ("address", "context", "whole")

    def __init__(self, whole: Memory, context: Context, offset: int) -> None:
        self.whole = whole
        self.context = context
        self.address = whole.address + offset


class _Pinned:
    """Host memory that the device reaches by itself."""

    def __init__(self, context: Context, nbytes: int) -> None:
        self._context = context
        self.address = int(context.check(context.driver.cuMemAllocHost(nbytes)))
        self.bytes: NDArray[np.uint8] = np.ctypeslib.as_array((ctypes.c_uint8 * nbytes).from_address(self.address))

    def close(self) -> None:
        if self.address and not self._context.lost:
            self._context.driver.cuMemFreeHost(self.address)
        self.address = 0


class DeviceSession:
    """A decoder and the tokens that it holds. One thread at a time; several sessions of an executable may be at work at once."""

    def __init__(self, executable: CudaExecutable, context: Context, decoder: Decoder) -> None:
        self.vocabulary = decoder.vocabulary
        self.context = decoder.context
        self.length = 0
        self._executable = executable
        self._gpu = context
        self._decoder = decoder
        self._capacity = 0
        self._caches: dict[str, DeviceTensor] = {}
        self._step: _Step | None = None

    def feed(self, tokens: Sequence[int], wanted: Sequence[int]) -> NDArray[np.float32]:
        """Adds tokens; float32 [len(wanted), vocabulary], the caller's until the next call. Raises RunError."""
        count = len(tokens)
        if self.length + count > self._capacity:
            self._make_room(self.length + count)
        if count == 1 and len(wanted) == 1:
            if self._step is None:
                self._step = _Step(self._executable, self._gpu, self._decoder, self._caches)
            logits = self._step.run(int(tokens[0]), self.length)
        else:
            logits = self._portion(np.asarray(tokens, np.int64), np.asarray(wanted, np.int64))
        self.length += count
        return logits

    def truncate(self, length: int) -> int:
        """Forgets all but the first tokens."""
        self.length = min(self.length, length)
        return self.length

    def close(self) -> None:
        """Lets go of its memory."""
        if self._step is not None:
            self._step.close()
        self._step = None
        self._caches.clear()
        self._capacity = self.length = 0

    def _portion(self, tokens: NDArray[np.int64], wanted: NDArray[np.int64]) -> NDArray[np.float32]:
        if not len(wanted):  # a graph gathers one row at least; nobody looks at it
            return self._portion(tokens, np.zeros(1, np.int64))[:0]
        given = {"input_ids": tokens[None], "past_tokens": np.array([self.length]), "wanted_tokens": wanted}
        values = [self._caches.get(name) or self._gpu.upload(given[name]) for name in self._decoder.inputs]
        kept = {made: self._caches[name] for name, (made, *_) in self._decoder.caches.items()}
        found = self._executable.run(values, [kept.get(name) for name in self._decoder.outputs])
        logits = found[self._decoder.outputs.index("logits")]
        rows: NDArray[np.float32] = self._gpu.download(logits.address, logits.shape, logits.dtype)[0]
        return rows

    def _make_room(self, tokens: int) -> None:
        """Longer caches, half as long again at least, so that what is copied on the way stays a fraction of what was computed."""
        wanted = max(tokens, self._capacity + self._capacity // 2)
        capacity = min(-(-wanted // _STEP) * _STEP, max(self.context, tokens))
        gpu, longer = self._gpu, {}
        gpu.enter()
        for name, (_, heads, head, dtype) in self._decoder.caches.items():
            shape = (1, heads, capacity, head)
            longer[name] = fresh = DeviceTensor(shape, dtype, Memory(gpu, math.prod(shape) * dtype.itemsize))
            row = head * dtype.itemsize
            for h in range(heads if self.length else 0):
                source = self._caches[name].address + h * self._capacity * row
                gpu.check(gpu.driver.cuMemcpyAsync(fresh.address + h * capacity * row, source, self.length * row, gpu.stream))
        if self._step is not None:
            self._step.close()
        self._caches, self._capacity, self._step = longer, capacity, None


class _Step:
    """One token's step at fixed addresses."""

    def __init__(self, executable: CudaExecutable, context: Context, decoder: Decoder, caches: dict[str, DeviceTensor]) -> None:
        context.enter()
        self._executable, self._gpu = executable, context
        size, dtype = 4 * decoder.vocabulary, np.dtype(np.int64)
        self._sent, self._got = _Pinned(context, len(_NUMBERS) * _APART), _Pinned(context, size)
        self._numbers = [self._sent.bytes[at * _APART :][:8].view(np.int64) for at in range(len(_NUMBERS))]
        self._logits: NDArray[np.float32] = self._got.bytes.view(np.float32).reshape(1, -1)
        sent = self._given = Memory(context, len(_NUMBERS) * _APART)
        shapes = {"input_ids": (1, 1), "past_tokens": (1,), "wanted_tokens": (1,)}
        parts = {
            name: DeviceTensor(shapes[name], dtype, _Part(sent, context, at * _APART))  # type: ignore[arg-type]
            for at, name in enumerate(_NUMBERS)
        }
        self._values = [caches[name] if name in caches else parts[name] for name in decoder.inputs]
        logits = DeviceTensor((1, 1, decoder.vocabulary), np.dtype(np.float32), Memory(context, size))
        kept = {made: caches[name] for name, (made, *_) in decoder.caches.items()}
        self._out = [kept.get(name, logits) for name in decoder.outputs]
        self._answer = logits
        self._sent.bytes[:] = 0
        self._graph: Any = None
        self._arena = -1

    def run(self, token: int, past: int) -> NDArray[np.float32]:
        """The logits after one token more."""
        numbers, gpu = self._numbers, self._gpu
        numbers[0][0] = token
        numbers[1][0] = past
        gpu.enter()
        copy, stream = gpu.driver.cuMemcpyAsync, gpu.stream
        with self._executable.lock:
            if self._graph is None or self._arena != self._executable.arena:
                self._record()
            (code,) = copy(self._given.address, self._sent.address, len(_NUMBERS) * _APART, stream)
            self._graph.launch()
            if not code:
                (code,) = copy(self._got.address, self._answer.address, self._answer.nbytes, stream)
        if not code:
            (code,) = gpu.driver.cuStreamSynchronize(stream)
        if code:
            raise gpu.raised(code)
        return self._logits

    def _record(self) -> None:
        """Records the graph: at first, and again where a longer run has moved the arena."""
        self._forget()
        self._graph = self._executable.recorded(self._values, self._out)
        self._arena = self._executable.arena

    def _forget(self) -> None:
        graph, self._graph = self._graph, None
        if graph is not None and not self._gpu.lost:
            graph.close()

    def close(self) -> None:
        """Gives the graph and the pinned memory back."""
        self._gpu.driver.cuStreamSynchronize(self._gpu.stream)
        self._forget()
        self._sent.close()
        self._got.close()
