"""Level 2: probing says the same every time, quickly the second time, and gives reasons where there is no device."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

from turnout.device import Device
from turnout.errors import Unavailable
from turnout.provider import Provider
from turnout.testing.result import Result

__all__ = ["probing"]

SECONDS = 0.05
"""What a second probe may take: `turnout doctor` and every test of a plugin call it again."""


def probing(provider: Provider) -> Iterator[Result]:
    """The level. Where there is no device, only the reason for it is looked at."""
    start = time.perf_counter()

    def result(kind: str, problem: str) -> Result:
        return Result("probe", f"{kind}/{provider.name}", "failed" if problem else "passed", problem, time.perf_counter() - start)

    first, second = _probed(provider), _probed(provider)
    if isinstance(first, Unavailable):
        yield result("reason", _reason(first))
        yield result("twice", "" if isinstance(second, Unavailable) else "it found no device, and then some")
        yield Result("probe", f"devices/{provider.name}", "skipped", f"it has no device here: {first.message}")
        return
    if isinstance(first, Exception):
        yield result("reason", f"probe raised {type(first).__name__} where Unavailable is due: {first}")
        return
    yield result("devices", _devices(provider, first))
    yield result("twice", "" if _told(first) == _told(second) else f"it gave {_told(first)}, and then {_told(second)}")
    seconds = min(_timed(provider) for _ in range(3))
    slow = f"a second probe takes {seconds * 1000:.0f} ms, where {SECONDS * 1000:.0f} ms are allowed: keep what the first one found"
    yield result("quick", slow if seconds > SECONDS else "")


def _probed(provider: Provider) -> Any:
    try:
        return list(provider.probe())
    except Exception as error:
        return error


def _timed(provider: Provider) -> float:
    start = time.perf_counter()
    _probed(provider)
    return time.perf_counter() - start


def _told(devices: Any) -> Any:
    """All that identifies a device; free memory and the like may differ from moment to moment."""
    if not isinstance(devices, Sequence):
        return repr(devices)
    return [(str(one), getattr(one, "description", None), getattr(one, "memory", None)) for one in devices]


def _reason(error: Unavailable) -> str:
    return "" if len(error.message.split()) >= 4 else f"its reason for having no device is {error.message!r}: users want a sentence"


def _devices(provider: Provider, devices: Sequence[Any]) -> str:
    if not devices:
        return "it gave no device and no reason: raise Unavailable with one"
    for place, one in enumerate(devices):
        if not isinstance(one, Device):
            return f"it gave {one!r}, which is no turnout.Device"
        if (one.provider, one.index) != (provider.name, place):
            return f"it gave device {one.name} where {provider.name}:{place} was due"
        if not one.description:
            return f"device {one.name} has no description, which is what people know it by"
    return ""
