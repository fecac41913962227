"""`turnout generate` and `turnout chat`, with a small decoder in a folder."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from text_decoders import folder

from turnout.errors import RunError
from turnout_text import commands

Run = Callable[..., Result]


@pytest.fixture
def run(command: Run) -> Run:
    return command


@pytest.fixture(scope="module")
def small(tmp_path_factory: Any) -> str:
    return str(folder(tmp_path_factory.mktemp("small") / "model"))


def test_text_on_stdout_and_figures_on_stderr(small: str, run: Run) -> None:
    ran = run("generate", small, "hello", "-n", "5")
    assert ran.exit_code == 0
    assert ran.stdout.endswith("\n")
    assert "tokens/s (" in ran.stderr
    assert "tokens/s" not in ran.stdout
    assert run("generate", small, "-", "-n", "5", stdin="hello").stdout == ran.stdout


def test_json_has_every_figure(small: str, run: Run) -> None:
    told = json.loads(run("generate", small, "hello", "-n", "5", "--json", "--seed", "3", "-t", "1.5", "--top-k", "4").stdout)
    assert told["generated_tokens"] <= 5
    assert {"text", "finish_reason", "tokens_per_second", "first_piece_seconds", "prompt_tokens"} <= set(told)


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("-t", "-1"), 5, "temperature"),
        (("--stop", ""), 5, "stop"),
        (("--raw", "--system", "x"), 2, "--raw"),
        (("-d", "nowhere"), 3, "nowhere"),
        (("--accuracy", "best"), 2, "accuracy"),
    ],
)
def test_wrong_options_are_told(small: str, arguments: tuple[str, ...], code: int, said: str, run: Run) -> None:
    ran = run("generate", small, "x", *arguments)
    assert ran.exit_code == code
    assert said in ran.stderr
    assert "Traceback" not in ran.stderr


def test_what_is_no_language_model(tmp_path: Path, run: Run) -> None:
    import onnx
    from onnx import parser

    onnx.save(
        parser.parse_model('<ir_version: 10, opset_import: ["" : 21]> g (float[2] x) => (float[2] y) { y = Relu(x) }'), tmp_path / "r.onnx"
    )
    for command in (("generate", str(tmp_path / "r.onnx"), "x"), ("chat", str(tmp_path / "r.onnx"))):
        ran = run(*command)
        assert ran.exit_code == 4
        assert "does not make text" in ran.stderr


def test_a_conversation_with_commands(small: str, run: Run) -> None:
    lines = [
        "hello",
        "/history",
        "/set max-tokens=2",
        "again",
        "/set top_k=x",
        "/nothing",
        "/system",
        "/set temperature",
        "/help",
        "/system brief",
        "/history",
        "/quit",
        "lost",
    ]
    ran = run("chat", small, "-n", "4", stdin="\n".join(lines))
    assert ran.exit_code == 0
    assert "user: hello\nassistant: " in ran.stdout
    assert "system: brief" in ran.stdout
    assert "lost" not in ran.stdout
    assert ran.stderr.count("tokens/s (") == 2
    assert "answer: 4 tokens" in ran.stderr
    assert "answer: 2 tokens" in ran.stderr
    assert "error: chat: top_k" in ran.stderr
    assert "there is no '/nothing'" in ran.stderr
    assert "/system wants a text after it" in ran.stderr
    assert "/set wants NAME=VALUE after it" in ran.stderr


@pytest.fixture
def ctrl_c(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Ctrl-C comes after the second piece of every answer. The signal's handler must be as it was afterwards."""
    show, before = commands._show, signal.getsignal(signal.SIGINT)

    def interrupted(stream: Any) -> None:
        show([next(stream), next(stream)])
        signal.raise_signal(signal.SIGINT)
        show(stream)

    monkeypatch.setattr(commands, "_show", interrupted)
    yield
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.usefixtures("ctrl_c")
def test_ctrl_c_ends_a_generation_with_what_came_and_its_figures(small: str, run: Run) -> None:
    ran = run("generate", small, "hello", "-n", "50", "-t", "1", "--seed", "1")
    assert ran.exit_code == 130
    assert ran.stdout
    assert re.search(r"answer: [23] tokens, .*\(cancelled\)", ran.stderr)


@pytest.mark.usefixtures("ctrl_c")
def test_ctrl_c_ends_an_answer_and_the_conversation_goes_on_from_there(small: str, run: Run) -> None:
    ran = run("chat", small, "-n", "50", "-t", "1", "--seed", "1", stdin="hello\nagain\n/history\n")
    assert ran.exit_code == 0
    assert ran.stderr.count("(cancelled)") == 2
    assert "of them known" in ran.stderr.splitlines()[-1]
    assert ran.stdout.count("assistant: ") == 2


def test_a_failure_is_told_and_ends_what_a_program_drives(small: str, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def lost(stream: Any) -> None:
        raise RunError("the device went away", hint="plug it in")

    monkeypatch.setattr(commands, "_show", lost)
    assert run("chat", small, stdin="hello\nagain\n").exit_code == 5


def test_a_conversation_for_programs(small: str, run: Run) -> None:
    ran = run("chat", small, "-n", "4", "--json", stdin="hello\nagain\n")
    assert [json.loads(line)["generated_tokens"] for line in ran.stdout.splitlines()] == [4, 4]


def test_a_conversation_that_is_too_long_goes_on(tmp_path: Path, run: Run) -> None:
    short = str(folder(tmp_path / "short", context=40))
    ran = run("chat", short, "-n", "2", stdin="hello\n" + "x" * 60 + "\nhi\n")
    assert ran.exit_code == 0
    assert "takes 40" in ran.stderr
    assert ran.stderr.count("tokens/s (") == 2
    ran = run("chat", short, "-n", "2", "--json", stdin="hello\n" + "x" * 60 + "\nhi\n")
    told = [json.loads(line) for line in ran.stdout.splitlines()]
    assert [one.get("generated_tokens") for one in told] == [2, None, 2]
    assert "takes 40" in told[1]["error"]


def test_help_lists_them(run: Run) -> None:
    ran = run("--help")
    assert "generate" in ran.stdout
    assert "chat" in ran.stdout
