"""What is done of a run, on disk: rounded matrices, scales, and how far the calibration runs are. A run that was killed goes on there.

The folder lies beside the target until the target is whole. Weights are mapped out of it, so that a result need not fit into memory.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from turnout_recipes.blocks import Blocks
from turnout_recipes.recipe import Layer, Recipe
from turnout_recipes.walk import Frontier

__all__ = ["Unfinished"]

_PARTS = ("values", "scales", "zeros")


class Unfinished:
    """The folder of one run. What another source or recipe left there is thrown away."""

    def __init__(self, target: Path, source: Path | None, recipe: Recipe) -> None:
        self.folder = target.with_name(f"{target.name}.unfinished")
        key = f"{recipe.model_dump_json()} {_stamp(source)}"
        digest = hashlib.sha256(key.encode()).hexdigest()
        mark = self.folder / "run"
        if source is None or not mark.is_file() or mark.read_text() != digest:
            shutil.rmtree(self.folder, ignore_errors=True)
            self.folder.mkdir(parents=True)
            mark.write_text(digest)

    def remove(self) -> None:
        shutil.rmtree(self.folder)

    # small things

    def get(self, name: str) -> Any:
        """A document, None where it is not there."""
        path = self.folder / f"{name}.json"
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None

    def put(self, name: str, value: Any) -> None:
        """It is there as a whole or not at all."""
        new = self.folder / "new"
        new.write_text(json.dumps(value), encoding="utf-8")
        os.replace(new, self.folder / f"{name}.json")

    # matrices

    def layer(self, number: int) -> Layer | None:
        found = self.get(f"layer{number}")
        return None if found is None else Layer.model_validate(found)

    def put_layer(self, number: int, layer: Layer, blocks: Blocks) -> None:
        for part in _PARTS:
            self.put_array(f"layer{number}.{part}", getattr(blocks, part))
        self.put(f"layer{number}", layer.model_dump())

    def blocks(self, number: int) -> Blocks:
        """Mapped, not read."""
        layer = self.layer(number)
        assert layer is not None
        values, scales, zeros = (self.array(f"layer{number}.{part}") for part in _PARTS)
        return Blocks(layer.bits, layer.block, layer.shape[0], values, scales, zeros)

    def put_array(self, name: str, array: Any) -> None:
        with open(self.folder / "new.npy", "wb") as file:
            np.save(file, array)
        os.replace(self.folder / "new.npy", self.folder / f"{name}.npy")

    def array(self, name: str) -> Any:
        return np.load(self.folder / f"{name}.npy", mmap_mode="r")

    # how far the runs are

    def put_frontiers(self, piece: int, frontiers: list[Frontier], given: set[str]) -> None:
        """given: names of inputs, which are made anew."""
        arrays = {f"{at}/{name}": array for at, one in enumerate(frontiers) for name, array in one.items() if name not in given}
        with open(self.folder / "new.npz", "wb") as file:
            np.savez(file, piece=np.array(piece), **arrays)
        os.replace(self.folder / "new.npz", self.folder / "frontiers.npz")

    def frontiers(self, frontiers: list[Frontier]) -> int:
        """Fills in what was computed; gives the piece that is next, 0 where nothing was."""
        path = self.folder / "frontiers.npz"
        if not path.is_file():
            return 0
        with np.load(path) as found:
            for name in found.files:
                if name != "piece":
                    at, _, value = name.partition("/")
                    frontiers[int(at)][value] = found[name]
            return int(found["piece"])


def _stamp(source: Path | None) -> str:
    """Changes with the source's files."""
    if source is None:
        return ""
    files = sorted(source.iterdir()) if source.is_dir() else [source, source.with_name(f"{source.name}.data")]
    stats = [(path.name, path.stat()) for path in files if path.is_file()]
    return " ".join(f"{source.resolve()} {name} {stat.st_size} {stat.st_mtime_ns}" for name, stat in stats)
