"""What `--input name=value` means: files, numbers and random values as the arrays that a model's inputs take."""

from __future__ import annotations

import json
import logging
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from turnout.errors import InvalidInput

__all__ = ["Interface", "feed", "parse_dims"]

log = logging.getLogger("turnout")

_IMAGES = (".png", ".jpg", ".jpeg")
_AUDIO = (".wav",)
_FILES = (".npy", *_IMAGES, *_AUDIO)
_MODES = {1: "L", 3: "RGB", 4: "RGBA"}
_WORDS = ("amber", "birch", "cedar", "delta", "ember", "fjord", "grove", "heath")


class Interface(Protocol):
    """What is read off a model's input."""

    @property
    def name(self) -> str: ...
    @property
    def dtype(self) -> np.dtype[Any] | None: ...
    @property
    def shape(self) -> Sequence[int | str | None] | None: ...
    @property
    def kind(self) -> str: ...
    @property
    def required(self) -> bool: ...


def feed(
    inputs: Sequence[Interface],
    values: Sequence[str],
    *,
    dims: Mapping[str, int] | None = None,
    seed: int = 0,
    model: str = "MODEL",
) -> dict[str, Any]:
    """One value per input, from `name=value` texts; a lone `random` stands for all that are not given.

    dims: sizes for dynamic dimensions, by name; 1 where not given. model: the file's name, for an example.
    Raises InvalidInput.
    """
    dims = dict(dims or {})
    _refuse_unknown_dims(inputs, dims)
    by_name = {one.name: one for one in inputs}
    given: dict[str, str] = {}
    fill = False
    for value in values:
        if value == "random":
            fill = True
            continue
        name, text = _split(value, list(by_name))
        if name in given:
            raise InvalidInput(f"input {name} is given twice", hint="give each input once")
        given[name] = text
    missing = [one for one in inputs if one.name not in given and one.required and one.kind != "optional"]
    if missing and not fill:
        raise _missing(missing, inputs, model)
    texts = {one.name: given.get(one.name, "random") for one in inputs if one.name in given or one in missing}
    return {name: _value(by_name[name], text, dims, seed) for name, text in texts.items()}


def parse_dims(texts: Sequence[str]) -> dict[str, int]:
    """`N=4` texts as a mapping. Raises InvalidInput."""
    dims = {}
    for text in texts:
        name, _, size = text.partition("=")
        if not name or not size.isdecimal():
            raise InvalidInput(f"--dim {text} is not a name and a size", hint="write it like --dim batch=4")
        dims[name] = int(size)
    return dims


def _refuse_unknown_dims(inputs: Sequence[Interface], dims: Mapping[str, int]) -> None:
    dynamic = {dim for one in inputs for dim in one.shape or () if isinstance(dim, str)}
    for name in dims:
        if name not in dynamic:
            known = ", ".join(sorted(dynamic))
            hint = f"the dynamic dimensions are: {known}" if known else "its inputs have no dynamic dimensions with a name"
            raise InvalidInput(f"the model's inputs have no dimension named {name}", hint=hint)


def _split(value: str, names: Sequence[str]) -> tuple[str, str]:
    for name in sorted(names, key=len, reverse=True):  # a name may hold an `=`, and one name may begin another
        if value.startswith(f"{name}="):
            return name, value[len(name) + 1 :]
    if len(names) == 1 and "=" not in value:
        return names[0], value
    name, equals, _ = value.partition("=")
    known = "its inputs are: " + ", ".join(names) if names else "it takes no inputs at all"
    if not equals:
        raise InvalidInput(f"--input {value} does not say which input it is for", hint=f"write name=value; {known}")
    raise InvalidInput(f"the model has no input named {name}", hint=known)


def _missing(missing: Sequence[Interface], inputs: Sequence[Interface], model: str) -> InvalidInput:
    listed = ", ".join(f"{one.name} ({one})" for one in missing)
    count = "an input is" if len(missing) == 1 else f"{len(missing)} inputs are"
    example = " ".join(f'--input "{one.name}={_example(one)}"' for one in inputs)
    return InvalidInput(
        f"{count} missing: {listed}",
        hint=f"turnout run {model} {example}   (or --input random, for values made up)",
    )


def _example(one: Interface) -> str:
    if not one.shape:
        return "1"
    return "picture.png" if len(one.shape) == 4 and _channels_axis(one.shape) is not None else "values.npy"


def _value(one: Interface, text: str, dims: Mapping[str, int], seed: int) -> Any:
    if text == "random":
        return _random(one, dims, seed)
    suffix = Path(text).suffix.lower()
    if suffix in _FILES:
        return _from_file(one, Path(text), suffix)
    try:
        value = json.loads(text)
    except ValueError:
        if _is_text(one):
            value = text
        else:
            raise _unreadable(one, text) from None
    return _from_json(one, value, dims)


