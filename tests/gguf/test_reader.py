"""The reader: what is in a sound file, and what it says of each way to be broken."""

from __future__ import annotations

import struct
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made import MadeTensor, gguf, tensor, text

from turnout.errors import InvalidModel
from turnout_gguf.reader import Strings, read

NUMBERS = [np.dtype(code) for code in ("u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f4", "f8", "?")]


def refusal(file: bytes) -> str:
    with pytest.raises(InvalidModel) as caught:
        read(file)
    assert caught.value.hint
    return caught.value.message


@st.composite
def values(draw: Any) -> Any:
    kind = draw(st.sampled_from(["int", "float", "bool", "str", "strings", "numbers", "number"]))
    if kind == "int":
        return draw(st.integers(0, 2**32 - 1))
    if kind == "float":
        return draw(st.floats(width=32, allow_nan=False))
    if kind == "bool":
        return draw(st.booleans())
    if kind == "str":
        return draw(st.text(max_size=20))
    if kind == "strings":
        return draw(st.lists(st.text(max_size=5), max_size=5))
    dtype = draw(st.sampled_from(NUMBERS))
    raw = draw(st.binary(min_size=8, max_size=8))
    array = np.frombuffer(raw, np.uint8) & 1 if dtype.kind == "b" else np.frombuffer(raw, dtype)
    array = np.nan_to_num(array.astype(dtype))
    return array if kind == "numbers" else array[0]


@given(keys=st.dictionaries(st.text(max_size=8).filter(lambda key: key != "general.alignment"), values(), max_size=6))
def test_every_kind_of_value_is_read_back(keys: dict[str, Any]) -> None:
    found = read(gguf(keys)).metadata
    assert list(found) == list(keys)
    for key, value in keys.items():
        if isinstance(value, np.ndarray):
            assert found[key].dtype == value.dtype
            assert np.array_equal(found[key], value)
        elif isinstance(value, list):
            assert list(found[key]) == value
        else:
            assert found[key] == value
            assert type(found[key]) is type(value.item() if isinstance(value, np.generic) else value)


def test_strings_are_a_sequence() -> None:
    strings = read(gguf({"k": ["a", "", "tür", "z"]})).metadata["k"]
    assert isinstance(strings, Strings)
    assert len(strings) == 4
    assert (strings[0], strings[-1], strings[2], strings[1:3]) == ("a", "z", "tür", ["", "tür"])
    with pytest.raises(IndexError):
        strings[4]


def test_bytes_that_are_no_utf8_survive() -> None:
    found = read(gguf({"k": struct.pack("<IIQ", 9, 8, 1) + text(b"\xff\x00a")})).metadata["k"][0]
    assert found.encode("utf-8", "surrogateescape") == b"\xff\x00a"


@pytest.mark.parametrize("alignment", [32, 64, 8])
@pytest.mark.parametrize("version", [2, 3])
def test_tensors_are_views_of_the_file(alignment: int, version: int, tmp_path: Path) -> None:
    made = [tensor("a", "F32", (3, 5), 1), tensor("b", "Q4_0", (2, 2, 64), 2), tensor("c", "Q6_K", (256,), 3)]
    path = tmp_path / "x.gguf"
    path.write_bytes(gguf({"general.alignment": alignment}, made, version=version, alignment=alignment))
    for file in (path, path.read_bytes()):
        found = read(file)
        assert found.version == version
        assert [(one.name, one.shape, one.type.number) for one in found.tensors.values()] == [(m.name, m.shape, m.kind) for m in made]
        for one in made:
            raw = found.raw(found.tensors[one.name])
            assert raw.tobytes() == one.data
            assert not raw.flags.owndata
            assert not raw.flags.writeable
    assert found.raw(found.tensors["b"]).shape == (4, 36)


SOUND = gguf({"general.architecture": "llama", "k": [1.0, "x"][1:], "n": np.arange(3, dtype="i4")}, [tensor("a", "F32", (4, 8))])


def test_every_shorter_file_is_refused() -> None:
    read(SOUND)
    for length in range(len(SOUND)):
        with pytest.raises(InvalidModel):
            read(SOUND[:length])


def head(tensors: int, keys: int, version: int = 3) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, tensors, keys)


def key(name: str, kind: int, rest: bytes) -> bytes:
    return text(name) + struct.pack("<I", kind) + rest


def info(name: str = "a", sizes: tuple[int, ...] = (32,), kind: int = 0, offset: int = 0, rank: int | None = None) -> bytes:
    rank = len(sizes) if rank is None else rank
    return head(1, 0) + text(name) + struct.pack(f"<I{len(sizes)}QIQ", rank, *sizes, kind, offset) + bytes(200)


