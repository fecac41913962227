"""The `turnout` command. Commands import what they need themselves: `turnout devices` must stay quick."""

from __future__ import annotations

import errno
import json as json_text
import logging
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from turnout import errors
from turnout.errors import TurnoutError
from turnout.table import table

if TYPE_CHECKING:
    from turnout.formats import Accuracy
    from turnout.model import Model

__all__ = ["cli", "common", "device_option", "load_model", "main", "print_json"]

log = logging.getLogger("turnout")

F = TypeVar("F", bound=Callable[..., Any])

EXIT_INTERRUPTED = 130
EXIT_CLOSED_PIPE = 141
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_CODES: tuple[tuple[tuple[type[TurnoutError], ...], int], ...] = (
    ((errors.SelectionError, errors.Unavailable), 3),
    ((errors.ModelError, errors.CompileError, errors.NotGenerative), 4),
    ((errors.RunError,), 5),
    ((errors.PluginError,), 6),
)


class _Turnout(click.Group):
    """The group: its commands, those of plugins, and what becomes of errors."""

    _plugins: click.Group | None = None

    def invoke(self, ctx: click.Context) -> Any:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("always", errors.SlowPathWarning)
                warnings.showwarning = _show_warning
                return super().invoke(ctx)
        except KeyboardInterrupt:
            sys.exit(EXIT_INTERRUPTED)
        except BrokenPipeError:
            _drop_output()
            sys.exit(EXIT_CLOSED_PIPE)
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except Exception as error:
            sys.exit(_complain(error))

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        return super().get_command(ctx, cmd_name) or self._from_plugins().get_command(ctx, cmd_name)

    def list_commands(self, ctx: click.Context) -> list[str]:
        own = super().list_commands(ctx)
        return [*own, *(name for name in self._from_plugins().list_commands(ctx) if name not in own)]

    def _from_plugins(self) -> click.Group:
        if self._plugins is None:
            from turnout import plugins

            self._plugins = click.Group()
            for _ in plugins.calls("turnout_commands", cli=self._plugins):
                pass  # each adds its commands to the group as it is called
        return self._plugins


def _complain(error: Exception) -> int:
    """Says what went wrong on stderr, and gives the exit status."""
    if os.environ.get("TURNOUT_DEBUG", "0") not in ("", "0"):
        import traceback

        traceback.print_exception(error)
    if isinstance(error, TurnoutError):
        click.echo(f"error: {error.message}", err=True)
        if error.hint:
            click.echo(f"hint: {error.hint}", err=True)
        return next((code for kinds, code in _CODES if isinstance(error, kinds)), 1)
    if isinstance(error, OSError) and error.errno in _NO_ROOM:
        where = f" for {error.filename}" if error.filename else ""
        click.echo(f"error: the output could not be written: {error.strerror}{where}", err=True)
        click.echo("hint: make room there, or write elsewhere", err=True)
        try:
            sys.stdout.flush()
        except OSError:
            _drop_output()
        return 1
    click.echo(f"error: this should not have happened: {type(error).__name__}: {error}", err=True)
    click.echo("hint: TURNOUT_DEBUG=1 in the environment shows where; please report it", err=True)
    return 1


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    click.echo(f"warning: {message}", err=True)


