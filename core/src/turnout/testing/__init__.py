"""The conformance kit: for whoever writes a provider. Nothing in here is imported by the rest of turnout, and pytest only by `suite`.

from turnout.testing import ProviderSuite


class TestMine(ProviderSuite):
    provider = "mine"

run("mine")                 the same without pytest: an iterator of Result
summary(run("mine"))        in numbers
turnout suite mine          on the command line
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from turnout.testing.levels import run as run
    from turnout.testing.result import LEVELS as LEVELS
    from turnout.testing.result import Result as Result
    from turnout.testing.result import Summary as Summary
    from turnout.testing.result import summary as summary
    from turnout.testing.suite import ProviderSuite as ProviderSuite

_HOMES = {
    "LEVELS": "result",
    "ProviderSuite": "suite",
    "Result": "result",
    "Summary": "result",
    "run": "levels",
    "summary": "result",
}

__all__ = sorted(_HOMES)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'turnout.testing' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"turnout.testing.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return list(__all__)
