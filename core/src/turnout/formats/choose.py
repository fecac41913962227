"""Which format a model is in, and a kind word for everything that is not a model at all."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from turnout import plugins
from turnout.errors import InvalidModel, UnknownFormat
from turnout.formats import Format, Source
from turnout.formats.onnx import Onnx, source_of_object

__all__ = ["choose"]

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


def choose(model: Any) -> Source:
    """The source for whatever `load` was given."""
    if isinstance(model, (str, os.PathLike)):
        return _from_path(Path(model))
    if isinstance(model, (bytes, bytearray, memoryview)):
        return _of_format(bytes(model[:4096]), "<bytes>", bytes(model))
    return source_of_object(model)


def _from_path(path: Path) -> Source:
    try:
        if path.is_dir():
            raise InvalidModel(f"{path} is a folder, not a model file", hint="give the file inside it")
        with path.open("rb") as file:
            head = file.read(4096)
    except FileNotFoundError:
        raise InvalidModel(f"there is no file {path}", hint=_similar(path)) from None
    except (OSError, ValueError) as error:  # ValueError: a null character in the path
        reason = getattr(error, "strerror", None) or error
        raise InvalidModel(f"{path} cannot be read: {reason}", hint="check the path and the file's permissions") from None
    return _of_format(head, path.name, path)


def _similar(path: Path) -> str:
    import difflib

    names = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
    close = difflib.get_close_matches(path.name, names, n=1)
    return f"did you mean {path.parent / close[0]}?" if close else "check the path; relative ones start at the current folder"


def _of_format(head: bytes, name: str, file: Path | bytes) -> Source:
    if not head:
        raise InvalidModel(f"{name} is empty", hint="the download or export did not finish; make it again")
    formats: list[Format] = [found for result in plugins.calls("turnout_formats") for found in result or ()]
    for one in formats:
        if one.accepts(head, name):
            return one.open(file)
    _refuse_impostors(head, name)
    onnx = Onnx()
    if onnx.accepts(head, name):
        return onnx.open(file)
    known = ", ".join(sorted({onnx.name, *(one.name for one in formats)}))
    hint = "pip install turnout-gguf" if head.startswith(b"GGUF") else f"the formats installed here are: {known}"
    raise UnknownFormat(f"{name} is in no format that is installed here", hint=hint)


def _refuse_impostors(head: bytes, name: str) -> None:
    start = head.lstrip().lower() if head[:1] in b" \t\r\n<\xef" else head.lower()
    for beginning, what, hint in _IMPOSTORS:
        if start.removeprefix(b"\xef\xbb\xbf").startswith(beginning):
            raise InvalidModel(f"{name} is not a model: it is {what}", hint=hint)