def _unreadable(one: Interface, text: str) -> InvalidInput:
    kinds = ", ".join(_FILES)
    if Path(text).exists():
        return InvalidInput(
            f"input {one.name}: {text} is a file of a kind that is not read here",
            hint=f"these are: {kinds}; numpy.save writes .npy files",
        )
    return InvalidInput(
        f"input {one.name}: {text!r} is neither a file nor a number nor a JSON list",
        hint=f"give a file ({kinds}), a number, a list like [1, 2], or random",
    )


def _is_text(one: Interface) -> bool:
    return one.dtype is not None and one.dtype.kind in "OUST"


def _from_json(one: Interface, value: Any, dims: Mapping[str, int]) -> Any:
    if one.kind in ("sequence", "map"):
        return [_array(one, item) for item in value] if one.kind == "sequence" and isinstance(value, list) else value
    array = _array(one, value)
    if array.ndim == 0 and one.shape:
        return np.full(_sizes(one.shape, dims), array)
    return _with_leading_ones(array, one)


def _array(one: Interface, value: Any) -> np.ndarray[Any, Any]:
    try:
        array = np.asarray(value)
        if _is_text(one):
            if array.dtype.kind != "U":
                raise InvalidInput(f"input {one.name} takes text, not {value!r}", hint='write text, or a list like ["a", "b"]')
            return array.astype(object)
        if one.dtype is None:
            return array
        cast = array.astype(one.dtype)
    except InvalidInput:
        raise
    except (ValueError, TypeError, OverflowError) as error:
        raise InvalidInput(
            f"input {one.name}: the value does not become {one}: {error}",
            hint="lists in a list must be of equal length",
        ) from None
    if one.dtype.kind in "iu" and not np.array_equal(cast, array):
        raise InvalidInput(f"input {one.name} takes {one.dtype.name}, which cannot hold {value!r}", hint="give whole numbers")
    return cast


def _with_leading_ones(array: np.ndarray[Any, Any], one: Interface) -> np.ndarray[Any, Any]:
    rank = len(one.shape) if one.shape is not None else array.ndim
    return array.reshape((1,) * (rank - array.ndim) + array.shape) if array.ndim < rank else array


def _sizes(shape: Sequence[int | str | None], dims: Mapping[str, int]) -> tuple[int, ...]:
    return tuple(dim if isinstance(dim, int) else dims.get(dim or "", 1) for dim in shape)


def _random(one: Interface, dims: Mapping[str, int], seed: int) -> Any:
    if one.kind == "map" or one.dtype is None:
        raise InvalidInput(f"input {one.name} ({one}) is of a kind that random values are not made for", hint="give it as JSON")
    rng = np.random.default_rng([seed, zlib.crc32(one.name.encode())])
    shape = _sizes(one.shape or (), dims)
    array = _random_array(one.dtype, shape, rng)
    return [array] if one.kind == "sequence" else array


def _random_array(dtype: np.dtype[Any], shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray[Any, Any]:
    if dtype.kind in "OUST":
        return rng.choice(np.array(_WORDS, dtype=object), shape)
    if dtype.kind == "b":
        return rng.integers(0, 2, shape).astype(bool)
    if dtype.kind == "c":
        return (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)).astype(dtype)
    if dtype.kind in "iu" or "int" in dtype.name:
        # 0 and 1 are right for what integers mostly are: token ids, type ids, masks, lengths, indices
        return rng.integers(0, 2, shape).astype(dtype)
    return rng.standard_normal(shape).astype(dtype)


def _from_file(one: Interface, path: Path, suffix: str) -> Any:
    if one.kind in ("sequence", "map"):
        raise InvalidInput(f"input {one.name} is a {one.kind}, which a file does not hold", hint="give it as JSON")
    if not path.is_file():
        raise InvalidInput(f"input {one.name}: there is no file {path}", hint="relative paths start at the current folder")
    if suffix in _IMAGES:
        return _image(one, path)
    return _wav(one, path) if suffix in _AUDIO else _npy(one, path)


