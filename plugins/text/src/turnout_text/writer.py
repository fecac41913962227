"""Writer: prompts and messages to text, with a model's sessions and its language. What `model.generate` and its kin call.

Several threads may generate with one model at once: each generation has a session, and thereby a cache, of its own. When it is over, its
session waits with the tokens that it holds for a prompt that begins with the same ones; two are kept.
"""

from __future__ import annotations

import functools
import threading
import time
import weakref
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from turnout.errors import Closed, InvalidInput, NotGenerative
from turnout_text.caches import context_of, switch_of
from turnout_text.chat import Chat
from turnout_text.embedding import embed, embeds
from turnout_text.language import Language, Pieces, language_of
from turnout_text.options import Generation, checked
from turnout_text.sampling import Sampler, log_softmax
from turnout_text.session import NewSession, Session, sessions_of
from turnout_text.stream import Piece, Result, Stops, Stream, Token

if TYPE_CHECKING:
    from turnout.formats import Origin
    from turnout.model import Model

__all__ = ["Writer", "writer"]

_CHUNK = 512  # tokens of a prompt that are computed at a time; between chunks a generation can be cancelled
_KEPT = 2  # sessions that wait with what they hold


def writer(model: Model) -> Writer | None:
    """A writer for the model; None where it is neither a decoder of tokens nor has a vocabulary."""
    sessions = sessions_of(model)
    if sessions is None and "tokenizer.ggml.model" not in model.origin.metadata:
        return None
    return Writer(model.origin, sessions, weakref.ref(model))


@dataclass
class _Held:
    """A session and the tokens in it."""

    session: Session
    tokens: list[int] = field(default_factory=list)
    told: int = 0
    """The switch by the file's metadata, for a session that does not say."""

    def common(self, tokens: Sequence[int]) -> int:
        """How many tokens at the beginning are the same."""
        pairs = zip(self.tokens, tokens, strict=False)
        return next((i for i, (one, other) in enumerate(pairs) if one != other), min(len(self.tokens), len(tokens)))

    def keep(self, count: int) -> int:
        """Forgets all but the first `count` tokens; gives how many are left, which is 0 where the session cannot stop there."""
        kept = self.session.truncate(count) if count < self.session.length else self.session.length
        if kept > count:
            kept = self.session.truncate(0)
        del self.tokens[kept:]
        return kept

    @property
    def switch(self) -> int:
        """Tokens beyond which positions are turned in another way, 0 for most models."""
        return getattr(self.session, "switch", self.told)

    def portions(self, tokens: Sequence[int]) -> list[Sequence[int]]:
        """What follows the tokens that it holds, as it is computed: a first portion goes beyond the switch if all of them together do."""
        first = max(_CHUNK, self.switch + 1) if not self.tokens and len(tokens) > self.switch > 0 else _CHUNK
        return [tokens[:first], *(tokens[start : start + _CHUNK] for start in range(first, len(tokens), _CHUNK))]

    def reuse(self, tokens: Sequence[int]) -> int:
        """Keeps what is good for a text of these tokens, less the last, whose logits are wanted; gives how many that are."""
        count = min(self.common(tokens), len(tokens) - 1)
        if self.switch and (len(self.tokens) > self.switch) != (len(tokens) > self.switch):
            count = 0
        return self.keep(count)

    def add(self, token: int) -> NDArray[np.float32]:
        """The logits after one token more; where that one is the first beyond the switch, all are computed again."""
        tokens = [token]
        if self.crosses:
            tokens = [*self.tokens, token]
            self.keep(0)
        logits: NDArray[np.float32] = self.feed(tokens, [len(tokens) - 1])[0]
        return logits

    @property
    def crosses(self) -> bool:
        """Whether the next token is the first beyond the switch."""
        return 0 < self.switch == len(self.tokens)

    def feed(self, tokens: Sequence[int], wanted: Sequence[int]) -> NDArray[np.float32]:
        logits = self.session.feed(tokens, wanted)
        self.tokens += tokens
        return logits

    def follow(self, chooser: Callable[[int, float], int], token: int, draw: float) -> int:
        """Adds a token; the next, by the session's own choice."""
        following = chooser(token, draw)
        self.tokens.append(token)
        return following


