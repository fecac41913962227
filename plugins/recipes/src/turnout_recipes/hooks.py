"""turnout's hooks: the command `turnout optimize`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from turnout.hooks import hookimpl

if TYPE_CHECKING:
    import click


@hookimpl
def turnout_commands(cli: click.Group) -> None:
    from turnout_recipes.command import optimize

    cli.add_command(optimize)
