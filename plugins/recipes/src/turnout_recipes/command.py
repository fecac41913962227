"""The command `turnout optimize`."""

from __future__ import annotations

from pathlib import Path

import click

from turnout.errors import InvalidInput

__all__ = ["optimize"]


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("target", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--precision", type=click.Choice(["int4-rtn", "int8"]), help="Weights of 4 bits (the default) or 8, rounded to the nearest.")
@click.option("--block", type=int, help="Weights under one scale, a power of two (32).")
@click.option("--keep", multiple=True, metavar="NAME", help="A node that stays as it is; * stands for any letters; may be given again.")
@click.option(
    "--recipe", "document", type=click.Path(path_type=Path, dir_okay=False, exists=True), help="A recipe in JSON; options go before it."
)
@click.option("--print-recipe", is_flag=True, help="Print the recipe, and do nothing.")
def optimize(
    model: Path, target: Path, precision: str | None, block: int | None, keep: tuple[str, ...], document: Path | None, print_recipe: bool
) -> None:
    """Write MODEL with smaller weights to TARGET, an ONNX file, with a report beside it."""
    import json

    from pydantic import ValidationError

    from turnout_recipes.optimize import optimize as make
    from turnout_recipes.recipe import Recipe

    options = {"precision": precision, "block": block, "keep": keep or None}
    given = {key: value for key, value in options.items() if value is not None}
    try:
        base = json.loads(document.read_text(encoding="utf-8")) if document is not None else {}
        recipe = Recipe.model_validate({**base, **given})
    except (ValidationError, ValueError, TypeError) as error:
        first = error.errors()[0] if isinstance(error, ValidationError) else {"loc": (str(document),), "msg": str(error)}
        what = ".".join(map(str, first["loc"])) or "the recipe"
        raise InvalidInput(f"recipe: {what}: {first['msg']}", hint=f"its fields are: {', '.join(Recipe.model_fields)}") from None
    if print_recipe:
        click.echo(recipe.model_dump_json(indent=2))
        return
    with click.progressbar(length=1000, label=f"optimising {model.name}") as bar:
        report = make(model, target, recipe, lambda fraction: bar.update(int(1000 * fraction) - bar.pos))
    Path(f"{target}.report.json").write_text(report.model_dump_json(indent=2) + "\n", encoding="utf-8")
    click.echo(str(report))
