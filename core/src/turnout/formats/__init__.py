"""Formats: how a file becomes an operator graph. ONNX is core's own; plugins bring others by the hook `turnout_formats`."""

from __future__ import annotations

import abc
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

if TYPE_CHECKING:
    import onnx_ir as ir
    from pydantic import BaseModel

__all__ = ["Accuracy", "Format", "Origin", "Source", "open_source"]

Accuracy = Literal["fast", "near", "exact", "auto"]
"""What a format may do where the file leaves it open how exactly products compute: round their activations to 8 bits, or to what float16
holds, or nothing; "auto" is "near" for a model so small that this is quick, else "fast", and all the same to a provider that takes the
file whole."""


@dataclass(frozen=True)
class Origin:
    """Where a loaded model came from, for whoever needs more than its graph (a tokenizer, say): `model.origin`.

    format: the format's name ("onnx", "gguf" ...). path: the file or folder, None where the model came as bytes or as an object.
    metadata: what the file says of itself.
    """

    name: str
    format: str = "onnx"
    path: Path | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)


class Source(abc.ABC):
    """One model, opened but not yet read in full."""

    name: str
    """What to call it in messages: the file's name, or `<bytes>`."""
    format: str = "onnx"
    """The name of its format."""
    path: Path | None = None
    """The file or folder, None where the model came as bytes or as an object."""
    accuracy: Accuracy = "fast"
    """What was asked of `load`; a provider that takes sources whole has to keep it too."""

    @property
    def metadata(self) -> Mapping[str, Any]:
        """What the file says of itself beside the graph, read after `model()`. It outlives the load, so it must not hold the weights."""
        return {}

    @abc.abstractmethod
    def model(self) -> ir.Model:
        """The operator graph, a new one at each call: types and shapes inferred, weights mapped rather than read.

        Every node has a `version` (operator set version of its domain), constants are initializers, and functions that the model
        itself defines are in `functions`. An output that may lie in the memory of an input says so (`turnout.graph.declare_alias`).
        Raises InvalidModel.
        """

    def file(self) -> Path | bytes | None:
        """The unchanged file, for a provider that takes it whole; None where there is none."""
        return None

    def identity(self) -> Any:
        """Plain data that is another whenever `model()` would be: the file as it is now, and the options that matter. With it turnout
        may keep what a load came to (kept.py); None, the default, keeps nothing."""
        return None

    def origin(self) -> Origin:
        """What a loaded model keeps of its source."""
        return Origin(self.name, self.format, self.path, self.metadata)


class Format(abc.ABC):
    """One file format."""

    name: ClassVar[str]
    Options: ClassVar[type[BaseModel] | None] = None
    """The format's own section of the load options, if it has any: `load(..., options={"gguf": {...}})`."""

    @abc.abstractmethod
    def accepts(self, head: bytes, name: str) -> bool:
        """Whether a file with this beginning (up to 4096 bytes) and name is of this format."""

    def accepts_folder(self, folder: Path) -> bool:
        """Whether this folder is a model of this format. Quick: a look at the names in it. `open` then gets the folder."""
        return False

    @abc.abstractmethod
    def open(self, file: Path | bytes, *, accuracy: Accuracy = "fast", options: Any = None) -> Source:
        """Opens a file or folder that was accepted. Raises InvalidModel.

        accuracy: what was asked of `load`.
        options: an instance of `Options`, None where the format has none.
        """


def open_source(model: Any, *, accuracy: Accuracy = "fast", options: Mapping[str, Any] | None = None) -> Source:
    """Whatever `load` takes (path, bytes, ModelProto, onnx_ir model) as a source. options: a checked section by format name.

    Raises UnknownFormat where no installed format knows it, InvalidModel where it is empty, an unknown folder, missing or broken.
    """
    from turnout.formats.choose import choose

    return choose(model, accuracy, options or {})
