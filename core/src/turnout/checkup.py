"""The doctor: what works here, what does not, why, and the command that mends it."""

from __future__ import annotations

import importlib.metadata
import json
import logging
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from turnout import plugins, probe, verified
from turnout.errors import BrokenPlugin, NoProvider, TurnoutError
from turnout.table import table

if TYPE_CHECKING:
    import numpy as np

    from turnout.device import Device
    from turnout.provider import Provider

__all__ = ["Absent", "Check", "DeviceReport", "PluginReport", "Report", "doctor"]

log = logging.getLogger("turnout")

TRIAL_SECONDS = 120.0
"""How long a device may take over its trial; the environment variable TURNOUT_DOCTOR_SECONDS overrides it."""


class Check(BaseModel):
    """One thing that was looked at. `commands` mend it, in order, where it is not ok."""

    name: str
    ok: bool
    message: str
    commands: list[str] = []


class PluginReport(BaseModel):
    """One installed plugin, and what is wrong with it if anything is."""

    name: str
    distribution: str
    version: str
    providers: list[str]
    problem: str = ""
    hint: str = ""


class DeviceReport(BaseModel):
    """One device and its trial: a small operator, loaded there alone, run, and compared with NumPy.

    ok is None where nothing could be tried because the device runs no simple operator by itself. verified: what `doctor(verify=True)` just
    found. wrong: operators that gave wrong results here when they were last verified, and how; the planner keeps them off the device.
    """

    name: str
    description: str = ""
    memory: int | None = None
    ok: bool | None = None
    operator: str = ""
    milliseconds: float | None = None
    message: str = ""
    hint: str = ""
    verified: str = ""
    wrong: dict[str, str] = {}


class Absent(BaseModel):
    """A provider without a device here. `broken` where its probe failed, rather than said that there is none."""

    provider: str
    broken: bool
    message: str
    hint: str = ""


class Report(BaseModel):
    """Everything the doctor found. `print(report)` is for people, `model_dump()` for programs."""

    turnout: str
    python: str
    platform: str
    plugins: list[PluginReport]
    devices: list[DeviceReport]
    absent: list[Absent]
    checks: list[Check]
    not_installed: list[str]

    @property
    def problems(self) -> list[tuple[str, list[str]]]:
        """What is wrong, and the commands that mend it. A device that is simply not there is not wrong."""
        found = [(f"plugin {one.name}: {one.problem}", [one.hint]) for one in self.plugins if one.problem]
        found += [(one.message, [one.hint]) for one in self.absent if one.broken]
        found += [(f"{one.name}: {one.message}", [one.hint]) for one in self.devices if one.ok is False]
        found += [(f"{one.name}: {one.message}", one.commands) for one in self.checks if not one.ok]
        return found

    @property
    def ok(self) -> bool:
        """True where nothing is wrong with what is installed."""
        return not self.problems

    def __str__(self) -> str:
        return "\n".join(_lines(self))


def doctor(progress: Callable[[str], None] = lambda text: None, *, verify: bool = False) -> Report:
    """Looks at every plugin, every device and the packages. Whatever fails is in the report; nothing stops the rest.

    progress is told what is looked at next. verify runs every operator that the devices claim, which takes minutes, and remembers what
    comes out wrong.
    """
    progress("probing")
    probe.forget_hangs()
    probed = probe.probe_all()
    devices = []
    for one in probed:
        for device in one.devices:
            progress(f"trying {device}")
            devices.append(_known_wrong(_trial(device), device, one.provider, verify=verify, progress=progress))
    progress("checking packages")
    checks = list(_checks())
    return Report(
        turnout=_version(),
        python=f"{platform.python_implementation()} {platform.python_version()}",
        platform=platform.platform(),
        plugins=[_plugin(one) for one in plugins.installed()],
        devices=devices,
        absent=[
            Absent(
                provider=one.provider.name,
                broken=isinstance(one.error, BrokenPlugin),
                message=one.error.message,
                hint=one.error.hint,
            )
            for one in probed
            if one.error is not None
        ],
        checks=checks,
        not_installed=plugins.not_installed(),
    )


