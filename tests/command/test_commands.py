from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import numpy as np
import pytest
from click.testing import Result

from turnout import errors, plugins
from turnout.hooks import hookimpl

Turnout = Callable[..., Result]


def test_help_tells_every_command_and_every_exit_status(turnout: Turnout) -> None:
    shown = turnout("--help").stdout
    for command in ("devices", "doctor", "explain", "run", "bench", "plugins", "demo"):
        assert f"\n  {command} " in shown
    for code in (0, 1, 2, 3, 4, 5, 6, 130, 141):
        assert f"\n    {code} " in shown


def test_version(turnout: Turnout) -> None:
    import turnout as package

    assert turnout("--version").stdout == f"turnout {package.__version__}\n"


def test_devices_lists_them_best_first(turnout: Turnout) -> None:
    found = turnout("devices")
    assert found.exit_code == 0
    assert found.stdout.splitlines()[0].split() == ["device", "description", "memory", "provider", "notes"]
    devices = [line.split()[0] for line in found.stdout.splitlines() if line[:1].strip() and ":" in line.split()[0]]
    assert devices[-1] == "reference:0"
    listed = json.loads(turnout("devices", "--json").stdout)
    assert listed["devices"][-1]["name"] == "reference:0"


def test_doctor_tries_the_reference_provider(turnout: Turnout, monkeypatch: pytest.MonkeyPatch) -> None:
    import turnout as package

    monkeypatch.setattr(package.plugins, "not_installed", lambda: ["turnout-elsewhere"])
    report = package.doctor()
    (tried,) = [one for one in report.devices if one.name == "reference:0"]
    assert (tried.ok, tried.operator) == (True, "Add")
    assert tried.milliseconds is not None
    shown = str(report)
    assert "ok  reference:0  Add in" in shown
    assert "Not installed: turnout-elsewhere" in shown


def test_explain_tells_the_plan_and_one_nodes_story(turnout: Turnout, scale: Path) -> None:
    told = turnout("explain", scale, "-d", "reference")
    assert "1 node in 1 partition" in told.stdout
    assert json.loads(turnout("explain", scale, "-d", "reference", "--json").stdout)["nodes"][0]["name"] == "scaling"
    assert "scaling (Mul) runs on reference:0" in turnout("explain", scale, "-d", "reference", "--node", "scaling").stdout


def test_explain_of_a_node_that_is_not_there_names_those_that_come_close(turnout: Turnout, scale: Path) -> None:
    missed = turnout("explain", scale, "-d", "reference", "--node", "scalin")
    assert missed.exit_code == 2
    assert "did you mean scaling?" in missed.stderr


def test_several_devices_are_a_list_and_one_is_a_demand(turnout: Turnout, scale: Path) -> None:
    for names in (("-d", "reference"), ("--device", "reference:0")):
        assert json.loads(turnout("explain", scale, *names, "--json").stdout)["partitions"][0]["device"] == "reference:0"
    for names in (("-d", "reference,nowhere"), ("-d", "reference", "-d", "nowhere")):
        assert "'nowhere'" in turnout("explain", scale, *names).stderr
    unnamed = turnout("explain", scale, "-d", "")
    assert unnamed.exit_code == 2
    assert "no device is named" in unnamed.stderr


def fail(error: BaseException) -> Any:
    """A plugin whose command raises."""

    @hookimpl
    def turnout_commands(cli: click.Group) -> None:
        @cli.command()
        def failing() -> None:
            raise error

    return SimpleNamespace(turnout_commands=turnout_commands)


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Any:
    from turnout.cli import cli

    def run(turnout: Turnout, error: BaseException) -> Result:
        monkeypatch.setattr(cli, "_plugins", None)
        plugins.register(fail(error), "failing")
        try:
            return turnout("failing")
        finally:
            plugins.unregister("failing")
            cli._plugins = None  # type: ignore[attr-defined]

    return run


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.TurnoutError("what", hint="next"), 1),
        (errors.NoSuchDevice("what", hint="next"), 3),
        (errors.Unavailable("what", hint="next"), 3),
        (errors.InvalidModel("what", hint="next"), 4),
        (errors.CompileError("what", hint="next"), 4),
        (errors.OutOfMemory("what", hint="next"), 5),
        (errors.InvalidInput("what", hint="next"), 5),
        (errors.BrokenPlugin("what", hint="next"), 6),
    ],
)
def test_errors_are_two_lines_and_a_status(turnout: Turnout, failing: Any, error: Exception, code: int) -> None:
    done = failing(turnout, error)
    assert (done.exit_code, done.stdout) == (code, "")
    assert done.stderr == "error: what\nhint: next\n"


