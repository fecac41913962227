"""A thousand spoilt files, always the same ones; fuzz_onnx.py tries as many as you like."""

from __future__ import annotations

import re
from collections import Counter

import onnxruntime
import pytest
from corpus import seeds
from fuzz_onnx import fuzz

MEASURED = (1, 32)
"""The ONNX Runtime whose ways to die are known, and refused."""


@pytest.mark.skipif(
    tuple(map(int, re.findall(r"\d+", onnxruntime.__version__)[:2])) < MEASURED,
    reason="what older ones die of, division by zero for one, was not measured",
)
def test_no_spoilt_file_does_more_than_raise_an_error_of_turnouts() -> None:
    report = fuzz(count=1000, seed=0, jobs=2)
    assert len(report.outcomes) == 1000
    assert not report.bugs, report.text()
    kinds = Counter(outcome.kind for outcome in report.outcomes)
    assert kinds["ran"] > 100
    assert kinds["load: InvalidModel"] > 100
    assert {outcome.seed for outcome in report.outcomes} == {seed.name for seed in seeds()}
