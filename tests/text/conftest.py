"""What the tests of text share: real vocabularies and models, and small decoders whose answers are known."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "models"))


@pytest.fixture(scope="session")
def vocabularies() -> Path:
    """llama.cpp's vocabularies, with 47 or so texts for each and what they are in tokens, and its collection of chat templates."""
    import packages

    return packages.source_folder("llama-cpp-python==0.3.36", "vendor/llama.cpp/models")


@pytest.fixture(scope="session")
def smollm2() -> Path:
    import packages

    return packages.model_path("smollm2")
