"""Folders of safetensors as a turnout format. Every load of any model asks it, so that what reads them is imported only for one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from turnout.formats import Accuracy, Format

if TYPE_CHECKING:
    from turnout_recipes.checkpoint import CheckpointSource

__all__ = ["CheckpointFolder"]


class CheckpointFolder(Format):
    """A folder of safetensors with config.json."""

    name = "safetensors"

    def accepts(self, head: bytes, name: str) -> bool:
        return False

    def accepts_folder(self, folder: Path) -> bool:
        names = {entry.name for entry in folder.iterdir()}
        return "config.json" in names and any(name.endswith(".safetensors") for name in names) and not any(folder.glob("*.onnx"))

    def open(self, file: Path | bytes, *, accuracy: Accuracy = "fast", options: Any = None) -> CheckpointSource:
        from turnout_recipes.checkpoint import CheckpointSource

        assert isinstance(file, Path)
        return CheckpointSource(file)
