"""Which format a model is in, and a kind word for everything that is not a model at all."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from turnout import plugins
from turnout.errors import InvalidModel, UnknownFormat
from turnout.formats import Accuracy, Format, Source
from turnout.formats.onnx import Onnx, source_of_object

__all__ = ["choose", "formats"]

# what people save under a model's name by mistake: beginning -> what it is, what to do
_IMPOSTORS: tuple[tuple[bytes, str, str], ...] = (
    (b"<!doctype", "an HTML page", "download the file itself, not the page that shows it"),
    (b"<html", "an HTML page", "download the file itself, not the page that shows it"),
    (b"<?xml", "an XML document", "download the model file itself"),
    (b"version https://git-lfs", "a Git LFS pointer, not the file it points to", "run `git lfs pull` in that repository"),
    (b"pk\x03\x04", "a zip archive (PyTorch saves its models so)", "export the model to ONNX, or unpack the archive"),
    (b"\x1f\x8b", "gzip-compressed", "decompress it first"),
    *((bytes([0x80, protocol]), "a Python pickle", "export the model to ONNX; turnout never unpickles") for protocol in range(2, 6)),
    (b"{", "a JSON document", "give the model file itself"),
)


def formats() -> list[Format]:
    """Every format that is installed, plugins' first; core's own, which is the least particular, goes last."""
    return [*(found for result in plugins.calls("turnout_formats") for found in result or ()), Onnx()]


def choose(model: Any, accuracy: Accuracy, options: Mapping[str, Any]) -> Source:
    """The source for whatever `load` was given. options: a checked section by format name."""
    if isinstance(model, (str, os.PathLike)):
        return _from_path(Path(model), accuracy, options)
    if isinstance(model, (bytes, bytearray, memoryview)):
        return _open(_of_format(bytes(model[:4096]), "<bytes>"), bytes(model), accuracy, options)
    return source_of_object(model)


def _open(kind: Format, file: Path | bytes, accuracy: Accuracy, options: Mapping[str, Any]) -> Source:
    source = kind.open(file, accuracy=accuracy, options=options.get(kind.name))
    source.accuracy = accuracy
    return source


def _from_path(path: Path, accuracy: Accuracy, options: Mapping[str, Any]) -> Source:
    try:
        if path.is_dir():
            return _open(_of_folder(path), path, accuracy, options)
        with path.open("rb") as file:
            head = file.read(4096)
    except FileNotFoundError:
        raise InvalidModel(f"there is no file {path}", hint=_similar(path)) from None
    except (OSError, ValueError) as error:  # ValueError: a null character in the path
        reason = getattr(error, "strerror", None) or error
        raise InvalidModel(f"{path} cannot be read: {reason}", hint="check the path and the file's permissions") from None
    return _open(_of_format(head, path.name), path, accuracy, options)


def _listed(files: Sequence[Path]) -> str:
    """The first few, so that one of them can be copied."""
    return ", ".join(map(str, files[:4])) + (" ..." if len(files) > 4 else "")


def _of_folder(folder: Path) -> Format:
    """The format of a folder. Raises InvalidModel with what lies in it where no format knows it."""
    kind = next((one for one in formats() if one.accepts_folder(folder)), None)
    if kind is not None:
        return kind
    models = sorted(entry for pattern in ("*.onnx", "*.gguf", "onnx/*.onnx") for entry in folder.glob(pattern))
    hint = "give a model file"
    if models:
        hint = f"give the file inside it: {models[0]}" if len(models) == 1 else f"give one of the files in it: {_listed(models)}"
    if (folder / "genai_config.json").exists() or (folder / "tokenizer.json").exists():
        hint = "pip install turnout-text, which reads the folders of exported language models" + (f"; or {hint}" if models else "")
    raise InvalidModel(f"{folder} is a folder, and no format installed here knows a model in it", hint=hint)


def _similar(path: Path) -> str:
    import difflib

    names = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
    close = difflib.get_close_matches(path.name, names, n=1)
    return f"did you mean {path.parent / close[0]}?" if close else "check the path; relative ones start at the current folder"


def _of_format(head: bytes, name: str) -> Format:
    """The format of a file with this beginning and name. Raises UnknownFormat, or InvalidModel for what is no model at all."""
    if not head:
        raise InvalidModel(f"{name} is empty", hint="the download or export did not finish; make it again")
    *others, onnx = formats()
    for one in others:
        if one.accepts(head, name):
            return one
    _refuse_impostors(head, name)
    if onnx.accepts(head, name):
        return onnx
    known = ", ".join(sorted({onnx.name, *(one.name for one in others)}))
    hint = "pip install turnout-gguf" if head.startswith(b"GGUF") else f"the formats installed here are: {known}"
    raise UnknownFormat(f"{name} is in no format that is installed here", hint=hint)


def _refuse_impostors(head: bytes, name: str) -> None:
    start = head.lstrip().lower() if head[:1] in b" \t\r\n<\xef" else head.lower()
    for beginning, what, hint in _IMPOSTORS:
        if start.removeprefix(b"\xef\xbb\xbf").startswith(beginning):
            raise InvalidModel(f"{name} is not a model: it is {what}", hint=hint)
