"""Finding the provider under test: by name here, and again in a child process."""

from __future__ import annotations

import importlib
import json
import subprocess
from typing import Any

from turnout import plugins, probe
from turnout.errors import NoSuchDevice
from turnout.plugins import Plugin
from turnout.provider import Provider

__all__ = ["Unreachable", "address", "at", "find", "in_child", "plugin_of"]

Address = dict[str, str]
"""How a child process gets a provider: `{"plugin": ..., "provider": ...}`, or `{"class": "module:name"}`."""


class Unreachable(Exception):
    """No child process could run the check; the message says why."""


def find(name: str) -> Provider:
    """The installed provider of that name ("cpu", or one of its devices, "cpu:0"). Raises NoSuchDevice."""
    wanted = name.partition(":")[0]
    for one in plugins.providers():
        if one.name == wanted:
            return one
    here = ", ".join(one.name for one in plugins.providers())
    broken = "; ".join(problem.message for problem in plugins.problems())
    message = f"no installed plugin brings a provider {wanted!r}" + (f" (a plugin here is broken: {broken})" if broken else "")
    raise NoSuchDevice(message, hint=f"the providers here are: {here}; `pip install -e .` makes yours one of them")


def plugin_of(provider: Provider) -> Plugin | None:
    """The plugin that brought it by an entry point; None where there is none."""
    return next((one for one in plugins.installed() if one.discovered and provider in one.providers), None)


def address(provider: Provider) -> Address:
    """How a child process gets the same provider. Raises Unreachable."""
    plugin = plugin_of(provider)
    if plugin is not None:
        return {"plugin": plugin.name, "provider": provider.name}
    kind = type(provider)
    if kind.__module__ == "__main__" or "<locals>" in kind.__qualname__:
        raise Unreachable(f"{kind.__qualname__} is no plugin and stands in no module, so that a child process cannot make it")
    return {"class": f"{kind.__module__}:{kind.__qualname__}"}


def at(found: Address) -> Provider:
    """The provider at an address, in the child process."""
    if "plugin" in found:
        return next(one for one in plugins.providers() if one.name == found["provider"])
    module, _, name = found["class"].partition(":")
    made = getattr(importlib.import_module(module), name)()
    assert isinstance(made, Provider)
    return made


def in_child(task: str, provider: Provider, seconds: float) -> dict[str, Any]:
    """What a task of `child` found about the provider; {"ended": ..., "said": ...} where the child process did not come back.

    Raises Unreachable.
    """
    argument = json.dumps({"task": task, "address": address(provider)})
    try:
        code, said = probe.in_child("turnout.testing.child", argument, seconds)
    except subprocess.TimeoutExpired:
        return {"ended": f"did not come back within {seconds:g} s", "said": ""}
    except OSError as error:
        raise Unreachable(f"no child process can be started: {error}") from error
    for line in reversed(said.splitlines()):
        if line.startswith(MARK):
            return dict(json.loads(line.removeprefix(MARK)))
    return {"ended": probe.ending(code), "said": said.strip().rpartition("\n")[2][:300]}


MARK = "turnout found: "
"""What the line with the child's findings begins with."""
