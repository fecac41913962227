from __future__ import annotations

import struct
import wave
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from turnout.errors import InvalidInput
from turnout.feed import feed, parse_dims


@dataclass
class Wanted:
    """What a model's input says of itself."""

    name: str
    dtype: Any = np.float32
    shape: Any = (2,)
    kind: str = "tensor"
    required: bool = True

    def __post_init__(self) -> None:
        self.dtype = None if self.dtype is None else np.dtype(self.dtype)

    def __str__(self) -> str:
        return f"{self.dtype}{list(self.shape)}"


def one(text: str, **wanted: Any) -> Any:
    """What one input of the name x gets."""
    return feed([Wanted("x", **wanted)], [f"x={text}"])["x"]


def refused(*values: str, inputs: Any = None, **options: Any) -> InvalidInput:
    with pytest.raises(InvalidInput) as caught:
        feed([Wanted("x")] if inputs is None else inputs, values, **options)
    assert caught.value.hint
    return caught.value


# numbers, lists, text


@pytest.mark.parametrize(
    ("text", "wanted", "due"),
    [
        ("2", {"shape": ()}, np.float32(2)),
        ("2", {"shape": (2, "N")}, np.full((2, 1), 2, np.float32)),
        ("[1, 2]", {}, np.array([1, 2], np.float32)),
        ("[1, 2]", {"shape": (1, 1, 2)}, np.array([[[1, 2]]], np.float32)),
        ("[[1],[2]]", {"dtype": np.int64, "shape": ("N", 1)}, np.array([[1], [2]])),
        ("[true, false]", {"dtype": bool}, np.array([True, False])),
        ("hello", {"dtype": object, "shape": ()}, np.array("hello", object)),
        ('["a", "b"]', {"dtype": object}, np.array(["a", "b"], object)),
        ("[1.5]", {"dtype": ml_dtypes.bfloat16, "shape": (1,)}, np.array([1.5], ml_dtypes.bfloat16)),
    ],
)
def test_json_becomes_what_the_input_takes(text: str, wanted: Any, due: Any) -> None:
    got = one(text, **wanted)
    assert got.dtype == np.asarray(due).dtype
    np.testing.assert_array_equal(got, due)


def test_a_number_fills_a_dynamic_dimension_of_the_size_asked_for() -> None:
    got = feed([Wanted("x", shape=("N", 2))], ["x=7"], dims={"N": 3})["x"]
    np.testing.assert_array_equal(got, np.full((3, 2), 7, np.float32))


def test_a_list_for_a_sequence_is_a_list_of_arrays() -> None:
    got = one("[[1, 2], [3]]", kind="sequence", shape=None)
    assert [item.tolist() for item in got] == [[1, 2], [3]]


