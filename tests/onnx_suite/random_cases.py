"""Cases of random operators: no two implementations draw the same values, so their type, shape, seed and distribution are checked.

Every check gives what stands against the case, or "".
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx_cases import Case

import turnout

__all__ = ["MANY", "RANDOM", "fair", "reseeded"]

MANY = 100_000


def reseeded(model: Any, feed: dict[str, Any], *, seeded: bool, device: str | None = None) -> tuple[dict[str, Any], str]:
    """(outputs, what is wrong with the seed): two loads draw the same with a seed; two runs of one load differ without."""
    loaded = turnout.load(model, device=device)
    first = loaded.run(feed)
    second = turnout.load(model, device=device).run(feed) if seeded else loaded.run(feed)
    same = all(np.array_equal(first[name], second[name]) for name in first)
    return first, "" if same == seeded else f"the second time it drew {'the same' if same else 'other'} values, seed given: {seeded}"


def fair(drawn: Any, probability: Any, what: str) -> str:
    """Whether as many as the probabilities ask for came true, within five standard deviations, in each quarter of the sample."""
    quarters = zip(np.array_split(drawn.astype(float), 4), np.array_split(np.broadcast_to(probability, drawn.shape), 4), strict=True)
    for have, want in quarters:
        off = abs(have.sum() - want.sum()) / np.sqrt((want * (1 - want)).sum())
        if off > 5:
            return f"{what}: {have.mean():.4f} instead of {want.mean():.4f}, {off:.0f} standard deviations off"
    return ""


def _like_the_case(case: Case, model: bytes | Path) -> str:
    loaded = turnout.load(model)
    for given, wanted in case.data():
        got = loaded.run(dict(zip((info.name for info in loaded.inputs), given, strict=True))).values()
        for have, want in zip(got, wanted, strict=True):
            if (have.dtype, have.shape) != (want.dtype, want.shape):
                return f"{have.dtype}{have.shape} instead of {want.dtype}{want.shape}"
    return ""


def _with_many(case: Case) -> tuple[onnx.ModelProto, bool]:
    """The case's model with room for MANY values, and whether it has a seed."""
    model = onnx.load_from_string(case.content)
    for info in (model.graph.input[0], *model.graph.output):
        info.type.tensor_type.shape.CopyFrom(onnx.TensorShapeProto(dim=[onnx.TensorShapeProto.Dimension(dim_value=MANY)]))
    del model.graph.value_info[:]
    return model, any(attribute.name == "seed" for node in model.graph.node for attribute in node.attribute)


def _bernoulli(case: Case, model: bytes | Path) -> str:
    """ONNX's function body for Bernoulli gives 1 where a uniform number is *greater* than p: with the probability 1 - p."""
    many, seeded = _with_many(case)
    kind = onnx.helper.tensor_dtype_to_np_dtype(many.graph.input[0].type.tensor_type.elem_type)
    chances = np.linspace(0, 1, MANY).astype(kind)
    outputs, problem = reseeded(many, {"x": chances}, seeded=seeded)
    drawn = outputs["y"]
    if not set(np.unique(drawn.astype(float))) <= {0.0, 1.0}:
        return f"something else than 0 and 1 came out: {np.unique(drawn)[:5]}"
    expected = 1 - chances if "_expanded" in case.name else chances
    return _like_the_case(case, model) or problem or fair(drawn, expected, "ones")


def _dropout(case: Case, model: bytes | Path) -> str:
    many, seeded = _with_many(case)
    given = next(case.data())[0]
    names = [info.name for info in many.graph.input]
    feed = dict(zip(names, given, strict=True)) | {"x": np.random.default_rng(1).normal(size=MANY).astype(np.float32)}
    ratio = float(feed["r"]) if "r" in names else 0.5
    outputs, problem = reseeded(many, feed, seeded=seeded)
    values = outputs["y"]
    kept = outputs.get("z", values != 0)
    if not np.array_equal(kept, values != 0) or not np.allclose(values[kept], feed["x"][kept] / (1 - ratio), rtol=1e-6):
        return "what is kept is not scaled by 1 / (1 - ratio), or the mask says something else than the values"
    return _like_the_case(case, model) or problem or fair(kept, 1 - ratio, "kept")


RANDOM: dict[str, Callable[[Case, bytes | Path], str]] = {
    "test_bernoulli": _bernoulli,
    "test_bernoulli_double": _bernoulli,
    "test_bernoulli_double_expanded": _bernoulli,
    "test_bernoulli_expanded": _bernoulli,
    "test_bernoulli_seed": _bernoulli,
    "test_bernoulli_seed_expanded": _bernoulli,
    "test_training_dropout": _dropout,
    "test_training_dropout_default": _dropout,
    "test_training_dropout_default_mask": _dropout,
    "test_training_dropout_mask": _dropout,
}
