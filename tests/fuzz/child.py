"""The process that loads and runs spoilt models, one after another, and says how each went. It may die of one: that is what it is for.

It reads a line per model, "NUMBER SEED PATH BYTES", and answers with a line of JSON. `BYTES` is 1 where the file is loaded as bytes.
"""

from __future__ import annotations

import json
import logging
import resource
import sys
import traceback
import warnings
from pathlib import Path
from typing import Any

import numpy as np

MEMORY = 4 << 30
ELEMENTS = 1 << 16
WORDS = np.array(["a", "b c", "", "\u00e9", "A" * 50], object)


def main() -> None:
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    import turnout

    turnout.devices()
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
    answers = sys.stdout
    sys.stdout = sys.stderr
    for line in sys.stdin:
        number, seed, path, as_bytes = line.split()
        outcome, detail = attempt(Path(path), as_bytes == "1", int(seed))
        print(json.dumps([int(number), outcome, detail]), file=answers, flush=True)


def attempt(path: Path, as_bytes: bool, seed: int) -> tuple[str, str]:
    """(outcome, detail): "ran", "load: InvalidModel", "run: RunError" ..., or "bug: ..." for what no model may cause."""
    import turnout

    stage = "load"
    try:
        model = turnout.load(path.read_bytes() if as_bytes else path, options={"cpu": {"threads": 1, "spinning": False}})
        stage = "run"
        feed = inputs(model, np.random.default_rng(seed))
        if feed is None:
            return "loaded, too big to feed", ""
        model.run(feed)
        stage = "explain"
        str(model.explain())
        model.close()
    except turnout.TurnoutError as error:
        return f"{stage}: {type(error).__name__}", str(error)[:300]
    except BaseException as error:
        where = traceback.extract_tb(error.__traceback__)
        ours = next((one for one in reversed(where) if "turnout" in one.filename), where[-1])
        return "bug", f"{stage}: {type(error).__name__} in {Path(ours.filename).name}:{ours.lineno}: {str(error)[:200]}"
    return "ran", ""


def inputs(model: Any, rng: np.random.Generator) -> dict[str, Any] | None:
    """A value for each input, free dimensions small; None where one would be too big."""
    named: dict[str, int] = {}
    feed = {}
    for info in model.inputs:
        shape = [dim if isinstance(dim, int) else named.setdefault(dim or "", int(rng.integers(1, 4))) for dim in info.shape or ()]
        if np.prod(shape, dtype=float) > ELEMENTS or any(not 0 <= dim <= ELEMENTS for dim in shape):
            return None
        if info.kind == "tensor":
            feed[info.name] = array(info.dtype, shape, rng)
        elif info.kind == "sequence":
            feed[info.name] = [array(info.dtype, [2], rng) for _ in range(3)]
        elif info.kind == "optional" and rng.random() < 0.5:
            feed[info.name] = array(info.dtype, [2], rng)
    return feed


def array(dtype: Any, shape: list[int], rng: np.random.Generator) -> Any:
    if dtype is None:
        dtype = np.dtype(np.float32)
    if dtype.kind == "O":
        return rng.choice(WORDS, shape)
    if dtype.kind in "biu":
        return rng.integers(0, 2 if dtype.kind == "b" else 5, shape).astype(dtype)
    return rng.normal(size=shape).astype(dtype)


if __name__ == "__main__":
    main()
