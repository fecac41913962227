"""Plugins that crash, hang, quit, raise or lie: each is one line in the report, and everything else still works."""

from __future__ import annotations

from typing import Any

import pytest
from made_plugins import Site, provider

pytestmark = pytest.mark.skipif("os.name == 'nt'", reason="the ways to die are POSIX signals")

HOOK = "import turnout\n@turnout.hookimpl\n"

# what the probe does -> what is said of it
PROBES = {
    "killed": ("os.kill(os.getpid(), signal.SIGSEGV)", "crashed (SIGSEGV)"),
    "nullpointer": ("ctypes.string_at(0)", "crashed (SIGSEGV)"),
    "leaves": ("os._exit(3)", "ended the process (exit status 3)"),
    "leavescleanly": ("os._exit(0)", "ended the process (exit status 0)"),
    "talksandleaves": ("print('driver too old', flush=True); os._exit(1)", "driver too old"),
    "exits": ("sys.exit('no licence')", "its probe raised SystemExit: no licence"),
    "raises": ("1 / 0", "its probe raised ZeroDivisionError"),
    "forgets": ("pass", "its probe raised TypeError"),
    "lies": ("return [42]", "its probe gave 42 where device lies:0 was due"),
    "boasts": ("return [Device('cpu')]", "where device boasts:0 was due"),
}

# what the module is -> what is said of it
MODULES = {
    "unimportable": ("import libmissing", "could not be imported: ModuleNotFoundError"),
    "ungrammatical": ("def (", "could not be imported: SyntaxError"),
    "quits": ("import sys\nsys.exit('no library')", "could not be imported: SystemExit: no library"),
    "hookraises": (f"{HOOK}def turnout_providers():\n    1 / 0", "raised in turnout_providers: ZeroDivisionError"),
    "hooknumber": (f"{HOOK}def turnout_providers():\n    return 7", "raised in turnout_providers: TypeError"),
    "hooklate": (f"{HOOK}def turnout_providers():\n    yield 1 / 0", "raised in turnout_providers: ZeroDivisionError"),
    "hookclass": (f"{HOOK}def turnout_providers():\n    return [turnout.Provider]", "is not a turnout.Provider"),
    "hookunknown": (f"{HOOK}def turnout_nonsense():\n    pass", "does not fit turnout's hooks"),
    "hookarguments": (f"{HOOK}def turnout_providers(colour):\n    pass", "does not fit turnout's hooks"),
    "formats": (f"{HOOK}def turnout_formats():\n    return [3]", "raised in turnout_formats: TypeError: it gave 3"),
    "operators": (f"{HOOK}def turnout_operators():\n    return 'Relu'", "raised in turnout_operators: TypeError"),
    "future": (provider("future", api=99), "was written for provider contract 99"),
    "namesake": (provider("good"), "a provider named good is already there"),
    "misnamed": (provider("Not A Name"), "has the name 'Not A Name'"),
    "reserved": (provider("reference"), "a provider named reference is already there"),
}


@pytest.fixture(scope="module")
def crowd(tmp_path_factory: pytest.TempPathFactory) -> Site:
    """All of the broken ones at once, around a good one."""
    site = Site(tmp_path_factory.mktemp("crowd"))
    site.add("good", provider("good"))
    for name, (probe, _) in PROBES.items():
        site.add(name, provider(name, probe))
    for name, (source, _) in MODULES.items():
        site.add(name, source)
    return site


@pytest.fixture(scope="module")
def devices(crowd: Site) -> Any:
    return crowd.json("devices")


@pytest.fixture(scope="module")
def report(crowd: Site) -> Any:
    return crowd.json("doctor")


def test_the_others_are_still_listed(devices: Any) -> None:
    assert {"good:0", "reference:0"} <= {one["name"] for one in devices["devices"]}


@pytest.mark.parametrize("name", PROBES)
def test_devices_says_what_became_of_a_probe(devices: Any, name: str) -> None:
    (line,) = [one for one in devices["unavailable"] if one["name"] == name]
    assert PROBES[name][1] in line["reason"]
    assert line["hint"]


@pytest.mark.parametrize("name", PROBES)
def test_doctor_says_what_became_of_a_probe(report: Any, name: str) -> None:
    (absent,) = [one for one in report["absent"] if one["provider"] == name]
    assert PROBES[name][1] in absent["message"]
    assert absent["broken"]


@pytest.mark.parametrize("name", sorted(MODULES.keys() - {"formats"}))
def test_doctor_says_what_is_wrong_with_a_plugin(report: Any, name: str) -> None:
    (plugin,) = [one for one in report["plugins"] if one["distribution"] == f"made-{name}"]
    assert MODULES[name][1] in plugin["problem"]
    assert plugin["hint"]
    assert plugin["providers"] == []


def test_formats_are_asked_for_when_a_model_is_opened_and_a_bad_list_is_that_plugins_problem(report: Any) -> None:
    # the trial of the reference provider loads a model, which is when formats are asked for
    (plugin,) = [one for one in report["plugins"] if one["distribution"] == "made-formats"]
    assert MODULES["formats"][1] in plugin["problem"]


