"""Level 1: having a plugin installed costs nothing until a device of it is wanted.

Everybody who imports turnout loads the hook module of every plugin, and makes every provider. So, in a fresh process:

- loading the hook module brings in nothing but Python's own modules, turnout and the plugin's package;
- making the provider brings in no native code beyond what turnout itself needs (NumPy, onnx, ml_dtypes, pydantic): hardware libraries are
  native, whatever they are called, and belong in `probe`;
- neither opens a shared library through ctypes;
- making it takes less than a second of processor time;
- `versions()` loads nothing either, and says the same twice.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from turnout.provider import Provider
from turnout.testing.finding import Unreachable, in_child, plugin_of
from turnout.testing.result import Result

__all__ = ["imports"]

SECONDS = 1.0
"""Processor time that making a provider may take, once all that turnout itself needs is loaded."""


def imports(provider: Provider) -> Iterator[Result]:
    """The level: one child process, looked at from several sides."""
    start = time.perf_counter()

    def result(kind: str, problem: str, what: str = "provider") -> Result:
        return Result("imports", f"{kind}/{what}", "failed" if problem else "passed", problem, time.perf_counter() - start)

    try:
        found = in_child("imports", provider, 120)
    except Unreachable as error:
        yield Result("imports", "process/provider", "skipped", str(error))
        return
    if "hooks" not in found:
        why = found.get("error") or f"the process {found['ended']}; its last words: {found['said']}"
        yield result("process", f"loading the plugin in a fresh process failed: {why}")
        return
    if plugin_of(provider) is None:
        yield Result("imports", "hooks/module", "refused", "it has no hook module: no entry point brought it")
    else:
        yield result("hooks", _listed("its hook module imports", found["hooks"]), "module")
    yield result("native", _listed("making it imports native code", found["native"]))
    yield result("libraries", _listed("making it opens shared libraries", found["opened"]))
    slow = f"making it takes {found['seconds']:.1f} s of processor time, where {SECONDS:g} s are allowed"
    yield result("quick", slow if found["seconds"] > SECONDS else "")
    yield result("versions", _versions(found["versions"], found["versions again"]))


def _listed(what: str, names: list[str]) -> str:
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return f"{what}: {', '.join(names[:5])}{more}; load it in probe or compile" if names else ""


def _versions(first: Any, second: Any) -> str:
    if isinstance(first, str):
        return f"versions() raised {first}"
    if not all(isinstance(part, str) for pair in first.items() for part in pair):
        return f"versions() gave {first!r}, which is no mapping of text to text"
    return "" if first == second else f"versions() gave {first}, and then {second}"
