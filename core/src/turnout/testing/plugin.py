"""The pytest plugin: two options, a word at the end, and nothing that costs time for those who test something else."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from turnout.testing.result import Result

__all__ = ["RESULTS"]

RESULTS: pytest.StashKey[dict[str, list[Result]]] = pytest.StashKey()
"""Provider to the results of the session."""


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("turnout", "turnout's conformance kit for execution providers")
    group.addoption("--turnout-provider", metavar="NAME", help="the provider that `--pyargs turnout.testing.suite` tests")
    group.addoption("--turnout-require", action="store_true", help="what the kit could not check counts as failed, not as skipped")
    group.addoption("--turnout-report", metavar="FILE", help="write the table of operators and providers to this Markdown file")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not any(_nameless(item) for item in items):
        return
    name = config.getoption("--turnout-provider")
    if not name:
        raise pytest.UsageError("turnout.testing.suite tests a provider: add --turnout-provider NAME (`turnout plugins` lists them)")
    from turnout.errors import NoSuchDevice
    from turnout.testing.finding import find

    try:
        find(name)
    except NoSuchDevice as error:
        raise pytest.UsageError(str(error)) from None


def _nameless(item: Any) -> bool:
    kind = getattr(item, "cls", None)
    return kind is not None and kind.__module__ == "turnout.testing.suite" and kind.__name__ == "TestProvider"


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """What a process of pytest-xdist found."""
    from turnout.testing.result import Result

    all_found = node.config.stash.setdefault(RESULTS, {})
    for name, lines in getattr(node, "workeroutput", {}).get("turnout", {}).items():
        all_found.setdefault(name, []).extend(map(Result.of_json, lines))


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    found = config.stash.get(RESULTS, None)
    if not found:
        return
    from turnout.testing.result import summary

    terminalreporter.section("turnout")
    for name, results in found.items():
        terminalreporter.line(summary(results).line(name))


def pytest_sessionfinish(session: pytest.Session) -> None:
    worker = getattr(session.config, "workeroutput", None)
    if worker is not None:  # a process of pytest-xdist: what it found goes to the one that reports
        found = session.config.stash.get(RESULTS, {})
        worker["turnout"] = {name: [result.json() for result in results] for name, results in found.items()}
        return
    path = session.config.getoption("--turnout-report")
    if path:
        from turnout.testing.report import write

        write(path)
