"""What verifying found wrong with the devices here, remembered for the planner. (`turnout doctor --verify` finds it.)

It is kept beside the memory of past probes, by device, its description, and the versions of its libraries and driver: an upgrade forgets
it. An operator is remembered with the type of its first input: that Gather of strings is wrong says nothing of Gather of float32.
"""

from __future__ import annotations

import json
import logging
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from turnout import probe

if TYPE_CHECKING:
    import onnx_ir as ir

    from turnout.device import Device
    from turnout.provider import Provider

__all__ = ["Wrong", "against", "file", "forget", "remember", "wrong"]

log = logging.getLogger("turnout")

Wrong = tuple[str, str, int, str]
"""What was wrong: domain, operator, since_version, and the type of the first input ("tensor(float)"); "" stands for every type."""


def file() -> Path:
    """The file that remembers wrong operators; TURNOUT_CACHE moves the folder it is in."""
    return probe.remembered_file().parent / "verified.json"


def wrong(device: Device, provider: Provider) -> dict[Wrong, str]:
    """What gave wrong results on this device when it was last verified, and the reasons. {} where it never was."""
    known = _read()
    if not any(key.startswith(f"{device.name} ") for key in known):  # the versions, which the key ends with, take longer to find out
        return {}
    rows = known.get(key_of(device, provider), {}).get("wrong", [])
    return {(domain, name, int(since), kind): reason for domain, name, since, kind, reason in rows}


def against(node: ir.Node, known: Mapping[Wrong, str]) -> str:
    """What `wrong` knows against running a node on the device; "" where that is nothing."""
    if not known:
        return ""
    from turnout.graph import type_name
    from turnout.operator import operator_of

    operator = operator_of(node)
    if operator is None:
        return ""
    first = next((value for value in node.inputs if value is not None), None)
    signature = (operator.domain, operator.name, operator.since_version)
    return known.get((*signature, type_name(first) if first is not None else "")) or known.get((*signature, "")) or ""


def forget() -> None:
    """Forgets what was found on every device."""
    file().unlink(missing_ok=True)


def key_of(device: Device, provider: Provider) -> str:
    try:
        versions = dict(provider.versions())
    except Exception as error:  # a provider that cannot tell its versions is verified all the same
        versions = {"versions": f"{type(error).__name__}: {error}"}
    return f"{device.name} {device.description} {json.dumps(versions, sort_keys=True)}"


_cached: tuple[tuple[str, int, int], dict[str, Any]] | None = None


def _read() -> dict[str, Any]:
    """The file's content, read again only where it has changed."""
    global _cached
    path = file()
    try:
        found = path.stat()
        state = (str(path), found.st_mtime_ns, found.st_size)
        if _cached is None or _cached[0] != state:
            content = json.loads(path.read_text("utf-8"))
            _cached = (state, content if isinstance(content, dict) else {})
        return _cached[1]
    except (OSError, ValueError):
        return {}


def remember(device: Device, provider: Provider, wrong: Mapping[Wrong, str]) -> None:
    """Keeps what was found, instead of what was kept of the device before. A folder that cannot be written to is a log line."""
    rows = [[*what, reason] for what, reason in sorted(wrong.items())]
    content = {**_read(), key_of(device, provider): {"wrong": rows}}
    path = file()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=path.parent, encoding="utf-8", delete=False) as written:
            json.dump(content, written, indent=1)
        os.replace(written.name, path)
    except OSError as error:  # a read-only home: the verdict is shown, and not remembered
        log.warning("cannot remember what verifying found: %s", error)
