"""One GGUF, opened by llama.cpp: runs of whole sequences, and sessions that keep their past."""

from __future__ import annotations

import ctypes as C
import os
import threading
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from turnout.errors import CompileError, InvalidInput, OutOfMemory, RunError
from turnout.graph import ir
from turnout.provider import WholeExecutable
from turnout_llamacpp.layout import Batch
from turnout_llamacpp.library import BackendDevice, Library

__all__ = ["LlamaModel", "Session"]

_FIRST_CONTEXT = 512
"""Tokens that a session has room for at first; it grows by doubling, since llama.cpp sets aside all of a context's memory at once."""
_BATCH = 512
"""Tokens that are computed at a time."""
_DECODE_ERRORS = {1: "it found no room in its cache", 2: "it was aborted"}


class LlamaModel(WholeExecutable):
    """A loaded GGUF. `run` is the model without a past: input_ids int64 [batch, tokens] to logits float32 [batch, tokens, vocabulary]."""

    checks_inputs: ClassVar[bool] = False

    def __init__(self, library: Library, path: Path, device: BackendDevice, *, context: int | None, threads: int, layers: int) -> None:
        """Loads the file. device: all layers go there, or the last `layers` of them where that is not negative.

        Raises CompileError, with what llama.cpp said.
        """
        self._library = library
        self._threads = threads
        self._handle = self._load(path, device, layers)
        self._lock = threading.RLock()
        self._idle: list[Session] = []
        self._sessions: weakref.WeakSet[Session] = weakref.WeakSet()
        if not library.llama_model_has_decoder(self._handle) or library.llama_model_has_encoder(self._handle):
            self.close()
            raise CompileError(f"{path.name} has an encoder; turnout-llamacpp runs decoders only", hint="allow another device")
        trained = library.llama_model_n_ctx_train(self._handle)
        self.context = min(context, trained) if context else trained
        """The most tokens that a session holds."""
        self.vocabulary: int = library.llama_vocab_n_tokens(library.llama_model_get_vocab(self._handle))
        self.title = f"the whole file, by llama.cpp {library.version} ({self._description()}, {threads} threads)"
        self.inputs = [_value("input_ids", ir.DataType.INT64, "batch", "tokens")]
        self.outputs = [_value("logits", ir.DataType.FLOAT, "batch", "tokens", self.vocabulary)]

    def _load(self, path: Path, device: BackendDevice, layers: int) -> int:
        library = self._library
        params = library.llama_model_default_params()
        on_cpu = device.kind == "CPU"
        chosen = (C.c_void_p * 2)(None if on_cpu else device.handle, None)
        params.devices = C.cast(chosen, C.c_void_p).value
        params.n_gpu_layers = 0 if on_cpu else layers
        with library.said.listening() as heard:
            handle = library.llama_model_load_from_file(os.fsencode(path), params)
        if not handle:
            reasons = dict.fromkeys(line.split(": ", 1)[-1].removeprefix("error loading model: ") for line in heard)
            reasons.pop("failed to load model", None)  # the last line, which says no more
            said = "; ".join(reasons) or "it gave no reason"
            raise CompileError(
                f"llama.cpp {library.version} does not load {path.name}: {said}", hint="the log `turnout.llamacpp` has all it said"
            )
        return int(handle)

    def _description(self) -> str:
        text = C.create_string_buffer(256)
        self._library.llama_model_desc(self._handle, text, len(text))
        return text.value.decode(errors="replace")

    def run(self, values: Sequence[Any], out: Sequence[Any] | None = None) -> Sequence[Any]:
        tokens = values[0]
        batch, length = tokens.shape
        buffer = None if out is None else out[0]
        logits = buffer if buffer is not None else np.empty((batch, length, self.vocabulary), np.float32)
        if logits.shape != (batch, length, self.vocabulary):
            raise InvalidInput(f"the buffer for logits is {logits.shape}, and they are {(batch, length, self.vocabulary)}")
        session = self._borrow()
        try:
            for row in range(batch):
                session.truncate(0)
                logits[row] = session.feed(tokens[row].tolist(), range(length))
        finally:
            self._give_back(session)
        return [logits]

    def _borrow(self) -> Session:
        with self._lock:
            return self._idle.pop() if self._idle else self.new_session()

    def _give_back(self, session: Session) -> None:
        """One is kept for the next run: making one costs more than a short run does."""
        with self._lock:
            if self._handle and not self._idle:
                self._idle.append(session)
                return
        session.close()

    def new_session(self) -> Session:
        """A sequence of its own, empty. Several may run in several threads at once."""
        with self._lock:
            session = Session(self._library, self._opened(), self.vocabulary, self.context, self._threads)
            self._sessions.add(session)
            return session

    def _opened(self) -> int:
        if not self._handle:
            raise RunError("the model was closed", hint="load it again")
        return self._handle

    def close(self) -> None:
        """Waits for runs that are under way, then frees every session and the weights."""
        with self._lock:
            for session in list(self._sessions):
                session.close()
            self._idle.clear()
            handle, self._handle = self._handle, 0
            if handle:
                self._library.llama_model_free(handle)


