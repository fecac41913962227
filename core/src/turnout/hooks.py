"""The hook specification. Hooks are how plugins are found; they are not how one talks to them.

A plugin is a distribution with an entry point in the group `turnout` that names a thin module of these functions, each marked with
`@turnout.hookimpl`. Import nothing heavy at the top of it. Each implementation is called in a `try` of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pluggy

if TYPE_CHECKING:
    import click

    from turnout.checkup import Check
    from turnout.device import Device
    from turnout.formats import Format
    from turnout.model import Model
    from turnout.operator import Operator
    from turnout.provider import Provider

__all__ = ["GROUP", "hookimpl", "hookspec"]

GROUP = "turnout"
"""The entry point group, and pluggy's project name."""

hookspec = pluggy.HookspecMarker(GROUP)
hookimpl = pluggy.HookimplMarker(GROUP)


@hookspec
def turnout_providers() -> Sequence[Provider]:
    """Execution providers. Making one must load no hardware library: `probe` does."""
    raise NotImplementedError


@hookspec
def turnout_formats() -> Sequence[Format]:
    """File formats that become operator graphs."""
    raise NotImplementedError


@hookspec
def turnout_operators() -> Sequence[Operator]:
    """Operators, of new domains or old, with schema and perhaps a function body."""
    raise NotImplementedError


@hookspec
def turnout_rank(devices: Sequence[Device], model: str) -> Sequence[Device] | None:
    """Devices in the order to try where the user named none; first result that is not None wins, turnout's own goes last."""
    raise NotImplementedError


@hookspec
def turnout_text(model: Model) -> Any | None:
    """Who turns this decoder into text: an object with `generate` and `chat`; first result that is not None wins."""
    raise NotImplementedError


@hookspec
def turnout_observe(event: Mapping[str, Any]) -> None:
    """Told of each load and plan: {"event": "load", "model": ..., "seconds": ..., ...}. Runs are not observed: they are the hot path."""
    raise NotImplementedError


@hookspec
def turnout_commands(cli: click.Group) -> None:
    """Adds subcommands to the `turnout` command."""
    raise NotImplementedError


@hookspec
def turnout_checks() -> Sequence[Check]:
    """What `turnout doctor` should say of the plugin's packages beyond its devices."""
    raise NotImplementedError


@hookspec
def turnout_peer(name: str, path: str) -> Callable[[Mapping[str, Any]], Any] | None:
    """A direct way to run the file with the library `name`, without turnout, for `turnout bench --vs`; first result wins."""
    raise NotImplementedError
