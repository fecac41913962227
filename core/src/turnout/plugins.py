"""Discovery: which plugins are installed, and what they bring. Each is tried once, in a `try` of its own."""

from __future__ import annotations

import difflib
import functools
import importlib.metadata
import logging
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pluggy

from turnout import hooks, operator, provider
from turnout.errors import BrokenPlugin, IncompatiblePlugin, PluginError
from turnout.formats import Format

__all__ = [
    "Plugin",
    "brings",
    "calls",
    "first",
    "install_hint",
    "installed",
    "not_installed",
    "problems",
    "providers",
    "register",
    "unregister",
]

log = logging.getLogger("turnout")

# The one place where core knows plugins by name: what to install for a device that nobody here offers.
_KNOWN = {
    "cpu": "turnout-cpu",
    "cuda": "turnout-cuda",
    "directml": "turnout-directml",
    "llamacpp": "turnout-llamacpp",
}

# Names that core's own devices have.
_RESERVED = ("host", "reference")

# Hooks whose result is a list, and what may be in it. Providers and checks are looked at where they are used.
_LISTS: dict[str, type] = {
    "turnout_providers": object,
    "turnout_formats": Format,
    "turnout_operators": operator.Operator,
    "turnout_checks": object,
}

# What a stranger's code may raise: some call sys.exit() where a library is missing.
_RAISED = (Exception, SystemExit)


@dataclass
class Plugin:
    """One installed plugin: a module of hooks, or the reason why it could not be had."""

    name: str
    distribution: str = ""
    version: str = ""
    module: Any = None
    problem: PluginError | None = None
    discovered: bool = True
    """True where it was found by entry point, so that a child process finds it too."""
    providers: list[provider.Provider] = field(default_factory=list)


class _Registry:
    """The process's plugins. Entry points are read once; `register` adds to them."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.manager = pluggy.PluginManager(hooks.GROUP)
        self.manager.add_hookspecs(hooks)
        self.plugins: dict[str, Plugin] = {}
        for entry_point in importlib.metadata.entry_points(group=hooks.GROUP):
            self._load(entry_point)
        self._collect_operators()

    def _load(self, entry_point: importlib.metadata.EntryPoint) -> None:
        plugin = Plugin(entry_point.name)
        if entry_point.dist is not None:
            metadata = entry_point.dist.metadata
            plugin.distribution, plugin.version = metadata["Name"] or "", metadata["Version"] or ""
        if plugin.name in self.plugins:
            self._namesake(plugin)
            return
        self.plugins[plugin.name] = plugin
        try:
            plugin.module = entry_point.load()
        except _RAISED as error:  # whatever a stranger's module raises is that plugin's line in `doctor`
            self._broken(plugin, "could not be imported", error)
            return
        self.add(plugin)

    def _namesake(self, plugin: Plugin) -> None:
        other = self.plugins[plugin.name]
        plugin.problem = BrokenPlugin(
            f"a plugin named {plugin.name} is already there, from {other.distribution}; the one from {plugin.distribution} is left out",
            hint=f"pip uninstall {plugin.distribution}, or {other.distribution}",
        )
        plugin.name = f"{plugin.name} of {plugin.distribution}"
        self.plugins[plugin.name] = plugin
        log.warning("%s", plugin.problem.message)

    def add(self, plugin: Plugin) -> None:
        self.plugins[plugin.name] = plugin
        try:
            self.manager.register(plugin.module, name=plugin.name)
            self.manager.check_pending()
        except _RAISED as error:
            if self.manager.has_plugin(plugin.name):
                self.manager.unregister(name=plugin.name)
            self._broken(plugin, "does not fit turnout's hooks", error)
            return
        self._collect_providers(plugin)

    def _collect_providers(self, plugin: Plugin) -> None:
        for _, result in self.calls("turnout_providers", only=plugin.name):
            for one in result:
                problem = _misfit(one, {p.name for other in self.plugins.values() for p in other.providers})
                if problem is None:
                    plugin.providers.append(one)
                else:
                    plugin.problem = problem
                    log.warning("plugin %s: %s", plugin.name, problem)

    def _collect_operators(self) -> None:
        for _, result in self.calls("turnout_operators"):
            for one in result:
                operator.register(one)

    def calls(self, hook: str, only: str | None = None, **arguments: Any) -> Iterator[tuple[Plugin, Any]]:
        """Each implementation's result, in pluggy's order; one that raises or gives rubbish is noted and left out."""
        for implementation in reversed(getattr(self.manager.hook, hook).get_hookimpls()):
            name = implementation.plugin_name
            if only is not None and name != only:
                continue
            plugin = self.plugins[name]
            try:
                result = implementation.function(*(arguments[argument] for argument in implementation.argnames))
                if hook in _LISTS:
                    result = _listed(result, _LISTS[hook])
            except _RAISED as error:
                self._broken(plugin, f"raised in {hook}", error)
                continue
            yield plugin, result

    def _broken(self, plugin: Plugin, what: str, error: BaseException) -> None:
        where = f" (from {plugin.distribution} {plugin.version})" if plugin.distribution else ""
        plugin.problem = BrokenPlugin(
            f"plugin {plugin.name}{where} {what}: {type(error).__name__}: {error}",
            hint=f"pip install --upgrade {plugin.distribution}" if plugin.distribution else "mend the plugin's code",
        )
        plugin.problem.__cause__ = error
        log.warning("%s", plugin.problem.message)


def _listed(result: Any, kind: type) -> tuple[Any, ...]:
    items = tuple(() if result is None else result)
    for item in items:
        if not isinstance(item, kind):
            raise TypeError(f"it gave {item!r}, which is not a turnout {kind.__name__}")
    return items


def _misfit(one: Any, taken: set[str]) -> PluginError | None:
    kind = type(one).__name__
    if not isinstance(one, provider.Provider):
        return BrokenPlugin(f"{kind} is not a turnout.Provider", hint="return instances, not classes, from turnout_providers")
    if one.api != provider.API:
        return IncompatiblePlugin(
            f"{kind} was written for provider contract {one.api}, this turnout has {provider.API}",
            hint="upgrade the older of the two",
        )
    name = getattr(one, "name", None)
    if not isinstance(name, str) or not re.fullmatch(r"[a-z][a-z0-9_-]*", name) or not isinstance(one.rank, int):
        return BrokenPlugin(
            f"{kind} has the name {name!r} and the rank {one.rank!r}",
            hint="a name is a lower-case word (letters, digits, - and _), a rank a whole number",
        )
    if name in taken or name in _RESERVED:
        return BrokenPlugin(f"a provider named {name} is already there", hint="uninstall one of the two plugins")
    return None


_discovery = threading.RLock()


def _registry() -> _Registry:
    with _discovery:  # two threads at once would otherwise discover twice, and hold different instances of one provider
        return _discovered()


@functools.cache
def _discovered() -> _Registry:
    return _Registry()


def installed() -> list[Plugin]:
    """Every plugin, working or not."""
    return list(_registry().plugins.values())


def brings(plugin: Plugin) -> list[str]:
    """What a plugin brings, in words: `provider cpu`, and the other hooks that it implements (`formats` ...)."""
    callers = (_registry().manager.get_hookcallers(plugin.module) or ()) if plugin.module is not None else ()
    others = sorted(caller.name.removeprefix("turnout_") for caller in callers if caller.name != "turnout_providers")
    return [*(f"provider {one.name}" for one in plugin.providers), *others]


def problems() -> list[PluginError]:
    """What is wrong with the plugins that cannot be used, or not in full."""
    return [plugin.problem for plugin in installed() if plugin.problem is not None]


def providers() -> list[provider.Provider]:
    """Every provider, by rank; the reference provider, which is core's own, is among them."""
    from turnout.reference import REFERENCE

    found = [one for plugin in installed() for one in plugin.providers]
    return sorted([*found, REFERENCE], key=lambda one: (one.rank, one.name))


