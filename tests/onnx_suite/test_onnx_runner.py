"""ONNX's own runner, over `turnout.backend`, for a sample of its cases."""

from __future__ import annotations

import unittest
import warnings

import pytest

import turnout.backend

pytestmark = [pytest.mark.onnx_suite, pytest.mark.filterwarnings("ignore")]

SAMPLE = r"^test_(add|argmax_.*|cast_FLOAT_to_BFLOAT16|gru_.*|if_seq|loop13_seq|optional_.*|nonmaxsuppression_.*|string_.*)_cpu$"
FOLDERS = r"^test_(Conv2d.*|strnorm_.*|sequence_model\d|operator_(lstm|concat2|pow))_cpu$"


def test_onnx_runs_its_sample_on_turnout() -> None:
    from onnx.backend.test import BackendTest

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # ONNX computes its cases' values as it collects them
        tests = BackendTest(turnout.backend, __name__).include(SAMPLE).include(FOLDERS)
    result = unittest.TestResult()
    tests.test_suite.run(result)
    assert result.testsRun - len(result.skipped) > 70
    assert not result.failures
    assert not result.errors
