"""The demo: a real model on real files. It tells what kind of file each of them is, from its bytes alone.

The model is Magika's (Apache-2.0), taken from the installed package `magika`, whose code is not loaded. The package's
configuration says which bytes the model sees: the first `beg_size` and the last `end_size` of the file, without the
whitespace around them.
"""

from __future__ import annotations

import importlib.util
import json
import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from turnout.errors import InvalidModel, Unavailable
from turnout.table import table

if TYPE_CHECKING:
    import numpy as np

    from turnout.explain import Explanation
    from turnout.model import Model

__all__ = ["FileTypes", "Guess", "demo", "files_in"]

MOST_FILES = 12
_TIMED_SECONDS = 0.3


@dataclass(frozen=True)
class Guess:
    """What a file is. `confidence` is None where the file is too short for the model to be asked."""

    label: str
    description: str
    confidence: float | None


def files_in(folder: Path, most: int = MOST_FILES) -> list[Path]:
    """The first files of a folder, by name; those in its folders are not among them."""
    visible = (path for path in folder.iterdir() if not path.name.startswith("."))
    return sorted(path for path in visible if path.is_file() and os.access(path, os.R_OK))[:most]


class FileTypes:
    """The installed package's model file, the bytes that it wants to see, and what its answers mean."""

    def __init__(self, package: Path) -> None:
        try:
            self.path = sorted(package.glob("models/*/model.onnx"))[-1]
            self.config: dict[str, Any] = json.loads(self.path.with_name("config.min.json").read_text("utf-8"))
            self.kinds: dict[str, Any] = json.loads((package / "config" / "content_types_kb.min.json").read_text("utf-8"))
        except (IndexError, OSError, ValueError) as error:
            raise InvalidModel(
                f"the package magika in {package} is not laid out as this demo knows it: {error}",
                hint='pip install --upgrade "turnout[demo]"',
            ) from None

    @classmethod
    def installed(cls) -> FileTypes:
        """The one in the package `magika`, found but not imported. Raises Unavailable where it is not installed."""
        spec = importlib.util.find_spec("magika")
        if spec is None or not spec.submodule_search_locations:
            raise Unavailable(
                "the demo runs the model in the package magika, which is not installed",
                hint='pip install "turnout[demo]"',
            )
        return cls(Path(next(iter(spec.submodule_search_locations))))

    def features(self, path: Path) -> list[int] | None:
        """The bytes that the model sees, padded; None where too few are left to say anything."""
        block, padding = self.config["block_size"], self.config["padding_token"]
        with path.open("rb") as file:
            first = file.read(block).lstrip()[: self.config["beg_size"]]
            file.seek(max(path.stat().st_size - block, 0))
            last = file.read(block).rstrip()
        last = last[max(len(last) - self.config["end_size"], 0) :]
        if len(first) < self.config["min_file_size_for_dl"]:
            return None
        gap = self.config["beg_size"] - len(first) + self.config["end_size"] - len(last)
        return [*first, *[padding] * gap, *last]

    def batch(self, files: Sequence[Path]) -> tuple[list[Path], np.ndarray[Any, Any]]:
        """The files that the model can be asked about, and its input for them."""
        import numpy as np

        asked = {path: seen for path in files if (seen := self.features(path)) is not None}
        return list(asked), np.array(list(asked.values()), np.int32)

    def guesses(self, files: Sequence[Path], model: Model) -> dict[Path, Guess]:
        """What each file is."""
        asked, values = self.batch(files)
        scores: dict[Path, Any] = {}
        if asked:
            (rows,) = model.run(**{model.inputs[0].name: values}).values()
            scores = dict(zip(asked, rows, strict=True))
        return {path: self._guess(scores[path]) if path in scores else self._short(path) for path in files}

    def _guess(self, scores: Any) -> Guess:
        """The likeliest kind; where the model is not sure enough for that kind, only whether it is text."""
        best = int(scores.argmax())
        said, confidence = self.config["target_labels_space"][best], float(scores[best])
        label = self.config["overwrite_map"].get(said, said)
        if confidence < self.config["thresholds"].get(said, self.config["medium_confidence_threshold"]):
            label = "txt" if self.kinds[label]["is_text"] else "unknown"
        return self._named(label, confidence)

    def _short(self, path: Path) -> Guess:
        with path.open("rb") as file:
            content = file.read(self.config["block_size"])
        try:
            content.decode("utf-8")
        except UnicodeDecodeError:
            return self._named("unknown", None)
        return self._named("txt" if content else "empty", None)

    def _named(self, label: str, confidence: float | None) -> Guess:
        return Guess(label, self.kinds.get(label, {}).get("description") or label, confidence)


def demo(folder: Path, device: str | list[str] | None, say: Callable[[str], None]) -> dict[str, Any]:
    """Probes, loads, runs, and says what it does as it goes; gives the same as data."""
    import turnout

    types = FileTypes.installed()
    with turnout.load(types.path, device=device) as model:
        explanation = model.explain()
        rows = list(_devices(explanation))
        say(table(rows, ("device", "", "", "why")))
        say(f"\n{str(explanation).partition(chr(10))[0]}")
        say(f"(turnout explain {types.path} tells the whole of it)\n")
        files = files_in(folder)
        if not files:
            say(f"There are no files in {folder} to look at. Name a folder that has some: turnout demo FOLDER")
            return {"devices": _as_data(rows), "files": []}
        guesses = types.guesses(files, model)
        seconds = _time(lambda: types.guesses(files, model))
    say(table([(path.name, one.description, _percent(one)) for path, one in guesses.items()], _HEADS, right=(2,)))
    each = seconds / len(files)
    speed = f"{1 / each:.0f} files/s, {each * 1000:.2f} ms per file, reading included"
    say(f"\n{len(files)} files in {seconds * 1000:.1f} ms: {speed}")
    found = [{"file": path.name, **asdict(one)} for path, one in guesses.items()]
    return {"devices": _as_data(rows), "files": found, "milliseconds_per_file": each * 1000}


_HEADS = ("file", "what it is", "confidence")


def _devices(explanation: Explanation) -> Iterator[tuple[str, str, str, str]]:
    """(device, description, nodes, why): who runs the model, and why the others do not."""
    from turnout import probe

    used: dict[str, int] = {}
    for part in explanation.partitions:
        used[part.device] = used.get(part.device, 0) + part.nodes
    reasons = {one.device: one.reason for one in explanation.not_used}
    for probed in probe.probe_all():
        if probed.error is not None:
            yield probed.provider.name, "", "not here", probed.error.message
        for one in probed.devices:
            reason = reasons.get(one.name) or reasons.get(one.provider) or "not among the devices asked for"
            if one.name in used:
                reason = "it takes them all" if len(used) == 1 else "it takes these"
            yield one.name, one.description, f"{used[one.name]} nodes" if one.name in used else "not used", reason


def _as_data(rows: Sequence[Sequence[str]]) -> list[dict[str, str]]:
    return [dict(zip(("device", "description", "part", "why"), row, strict=True)) for row in rows]


def _time(run: Callable[[], Any]) -> float:
    """The median time of one run, over a fraction of a second."""
    taken: list[float] = []
    while sum(taken) < _TIMED_SECONDS:
        start = time.perf_counter()
        run()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)


def _percent(guess: Guess) -> str:
    return "" if guess.confidence is None else f"{guess.confidence:.1%}"