class _Pool:
    """A model's sessions: those at work belong to whoever took them, the others wait."""

    def __init__(self, make: NewSession, switch: int) -> None:
        self._make = make
        self._switch = switch
        self._lock = threading.Lock()
        self._idle: list[_Held] = []
        self._closed = False

    @functools.cached_property
    def limits(self) -> tuple[int, int]:
        """(tokens that a session holds at most, tokens that the model has, or 0 where it does not say)."""
        held = self.take(())
        self.give_back(held)
        return held.session.context, held.session.vocabulary

    def fresh(self) -> _Held:
        """A session that holds nothing."""
        if self._closed:
            raise Closed("the model was closed", hint="load it again, or generate before close()")
        return _Held(self._make(), told=self._switch)

    def take(self, tokens: Sequence[int]) -> _Held:
        """The waiting session with the longest common beginning, or a new one where none has any and another may come back for its own."""
        with self._lock:
            best = max(self._idle, key=lambda held: held.common(tokens), default=None)
            if best is not None and (best.common(tokens) > 0 or not best.tokens or len(self._idle) >= _KEPT):
                self._idle.remove(best)
                return best
        return self.fresh()

    def give_back(self, held: _Held) -> None:
        with self._lock:
            if not self._closed:
                self._idle.append(held)
                held = self._idle.pop(0) if len(self._idle) > _KEPT else None  # type: ignore[assignment]
        if held is not None:
            held.session.close()

    def close(self) -> None:
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for held in idle:
            held.session.close()


