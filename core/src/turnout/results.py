"""What a run gave, in short: as a table, as JSON, and as files."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from turnout.errors import RunError
from turnout.table import table

__all__ = ["save", "summaries", "text"]

_SHOWN = 64
"""Arrays of so many values at most are in the JSON as a whole."""


def summaries(outputs: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Per array: name, dtype, shape, and min, mean and max, or the first strings; the values too where they are few."""
    return [_summary(name, value) for name, value in _flat(outputs)]


def _flat(outputs: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Arrays by name; those of a sequence as `name[0]`, `name[1]` ..."""
    for name, value in outputs.items():
        if isinstance(value, list) and not any(isinstance(item, dict) for item in value):
            yield from _flat({f"{name}[{i}]": item for i, item in enumerate(value)})
        else:
            yield name, value


def _summary(name: str, value: Any) -> dict[str, Any]:
    if value is None or isinstance(value, (dict, list)):
        return {"name": name, "dtype": "none" if value is None else "map", "shape": [], "values": _plain(value)}
    array = _readable(np.asarray(value))
    found: dict[str, Any] = {"name": name, "dtype": np.asarray(value).dtype.name, "shape": list(array.shape)}
    if array.dtype.kind == "U":
        found["dtype"], found["first"] = "string", array.ravel()[:3].tolist()
    elif array.size and array.dtype.kind in "iufb":
        wide = array.astype(np.float64)
        found |= {"min": _number(wide.min()), "mean": _number(wide.mean()), "max": _number(wide.max())}
        if bad := int(np.count_nonzero(~np.isfinite(wide))):
            found["not_finite"] = bad
    if array.size <= _SHOWN:
        found["values"] = _plain(array.tolist())
    return found


def _readable(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """NumPy's own dtypes: bfloat16, float8 and int4, which others would not read back, as the nearest wider ones."""
    if array.dtype.kind == "O":
        return array.astype(str)
    if array.dtype.isbuiltin == 1:
        return array
    return array.astype(np.int8 if "int" in array.dtype.name else np.float32)


def _number(value: Any) -> float | None:
    return float(value) if np.isfinite(value) else None


def _plain(value: Any) -> Any:
    """The same with what JSON lacks (not-a-number, infinities, complex numbers) as text."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, complex) or (isinstance(value, float) and not np.isfinite(value)):
        return str(value)
    return value


def text(found: list[dict[str, Any]]) -> str:
    """The summaries as a table."""
    return table([_row(one) for one in found], ("output", "type", "min", "mean", "max", ""), right=(2, 3, 4))


def _row(one: dict[str, Any]) -> tuple[str, ...]:
    kind = f"{one['dtype']}[{','.join(map(str, one['shape']))}]" if one["dtype"] not in ("none", "map") else one["dtype"]
    figures = tuple("" if one.get(key) is None else f"{one[key]:.4g}" for key in ("min", "mean", "max"))
    note = ", ".join(repr(item) for item in one.get("first", ()))
    if one["dtype"] == "map":
        note = json.dumps(one["values"])[:60]
    if "not_finite" in one:
        note = f"{one['not_finite']} values are not finite"
    return one["name"], kind, *figures, note


def save(outputs: Mapping[str, Any], folder: Path) -> dict[str, Path]:
    """Writes each array to a .npy file of its name (a map to .json), and gives the files by output. Raises RunError."""
    written: dict[str, Path] = {}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, value in _flat(outputs):
            if value is None:
                continue
            path = _free(folder, name, ".json" if isinstance(value, (dict, list)) else ".npy", set(written.values()))
            if path.suffix == ".json":
                path.write_text(json.dumps(_plain(value)), "utf-8")
            else:
                np.save(path, _readable(np.asarray(value)), allow_pickle=False)
            written[name] = path
    except OSError as error:
        raise RunError(f"the outputs cannot be written to {folder}: {error.strerror or error}", hint="name another --output-dir") from None
    return written


def _free(folder: Path, name: str, suffix: str, taken: set[Path]) -> Path:
    stem = re.sub(r"[^\w.-]+", "_", name).strip("._") or "output"
    path, count = folder / f"{stem}{suffix}", 1
    while path in taken:
        count += 1
        path = folder / f"{stem}_{count}{suffix}"
    return path
