"""What a load came to, kept on disk: the next load of the same model skips reading, planning and lowering.

Kept are models whose source says what it is (`Source.identity`), where one provider runs the whole graph and can keep it (`Provider.keep`).
The name of what is kept holds everything that a plan depends on: the source, the options, the devices with what verifying found wrong
with them, the versions and the very files of turnout and of the plugins that have a part in it. So it is never stale, only forgotten: the
least used go when there are more than `_MOST`.

    load.json         inputs, outputs, fingerprint, the device, nodes per device
    explanation.json  what `explain()` says
    graph/            the provider's own

It is written under another name and then renamed, so that whoever finds it finds it whole. Whatever is wrong with it means a full load.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import logging
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from turnout import plugins
from turnout.model import Interface, Model, ValueInfo
from turnout.probe import cache_folder
from turnout.program import of_one
from turnout.tensor import dtype_named

if TYPE_CHECKING:
    from turnout.formats import Source
    from turnout.ledger import Candidate
    from turnout.plan import Plan
    from turnout.program import Program

__all__ = ["Kept", "kept_for"]

log = logging.getLogger("turnout")

_MOST = 32  # loads that are kept; most take some 600 kB, since weights stay where they lie


@dataclass(frozen=True)
class Kept:
    """Where the load of this source with these options is kept, if it is."""

    folder: Path
    source: Source
    candidates: Sequence[Candidate]
    options: Mapping[str, Any]

    def open(self) -> tuple[Model, dict[str, int]] | None:
        """The model and its nodes per device, None where nothing (sound) is kept."""
        if not self.folder.is_dir():
            return None
        try:
            said = json.loads((self.folder / "load.json").read_text("utf-8"))
            story = (self.folder / "explanation.json").read_bytes()
            candidate = next(one for one in self.candidates if one.name == said["device"])
            options = self.options.get(candidate.provider.name)
            executable = candidate.provider.reopen(self.folder / "graph", candidate.device, options)
            inputs, outputs = (tuple(_info(row) for row in said[which]) for which in ("inputs", "outputs"))
        except Exception as error:  # whatever a damaged file leads to: the model itself is still there
            log.info("%s: what was kept of its last load is of no use: %s", self.source.name, error)
            shutil.rmtree(self.folder, ignore_errors=True)
            return None
        with contextlib.suppress(OSError):
            os.utime(self.folder)
        program = of_one(executable, candidate.device, len(inputs), len(outputs))
        interface = Interface(inputs, outputs, said["fingerprint"])
        return Model(self.source.origin(), interface, program, lambda: _explanation(story)), said["nodes"]

    def keep(self, model: Model, plan: Plan, program: Program) -> None:
        """Keeps a load that just ended, where it can be kept. A disk that is full or read-only is a line in the log."""
        from turnout.plan import Partition

        part = plan.steps[0] if program.direct is not None and plan.whole is None else None
        if not isinstance(part, Partition) or not all(info.required for info in model.inputs):
            return
        try:
            self.folder.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix=".making-", dir=self.folder.parent, ignore_cleanup_errors=True) as made:
                new = Path(made, "new")
                (new / "graph").mkdir(parents=True)
                if part.candidate.provider.keep(part.graph, part.device, new / "graph"):
                    said = {"device": part.device.name, "nodes": plan.nodes_per_device(), "fingerprint": model.fingerprint}
                    rows = {"inputs": [_row(info) for info in model.inputs], "outputs": [_row(info) for info in model.outputs]}
                    (new / "load.json").write_text(json.dumps({**said, **rows}), "utf-8")
                    (new / "explanation.json").write_text(model.explain().model_dump_json(), "utf-8")
                    os.rename(new, self.folder)
        except Exception as error:  # it is loaded, and that is what was asked for
            log.info("%s: its load is not kept: %s", self.source.name, error)
        self._tidy()

    def _tidy(self) -> None:
        with contextlib.suppress(OSError):
            found = sorted(self.folder.parent.iterdir(), key=lambda path: path.stat().st_mtime, reverse=True)
            for path in found[_MOST:]:
                shutil.rmtree(path, ignore_errors=True)


def kept_for(source: Source, candidates: Sequence[Candidate], options: Mapping[str, Any]) -> Kept | None:
    """Where a load is or will be kept; None where the source or all of the providers keep nothing."""
    identity = source.identity()
    stamps = [] if identity is None else [_stamp(one) for one in candidates]
    if not any(keeps for keeps, _ in stamps):
        return None
    kinds: list[type] = [Model, type(source), *(type(one.provider) for one in candidates)]
    parts = {
        "source": identity,
        "accuracy": source.accuracy,
        "options": {name: section.model_dump(mode="json") for name, section in options.items()},
        "plugins": [[one.name, one.version, str(one.problem)] for one in plugins.installed()],
        "devices": [
            [repr(one.device), one.last_resort, sorted(map(str, one.wrong.items())), stamp]
            for one, (_, stamp) in zip(candidates, stamps, strict=True)
        ],
        "code": sorted({row for kind in kinds for row in _code(kind)}),
        "python": sys.version,
    }
    name = hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:32]
    return Kept(cache_folder() / "kept" / name, source, candidates, options)


def _stamp(candidate: Candidate) -> tuple[bool, Any]:
    """Whether a provider keeps graphs, and what is different where it or the library below is another."""
    try:
        keeps = candidate.provider.keeps(candidate.device)
        return keeps is not None, keeps if keeps is not None else dict(candidate.provider.versions())
    except Exception as error:  # one broken plugin never takes the others down
        return False, f"{type(error).__name__}: {error}"


def _code(kind: type) -> Iterator[str]:
    """The files of the packages that a class and those it inherits from stand in, as they are now."""
    for package in {one.__module__.partition(".")[0] for one in kind.__mro__} - {"builtins", "abc"}:
        file = getattr(sys.modules.get(package), "__file__", None)
        if file is not None and Path(file).name == "__init__.py":
            yield from _sources(str(Path(file).parent))


@functools.cache
def _sources(folder: str) -> tuple[str, ...]:
    """The modules below a folder, with their sizes and times: those that this process imported, so that they are looked at once."""
    rows: list[str] = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.endswith(".py"):
                state = entry.stat()
                rows.append(f"{entry.path} {state.st_size} {state.st_mtime_ns}")
            elif entry.name != "__pycache__" and entry.is_dir():
                rows.extend(_sources(entry.path))
    return tuple(rows)


def _row(info: ValueInfo) -> list[Any]:
    dtype = None if info.dtype is None else info.dtype.name
    return [info.name, info.kind, dtype, info.shape, info.text, info.required, info.alias]


def _info(row: Sequence[Any]) -> ValueInfo:
    name, kind, dtype, shape, text, required, alias = row
    dims = None if shape is None else tuple(shape)
    return ValueInfo(name, kind, None if dtype is None else dtype_named(dtype), dims, text, required, alias)


def _explanation(story: bytes) -> Any:
    from turnout.explain import Explanation

    return Explanation.model_validate_json(story)
