"""Choosing tokens: against a plain implementation of the same definitions, and how often each comes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from turnout.errors import InvalidInput
from turnout_text.options import Generation, Sampling, checked
from turnout_text.sampling import Sampler, log_softmax


def plainly(logits: list[float], options: Sampling, seen: list[int]) -> dict[int, float]:
    """Token to probability, by the definitions, one token at a time."""
    changed = list(logits)
    for token in set(seen):
        changed[token] = changed[token] / options.repetition_penalty if changed[token] > 0 else changed[token] * options.repetition_penalty
    if options.temperature == 0:
        return {int(np.argmax(np.array(changed, np.float32))): 1.0}
    weights = {token: np.exp((value - max(changed)) / options.temperature) for token, value in enumerate(changed)}
    ranked = sorted(weights, key=lambda token: (-weights[token], token))
    ranked = ranked[: options.top_k or None]
    if options.top_p < 1:
        total, kept, reached = sum(weights[token] for token in ranked), [], 0.0
        for token in ranked:
            kept.append(token)
            reached += weights[token]
            if reached >= options.top_p * total:
                break
        ranked = kept
    ranked = [token for token in ranked if weights[token] >= options.min_p * weights[ranked[0]]]
    total = sum(weights[token] for token in ranked)
    return {token: float(weights[token] / total) for token in ranked}


numbers = st.lists(st.integers(-40, 40).map(lambda n: n / 4), min_size=1, max_size=12)


@given(
    logits=numbers,
    temperature=st.sampled_from([0, 0.5, 1.0, 2.0]),
    top_k=st.integers(0, 14),
    top_p=st.sampled_from([0.3, 0.77, 1.0]),
    min_p=st.sampled_from([0.0, 0.13]),
    penalty=st.sampled_from([1.0, 1.7, 0.5]),
    data=st.data(),
)
def test_the_same_tokens_may_be_drawn(
    logits: list[float], temperature: float, top_k: int, top_p: float, min_p: float, penalty: float, data: Any
) -> None:
    seen = data.draw(st.lists(st.integers(0, len(logits) - 1), max_size=4))
    options = Sampling(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p, repetition_penalty=penalty, seed=1)
    wanted = plainly(logits, options, seen)
    sampler = Sampler(options, seen)
    given_logits = np.array(logits, np.float32)
    drawn = {Sampler(options.model_copy(update={"seed": seed}), seen).choose(given_logits) for seed in range(20)}
    assert drawn <= set(wanted)
    assert given_logits.tolist() == logits
    if penalty == 1.0 and temperature and top_k != 1:
        tokens, weights = sampler._candidates(given_logits)
        found = dict(zip(tokens.tolist(), (weights / weights.sum()).tolist(), strict=True))
        assert found == pytest.approx(wanted)


def test_of_equals_the_lowest_tokens_stay() -> None:
    sampler = Sampler(Sampling(temperature=0.5, top_k=2, seed=1), [])
    tokens, _ = sampler._candidates(np.array([0.0, 0.0, 0.25, 0.25, 0.5], np.float32))
    assert tokens.tolist() == [4, 2]


def test_tokens_come_as_often_as_they_should() -> None:
    logits = np.log(np.array([0.5, 0.3, 0.15, 0.05], np.float32))
    sampler = Sampler(Sampling(temperature=1.0, seed=7), [])
    counts = np.bincount([sampler.choose(logits) for _ in range(4000)], minlength=4) / 4000
    assert counts == pytest.approx([0.5, 0.3, 0.15, 0.05], abs=0.03)


def test_a_seed_draws_the_same_again() -> None:
    logits = np.random.default_rng(0).standard_normal((50, 1000)).astype(np.float32)
    one, two, other = (Sampler(Sampling(temperature=1.0, seed=seed), []) for seed in (3, 3, 4))
    first = [one.choose(row) for row in logits]
    assert first == [two.choose(row) for row in logits]
    assert first != [other.choose(row) for row in logits]


def test_a_large_vocabulary_is_cut_as_a_small_one() -> None:
    logits = np.random.default_rng(0).standard_normal(60000).astype(np.float32) * 0.1  # flat: top_p needs nearly all of them
    tokens, _ = Sampler(Sampling(temperature=1.0, top_p=0.9), [])._candidates(logits)
    order = np.argsort(-logits, kind="stable")
    probability = np.exp(log_softmax(logits))[order].cumsum()
    assert abs(len(tokens) - (np.searchsorted(probability, 0.9) + 1)) <= 1
    assert set(order[: len(tokens) - 1].tolist()) <= set(tokens.tolist())


@pytest.mark.parametrize(
    ("given_options", "said"),
    [
        ({"top_k": -1}, "top_k"),
        ({"temperature": "hot"}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"stop": [""]}, "stop"),
        ({"beams": 4}, "there is no option 'beams'"),
        ({"repetition_penalty": 1e300}, "repetition_penalty"),
        ({"repetition_penalty": 1e-300}, "repetition_penalty"),
        ({"seed": 1.5}, "seed"),
    ],
)
def test_options_out_of_range(given_options: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidInput, match=said) as wrong:
        checked(Generation, given_options, "generate")
    assert "max_tokens" in wrong.value.hint
