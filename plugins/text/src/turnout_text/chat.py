"""Chat: a conversation that keeps its messages."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from turnout_text.options import Generation, checked
from turnout_text.stream import Piece, Result, Stream

__all__ = ["Answer", "Chat"]


class Chat:
    """A conversation. One answer at a time; what was computed for the messages before is not computed again.

    system: what the system says first, taken up by `reset`. messages: what was said so far, mappings with `role` and `content`; they may be
    changed between answers.
    """

    def __init__(self, generate: Callable[..., Stream], system: str | None, options: Mapping[str, Any]) -> None:
        self._generate = generate
        self._options = dict(options)
        self.system = system
        self.messages: list[dict[str, Any]] = []
        self.reset()

    def reset(self) -> None:
        """Forgets the conversation; what the system said stays."""
        self.messages[:] = [] if self.system is None else [{"role": "system", "content": self.system}]

    def set(self, **options: Any) -> None:
        """Changes options for the answers that follow. Raises InvalidInput."""
        changed = {**self._options, **options}
        checked(Generation, changed, "chat")
        self._options = changed

    def send(self, text: str, **options: Any) -> Answer:
        """What the model answers, as a stream. Options for this answer go before those of the chat.

        Question and answer join `messages` when the answer is over; one that is cancelled joins as far as it came, one that fails does not.
        Raises InvalidInput; while it is read, RunError.
        """
        question = {"role": "user", "content": text}
        stream = self._generate([*self.messages, question], **{**self._options, **options})
        return Answer(stream, lambda said: self.messages.extend([question, {"role": "assistant", "content": said}]))


class Answer(Iterator[Piece]):
    """A `Stream` whose end is told to the chat."""

    def __init__(self, stream: Stream, remember: Callable[[str], None]) -> None:
        self._stream = stream
        self._remember: Callable[[str], None] | None = remember

    def __next__(self) -> Piece:
        try:
            return next(self._stream)
        except StopIteration:
            self._over()
            raise

    def _over(self) -> None:
        remember, self._remember = self._remember, None
        if remember is not None:
            remember(self._stream.result.text)

    @property
    def result(self) -> Result:
        """The answer once it is over; what has not been read of it yet is generated first."""
        found = self._stream.result
        self._over()
        return found

    def close(self) -> None:
        """Cancels the answer, from any thread; where another one is reading, it joins the messages there."""
        if self._stream.close():
            self._over()

    def __enter__(self) -> Answer:
        return self

    def __exit__(self, *exception: Any) -> None:
        self.close()
