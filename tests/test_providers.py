"""The conformance kit on each provider of this repository.

The toy's is the whole of what a plugin's own test file is. The libraries below the other two have faults of their own, which the kit
found; each is listed here, so that a new one fails, and so does a line for one that was mended.
"""

import re
from typing import ClassVar

import pytest

from turnout.testing import ProviderSuite


class TestToy(ProviderSuite):
    provider = "toy"


class KnownFaults(ProviderSuite):
    known: ClassVar[set[str]] = set()
    """Level and operator of what fails."""

    def level(self, name: str, request: pytest.FixtureRequest) -> None:
        failed = [result for result in self._kit_for(request.config).run([name]) if result.outcome == "failed"]
        found = {f"{name} {_operator(result.case)}": f"{result.case}: {result.detail}" for result in failed}
        new = {key: what for key, what in found.items() if key not in self.known}
        assert not new
        assert {key for key in self.known if key.startswith(f"{name} ")} == set(found), "what was mended goes from the list"


def _operator(case: str) -> str:
    found = re.search(r"([A-Za-z0-9]+)-\d+( |$)", case)
    return found[1] if found else case


@pytest.mark.slow
class TestCpu(KnownFaults):
    """ONNX Runtime 1.32. What does not compile or run is planned elsewhere, or an error; LogSoftmax of float64 loses a NaN."""

    provider = "cpu"
    known: ClassVar = {
        "honesty Cast",
        "honesty ConstantOfShape",
        "honesty MatMul",
        "honesty MeanVarianceNormalization",
        "operators LogSoftmax",
    }


@pytest.mark.slow
class TestReference(KnownFaults):
    """ONNX's evaluator, onnx 1.23."""

    provider = "reference"
    known: ClassVar = {
        "honesty Add",
        "honesty Cast",
        "honesty ConvTranspose",
        "honesty Flatten",
        "honesty MaxPool",
        "honesty Mean",
        "honesty MeanVarianceNormalization",
        "honesty Mul",
        "honesty OneHot",
        "honesty Pad",
        "honesty Resize",
        "honesty Softsign",
        "operators BatchNormalization",
        "operators Hardmax",
        "operators LRN",
        "operators LogSoftmax",
        "operators MaxPool",
        "operators PRelu",
        "operators ReduceSumSquare",
        "operators Softmax",
    }
