from __future__ import annotations

from pathlib import Path

import pytest
from made_plugins import Site


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TURNOUT_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)
