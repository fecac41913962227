"""Formats: how a file becomes an operator graph. ONNX is core's own; plugins bring others by the hook `turnout_formats`."""

from __future__ import annotations

import abc
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["Format", "Source", "open_source"]


class Source(abc.ABC):
    """One model, opened but not yet read in full."""

    name: str
    """What to call it in messages: the file's name, or `<bytes>`."""

    @abc.abstractmethod
    def model(self) -> ir.Model:
        """The operator graph, a new one at each call: types and shapes inferred, weights mapped rather than read.

        Every node has a `version` (operator set version of its domain), constants are initializers, and functions that the model
        itself defines are in `functions`. Raises InvalidModel.
        """

    def file(self) -> Path | bytes | None:
        """The unchanged file, for a provider that takes it whole; None where there is none."""
        return None


class Format(abc.ABC):
    """One file format."""

    name: ClassVar[str]

    @abc.abstractmethod
    def accepts(self, head: bytes, name: str) -> bool:
        """Whether a file with this beginning (up to 4096 bytes) and name is of this format."""

    @abc.abstractmethod
    def open(self, file: Path | bytes) -> Source:
        """Opens a file that was accepted. Raises InvalidModel."""


def open_source(model: Any) -> Source:
    """Whatever `load` takes (path, bytes, ModelProto, onnx_ir model) as a source.

    Raises UnknownFormat where no installed format knows it, InvalidModel where it is empty, a folder, missing or broken.
    """
    from turnout.formats.choose import choose

    return choose(model)
