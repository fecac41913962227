"""`turnout generate` and `turnout chat`. Text goes to stdout as it comes; what is said about it goes to stderr."""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar, get_args

import click

from turnout.cli import common, device_option, load_model, print_json
from turnout.formats import Accuracy

if TYPE_CHECKING:
    from turnout_text.chat import Chat
    from turnout_text.stream import Result

__all__ = ["chat", "generate"]

F = TypeVar("F", bound=Callable[..., Any])


def _generation_options(function: F) -> F:
    """The options of turnout_text.options.Generation that fit on a command line; what is not given stays as it is there."""
    options: list[Any] = [
        click.option("--max-tokens", "-n", type=int, help="Tokens to make at most (512)."),
        click.option("--temperature", "-t", type=float, help="0 takes the likeliest token (the default); 1 draws as the model says."),
        click.option("--top-k", type=int, help="Draw from the so many likeliest."),
        click.option("--top-p", type=float, help="Draw from the likeliest that together are so likely."),
        click.option("--min-p", type=float, help="Leave out what is less likely than this share of the likeliest."),
        click.option("--repetition-penalty", type=float, help="Above 1: tokens seen before are less likely."),
        click.option("--stop", multiple=True, help="A text that ends the answer; may be given several times."),
        click.option("--seed", type=int, help="The same seed draws the same tokens."),
        click.option("--system", help="What the system says to the model first."),
        click.option(
            "--accuracy",
            type=click.Choice(get_args(Accuracy)),
            default="auto",
            show_default=True,
            help="exact: float32 throughout; near: float16 for activations; fast: 8 bits for them; auto: near for small models, else fast.",
        ),
    ]
    decorated: Any = function
    for option in reversed(options):
        decorated = option(decorated)
    return decorated  # type: ignore[no-any-return]


def _given(options: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value not in (None, ())}


