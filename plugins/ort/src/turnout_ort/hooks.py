"""turnout's hooks: `ort-NAME` for each execution provider installed beside it, a check of the wheels, a peer to compare with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from turnout.hooks import hookimpl

if TYPE_CHECKING:
    from turnout.checkup import Check
    from turnout.provider import Provider


@hookimpl
def turnout_providers() -> Sequence[Provider]:
    from turnout_ort.installed import installed

    return installed()


@hookimpl
def turnout_checks() -> Sequence[Check]:
    from turnout_ort.owners import check

    return [check()]


@hookimpl
def turnout_peer(name: str, path: str) -> Callable[[Mapping[str, Any]], Any] | None:
    if name != "onnxruntime":
        return None
    from turnout_ort.peer import open_peer

    return open_peer(path)
