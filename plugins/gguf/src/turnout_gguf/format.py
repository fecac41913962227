"""GGUF as a turnout format: `turnout.load("model.gguf")`."""

from __future__ import annotations

import functools
import logging
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

from turnout.formats import Accuracy, Format, Source
from turnout_gguf.mapped import mapped

if TYPE_CHECKING:
    import onnx_ir as ir

    from turnout_gguf.reader import Gguf
    from turnout_gguf.store import Store

__all__ = ["GgufFormat", "GgufSource", "Options"]

log = logging.getLogger("turnout")

_SMALL = 500_000_000  # weights: one processor makes ten tokens a second of as many, near to exact
_FRAGILE = frozenset({"TQ1_0", "TQ2_0"})  # three values a weight: with 8 bits for the activations SmolLM2's logits were others


class Options(BaseModel):
    """The load options of GGUF files: `load(..., options={"gguf": {"keep": False}})`."""

    model_config = ConfigDict(extra="forbid")

    keep: bool = Field(default=True, description="keep repacked weights on disk, so that the next load is quick")
    keep_bytes: int = Field(default=32 << 30, ge=0, description="bytes that repacked weights of all models may take on disk")
    batch: int | None = Field(default=1, ge=1, description="texts computed side by side; None for any number, which is slower")


class GgufFormat(Format):
    """The GGUF file format, versions 2 and 3."""

    name = "gguf"
    Options: ClassVar[type[BaseModel] | None] = Options

    def accepts(self, head: bytes, name: str) -> bool:
        return head.startswith(b"GGUF") or name.lower().endswith(".gguf")

    def open(self, file: Path | bytes, *, accuracy: Accuracy = "fast", options: Any = None) -> GgufSource:
        return GgufSource(file, accuracy=accuracy, options=options)


class _Metadata(Mapping[str, Any]):
    """A file's metadata, not read before they are wanted: text asks for the vocabulary, and a load that was kept for nothing."""

    def __init__(self, source: GgufSource) -> None:
        self._source = source

    def __getitem__(self, key: str) -> Any:
        return self._source.contents.metadata[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._source.contents.metadata)

    def __len__(self) -> int:
        return len(self._source.contents.metadata)


class GgufSource(Source):
    """One GGUF file. Its metadata are read when they are first asked for, its weights when a provider wants them."""

    format = "gguf"

    def __init__(self, file: Path | bytes, *, accuracy: Accuracy = "fast", options: Options | None = None) -> None:
        self._map = mapped(file)  # at once: the metadata that are read later are those of the file that was opened
        self.path = file if isinstance(file, Path) else None
        self.accuracy = accuracy
        self._options = options or Options()
        self.name = file.name if isinstance(file, Path) else "<bytes>"

    @functools.cached_property
    def contents(self) -> Gguf:
        """Metadata and tensors. Raises InvalidModel."""
        from turnout_gguf.reader import read

        return read(self._map, self.name)

    @property
    def metadata(self) -> Mapping[str, Any]:
        """The file's keys: sizes, vocabulary, chat template ... They are read when the first is asked for, and raise InvalidModel then."""
        return _Metadata(self)

    def identity(self) -> Any:
        if self.path is None or not self._options.keep:
            return None
        from turnout_gguf.store import identity

        return identity(self.path)

    def model(self) -> ir.Model:
        from turnout_gguf.architectures import ENCODERS, known
        from turnout_gguf.decoder import decoder
        from turnout_gguf.weights import Weights

        weights, accuracy = Weights(self.contents, self._store()), self._settled()
        if known(self.contents.metadata, self.name) in ENCODERS:
            from turnout_gguf.encoder import encoder

            return encoder(self.contents, weights, accuracy)
        return decoder(self.contents, weights, accuracy, batch=self._options.batch)

    def _settled(self) -> Literal["fast", "near", "exact"]:
        """What to compute with: "auto" is settled by size, and "fast" is "near" where 8 bits for the activations spoil the model."""
        if self.accuracy in ("near", "exact"):
            return self.accuracy
        is_fragile = any(tensor.type.name in _FRAGILE for tensor in self.contents.tensors.values())
        is_near = is_fragile or (self.accuracy == "auto" and self._multiplied() <= _SMALL)
        settled: Literal["fast", "near"] = "near" if is_near else "fast"
        if settled != self.accuracy:
            log.info("%s is computed with accuracy=%r", self.name, settled)
        return settled

    def _multiplied(self) -> int:
        """How many weights a token is multiplied with: all but those of embeddings that are not the head as well."""
        tensors = self.contents.tensors
        return sum(math.prod(one.shape) for name, one in tensors.items() if name != "token_embd.weight" or "output.weight" not in tensors)

    def _store(self) -> Store | None:
        """Where repacked weights are kept; None for a model that is no file."""
        if self.path is None or not self._options.keep:
            return None
        from turnout.probe import cache_folder
        from turnout_gguf.store import store_for

        return store_for(self.path, cache_folder() / "gguf", self._options.keep_bytes)