@click.command()
@click.argument("model")
@click.argument("prompt")
@device_option
@_generation_options
@click.option("--raw", is_flag=True, help="Continue PROMPT as it stands, without the model's chat template.")
@common()
def generate(
    model: str,
    prompt: str,
    device: Sequence[str],
    system: str | None,
    accuracy: Accuracy,
    raw: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Let a language model answer PROMPT (`-` reads it from stdin)."""
    if prompt == "-":
        prompt = sys.stdin.read()
    with load_model(model, device, accuracy) as loaded:
        said: Any = prompt
        if system is not None:
            if raw:
                raise click.BadParameter("--raw continues a text; it has no place for what the system says", param_hint="--system")
            said = [{"role": "system", "content": system}, {"role": "user", "content": prompt}]
        with loaded.generate(said, raw=raw, **_given(options)) as stream, _ended_by_ctrl_c(stream):
            if not as_json:
                _show(stream)
            result = stream.result
        if as_json:
            print_json({"model": model, "prompt": prompt, **_figures(result), "text": result.text})
        else:
            click.echo(_summary(result), err=True)
        if result.finish_reason == "cancelled":
            raise KeyboardInterrupt  # the exit status says so


@contextlib.contextmanager
def _ended_by_ctrl_c(stream: Any) -> Iterator[None]:
    """Ctrl-C ends the stream after the token that is being computed, so that nothing is lost of what was; a second one breaks off."""

    def end(number: int, frame: Any) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        stream.close()

    try:
        before = signal.signal(signal.SIGINT, end)
    except ValueError:  # signals belong to the main thread
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _show(stream: Any) -> None:
    """Pieces as they come, and the end of the last line."""
    last = "\n"
    for piece in stream:
        click.echo(piece, nl=False)
        sys.stdout.flush()
        last = piece[-1:] or last
    if last != "\n":
        click.echo()


def _figures(result: Result) -> dict[str, Any]:
    return {
        "finish_reason": result.finish_reason,
        "prompt_tokens": result.prompt_tokens,
        "reused_tokens": result.reused_tokens,
        "generated_tokens": result.generated_tokens,
        "prompt_seconds": result.prompt_seconds,
        "first_piece_seconds": result.first_piece_seconds,
        "seconds": result.seconds,
        "prompt_tokens_per_second": result.prompt_rate,
        "tokens_per_second": result.rate,
    }


def _summary(result: Result) -> str:
    reused = f", {result.reused_tokens} of them known" if result.reused_tokens else ""
    prompt = f"prompt: {result.prompt_tokens} tokens{reused}, {result.prompt_rate:.0f} tokens/s"
    return f"{prompt}; answer: {result.generated_tokens} tokens, {result.rate:.1f} tokens/s ({result.finish_reason})"


_HELP = """\
/help            this
/history         what was said so far
/reset           begin anew
/system TEXT     begin anew, with TEXT said by the system
/set NAME=VALUE  change an option, such as /set temperature=0.7
/quit            end (so does Ctrl-D; Ctrl-C ends an answer)"""


@click.command()
@click.argument("model")
@device_option
@_generation_options
@common()
def chat(
    model: str,
    device: Sequence[str],
    system: str | None,
    accuracy: Accuracy,
    as_json: bool,
    **options: Any,
) -> None:
    """Talk with a language model. /help tells the commands.

    --json writes a line with one object for each answer, or for the error that came instead, for a program that writes to stdin.
    """
    with load_model(model, device, accuracy) as loaded:
        conversation: Chat = loaded.chat(system, **_given(options))
        if sys.stdin.isatty():
            click.echo(f"{loaded.name} listens. /help tells the commands.", err=True)
            _edit_lines()
        while (line := _read()) is not None:
            if line.startswith("/"):
                if not _command(conversation, line):
                    return
            elif line.strip():
                _answer(conversation, line, as_json)


def _edit_lines() -> None:
    """Arrow keys and history, where Python has them."""
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401 - importing it is what turns them on


def _read() -> str | None:
    """The next line, None at the end. Ctrl-C drops what was typed of a line."""
    while True:
        try:
            return input("> " if sys.stdin.isatty() else "")
        except EOFError:
            return None
        except KeyboardInterrupt:
            if not sys.stdin.isatty():
                raise
            click.echo("\n(Ctrl-D or /quit ends the conversation)", err=True)


def _answer(conversation: Chat, line: str, as_json: bool) -> None:
    """Shows the answer to a line. Where it fails, the conversation is there as it was, and a person may go on with it."""
    from turnout.errors import InvalidInput, RunError

    try:
        answer = conversation.send(line)
        with _ended_by_ctrl_c(answer):
            if not as_json:
                _show(answer)
            result = answer.result
        if as_json:
            print_json({**_figures(result), "text": result.text}, in_a_line=True)
        else:
            click.echo(_summary(result), err=True)
    except RunError as error:
        if not isinstance(error, InvalidInput) and not sys.stdin.isatty():
            raise  # a program wants to know
        if as_json:
            print_json({"error": error.message, "hint": error.hint}, in_a_line=True)
        click.echo(f"error: {error}", err=True)
    except KeyboardInterrupt:
        click.echo("\n(cancelled)", err=True)


def _command(conversation: Chat, line: str) -> bool:
    """Carries out a line that begins with a slash; False ends the conversation."""
    name, _, rest = line.partition(" ")
    rest = rest.strip()
    if name in ("/quit", "/exit", "/bye"):
        return False
    if name == "/history":
        for message in conversation.messages:
            click.echo(f"{message['role']}: {message['content']}")
    elif name == "/reset":
        conversation.reset()
    elif name == "/system" and rest:
        conversation.system = rest
        conversation.reset()
    elif name == "/set" and "=" in rest:
        _set(conversation, *(part.strip() for part in rest.split("=", 1)))
    elif name in ("/system", "/set"):
        click.echo(f"{name} wants {'a text' if name == '/system' else 'NAME=VALUE'} after it\n{_HELP}", err=True)
    else:
        click.echo(_HELP if name == "/help" else f"there is no {line.strip()!r}\n{_HELP}", err=True)
    return True


def _set(conversation: Chat, name: str, value: str) -> None:
    from turnout.errors import InvalidInput

    try:
        conversation.set(**{name.replace("-", "_"): None if value in ("", "none", "None") else value})
    except InvalidInput as error:
        click.echo(f"error: {error}", err=True)
