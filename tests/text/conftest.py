"""What the tests of text share: real vocabularies and models, and small decoders whose answers are known."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

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


@pytest.fixture
def command() -> Iterator[Callable[..., Result]]:
    """Runs the turnout command in this process; the log that it sets up is as before when the test is over."""
    from turnout.cli import cli

    log = logging.getLogger("turnout")
    level, handlers = log.level, list(log.handlers)
    try:
        runner = CliRunner(mix_stderr=False)  # click 8.1; later ones keep the two apart without being asked
    except TypeError:
        runner = CliRunner()
    yield lambda *arguments, stdin="": runner.invoke(cli, list(arguments), input=stdin)
    log.setLevel(level)
    log.handlers[:] = handlers
