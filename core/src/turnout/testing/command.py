"""`turnout suite NAME`: the conformance kit on the command line."""

from __future__ import annotations

import json as json_text
import sys
import warnings
from collections.abc import Iterator

import click

from turnout.testing.result import LEVELS, Result, Summary, summary

__all__ = ["suite"]


@click.command()
@click.argument("name")
@click.option("--level", "levels", multiple=True, type=click.Choice(LEVELS), help="Only this level; may be given several times.")
@click.option("--only", "operators", multiple=True, metavar="OPERATOR", help="Only cases of this operator; may be given several times.")
@click.option("--require", is_flag=True, help="What could not be checked counts as failed.")
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON.")
def suite(name: str, levels: tuple[str, ...], operators: tuple[str, ...], require: bool, as_json: bool) -> None:
    """Test the provider NAME (or one of its devices, NAME:1) with the conformance kit; exit status 1 if anything failed."""
    from turnout.testing.levels import run

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # NumPy's, about the infinities that some cases are made of
        results = run(name, levels or None, require=require, only=operators or None)
        found = summary(results if as_json else _told(results))
    if as_json:
        click.echo(json_text.dumps({"provider": name, **found.as_dict()}, indent=1))
    else:
        _print(name, found)
    sys.exit(0 if found.ok else 1)


def _told(results: Iterator[Result]) -> Iterator[Result]:
    """The same, each failure told as it comes, and a word on stderr as each level begins."""
    level = ""
    for result in results:
        if result.level != level:
            level = result.level
            click.echo(f"{level} ...", err=True)
        if result.outcome == "failed":
            click.echo(f"FAILED {result.level} {result.case}\n       {result.detail}")
        yield result


def _print(name: str, found: Summary) -> None:
    from turnout.table import table

    columns = ("passed", "failed", "skipped", "refused")
    rows = [(level, *(str(counts.get(column, 0)) for column in columns)) for level, counts in found.levels.items()]
    click.echo(table(rows, ("level", *columns), right=(1, 2, 3, 4)))
    for result in found.skipped[:10]:
        if result.level != "operators":
            click.echo(f"skipped {result.level} {result.case}: {result.detail}")
    click.echo(found.line(name))
