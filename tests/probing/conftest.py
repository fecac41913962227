from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from made_plugins import Site


@pytest.fixture(scope="session")
def probed_before(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache that remembers the plugins which really are installed: a child process for each of them in each test adds up."""
    folder = tmp_path_factory.mktemp("probed")
    subprocess.run([sys.executable, "-m", "turnout", "devices"], env={**os.environ, "TURNOUT_CACHE": str(folder)}, check=False)
    return folder


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, probed_before: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(probed_before, tmp_path / "cache")
    monkeypatch.setenv("TURNOUT_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)
