"""The language side of a model: tokenizer, chat template, and the tokens that end an answer.

All of it comes out of GGUF metadata, or lies beside an export as tokenizer.json and its kin.
"""
# ruff: noqa: SIM905 - a table that is best read as words

from __future__ import annotations

import functools
import itertools
import json
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from turnout.errors import InvalidInput, InvalidModel, NotGenerative
from turnout_text.template import ChatTemplate

if TYPE_CHECKING:
    import tokenizers

    from turnout.formats import Origin

__all__ = ["Language", "Pieces", "language_of"]

# tokens that end an answer or a turn, as llama.cpp knows them by name where a file does not list them
_ENDINGS = frozenset(
    "<|eot_id|> <|eom_id|> <|im_end|> <|end|> <end_of_turn> <|endoftext|> <|end_of_text|> <|return|> <|call|> "
    "<EOT> _<EOT> <|EOT|> <\uff5cend▁of▁sentence\uff5c> <turn|> <|user_end|>".split()
)
_MOST_PENDING = 16  # tokens that are held back because they end within a character


@dataclass
class Language:
    """What a text needs beside a decoder.

    ends: tokens after which an answer is over. template: the chat template, None where the model has none.
    """

    inner: tokenizers.Tokenizer
    ends: frozenset[int]
    template: ChatTemplate | None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def encode(self, text: str, *, ends: bool, special: bool) -> list[int]:
        """The text's tokens. ends: with those that begin or end a text. special: a special token's name in the text is that token."""
        if not isinstance(text, str):
            raise InvalidInput(f"a {type(text).__name__} is no text", hint="give a str")
        try:
            text.encode()
        except UnicodeEncodeError as error:
            odd = ord(text[error.start])
            said = f"byte {odd - 0xDC00:#x} in it is not UTF-8" if 0xDC80 <= odd < 0xDD00 else f"it holds a lone surrogate, {odd:#x}"
            raise InvalidInput(f"the text is no Unicode: {said}", hint="give it as UTF-8") from None
        with self._lock:  # the switch is the object's
            self.inner.encode_special_tokens = not special
            try:
                tokens: list[int] = self.inner.encode(text, add_special_tokens=ends).ids
            except BaseException as error:  # a panic of the library's is no Exception
                if isinstance(error, Exception) or type(error).__name__ == "PanicException":
                    raise InvalidModel(f"the model's tokenizer fails on this text: {error}", hint="convert the model again") from None
                raise
        return tokens

    def decode(self, tokens: Sequence[int], *, special: bool = False) -> str:
        """The tokens' text. special: with the names of special tokens."""
        numbers = [int(token) for token in tokens]
        wrong = next((token for token in numbers if not 0 <= token < 1 << 32), None)
        if wrong is not None:
            raise InvalidInput(f"there is no token {wrong}", hint=f"tokens are 0 to {self.inner.get_vocab_size() - 1}")
        runs = itertools.groupby(numbers, key=lambda token: token if token in self._misread else None)
        return "".join(
            self.inner.decode(list(run), skip_special_tokens=not special) if token is None else self._misread[token] * len(list(run))
            for token, run in runs
        )

    @functools.cached_property
    def _misread(self) -> dict[int, str]:
        """Added tokens that the decoder would take for bytes, since all of their characters are in its alphabet of bytes."""
        from tokenizers import decoders, pre_tokenizers

        if not isinstance(self.inner.decoder, decoders.ByteLevel):
            return {}
        alphabet = set(pre_tokenizers.ByteLevel.alphabet())
        added = self.inner.get_added_tokens_decoder().items()
        return {number: token.content for number, token in added if not token.content.isascii() and set(token.content) <= alphabet}

    def chat(self, messages: Sequence[Mapping[str, Any]], **values: Any) -> str:
        """The messages as one text for the model to answer. Raises InvalidInput."""
        if self.template is None:
            raise InvalidInput("this model has no chat template", hint="give the prompt as one text")
        return self.template.render(messages, **values)


class Pieces:
    """Tokens to pieces of text as they come; a piece never ends within a character, and all pieces together are the text.

    Tokens have no text of their own (a space at the start of a text may vanish, characters lie across tokens), so that the text of the last
    few is compared with and without the new one.
    """

    def __init__(self, language: Language, before: Sequence[int] = ()) -> None:
        self._language = language
        self._tokens = list(before[-4:])
        self._said = len(self._tokens)  # tokens whose text is out

    def add(self, token: int) -> str:
        """The text that is complete with this token, often ""."""
        self._tokens.append(token)
        old, new = self._language.decode(self._tokens[: self._said]), self._language.decode(self._tokens)
        if new.endswith("\ufffd") and len(self._tokens) - self._said < _MOST_PENDING:
            return ""
        return self._move(old, new)

    def _move(self, old: str, new: str) -> str:
        piece = new[len(old) :] if new.startswith(old) else new
        if not piece and len(new) <= len(old):
            return ""  # special tokens, or a beginning that has no text yet
        del self._tokens[: self._said]
        self._said = len(self._tokens)
        return piece

    def rest(self) -> str:
        """What is left when no more tokens come."""
        if len(self._tokens) == self._said:
            return ""
        return self._move(self._language.decode(self._tokens[: self._said]), self._language.decode(self._tokens))


