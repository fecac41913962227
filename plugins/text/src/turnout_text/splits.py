"""How text is cut into words before byte-pair encoding: regular expressions by the name in a GGUF file (`tokenizer.ggml.pre`).

The expressions are not in the file. Each is the one of the original model's tokenizer.json, where it has one; of several, each cuts the
pieces that the one before left. The names are llama.cpp's, which the converters write.
"""
# ruff: noqa: RUF001, SIM905 - marks of every script, and tables that are best read as words

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["SPLITS", "Split"]


@dataclass(frozen=True, slots=True)
class Split:
    """One way to cut.

    expressions: whatever one matches is a piece, and so is what lies between matches.
    whole_words: a piece that is a token is that token, whatever the merges say. starts: texts begin with the token for a beginning.
    bytes: pieces are spelled in GPT-2's alphabet of bytes; else in characters, with bytes as tokens of their own.
    """

    expressions: tuple[str, ...]
    whole_words: bool = False
    starts: bool = False
    bytes: bool = True


_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_SPACES = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_UPPER, _LOWER = r"\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}", r"\p{Ll}\p{Lm}\p{Lo}\p{M}"
_KANA = "[一-龥぀-ゟ゠-ヿ]+"
_ASCII_MARKS = r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~]"""

_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_LLAMA3 = _CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|" + _SPACES
_QWEN2 = _CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|" + _SPACES


def _by_case(numbers: str, contractions: str = "") -> str:
    """GPT-4o's expression: words end where lower case does."""
    first = rf"[^\r\n\p{{L}}\p{{N}}]?[{_UPPER}]*[{_LOWER}]+{contractions}|[^\r\n\p{{L}}\p{{N}}]?[{_UPPER}]+[{_LOWER}]*{contractions}"
    return rf"{first}|{numbers}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|" + _SPACES


_DEEPSEEK3 = (
    r"\p{N}{1,3}",
    _KANA,
    _ASCII_MARKS + r"[A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|" + _SPACES,
)
_DIGITS_APART = (r"\p{N}", _GPT2)

# Kimi K2: Han characters stand alone, and the other letters are told apart by case without them
_K2_UPPER, _K2_LOWER = rf"[{_UPPER}&&[^\p{{Han}}]]", rf"[{_LOWER}&&[^\p{{Han}}]]"
_KIMI = (
    rf"\p{{Han}}+|[^\r\n\p{{L}}\p{{N}}]?{_K2_UPPER}*{_K2_LOWER}+{_CONTRACTIONS}?|[^\r\n\p{{L}}\p{{N}}]?{_K2_UPPER}+{_K2_LOWER}*{_CONTRACTIONS}?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|" + _SPACES
)

# DeepSeek LLM: letters that have a case, as spans of code points
_CASED = "".join(
    "-".join(chr(int(end, 16)) for end in span.split("-"))
    for span in (
        "b5 c0-d6 d8-f6 f8-1ba 1bc-1bf 1c4-293 295-2af 370-373 376 377 37b-37d 37f 386 388-38a 38c 38e-3a1 3a3-3f5 3f7-481 48a-52f "
        "531-556 10a0-10c5 13a0-13f5 13f8-13fd 1c90-1cba 1cbd-1cbf 1d00-1d2b 1d6b-1d77 1d79-1d9a 1e00-1f15 1f18-1f1d 1f20-1f45 1f48-1f4d "
        "1f50-1f57 1f59 1f5b 1f5d 1f5f-1f7d 1f80-1fb4 1fb6-1fbc 1fbe 1fc2-1fc4 1fc6-1fcc 1fd0-1fd3 1fd6-1fdb 1fe0-1fec 1ff2-1ff4 "
        "1ff6-1ffc 2102 2107 210a-2113 2115 2119-211d 2124 2126 2128 212a-212d 212f-2134 2139 213c-213f 2145-2149 214e 2183 2184 "
        "2c00-2c7b 2c7e-2ce4 2ceb-2cee 2cf2 2cf3 a640-a66d a680-a69b a722-a76f a771-a787 a78b-a78e ab70-abbf fb00-fb06 fb13-fb17 "
        "ff21-ff3a ff41-ff5a 10400-1044f 104b0-104d3 104d8-104fb 10c80-10cb2 10cc0-10cf2 118a0-118df 1e900-1e943 "
    ).split()
)

_DEFAULT = Split((r"[\p{P}\$\+<=>\^~\|]+", _GPT2, r"\p{N}+", "[0-9][0-9][0-9]"))

