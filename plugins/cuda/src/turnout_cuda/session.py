"""A decoder's session on the device: its caches live there, and a token's step is one CUDA graph, replayed.

What turnout-text asks of a session is written in its session.py; this is one, without importing it. A step copies a few numbers to the
device and the logits back, from and to memory that the device reaches by itself.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from turnout_cuda.context import Context, Memory
from turnout_cuda.sampling import NUMBERS
from turnout_cuda.tensor import DeviceTensor

if TYPE_CHECKING:
    import onnx_ir as ir

    from turnout_cuda.executable import CudaExecutable

__all__ = ["Decoder", "DeviceSession", "decoder_of"]

_UNLIMITED = 1 << 30
_STEP = 256
"""Tokens: a cache is a multiple of it long."""
_APART = 256
"""Bytes that an input on the device is a multiple of from the next: what kernels take inputs to be aligned to."""

_PLAIN: dict[str, Callable[[NDArray[np.int64], int, NDArray[np.int64], int], Any]] = {
    "input_ids": lambda tokens, past, wanted, total: tokens[None],
    "past_tokens": lambda tokens, past, wanted, total: [past],
    "wanted_tokens": lambda tokens, past, wanted, total: wanted,
    "attention_mask": lambda tokens, past, wanted, total: (np.arange(total) < past + len(tokens))[None],
    "position_ids": lambda tokens, past, wanted, total: past + np.arange(len(tokens))[None],
}
"""The inputs beside the caches, all int64: from a run's tokens, how many there are before, which are wanted, and how long the cache is."""


@dataclass(frozen=True)
class Decoder:
    """What a graph looks like to a session.

    inputs, outputs: names in order. plain: the inputs beside the caches.
    caches: input to (output that updates it, key heads, head, element type).
    vocabulary, logits: how many logits a token has, and their type.
    context: tokens of a text at most, as the tables of rotary positions go.
    """

    inputs: list[str]
    outputs: list[str]
    plain: list[str]
    caches: dict[str, tuple[str, int, int, np.dtype[Any]]]
    vocabulary: int
    logits: np.dtype[Any]
    context: int


