"""Probing: which devices each provider has here, without letting a bad driver take the program along.

A probe that has never come back on this machine runs in a child process with a time limit first. One that came back,
with devices or with a reason, is remembered (keyed by plugin, library and driver versions), and runs in this process
from then on. One that hung is left alone for an hour, so that a stuck driver costs its time limit once and not at every start.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import platform
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from turnout import plugins
from turnout.device import Device
from turnout.errors import BrokenPlugin, TurnoutError, Unavailable
from turnout.provider import Provider

__all__ = [
    "CHILD_SECONDS",
    "Probed",
    "child_command",
    "ending",
    "forget_hangs",
    "in_child",
    "probe",
    "probe_all",
    "read_note",
    "remembered_file",
    "write_note",
]

log = logging.getLogger("turnout")

CHILD_SECONDS = 30.0
"""How long a first probe may take before it counts as hanging; the environment's TURNOUT_PROBE_SECONDS goes first."""

_HANG_SECONDS = 3600.0
"""How long a probe that hung is left alone."""


@dataclass(frozen=True)
class Probed:
    """What one provider's probe said: devices, or the error that stands in for them."""

    provider: Provider
    devices: tuple[Device, ...] = ()
    error: TurnoutError | None = None
    seconds: float = 0.0


_probed: dict[int, Probed] = {}
_lock = threading.RLock()


def probe(provider: Provider) -> Probed:
    """Probes a provider, once a process; never raises what the probe raised, but holds it."""
    with _lock:
        found = _probed.get(id(provider))
        if found is None:
            start = time.perf_counter()
            devices, error = _probe(provider)
            found = _probed[id(provider)] = Probed(provider, devices, error, time.perf_counter() - start)
        return found


def probe_all(providers: Sequence[Provider] | None = None) -> list[Probed]:
    """Probes every provider, or those given, by rank."""
    return [probe(one) for one in (plugins.providers() if providers is None else providers)]


def _probe(provider: Provider) -> tuple[tuple[Device, ...], TurnoutError | None]:
    plugin = next((one for one in plugins.installed() if provider in one.providers), None)
    if plugin is None or not plugin.discovered:  # core's own, or registered by hand: a child process would not find it
        return _probe_here(provider)
    key = _key(provider, plugin)
    if not _remembered(key):
        if _hung(key, limit := _limit()):
            return (), _hangs(provider, limit, "lately, and is not tried again within an hour", "`turnout doctor` tries it now")
        trouble = _probe_in_child(provider, key, limit)
        if trouble is not None:
            return (), trouble
        _remember(key)
    return _probe_here(provider)


def _probe_here(provider: Provider) -> tuple[tuple[Device, ...], TurnoutError | None]:
    try:
        devices = tuple(provider.probe())
    except Unavailable as error:
        return (), error
    except (Exception, SystemExit) as error:
        return (), _broke(provider, f"its probe raised {type(error).__name__}: {error}")
    for index, device in enumerate(devices):
        if not isinstance(device, Device) or (device.provider, device.index) != (provider.name, index):
            return (), _broke(provider, f"its probe gave {device!r} where device {provider.name}:{index} was due")
    return devices, None


def _broke(provider: Provider, what: str) -> BrokenPlugin:
    return BrokenPlugin(f"provider {provider.name}: {what}", hint="`turnout doctor` shows the plugin's version; report it there")


def _hangs(provider: Provider, limit: float, when: str = "", hint: str = "") -> BrokenPlugin:
    slow = "TURNOUT_PROBE_SECONDS gives a slow one longer"
    what = f"its probe did not come back within {limit:g} s {when}".rstrip()
    return BrokenPlugin(f"provider {provider.name}: {what}", hint=f"{hint}; {slow}" if hint else f"restart the machine's driver; {slow}")


def _probe_in_child(provider: Provider, key: str, limit: float) -> TurnoutError | None:
    """None where the probe came back, with devices or with a reason; else what became of it."""
    try:
        code, said = in_child("turnout.probe", provider.name, limit)
    except subprocess.TimeoutExpired:
        write_note(_hangs_file(), {**_read_hangs(), key: [time.time(), limit]})
        return _hangs(provider, limit)
    except OSError as error:  # no interpreter to start (an embedded Python): nothing can be tried beforehand
        log.debug("no child process for the first probe of %s: %s", provider.name, error)
        return None
    if code == 0 and _DONE in said:
        return None
    last = said.strip().rpartition("\n")[2][:200]
    return _broke(provider, f"its probe {ending(code)}" + (f"; its last words: {last}" if last else ""))


