"""A real language model, from a prompt to text, in Python and on the command line."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import Result

import turnout

QUESTION = "What is the capital of France?"


@pytest.fixture(scope="module")
def exact(smollm2: Path) -> Iterator[turnout.Model]:
    with turnout.load(smollm2, device="cpu", accuracy="exact") as model:
        yield model


def test_the_capital_of_france(exact: turnout.Model) -> None:
    result = exact.generate(QUESTION, max_tokens=16).result
    assert result.text == "The capital of France is Paris."
    assert result.finish_reason == "stop"
    assert exact.generate("The capital of France is", raw=True, max_tokens=1).result.text == " Paris"


def test_tokens_and_text(exact: turnout.Model) -> None:
    tokens = exact.tokenize(QUESTION)
    assert tokens == [1780, 314, 260, 3575, 282, 4649, 47]
    assert exact.detokenize(tokens) == QUESTION
    logits = exact.logits(tokens)
    assert logits.shape == (7, 49152)
    assert exact.detokenize([int(logits[4].argmax())]) == " France"  # after "What is the capital of"


def test_a_conversation_computes_only_what_is_new(exact: turnout.Model) -> None:
    chat = exact.chat(max_tokens=2)
    first = chat.send(QUESTION).result
    second = chat.send("And of Italy?").result
    assert second.reused_tokens >= first.prompt_tokens


@pytest.mark.slow
def test_the_example_of_the_docs(smollm2: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """So near to exact arithmetic that no kernel of some processor changes the answers."""
    page = (Path(__file__).parents[2] / "docs" / "text.md").read_text()
    code, shown = (re.search(rf"```{kind}\n(.*?)```", page, re.DOTALL) for kind in ("python", "text"))
    assert code is not None
    assert shown is not None
    monkeypatch.chdir(smollm2.parent)
    exec(code[1], {})
    assert capsys.readouterr().out == shown[1]


def test_generate_on_the_command_line(smollm2: Path, command: Callable[..., Result]) -> None:
    """A small model is computed near to exact without being asked to; 8 bits for its activations would begin with another word."""
    ran = command("generate", str(smollm2), QUESTION, "-d", "cpu")
    assert ran.exit_code == 0
    assert ran.stdout == "The capital of France is Paris.\n"
    assert "prompt: 37 tokens" in ran.stderr
    assert "answer: 8 tokens" in ran.stderr
    ran = command("generate", str(smollm2), "The capital of France is", "-d", "cpu", "-n", "1", "--raw", "--json")
    told = json.loads(ran.stdout)
    assert (told["text"], told["generated_tokens"], told["finish_reason"]) == (" Paris", 1, "length")