def decoder_of(graph: ir.GraphView) -> Decoder | None:
    """The decoder that a graph is, by the names that canonical graphs and onnxruntime-genai's exports have; None for any other graph."""
    from turnout.graph import alias_of, input_at

    inputs = {value.name or "": value for value in graph.inputs}
    outputs = [value.name or "" for value in graph.outputs]
    caches = {}
    for value in graph.outputs:
        source = inputs.get(alias_of(value) or "")
        if source is not None and source.shape is not None and source.dtype is not None and len(source.shape) == 4:
            batch, heads, _, head = source.shape
            if (batch == 1 or not isinstance(batch, int)) and isinstance(heads, int) and isinstance(head, int):
                caches[source.name or ""] = (value.name or "", heads, head, source.dtype.numpy())
    plain = [name for name in inputs if name not in caches]
    logits = next((value for value in graph.outputs if value.name == "logits"), None)
    if logits is None or logits.shape is None or logits.dtype is None or not caches or len(outputs) != len(caches) + 1:
        return None
    numbers = all(inputs[name].dtype is not None and inputs[name].dtype.numpy() == np.int64 for name in plain)  # type: ignore[union-attr]
    vocabulary = logits.shape[-1]
    if "input_ids" not in plain or {*plain} - {*_PLAIN} or not isinstance(vocabulary, int) or not numbers:
        return None
    at = {"CachedAttention": 6, "GroupQueryAttention": 7}
    tables = [input_at(node, at[node.op_type]) for node in graph if node.op_type in at]
    rows = [value.shape[0] for value in tables if value is not None and value.shape is not None]
    context = min([one for one in rows if isinstance(one, int)], default=_UNLIMITED)
    return Decoder(list(inputs), outputs, plain, caches, vocabulary, logits.dtype.numpy(), context)


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
        self._seen: DeviceTensor | None = None
        self._step: _Step | None = None

    def feed(self, tokens: Sequence[int], wanted: Sequence[int]) -> NDArray[np.float32]:
        """Adds tokens; float32 [len(wanted), vocabulary], the caller's until the next call. Raises RunError."""
        count = len(tokens)
        if self.length + count > self._capacity:
            self._make_room(self.length + count)
        if count == 1 and len(wanted) == 1:
            logits = self._steps().run(int(tokens[0]), self.length)
        else:
            logits = self._portion(np.asarray(tokens, np.int64), np.asarray(wanted, np.int64))
            if len(logits) != len(wanted):  # of a graph that gives the last token's only
                return np.stack([self.feed([token], [0])[0].copy() for token in tokens])[list(wanted)]
        self.length += count
        return logits

    def chooser(
        self, *, temperature: float, top_k: int, top_p: float, min_p: float, repetition_penalty: float, seen: Sequence[int]
    ) -> Callable[[int, float], int]:
        """What adds a token and gives the next, by a draw from [0, 1): both stay on the device, and a number comes back.

        seen: tokens for the penalty; those that are chosen join them. The function is good until the next call of this one.
        """
        marks = np.zeros(self.vocabulary, np.uint8)
        marks[np.asarray(seen, np.int64)] = 1
        self._seen = self._gpu.upload(marks)
        if self._step is not None:
            self._step.forget_choice()
        numbers = temperature, top_k, top_p, min_p, repetition_penalty

        def following(token: int, draw: float) -> int:
            assert self._seen is not None
            if self.length + 1 > self._capacity:
                self._make_room(self.length + 1)
            chosen = self._steps().choose(token, self.length, (*numbers, draw), self._seen)
            self.length += 1
            return chosen

        return following

    def _steps(self) -> _Step:
        if self._step is None:
            self._step = _Step(self._executable, self._gpu, self._decoder, self._caches, self._capacity)
        return self._step

    def truncate(self, length: int) -> int:
        """Forgets all but the first tokens."""
        self.length = min(self.length, length)
        return self.length

    def close(self) -> None:
        """Lets go of its memory."""
        if self._step is not None:
            self._step.close()
        self._step = self._seen = None
        self._caches.clear()
        self._capacity = self.length = 0

    def _portion(self, tokens: NDArray[np.int64], wanted: NDArray[np.int64]) -> NDArray[np.float32]:
        decoder, chooses = self._decoder, "wanted_tokens" in self._decoder.plain
        asked = wanted if len(wanted) else np.zeros(1, np.int64)  # a graph gathers one row at least, which nobody looks at then
        values = []
        for name in decoder.inputs:
            made = self._caches.get(name)
            values.append(made or self._gpu.upload(np.asarray(_PLAIN[name](tokens, self.length, asked, self._capacity), np.int64)))
        kept = {made: self._caches[name] for name, (made, *_) in decoder.caches.items()}
        found = self._executable.run(values, [kept.get(name) for name in decoder.outputs])
        logits = found[decoder.outputs.index("logits")]
        rows: NDArray[np.float32] = self._gpu.download(logits.address, logits.shape, logits.dtype)[0].astype(np.float32, copy=False)
        if chooses:
            return rows[: len(wanted)]
        if len(rows) == len(tokens):
            return rows[wanted]
        return rows if list(wanted) == [len(tokens) - 1] else rows[:0]

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

    def __init__(
        self, executable: CudaExecutable, context: Context, decoder: Decoder, caches: dict[str, DeviceTensor], capacity: int
    ) -> None:
        context.enter()
        self._executable, self._gpu, self._capacity = executable, context, capacity
        one = np.zeros(1, np.int64)
        given = {name: np.asarray(_PLAIN[name](one, capacity - 1, one, capacity), np.int64) for name in decoder.plain}
        sizes = [-(-array.nbytes // _APART) * _APART for array in (*given.values(), np.zeros(NUMBERS))]
        places = [sum(sizes[:number]) for number in range(len(sizes))]
        self._sent = _Pinned(context, sum(sizes))
        self._given = Memory(context, sum(sizes))
        self._arrays: dict[str, NDArray[np.int64]] = {}
        parts = {}
        for (name, array), place in zip(given.items(), places, strict=False):
            self._arrays[name] = own = self._sent.bytes[place:][: array.nbytes].view(np.int64).reshape(array.shape)
            own[...] = 0
            parts[name] = DeviceTensor(array.shape, array.dtype, _Part(self._given, context, place))  # type: ignore[arg-type]
        self._numbers = self._sent.bytes[places[-1] :][: 8 * NUMBERS].view(np.float64)
        self._told = DeviceTensor((NUMBERS,), self._numbers.dtype, _Part(self._given, context, places[-1]))  # type: ignore[arg-type]
        self._ids, self._mask = self._arrays["input_ids"].reshape(-1), self._arrays.get("attention_mask")
        self._pasts = [self._arrays[name].reshape(-1) for name in ("past_tokens", "position_ids") if name in self._arrays]
        self._masked = 0
        self._values = [caches[name] if name in caches else parts[name] for name in decoder.inputs]
        nbytes = decoder.vocabulary * decoder.logits.itemsize
        self._got = _Pinned(context, -(-nbytes // 8) * 8 + 8)
        self._logits = self._got.bytes[:nbytes].view(decoder.logits).reshape(1, -1)
        self._token = self._got.bytes[-8:].view(np.int64)
        self._chosen = DeviceTensor((1,), self._token.dtype, Memory(context, 8))
        self._answer = DeviceTensor((1, 1, decoder.vocabulary), decoder.logits, Memory(context, nbytes))
        kept = {made: caches[name] for name, (made, *_) in decoder.caches.items()}
        self._out = [kept.get(name, self._answer) for name in decoder.outputs]
        address, stream = context.driver.CUdeviceptr, context.stream
        self._send = address(self._given.address), address(self._sent.address), self._given.nbytes, stream
        self._fetch = address(self._got.address), address(self._answer.address), self._answer.nbytes, stream
        self._fetch_token = address(self._got.address + self._got.bytes.nbytes - 8), address(self._chosen.address), 8, stream
        self._graph: Any = None
        self._choice: Any = None
        self._arena = -1

    def run(self, token: int, past: int) -> NDArray[np.float32]:
        """The logits after one token more, float32 [1, vocabulary]."""
        self._do(token, past, self._fetch, None)
        return self._logits.astype(np.float32, copy=False)

    def choose(self, token: int, past: int, numbers: Sequence[float], seen: DeviceTensor) -> int:
        """The token that follows one more, chosen on the device."""
        self._numbers[:] = numbers
        self._do(token, past, self._fetch_token, seen)
        return int(self._token[0])

    def _do(self, token: int, past: int, fetch: tuple[Any, ...], seen: DeviceTensor | None) -> None:
        gpu = self._gpu
        self._ids[0] = token
        for one in self._pasts:
            one[0] = past
        if self._mask is not None and self._masked != past + 1:
            low, high = sorted((self._masked, past + 1))
            self._mask[0, low:high] = self._masked < past + 1
            self._masked = past + 1
        gpu.enter()
        copy = gpu.driver.cuMemcpyAsync
        with self._executable.lock:
            if self._graph is None or self._arena != self._executable.arena:
                self._record()
            if seen is not None and self._choice is None:
                self._choice = self._executable.choice.recorded([self._answer, seen, self._told], [self._chosen, seen])
            (code,) = copy(*self._send)
            self._graph.launch()
            if seen is not None:
                self._choice.launch()
            if not code:
                (code,) = copy(*fetch)
        if not code:
            (code,) = gpu.driver.cuStreamSynchronize(gpu.stream)
        if code:
            raise gpu.raised(code)

    def _record(self) -> None:
        """Records the graph: at first, and again where a longer run has moved the arena."""
        self._forget()
        self._graph = self._executable.recorded(self._values, self._out)
        self._arena = self._executable.arena

    def _forget(self) -> None:
        graph, self._graph = self._graph, None
        if graph is not None and not self._gpu.lost:
            graph.close()

    def forget_choice(self) -> None:
        """The next choice marks tokens elsewhere."""
        graph, self._choice = self._choice, None
        if graph is not None and not self._gpu.lost:
            graph.close()

    def close(self) -> None:
        """Gives the graphs and the pinned memory back."""
        self._gpu.driver.cuStreamSynchronize(self._gpu.stream)
        self._forget()
        self.forget_choice()
        self._sent.close()
        self._got.close()