def test_what_should_not_happen_says_so_without_a_traceback(turnout: Turnout, failing: Any) -> None:
    done = failing(turnout, ZeroDivisionError("by nought"))
    assert done.exit_code == 1
    assert "ZeroDivisionError: by nought" in done.stderr
    assert "Traceback" not in done.stderr


def test_with_debugging_on_the_traceback_is_shown(
    turnout: Turnout, failing: Any, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TURNOUT_DEBUG", "1")
    done = failing(turnout, errors.InvalidInput("what"))
    assert done.exit_code == 5
    assert "Traceback" in done.stderr


def test_an_interrupt_is_quiet(turnout: Turnout, failing: Any) -> None:
    done = failing(turnout, KeyboardInterrupt())
    assert (done.exit_code, done.output) == (130, "")


def test_a_plugins_command_is_listed_and_does_not_replace_ours(turnout: Turnout) -> None:
    from turnout.cli import cli

    @hookimpl
    def turnout_commands(cli: click.Group) -> None:
        cli.add_command(click.Command("extra", callback=lambda: click.echo("extra!")))
        cli.add_command(click.Command("devices", callback=lambda: click.echo("hijacked")))

    plugins.register(SimpleNamespace(turnout_commands=turnout_commands), "commanding")
    cli._plugins = None  # type: ignore[attr-defined]
    try:
        assert "\n  extra" in turnout("--help").stdout
        assert turnout("extra").stdout == "extra!\n"
        assert "hijacked" not in turnout("devices").stdout
    finally:
        plugins.unregister("commanding")
        cli._plugins = None  # type: ignore[attr-defined]


def test_usage_errors_are_clicks_own(turnout: Turnout) -> None:
    assert turnout("nonsense").exit_code == 2
    assert turnout("run").exit_code == 2


def test_verbose_shows_the_log(turnout: Turnout, scale: Path) -> None:
    quiet = turnout("explain", scale, "-d", "reference")
    loud = turnout("explain", scale, "-d", "reference", "-v")
    assert "planned and compiled in" not in quiet.stderr
    assert "scale.onnx: 1 nodes on reference:0; planned and compiled in" in loud.stderr
    logging.getLogger("turnout").warning("mind the gap")


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("run", "nowhere.onnx"), 4, "there is no file nowhere.onnx"),
        (("run", "{scale}", "-d", "warp"), 3, "'warp'"),
        (("run", "{scale}", "-d", "reference"), 5, "2 inputs are missing: x (float32[N,3]), factor (float32[])"),
        (("run", "{scale}", "-d", "reference", "-i", "x=1", "-i", "random", "--dim", "M=1"), 5, "no dimension named M"),
        (("bench", "{scale}", "-d", "reference", "--vs", "abacus"), 3, "with 'abacus' directly"),
    ],
)
def test_statuses_of_real_mistakes(turnout: Turnout, scale: Path, arguments: tuple[str, ...], code: int, said: str) -> None:
    done = turnout(*(one.format(scale=scale) for one in arguments))
    assert done.exit_code == code, done.output
    assert said in done.stderr
    assert "\nhint: " in done.stderr


def test_run_prints_a_table(turnout: Turnout, scale: Path) -> None:
    done = turnout("run", scale, "-d", "reference", "-i", "x=[[1, 2, 3]]", "-i", "factor=2")
    assert done.exit_code == 0, done.output
    heads, row = done.stdout.splitlines()
    assert heads.split() == ["output", "type", "min", "mean", "max"]
    assert row.split() == ["y", "float32[1,3]", "2", "4", "6"]


