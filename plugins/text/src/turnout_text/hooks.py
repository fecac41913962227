"""turnout's hooks: who turns language models into text, folders of exported models, and the commands."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from turnout.hooks import hookimpl

if TYPE_CHECKING:
    import click

    from turnout.formats import Format
    from turnout.model import Model


@hookimpl
def turnout_text(model: Model) -> Any | None:
    from turnout_text.writer import writer

    return writer(model)


@hookimpl
def turnout_formats() -> Sequence[Format]:
    from turnout_text.folder import ExportFolder

    return [ExportFolder()]


@hookimpl
def turnout_commands(cli: click.Group) -> None:
    from turnout_text.commands import chat, generate

    cli.add_command(generate)
    cli.add_command(chat)
