"""What the kit does in a child process, since it may take the process with it or must begin with a fresh one.

`python -m turnout.testing.child '{"task": "imports", "address": {...}}'` prints one line of JSON behind a mark.
"""

from __future__ import annotations

import importlib.machinery
import importlib.metadata
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

__all__ = ["TASKS"]

Address = dict[str, str]


def imports(address: Address) -> dict[str, Any]:
    """What loading the plugin's hook module and making its provider bring into the process."""
    import turnout
    import turnout.hooks
    import turnout.plugins
    import turnout.provider

    assert turnout.Provider is not None
    opened: list[str] = []
    sys.addaudithook(lambda event, details: opened.append(str(details[0])) if event == "ctypes.dlopen" and details[0] else None)
    before = set(sys.modules)
    make, own = _maker(address)
    hooks = sorted(_strangers(set(sys.modules) - before, own))
    _load_turnout()
    opened.clear()  # what turnout itself opens
    before, start = set(sys.modules), time.process_time()
    provider = make()
    seconds = time.process_time() - start
    first, second = _versions(provider), _versions(provider)
    return {
        "hooks": hooks,
        "native": sorted(_native(set(sys.modules) - before)),
        "opened": opened,
        "seconds": seconds,
        "versions": first,
        "versions again": second,
    }


def _maker(address: Address) -> tuple[Callable[[], Any], str]:
    """Loads the hook module: what makes the provider, and the name of its top-level package."""
    if "class" in address:
        module, _, name = address["class"].partition(":")
        loaded = importlib.import_module(module)
        return lambda: getattr(loaded, name)(), module.partition(".")[0]
    found = importlib.metadata.entry_points(group="turnout", name=address["plugin"])
    entry_point = next(iter(found))
    module = entry_point.load()
    return lambda: next(one for one in module.turnout_providers() if one.name == address["provider"]), _top(entry_point.module)


def _load_turnout() -> None:
    """All that turnout itself loads to plan and run a model: a plugin may use it, and pays nothing for it."""
    import ml_dtypes  # noqa: F401
    import onnx.reference  # noqa: F401
    import pydantic  # noqa: F401

    import turnout.api
    import turnout.execute
    import turnout.model
    import turnout.operator  # noqa: F401


def _top(module: str) -> str:
    return module.partition(".")[0]


def _strangers(modules: set[str], own: str) -> Iterator[str]:
    """Top-level packages that are neither Python's own, nor turnout's, nor the plugin's."""
    for module in {_top(name) for name in modules}:
        if module not in sys.stdlib_module_names and module not in ("turnout", own) and not module.startswith("_"):
            yield module


def _native(modules: set[str]) -> Iterator[str]:
    """Extension modules: native code, which is how hardware libraries come in."""
    for name in modules:
        origin = getattr(getattr(sys.modules.get(name), "__spec__", None), "origin", None) or ""
        if origin.endswith(tuple(importlib.machinery.EXTENSION_SUFFIXES)) and _top(name) not in sys.stdlib_module_names:
            yield name


def _versions(provider: Any) -> Any:
    try:
        return dict(provider.versions())
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def memory(address: Address) -> dict[str, Any]:
    """What becomes of a run that needs more memory than there is address space for."""
    from turnout.testing.faults import starve
    from turnout.testing.finding import at
    from turnout.testing.subject import Subject

    provider = at(address)
    return starve(Subject(provider, provider.probe()[0]))


TASKS: dict[str, Callable[[Address], dict[str, Any]]] = {"imports": imports, "memory": memory}


def _main(argument: str) -> None:
    from turnout.testing.finding import MARK

    given = json.loads(argument)
    try:
        found = TASKS[given["task"]](given["address"])
    except Exception as error:
        found = {"error": f"{type(error).__name__}: {error}"}
    print(f"\n{MARK}{json.dumps(found)}", flush=True)
    os._exit(0)  # what a library does as the interpreter ends is no part of the check


if __name__ == "__main__":
    _main(sys.argv[1])
