"""What tests of GGUF share: the real model, which is among those of tests/models; a small one; and a cache folder of the test's own."""

from __future__ import annotations

import sys
from pathlib import Path

import gguf_decoders
import pytest

sys.path.append(str(Path(__file__).parents[1] / "models"))


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """SmolLM2-135M-Instruct: 210 matrices in Q4_1, the table of tokens in Q8_0 and used twice, 61 vectors in F32."""
    import packages

    return packages.model_path("smollm2")


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """turnout's cache folder, empty and only this test's."""
    monkeypatch.setenv("TURNOUT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A small decoder in Q4_1."""
    path = tmp_path / "small.gguf"
    path.write_bytes(gguf_decoders.decoder(kind="Q4_1"))
    return path
