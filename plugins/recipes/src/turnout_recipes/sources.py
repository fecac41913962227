"""What is made smaller: a graph of float32, and the language side of it where there is one.

ONNX comes as it is. GGUF files are dequantised, folders of safetensors read, both matrix by matrix.
"""

from __future__ import annotations

import functools
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from turnout.errors import InvalidInput, NotGenerative
from turnout.formats import Source, open_source
from turnout.graph import ir

if TYPE_CHECKING:
    from turnout_text.language import Language

__all__ = ["Opened", "opened"]

_LENGTH = 256  # tokens that are run at a time
_CHARACTERS = 16  # of a text are looked at for each token that is wanted
_BESIDE = ("*.json", "*.jinja", "tokenizer.model", "*.txt")


@dataclass
class Opened:
    """A source, opened for a recipe."""

    source: Source
    model: ir.Model

    @property
    def name(self) -> str:
        return self.source.name

    @property
    def is_decoder(self) -> bool:
        names = {value.name for value in self.model.graph.inputs}, {value.name for value in self.model.graph.outputs}
        return "input_ids" in names[0] and "logits" in names[1]

    @functools.cached_property
    def language(self) -> Language | None:
        """Tokenizer and what belongs to it; None where the source has none."""
        from turnout_text.language import language_of

        try:
            return language_of(self.source.origin())
        except NotGenerative:
            return None

    # inputs for runs

    def texts(self, text: str, tokens: int) -> list[NDArray[np.int64]]:
        """A text's first tokens, cut into pieces. Raises InvalidInput where there is no tokenizer."""
        if self.language is None:
            raise InvalidInput(f"{self.name} has no tokenizer, so that no text can be run", hint="put tokenizer.json beside it")
        text = text[: _CHARACTERS * tokens]
        found = np.array(self.language.encode(text, ends=False, special=False)[:tokens], np.int64)
        if len(found) < 2:
            raise InvalidInput("the text is too short: two tokens at least are wanted", hint="give a longer one")
        return [part for at in range(0, len(found), _LENGTH) if len(part := found[at : at + _LENGTH]) > 1]

    def feeds(self, tokens: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
        """The inputs for a text of these tokens, with no text before it. Raises InvalidInput for inputs that are not known."""
        found = {}
        for value in self.model.graph.inputs:
            name = value.name or ""
            made = _PLAIN.get(name)
            dtype = np.dtype(np.float32) if value.dtype is None else value.dtype.numpy()
            if made is not None:
                found[name] = np.asarray(made(tokens), dtype)
            elif name.startswith(("past_key", "past_value")) and value.shape is not None and len(value.shape) == 4:
                length = 0 if name.startswith("past_key_values.") else len(tokens)
                sizes = [dim if isinstance(dim, int) else 1 for dim in value.shape]
                found[name] = _zeros((sizes[0], sizes[1], length, sizes[3]), dtype)
            else:
                raise InvalidInput(
                    f"nothing is known of the input {name!r}", hint="give the inputs as an .npz: `calibration` in the recipe"
                )
        return found

    def inputs(self, path: Path) -> list[dict[str, NDArray[Any]]]:
        """Inputs out of an .npz: an array for each, whose first axis counts the examples."""
        names = [value.name or "" for value in self.model.graph.inputs if value.const_value is None]
        with np.load(path, allow_pickle=False) as file:
            if missing := [name for name in names if name not in file.files]:
                raise InvalidInput(f"{path} has no input {missing[0]!r}", hint=f"the inputs are: {', '.join(names)}")
            arrays = {name: file[name] for name in names}
        count = min(len(array) for array in arrays.values())
        return [{name: array[at : at + 1] for name, array in arrays.items()} for at in range(count)]

    # the language side beside the result

    def write_beside(self, folder: Path) -> None:
        """config.json, tokenizer and chat template, so that the folder generates."""
        path = self.source.path
        if self.source.format == "gguf":
            _write_gguf_language(self.source.metadata, self.language, folder)
        elif path is not None and path.is_dir():
            for file in (file for pattern in _BESIDE for file in path.glob(pattern)):
                if not file.name.endswith(".index.json"):
                    shutil.copyfile(file, folder / file.name)

    @property
    def file_name(self) -> str:
        """What the model's file is called in a folder."""
        return str(self.source.metadata.get("decoder", "model.onnx")) if self.source.format != "gguf" else "model.onnx"


_PLAIN: Mapping[str, Any] = {
    "input_ids": lambda tokens: tokens[None],
    "past_tokens": lambda tokens: [0],
    "wanted_tokens": lambda tokens: np.arange(len(tokens)),
    "attention_mask": lambda tokens: np.ones((1, len(tokens))),
    "token_type_ids": lambda tokens: np.zeros((1, len(tokens))),
    "position_ids": lambda tokens: np.arange(len(tokens))[None],
    "past_sequence_length": lambda tokens: 0,
    "total_sequence_length": lambda tokens: len(tokens),
}


@functools.lru_cache(maxsize=8)
def _zeros(shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    """One array for all caches of a shape: what lies in them before a text is never looked at."""
    return np.zeros(shape, dtype)


def opened(source: Any) -> Opened:
    """Raises what `open_source` and the formats raise."""
    from turnout_gguf.format import GgufSource
    from turnout_recipes.checkpoint import CheckpointSource, dense

    found = open_source(source)
    if isinstance(found, CheckpointSource):
        return Opened(found, found.graph(hold=False))
    if isinstance(found, GgufSource):
        from turnout_gguf.decoder import decoder
        from turnout_gguf.weights import Weights

        contents = dense(found.contents)
        return Opened(found, decoder(contents, Weights(contents, hold=False), "exact"))
    return Opened(found, found.model())


def _write_gguf_language(metadata: Mapping[str, Any], language: Language | None, folder: Path) -> None:
    architecture = metadata.get("general.architecture", "")
    config: dict[str, Any] = {"model_type": architecture, "max_position_embeddings": metadata.get(f"{architecture}.context_length")}
    if language is not None:
        language.inner.save(str(folder / "tokenizer.json"))
        config["eos_token_id"] = sorted(language.ends)
        settings: dict[str, Any] = {"chat_template": metadata.get("tokenizer.chat_template")}
        for name, key in (("bos", "bos"), ("eos", "eos"), ("unk", "unknown"), ("pad", "padding")):
            number = metadata.get(f"tokenizer.ggml.{key}_token_id")
            token = language.inner.id_to_token(number) if isinstance(number, int) and number >= 0 else None
            settings[f"{name}_token"] = token
        _write(folder / "tokenizer_config.json", {key: value for key, value in settings.items() if value})
    _write(folder / "config.json", config)


def _write(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def help_texts(which: int) -> str:
    """Text that every Python has: half of the help texts on its language (pydoc), the even ones or the odd ones."""
    from pydoc_data.topics import topics

    names: Sequence[str] = sorted(topics)
    return "\n\n".join(topics[name] for name in names[which::2])
