"""Chat templates: code out of a model's file, so that they run in Jinja's sandbox, with what transformers gives them and nothing else."""

from __future__ import annotations

import datetime
import functools
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from turnout.errors import InvalidInput, InvalidModel, TurnoutError

if TYPE_CHECKING:
    import jinja2

__all__ = ["ChatTemplate"]


class _Refused(Exception):
    """What a template says of messages that it does not take."""


class ChatTemplate:
    """A template, and the special tokens that it may name."""

    def __init__(self, source: str, tokens: Mapping[str, str]) -> None:
        self._source = source
        self._tokens = dict(tokens)

    def render(self, messages: Sequence[Mapping[str, Any]], *, answer: bool = True, **values: Any) -> str:
        """The messages as one text, up to where the model's answer begins.

        Raises InvalidInput where the template refuses these messages, InvalidModel where it is broken or reaches out of the sandbox.
        """
        import jinja2
        from jinja2.exceptions import SecurityError

        template = self._template
        values = {"tools": None, "documents": None, **self._tokens, **values}
        try:
            return template.render(messages=[dict(message) for message in messages], add_generation_prompt=answer, **values)
        except _Refused as error:
            raise InvalidInput(f"the model's chat template refuses these messages: {error}", hint="change roles or order") from None
        except SecurityError as error:
            raise InvalidModel(
                f"the model's chat template is not safe: {error}", hint="do not use this model's template (raw=True)"
            ) from None
        except TurnoutError:
            raise
        except (jinja2.TemplateError, Exception) as error:
            said = f"{type(error).__name__}: {error}"
            raise InvalidInput(
                f"the model's chat template fails on these messages: {said}",
                hint="it may want tools=[...], or other values (template={...}); messages are mappings with role and content",
            ) from error

    @functools.cached_property
    def _template(self) -> jinja2.Template:
        import jinja2

        try:
            return _environment().from_string(self._source)
        except (jinja2.TemplateError, RecursionError) as error:
            raise InvalidModel(f"the model's chat template cannot be read: {error}", hint="raw=True goes without it") from None


@functools.cache
def _environment() -> jinja2.Environment:
    """As transformers sets it up (utils/chat_template_utils.py): trimmed blocks, loop controls, and these names."""
    from jinja2 import nodes
    from jinja2.ext import Extension, loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Answers(Extension):
        """`{% generation %}`: marks what the model said, for training; here it changes nothing."""

        tags = {"generation"}  # noqa: RUF012 - what the base class has

        def parse(self, parser: Any) -> nodes.Node:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return nodes.Scope(body, lineno=line)

    made = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[Answers, loopcontrols])
    made.filters["tojson"] = _to_json
    made.globals["raise_exception"] = _refuse
    made.globals["strftime_now"] = lambda form: datetime.datetime.now().strftime(form)
    return made


def _to_json(value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False) -> str:
    """Jinja's own escapes HTML."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _refuse(message: str) -> NoReturn:
    raise _Refused(message)
