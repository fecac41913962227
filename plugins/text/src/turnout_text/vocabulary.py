"""A `tokenizers` object out of GGUF metadata: byte-pair encoding (gpt2, gemma4), SentencePiece (llama), WordPiece (bert), Unigram (t5).

Sources: the GGUF specification for the keys, and llama.cpp's reference tokenisations for what they mean, which are the test.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeGuard

from turnout.errors import InvalidModel
from turnout_text.splits import SPLITS, Split

if TYPE_CHECKING:
    import tokenizers

__all__ = ["build", "is_token"]

_NORMAL, _UNKNOWN, _CONTROL, _USER, _UNUSED, _BYTE = 1, 2, 3, 4, 5, 6  # tokenizer.ggml.token_type
_SPACE = "▁"  # how SentencePiece and its kin write a space


def build(metadata: Mapping[str, Any], name: str) -> tokenizers.Tokenizer:
    """The tokenizer that the metadata describe. Raises InvalidModel for what is missing, contradictory or not known."""
    keys = _Keys(metadata, name)
    kind = keys.get("model", "")
    makers = {"gpt2": _gpt2, "gemma4": _gpt2, "llama": _sentencepiece, "bert": _wordpiece, "t5": _unigram}
    if not isinstance(kind, str) or kind not in makers:
        keys.refuse(f"its vocabulary is of kind {kind!r:.40}, and turnout knows {', '.join(makers)}", "update turnout-text")
    try:
        made: tokenizers.Tokenizer = makers[kind](keys)
        _add_tokens(made, keys, kind)
        _add_ends(made, keys, kind)
    except InvalidModel:
        raise
    except Exception as error:  # what the library says of merges or scores that do not fit
        keys.refuse(f"its vocabulary does not fit together: {error}")
    return made


class _Keys:
    """The keys `tokenizer.ggml.*`."""

    def __init__(self, metadata: Mapping[str, Any], name: str) -> None:
        self._metadata = metadata
        self.name = name
        tokens = self.get("tokens", None)
        if tokens is None or isinstance(tokens, str) or not isinstance(tokens, Sequence) or not len(tokens):
            self.refuse("there is no vocabulary in it", "give a language model, or a file with its vocabulary")
        self.tokens = _printable(tokens)
        kinds = self.get("token_type", None)
        try:
            self.kinds: list[int] = [_NORMAL] * len(self.tokens) if kinds is None else [int(kind) for kind in kinds]
        except (TypeError, ValueError, OverflowError):
            self.refuse(f"its token types are {kinds!r:.40}, and a number for each token is wanted")
        if len(self.kinds) != len(self.tokens):
            self.refuse(f"it has {len(self.tokens)} tokens and {len(self.kinds)} token types")

    def get(self, key: str, default: Any) -> Any:
        return self._metadata.get(f"tokenizer.ggml.{key}", default)

    def flag(self, key: str, default: bool) -> bool:
        found = self.get(key, default)
        if not isinstance(found, int):
            self.refuse(f"its {key} is {found!r:.40}, and yes or no is wanted")
        return bool(found)

    def token(self, key: str, default: int | None = None) -> str | None:
        """The token that a key such as `bos_token_id` names; None where there is none."""
        number = self.get(key, default)
        return self.tokens[number] if is_token(number, len(self.tokens)) else None

    def scores(self) -> list[float]:
        scores = self.get("scores", ())
        if len(scores) != len(self.tokens):
            self.refuse(f"it has {len(self.tokens)} tokens and {len(scores)} scores")
        return [float(score) for score in scores]

    def ids(self) -> dict[str, int]:
        """Token to number; of a token that is there twice the first counts, and the other keeps its number under a name of its own."""
        ids: dict[str, int] = {}
        for number, token in enumerate(self.tokens):
            if token in ids:
                token = f"{token}\0{number}"
            ids[token] = number
        return ids

    def refuse(self, what: str, hint: str = "convert the model again") -> Any:
        raise InvalidModel(f"{self.name}: {what}", hint=hint)


def is_token(number: Any, count: int) -> TypeGuard[int]:
    """Whether a key's value is the number of one of so many tokens."""
    return isinstance(number, int) and 0 <= number < count


def _printable(texts: Sequence[str]) -> list[str]:
    """The reader marks bytes that are no UTF-8 with lone surrogates, which Rust's strings cannot hold. Few files have any."""
    found = list(texts)
    try:
        "".join(found).encode()
    except UnicodeEncodeError:
        return [text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace") for text in found]
    return found


def _gpt2(keys: _Keys) -> tokenizers.Tokenizer:
    """Byte-pair encoding with merges in the file."""
    from tokenizers import Tokenizer, models

    split = _split(keys)
    merges = [(left, right) for left, _, right in (pair.partition(" ") for pair in _printable(keys.get("merges", ())))]
    ids = keys.ids()
    if split.bytes:
        merges = [(left, right) for left, right in merges if left in ids and right in ids and left + right in ids]
    model = models.BPE(ids, merges, byte_fallback=not split.bytes, ignore_merges=split.whole_words)
    made = Tokenizer(model)
    _cut(made, split)
    return made


def _split(keys: _Keys) -> Split:
    name = keys.get("pre", "gemma4" if keys.get("model", "") == "gemma4" else "default")
    if name not in SPLITS:
        keys.refuse(f"its text is cut into words the way {name!r:.40}, which turnout does not know", "update turnout-text")
    return SPLITS[name]


def _cut(made: tokenizers.Tokenizer, split: Split) -> None:
    from tokenizers import Regex, decoders, normalizers, pre_tokenizers

    cuts: list[Any] = [pre_tokenizers.Split(Regex(expression), "isolated") for expression in split.expressions]
    if split.bytes:
        cuts.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False))
        made.decoder = decoders.ByteLevel()
    else:
        made.normalizer = normalizers.Replace(" ", _SPACE)
        made.decoder = decoders.Sequence([decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse()])
    made.pre_tokenizer = pre_tokenizers.Sequence(cuts)


