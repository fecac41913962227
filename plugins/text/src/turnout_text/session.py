"""The one interface between making text and whatever computes it: a decoder that remembers the tokens it was fed.

The writer (writer.py) works on this alone. Whoever can run a language model can serve it:

- a graph with a cache in its inputs and outputs, on any provider (caches.py); turnout's own, and what exporters make;
- a provider whose executable is the whole model, and has a method `new_session()` that returns an object of this interface: because it
  takes files whole, or keeps caches on its device. It need not inherit from `Session`, so that such a plugin does not depend on this one.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from turnout.model import Model

__all__ = ["NewSession", "Session", "sessions_of"]


class Session(abc.ABC):
    """A decoder and the tokens that it holds, in order. One thread at a time; several sessions of a model may be at work at once."""

    vocabulary: int
    """Tokens that there are, or 0 as long as nothing was fed and the model does not say."""
    context: int
    """Tokens that it can hold at most."""
    length: int
    """Tokens that it holds."""
    switch: int = 0
    """Above 0: a run that ends beyond so many tokens turns positions in another way than one that does not (LongRoPE), so that what it
    holds of the one is no good to the other. For a session without this attribute the file's metadata say it."""

    @abc.abstractmethod
    def feed(self, tokens: Sequence[int], wanted: Sequence[int]) -> NDArray[np.float32]:
        """Adds tokens, at least one, after those that it holds.

        wanted: positions within `tokens`, ascending. Gives float32 [len(wanted), vocabulary]: for each of them the logits of the token
        that follows it. The array is the caller's until the next call. Raises RunError; after that the session is only good to be closed.
        """

    def chooser(
        self, *, temperature: float, top_k: int, top_p: float, min_p: float, repetition_penalty: float, seen: Sequence[int]
    ) -> Callable[[int, float], int] | None:
        """What adds a token and gives the one that follows, chosen where its logits are, by a draw from [0, 1); None: the writer chooses.

        It chooses as `sampling.Sampler` does. seen: tokens for the penalty, which the chosen ones join. The function is good until
        `chooser`, `feed` or `truncate` is called again. A session need not have this method.
        """
        return None

    @abc.abstractmethod
    def truncate(self, length: int) -> int:
        """Forgets all but the first `length` tokens, or more where it cannot stop there; gives how many it still holds."""

    @abc.abstractmethod
    def close(self) -> None:
        """Lets go of its memory. Nothing follows."""


NewSession = Callable[[], Session]


def sessions_of(model: Model) -> NewSession | None:
    """How to make sessions of a loaded model; None where it is no decoder of tokens."""
    whole: Any = model.executable
    offered: NewSession | None = getattr(whole, "new_session", None)
    if offered is not None:
        return offered
    from turnout_text.caches import sessions_over

    return sessions_over(model)