HUGE = 2**63
BROKEN: dict[str, tuple[bytes, str]] = {
    "another file": (b"GGML" + bytes(40), "does not begin with GGUF"),
    "big-endian": (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "big-endian"),
    "version 1": (head(0, 0, 1), "version 1"),
    "version 0": (head(0, 0, 0), "version 0"),
    "more keys than bytes": (head(0, HUGE), f"{HUGE} keys"),
    "more tensors than bytes": (head(HUGE, 0), f"{HUGE} tensors"),
    "a name longer than names are": (head(0, 1) + struct.pack("<Q", HUGE) + bytes(20), "65535 is the most"),
    "a name that is no UTF-8": (head(0, 1) + text(b"\xff\xfe") + bytes(20), "no UTF-8"),
    "a string longer than the file": (head(0, 1) + key("k", 8, struct.pack("<Q", HUGE)), "cut short"),
    "an array longer than the file": (head(0, 1) + key("k", 9, struct.pack("<IQ", 4, HUGE)), "cut short"),
    "strings, more than bytes": (head(0, 1) + key("k", 9, struct.pack("<IQ", 8, HUGE)), "cut short"),
    "a lying length among strings": (head(0, 1) + key("k", 9, struct.pack("<IQQQ", 8, 2, HUGE, 0)), "string 0"),
    "an array of arrays": (head(0, 1) + key("k", 9, struct.pack("<IQ", 9, 1) + bytes(40)), "array of arrays"),
    "an array of nothing known": (head(0, 1) + key("k", 9, struct.pack("<IQ", 77, 1) + bytes(40)), "type 77"),
    "an unknown type of value": (head(0, 1) + key("k", 13, bytes(40)), "type 13"),
    "a key twice": (gguf([("k", 1), ("k", 2)]), "there twice"),
    "an alignment of 0": (gguf({"general.alignment": 0}), "alignment is 0"),
    "an alignment of 24": (gguf({"general.alignment": 24}), "alignment is 24"),
    "an alignment of true": (gguf({"general.alignment": True}), "alignment is True"),
    "an alignment of text": (gguf({"general.alignment": "x" * 9000}), "alignment is 'xxx"),
    "no dimensions": (info(sizes=()), "0 dimensions"),
    "many dimensions": (info(sizes=(), rank=2**32 - 1), "4294967295 dimensions"),
    "an unknown type of tensor": (info(kind=99), "type 99"),
    "a type that is never stored": (info(kind=9), "type 9"),
    "a size of 0": (info(sizes=(32, 0)), "shape [0, 32]"),
    "half a block": (info(sizes=(48,), kind=2), "rows of a multiple of 32"),
    "sizes whose product is beyond 64 bits": (info(sizes=(2**40, 2**40)), "cut short"),
    "an offset outside the file": (info(offset=HUGE), "cut short"),
    "an offset between two places": (info(offset=8), "no multiple of 32"),
    "a tensor twice": (gguf({}, [tensor("a", "F32", (8,)), tensor("a", "F32", (8,))]), "there twice"),
    "overlapping tensors": (gguf({}, [tensor("a", "F32", (32,)), MadeTensor("b", 0, (8,), bytes(32), offset=32)]), "'a' and 'b' overlap"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_file_is_refused_with_the_reason(what: str) -> None:
    file, reason = BROKEN[what]
    message = refusal(file)
    assert reason in message
    assert len(message) < 300


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidModel, match="cannot be read"):
        read(tmp_path / "none.gguf")


def test_a_large_vocabulary_opens_quickly() -> None:
    file = gguf({"tokens": [f"token{number}" for number in range(200_000)]})
    start = time.process_time()
    found = read(file).metadata["tokens"]
    seconds = time.process_time() - start
    assert len(found) == 200_000
    assert seconds < 1  # 0.03 s on an idle machine


def test_a_long_name_does_not_make_a_long_message() -> None:
    long = "\x00" * 60000
    files = [
        gguf({long: struct.pack("<I", 99)}),
        gguf([(long, 1), (long, 2)]),
        gguf({long: struct.pack("<IIQ", 9, 9, 1)}),
        gguf({long: struct.pack("<IQ", 8, 2**40)}),
        gguf(tensors=[MadeTensor(long, 99, (32,), b"")]),
        gguf(tensors=[MadeTensor(long, 0, (32,), b"", offset=1)]),
        gguf(tensors=[MadeTensor(long, 0, (32,), b"")]),
        gguf(tensors=[MadeTensor(long, 0, (32,), bytes(128)), MadeTensor(f"{long}x", 0, (32,), bytes(128), offset=0)]),
        gguf(tensors=[MadeTensor(long, 0, (32,), bytes(128))] * 2),
    ]
    assert [len(refusal(file)) < 400 for file in files] == [True] * len(files)
