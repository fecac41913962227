"""The kit's level `text`: both routes pass it, and providers with something wrong do not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from turnout.device import Device
from turnout.testing import run
from turnout_llamacpp.model import LlamaModel, Session
from turnout_llamacpp.provider import LlamaCppProvider


@pytest.mark.parametrize("provider", ["cpu", "llamacpp"])
def test_both_routes_pass(provider: str) -> None:
    results = list(run(provider, ["text"], require=True))
    assert len(results) == 12
    assert {result.outcome for result in results} == {"passed"}, [str(one) for one in results]


class Wrong(Session):
    """A session with one thing wrong."""

    fault = ""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        if self.fault == "context":
            self.context *= 2

    def feed(self, tokens: Sequence[int], wanted: Sequence[int] = ()) -> Any:
        logits = super().feed(tokens, wanted)
        if self.fault == "rounding":
            return np.round(logits / 8) * 8
        if self.fault == "place" and len(tokens) == 1:  # it has computed the token as if it were the first
            other = Session(self._library, self._model, self.vocabulary, self.context, self._threads)
            logits = other.feed(tokens, wanted)
            other.close()
        return logits

    def truncate(self, length: int) -> int:
        return length if self.fault == "truncate" else super().truncate(length)


@pytest.mark.parametrize(
    ("fault", "kinds"),
    [("", set()), ("rounding", {"tokens"}), ("place", {"tokens"}), ("context", {"overflows"}), ("truncate", {"streams"})],
)
def test_what_is_wrong_is_found(fault: str, kinds: set[str], monkeypatch: pytest.MonkeyPatch) -> None:
    class Provider(LlamaCppProvider):
        name = "wrong"

        def _device(self, index: int, one: Any, version: str, absent: str) -> Device:
            found = super()._device(index, one, version, absent)
            return Device("wrong", index, found.description, found.memory, rank=found.rank)

    def new_session(self: LlamaModel) -> Session:
        session = Wrong(self._library, self._opened(), self.vocabulary, self.context, self._threads)
        self._sessions.add(session)
        return session

    monkeypatch.setattr(Wrong, "fault", fault)
    monkeypatch.setattr(LlamaModel, "new_session", new_session)
    failed = {result.kind for result in run(Provider(), ["text"]) if result.outcome == "failed"}
    assert kinds <= failed
    assert bool(failed) == bool(fault)