def _limit() -> float:
    given = os.environ.get("TURNOUT_PROBE_SECONDS", "")
    try:
        return float(given or CHILD_SECONDS)
    except ValueError:
        log.warning("TURNOUT_PROBE_SECONDS is %r, which is not a number; it stays at %g", given, CHILD_SECONDS)
        return CHILD_SECONDS


def in_child(module: str, argument: str, seconds: float) -> tuple[int, str]:
    """Runs a module of turnout's in a child process that finds the same plugins: its exit status and what it printed.

    Raises OSError where there is no interpreter to start, and subprocess.TimeoutExpired.
    """
    command, environment = child_command(module, argument)
    with tempfile.TemporaryFile() as output:
        code = subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, timeout=seconds, check=False, env=environment
        ).returncode
        output.seek(0)
        return code, output.read().decode(errors="replace")


def child_command(module: str, argument: str) -> tuple[list[str], dict[str, str]]:
    """What starts a module of turnout's in a child process that finds the same plugins: the command and its environment.

    Raises OSError where there is no interpreter to start.
    """
    if not sys.executable or getattr(sys, "frozen", False):  # a frozen program would start itself again, not an interpreter
        raise OSError("this program is not run by a Python interpreter")
    paths = os.pathsep.join(path for path in sys.path if path)
    return [sys.executable, "-P", "-m", module, argument], {**os.environ, "PYTHONPATH": paths}


_DONE = "turnout: the probe came back"


def ending(code: int) -> str:
    """What became of a child process, from its exit status."""
    if code < 0:
        known = {one.value: one.name for one in signal.Signals}
        return f"crashed ({known.get(-code, f'signal {-code}')})"
    if code > 0x80000000:
        return f"crashed (0x{code:08X})"
    return f"ended the process (exit status {code})"


def _child(name: str) -> None:
    """The child's whole life: probe one provider, and say so if it came back."""
    provider = next(one for one in plugins.providers() if one.name == name)
    _probe_here(provider)
    print(_DONE, flush=True)
    os._exit(0)  # a driver that crashes as the interpreter ends did come back from its probe


def _key(provider: Provider, plugin: plugins.Plugin) -> str:
    try:
        versions = dict(provider.versions())
    except Exception as error:
        versions = {"versions": f"{type(error).__name__}: {error}"}
    parts = {"plugin": f"{plugin.distribution} {plugin.version}", "python": platform.python_version(), **versions}
    return f"{platform.node()} {provider.name} " + json.dumps(parts, sort_keys=True)


def remembered_file() -> Path:
    """The file that remembers which probes came back; TURNOUT_CACHE moves the folder it is in."""
    return cache_folder() / "probes.json"


def cache_folder() -> Path:
    """Where turnout keeps what it may lose: TURNOUT_CACHE, or the user's cache folder."""
    if folder := os.environ.get("TURNOUT_CACHE"):
        return Path(folder)
    import platformdirs

    return Path(platformdirs.user_cache_dir("turnout", appauthor=False))


def _hangs_file() -> Path:
    return cache_folder() / "hangs.json"


def forget_hangs() -> None:
    """Tries again, from here on, the probes that hung within the last hour."""
    with contextlib.suppress(OSError):
        _hangs_file().unlink()


def _hung(key: str, limit: float) -> bool:
    """Whether the probe hung within the last hour, though it had at least this many seconds."""
    when, had = _read_hangs().get(key, (0.0, 0.0))
    return had >= limit and 0 <= time.time() - when < _HANG_SECONDS


def _read_hangs() -> dict[str, tuple[float, float]]:
    found = read_note(_hangs_file())
    try:
        return {key: (float(when), float(had)) for key, (when, had) in found.items()}
    except (AttributeError, TypeError, ValueError):
        return {}


def _remembered(key: str) -> bool:
    return key in _read_keys()


def _read_keys() -> list[str]:
    keys = read_note(remembered_file())
    return [key for key in keys if isinstance(key, str)] if isinstance(keys, list) else []


def _remember(key: str) -> None:
    write_note(remembered_file(), [*(k for k in _read_keys() if k != key), key])


def read_note(path: Path) -> Any:
    """What a file of notes holds; None where there is none that can be read."""
    try:
        return json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return None


def write_note(path: Path, content: Any) -> None:
    """Writes JSON, whole or not at all; a read-only home costs a child process each time, nothing else."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=path.parent, encoding="utf-8", delete=False) as file:
            json.dump(content, file, indent=1)
        os.replace(file.name, path)
    except OSError as error:
        log.debug("cannot remember it in %s: %s", path, error)


if __name__ == "__main__":
    _child(sys.argv[1])
