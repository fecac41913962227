"""Verifying one's own devices: which operators give wrong results here, on this driver.

`verify()` runs the operator level on each device, in a child process, since a driver may crash at any of some thousand cases, and gives
what it finds to `turnout.verified`, which remembers it for the planner.
"""

from __future__ import annotations

import functools
import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from turnout import probe, verified
from turnout.device import Device
from turnout.errors import NoSuchDevice
from turnout.provider import Provider
from turnout.testing.result import Result
from turnout.verified import Wrong

Progress = Callable[[str], None]

__all__ = ["Verdict", "verify"]

SECONDS = 600.0
"""How long a device may take; the environment's TURNOUT_VERIFY_SECONDS goes first. What was found until then counts."""
CASE_SECONDS = 60.0
"""How long one case may take before its operator counts as one that hangs."""
CRASHES = 3
"""After so many crashes on one device, what is left of its cases is not tried."""


@dataclass(frozen=True)
class Verdict:
    """What verifying one device found.

    claimed, passed: cases. wrong: operators with a wrong result or a crash, and the first reason. unplaced: wrong results of models
    with several operators, none of which is to blame for certain. trouble: why the device could not be verified to the end, else "".
    """

    device: str
    description: str = ""
    claimed: int = 0
    passed: int = 0
    wrong: dict[Wrong, str] = field(default_factory=dict)
    unplaced: list[str] = field(default_factory=list)
    trouble: str = ""

    @property
    def ok(self) -> bool:
        """True where all that was claimed came out right."""
        return not (self.wrong or self.unplaced or self.trouble)

    def __str__(self) -> str:
        text = f"{self.device}: {self.passed} of {self.claimed} claimed cases right"
        names = ", ".join(sorted({name for _, name, _, _ in self.wrong}))
        return "; ".join([text, *([f"wrong: {names}"] if names else []), *([self.trouble] if self.trouble else [])])


def verify(devices: Sequence[str] | None = None, progress: Progress | None = None) -> list[Verdict]:
    """Verifies the devices of these names, or every device but the reference evaluator's, and remembers what is wrong with each.

    progress is told as it goes, several times a second, which device is at which operator. Whoever interrupts it ends the child process
    too, and nothing is remembered of that device. Raises NoSuchDevice for a name that no device here has.
    """
    found = {device.name: (one.provider, device) for one in probe.probe_all() for device in one.devices}
    names = [name for name in found if not name.startswith("reference:")] if devices is None else [_full(name, found) for name in devices]
    verdicts = []
    for name in names:
        provider, device = found[name]
        tell = functools.partial(_tell, progress, name)
        tell("starting")
        verdict = _verdict(provider, device, tell)
        if verdict.claimed or verdict.wrong:
            verified.remember(device, provider, verdict.wrong)
        verdicts.append(verdict)
    return verdicts


def _tell(progress: Progress | None, device: str, what: str) -> None:
    if progress is not None:
        progress(f"verifying {device}: {what}")


def _full(name: str, found: dict[str, Any]) -> str:
    full = name if ":" in name else f"{name}:0"
    if full not in found:
        raise NoSuchDevice(f"there is no device {name!r} to verify", hint=f"the devices here are: {', '.join(found)}")
    return full


def _verdict(provider: Provider, device: Device, progress: Progress) -> Verdict:
    """The sweep over all cases, begun again without the operator at which it crashed or hung."""
    crashed: dict[str, str] = {}
    while True:
        results, last, trouble = _swept(provider, device, list(crashed), progress)
        if last and len(crashed) < CRASHES and last not in crashed:
            crashed[last] = trouble
            continue
        return _summed(device, results, crashed, trouble)


def _summed(device: Device, results: list[Result], crashed: dict[str, str], trouble: str) -> Verdict:
    counted = [one for one in results if one.level == "operators" and one.outcome != "refused"]
    bad: dict[Wrong, str] = {}
    unplaced = []
    for one in counted:
        if one.outcome == "failed" and len(one.operators) == 1:
            bad.setdefault((*one.operators[0], one.type), f"{one.case}: {one.detail}")
        elif one.outcome == "failed":
            unplaced.append(f"{one.case}: {one.detail}")
    for name, why in crashed.items():
        bad.update(dict.fromkeys(_versions_of(name), why))
    passed = sum(one.outcome == "passed" for one in counted)
    return Verdict(device.name, device.description, len(counted), passed, bad, unplaced, trouble)


def _versions_of(operator: str) -> Iterator[Wrong]:
    """Every version of an operator, with every type: which of them crashed, the process took along."""
    import onnx.defs

    for schema in onnx.defs.get_all_schemas_with_history():
        if schema.name == operator:
            yield schema.domain, schema.name, schema.since_version, ""


