"""Chat templates: llama.cpp's collection, what transformers would give them, and templates that mean harm."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from turnout.errors import InvalidInput, InvalidModel
from turnout_text.template import ChatTemplate

TOKENS = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
TALK = [
    {"role": "user", "content": "What is 1 + 1?"},
    {"role": "assistant", "content": "It is 2."},
    {"role": "user", "content": "And how far is the moon?"},
]


def render(source: str, messages: list[dict[str, Any]] | None = None, **values: Any) -> str:
    return ChatTemplate(source, TOKENS).render(TALK if messages is None else messages, **values)


_WANTS: dict[str, dict[str, Any]] = {
    "CohereForAI-c4ai-command-r-plus-tool_use.jinja": {"tools": []},
    "NousResearch-Hermes-2-Pro-Llama-3-8B-tool_use.jinja": {"tools": []},
    "NousResearch-Hermes-3-Llama-3.1-8B-tool_use.jinja": {"tools": []},
    "fireworks-ai-llama-3-firefunction-v2.jinja": {"functions": "[]", "datetime": "today"},
}
"""Templates for tools alone, and what they cannot do without."""


def test_all_templates_of_the_collection(vocabularies: Path) -> None:
    """Each renders a plain conversation, and with a word from the system; a refusal is the template's own, and says why."""
    every = sorted((vocabularies / "templates").iterdir())
    files = [file for file in every if file.suffix == ".jinja"]
    assert [file.name for file in every if file not in files] == ["README.md"]
    assert (len(every), len(files)) == (71, 70)
    for file in files:
        template, more = ChatTemplate(file.read_text(encoding="utf-8"), TOKENS), _WANTS.get(file.name, {})
        for messages in (TALK, [{"role": "system", "content": "Be brief."}, *TALK]):
            if file.name == "google-gemma-2-2b-it.jinja" and messages is not TALK:
                with pytest.raises(InvalidInput, match="refuses these messages: System role not supported"):
                    template.render(messages)
                continue
            if more:
                with pytest.raises(InvalidInput, match="fails on these messages") as wrong:
                    template.render(messages)
                assert "tools" in wrong.value.hint
            said = template.render(messages, **more)
            places = [said.find(message["content"]) for message in messages if message["role"] == "user"]
            assert -1 not in places, file.name
            assert places == sorted(places), file.name


def test_what_transformers_gives_a_template() -> None:
    assert (
        render("{{ raise_exception('no') if false }}{{ [1, 'é<'] | tojson }}{{ {'a': 1} | tojson(indent=2) }}") == '[1, "é<"]{\n  "a": 1\n}'
    )
    assert re.fullmatch(r"\d{4}-\d\d", render("{{ strftime_now('%Y-%m') }}"))
    assert render("{% for m in messages %}{% if loop.index == 2 %}{% break %}{% endif %}{{ m.role }}{% endfor %}") == "user"
    assert render("  {% if true %}\nx\n  {% endif %}\n") == "x\n"
    assert render("{% generation %}{{ messages[1].content }}{% endgeneration %}") == "It is 2."
    assert render("{{ bos_token }}{{ add_generation_prompt }}{{ tools }}{{ enable_thinking }}", enable_thinking=False) == "<s>TrueNoneFalse"


def test_a_template_refuses_with_its_own_words() -> None:
    with pytest.raises(InvalidInput, match="refuses these messages: roles must alternate"):
        render("{{ raise_exception('roles must alternate') }}")


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.append(1) }}",
        "{{ cycler.__init__.__globals__.os.system('true') }}",
        "{{ raise_exception.__globals__ }}",
        "{{ strftime_now.__globals__['__builtins__'] }}",
        "{{ ''|attr('__class__') }}{{ (''|attr('__class__')).mro() }}",
        "{{ '{0.__class__}'.format(1) }}",
        "{% for i in range(999999999) %}x{% endfor %}",
        "{% include '/etc/passwd' %}",
        "{% import 'os' as os %}",
    ],
)
def test_templates_that_mean_harm_are_stopped(source: str) -> None:
    try:
        said = render(source)
    except (InvalidModel, InvalidInput):
        return
    assert "class" not in said
    assert "root:" not in said


@pytest.mark.parametrize("source", ["{% if %}", "{{ ", "{% endfor %}", "{{ messages | nonsense }}", "{% unknown %}"])
def test_templates_that_are_none(source: str) -> None:
    with pytest.raises(InvalidModel, match="cannot be read"):
        render(source)


@pytest.mark.parametrize("messages", [[{"role": "user"}], [{"role": "user", "content": None}], [{"role": 3, "content": 4}]])
def test_messages_that_do_not_fit_are_no_traceback(messages: list[dict[str, Any]]) -> None:
    for source in ("{{ messages[0].nothing.more }}", "{{ messages[0]['content'].strip().foo.bar }}", "{{ messages[7].content.x }}"):
        with pytest.raises(InvalidInput) as wrong:
            render(source, messages)
        assert wrong.value.hint
