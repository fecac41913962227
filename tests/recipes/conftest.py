"""A small random Phi-3 and llama, each written once."""

from __future__ import annotations

from pathlib import Path

import checkpoints
import pytest


@pytest.fixture(scope="session")
def phi3(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoints.write(tmp_path_factory.mktemp("checkpoints") / "phi3", "phi3", 128, 2)


@pytest.fixture(scope="session")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two heads for each key head, and one table for tokens and logits."""
    return checkpoints.write(tmp_path_factory.mktemp("checkpoints") / "llama", "llama", 128, 1, tie_word_embeddings=True)
