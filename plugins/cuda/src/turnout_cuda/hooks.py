"""turnout's hooks: the CUDA provider, and the command `turnout kernel`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from turnout.hooks import hookimpl

if TYPE_CHECKING:
    import click

    from turnout.provider import Provider


@hookimpl
def turnout_providers() -> Sequence[Provider]:
    from turnout_cuda.provider import CudaProvider

    return [CudaProvider()]


@hookimpl
def turnout_commands(cli: click.Group) -> None:
    from turnout_cuda.command import kernel

    cli.add_command(kernel)
