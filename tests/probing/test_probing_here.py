"""Plugins registered by hand, and the small print of probing, in this process."""

from __future__ import annotations

import sys
import types
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

import turnout
from turnout import plugins, probe
from turnout.errors import BrokenPlugin, IncompatiblePlugin, Unavailable


class Made(turnout.Provider):
    name = "made"
    found: Any = ()

    def __init__(self) -> None:
        self.probes = 0

    def probe(self) -> Sequence[turnout.Device]:
        self.probes += 1
        if isinstance(self.found, BaseException):
            raise self.found
        return self.found

    def supports(self, node: Any, graph: Any, device: turnout.Device) -> turnout.No:
        return turnout.No("it is only here to be probed")

    def compile(self, graph: Any, device: turnout.Device, options: Any) -> turnout.Executable:
        raise NotImplementedError


def plugin_of(*found: Any) -> types.SimpleNamespace:
    @turnout.hookimpl
    def turnout_providers() -> list[Any]:
        return list(found)

    return types.SimpleNamespace(turnout_providers=turnout_providers)


@pytest.fixture
def made() -> Iterator[Made]:
    one = Made()
    plugins.register(plugin_of(one), "made-by-hand")
    yield one
    plugins.unregister("made-by-hand")


def test_a_provider_registered_by_hand_is_probed_here_and_once(made: Made) -> None:
    made.found = [turnout.Device("made")]
    assert probe.probe(made).devices == (turnout.Device("made"),)
    assert probe.probe(made) is probe.probe(made)
    assert made.probes == 1
    assert turnout.Device("made") in turnout.devices()


def test_the_reason_is_held_not_raised(made: Made) -> None:
    made.found = Unavailable("no card", hint="put one in")
    probed = probe.probe(made)
    assert probed.devices == ()
    assert probed.error is made.found


@pytest.mark.parametrize("raised", [RuntimeError("no"), SystemExit(1)])
def test_whatever_else_it_raises_is_the_plugins_fault(made: Made, raised: BaseException) -> None:
    made.found = raised
    error = probe.probe(made).error
    assert isinstance(error, BrokenPlugin)
    assert f"its probe raised {type(raised).__name__}" in error.message


def test_an_interrupt_is_not_swallowed(made: Made) -> None:
    made.found = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        probe.probe(made)


def test_devices_must_be_numbered_in_order(made: Made) -> None:
    made.found = [turnout.Device("made", 1)]
    assert "where device made:0 was due" in str(probe.probe(made).error)


def test_a_name_is_registered_once(made: Made) -> None:
    with pytest.raises(ValueError, match="already registered"):
        plugins.register(plugin_of(), "made-by-hand")


@pytest.mark.parametrize(
    ("attributes", "error", "message"),
    [
        ({"api": 99}, IncompatiblePlugin, "provider contract 99"),
        ({"name": "reference"}, BrokenPlugin, "reference is already there"),
        ({"name": "made:0"}, BrokenPlugin, "has the name 'made:0'"),
        ({"rank": "first"}, BrokenPlugin, "the rank 'first'"),
    ],
)
def test_a_misfit_is_refused_and_leaves_no_trace(attributes: Any, error: type[Exception], message: str) -> None:
    misfit = type("Misfit", (Made,), attributes)()
    before = [one.name for one in plugins.installed()]
    with pytest.raises(error, match=message):
        plugins.register(plugin_of(misfit), "misfit")
    assert [one.name for one in plugins.installed()] == before


def test_brings_and_not_installed(made: Made) -> None:
    (plugin,) = [one for one in plugins.installed() if one.name == "made-by-hand"]
    assert plugins.brings(plugin) == ["provider made"]
    assert all(name.startswith("turnout-") for name in plugins.not_installed())
    assert plugins.install_hint("cuda:1") == "pip install turnout-cuda"


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (-11, "crashed (SIGSEGV)"),
        (-35, "crashed (signal 35)"),  # real-time signals have no name
        (0xC0000005, "crashed (0xC0000005)"),
        (2, "ended the process (exit status 2)"),
    ],
)
@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_the_ending_of_a_child_in_words(code: int, said: str) -> None:
    assert probe.ending(code) == said


def test_a_program_frozen_into_one_file_is_not_started_as_an_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    with pytest.raises(OSError, match="not run by a Python interpreter"):
        probe.in_child("turnout.probe", "made", 1.0)


def test_a_time_limit_that_is_no_number_is_said_and_left_aside(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setenv("TURNOUT_PROBE_SECONDS", "soon")
    assert probe._limit() == probe.CHILD_SECONDS
    assert "'soon', which is not a number" in caplog.text