def _drop_output() -> None:
    """Whoever read our output is gone: what is left in the buffer must not raise again as the interpreter ends."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class _ToStderr(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        prefix = f"{record.levelname.lower()}: " if record.levelno >= logging.WARNING else ""
        click.echo(prefix + record.getMessage(), err=True)


def _listen(level: int) -> None:
    for handler in [one for one in log.handlers if isinstance(one, _ToStderr)]:
        log.removeHandler(handler)
    log.addHandler(_ToStderr())
    log.setLevel(level)


def common(quiet: bool = False) -> Callable[[F], F]:
    """--json and -v. quiet: the command itself tells what is wrong with plugins; warnings would say it twice."""

    def verbosity(ctx: click.Context, param: click.Parameter, value: int) -> None:
        _listen((logging.ERROR if quiet else logging.WARNING, logging.INFO, logging.DEBUG)[min(value, 2)])

    def decorate(function: F) -> F:
        function = click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")(function)
        return click.option(
            "-v",
            "--verbose",
            count=True,
            is_eager=True,
            expose_value=False,
            callback=verbosity,
            help="Show turnout's log on stderr; -vv shows more.",
        )(function)

    return decorate


device_option = click.option(
    "--device",
    "-d",
    "device",
    multiple=True,
    metavar="NAME",
    help="Where to run: one name is a demand; several, or a comma list, are the permission to fall back in that order.",
)


def _input_options(function: F) -> F:
    options = (
        click.option(
            "--input",
            "-i",
            "values",
            multiple=True,
            metavar="NAME=VALUE",
            help="VALUE: a .npy, .png, .jpg or .wav file, a number, a JSON list, or `random`. "
            "`--input random` makes up every input that is not given.",
        ),
        click.option(
            "--dim",
            "dims",
            multiple=True,
            metavar="NAME=SIZE",
            help="Size of a dynamic dimension of made-up inputs (1).",
        ),
        click.option("--seed", default=0, show_default=True, help="Seed of random inputs."),
    )
    for option in reversed(options):
        function = option(function)
    return function


def _chosen(names: Sequence[str]) -> str | list[str] | None:
    """What `load` takes: None, one name (a demand) or a list (a permission)."""
    flat = [name.strip() for text in names for name in text.split(",") if name.strip()]
    if not flat:
        if names:
            raise click.BadParameter("no device is named; `turnout devices` lists them", param_hint="--device")
        return None
    return flat[0] if len(flat) == 1 else flat


def print_json(value: Any, *, in_a_line: bool = False) -> None:
    """The value on stdout, for programs: in a line of its own where others follow."""
    click.echo(json_text.dumps(value, indent=None if in_a_line else 2, default=str))


@contextmanager
def _progress(title: str, fractions: bool = False, long: bool = False) -> Iterator[Callable[..., None]]:
    """A bar on stderr where that is a terminal: the function given takes a fraction or a new title.

    long: elsewhere a line of it every ten seconds, so that a log shows that there is life.
    """
    if not sys.stderr.isatty():
        yield _log_now_and_then() if long else lambda *_: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    bar = Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        TimeElapsedColumn(),
        console=Console(stderr=True),
        transient=True,
    )
    with bar:
        task = bar.add_task(title, total=1.0 if fractions else None)

        def update(said: str | float) -> None:
            bar.update(task, **({"description": said} if isinstance(said, str) else {"completed": said}))

        yield update


def _log_now_and_then(seconds: float = 10.0) -> Callable[[str], None]:
    told = time.monotonic()

    def tell(text: str) -> None:
        nonlocal told
        if time.monotonic() - told > seconds:
            told = time.monotonic()
            click.echo(text, err=True)

    return tell


def load_model(model: str, device: Sequence[str], accuracy: Accuracy = "auto") -> Model:
    """`turnout.load` with a bar on stderr, for what --device was given."""
    import turnout

    with _progress(f"loading {Path(model).name}"):
        return turnout.load(model, device=_chosen(device), accuracy=accuracy)


_EPILOG = """\b
Exit status:
  0    fine
  1    a check of `doctor` failed, or something unexpected happened
  2    wrong usage
  3    no such device, or none that can run the model
  4    the model cannot be read or compiled
  5    an input is wrong, or the run failed
  6    a plugin is broken or does not fit this turnout
  130  interrupted
  141  whoever read the output closed the pipe