def _swept(provider: Provider, device: Device, without: list[str], progress: Progress) -> tuple[list[Result], str, str]:
    """The results; and, where the child process crashed or hung, the operator it was at and what became of it."""
    from turnout.testing.finding import plugin_of

    try:
        child = None if plugin_of(provider) is None else _Child(device.name, without)
    except OSError:  # no interpreter to start
        child = None
    if child is None:
        found = _Found(progress)
        for result in _sweep(provider, device, without, lambda case: found.begin(_operator(case))):
            found.results.append(result)
        return found.results, "", ""
    with child:
        return child.followed(_Found(progress))


class _Found:
    """What is known so far: results, the operator of the case that began last, and whether all cases were tried."""

    def __init__(self, progress: Progress) -> None:
        self.results: list[Result] = []
        self.at = ""
        self.done = False
        self._progress = progress
        self._told = 0.0
        self._begun = 0

    def begin(self, operator: str) -> None:
        """A case begins."""
        self.at = operator
        self._begun += 1
        if time.monotonic() - self._told > _TELL_SECONDS:
            self._told = time.monotonic()
            self._progress(f"{self._begun} cases, {operator}")

    def read(self, line: str) -> None:
        """A line that the child process printed."""
        if line.startswith(_RESULT):
            given = json.loads(line.removeprefix(_RESULT))
            self.results.append(Result(**{**given, "operators": tuple((d, n, int(v)) for d, n, v in given["operators"])}))
        elif line.startswith(_CASE):
            self.begin(line.removeprefix(_CASE))
        self.done = self.done or line == _DONE


class _Child:
    """The child process that sweeps, read line by line as it goes; leaving the `with` block ends it, also where Control-C does."""

    def __init__(self, device: str, without: list[str]) -> None:
        command, environment = probe.child_command("turnout.testing.verify", json.dumps([device, without]))
        self._limit = float(os.environ.get("TURNOUT_VERIFY_SECONDS") or SECONDS)
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
            errors="replace",
            env=environment,
        )
        self._lines: queue.Queue[str | None] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def __enter__(self) -> _Child:
        return self

    def __exit__(self, *error: object) -> None:
        self._process.kill()
        self._process.wait()

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as stdout:
            for line in stdout:
                self._lines.put(line.rstrip("\n"))
        self._lines.put(None)

    def followed(self, found: _Found) -> tuple[list[Result], str, str]:
        """As `_swept`."""
        end = time.monotonic() + self._limit
        while True:
            left = end - time.monotonic()
            patience = min(left, CASE_SECONDS) if found.at else left  # making the cases takes its time too
            try:
                line = self._lines.get(timeout=max(patience, 0))
            except queue.Empty:
                if patience < left:
                    return found.results, found.at, f"{found.at} did not come back within {CASE_SECONDS:g} s"
                more = "TURNOUT_VERIFY_SECONDS gives it longer"
                return (
                    found.results,
                    "",
                    f"not all was tried: it was stopped after {self._limit:g} s, at {found.at or 'nothing yet'}; {more}",
                )
            if line is None:
                break
            found.read(line)
        if found.done:
            return found.results, "", ""
        return found.results, found.at, f"the process {probe.ending(self._process.wait())} while it ran {found.at or 'nothing yet'}"


_RESULT, _CASE, _DONE = "turnout result: ", "turnout case: ", "turnout: all cases were tried"
_TELL_SECONDS = 0.1


def _sweep(provider: Provider, device: Device, without: Sequence[str], progress: Progress | None = None) -> Iterator[Result]:
    from turnout.testing.operators import sweep
    from turnout.testing.subject import Subject

    only = None
    if without:
        import onnx.defs

        only = {schema.name for schema in onnx.defs.get_all_schemas()} - set(without)
    return sweep(Subject(provider, device), only, progress)


def _child(argument: str) -> None:
    """The child's whole life: one line as a case begins, one for its result."""
    name, without = json.loads(argument)
    provider, device = next((p.provider, d) for p in probe.probe_all() for d in p.devices if d.name == name)
    for result in _sweep(provider, device, without, lambda case: print(f"\n{_CASE}{_operator(case)}", flush=True)):
        if result.level == "operators":
            print(f"\n{_RESULT}{result.json()}", flush=True)
    print(f"\n{_DONE}", flush=True)
    os._exit(0)  # a driver that crashes as the interpreter ends did all its cases


def _operator(case: str) -> str:
    """The operator that a case is about, from its name; of ONNX's own cases, from the nodes."""
    kind, _, rest = case.partition("/")
    if kind != "onnx":
        return rest.partition("-")[0]
    from turnout.testing.onnx_cases import onnx_cases

    found = next(one for one in onnx_cases() if one.name == case)
    return found.operators[0][1] if found.operators else ""


if __name__ == "__main__":
    _child(sys.argv[1])