def _version() -> str:
    try:
        return importlib.metadata.version("turnout")
    except importlib.metadata.PackageNotFoundError:
        return "not installed as a package"


def _plugin(plugin: plugins.Plugin) -> PluginReport:
    return PluginReport(
        name=plugin.name,
        distribution=plugin.distribution,
        version=plugin.version,
        providers=[one.name for one in plugin.providers],
        problem=plugin.problem.message if plugin.problem else "",
        hint=plugin.problem.hint if plugin.problem else "",
    )


def _checks() -> Iterator[Check]:
    for result in plugins.calls("turnout_checks"):
        for one in result:
            if isinstance(one, Check):
                yield one
            else:
                yield Check(name="turnout_checks", ok=False, message=f"a plugin gave {one!r}, which is not a turnout Check")


def _known_wrong(
    report: DeviceReport, device: Device, provider: Provider, *, verify: bool, progress: Callable[[str], None]
) -> DeviceReport:
    """The report, with what verifying finds or once found."""
    said = ""
    if verify and provider.name != "reference":  # the others are measured by it
        from turnout.testing.verify import verify as run_verify

        (verdict,) = run_verify([device.name], progress)
        said = str(verdict).partition(": ")[2]
    known = verified.wrong(device, provider)
    wrong = {f"{name} since {since} {kind}".strip(): reason for (_, name, since, kind), reason in known.items()}
    return report.model_copy(update={"verified": said, "wrong": wrong})


def _trial(device: Device) -> DeviceReport:
    """The device's report. A plugin's own code runs in a child process: a driver may crash at its first work."""
    report = DeviceReport(name=device.name, description=device.description, memory=device.memory)
    plugin = next((one for one in plugins.installed() if device.provider in {p.name for p in one.providers}), None)
    try:
        found = _tried_in_child(device.name) if plugin is not None and plugin.discovered else _tried(device.name)
    except Exception as error:  # the doctor goes on with the next device, whatever this one did
        log.debug("the trial of %s failed", device, exc_info=True)
        found = {"ok": False, "message": f"{type(error).__name__}: {error}"}
    return report.model_copy(update=found)


def _tried_in_child(name: str) -> dict[str, Any]:
    seconds = float(os.environ.get("TURNOUT_DOCTOR_SECONDS", TRIAL_SECONDS))
    try:
        code, said = probe.in_child("turnout.checkup", name, seconds)
    except subprocess.TimeoutExpired:
        return {"ok": False, "message": f"its trial did not come back within {seconds:g} s"}
    except OSError:
        return _tried(name)
    for line in reversed(said.splitlines()):
        if line.startswith(_RESULT):
            return dict(json.loads(line.removeprefix(_RESULT)))
    last = said.strip().rpartition("\n")[2][:200]
    return {"ok": False, "message": f"its trial {probe.ending(code)}" + (f"; its last words: {last}" if last else "")}


_RESULT = "turnout trial: "


def _tried(name: str) -> dict[str, Any]:
    refusals = []
    for operator, model, expected in _candidates():
        try:
            return _ran(name, operator, model, expected)
        except NoProvider:
            refusals.append(operator)
        except TurnoutError as error:
            return {
                "ok": False,
                "operator": operator,
                "message": f"{operator} failed: {error.message}",
                "hint": error.hint,
            }
    return {"message": f"no simple operator supported (asked for {', '.join(refusals)}), so nothing was tried"}