"""


def _version(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if value:
        import importlib.metadata

        click.echo(f"turnout {importlib.metadata.version('turnout')}")
        ctx.exit()


@click.group(cls=_Turnout, epilog=_EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--version", is_flag=True, is_eager=True, expose_value=False, callback=_version, help="Print the version.")
def cli() -> None:
    """Runs one model file, ONNX or GGUF, on whatever hardware is there, and says why it chose what it chose."""


@cli.command()
@common(quiet=True)
def devices(as_json: bool) -> None:
    """List the devices here, and why others are not."""
    from turnout import plugins, probe

    with _progress("probing"):
        probed = probe.probe_all()
    found = [device for one in probed for device in one.devices]
    absent = [(one.provider.name, one.error) for one in probed if one.error is not None]
    broken = [(plugin.name, plugin.problem) for plugin in plugins.installed() if plugin.problem is not None]
    if as_json:
        keys = ("name", "provider", "description", "memory", "automatic")
        print_json(
            {
                "devices": [{**{key: getattr(one, key) for key in keys}, "properties": dict(one.properties)} for one in found],
                "unavailable": [{"name": name, "reason": error.message, "hint": error.hint} for name, error in [*absent, *broken]],
            }
        )
        return
    heads = ("device", "description", "memory", "provider", "notes")
    click.echo(table([(d.name, d.description, _memory(d.memory), d.provider, _notes(d)) for d in found], heads, right=(2,)))
    for title, entries in (("not available here:", absent), ("plugins with a problem:", broken)):
        if entries:
            click.echo(f"\n{title}")
            for name, error in entries:
                click.echo(f"  {name}: {error.message}" + (f"\n      {error.hint}" if error.hint else ""))


def _memory(size: int | None) -> str:
    return "" if size is None else f"{size / 2**30:.1f} GiB"


def _notes(device: Any) -> str:
    notes = [f"{key} {value}" for key, value in device.properties.items()]
    return ", ".join(notes if device.automatic else ["only where it is named", *notes])


@cli.command()
@click.option("--verify", is_flag=True, help="Also run every operator that the devices claim, and remember what comes out wrong (minutes).")
@click.option("--forget", is_flag=True, help="Forget what --verify found before.")
@common(quiet=True)
def doctor(verify: bool, forget: bool, as_json: bool) -> None:
    """Try everything, and say what mends the rest."""
    from turnout import verified
    from turnout.checkup import doctor as examine

    if forget:
        verified.forget()
    with _progress("looking around", long=verify) as progress:
        report = examine(progress, verify=verify)
    if as_json:
        print_json({**report.model_dump(), "ok": report.ok})
    else:
        click.echo(str(report))
    sys.exit(0 if report.ok else 1)


@cli.command()
@common(quiet=True)
def plugins(as_json: bool) -> None:
    """List the installed plugins and what they bring."""
    from turnout import plugins as registry

    found = registry.installed()
    if as_json:
        print_json([_plugin(one) for one in found])
        return
    if not found:
        click.echo("No plugin is installed. `pip install turnout-cpu` brings the CPU.")
        return
    rows = [(one.name, one.distribution or "(by hand)", one.version, ", ".join(registry.brings(one))) for one in found]
    click.echo(table(rows, ("plugin", "distribution", "version", "brings")))
    for one in found:
        if one.problem is not None:
            click.echo(f"\n{one.name}: {one.problem.message}\n  {one.problem.hint}".rstrip())


def _plugin(plugin: Any) -> dict[str, Any]:
    from turnout import plugins as registry

    problem = plugin.problem and {"message": plugin.problem.message, "hint": plugin.problem.hint}
    kept = {key: getattr(plugin, key) for key in ("name", "distribution", "version")}
    return {**kept, "brings": registry.brings(plugin), "problem": problem}


@cli.command()
@click.argument("model")
@device_option
@click.option("--node", metavar="NAME", help="Tell one node's story: who was asked, what they said, where it went.")
@common()
def explain(model: str, device: Sequence[str], node: str | None, as_json: bool) -> None:
    """Say who would run which part of MODEL, and why."""
    with load_model(model, device) as loaded:
        explanation = loaded.explain()
        if node is not None:
            try:
                story = explanation.node(node)
            except KeyError as error:
                raise click.BadParameter(str(error.args[0]), param_hint="--node") from None
            return print_json(story.model_dump()) if as_json else click.echo(str(story))
        return print_json(explanation.to_dict()) if as_json else click.echo(str(explanation))


@cli.command()
@click.argument("model")
@device_option
@_input_options
@click.option("--output-dir", type=click.Path(file_okay=False, path_type=Path), help="Write each output there, as a .npy file.")
@common()
def run(
    model: str,
    device: Sequence[str],
    values: Sequence[str],
    dims: Sequence[str],
    seed: int,
    output_dir: Path | None,
    as_json: bool,
) -> None:
    """Run MODEL once, and print or save what it gives."""
    with load_model(model, device) as loaded:
        from turnout import results
        from turnout.feed import feed, parse_dims

        inputs = feed(loaded.inputs, values, dims=parse_dims(dims), seed=seed, model=model)
        start = time.perf_counter()
        with _progress("running"):
            outputs = loaded.run(**inputs)
        milliseconds = (time.perf_counter() - start) * 1000
    found = results.summaries(outputs)
    files = results.save(outputs, output_dir) if output_dir is not None else {}
    if as_json:
        for one in found:
            one["file"] = str(files[one["name"]]) if one["name"] in files else None
        print_json({"model": model, "milliseconds": milliseconds, "outputs": found})
        return
    click.echo(results.text(found))
    for name, path in files.items():
        click.echo(f"{name} -> {path}")
    click.echo(f"one run, {milliseconds:.1f} ms; the first is slower than those that follow", err=True)


@cli.command()
@click.argument("model")
@device_option
@_input_options
@click.option("--vs", metavar="LIBRARY", help="Take turns with this library on the same file, without turnout: `onnxruntime`.")
@click.option("--runs", type=click.IntRange(min=1), help="So many runs of each, instead of so many seconds.")
@click.option(
    "--seconds",
    type=click.FloatRange(min=0.0, min_open=True),
    default=3.0,
    show_default=True,
    help="How long to measure.",
)
@common()
def bench(
    model: str,
    device: Sequence[str],
    values: Sequence[str],
    dims: Sequence[str],
    seed: int,
    vs: str | None,
    runs: int | None,
    seconds: float,
    as_json: bool,
) -> None:
    """Measure latency, throughput and load time of MODEL."""
    import turnout.explain
    import turnout.model
    from turnout import bench as measure
    from turnout.feed import feed, parse_dims

    turnout.devices()  # imports and probing are the program's start, not the model's load
    start = time.perf_counter()
    with load_model(model, device) as loaded:
        load_seconds = time.perf_counter() - start
        inputs = feed(loaded.inputs, values or ["random"], dims=parse_dims(dims), seed=seed, model=model)
        sides: dict[str, tuple[float, Callable[[], Any]]] = {"turnout": (load_seconds, lambda: loaded.run(**inputs))}
        if vs is not None:
            start = time.perf_counter()
            other = measure.peer(vs, Path(model))
            sides[vs] = (time.perf_counter() - start, lambda: other(inputs))
        with _progress("measuring", fractions=True) as progress:
            used = sorted({part.device for part in loaded.explain().partitions})
            found = measure.bench(sides, model=model, devices=used, runs=runs, seconds=seconds, progress=progress)
    return print_json(found.model_dump()) if as_json else click.echo(str(found))


@cli.command(add_help_option=False, context_settings={"ignore_unknown_options": True, "allow_extra_args": True})
@click.pass_context
def suite(ctx: click.Context) -> None:
    """Test a provider with the conformance kit."""
    from turnout.testing.command import suite as run_suite

    run_suite.main(ctx.args, prog_name="turnout suite", standalone_mode=False)


@cli.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path), default=".")
@device_option
@common()
def demo(folder: Path, device: Sequence[str], as_json: bool) -> None:
    """Run a real model: what kind of file is each in FOLDER?"""
    from turnout.demo import demo as show

    shown = show(folder, _chosen(device), say=(lambda text: None) if as_json else click.echo)
    if as_json:
        print_json(shown)


def main() -> None:
    """The entry point."""
    if sys.stdout is None:  # closed by who called us, as a shell's `>&-` does: written to nothing, as Python's print would
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - for as long as the process lives
    try:
        cli.main(prog_name="turnout")
    except OSError as error:  # the text of --help, which is written before a command is invoked
        sys.exit(_complain(error))