def test_doctor_goes_on_to_try_the_devices_that_work(report: Any) -> None:
    tried = {one["name"]: one for one in report["devices"]}
    assert tried["reference:0"]["ok"] is True
    assert tried["good:0"]["ok"] is None
    assert "no simple operator supported" in tried["good:0"]["message"]
    assert report["ok"] is False


def test_doctor_fails_and_prints_every_problem_with_its_mending_line(crowd: Site) -> None:
    done = crowd.turnout("doctor")
    assert done.returncode == 1
    for _, message in PROBES.values():
        assert message in done.stdout
    assert "pip install --upgrade made-unimportable" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr


def test_plugins_lists_all_of_them(crowd: Site) -> None:
    listed = {one["distribution"]: one for one in crowd.json("plugins")}
    assert {f"made-{name}" for name in (*PROBES, *MODULES, "good")} <= set(listed)
    assert listed["made-good"]["brings"] == ["provider good"]
    assert listed["made-good"]["problem"] is None
    assert "pip install --upgrade" in listed["made-unimportable"]["problem"]["hint"]


def test_a_probe_that_hangs_is_given_up(site: Site) -> None:
    site.add("hangs", provider("hangs", "time.sleep(60)"))
    unavailable = site.json("devices", TURNOUT_PROBE_SECONDS="1")["unavailable"]
    (line,) = [one for one in unavailable if one["name"] == "hangs"]
    assert "did not come back within 1 s" in line["reason"]


def test_two_plugins_of_one_name_keep_the_first(site: Site) -> None:
    site.add("first", provider("one"), entry_points="same = made_first")
    site.add("second", provider("two"), entry_points="same = made_second")
    listed = {one["distribution"]: one for one in site.json("plugins")}
    brought = [listed["made-first"]["brings"], listed["made-second"]["brings"]]
    assert sorted(map(len, brought)) == [0, 1]
    (left_out,) = [one for one in listed.values() if one["problem"] and not one["brings"]]
    assert "a plugin named same is already there" in left_out["problem"]["message"]


def test_one_module_under_two_names_is_one_plugin_and_one_problem(site: Site) -> None:
    site.add("twice", provider("twice"), entry_points="once = made_twice\nagain = made_twice")
    listed = {one["name"]: one for one in site.json("plugins") if one["distribution"] == "made-twice"}
    assert sum(one["brings"] == ["provider twice"] for one in listed.values()) == 1
    assert sum(one["problem"] is not None for one in listed.values()) == 1


def test_a_plugin_whose_commands_or_checks_raise_takes_nothing_along(site: Site) -> None:
    site.add("cmd", f"{HOOK}def turnout_commands(cli):\n    raise RuntimeError('no commands today')")
    site.add("chk", f"{HOOK}def turnout_checks():\n    raise RuntimeError('no checks today')")
    site.add("odd", f"{HOOK}def turnout_checks():\n    return ['fine']")
    helped = site.turnout("--help")
    assert helped.returncode == 0
    assert "devices" in helped.stdout
    report = site.json("doctor")
    (plugin,) = [one for one in report["plugins"] if one["name"] == "chk"]
    assert "no checks today" in plugin["problem"]
    assert any("'fine'" in one["message"] for one in report["checks"])


def add_device(site: Site, name: str, work: str) -> None:
    """A plugin whose device takes every node, and does this at its first work."""
    source = provider(name).replace('turnout.No("it is only here to be probed")', "turnout.Yes()")
    site.add(name, source.replace("raise NotImplementedError", "return Works(graph)") + WORKS.format(work=work))


def test_a_device_that_crashes_or_errs_at_its_trial_is_reported(site: Site) -> None:
    add_device(site, "crashes", "os.kill(os.getpid(), signal.SIGSEGV)")
    add_device(site, "errs", "return [values[0] * 0]")
    add_device(site, "refuses", "raise turnout.TurnoutError('out of luck', hint='try again')")
    tried = {one["name"]: one for one in site.json("doctor")["devices"]}
    assert "its trial crashed (SIGSEGV)" in tried["crashes:0"]["message"]
    assert "Add gave [[0.0, 0.0], [0.0, 0.0]] where" in tried["errs:0"]["message"].replace("-0.0", "0.0")
    assert tried["refuses:0"]["message"] == "Add failed: out of luck"
    assert tried["refuses:0"]["hint"] == "try again"
    assert [tried[f"{name}:0"]["ok"] for name in ("crashes", "errs", "refuses")] == [False] * 3
    assert tried["reference:0"]["ok"] is True


def test_a_device_that_hangs_at_its_trial_is_given_up(site: Site) -> None:
    add_device(site, "hangs", "time.sleep(60)")
    tried = {one["name"]: one for one in site.json("doctor", TURNOUT_DOCTOR_SECONDS="2")["devices"]}
    assert tried["hangs:0"]["ok"] is False
    assert tried["hangs:0"]["message"] == "its trial did not come back within 2 s"


WORKS = """
class Works(turnout.Executable):
    def __init__(self, graph):
        self.inputs, self.outputs = graph.inputs, graph.outputs

    def run(self, values, out=None):
        {work}
"""