class Session:
    """A sequence of tokens and llama.cpp's memory of them.

    vocabulary: number of logits a token. context: the most tokens that fit. length: tokens that it holds.
    One thread at a time may use it.
    """

    def __init__(self, library: Library, model: int, vocabulary: int, context: int, threads: int) -> None:
        self.vocabulary = vocabulary
        self.context = context
        self.length = 0
        self._library = library
        self._model = model
        self._threads = threads
        self._lock = threading.Lock()
        self._capacity = 0
        self._handle = self._context(min(context, _FIRST_CONTEXT))

    def feed(self, tokens: Sequence[int], wanted: Sequence[int] = ()) -> np.ndarray[Any, Any]:
        """Appends tokens, and gives logits of those at the positions `wanted` within them: float32 [len(wanted), vocabulary].

        Raises InvalidInput for a token that is none and for more than fit; the session is then as it was before.
        """
        ids = np.asarray(tokens, np.int64).reshape(-1)
        rows = np.asarray(wanted, np.int64).reshape(-1)
        if ids.size and not 0 <= int(ids.min()) <= int(ids.max()) < self.vocabulary:
            raise InvalidInput(f"tokens must be 0 to {self.vocabulary - 1}; {ids[(ids < 0) | (ids >= self.vocabulary)][0]} is not")
        if rows.size and not 0 <= int(rows.min()) <= int(rows.max()) < ids.size:
            raise InvalidInput(f"logits are wanted of position {int(rows.max())} of {ids.size} tokens")
        logits = np.empty((rows.size, self.vocabulary), np.float32)
        with self._lock:
            before = self.length
            self._make_room(before + ids.size)
            try:
                for start in range(0, ids.size, _BATCH):
                    self._decode(ids[start : start + _BATCH], rows - start, logits)
            except BaseException:
                self._forget(before)
                raise
        return logits

    def truncate(self, length: int) -> int:
        """Forgets all but the first `length` tokens, or all of them where the model's memory has no parts; gives what it kept."""
        with self._lock:
            self._opened()
            self._forget(min(length, self.length))
        return self.length

    def close(self) -> None:
        """Frees its memory; closing twice does nothing."""
        with self._lock:
            handle, self._handle = self._handle, 0
            if handle:
                self._library.llama_free(handle)

    def __del__(self) -> None:
        if getattr(self, "_handle", 0):
            self.close()

    def _opened(self) -> int:
        if not self._handle:
            raise RunError("the session was closed", hint="its model was, or it was itself")
        return self._handle

    def _decode(self, ids: np.ndarray[Any, Any], rows: np.ndarray[Any, Any], logits: np.ndarray[Any, Any]) -> None:
        """Computes one batch. rows: for each row of `logits`, its position in this batch, or one outside of it."""
        library, handle = self._library, self._opened()
        tokens = np.ascontiguousarray(ids, np.int32)
        flags = np.zeros(tokens.size, np.int8)
        here = np.flatnonzero((rows >= 0) & (rows < tokens.size))
        flags[rows[here]] = 1
        batch = Batch(n_tokens=tokens.size, token=tokens.ctypes.data, logits=flags.ctypes.data)
        with library.said.listening() as heard:
            code = library.llama_decode(handle, batch)
        if code != 0:
            said = _DECODE_ERRORS.get(code) or "; ".join(heard) or f"its code is {code}"
            kind = OutOfMemory if "alloc" in said or code == 1 else RunError
            raise kind(f"llama.cpp failed to run {tokens.size} tokens: {said}")
        self.length += tokens.size
        for row in here:
            source = library.llama_get_logits_ith(handle, int(rows[row]))
            if not source:
                raise RunError(f"llama.cpp gave no logits of token {int(rows[row])}")
            C.memmove(logits[row].ctypes.data, source, logits.shape[1] * 4)

    def _forget(self, length: int) -> None:
        memory = self._library.llama_get_memory(self._handle)
        if length and self._library.llama_memory_seq_rm(memory, 0, length, -1):
            self.length = length
        else:  # a recurrent state has no parts: it is all or nothing
            self._library.llama_memory_clear(memory, True)
            self.length = 0

    def _make_room(self, length: int) -> None:
        """Doubles the context until `length` tokens fit. What it holds moves to the new one."""
        old = self._opened()
        if length > self.context:
            hint = "fewer tokens, or options={'llamacpp': {'context': ...}}"
            raise InvalidInput(f"{length} tokens do not fit into a context of {self.context}", hint=hint)
        if length <= self._capacity:
            return
        capacity = self._capacity
        while capacity < length:
            capacity *= 2
        kept = self._capacity
        fresh = self._context(min(capacity, self.context))
        try:
            if self.length:
                self._move(old, fresh)
        except BaseException:
            self._library.llama_free(fresh)
            self._capacity = kept
            raise
        self._library.llama_free(old)
        self._handle = fresh

    def _move(self, old: int, fresh: int) -> None:
        library = self._library
        size = library.llama_state_seq_get_size(old, 0)
        state = np.empty(size, np.uint8)
        got = library.llama_state_seq_get_data(old, state.ctypes.data, size, 0)
        if got == 0 or library.llama_state_seq_set_data(fresh, state.ctypes.data, got, 0) == 0:
            raise RunError("llama.cpp could not move its cache to a larger context", hint="make room from the start: shorter texts")

    def _context(self, capacity: int) -> int:
        """A llama_context of at least this many tokens. Raises OutOfMemory, and RunError where the library did not get what was asked."""
        library = self._library
        params = library.llama_context_default_params()
        params.n_ctx, params.n_batch, params.n_ubatch = capacity, _BATCH, _BATCH
        params.n_threads = params.n_threads_batch = self._threads
        with library.said.listening() as heard:
            handle = library.llama_init_from_model(self._model, params)
        if not handle:
            said = "; ".join(heard) or "it gave no reason"
            raise OutOfMemory(f"llama.cpp made no context of {capacity} tokens: {said}", hint="options={'llamacpp': {'context': ...}}")
        had = library.llama_n_ctx(handle), library.llama_n_batch(handle), library.llama_n_seq_max(handle), library.llama_n_threads(handle)
        if not (had[0] >= capacity and 0 < had[1] <= _BATCH and had[2] == 1 and had[3] == self._threads):
            library.llama_free(handle)
            raise RunError(
                f"llama.cpp {library.version} made a context of {had} where {(capacity, _BATCH, 1, self._threads)} was asked for"
            )
        self._capacity = min(had[0], self.context)
        return int(handle)


def _value(name: str, dtype: ir.DataType, *shape: int | str) -> ir.Value:
    return ir.Value(name=name, type=ir.TensorType(dtype), shape=ir.Shape(shape))