def test_run_prints_json_with_the_values_of_small_outputs(turnout: Turnout, scale: Path) -> None:
    done = turnout("run", scale, "-d", "reference", "-i", "x=[[1, 2, 3]]", "-i", "factor=2", "--json")
    (y,) = json.loads(done.stdout)["outputs"]
    assert (y["name"], y["dtype"], y["shape"], y["values"]) == ("y", "float32", [1, 3], [[2.0, 4.0, 6.0]])


def test_run_writes_files(turnout: Turnout, scale: Path, tmp_path: Path) -> None:
    folder = tmp_path / "new" / "folder"
    done = turnout("run", scale, "-d", "reference", "-i", "random", "--dim", "N=2", "--output-dir", folder)
    assert done.exit_code == 0, done.output
    assert np.load(folder / "y.npy").shape == (2, 3)
    assert str(folder / "y.npy") in done.stdout


def test_run_gives_the_same_for_the_same_seed(turnout: Turnout, scale: Path) -> None:
    def outputs(seed: int) -> Any:
        done = turnout("run", scale, "-d", "reference", "-i", "random", "--seed", seed, "--json")
        return json.loads(done.stdout)["outputs"]

    assert outputs(1) == outputs(1)
    assert outputs(1) != outputs(2)


def test_run_shows_text_and_says_what_is_not_finite(turnout: Turnout, words: Path, tmp_path: Path) -> None:
    values = ("-i", 'words=["a", "b"]', "-i", "x=[0, 1]")
    done = turnout("run", words, "-d", "reference", *values, "--output-dir", tmp_path / "out")
    assert "string[2]" in done.stdout
    assert "'a', 'b'" in done.stdout
    assert "1 values are not finite" in done.stdout
    assert np.load(tmp_path / "out" / "same_words_0.npy").tolist() == ["a", "b"]
    found = json.loads(turnout("run", words, "-d", "reference", *values, "--json").stdout)["outputs"]
    assert found[1]["values"] == ["-inf", 0.0]
    assert found[1]["min"] is None


def test_a_folder_that_cannot_be_written_is_said(turnout: Turnout, scale: Path) -> None:
    done = turnout("run", scale, "-d", "reference", "-i", "random", "--output-dir", scale / "below")
    assert done.exit_code == 5
    assert "the outputs cannot be written" in done.stderr


def test_bench_measures_so_many_runs(turnout: Turnout, scale: Path) -> None:
    done = turnout("bench", scale, "-d", "reference", "--runs", "5", "--json")
    assert done.exit_code == 0, done.output
    measured = json.loads(done.stdout)
    (timing,) = measured["timings"]
    assert (measured["devices"], measured["ratio"], timing["runs"]) == (["reference:0"], None, 5)
    assert 0 < timing["p50"] <= timing["p90"] <= timing["p99"]
    assert timing["load"] > 0


def test_bench_takes_turns_with_a_peer(turnout: Turnout, scale: Path) -> None:
    calls: list[Any] = []

    @hookimpl
    def turnout_peer(name: str, path: str) -> Any:
        return calls.append if (name, Path(path)) == ("slate", scale) else None

    plugins.register(SimpleNamespace(turnout_peer=turnout_peer), "slate")
    try:
        done = turnout("bench", scale, "-d", "reference", "--runs", "4", "--vs", "slate", "--json")
        shown = turnout("bench", scale, "-d", "reference", "--seconds", "0.01", "--vs", "slate")
    finally:
        plugins.unregister("slate")
    measured = json.loads(done.stdout)
    assert [one["name"] for one in measured["timings"]] == ["turnout", "slate"]
    assert [one["runs"] for one in measured["timings"]] == [4, 4]
    assert measured["ratio"] > 1
    assert set(calls[0]) == {"x", "factor"}
    assert "times as long as slate" in shown.stdout
