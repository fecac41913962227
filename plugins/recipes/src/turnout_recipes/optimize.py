"""optimize: a model and a recipe in, a smaller ONNX model and a report out."""

from __future__ import annotations

import functools
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from turnout.errors import InvalidInput
from turnout.graph import constant_array, ir
from turnout_recipes.awq import Seen, narrowed, one_thread, output_error, plain, scales
from turnout_recipes.blocks import Blocks, dequantised
from turnout_recipes.compensate import compensated
from turnout_recipes.fold import Fold, fold_of
from turnout_recipes.halves import halve, halve_tables
from turnout_recipes.memory import Peak
from turnout_recipes.perplexity import Predictions, quality
from turnout_recipes.products import Product, add_constant, drop_unused, products, stand_in
from turnout_recipes.recipe import Layer, Quality, Recipe, Report
from turnout_recipes.sources import Opened, help_texts, opened
from turnout_recipes.unfinished import Unfinished
from turnout_recipes.walk import Frontier, Walk

__all__ = ["optimize"]

Progress = Callable[[float, str], None]
_SAVE_EVERY = 5.0  # seconds between two notes of how far the runs are


def optimize(
    source: Any,
    target: Path,
    recipe: Recipe,
    progress: Progress = lambda fraction, what: None,
    *,
    device: str | Sequence[str] | None = None,
    save_every: float = _SAVE_EVERY,
) -> Report:
    """Writes the model as the recipe says, and gives the report.

    source: whatever `turnout.load` takes, or a folder of safetensors with its config. target: an .onnx file (its weights go to
    `target.data`), or a folder, which gets model.onnx and, for a language model, all that it needs to generate. device: where the texts
    are run, as `turnout.load` takes it. save_every: seconds between two notes of how far the runs are; layers are noted one by one.

    Memory holds one matrix, a few times, and the activations of the texts that are run. A run that was killed goes on where it was, as long
    as source, target and recipe are the same.
    Raises InvalidInput where nothing in the source can be made smaller, or where source and target are one; what opening it raises.
    """
    begin = time.monotonic()
    with Peak() as peak:
        open_source = opened(source)
        _check_target(open_source, target)
        report = _Run(open_source, target, recipe, progress, device, save_every).report()
    return report.model_copy(update={"seconds": round(time.monotonic() - begin, 1), "peak_memory": peak.bytes})


def _check_target(source: Opened, target: Path) -> None:
    path = source.source.path
    if path is not None and target.exists() and os.path.samefile(path, target):
        raise InvalidInput(f"{target} is the model itself", hint="name another file or folder")
    if not target.absolute().parent.is_dir():
        raise InvalidInput(f"there is no folder {target.parent}", hint="make it first")
    if target.suffix != ".onnx" and target.is_file():
        raise InvalidInput(f"{target} is a file", hint="name a folder that is not there yet, or a file that ends with .onnx")


