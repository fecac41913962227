"""Where the tests find the real model: among those of tests/models."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "models"))


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """SmolLM2-135M-Instruct: 210 matrices in Q4_1, the table of tokens in Q8_0 and used twice, 61 vectors in F32."""
    import packages

    return packages.model_path("smollm2")
