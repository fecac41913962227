"""ONNX's own node cases, and the values of which of them mean nothing."""

from __future__ import annotations

import contextlib
import functools
import io
import warnings

import numpy as np

from turnout.testing.case import Case, host_array

__all__ = ["RANDOM", "onnx_cases"]

RANDOM = {
    "Bernoulli": "it draws at random, and no definition says from which generator",
    "Multinomial": "it draws at random, and no definition says from which generator",
    "RandomNormal": "it draws at random, and no definition says from which generator",
    "RandomNormalLike": "it draws at random, and no definition says from which generator",
    "RandomUniform": "it draws at random, and no definition says from which generator",
    "RandomUniformLike": "it draws at random, and no definition says from which generator",
}
"""Operators whose outputs are looked at for type and shape only, and why."""

_RANDOM_CASES = {
    "test_training_dropout": "dropout in training draws at random",
}
"""Beginnings of the names of cases whose outputs are looked at for type and shape only, and why."""


@functools.cache
def onnx_cases() -> tuple[Case, ...]:
    """Every node case of the installed onnx, as `onnx/<its name>`. Takes some seconds, once a process."""
    with warnings.catch_warnings(), np.errstate(all="ignore"), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        from onnx.backend.test.case.node import collect_testcases

        found = collect_testcases(None)
    return tuple(_case(one) for one in found if one.data_sets)


def _case(given: object) -> Case:
    name, proto, data_sets = (getattr(given, field) for field in ("name", "model", "data_sets"))
    bounds = {field: getattr(given, field) for field in ("rtol", "atol")}
    runs = [[host_array(value) for value in inputs] for inputs, _ in data_sets]
    wanted = [[host_array(value) for value in outputs] for _, outputs in data_sets]
    return Case(f"onnx/{name}", proto, runs, wanted, type_only=_type_only(name, proto), **bounds)


def _type_only(name: str, proto: object) -> str:
    for beginning, reason in _RANDOM_CASES.items():
        if name.startswith(beginning):
            return reason
    nodes = proto.graph.node  # type: ignore[attr-defined]
    return next((RANDOM[node.op_type] for node in nodes if node.op_type in RANDOM), "")
