"""Running the levels: generators of results, for whoever shows them (pytest, `turnout suite`, `turnout doctor --verify`)."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from turnout import probe
from turnout.errors import TurnoutError, Unavailable
from turnout.provider import Provider
from turnout.testing import finding
from turnout.testing.result import LEVELS, Result, strictly

__all__ = ["Kit", "levels_of", "run"]

if TYPE_CHECKING:
    from turnout.testing.subject import Subject

Progress = Callable[[str], None]


def run(
    provider: str | Provider,
    levels: Sequence[str] | None = None,
    require: bool = False,
    progress: Progress | None = None,
    only: Sequence[str] | None = None,
    share: tuple[int, int] = (0, 1),
) -> Iterator[Result]:
    """Runs the kit on a provider, best device first, and yields what it finds as it finds it.

    provider: the name of an installed one ("cpu"), one of its devices ("cuda:1"), or a Provider. levels: names out of `LEVELS`, None for
    all. require: what is skipped counts as failed. progress: told what is looked at next. only: names of operators, to look at no others.
    share: (2, 5) is the third of five shares of the operators' cases, for a process that is one of five.
    Raises NoSuchDevice where no such provider is installed, and ValueError for a level that there is not.
    """
    for result in Kit(provider, only, share).run(levels, progress):
        yield strictly(result) if require else result


def levels_of(names: Sequence[str] | None) -> tuple[str, ...]:
    """The levels of these names, in their order; all where there are none. Raises ValueError."""
    for name in names or ():
        if name not in LEVELS:
            raise ValueError(f"there is no level {name!r}; the levels are {', '.join(LEVELS)}")
    return tuple(level for level in LEVELS if not names or level in names)


class Kit:
    """The kit for one provider. Levels may be run one by one: what one has found out, the next need not find out again."""

    def __init__(self, provider: str | Provider, only: Sequence[str] | None = None, share: tuple[int, int] = (0, 1)) -> None:
        name, _, index = provider.partition(":") if isinstance(provider, str) else (provider.name, "", "")
        self.provider = finding.find(name) if isinstance(provider, str) else provider
        self._index = int(index or 0)
        self._only = only
        self._share = share
        self._subject: Subject | None = None

    def run(self, levels: Sequence[str] | None = None, progress: Progress | None = None) -> Iterator[Result]:
        """Runs levels, all where none are named. Raises ValueError."""
        for level in levels_of(levels):
            (progress or _silent)(level)
            start = time.perf_counter()
            try:
                yield from self._level(level, progress)
            except TurnoutError as error:
                detail = f"the level could not be finished: {error.message}"
                yield Result(level, "level/any", "failed", detail, time.perf_counter() - start)

    def _level(self, level: str, progress: Progress | None) -> Iterator[Result]:
        if level == "imports":
            from turnout.testing.imports import imports

            yield from imports(self.provider)
        elif level == "probe":
            from turnout.testing.probing import probing

            yield from probing(self.provider)
        else:
            why = self._find_device()
            if self._subject is None:
                yield Result(level, "device/any", "skipped", why)
            else:
                yield from _on_device(level, self._subject, progress, self._only)

    def _find_device(self) -> str:
        """Makes the subject; says why there is no device where there is none."""
        found = probe.probe(self.provider)
        if found.error is not None:
            kind = "it has no device here" if isinstance(found.error, Unavailable) else "its probe is broken"
            return f"{kind}: {found.error.message}"
        device = next((one for one in found.devices if one.index == self._index), None)
        if device is None:
            return f"it has no device {self.provider.name}:{self._index} here"
        if self._subject is None:
            from turnout.testing.subject import Subject

            self._subject = Subject(self.provider, device, self._share)
        return ""


def _silent(text: str) -> None:
    pass


def _on_device(level: str, subject: Subject, progress: Progress | None, only: Sequence[str] | None) -> Iterator[Result]:
    from turnout.testing.faults import faults
    from turnout.testing.honesty import honesty
    from turnout.testing.lifetime import lifetime
    from turnout.testing.operators import operators
    from turnout.testing.text import text
    from turnout.testing.together import together

    if level == "operators":
        return operators(subject, only, progress)
    if level == "honesty":
        return honesty(subject, only, progress)
    return {"together": together, "lifetime": lifetime, "faults": faults, "text": text}[level](subject)
