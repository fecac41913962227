"""GGUF as a turnout format: `turnout.load("model.gguf")`."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING, Any

from turnout.formats import Format, Source
from turnout_gguf.reader import Gguf, Metadata, read

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["GgufFormat", "GgufSource"]


class GgufFormat(Format):
    """The GGUF file format, versions 2 and 3.

    exact: products compute in float32 throughout; else a runtime may round the activations to 8 bits, which is several times quicker.
    cache: the graph takes and gives a cache of keys and values; turnout_gguf.decoder says which inputs and outputs that adds.
    """

    name = "gguf"

    def __init__(self, *, exact: bool = False, cache: bool = False) -> None:
        self.exact = exact
        self.cache = cache

    def accepts(self, head: bytes, name: str) -> bool:
        return head.startswith(b"GGUF") or name.lower().endswith(".gguf")

    def open(self, file: Path | bytes, *, accuracy: str = "fast", options: Any = None) -> GgufSource:
        return GgufSource(file, exact=self.exact or accuracy == "exact", cache=self.cache)


class GgufSource(Source):
    """One GGUF file. Its metadata are read when they are first asked for, its weights when a provider wants them."""

    format = "gguf"

    def __init__(self, file: Path | bytes, *, exact: bool = False, cache: bool = False) -> None:
        self._file = file
        self.path = file if isinstance(file, Path) else None
        self._exact = exact
        self._cache = cache
        self.name = file.name if isinstance(file, Path) else "<bytes>"

    @functools.cached_property
    def contents(self) -> Gguf:
        """Metadata and tensors. Raises InvalidModel."""
        return read(self._file)

    @property
    def metadata(self) -> Metadata:
        """The file's keys: sizes, vocabulary, chat template ... Raises InvalidModel."""
        return self.contents.metadata

    def model(self) -> ir.Model:
        from turnout_gguf.decoder import decoder

        return decoder(self.contents, exact=self._exact, cache=self._cache)