class _Run:
    """One run of a recipe: look at the texts, round, put together, write, look again."""

    def __init__(self, source: Opened, target: Path, recipe: Recipe, progress: Progress, device: Any, save_every: float) -> None:
        self.source = source
        self.target = target
        self.recipe = recipe
        self.progress = progress
        self.device = device
        self.save_every = save_every
        self.kept: dict[str, str] = {}
        self.graph = source.model.graph
        self.products = list(products(self.graph, recipe, self.kept)) if recipe.bits < 16 else []
        self.numbers = {product: number for number, product in enumerate(self.products)}
        self.groups: dict[ir.Value, list[Product]] = {}
        for product in self.products:
            self.groups.setdefault(product.x, []).append(product)
        self.nodes = {product.node: product for product in self.products}
        self.folds: dict[ir.Value, Fold] = {}

    def report(self) -> Report:
        if self.recipe.bits < 16 and not self.products:
            why = next(iter(self.kept.values()), "it has no product with a constant matrix of floats")
            hint = "a model that was quantised before stays as it is"
            raise InvalidInput(f"nothing in {self.source.name} can be quantised: {why}", hint=hint)
        texts, calibrating = self._texts()
        self.unfinished = Unfinished(self.target, self.source.source.path, self.recipe)
        before = self._look(texts, calibrating)
        layers = self._more_bits()
        if self.products and not layers:
            self.unfinished.remove()
            raise InvalidInput(f"nothing in {self.source.name} can be quantised: {next(iter(self.kept.values()))}")
        self._put_together()
        stayed = self._narrow()
        file = self._write()
        after = self._look_again(file, texts[calibrating:]) if before else None
        self.unfinished.remove()
        found: Quality | None = quality(before, after) if before and after else None
        name = self.source.name
        return Report(source=name, recipe=self.recipe, layers=layers, kept=self.kept, float32=stayed, quality=found)

    # what is run

    def _texts(self) -> tuple[list[Frontier], int]:
        """(inputs to run, how many of them are for calibration; the others are for the perplexity)."""
        recipe, found = self.recipe, list[Frontier]()
        if recipe.calibrated:
            path = Path(recipe.calibration)
            if path.suffix == ".npz":
                found = list(self.source.inputs(path))
            else:
                pieces = self.source.texts(_text(recipe.calibration, 0), recipe.calibration_tokens)
                found = [self.source.feeds(tokens) for tokens in pieces]
        calibrating = len(found)
        if recipe.evaluation_tokens and self.source.is_decoder and self.source.language is not None:
            pieces = self.source.texts(_text(recipe.evaluation, 1), recipe.evaluation_tokens)
            found += [self.source.feeds(tokens) for tokens in pieces]
        return found, calibrating

    def _look(self, texts: list[Frontier], calibrating: int) -> list[Predictions]:
        """Runs the texts through the model as it is, and rounds every product when what it reads is there."""
        if not texts:
            for number, group in enumerate(self.groups.values()):
                self._group(group, None)
                self.progress(0.8 * (number + 1) / len(self.groups), group[0].name)
            return []
        outputs = ["logits"] if self.source.is_decoder else [value.name for value in self.graph.outputs if value.name]
        first = {group[0].node: x for x, group in self.groups.items()}
        cuts = list(first) or _every(self.graph, 24)
        walk = Walk(self.source.model, cuts, outputs, self.device)
        given, frontiers = {name for one in texts for name in one}, [dict(one) for one in texts]
        start, saved = self.unfinished.frontiers(frontiers), time.monotonic()
        done, seen = set[ir.Node](), frontiers[:calibrating] or frontiers
        for number, node in walk.run(frontiers, start):
            if number > start and time.monotonic() - saved >= self.save_every:
                self.unfinished.put_frontiers(number, frontiers, given)
                saved = time.monotonic()
            if node in first:
                x = first[node]
                self._group(self.groups[x], Seen.of([one[x.name or ""] for one in seen]))
                done.add(node)
            if number == len(walk) - 1:  # nobody wants what comes out for the calibration texts: logits would be the largest of all
                del frontiers[:calibrating]
            self.progress(0.8 * number / len(walk), node.name or "" if node is not None else "")
        for node in first.keys() - done:  # done before, or not on the way to the outputs
            self._group(self.groups[first[node]], None)
        return [Predictions.of(one["logits"][0], text["input_ids"][0]) for one, text in zip(frontiers, texts[calibrating:], strict=True)]

    # rounding

    def _group(self, group: list[Product], seen: Seen | None) -> None:
        """Rounds the products that read one value."""
        fold = Fold()
        todo = [one for one in group if self.unfinished.layer(self.numbers[one]) is None]
        if self.recipe.calibrated:
            fold = self.folds[group[0].x] = fold_of(group[0].x, {one.node for one in group}, self.nodes)
        if not todo or not all(self._finite(one) for one in group):
            return
        with one_thread():
            self._search_and_round(group, todo, seen, fold)

    def _search_and_round(self, group: list[Product], todo: list[Product], seen: Seen | None, fold: Fold) -> None:
        s, exponent = None, 0.0
        if seen is not None and self.recipe.calibrated:
            round_ = functools.partial(self._plain, bits=self.recipe.bits)
            s, exponent = scales(seen, [one.weight for one in group], round_, fold.tie)
            self.unfinished.put_array(f"scales{self.numbers[group[0]]}", s)
        for product in todo:
            self._round(product, self.recipe.bits, s, seen, exponent, fold.name or "a Mul of its own" if exponent else "")

    def _finite(self, product: Product) -> bool:
        if np.isfinite(product.weight()).all():
            return True
        self.kept[product.name] = "its weights are not all finite"
        return False

    def _block(self, rows: int) -> int:
        """DirectML takes whole blocks only."""
        block = self.recipe.block
        while self.recipe.target == "directml" and rows % block and block > 16:
            block //= 2
        return block

    def _plain(self, weight: NDArray[np.float32], bits: int) -> Blocks:
        return plain(weight, bits, self._block(len(weight)), symmetric=self.recipe.symmetric)

    def _blocks(self, weight: NDArray[np.float32], bits: int, x: NDArray[np.float32] | None) -> Blocks:
        """x: what the weight is multiplied with, where that is to be looked at."""
        if x is None or bits != 4:
            return self._plain(weight, bits)
        if self.recipe.clip:
            blocks = narrowed(weight, x, bits, self._block(len(weight)), symmetric=self.recipe.symmetric)
        else:
            blocks = self._plain(weight, bits)
        return compensated(weight, x, blocks) if self.recipe.compensate else blocks

    def _round(self, product: Product, bits: int, s: Any, seen: Seen | None, exponent: float, where: str) -> None:
        weight = product.weight()
        before, norm = weight.nbytes, float(np.linalg.norm(weight))
        scaled = weight if s is None else weight * s[:, None]
        blocks = self._blocks(scaled, bits, None if s is None or seen is None else seen.rows / s)

        def found(columns: slice) -> NDArray[np.float32]:
            made = dequantised(blocks, columns)
            return made if s is None else made / s[:, None]

        step = max(1, (1 << 22) // len(weight))
        parts = [slice(at, at + step) for at in range(0, weight.shape[1], step)]
        off = sum(float(np.square(found(part) - weight[:, part]).sum()) for part in parts) ** 0.5
        layer = Layer(
            name=product.name,
            shape=product.shape,
            bits=bits,
            block=blocks.block,
            error=off / norm if norm else 0.0,
            output_error=None if seen is None else output_error(seen.rows, weight, found),
            exponent=exponent,
            scales_in=where,
            before=before,
            after=blocks.nbytes,
        )
        self.unfinished.put_layer(self.numbers[product], layer, blocks)

    def _more_bits(self) -> list[Layer]:
        """8 bits for the layers whose error is largest, until they hold the share of the weights that the recipe allows. All layers."""
        there = [(product, layer) for product, number in self.numbers.items() if (layer := self.unfinished.layer(number)) is not None]
        if not self.recipe.more_bits or self.recipe.bits != 4:
            return [layer for _, layer in there]
        left = self.recipe.more_bits * sum(layer.shape[0] * layer.shape[1] for _, layer in there)
        for product, layer in sorted(there, key=lambda one: -(one[1].output_error or one[1].error)):
            left -= layer.shape[0] * layer.shape[1]
            if left < 0:
                break
            if layer.bits == 4:
                s = self._scales(self.groups[product.x])
                self._round(product, 8, s, None, layer.exponent, layer.scales_in)
        return [layer for product, _ in there if (layer := self.unfinished.layer(self.numbers[product])) is not None]

    def _scales(self, group: list[Product]) -> NDArray[np.float32] | None:
        name = f"scales{self.numbers[group[0]]}"
        return np.array(self.unfinished.array(name)) if (self.unfinished.folder / f"{name}.npy").is_file() else None

    # putting together

    def _put_together(self) -> None:
        divisors: dict[Product, NDArray[np.float32]] = {}
        for x, fold in self.folds.items():
            group = self.groups[x]
            s = self._scales(group)
            if s is None or all(self.unfinished.layer(self.numbers[one]) is None for one in group):
                continue
            self._divide(x, fold, s, divisors)
        for product, number in self.numbers.items():
            if self.unfinished.layer(number) is not None:
                blocks = self.unfinished.blocks(number)
                if product in divisors:
                    self.unfinished.put_array(f"layer{number}.divided", (blocks.scales / divisors[product][:, None]).astype(np.float32))
                    scales_ = self.unfinished.array(f"layer{number}.divided")
                    blocks = Blocks(blocks.bits, blocks.block, blocks.rows, blocks.values, scales_, blocks.zeros)
                stand_in(self.graph, product, blocks, self.recipe)
        if self.products:
            drop_unused(self.graph)
            self.graph.opset_imports["com.microsoft"] = 1

    def _divide(self, x: ir.Value, fold: Fold, s: NDArray[np.float32], divisors: dict[Product, NDArray[np.float32]]) -> None:
        """Divides x by s, where the fold says."""
        if not fold.name:
            inverse = add_constant(self.graph, f"{x.name}.scales", (1 / s).astype(np.float32))
            made = ir.node("Mul", [x, inverse], name=f"{x.name}.scaled", version=14)
            made.outputs[0].name, made.outputs[0].type, made.outputs[0].shape = f"{x.name}.scaled", x.type, x.shape
            self.graph.insert_before(self.groups[x][0].node, [made])
            for product in self.groups[x]:
                product.node.replace_input_with(0, made.outputs[0])
            return
        columns = fold.divisors(s)
        place = slice(fold.start, fold.start + len(columns))
        for value in fold.vectors:
            array = np.array(constant_array(value), np.float32)
            array[place] /= columns
            value.const_value = ir.tensor(array, name=value.name)
        if fold.product is not None:
            whole = divisors.setdefault(fold.product, np.ones(fold.product.shape[1], np.float32))
            whole[place] *= columns

    def _narrow(self) -> dict[str, str]:
        """What computes in halves; gives the nodes that stay in float32."""
        if self.recipe.activations == "float16" or self.recipe.precision == "fp16":
            stayed = halve(self.source.model, self.recipe.float32)
            drop_unused(self.graph)
            return stayed
        halve_tables(self.graph)
        drop_unused(self.graph)
        return {}

    def _write(self) -> Path:
        """The weights' file and the model's take their places when both are whole; until then nothing there is touched."""
        folder, name = self.target.parent, self.target.name
        if self.target.suffix != ".onnx":
            self.target.mkdir(exist_ok=True)
            folder, name = self.target, self.source.file_name
            self.source.write_beside(folder)
        data = f"{name}.data"
        self.progress(0.8, "writing")
        with tempfile.TemporaryDirectory(dir=folder, prefix=".unfinished-") as made:
            ir.save(self.source.model, Path(made) / name, external_data=data, size_threshold_bytes=1024)
            for one in (data, name):
                if (Path(made) / one).exists():
                    os.replace(Path(made) / one, folder / one)
        return folder / name

    def _look_again(self, file: Path, texts: list[Frontier]) -> list[Predictions]:
        """What the model that was written predicts."""
        made = opened(file)
        kinds = {value.name: value.dtype.numpy() for value in made.model.graph.inputs if value.dtype is not None}
        frontiers = [{name: array.astype(kinds[name], copy=False) for name, array in one.items()} for one in texts]
        nodes = [node for node in made.model.graph if node.op_type == "MatMulNBits"]
        walk = Walk(made.model, nodes[::4] or _every(made.model.graph, 24), ["logits"], self.device)
        for number, _ in walk.run(frontiers):
            self.progress(0.85 + 0.15 * number / len(walk), "perplexity")
        return [Predictions.of(one["logits"][0], text["input_ids"][0]) for one, text in zip(frontiers, texts, strict=True)]


def _every(graph: ir.Graph, count: int) -> list[ir.Node]:
    return list(graph)[count::count]


def _text(given: str, which: int) -> str:
    """A text: of the file that the recipe names, or Python's help texts."""
    if not given:
        return help_texts(which)
    try:
        return Path(given).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(f"the text {given} cannot be read: {error}", hint="name a file of UTF-8") from None
