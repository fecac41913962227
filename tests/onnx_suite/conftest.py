"""The count of ONNX's cases that pass, as the very last line: `onnx backend suite: P of N passed`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from _pytest.terminal import TerminalReporter

Record = Callable[[str, str], None]

_SLOW = ("test_onnx_cases.py", "test_onnx_runner.py")
RESULTS: dict[str, list[str]] = {}
"""Case to what stands against it, for each way in which it was loaded; "" where nothing does."""
REPORTER = pytest.StashKey[TerminalReporter]()


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """ONNX takes eight seconds to make its cases; nobody pays for them who did not ask for them."""
    chosen = config.option.markexpr
    wanted = not chosen or ("onnx_suite" in chosen and "not onnx_suite" not in chosen)
    return True if collection_path.name in _SLOW and not wanted else None


@pytest.fixture(scope="session")
def record() -> Record:
    def record(case: str, problem: str) -> None:
        RESULTS.setdefault(case, []).append(problem)

    return record


def pytest_sessionfinish(session: pytest.Session) -> None:
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["onnx_suite"] = RESULTS
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if isinstance(reporter, TerminalReporter):
        session.config.stash[REPORTER] = reporter


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """What a process of pytest-xdist found."""
    for case, problems in getattr(node, "workeroutput", {}).get("onnx_suite", {}).items():
        RESULTS.setdefault(case, []).extend(problems)


@pytest.hookimpl(trylast=True)
def pytest_unconfigure(config: pytest.Config) -> None:
    reporter = config.stash.get(REPORTER, None)
    if not RESULTS or reporter is None:
        return
    missed = {case: next(filter(None, problems)) for case, problems in sorted(RESULTS.items()) if any(problems)}
    for case, problem in missed.items():
        reporter.write_line(f"missing: {case}: {problem}")
    reporter.write_line(f"onnx backend suite: {len(RESULTS) - len(missed)} of {len(RESULTS)} passed")
