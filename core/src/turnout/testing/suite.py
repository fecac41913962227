"""The kit under pytest: one test per level.

    from turnout.testing import ProviderSuite


    class TestMine(ProviderSuite):
        provider = "mine"

or, without a file of one's own, `pytest --pyargs turnout.testing.suite --turnout-provider mine`. With `--turnout-require`, what could not
be checked counts as failed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

try:
    import pytest
except ImportError as error:  # pragma: no cover - pytest runs the test that would cover it
    raise ImportError("turnout.testing.ProviderSuite needs pytest: pip install 'turnout[testing]'") from error

from turnout.errors import NoSuchDevice
from turnout.provider import Provider
from turnout.testing.levels import Kit
from turnout.testing.result import Result, strictly, summary

__all__ = ["ProviderSuite"]

_SHOWN = 25
"""Failures that are shown in full; `turnout suite` shows all."""


class ProviderSuite:
    """A test class for one provider: subclass it and name the provider, or give an instance. `only`: names of operators to look at."""

    provider: ClassVar[str | Provider] = ""
    only: ClassVar[Sequence[str] | None] = None
    _kit: ClassVar[Kit]

    def test_imports(self, request: pytest.FixtureRequest) -> None:
        self.level("imports", request)

    def test_probe(self, request: pytest.FixtureRequest) -> None:
        self.level("probe", request)

    def test_operators(self, request: pytest.FixtureRequest) -> None:
        self.level("operators", request)

    def test_honesty(self, request: pytest.FixtureRequest) -> None:
        self.level("honesty", request)

    def test_together(self, request: pytest.FixtureRequest) -> None:
        self.level("together", request)

    def test_lifetime(self, request: pytest.FixtureRequest) -> None:
        self.level("lifetime", request)

    def test_faults(self, request: pytest.FixtureRequest) -> None:
        self.level("faults", request)

    def test_text(self, request: pytest.FixtureRequest) -> None:
        self.level("text", request)

    def level(self, name: str, request: pytest.FixtureRequest) -> None:
        """Runs a level: fails with what failed, and skips where nothing at all could be checked."""
        kit = self._kit_for(request.config)
        require = bool(request.config.getoption("--turnout-require", False))
        results = [strictly(result) if require else result for result in kit.run([name])]
        found = summary(results)
        _remember(request.config, kit.provider.name, results)
        if found.failures:
            pytest.fail(_text(found.failures), pytrace=False)
        if found.skipped and not any(result.outcome == "passed" for result in results):
            pytest.skip(found.skipped[0].detail)

    @classmethod
    def _kit_for(cls, config: pytest.Config) -> Kit:
        """The class's kit, which its tests share; a provider that is not installed is a failure, never a skip."""
        if "_kit" not in vars(cls):
            try:
                cls._kit = Kit(cls.provider or config.getoption("--turnout-provider"), cls.only)
            except NoSuchDevice as error:
                pytest.fail(str(error), pytrace=False)
        return cls._kit


def _text(failures: list[Result]) -> str:
    lines = [str(failure) for failure in failures[:_SHOWN]]
    if len(failures) > _SHOWN:
        lines.append(f"... and {len(failures) - _SHOWN} more; `turnout suite` shows them all")
    return "\n".join([f"{len(failures)} failed:", *lines])


def _remember(config: Any, name: str, results: list[Result]) -> None:
    """Keeps what the pytest plugin says at the end. Only the outcomes: thousands of details would stay in memory."""
    from turnout.testing.plugin import RESULTS

    config.stash.setdefault(RESULTS, {}).setdefault(name, []).extend(dataclasses.replace(one, detail="") for one in results)


class TestProvider(ProviderSuite):
    """The provider that `--turnout-provider` names."""