class Writer:
    """One model's way to text."""

    def __init__(self, origin: Origin, sessions: NewSession | None, model: Callable[[], Model | None] = lambda: None) -> None:
        self._origin = origin
        self._model = model  # weak, for the model holds its writer
        self._pool = None if sessions is None else _Pool(sessions, switch_of(origin))
        self._making = threading.Lock()

    @property
    def language(self) -> Language:
        """Tokenizer, template and ends, made when they are first needed. Raises NotGenerative, InvalidModel."""
        with self._making:
            return self._language

    @functools.cached_property
    def _language(self) -> Language:
        return language_of(self._origin)

    def tokenize(self, text: str, *, ends: bool = True, special: bool = True) -> list[int]:
        """The text's tokens.

        ends: with the tokens that the model wants at the beginning or end of a text. special: a special token's name in the text is that
        token; else it is text like any other. Raises InvalidInput, NotGenerative.
        """
        return self.language.encode(text, ends=ends, special=special)

    def detokenize(self, tokens: Sequence[int], *, special: bool = False) -> str:
        """The tokens' text. special: with the names of special tokens. Raises InvalidInput, NotGenerative."""
        return self.language.decode(_token_list(tokens, least=0), special=special)

    def logits(self, tokens: Sequence[int]) -> NDArray[np.float32]:
        """The logits of the token that follows each of these, float32 [tokens, vocabulary]. Raises InvalidInput, RunError."""
        given = _token_list(tokens)
        pool = self._sessions()
        self._check(given, pool)
        held = pool.fresh()
        try:
            rows = [held.feed(chunk, range(len(chunk))).copy() for chunk in held.portions(given)]
        finally:
            held.session.close()
        return np.concatenate(rows)

    def embed(self, texts: Sequence[str], *, normalize: bool = True) -> NDArray[np.float32]:
        """A vector of each text, float32 [texts, width], as the file pools it; normalize: of length 1, so that a product is the cosine.

        Raises InvalidInput (a text that is longer than the context too), NotGenerative, RunError.
        """
        model = self._model()
        if model is None or not embeds(model):
            raise NotGenerative(f"{self._origin.name} makes no embeddings: it has no output of that name", hint="give an encoder's file")
        return embed(model, self.language, texts, context_of(self._origin), normalize=normalize)

    def generate(self, prompt: str | Sequence[Mapping[str, Any]], **options: Any) -> Stream:
        """Text that follows the prompt, as a stream of pieces; `stream.result` is the whole of it with counts and timings.

        prompt: a text, which a model with a chat template takes for one message of the user's (`raw=True` continues it as it stands), or
        messages: mappings with `role` and `content`. Options: turnout_text.options.Generation.
        The same prompt, options and seed give the same text. A prompt that the context cannot hold is refused at once; a generation that
        fills the context ends with finish_reason "length".
        Raises InvalidInput, NotGenerative; while it is read, RunError.
        """
        chosen = checked(Generation, options, "generate")
        tokens = self._prompt(prompt, chosen)
        pool = self._sessions()
        self._check(tokens, pool)
        return Stream(lambda result, cancelled: self._produce(pool, tokens, chosen, result, cancelled))

    def chat(self, system: str | None = None, **options: Any) -> Chat:
        """A conversation; its `send(text)` gives the answer as a stream. Options: as for `generate`. Raises NotGenerative, InvalidInput."""
        checked(Generation, options, "chat")
        self._sessions()
        if self.language.template is None:
            raise NotGenerative(f"{self._origin.name} has no chat template", hint="generate(text) continues a text")
        return Chat(self.generate, system, options)

    def close(self) -> None:
        """Lets go of the caches that wait."""
        if self._pool is not None:
            self._pool.close()

    def _sessions(self) -> _Pool:
        if self._pool is None:
            raise NotGenerative(f"{self._origin.name} is no decoder: it does not give logits for tokens", hint="use run()")
        return self._pool

    def _prompt(self, prompt: Any, options: Generation) -> list[int]:
        if isinstance(prompt, str):
            if options.raw or self.language.template is None:
                tokens = self.language.encode(prompt, ends=True, special=True)
                return tokens or self.language.encode("\n", ends=True, special=True)
            prompt = [{"role": "user", "content": prompt}]
        elif options.raw:
            raise InvalidInput("raw=True takes a text, not messages", hint="leave raw out, or give one text")
        text = self.language.chat(_messages(prompt), tools=options.tools, **options.template)
        return self.language.encode(text, ends=False, special=True)

    def _check(self, tokens: Sequence[int], pool: _Pool) -> None:
        """Raises InvalidInput for more tokens than fit, and for one that the model has not."""
        context, vocabulary = pool.limits
        if len(tokens) > context:
            raise InvalidInput(
                f"these are {len(tokens)} tokens, and {self._origin.name} takes {context}",
                hint="shorten it; a conversation: drop its oldest messages",
            )
        highest = max(tokens, default=0)
        if 0 < vocabulary <= highest:
            raise InvalidInput(
                f"there is no token {highest}, {self._origin.name} has 0 to {vocabulary - 1}", hint="model.tokenize(text) makes tokens"
            )

    def _produce(
        self, pool: _Pool, tokens: list[int], options: Generation, result: Result, cancelled: threading.Event
    ) -> Generator[Piece, None, None]:
        held = pool.take(tokens)
        try:
            yield from _Run(self.language, held, tokens, options, result, cancelled).pieces()
        except GeneratorExit:
            pool.give_back(held)
            raise
        except BaseException:
            held.session.close()  # what it holds is not known any more
            raise
        pool.give_back(held)


