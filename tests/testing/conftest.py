"""Tests of the kit keep their memory of probes and verdicts to themselves."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TURNOUT_CACHE", str(tmp_path / "cache"))


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """Some broken providers fail a thousand times over, and turnout logs each."""
    log = logging.getLogger("turnout")
    level = log.level
    log.setLevel(logging.CRITICAL)
    yield
    log.setLevel(level)
