"""How much memory of its own this process takes at most, while something is going on."""

from __future__ import annotations

import sys
import threading
from types import TracebackType

__all__ = ["Peak"]

_SECONDS = 0.02


class Peak:
    """Watches, while it is entered: `bytes` is the most that was seen. Mapped files do not count; 0 where the system does not say."""

    def __init__(self) -> None:
        self.bytes = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Peak:
        self.look()
        if sys.platform == "linux":
            self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._over.set()
        if self._thread.is_alive():
            self._thread.join()

    def look(self) -> None:
        if sys.platform == "linux":
            with open("/proc/self/status", encoding="ascii") as file:
                lines = dict(line.split(":", 1) for line in file)
            self.bytes = max(self.bytes, 1024 * int(lines.get("RssAnon", "0 kB").split()[0]))

    def _watch(self) -> None:
        while not self._over.wait(_SECONDS):
            self.look()
