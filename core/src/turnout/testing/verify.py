"""Verifying one's own devices: which operators give wrong results here, on this driver.

`verify()` runs the operator level on each device, in a child process, since a driver may crash at any of some thousand cases, and gives
what it finds to `turnout.verified`, which remembers it for the planner.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from turnout import probe, verified
from turnout.device import Device
from turnout.errors import NoSuchDevice
from turnout.provider import Provider
from turnout.testing.result import Result
from turnout.verified import Wrong

__all__ = ["Verdict", "verify"]

SECONDS = 600.0
"""How long a device may take; the environment's TURNOUT_VERIFY_SECONDS goes first."""
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


def verify(devices: Sequence[str] | None = None, progress: Callable[[str], None] | None = None) -> list[Verdict]:
    """Verifies the devices of these names, or every device but the reference evaluator's, and remembers what is wrong with each.

    Raises NoSuchDevice for a name that no device here has.
    """
    found = {device.name: (one.provider, device) for one in probe.probe_all() for device in one.devices}
    names = [name for name in found if not name.startswith("reference:")] if devices is None else [_full(name, found) for name in devices]
    verdicts = []
    for name in names:
        if progress is not None:
            progress(f"verifying {name}")
        provider, device = found[name]
        verdict = _verdict(provider, device)
        if verdict.claimed or verdict.wrong:
            verified.remember(device, provider, verdict.wrong)
        verdicts.append(verdict)
    return verdicts


def _full(name: str, found: dict[str, Any]) -> str:
    full = name if ":" in name else f"{name}:0"
    if full not in found:
        raise NoSuchDevice(f"there is no device {name!r} to verify", hint=f"the devices here are: {', '.join(found)}")
    return full


def _verdict(provider: Provider, device: Device) -> Verdict:
    """The sweep over all cases, begun again without the operator at which it crashed."""
    crashed: dict[str, str] = {}
    while True:
        results, last, trouble = _swept(provider, device, list(crashed))
        if last and len(crashed) < CRASHES and last not in crashed:
            crashed[last] = trouble
            continue
        return _summed(device, results, crashed, "" if last in crashed or not trouble else trouble)


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


def _swept(provider: Provider, device: Device, without: list[str]) -> tuple[list[Result], str, str]:
    """The results; and, where the child process crashed, the operator it was at and what became of it."""
    from turnout.testing.finding import plugin_of

    if plugin_of(provider) is None:
        return list(_sweep(provider, device, without)), "", ""
    try:
        limit = float(os.environ.get("TURNOUT_VERIFY_SECONDS") or SECONDS)
        code, said = probe.in_child("turnout.testing.verify", json.dumps([device.name, without]), limit)
    except subprocess.TimeoutExpired:
        return [], "", f"it did not come back within {limit:g} s"
    except OSError:
        return list(_sweep(provider, device, without)), "", ""
    results, at, done = _read_out(said)
    if done:
        return results, "", ""
    return results, at, f"the process {probe.ending(code)} while it ran {at or 'nothing yet'}"


_RESULT, _CASE, _DONE = "turnout result: ", "turnout case: ", "turnout: all cases were tried"


def _read_out(said: str) -> tuple[list[Result], str, bool]:
    """What the child process printed: results, the operator of the case that it began last, and whether it came to the end."""
    results, at = [], ""
    for line in said.splitlines():
        if line.startswith(_RESULT):
            given = json.loads(line.removeprefix(_RESULT))
            results.append(Result(**{**given, "operators": tuple((d, n, int(v)) for d, n, v in given["operators"])}))
        elif line.startswith(_CASE):
            at = line.removeprefix(_CASE)
    return results, at, _DONE in said


def _sweep(provider: Provider, device: Device, without: Sequence[str], progress: Callable[[str], None] | None = None) -> Iterator[Result]:
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