def _ran(name: str, operator: str, model: bytes, expected: Any) -> dict[str, Any]:
    import numpy as np

    import turnout

    with turnout.load(model, device=name) as loaded:
        inputs = {one.name: array for one, array in zip(loaded.inputs, _arrays(), strict=False)}
        (result,) = loaded.run(**inputs).values()
        start = time.perf_counter()
        loaded.run(**inputs)
        milliseconds = (time.perf_counter() - start) * 1000
    got = np.asarray(result)
    ok = bool(got.shape == expected.shape and np.allclose(got, expected, rtol=1e-3, atol=1e-3))
    message = f"{operator} in {milliseconds:.3g} ms" if ok else f"{operator} gave {got.tolist()} where {expected.tolist()} was due"
    hint = "" if ok else "a wrong result is a fault of the driver or of the plugin: upgrade both, and report it to the plugin"
    return {"ok": ok, "operator": operator, "milliseconds": milliseconds, "message": message, "hint": hint}


def _arrays() -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    import numpy as np

    return np.array([[-2, -0.5], [1, 3]], np.float32), np.array([[4, 3], [2, -1]], np.float32)


def _candidates() -> Iterator[tuple[str, bytes, Any]]:
    """(operator, model, result), plain ones first. A provider may run only some of them, or none."""
    import numpy as np
    from onnx import TensorProto, helper

    a, b = _arrays()
    for operator, arity, expected in (
        ("Add", 2, a + b),
        ("Mul", 2, a * b),
        ("Relu", 1, np.maximum(a, 0)),
        ("MatMul", 2, a @ b),
    ):
        tensors = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2, 2]) for name in ("a", "b", "y")]
        node = helper.make_node(operator, ["a", "b"][:arity], ["y"])
        graph = helper.make_graph([node], f"doctor_{operator}", tensors[:arity], tensors[2:])
        model = helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 14)])
        yield operator, model.SerializeToString(), expected


def _lines(report: Report) -> Iterator[str]:
    yield f"turnout {report.turnout}, {report.python}, {report.platform}"
    yield ""
    yield "Plugins"
    yield table(
        [(one.name, f"{one.distribution} {one.version}".strip(), _state(one)) for one in report.plugins]
        or [("none installed: only ONNX's reference evaluator runs, which is right but slow",)],
        indent=2,
    )
    yield ""
    yield "Devices"
    tried = [(_mark(one.ok), one.name, one.message, one.description) for one in report.devices]
    yield table(
        [*tried, *((_mark(None if not one.broken else False), one.provider, one.message, "") for one in report.absent)],
        indent=2,
    )
    yield from (f"        {one.provider}: {one.hint}" for one in report.absent if one.hint and not one.broken)
    yield from (f"        {one.name} verified: {one.verified}" for one in report.devices if one.verified)
    for one in report.devices:
        if one.wrong:
            yield f"        {one.name} gave wrong results for these when it was verified; they are kept off it (doctor --forget):"
            yield from (f"            {operator}: {reason}" for operator, reason in one.wrong.items())
    if report.checks:
        yield ""
        yield "Packages"
        yield table([(_mark(one.ok), one.name, one.message) for one in report.checks], indent=2)
    if report.not_installed:
        yield ""
        yield f"Not installed: {', '.join(report.not_installed)} (pip install NAME)"
    yield ""
    yield from _summary(report.problems)


def _state(plugin: PluginReport) -> str:
    return "see below" if plugin.problem else ", ".join(plugin.providers) or "no devices of its own"


def _mark(ok: bool | None) -> str:
    return {True: "ok", False: "FAILED", None: "-"}[ok]


def _summary(problems: list[tuple[str, list[str]]]) -> Iterator[str]:
    if not problems:
        yield "Everything that is installed works."
        return
    yield "One problem:" if len(problems) == 1 else f"{len(problems)} problems:"
    for message, commands in problems:
        yield f"  {message}"
        yield from (f"      {command}" for command in commands if command)


if __name__ == "__main__":
    found = _tried(sys.argv[1])
    print(f"\n{_RESULT}{json.dumps(found)}", flush=True)
    os._exit(0)  # a driver that crashes as the interpreter ends did come back from its trial
