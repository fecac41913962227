"""Sessions over graphs: `input_ids` in, `logits` out, and the cache of keys and values as further inputs and outputs.

Four kinds, by what the model declares and where it lies:

InPlace     outputs of the cache alias its inputs (`ValueInfo.alias`): one buffer of a fixed size for both, updated in place, larger when
            full. turnout's own graphs (`past_tokens` says how many tokens the buffer holds), and exports with GroupQueryAttention, where
            the length of `attention_mask` says it.
Elsewhere   the same where the cache comes out in the memory of a device that is not the host's: it goes in again without being looked at.
Growing     the cache that comes out is longer than the one that went in by the tokens of the run: it goes in again as it is.
Recomputed  no cache: every run computes all tokens again.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from turnout_text.session import NewSession, Session

if TYPE_CHECKING:
    from turnout.formats import Origin
    from turnout.model import Model, ValueInfo

__all__ = ["Elsewhere", "Growing", "InPlace", "Recomputed", "context_of", "sessions_over", "switch_of"]

_STEP = 256  # tokens; a cache is a multiple of it long
_SEQUENCE = 2  # the axis of tokens in a cache [batch, heads, tokens, head]
_UNLIMITED = 1 << 30
_PAST = re.compile(r"past_key_values\.(\d+)\.(key|value)")


@dataclass(frozen=True)
class _Shape:
    """What a model looks like to a session.

    plain: its inputs beside the cache. pairs: cache input and the output that is its successor. logits: that output.
    """

    plain: dict[str, ValueInfo]
    pairs: list[tuple[ValueInfo, str]]
    logits: ValueInfo
    aliased: bool


def sessions_over(model: Model) -> NewSession | None:
    """How to make sessions over the graph; None where its inputs and outputs are not those of a decoder."""
    shape = _shape(model)
    if shape is None:
        return None
    context = context_of(model.origin)
    kind = Recomputed if not shape.pairs else Growing if not shape.aliased else InPlace if _on_host(model, shape) else Elsewhere
    return lambda: kind(model, shape, context)


def _on_host(model: Model, shape: _Shape) -> bool:
    """Whether the caches come out in host memory."""
    return all(model.device_of(present).on_host for _, present in shape.pairs)


def context_of(origin: Origin) -> int:
    """Tokens at most, as the file's metadata say."""
    metadata = origin.metadata
    prefix = metadata.get("general.architecture", "")
    found = metadata.get(f"{prefix}.context_length", metadata.get("context_length", _UNLIMITED))
    return int(found) if isinstance(found, int) and found > 0 else _UNLIMITED


def switch_of(origin: Origin) -> int:
    """Tokens beyond which a model with LongRoPE turns by its other factors, as the file's metadata say; 0 for other models."""
    metadata = origin.metadata
    scaling = f"{metadata.get('general.architecture', '')}.rope.scaling"
    if isinstance(kind := metadata.get(f"{scaling}.type", ""), str) and kind in ("yarn", "linear"):
        return 0
    found = metadata.get(f"{scaling}.original_context_length", metadata.get("original_context_length", 0))
    return found if isinstance(found, int) and 0 < found < context_of(origin) else 0


def _shape(model: Model) -> _Shape | None:
    inputs = {info.name: info for info in model.inputs}
    outputs = {info.name: info for info in model.outputs}
    if "input_ids" not in inputs or "logits" not in outputs:
        return None
    aliased = [(inputs[info.alias], info.name) for info in model.outputs if info.alias in inputs]
    pasts = [(info, _PAST.sub(r"present.\1.\2", info.name)) for info in model.inputs if _PAST.fullmatch(info.name)]
    pairs = aliased if len(aliased) >= len(pasts) else pasts
    if any(len(info.shape or ()) != 4 or present not in outputs for info, present in pairs):
        return None
    cached = {info.name for info, _ in pairs}
    plain = {name: info for name, info in inputs.items() if name not in cached}
    if any(info.required and name not in _PLAIN for name, info in plain.items()):
        return None
    return _Shape(plain, pairs, outputs["logits"], pairs is aliased)