@pytest.mark.parametrize(
    ("text", "wanted", "said"),
    [
        ("1.5", {"dtype": np.int64}, "takes int64, which cannot hold 1.5"),
        ("300", {"dtype": np.uint8}, "uint8"),
        ("[[1, 2], [3]]", {}, "does not become"),
        ("what", {}, "neither a file nor a number"),
        ("[1, 2]", {"dtype": object}, "takes text"),
        ("nowhere.npy", {}, "there is no file nowhere.npy"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_reason(text: str, wanted: Any, said: str) -> None:
    assert said in refused(f"x={text}", inputs=[Wanted("x", **wanted)]).message


def test_a_file_of_another_kind_is_named(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text("1,2")
    assert "of a kind that is not read here" in refused(f"x={path}").message


# which input a text is for


def test_a_single_input_needs_no_name() -> None:
    np.testing.assert_array_equal(feed([Wanted("x")], ["[1, 2]"])["x"], [1, 2])


def test_the_longest_name_that_fits_is_meant_and_names_may_hold_equals_and_colons() -> None:
    inputs = [Wanted("a", shape=()), Wanted("a=b", shape=()), Wanted("x:0", shape=())]
    got = feed(inputs, ["a=1", "a=b=2", "x:0=3"])
    assert {name: float(value) for name, value in got.items()} == {"a": 1, "a=b": 2, "x:0": 3}


def test_missing_inputs_are_all_named_with_types_and_an_example() -> None:
    error = refused(inputs=[Wanted("picture", shape=(1, 3, 8, 8)), Wanted("size", np.int64, ())], model="m.onnx")
    assert error.message == "2 inputs are missing: picture (float32[1, 3, 8, 8]), size (int64[])"
    assert 'turnout run m.onnx --input "picture=picture.png" --input "size=1"' in error.hint
    assert "--input random" in error.hint


def test_inputs_with_a_default_and_optional_ones_may_be_left_out() -> None:
    assert feed([Wanted("x", required=False), Wanted("y", kind="optional")], []) == {}


def test_random_fills_what_is_not_given() -> None:
    got = feed([Wanted("x"), Wanted("y")], ["x=[1, 2]", "random"])
    np.testing.assert_array_equal(got["x"], [1, 2])
    assert got["y"].shape == (2,)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (["z=1"], "no input named z"),
        (["x=1", "x=2"], "given twice"),
        (["1", "x=1"], "given twice"),
    ],
)
def test_confusions_are_refused(values: list[str], said: str) -> None:
    assert said in refused(*values).message


def test_a_value_without_a_name_is_refused_where_there_are_two_inputs() -> None:
    assert "does not say which input" in refused("1", inputs=[Wanted("x"), Wanted("y")]).message


# random values


@pytest.mark.parametrize(
    ("dtype", "allowed"),
    [(np.int64, {0, 1}), (np.uint8, {0, 1}), (bool, {False, True}), (ml_dtypes.int4, {0, 1})],
)
def test_random_integers_are_small_and_not_negative(dtype: Any, allowed: set[Any]) -> None:
    got = one("random", dtype=dtype, shape=(64,))
    assert got.dtype == dtype
    assert set(got.tolist()) == allowed


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn])
def test_random_floats_are_normal(dtype: Any) -> None:
    got = one("random", dtype=dtype, shape=(4096,))
    assert got.dtype == dtype
    wide = got.astype(np.float64)
    assert abs(wide.mean()) < 0.1
    assert abs(wide.std() - 1) < 0.1


def test_random_text_is_text() -> None:
    got = one("random", dtype=object, shape=(3,))
    assert all(isinstance(word, str) and word for word in got)


def test_random_is_the_same_for_a_seed_and_differs_by_seed_and_by_name() -> None:
    inputs = [Wanted("x", shape=(9,)), Wanted("y", shape=(9,))]
    first, again, other = (feed(inputs, ["random"], seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first["x"], again["x"])
    assert not np.array_equal(first["x"], other["x"])
    assert not np.array_equal(first["x"], first["y"])


def test_dims_name_dynamic_dimensions() -> None:
    got = feed([Wanted("x", shape=("N", 3, None))], ["random"], dims=parse_dims(["N=4"]))
    assert got["x"].shape == (4, 3, 1)
    assert "no dimension named M" in refused("random", dims={"M": 2}).message
    with pytest.raises(InvalidInput, match="not a name and a size"):
        parse_dims(["N:4"])


# files


def test_npy_is_taken_as_it_is(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.arange(4, dtype=np.int16))
    assert one(str(tmp_path / "x.npy")).dtype == np.int16
    np.save(tmp_path / "text.npy", np.array(["a", "bc"]))
    assert one(str(tmp_path / "text.npy"), dtype=object).tolist() == ["a", "bc"]


def test_npy_that_holds_objects_or_is_none_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "objects.npy", np.array([{}], object), allow_pickle=True)
    assert "never unpickled" in refused(f"x={tmp_path / 'objects.npy'}").message
    (tmp_path / "broken.npy").write_bytes(b"\x93NUMPY\x01\x00")
    assert "cannot be read" in refused(f"x={tmp_path / 'broken.npy'}").message
    (tmp_path / "text.npy").write_text("no array at all")
    assert "text.npy cannot be read" in refused(f"x={tmp_path / 'text.npy'}").message


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    """4 wide, 2 high: red, but for a green pixel at the top right."""
    image = pytest.importorskip("PIL.Image").new("RGB", (4, 2), (255, 0, 0))
    image.putpixel((3, 0), (0, 255, 0))
    image.save(tmp_path / "picture.png")
    return tmp_path / "picture.png"