def calls(hook: str, **arguments: Any) -> Iterator[Any]:
    """The result of each plugin that implements the hook; a plugin that raises is skipped, and named by `doctor`."""
    for _, result in _registry().calls(hook, **arguments):
        yield result


def first(hook: str, **arguments: Any) -> Any | None:
    """The first result that is not None."""
    return next((result for result in calls(hook, **arguments) if result is not None), None)


def register(module: Any, name: str) -> None:
    """Adds a plugin by hand: a module or object with hook implementations. For notebooks and tests.

    Raises BrokenPlugin or IncompatiblePlugin where it does not fit, and ValueError where the name is taken.
    """
    registry = _registry()
    with registry.lock:
        if name in registry.plugins:
            raise ValueError(f"a plugin named {name} is already registered")
        plugin = Plugin(name, module=module, discovered=False)
        registry.add(plugin)
        if plugin.problem is not None:
            unregister(name)
            raise plugin.problem
        for _, result in registry.calls("turnout_operators", only=name):
            for one in result:
                operator.register(one)


def unregister(name: str) -> None:
    """Takes a plugin out again."""
    registry = _registry()
    with registry.lock:
        del registry.plugins[name]
        if registry.manager.get_plugin(name) is not None:
            registry.manager.unregister(name=name)


def not_installed() -> list[str]:
    """The distributions that turnout knows of and that are not here."""
    here = {plugin.distribution.lower().replace("_", "-") for plugin in installed()}
    return [distribution for distribution in _KNOWN.values() if distribution not in here]


def install_hint(device: str) -> str:
    """What to do about a device that nobody here offers."""
    provider = device.partition(":")[0]
    if provider in _KNOWN:
        return f"pip install {_KNOWN[provider]}"
    close = difflib.get_close_matches(provider, [one.name for one in providers()], n=1)
    return f"did you mean {close[0]!r}?" if close else "`turnout devices` lists what is here"