class _Run:
    """One generation at work."""

    def __init__(
        self, language: Language, held: _Held, prompt: list[int], options: Generation, result: Result, cancelled: threading.Event
    ) -> None:
        self.language = language
        self.held = held
        self.prompt = prompt
        self.options = options
        self.result = result
        self.cancelled = cancelled
        self.sampler = Sampler(options, prompt)
        self.texts = Pieces(language, prompt)
        self.stops = Stops(options.stop)
        self.fresh: list[Token] = []
        self.clock = time.perf_counter()

    def pieces(self) -> Generator[Piece, None, None]:
        """The text as it comes; the result is filled on the way."""
        result = self.result
        result.prompt_tokens = len(self.prompt)
        logits = self._read()
        token = None if logits is None else self.sampler.choose(logits)
        there = None if logits is None else self._chooser()
        while token is not None:
            result.generated_tokens += 1
            self._note(token, logits)
            if token in self.language.ends:
                result.finish_reason = "stop"
                break
            text, stopped = self.stops.add(self.texts.add(token))
            if text:
                yield from self._say(text)
            if stopped:
                result.finish_reason = "stop"
                self._tick()
                return
            if self._full():
                result.finish_reason = "length"
                break
            if self.cancelled.is_set():
                break
            if there is not None and not self.held.crosses:
                token = self.held.follow(there, token, self.sampler.draw())
            else:
                logits = self.held.add(token)
                token = self.sampler.choose(logits)
                there = None if there is None else self._chooser()
            self._tick()
        rest, stopped = self.stops.add(self.texts.rest())
        rest += "" if stopped else self.stops.rest()
        if stopped:
            result.finish_reason = "stop"
        if rest or self.fresh:
            yield from self._say(rest)

    def _read(self) -> NDArray[np.float32] | None:
        """Computes what of the prompt the session does not hold; the last token's logits, None where it was cancelled."""
        result = self.result
        result.reused_tokens = self.held.reuse(self.prompt)
        logits = None
        for chunk in self.held.portions(self.prompt[result.reused_tokens :]):
            if self.cancelled.is_set():
                return None
            logits = self.held.feed(chunk, [len(chunk) - 1])[0]
        self._tick()
        result.prompt_seconds = result.seconds
        return logits

    def _chooser(self) -> Callable[[int, float], int] | None:
        """The session's own way to choose tokens, where it has one and nobody asks for the logits."""
        offered = getattr(self.held.session, "chooser", None)
        if offered is None or self.options.logprobs is not None:
            return None
        values = self.options.model_dump(include={"temperature", "top_k", "top_p", "min_p", "repetition_penalty"})
        found: Callable[[int, float], int] | None = offered(**values, seen=[] if self.sampler.seen is None else self.sampler.seen.tolist())
        return found

    def _full(self) -> bool:
        most = self.options.max_tokens
        made = self.result.generated_tokens
        return (most is not None and made >= most) or len(self.prompt) + made > self.held.session.context

    def _note(self, token: int, logits: NDArray[np.float32] | None) -> None:
        if self.options.logprobs is None or logits is None:
            self.fresh.append(Token(token))
        else:
            known = log_softmax(logits)
            top = np.argsort(-known, kind="stable")[: self.options.logprobs]
            self.fresh.append(Token(token, float(known[token]), tuple((int(one), float(known[one])) for one in top)))
        self.result.tokens.append(self.fresh[-1])

    def _say(self, text: str) -> Generator[Piece, None, None]:
        """Hands out a piece; the time that the caller takes over it is not ours."""
        self._tick()
        if not self.result.text:
            self.result.first_piece_seconds = self.result.seconds
        self.result.text += text
        piece, self.fresh = Piece(text, self.fresh), []
        yield piece
        self.clock = time.perf_counter()

    def _tick(self) -> None:
        now = time.perf_counter()
        self.result.seconds += now - self.clock
        self.clock = now


def _token_list(tokens: Any, least: int = 1) -> list[int]:
    """The tokens as Python's own numbers; an iterator or a NumPy array will do."""
    try:
        array = np.asarray(tokens if hasattr(tokens, "__len__") else list(tokens))
    except (TypeError, ValueError):
        array = np.empty((0, 0))
    numbers = array.ndim == 1 and (array.dtype.kind in "iu" or array.size == 0)
    if not numbers or array.size < least:
        raise InvalidInput(f"tokens are a list of whole numbers{', one at least' * least}", hint="model.tokenize(text) makes them")
    if array.size and array.min() < 0:
        raise InvalidInput(f"there is no token {array.min()}", hint="tokens are numbered from 0; model.tokenize(text) makes them")
    found: list[int] = array.tolist()
    return found


def _messages(prompt: Any) -> list[Mapping[str, Any]]:
    if isinstance(prompt, Mapping) or not isinstance(prompt, Sequence) or not prompt:
        raise InvalidInput("the prompt is neither a text nor a list of messages", hint='[{"role": "user", "content": "Hello"}]')
    wrong = next((one for one in prompt if not isinstance(one, Mapping) or not isinstance(one.get("role"), str)), None)
    if wrong is not None:
        raise InvalidInput(f"{wrong!r:.80} is no message", hint='a message is {"role": "user", "content": "Hello"}')
    return list(prompt)
