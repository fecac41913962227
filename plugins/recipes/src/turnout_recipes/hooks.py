"""turnout's hooks: the command `turnout optimize`, and folders of safetensors as models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from turnout.hooks import hookimpl

if TYPE_CHECKING:
    import click

    from turnout.formats import Format


@hookimpl
def turnout_formats() -> Sequence[Format]:
    from turnout_recipes.folder import CheckpointFolder

    return [CheckpointFolder()]


@hookimpl
def turnout_commands(cli: click.Group) -> None:
    from turnout_recipes.command import optimize

    cli.add_command(optimize)
