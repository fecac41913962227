"""Tokenizers out of GGUF metadata: llama.cpp's own corpus, texts that come back as they were, and metadata that do not fit."""

from __future__ import annotations

import functools
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Regex

from turnout.errors import InvalidModel, NotGenerative
from turnout.formats import Origin
from turnout_gguf.reader import read
from turnout_text.language import Language, language_of
from turnout_text.splits import SPLITS
from turnout_text.vocabulary import build


def large(name: str) -> Any:
    """Its quarter of a million tokens take seconds to build."""
    return pytest.param(name, marks=pytest.mark.slow)


NAMES = [
    *("bert-bge", large("command-r"), "deepseek-coder", "deepseek-llm", "falcon", large("gemma-4"), "gpt-2", "llama-bpe", "llama-spm"),
    *("mpt", "phi-3", "qwen2", "qwen35", "refact", "starcoder"),
]


@functools.cache
def language(file: Path) -> Language:
    return language_of(Origin(file.name, "gguf", file, read(file).metadata))


def test_the_corpus_is_known_whole(vocabularies: Path) -> None:
    """15 vocabularies have reference tokenisations, of 709 texts; the test below goes through every one of them."""
    known = {getattr(name, "values", (name,))[0] for name in NAMES}
    assert len(known) == 15
    assert {f"ggml-vocab-{name}.gguf.out" for name in known} == {file.name for file in vocabularies.glob("*.out")}
    assert sum(len(file.read_text().split("\n")) for file in vocabularies.glob("*.out")) == 709


@pytest.mark.parametrize("name", NAMES)
def test_every_text_of_the_corpus_has_the_tokens_that_it_should(name: str, vocabularies: Path) -> None:
    file = vocabularies / f"ggml-vocab-{name}.gguf"
    texts = Path(f"{file}.inp").read_bytes().decode().split("\n__ggml_vocab_test__\n")
    wanted = [[int(number) for number in line.split()] for line in Path(f"{file}.out").read_text().split("\n")]
    assert len(wanted) == 47 + 4 * (name == "qwen35")
    if len(texts) < len(wanted):  # one of the files lacks the separator before its last, empty text
        texts.append("")
    made = language(file)
    assert [made.encode(text, ends=False, special=False) for text in texts] == wanted


@pytest.mark.parametrize("name", ["gpt-2", "qwen2", "llama-bpe", "deepseek-llm", "mpt", "llama-spm", "phi-3", large("gemma-4")])
@given(text=st.text(st.one_of(st.characters(codec="utf-8"), st.sampled_from(" \n\t'\u00b4éñß你好ก🦙👩‍🚀▁")), max_size=40))
def test_a_text_comes_back_as_it_was(name: str, vocabularies: Path, text: str) -> None:
    made = language(vocabularies / f"ggml-vocab-{name}.gguf")
    back = made.decode(made.encode(text, ends=False, special=False), special=True)
    if name in ("llama-spm", "phi-3", "gemma-4"):  # these write a space as this character
        text = text.replace("▁", " ")
    if name == "phi-3" and text != back:  # some of its added tokens swallow the spaces around them in the model's own tokenizer
        assert text.split() == back.split()
    else:
        assert back == text


@pytest.mark.parametrize("name", ["aquila", "baichuan", "gpt-neox", large("nomic-bert-moe")])
def test_vocabularies_without_a_corpus_bring_a_text_back(name: str, vocabularies: Path) -> None:
    made = build(read(vocabularies / f"ggml-vocab-{name}.gguf").metadata, name)
    text = "Hello world, it is 2026: 你好!"
    assert made.decode(made.encode(text).ids) == text


def test_every_expression_is_one() -> None:
    assert len(SPLITS) > 85
    for split in SPLITS.values():
        for expression in split.expressions:
            Regex(expression)


@pytest.mark.parametrize(
    ("name", "text", "pieces"),
    [
        ("gpt-2", "I'm 1234  here", ["I", "'m", " 1234", " ", " here"]),
        ("llama-bpe", "I'M 1234  here\n\nx", ["I", "'M", " ", "123", "4", " ", " here", "\n\n", "x"]),
        ("qwen2", "1234", list("1234")),
        ("tekken", "HelloWorld OK", ["Hello", "World", " OK"]),
        ("gpt-4o", "it's ok", ["it's", " ok"]),
        ("kimi-k2", "abc你好def", ["abc", "你好", "def"]),
        ("deepseek-v3", "12345 x", ["123", "45", " x"]),
        ("bloom", "a, b", ["a", ",", " b"]),
        ("tiny_aya", "1234567", ["1", "234", "567"]),
        ("superbpe", "1234567", ["1", "234", "567"]),
        ("ufakzeka", "Ali'nin", ["Ali", "'nin"]),
    ],
)
def test_words_are_cut_as_the_models_do(name: str, text: str, pieces: list[str]) -> None:
    from tokenizers import pre_tokenizers

    cuts = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(expression), "isolated") for expression in SPLITS[name].expressions])
    assert [piece for piece, _ in cuts.pre_tokenize_str(text)] == pieces


