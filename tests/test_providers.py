"""The conformance kit on each provider of this repository: each class is the whole of what a plugin's own test file is."""

import pytest

from turnout.testing import ProviderSuite


class TestToy(ProviderSuite):
    provider = "toy"


@pytest.mark.slow
class TestCpu(ProviderSuite):
    provider = "cpu"


@pytest.mark.slow
class TestReference(ProviderSuite):
    provider = "reference"


@pytest.mark.slow
class TestLlamaCpp(ProviderSuite):
    provider = "llamacpp"
