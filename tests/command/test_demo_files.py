from __future__ import annotations

import importlib.util
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

import turnout as package
from turnout.demo import FileTypes, files_in
from turnout.errors import InvalidModel, Unavailable

REPOSITORY = Path(__file__).parents[2]

needs_package = pytest.mark.skipif(
    importlib.util.find_spec("magika") is None and not os.environ.get("TURNOUT_REQUIRE_MODELS"),
    reason="the package magika is not installed",
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "files"
    folder.mkdir()
    for path in (*REPOSITORY.glob("*.*"), *REPOSITORY.glob("core/src/turnout/c*.py"), *REPOSITORY.glob("LICENSE*")):
        if path.is_file() and not path.name.startswith("."):
            shutil.copy(path, folder)
    samples = {
        "empty": b"",
        "short": b"hi",
        "spaces": b" " * 100,
        "padded.txt": b"\n" * 50 + b"hello there" + b"\n" * 5000,
        "binary": bytes(range(256)) * 20,
        "tiny.bin": b"\xff\xfe\xfd",
        "page.html": b"<!doctype html><html><body><p>Hello</p></body></html>",
        "table.csv": b"name,age\nann,31\nbob,28\n" * 30,
    }
    for name, content in samples.items():
        (folder / name).write_bytes(content)
    return folder


@needs_package
def test_the_demo_agrees_with_the_package_itself(folder: Path) -> None:
    from magika import Magika

    files = files_in(folder, most=100)
    assert len(files) > 10
    types = FileTypes.installed()
    with package.load(types.path) as model:
        guesses = types.guesses(files, model)
    for path, result in zip(files, Magika().identify_paths(files), strict=True):
        assert (path.name, guesses[path].label) == (path.name, str(result.output.label))
        assert guesses[path].description == result.output.description
        assert (guesses[path].confidence or 1.0) == pytest.approx(result.score, abs=1e-4)


@needs_package
def test_the_demo_shows_devices_files_and_speed(turnout: Callable[..., Result], folder: Path) -> None:
    shown = turnout("demo", folder)
    assert shown.exit_code == 0, shown.output
    assert "it takes them all" in shown.stdout
    assert "page.html" in shown.stdout
    assert "HTML document" in shown.stdout
    assert "ms per file" in shown.stdout


@needs_package
def test_the_demo_as_json(turnout: Callable[..., Result], folder: Path) -> None:
    told = json.loads(turnout("demo", folder, "--json").stdout)
    assert {one["file"]: one["label"] for one in told["files"]}["page.html"] == "html"
    assert told["milliseconds_per_file"] > 0


@needs_package
def test_a_folder_without_files_is_said_kindly(turnout: Callable[..., Result], tmp_path: Path) -> None:
    shown = turnout("demo", tmp_path)
    assert shown.exit_code == 0
    assert "There are no files in" in shown.stdout


def test_without_the_package_the_command_that_brings_it_is_said(turnout: Callable[..., Result], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(Unavailable):
        FileTypes.installed()
    shown = turnout("demo")
    assert shown.exit_code == 3
    assert 'hint: pip install "turnout[demo]"' in shown.stderr


def test_a_package_laid_out_otherwise_is_said(tmp_path: Path) -> None:
    with pytest.raises(InvalidModel, match="not laid out as this demo knows it"):
        FileTypes(tmp_path)


def test_files_are_sorted_few_visible_and_not_folders(tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    for name in ("c", "a", "b", ".hidden"):
        (tmp_path / name).write_text(name)
    assert [path.name for path in files_in(tmp_path, most=2)] == ["a", "b"]
