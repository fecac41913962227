"""A generation as the caller sees it: pieces of text, and the result."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

__all__ = ["Piece", "Result", "Stops", "Stream", "Token"]


@dataclass(frozen=True, slots=True)
class Token:
    """One generated token.

    logprob: natural logarithm of the probability that the model gave it, before any sampling option. top: the likeliest tokens instead,
    (token, logprob), likeliest first. Both only where `logprobs` asked for them.
    """

    id: int
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()


class Piece(str):
    """A piece of text, and the tokens that it is made of."""

    __slots__ = ("tokens",)

    tokens: tuple[Token, ...]

    def __new__(cls, text: str, tokens: Sequence[Token] = ()) -> Piece:
        made = super().__new__(cls, text)
        made.tokens = tuple(tokens)
        return made


Finish = Literal["stop", "length", "cancelled"]


@dataclass
class Result:
    """A generation that is over.

    finish_reason: "stop" (the model ended its answer, or a stop text came), "length" (max_tokens, or the context is full), "cancelled".
    prompt_tokens: tokens of the prompt, of which reused_tokens were in the cache already. Seconds: prompt_seconds until the prompt was
    computed, first_piece_seconds until the first piece of text, seconds in all, the caller's time between pieces left out.
    """

    text: str = ""
    finish_reason: Finish = "cancelled"
    prompt_tokens: int = 0
    reused_tokens: int = 0
    generated_tokens: int = 0
    prompt_seconds: float = 0.0
    first_piece_seconds: float = 0.0
    seconds: float = 0.0
    tokens: list[Token] = field(default_factory=list)

    @property
    def prompt_rate(self) -> float:
        """Tokens a second of the prompt that were computed."""
        return (self.prompt_tokens - self.reused_tokens) / self.prompt_seconds if self.prompt_seconds else 0.0

    @property
    def rate(self) -> float:
        """Tokens a second after the first, which comes with the prompt."""
        decoding = self.seconds - self.prompt_seconds
        return (self.generated_tokens - 1) / decoding if self.generated_tokens > 1 and decoding > 0 else 0.0


class Stream(Iterator[Piece]):
    """Pieces of text as they come. Iterate, or take `result`, which waits for the end; `close()` (or leaving a `with`) cancels."""

    def __init__(self, produce: Callable[[Result, threading.Event], Generator[Piece, None, None]]) -> None:
        self._result = Result()
        self._cancelled = threading.Event()
        self._pieces = produce(self._result, self._cancelled)

    def __next__(self) -> Piece:
        return next(self._pieces)

    @property
    def result(self) -> Result:
        """The generation once it is over; what has not been read of it yet is generated first."""
        for _ in self._pieces:
            pass
        return self._result

    def close(self) -> bool:
        """Cancels: no token more is computed. Any thread may call it; while another one waits for a piece, that one gets its end, and
        False is given here."""
        self._cancelled.set()
        try:
            self._pieces.close()
        except ValueError:  # another thread is in it, and will see the event
            return False
        return True

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *exception: Any) -> None:
        self.close()


class Stops:
    """Holds back text that may be the beginning of a stop text, and cuts at the first one that is whole."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._held = ""

    def add(self, text: str) -> tuple[str, bool]:
        """(text that is free to go, whether a stop text was found)."""
        if not self._stops:
            return text, False
        self._held += text
        places = [place for place in map(self._held.find, self._stops) if place >= 0]
        if places:
            free, self._held = self._held[: min(places)], ""
            return free, True
        keep = max((self._overlap(stop) for stop in self._stops), default=0)
        free, self._held = self._held[: len(self._held) - keep], self._held[len(self._held) - keep :]
        return free, False

    def _overlap(self, stop: str) -> int:
        """How many characters at the end of the held text begin the stop text."""
        most = min(len(stop) - 1, len(self._held))
        return next((count for count in range(most, 0, -1) if self._held.endswith(stop[:count])), 0)

    def rest(self) -> str:
        """What was held back and turned out to be no stop."""
        held, self._held = self._held, ""
        return held