def gpt2(**changed: Any) -> dict[str, Any]:
    letters = [chr(33 + i) for i in range(94)] + ["Ġ"]
    known = {
        "model": "gpt2",
        "pre": "gpt-2",
        "tokens": [*letters, "ab", "<eos>"],
        "token_type": [1] * 96 + [3],
        "merges": ["a b"],
        "bos_token_id": 96,
        "eos_token_id": 96,
    }
    merged = {**known, **changed}
    return {f"tokenizer.ggml.{key}": value for key, value in merged.items() if value is not None}


def test_small_metadata_make_a_tokenizer() -> None:
    made = build(gpt2(), "small")
    assert made.encode("ab a<eos>").tokens == ["ab", "Ġ", "a", "<eos>"]
    assert build(gpt2(add_bos_token=True), "small").encode("a").ids == [96, 64]


def test_bytes_that_are_no_text_are_written_out() -> None:
    tokens = [*gpt2()["tokenizer.ggml.tokens"][:-2], "a\udcff", "ab"]
    made = build(gpt2(tokens=tokens, merges=["\udcff a", "a b"]), "small")
    assert made.id_to_token(95) == "a\\xff"
    assert made.encode("ab").ids == [96]


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"model": "rwkv"}, "of kind 'rwkv'"),
        ({"model": 3}, "of kind 3"),
        ({"tokens": None}, "no vocabulary"),
        ({"tokens": []}, "no vocabulary"),
        ({"tokens": 5}, "no vocabulary"),
        ({"tokens": "abc"}, "no vocabulary"),
        ({"token_type": [1]}, "97 tokens and 1 token types"),
        ({"pre": "martian"}, "the way 'martian'"),
        ({"pre": 7}, "the way 7"),
        ({"model": "llama", "scores": [1.0]}, "97 tokens and 1 scores"),
        ({"model": "t5", "scores": [1.0] * 97, "unknown_token_id": 500}, "does not fit together"),
        ({"merges": ["nothing"]}, ""),
        ({"merges": [3]}, "does not fit together"),
        ({"bos_token_id": -5, "add_bos_token": True}, ""),
        ({"bos_token_id": "x", "add_bos_token": True}, ""),
    ],
)
def test_metadata_that_do_not_fit(changed: dict[str, Any], said: str) -> None:
    if not said:
        assert build(gpt2(**changed), "small").encode("a").ids
        return
    with pytest.raises(InvalidModel, match=said) as wrong:
        build(gpt2(**changed), "small")
    assert wrong.value.message.startswith("small: ")
    assert wrong.value.hint


ODD: list[Any] = [
    *(None, "", "x", "\udcff", 5, -5, 2**40, 1.5, float("nan"), True, ["a"] * 97, ["a b"] * 97, [], ["\udcff"] * 97, "a" * 97),
    *(
        np.array([1, 2, 3]),
        np.array([]),
        np.array([1.5] * 97),
        np.array([2**40] * 97),
        np.array([-1] * 97),
        np.array([200] * 97, np.uint8),
        np.array([7] * 97),
    ),
]
"""Values that a hostile file may give for any key; the reader hands out what has a type of GGUF's."""


@pytest.mark.parametrize("model", ["gpt2", "llama", "bert", "t5", "gemma4"])
def test_no_value_of_any_key_ends_in_a_traceback(model: str) -> None:
    ids = {f"{key}_token_id": 96 for key in ("bos", "eos", "eot", "eom", "cls", "seperator", "unknown", "padding")}
    flags = dict.fromkeys(("add_bos_token", "add_eos_token", "add_space_prefix", "remove_extra_whitespaces"), True)
    whole = gpt2(model=model, scores=[float(-number) for number in range(97)], **ids, **flags)
    whole["tokenizer.chat_template"] = "{{ messages[0].content }}"
    refusals, made = [], 0
    for key, odd in itertools.product([*whole, "tokenizer.ggml.precompiled_charsmap"], ODD):
        metadata = {name: value for name, value in {**whole, key: odd}.items() if value is not None}
        try:
            found = language_of(Origin("odd", "gguf", None, metadata))
            tokens = found.encode("ab a<eos> zz \u4f60", ends=True, special=True)
            found.decode(tokens, special=True)
            assert found.ends <= set(range(97))
            made += 1
        except (InvalidModel, NotGenerative) as error:
            refusals.append(error)
    assert all(error.hint and len(error.message) < 300 for error in refusals)
    assert made > 100
    assert len(refusals) > 30