def _npy(one: Interface, path: Path) -> Any:
    try:
        array = np.load(path, allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        if "allow_pickle" in str(error):
            why, hint = "it holds Python objects, which are never unpickled", "save text as an array of dtype str"
        else:
            why, hint = str(error), "numpy.save writes such files"
        raise InvalidInput(f"input {one.name}: {path} cannot be read: {why}", hint=hint) from None
    if not isinstance(array, np.ndarray):
        raise InvalidInput(f"input {one.name}: {path} is an archive of arrays", hint="save the one array with numpy.save")
    return array.astype(object) if array.dtype.kind == "U" else array


def _channels_axis(shape: Sequence[int | str | None]) -> int | None:
    """Where the channels are in a picture's shape, counted from the end; None where it is not a picture's."""
    if len(shape) == 2:
        return 0
    if len(shape) not in (3, 4):
        return None
    if shape[-3] in _MODES:
        return -3
    if shape[-1] in _MODES:
        return -1
    return None if isinstance(shape[-3], int) else -3


def _image(one: Interface, path: Path) -> np.ndarray[Any, Any]:
    try:
        from PIL import Image
    except ImportError:
        raise InvalidInput(
            f"input {one.name}: reading {path.name} needs Pillow, which is not installed",
            hint='pip install "turnout[image]"',
        ) from None
    shape = one.shape if one.shape is not None else (1, 3, None, None)
    axis = _channels_axis(shape)
    if axis is None:
        raise InvalidInput(f"input {one.name} ({one}) does not look like a picture", hint="give the values as a .npy file")
    channels = 1 if axis == 0 else shape[axis]
    height, width = (shape[-3], shape[-2]) if axis == -1 else (shape[-2], shape[-1])
    try:
        with Image.open(path) as file:
            picture = file.convert(_MODES[channels if isinstance(channels, int) else 3])
    except (OSError, ValueError, SyntaxError) as error:  # Pillow raises SyntaxError for some broken files
        raise InvalidInput(f"input {one.name}: {path} is not a picture that can be read: {error}", hint="open it in a viewer") from None
    size = (width if isinstance(width, int) else picture.width, height if isinstance(height, int) else picture.height)
    if size != picture.size:
        log.warning("input %s: %s is %dx%d, resized to %dx%d", one.name, path.name, *picture.size, *size)
        picture = picture.resize(size, Image.Resampling.BILINEAR)
    pixels = np.asarray(picture)
    if axis != 0:
        pixels = np.atleast_3d(pixels)
        pixels = pixels.transpose(2, 0, 1) if axis == -3 else pixels
    return _with_leading_ones(_pixels_as(one, pixels), one)


def _pixels_as(one: Interface, pixels: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    dtype = one.dtype or np.dtype(np.float32)
    if dtype == np.uint8:
        return np.ascontiguousarray(pixels)
    if dtype.kind == "f" or "float" in dtype.name:
        return np.ascontiguousarray((pixels.astype(np.float32) / 255).astype(dtype))
    raise InvalidInput(
        f"input {one.name} takes {dtype.name}, and a picture becomes uint8, or floats from 0 to 1",
        hint="give the values as a .npy file",
    )


def _wav(one: Interface, path: Path) -> np.ndarray[Any, Any]:
    import wave

    try:
        with wave.open(str(path), "rb") as file:
            channels, width, rate = file.getnchannels(), file.getsampwidth(), file.getframerate()
            data = file.readframes(file.getnframes())
    except (wave.Error, EOFError, OSError) as error:
        raise InvalidInput(
            f"input {one.name}: {path} is not a wave file that can be read: {error}",
            hint="save it as plain PCM: ffmpeg -i INPUT -c:a pcm_s16le OUTPUT.wav",
        ) from None
    sound = _samples(data, width).reshape(-1, channels).T
    log.info(
        "input %s: %s has %d samples at %d Hz; the model must expect that rate",
        one.name,
        path.name,
        sound.shape[1],
        rate,
    )
    keep = one.shape is not None and len(one.shape) >= 2 and one.shape[-2] == channels
    if not keep:
        sound = sound.mean(axis=0)
    return _with_leading_ones(_sound_as(one, sound), one)


def _samples(data: bytes, width: int) -> np.ndarray[Any, Any]:
    """Samples from -1 to 1. Wave files hold 8 bits unsigned, and more bits signed, low byte first."""
    if width == 1:
        return (np.frombuffer(data, np.uint8).astype(np.float64) - 128) / 128
    raw = np.frombuffer(data, np.uint8).reshape(-1, width)
    wide = np.zeros((len(raw), 4), np.uint8)
    wide[:, 4 - width :] = raw
    return wide.view("<i4")[:, 0] / 2.0**31


def _sound_as(one: Interface, sound: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    dtype = one.dtype or np.dtype(np.float32)
    if dtype == np.int16:
        return np.round(sound * 32768).clip(-32768, 32767).astype(np.int16)
    if dtype.kind == "f" or "float" in dtype.name:
        return sound.astype(dtype)
    raise InvalidInput(
        f"input {one.name} takes {dtype.name}, and sound becomes int16, or floats from -1 to 1",
        hint="give the values as a .npy file",
    )
