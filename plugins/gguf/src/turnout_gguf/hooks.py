"""turnout's hooks: the GGUF format."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from turnout.hooks import hookimpl

if TYPE_CHECKING:
    from turnout.formats import Format


@hookimpl
def turnout_formats() -> Sequence[Format]:
    from turnout_gguf.format import GgufFormat

    return [GgufFormat()]
