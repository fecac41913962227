"""The command `turnout optimize`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from turnout.errors import InvalidInput

__all__ = ["optimize"]

_PATH = click.Path(path_type=Path)


@click.command()
@click.argument("model", type=_PATH)
@click.argument("target", type=_PATH)
@click.option("--for", "family", type=click.Choice(["cpu", "cuda", "directml"]), help="The devices that it is made for (cpu).")
@click.option(
    "--precision",
    type=click.Choice(["int4-rtn", "int4-awq", "int8", "fp16"]),
    help="Weights: 4 bits rounded to the nearest, 4 bits with scales from calibration, 8 bits, or halves. What is usual for the devices.",
)
@click.option("--auto", is_flag=True, help="The recipe for the best device in this machine, and why it is that.")
@click.option("--block", type=int, help="Weights under one scale, a power of two.")
@click.option("--symmetric/--asymmetric", default=None, help="One zero point for all blocks, or one for each.")
@click.option("--more-bits", type=float, help="The share of the weights that get 8 bits and not 4, where the error is largest.")
@click.option("--keep", multiple=True, metavar="NAME", help="A node that stays as it is; * stands for any letters; may be given again.")
@click.option("--calibration", help="A text file, or an .npz of inputs, that AWQ looks at.")
@click.option("--evaluation", help="A text file whose perplexity is reported, before and after.")
@click.option("--device", help="Where the texts are run; as elsewhere.")
@click.option("--recipe", "document", type=click.Path(path_type=Path, dir_okay=False, exists=True), help="A recipe in JSON or YAML.")
@click.option("--print", "--print-recipe", "print_recipe", is_flag=True, help="Print the recipe, and do nothing.")
def optimize(model: Path, target: Path, family: str | None, auto: bool, document: Path | None, print_recipe: bool, **given: Any) -> None:
    """Write MODEL (ONNX, GGUF, or a folder of safetensors) as a recipe says to TARGET, a folder or an .onnx file, with a report.

    A run that was killed goes on where it was when it is started again.
    """
    from turnout_recipes.optimize import optimize as make

    device = given.pop("device")
    changes = {key: value for key, value in given.items() if value not in (None, ())}
    recipe = _recipe(model, family, auto, document, changes)
    if print_recipe:
        click.echo(recipe.model_dump_json(indent=2))
        return
    bar: Any
    with click.progressbar(length=1000, label=f"optimising {model.name}", item_show_func=lambda what: (what or "")[:30]) as bar:
        report = make(model, target, recipe, lambda done, what: bar.update(int(1000 * done) - bar.pos, what), device=device)
        bar.update(1000 - bar.pos, "")
    path = target / "report.json" if target.is_dir() else Path(f"{target}.report.json")
    path.write_text(report.model_dump_json(indent=2) + "\n", encoding="utf-8")
    click.echo(str(report))


def _recipe(model: Path, family: str | None, auto: bool, document: Path | None, changes: dict[str, Any]) -> Any:
    """The recipe that the options describe. Raises InvalidInput with the field and what is wrong with it."""
    from pydantic import ValidationError

    from turnout_recipes.recipe import Recipe, recipe_for

    try:
        if document is not None:
            if auto:
                raise InvalidInput("--auto and --recipe contradict each other", hint="give one of them")
            base = _document(document)
            return Recipe.model_validate({**base, **({"target": family} if family else {}), **changes})
        if auto:
            return _automatic(model, family, changes)
        return recipe_for(family or "cpu", **changes)  # type: ignore[arg-type]
    except ValidationError as error:
        first = error.errors()[0]
        what = ".".join(map(str, first["loc"])) or "the recipe"
        raise InvalidInput(f"recipe: {what}: {first['msg']}", hint=f"its fields are: {', '.join(Recipe.model_fields)}") from None


def _automatic(model: Path, family: str | None, changes: dict[str, Any]) -> Any:
    import math

    import turnout
    from turnout_recipes.recipe import automatic
    from turnout_recipes.sources import opened

    if family is not None:
        raise InvalidInput("--auto chooses the devices itself", hint="leave out --auto or --for")
    sizes = [value.const_value.shape.numpy() for value in opened(model).model.graph.initializers.values() if value.const_value is not None]
    recipe, why = automatic(turnout.devices(), sum(map(math.prod, sizes)), **changes)
    click.echo(f"{recipe.precision} for {recipe.target}: {why}", err=True)
    return recipe


def _document(path: Path) -> dict[str, Any]:
    """JSON, or YAML where that is installed. Raises InvalidInput."""
    import json

    text = path.read_text(encoding="utf-8")
    try:
        if path.suffix in (".yaml", ".yml"):
            import yaml  # type: ignore[import-untyped]

            found = yaml.safe_load(text)
        else:
            found = json.loads(text)
    except ModuleNotFoundError:
        raise InvalidInput(f"{path} is YAML, and PyYAML is not installed", hint="pip install pyyaml, or write the recipe as JSON") from None
    except Exception as error:
        raise InvalidInput(f"recipe: {path} cannot be read: {error}", hint="--print prints one that can be edited") from None
    if not isinstance(found, dict):
        raise InvalidInput(f"recipe: {path} holds no object", hint="--print prints one that can be edited")
    return found