_PLAIN: dict[str, Callable[[NDArray[np.int64], int, Sequence[int]], Any]] = {
    "input_ids": lambda tokens, past, wanted: tokens[None],
    "past_tokens": lambda tokens, past, wanted: [past],
    "wanted_tokens": lambda tokens, past, wanted: wanted,
    "attention_mask": lambda tokens, past, wanted: np.ones((1, past + len(tokens))),
    "position_ids": lambda tokens, past, wanted: np.arange(past, past + len(tokens))[None],
    "past_sequence_length": lambda tokens, past, wanted: past,
    "total_sequence_length": lambda tokens, past, wanted: past + len(tokens),
    "use_cache_branch": lambda tokens, past, wanted: [True],
}
"""The inputs that a session knows, each made of the run's tokens, the tokens before them, and the positions whose logits are wanted."""


class _Over(Session):
    """What sessions over a graph share."""

    def __init__(self, model: Model, shape: _Shape, context: int) -> None:
        self.model = model
        self.shape = shape
        self.context = context
        self.switch = switch_of(model.origin)
        self.length = 0
        last = shape.logits.shape[-1] if shape.logits.shape else None
        self.vocabulary = last if isinstance(last, int) else 0
        self.chooses = "wanted_tokens" in shape.plain

    def plain(self, tokens: NDArray[np.int64], wanted: Sequence[int], past: int) -> dict[str, NDArray[Any]]:
        """The inputs beside the cache, by name."""
        return {
            name: np.asarray(_PLAIN[name](tokens, past, wanted), dtype=info.dtype)
            for name, info in self.shape.plain.items()
            if name in _PLAIN
        }

    def feed(self, tokens: Sequence[int], wanted: Sequence[int]) -> NDArray[np.float32]:
        given = np.asarray(tokens, np.int64)
        rows = self.run(given, wanted)
        if not self.chooses:
            rows = rows[list(wanted)] if len(rows) == len(tokens) else self._one_by_one(given, wanted, rows)
        self.vocabulary = rows.shape[-1] if len(rows) else self.vocabulary
        return rows.astype(np.float32, copy=False)

    def run(self, tokens: NDArray[np.int64], wanted: Sequence[int]) -> NDArray[Any]:
        """Adds the tokens: logits of those that are wanted, of all of them, or of the last alone, as the graph has it."""
        raise NotImplementedError

    def _one_by_one(self, tokens: NDArray[np.int64], wanted: Sequence[int], last: NDArray[Any]) -> NDArray[Any]:
        """For a graph that gives the last token's logits only."""
        if list(wanted) == [len(tokens) - 1]:
            return last
        self.truncate(self.length - len(tokens))
        rows = [self.run(tokens[i : i + 1], [0])[0] for i in range(len(tokens))]
        return np.stack([rows[i] for i in wanted]) if len(wanted) else last[:0]

    def close(self) -> None:
        self.length = 0


