"""SmolLM2 out of its GGUF: what it says, and how near to exact arithmetic."""

from __future__ import annotations

import itertools
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from forward import Oracle
from numpy.typing import NDArray
from running import logits_of

import turnout
from turnout.model import Model
from turnout_gguf.reader import Metadata, read

PARAGRAPH = (
    "The railway turnout is a mechanical installation that lets trains move from one track to another. It has a pair of rails "
    "that taper to a point, and a lever or a motor moves them. In the early days of the railway, a man stood beside each turnout "
    "and set it by hand when a train came near. Today a computer in a signal box sets hundreds of them, and watches that no two "
    "trains are sent to the same place at the same time. When a turnout is frozen in winter, it cannot move, and the trains have to "
    "wait until it has been heated. A railway is only as good as its turnouts, say the people who have to keep them in repair."
)


class Words:
    """Byte-level byte-pair encoding for plain English, from the file's metadata: enough for these tests."""

    def __init__(self, metadata: Metadata) -> None:
        self.tokens = list(metadata["tokenizer.ggml.tokens"])
        self.ids = {token: position for position, token in enumerate(self.tokens)}
        self.ranks = {tuple(pair.split(" ")): rank for rank, pair in enumerate(metadata["tokenizer.ggml.merges"])}

    def encode(self, text: str) -> list[int]:
        words = re.findall(r" ?[A-Za-z]+| ?[^A-Za-z ]", text)
        return [self.ids[piece] for word in words for piece in self._merged(list(word.replace(" ", "Ġ")))]

    def _merged(self, pieces: list[str]) -> list[str]:
        while len(pieces) > 1:
            pairs = list(itertools.pairwise(pieces))
            best = min(range(len(pairs)), key=lambda at: self.ranks.get(pairs[at], 1 << 30))
            if pairs[best] not in self.ranks:
                break
            pieces[best : best + 2] = ["".join(pairs[best])]
        return pieces

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(self.tokens[one] for one in ids).replace("Ġ", " ")


@pytest.fixture(scope="module")
def words(smollm2: Path) -> Words:
    return Words(read(smollm2).metadata)


@pytest.fixture(scope="module")
def ids(words: Words) -> list[int]:
    return words.encode(PARAGRAPH)


@pytest.fixture(scope="module")
def wanted(smollm2: Path, ids: list[int]) -> NDArray[Any]:
    return Oracle(read(smollm2), np.float32).logits(ids)


@pytest.fixture(scope="module")
def exact(smollm2: Path) -> Model:
    return turnout.load(smollm2, device="cpu", accuracy="exact")


@pytest.fixture(scope="module")
def fast(smollm2: Path) -> Model:
    return turnout.load(smollm2, device="cpu")


def perplexity(logits: NDArray[Any], ids: Sequence[int]) -> float:
    """exp of the mean surprise at each token after the first."""
    logits = logits[:-1].astype(np.float64)
    surprise = np.log(np.exp(logits - logits.max(-1, keepdims=True)).sum(-1)) + logits.max(-1) - logits[np.arange(len(ids) - 1), ids[1:]]
    return float(np.exp(surprise.mean()))


def test_metadata_with_vocabulary_come_quickly(smollm2: Path) -> None:
    seconds = []
    for _ in range(3):
        start = time.process_time()  # what else the machine does is not counted
        tokens = list(read(smollm2).metadata["tokenizer.ggml.tokens"])
        seconds.append(time.process_time() - start)
        assert len(tokens) == 49152
    assert min(seconds) < 0.2  # 0.035 s on an idle machine


def test_the_tests_own_words_come_back(words: Words, ids: list[int]) -> None:
    assert words.decode(ids) == PARAGRAPH
    assert len(ids) < 0.3 * len(PARAGRAPH)


def test_exact_arithmetic_agrees_with_the_oracle(exact: Model, ids: list[int], wanted: NDArray[Any]) -> None:
    logits = logits_of(exact, ids)
    assert (logits.argmax(-1) == wanted.argmax(-1)).mean() == 1.0
    assert np.abs(logits - wanted).max() < 1e-3  # of logits up to 30
    assert abs(perplexity(logits, ids) - perplexity(wanted, ids)) < 0.001


def test_the_paragraph_is_no_surprise(wanted: NDArray[Any], ids: list[int]) -> None:
    assert 5 < perplexity(wanted, ids) < 40


def test_rounded_activations_cost_two_percent_of_perplexity_at_most(fast: Model, ids: list[int], wanted: NDArray[Any]) -> None:
    logits = logits_of(fast, ids)
    assert abs(perplexity(logits, ids) / perplexity(wanted, ids) - 1) < 0.02
    first, second = np.sort(wanted, -1)[:, :-3:-1].T
    clear = first - second > 0.5  # a smaller margin is within what rounding moves
    assert clear.mean() > 0.5
    assert (logits.argmax(-1) == wanted.argmax(-1))[clear].all()


@pytest.mark.parametrize("which", ["exact", "fast"])
def test_the_capital_of_france(which: str, words: Words, request: pytest.FixtureRequest) -> None:
    logits = logits_of(request.getfixturevalue(which), words.encode("The capital of France is"))
    assert words.decode([int(logits[-1].argmax())]) == " Paris"
