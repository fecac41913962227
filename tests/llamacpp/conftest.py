"""Where the tests find the makers of small GGUF files and the real model."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
sys.path += [str(HERE.parent / "gguf"), str(HERE.parent / "models")]


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small random llama in F32 with room for 2048 tokens."""
    from whole_files import write

    return write(tmp_path_factory.mktemp("gguf") / "small.gguf")


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """SmolLM2-135M-Instruct in Q4_1."""
    import packages

    return packages.model_path("smollm2")