def language_of(origin: Origin) -> Language:
    """The language side of a model, by where it came from.

    Raises NotGenerative where there is no tokenizer, InvalidModel for a broken one.
    """
    if "tokenizer.ggml.model" in origin.metadata:
        return _from_gguf(origin)
    folder = _folder(origin)
    if folder is None:
        raise NotGenerative(
            f"{origin.name} has no tokenizer: none in the file, and no tokenizer.json beside it",
            hint="load the folder of the export, with its tokenizer.json; logits(tokens) works without",
        )
    return _from_folder(folder, origin)


def _folder(origin: Origin) -> Path | None:
    """Where tokenizer.json lies: the folder itself, that of the file, or the one above (Optimum's `onnx/`)."""
    path = origin.path
    if path is None:
        return None
    places = [path] if path.is_dir() else [path.parent, path.parent.parent]
    return next((place for place in places if (place / "tokenizer.json").is_file()), None)


def _from_gguf(origin: Origin) -> Language:
    from turnout_text.vocabulary import build, is_token

    metadata = origin.metadata
    inner = build(metadata, origin.name)
    count = len(metadata["tokenizer.ggml.tokens"])
    numbers = [metadata.get(f"tokenizer.ggml.{key}") for key in ("eos_token_id", "eot_token_id", "eom_token_id")]
    ends = {number for number in numbers if is_token(number, count)}
    named = {}
    for key in ("bos", "eos", "unk", "pad"):
        number = metadata.get(f"tokenizer.ggml.{ {'unk': 'unknown', 'pad': 'padding'}.get(key, key) }_token_id")
        named[f"{key}_token"] = (inner.id_to_token(number) if is_token(number, count) else None) or ""
    source = metadata.get("tokenizer.chat_template")
    template = ChatTemplate(source, named) if isinstance(source, str) and source else None
    return Language(inner, frozenset(ends | _endings(inner)), template)


def _endings(inner: tokenizers.Tokenizer) -> set[int]:
    """Control tokens that are known to end an answer."""
    return {number for number, token in inner.get_added_tokens_decoder().items() if token.content in _ENDINGS}


def _from_folder(folder: Path, origin: Origin) -> Language:
    from tokenizers import Tokenizer

    path = folder / "tokenizer.json"
    try:
        inner = Tokenizer.from_file(str(path))
    except Exception as error:
        raise InvalidModel(f"{path} cannot be read: {error}", hint="export the model again, with its tokenizer") from None
    settings = _json(folder / "tokenizer_config.json")
    named = {key: _content(value) for key, value in settings.items() if key.endswith("_token")}
    ends = {inner.token_to_id(named.get("eos_token", ""))} - {None}
    for config in (
        _json(folder / "generation_config.json"),
        _json(folder / "config.json"),
        _json(folder / "genai_config.json").get("model"),
    ):
        ends |= set(_numbers(config.get("eos_token_id"))) if isinstance(config, Mapping) else set()
    known = {number for number in ends if number is not None}
    source = _template(folder, settings)
    return Language(inner, frozenset(known | _endings(inner)), None if source is None else ChatTemplate(source, named))


def _template(folder: Path, settings: Mapping[str, Any]) -> str | None:
    """The chat template: a file of its own in newer exports, else in the tokenizer's settings, where it may be one of several."""
    own = folder / "chat_template.jinja"
    if own.is_file():
        try:
            return own.read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            raise InvalidModel(f"{own} cannot be read: {error}", hint="export the model again") from None
    found = settings.get("chat_template")
    if isinstance(found, list):
        named = {str(one.get("name")): one.get("template") for one in found if isinstance(one, Mapping)}
        found = named.get("default") or next(iter(named.values()), None)
    return found if isinstance(found, str) and found else None


def _json(path: Path) -> dict[str, Any]:
    """The file's object, {} where there is no such file. Raises InvalidModel for what is no JSON."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise InvalidModel(f"{path} cannot be read: {error}", hint="export the model again") from None
    return found if isinstance(found, dict) else {}


def _numbers(value: Any) -> list[int]:
    values = value if isinstance(value, list) else [value]
    return [one for one in values if isinstance(one, int)]


def _content(value: Any) -> str:
    """A token in tokenizer_config.json: its name, or an object with it."""
    if isinstance(value, Mapping):
        value = value.get("content")
    return value if isinstance(value, str) else ""