class InPlace(_Over):
    """One buffer for each input of the cache and its successor."""

    def __init__(self, model: Model, shape: _Shape, context: int) -> None:
        super().__init__(model, shape, context)
        self.capacity = 0
        self.buffers: dict[str, Any] = {}
        self._single: tuple[Callable[[], NDArray[Any]], dict[str, NDArray[Any]]] | None = None

    def run(self, tokens: NDArray[np.int64], wanted: Sequence[int]) -> NDArray[Any]:
        self._make_room(self.length + len(tokens))
        if len(tokens) == 1 and self.capacity > 1:
            logits = self._run_single(int(tokens[0]))
        else:
            logits = self._bound(self.plain(tokens, wanted, self.length))()
        self.length += len(tokens)
        rows: NDArray[Any] = logits[0]
        return rows

    def _bound(self, plain: dict[str, NDArray[Any]]) -> Callable[[], NDArray[Any]]:
        """What runs over these arrays, as they are by then, and the caches; it gives the logits."""
        outputs = {present: self.buffers[info.name] for info, present in self.shape.pairs}
        bound = self.model.bind({**plain, **self.buffers}, outputs=outputs)
        return lambda: bound.run()["logits"]

    def _run_single(self, token: int) -> NDArray[Any]:
        """One token: the same binding again and again, with other numbers in its arrays.

        The mask is as long as the cache for that, with ones for the tokens that there are: GroupQueryAttention counts them.
        """
        if self._single is None:
            plain = self.plain(np.zeros(1, np.int64), [0], self.capacity - 1)
            self._single = self._bound(plain), plain
        run, plain = self._single
        places = {"past_tokens", "position_ids", "past_sequence_length"}
        for name, array in plain.items():
            if name == "attention_mask":
                array[:, : self.length + 1] = 1
                array[:, self.length + 1 :] = 0
            elif name in places:
                array[...] = self.length
            elif name == "total_sequence_length":
                array[...] = self.length + 1
            elif name == "input_ids":
                array[...] = token
        return run()

    def _make_room(self, tokens: int) -> None:
        """A longer cache, half as long again at least, so that what is copied on the way stays a fraction of what was computed."""
        if tokens <= self.capacity:
            return
        wanted = max(tokens, self.capacity + self.capacity // 2)
        self.capacity = min(-(-wanted // _STEP) * _STEP, max(self.context, tokens))
        self._single = None
        for info, _ in self.shape.pairs:
            old = self.buffers.get(info.name)
            self.buffers[info.name] = fresh = np.zeros(_sized(info, self.capacity), info.dtype)
            if old is not None:
                fresh[:, :, : self.length] = np.asarray(old)[:, :, : self.length]

    def truncate(self, length: int) -> int:
        self.length = min(self.length, length)
        return self.length

    def close(self) -> None:
        super().close()
        self.buffers.clear()
        self._single = None


class Elsewhere(InPlace):
    """Caches in the memory of a device: those that come out of a run are those of the next."""

    def _bound(self, plain: dict[str, NDArray[Any]]) -> Callable[[], NDArray[Any]]:
        def run() -> NDArray[Any]:
            found = self.model.run_on_device({**plain, **self.buffers})
            self.buffers = {info.name: found[present] for info, present in self.shape.pairs}
            return np.asarray(found["logits"])

        return run


class Growing(_Over):
    """The cache is a new one after each run."""

    def __init__(self, model: Model, shape: _Shape, context: int) -> None:
        super().__init__(model, shape, context)
        self._run = model.run if _on_host(model, shape) else model.run_on_device
        self.cache: dict[str, Any] = self._empty()

    def _empty(self) -> dict[str, NDArray[Any]]:
        return {info.name: np.zeros(_sized(info, 0), info.dtype) for info, _ in self.shape.pairs}

    def run(self, tokens: NDArray[np.int64], wanted: Sequence[int]) -> NDArray[Any]:
        found = self._run({**self.plain(tokens, wanted, self.length), **self.cache})
        self.cache = {info.name: found[present] for info, present in self.shape.pairs}
        self.length += len(tokens)
        rows: NDArray[Any] = np.asarray(found["logits"])[0]
        return rows

    def truncate(self, length: int) -> int:
        if length < self.length:
            self.length = length
            self.cache = {name: np.ascontiguousarray(np.asarray(array)[:, :, :length]) for name, array in self.cache.items()}
        return self.length

    def close(self) -> None:
        super().close()
        self.cache.clear()


class Recomputed(_Over):
    """No cache: it remembers the tokens, and computes them all anew."""

    def __init__(self, model: Model, shape: _Shape, context: int) -> None:
        super().__init__(model, shape, context)
        self.tokens: list[int] = []

    def run(self, tokens: NDArray[np.int64], wanted: Sequence[int]) -> NDArray[Any]:
        before = len(self.tokens)
        self.tokens += tokens.tolist()
        self.length = len(self.tokens)
        found = self.model.run(self.plain(np.array(self.tokens), [before + i for i in wanted], 0))["logits"][0]
        rows: NDArray[Any] = found if self.chooses or len(found) != self.length else found[before:]
        return rows

    def truncate(self, length: int) -> int:
        del self.tokens[length:]
        self.length = len(self.tokens)
        return self.length


def _sized(info: ValueInfo, tokens: int) -> tuple[int, ...]:
    """The shape of a cache for one sequence of so many tokens."""
    assert info.shape is not None
    sizes = [1 if not isinstance(dim, int) else dim for dim in info.shape]
    sizes[_SEQUENCE] = tokens
    return tuple(sizes)
