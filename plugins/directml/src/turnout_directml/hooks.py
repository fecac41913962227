"""turnout's hooks: the DirectML provider."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from turnout.hooks import hookimpl

if TYPE_CHECKING:
    from turnout.provider import Provider


@hookimpl
def turnout_providers() -> Sequence[Provider]:
    from turnout_directml.provider import DirectMLProvider

    return [DirectMLProvider()]
