"""Texts to vectors: what `model.embed` calls, for graphs with `input_ids` and `attention_mask` in and `embeddings` out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from turnout.errors import InvalidInput

if TYPE_CHECKING:
    from turnout.model import Model
    from turnout_text.language import Language

__all__ = ["embed", "embeds"]

_AT_ONCE = 4096  # tokens that are computed together, padding included


def embeds(model: Model) -> bool:
    """Whether the model makes a vector of each text."""
    return {info.name for info in model.inputs} == {"input_ids", "attention_mask"} and any(
        info.name == "embeddings" for info in model.outputs
    )


def embed(model: Model, language: Language, texts: Sequence[str], context: int, *, normalize: bool) -> NDArray[np.float32]:
    """A vector of each text, float32 [texts, width]. context: tokens of a text at most. Raises InvalidInput, RunError."""
    if isinstance(texts, str) or not isinstance(texts, Sequence):
        raise InvalidInput("the texts are no list", hint='embed(["one text", "another"])')
    tokens = [language.encode(text, ends=True, special=False) for text in texts]
    for position, one in enumerate(tokens):
        if not 0 < len(one) <= context:
            raise InvalidInput(f"text {position} is {len(one)} tokens, and {model.name} takes 1 to {context}", hint="cut it into parts")
    found: list[Any] = [None] * len(tokens)
    for places in _batches([len(one) for one in tokens]):
        for place, vector in zip(places, _run(model, [tokens[place] for place in places]), strict=True):
            found[place] = vector
    width = next(info.shape[-1] for info in model.outputs if info.name == "embeddings" and info.shape)
    vectors = np.array(found, np.float32).reshape(len(found), width if isinstance(width, int) else -1)
    if normalize:
        vectors /= np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), np.finfo(np.float32).tiny)
    return vectors


def _batches(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Places of texts that are computed together: of about the same length, since the shorter are padded."""
    batch: list[int] = []
    for place in sorted(range(len(lengths)), key=lambda place: lengths[place], reverse=True):
        if batch and (len(batch) + 1) * lengths[batch[0]] > _AT_ONCE:
            yield batch
            batch = []
        batch.append(place)
    if batch:
        yield batch


def _run(model: Model, rows: Sequence[Sequence[int]]) -> NDArray[np.float32]:
    longest = max(map(len, rows))
    ids = np.array([[*row, *[0] * (longest - len(row))] for row in rows], np.int64)
    mask = np.array([[1] * len(row) + [0] * (longest - len(row)) for row in rows], np.int64)
    vectors: NDArray[np.float32] = model.run(input_ids=ids, attention_mask=mask)["embeddings"]
    return vectors
