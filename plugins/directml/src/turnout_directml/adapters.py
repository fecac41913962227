"""The adapters that DirectML can compute on: what ONNX Runtime says of them, best first, and the lock of each."""

from __future__ import annotations

import re
import threading
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from turnout.device import Device, Link
from turnout.errors import CompileError, Unavailable

__all__ = ["EP", "RESIDENT", "Adapter", "Lock", "adapters", "chosen", "lock_of"]

EP = "DmlExecutionProvider"

RESIDENT = 0
"""The DXGI number of the one adapter in whose memory ONNX Runtime's Python interface can leave values."""

_LINK = Link(latency=20e-6, bandwidth=10e9)  # a guess; only a provider that estimates times has it weighed

_MICROSOFT, _BASIC_RENDER_DRIVER = 0x1414, 0x8C  # Direct3D's own software adapter (WARP), by its PCI numbers
_LAST = 1 << 16  # the place of an adapter that does not tell its own


@dataclass(frozen=True, slots=True)
class Adapter:
    """One adapter.

    number: its place in DXGI's list, where 0 drives the display; ONNX Runtime's `device_id`. memory: bytes of its own, None where unknown.
    speed: its place by performance in DXGI's own ranking. luid: Windows' name for it until the next start.
    """

    number: int
    description: str = ""
    memory: int | None = None
    discrete: bool = False
    speed: int = _LAST
    luid: str = ""
    software: bool = False

    @classmethod
    def of(cls, ep_device: Any) -> Adapter | None:
        """What an OrtEpDevice says of its adapter; None for what is not in DXGI's list (an NPU)."""
        about = dict(ep_device.device.metadata)
        number = dict(ep_device.ep_options).get("device_id", about.get("DxgiAdapterNumber", ""))
        if not str(number).isdigit():
            return None
        size = re.match(r"(\d+) MB", about.get("DxgiVideoMemory", ""))
        kind = (ep_device.device.vendor_id, ep_device.device.device_id)
        return cls(
            number=int(str(number)),
            description=about.get("Description", ""),
            memory=int(size[1]) << 20 if size else None,
            discrete=about.get("Discrete") == "1",
            speed=int(about.get("DxgiHighPerformanceIndex") or _LAST),
            luid=about.get("LUID", ""),
            software=kind == (_MICROSOFT, _BASIC_RENDER_DRIVER) or "Microsoft Basic Render" in about.get("Description", ""),
        )

    def device(self, index: int) -> Device:
        """The adapter as turnout shows it."""
        kind = "discrete" if self.discrete else "integrated"
        about = {"DXGI adapter": str(self.number), "kind": kind, "LUID": self.luid}
        name = f"{self.description} (DXGI adapter {self.number}, {kind})"
        return Device("directml", index, name, self.memory, _LINK if self.number == RESIDENT else None, properties=about)


def adapters(ep_devices: Iterable[Any]) -> list[Adapter]:
    """The adapters among ONNX Runtime's devices, best first: by DXGI's ranking, then discrete ones, then memory.

    Raises Unavailable where there is none, or none of hardware.
    """
    found = [one for one in (Adapter.of(device) for device in ep_devices if device.ep_name == EP) if one is not None]
    real = {one.number: one for one in found if not one.software}
    if not real:
        why = f"only software adapters ({found[0].description})" if found else "no adapter with Direct3D 12"
        raise Unavailable(f"DirectML finds {why}", hint="install the graphics card's driver; dxdiag shows what Windows knows of it")
    return sorted(real.values(), key=lambda one: (one.speed, not one.discrete, -(one.memory or 0), one.number))


def chosen(wish: int | str | None, here: Sequence[Adapter], device: Device) -> Adapter:
    """The adapter for a device: its own, or the one that the option `adapter` asks for in place of `directml:0`.

    Raises CompileError where no adapter fits the wish, or another device than the best was named beside it.
    """
    own = here[device.index]
    if wish is None:
        return own
    if wish == "high_performance":
        found = here[:1]
    elif wish == "minimum_power":
        found = sorted(here, key=lambda one: (one.discrete, -one.speed))[:1]
    elif isinstance(wish, int):
        found = [one for one in here if one.number == wish]
    else:
        found = [one for one in here if wish.lower() in one.description.lower()]
    if len(found) != 1:
        listed = "; ".join(f"{one.number}: {one.description}" for one in here)
        raise CompileError(f"option adapter={wish!r} fits {len(found)} of the adapters here ({listed})")
    if device.index and found[0] != own:
        raise CompileError(f"{device} is adapter {own.number}, and option adapter={wish!r} asks for {found[0].number}: leave one out")
    return found[0]


class Lock:
    """The process's lock for an adapter; whoever has it may take it again.

    All of ONNX Runtime's sessions on an adapter share one command queue that no lock of its own protects, so that whatever touches it
    (making a session, running, reading a value, letting go of a session or a value) happens one at a time.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._dropped: deque[list[Any]] = deque()

    def __enter__(self) -> None:
        self._lock.acquire()
        self._let_go()

    def __exit__(self, *exception: object) -> None:
        self._let_go()
        self._lock.release()

    def drop(self, held: list[Any]) -> None:
        """Lets go of what the list holds, now or when the lock is next taken; waits for nobody, so that a finalizer may call it."""
        self._dropped.append(held)
        if self._lock.acquire(blocking=False):
            self._let_go()
            self._lock.release()

    def _let_go(self) -> None:
        while self._dropped:
            self._dropped.popleft().clear()


_locks: dict[int, Lock] = {}
_locks_lock = threading.Lock()


def lock_of(number: int) -> Lock:
    """The lock of the adapter with this DXGI number."""
    with _locks_lock:
        return _locks.setdefault(number, Lock())