@pytest.mark.parametrize(
    ("shape", "due", "red", "green"),
    [
        ((1, 3, 2, 4), (1, 3, 2, 4), (0, 0, 1, 0), (0, 1, 0, 3)),
        ((1, 2, 4, 3), (1, 2, 4, 3), (0, 1, 0, 0), (0, 0, 3, 1)),
        (("N", "C", "H", "W"), (1, 3, 2, 4), (0, 0, 1, 0), (0, 1, 0, 3)),
        ((3, None, None), (3, 2, 4), (0, 1, 0), (1, 0, 3)),
        ((None, None, None, 3), (1, 2, 4, 3), (0, 1, 0, 0), (0, 0, 3, 1)),
    ],
)
def test_pictures_are_laid_out_as_the_shape_says(
    picture: Path, shape: Any, due: tuple[int, ...], red: tuple[int, ...], green: tuple[int, ...]
) -> None:
    got = one(str(picture), shape=shape)
    assert got.shape == due
    assert got.dtype == np.float32
    assert got[red] == 1.0
    assert got[green] == 1.0


def test_pictures_are_bytes_or_fractions_by_dtype(picture: Path) -> None:
    assert one(str(picture), dtype=np.uint8, shape=(1, 3, 2, 4)).max() == 255
    assert one(str(picture), dtype=np.float16, shape=(1, 3, 2, 4)).max() == 1
    inputs = [Wanted("x", np.int64, (1, 3, 2, 4))]
    assert "a picture becomes uint8, or floats" in refused(f"x={picture}", inputs=inputs).message


def test_pictures_become_grey_where_there_is_one_channel(picture: Path) -> None:
    assert one(str(picture), shape=(1, 1, 2, 4)).shape == (1, 1, 2, 4)
    assert one(str(picture), shape=("H", "W")).shape == (2, 4)


def test_pictures_are_resized_to_a_fixed_size_and_that_is_said(picture: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert one(str(picture), shape=(1, 3, 8, 16)).shape == (1, 3, 8, 16)
    assert "picture.png is 4x2, resized to 16x8" in caplog.text


def test_what_is_no_picture_or_wants_none_is_refused(picture: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    inputs = [Wanted("x", shape=(1, 3, 2, 4))]
    assert "not a picture that can be read" in refused(f"x={tmp_path / 'broken.png'}", inputs=inputs).message
    inputs = [Wanted("x", shape=(1, 7, 2, 9))]
    assert "does not look like a picture" in refused(f"x={picture}", inputs=inputs).message


def test_without_pillow_the_command_that_brings_it_is_said(picture: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "PIL", None)
    assert refused(f"x={picture}", inputs=[Wanted("x", shape=(1, 3, 2, 4))]).hint == 'pip install "turnout[image]"'


def sound(path: Path, width: int, frames: bytes, channels: int = 1) -> str:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(width)
        file.setframerate(16000)
        file.writeframes(frames)
    return str(path)


@pytest.mark.parametrize(
    ("width", "frames"),
    [
        (1, bytes([128, 192, 0])),
        (2, struct.pack("<3h", 0, 1 << 14, -1 << 15)),
        (3, b"".join(value.to_bytes(3, "little", signed=True) for value in (0, 1 << 22, -1 << 23))),
        (4, struct.pack("<3i", 0, 1 << 30, -1 << 31)),
    ],
)
def test_sound_of_any_width_goes_from_minus_one_to_one(tmp_path: Path, width: int, frames: bytes) -> None:
    got = one(sound(tmp_path / "x.wav", width, frames), shape=(1, "T"))
    assert got.dtype == np.float32
    np.testing.assert_array_equal(got, [[0, 0.5, -1]])


def test_sound_keeps_16_bits_where_they_are_wanted(tmp_path: Path) -> None:
    path = sound(tmp_path / "x.wav", 2, struct.pack("<3h", 0, 32767, -32768))
    got = one(path, dtype=np.int16, shape=("T",))
    np.testing.assert_array_equal(got, np.array([0, 32767, -32768], np.int16))


def test_two_channels_are_mixed_unless_the_input_has_two(tmp_path: Path) -> None:
    path = sound(tmp_path / "x.wav", 2, struct.pack("<4h", 1 << 14, 0, 1 << 14, 0), channels=2)
    np.testing.assert_array_equal(one(path, shape=(1, "T")), [[0.25, 0.25]])
    np.testing.assert_array_equal(one(path, shape=(1, 2, "T")), [[[0.5, 0.5], [0, 0]]])


def test_what_is_no_sound_or_wants_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "broken.wav").write_bytes(b"RIFF")
    assert "not a wave file that can be read" in refused(f"x={tmp_path / 'broken.wav'}").message
    path = sound(tmp_path / "x.wav", 2, b"\0\0")
    assert "sound becomes int16" in refused(f"x={path}", inputs=[Wanted("x", np.int64, ("T",))]).message