_GROUPS: tuple[tuple[str, Split], ...] = (
    ("default", _DEFAULT),
    (
        "gpt-2 phi-2 jina-es jina-de jina-v2-es jina-v2-de jina-v1-en jina-v2-code roberta-bpe gigachat a.x-4.0 mellum modern-bert exaone4 "
        "mpt olmo jais trillion granite-docling",
        Split((_GPT2,)),
    ),
    ("starcoder refact command-r smollm codeshell exaone minerva-7b mellum2", Split(_DIGITS_APART)),
    ("llama3 llama-v3 llama-bpe falcon3 falcon-h1 pixtral midm-2.0 lfm2 jina-v5-nano", Split((_LLAMA3,), whole_words=True, starts=True)),
    ("dbrx smaug-bpe chatglm-bpe", Split((_LLAMA3,))),
    ("glm4 glm5", Split((_LLAMA3,), whole_words=True)),
    ("qwen2 deepseek-r1-qwen kormo f2llmv2 megrez stablelm2 hunyuan solar-open grok-2", Split((_QWEN2,))),
    (
        "qwen35",
        Split((_CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|" + _SPACES,)),
    ),
    ("ufakzeka", Split((r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|" + _SPACES,))),
    ("seed-coder", Split((_CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1}| ?[^\s\p{L}\p{N}\r\n]+|" + _SPACES,))),
    (
        "bailingmoe bailingmoe2 llada-moe",
        Split((r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+",)),
    ),
    (
        "exaone-moe",
        Split(
            (
                _CONTRACTIONS
                + r"|[^\r\n\p{L}\p{N}]?(?:\p{L}\p{M}*(?: \p{L}\p{M}*)*)+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]?|\s*[\r\n]|\s+(?!\S)|\s+",
            )
        ),
    ),
    ("minicpm5", Split((r"\p{N}{1,3}", _LLAMA3.replace("{1,3}", "+")), whole_words=True)),
    (
        "jais-2",
        Split(
            (
                _LLAMA3.removesuffix(r"|\s+(?!\S)|\s+")
                + "".join(rf"|\s{{{count}}}(?!\S)" for count in (512, 256, 128, 64, 32, 16, 8, 4))
                + r"|\s{1,2}(?!\S)|\s{1}",
            )
        ),
    ),
    ("deepseek-v3 hunyuan-dense joyai-llm hy_v4", Split(_DEEPSEEK3)),
    (
        "deepseek-llm",
        Split(
            (
                "[\r\n]",
                rf"\s?[A-Za-z{_CASED}]+",
                r"\s?[!-/:-~！-／：-～‘-‟　-。]+",
                r"\s+$",
                "[一-龥ࠀ-一가-퟿]+",
                r"\p{N}+",
            )
        ),
    ),
    ("deepseek-coder", Split(("[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[一-龥ࠀ-一가-퟿]+", r"\p{N}"))),
    ("falcon", Split((r"[\p{P}\$\+<=>\^~\|`]+", _GPT2, "[0-9][0-9][0-9]"))),
    ("poro-chat bloom gpt3-finnish", Split((r" ?[^(\s|.,!?…。，、।۔،)]+",))),
    ("viking", Split((r" ?[^(\s|.,!?…。，、।۔،)]+", r"\p{N}"))),
    ("tekken", Split((_by_case(r"\p{N}"),), whole_words=True, starts=True)),
    ("gpt-4o llama4 kanana2 talkie minimax-m2", Split((_by_case(r"\p{N}{1,3}", _CONTRACTIONS + "?"),))),
    ("granite-embed-multi-97m", Split((_by_case(r"\p{N}{1,3}", _CONTRACTIONS + "?"),), whole_words=True)),
    ("tiny_aya cohere2moe", Split((r"\d{1,3}(?=(?:\d{3})*\b)", _by_case(r"\p{N}{1,3}", _CONTRACTIONS + "?")))),
    ("kimi-k2", Split((_KIMI,))),
    ("superbpe", Split((r"\p{N}+", r"(?=(\d{3})+(?!\d))"))),
    (
        "youtu",
        Split(
            (
                "[가-힣ㄱ-ㆎ]+|[！…“”‘’—：；，、-〿︰-﹏]+|[ㄅ-ㄯ]+|" + _KANA,
                _by_case(r"\p{N}", _CONTRACTIONS + "?"),
            ),
            whole_words=True,
        ),
    ),
    (
        "chameleon",
        Split(
            (
                "<sentinel:[0-9]+>",
                "(IMGIMG)((A|B|C|D|E|F|G|H|I){1,4})Z",
                r"([\t\n]|    |  )",
                r"\p{N}",
                r"[\p{P}!-/:-@\[-`{-~]",
                _GPT2,
            ),
            starts=True,
        ),
    ),
    ("laguna", Split((r"[^\n]+|[\n]+", _QWEN2))),
    (
        "spark2_5",
        Split((_DEEPSEEK3[0], _KANA, _DEEPSEEK3[2].replace(r"[\r\n]*|\s*[\r\n]+", r"|[\r\n]"), r"\p{N}")),
    ),
    ("gemma4 granite-embed-multi-311m sarvam-moe", Split((r"[^\n]+|[\n]+",), bytes=False)),
)

SPLITS: dict[str, Split] = {name: split for names, split in _GROUPS for name in names.split()}
"""Name in the file to the way to cut."""