def _sentencepiece(keys: _Keys) -> tokenizers.Tokenizer:
    """SentencePiece's byte-pair encoding: of all neighbours that make a token, those that make the one with the best score go first."""
    from tokenizers import Tokenizer, decoders, models, normalizers

    ids = keys.ids()
    model = models.BPE(ids, list(_merges(keys, ids)), unk_token=keys.token("unknown_token_id", 0), fuse_unk=True, byte_fallback=True)
    made = Tokenizer(model)
    prefix = keys.flag("add_space_prefix", True)
    steps: list[Any] = [normalizers.Prepend(_SPACE)] if prefix else []
    made.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", _SPACE)])
    undo: list[Any] = [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    made.decoder = decoders.Sequence([*undo, decoders.Strip(" ", 1, 0)] if prefix else undo)
    return made


def _merges(keys: _Keys, ids: Mapping[str, int]) -> Iterator[tuple[str, str]]:
    """All pairs of tokens that make a token, best first."""
    scores, kinds = keys.scores(), keys.kinds
    mergeable = {token for token, number in ids.items() if kinds[number] in (_NORMAL, _USER, _UNUSED)}
    found = []
    for token in mergeable:
        score, number = -scores[ids[token]], ids[token]
        for middle in range(1, len(token)):
            left, right = token[:middle], token[middle:]
            if left in mergeable and right in mergeable:
                found.append((score, number, ids[left], ids[right], left, right))
    found.sort()
    for *_, left, right in found:
        yield left, right


def _wordpiece(keys: _Keys) -> tokenizers.Tokenizer:
    """BERT's; in the file tokens that begin a word bear the sign for a space, in BERT's vocabulary those that do not bear ##."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

    vocabulary: dict[str, int] = {}
    for number, (token, kind) in enumerate(zip(keys.tokens, keys.kinds, strict=True)):
        if kind == _NORMAL:
            token = token.removeprefix(_SPACE) if token.startswith(_SPACE) else f"##{token}"
        vocabulary.setdefault(token, number)
    unknown = keys.token("unknown_token_id", 100) or "[UNK]"
    if unknown not in vocabulary:
        keys.refuse("none of its tokens stands for what is not in the vocabulary")
    made = Tokenizer(models.WordPiece(vocabulary, unk_token=unknown, max_input_chars_per_word=1 << 20))
    made.normalizer = normalizers.BertNormalizer()
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.decoder = decoders.WordPiece()
    return made


def _unigram(keys: _Keys) -> tokenizers.Tokenizer:
    """SentencePiece's unigram model: the likeliest way to cut."""
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

    vocabulary = list(zip(keys.tokens, keys.scores(), strict=True))
    bytes_too = _BYTE in keys.kinds
    made = Tokenizer(models.Unigram(vocabulary, unk_id=int(keys.get("unknown_token_id", 2)), byte_fallback=bytes_too))
    steps: list[Any] = []
    charsmap = keys.get("precompiled_charsmap", None)
    if charsmap is not None and len(charsmap):
        steps.append(normalizers.Precompiled(bytes(bytearray(int(byte) & 255 for byte in charsmap))))
    if keys.flag("remove_extra_whitespaces", False):
        steps += [normalizers.Strip(), normalizers.Replace(Regex(" {2,}"), " ")]
    if steps:
        made.normalizer = normalizers.Sequence(steps)
    prepend: Any = "always" if keys.flag("add_space_prefix", True) else "never"
    made.pre_tokenizer = pre_tokenizers.Metaspace(_SPACE, prepend_scheme=prepend)
    made.decoder = decoders.Metaspace(_SPACE, prepend_scheme=prepend)
    return made


def _add_tokens(made: tokenizers.Tokenizer, keys: _Keys, kind: str) -> None:
    """Tokens that are found in a text before it is cut: control tokens, and those that the model's makers added."""
    from tokenizers import AddedToken

    control, user = [], []
    for token, what in zip(keys.tokens, keys.kinds, strict=True):
        if not token:
            continue
        if what == _CONTROL or (what == _UNKNOWN and kind == "llama"):
            control.append(AddedToken(token, special=True, normalized=False))
        elif what == _USER:
            user.append(AddedToken(token, special=False, normalized=False))
    made.add_special_tokens(control)
    made.add_tokens(user)


def _add_ends(made: tokenizers.Tokenizer, keys: _Keys, kind: str) -> None:
    """The tokens that begin and end a text, where the file asks for them."""
    from tokenizers import processors

    starts = kind in ("llama", "bert", "t5") or (kind == "gpt2" and _split(keys).starts)
    first = keys.token("cls_token_id" if kind == "bert" else "bos_token_id", 101 if kind == "bert" else 1)
    last = keys.token("seperator_token_id" if kind == "bert" else "eos_token_id", 102 if kind == "bert" else 2)
    first = first if keys.flag("add_bos_token", starts and kind != "t5") else None
    last = last if keys.flag("add_eos_token", kind in ("bert", "t5")) else None
    if first is None and last is None:
        return
    ends = [token for token in (first, last) if token is not None]
    ids = [(token, made.token_to_id(token)) for token in dict.fromkeys(ends)]
    made.post_processor = processors.TemplateProcessing(
        single=[*([first] if first else []), "$A", *([last] if last else [])], special_tokens=ids
    )
