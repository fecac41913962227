"""Sessions with their caches on the simulated device, against the CPU's: python tests/cuda/sessions.py

Prompts, single tokens that replay one CUDA graph, tokens forgotten, caches that grow, and two sessions in turn.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[1] / "gguf"))

import gguf_decoders
import numpy as np
from running import load

import turnout_cudasim
from turnout_cuda import session
from turnout_text.session import sessions_of

os.environ["TURNOUT_CUDA"] = "sim"
turnout_cudasim.install()
session._STEP = 16  # so that caches grow


def main() -> int:
    file = gguf_decoders.decoder("llama", kind="Q4_0", blocks=1)
    makers: list[Any] = [sessions_of(load(file, device=device)) for device in ("cuda", "cpu")]
    pairs = [[make() for make in makers] for _ in range(2)]
    assert all(type(pair[0]) is session.DeviceSession for pair in pairs)
    random, worst = np.random.default_rng(0), 0.0

    def feed(pair: list[Any], count: int, wanted: Sequence[int]) -> None:
        nonlocal worst
        tokens = random.integers(0, gguf_decoders.VOCABULARY, count).tolist()
        found, due = (one.feed(tokens, wanted) for one in pair)
        assert found.shape == due.shape
        worst = max(worst, float(np.abs(found - due).max(initial=0) / np.abs(due).max(initial=1e-9)))

    first, second = pairs
    for count, wanted in [(7, [6]), (1, [0]), (1, [0]), (4, [0, 3]), (1, [0]), (9, []), (1, [0]), (1, [0])]:
        feed(first, count, wanted)
    assert [one.truncate(5) for one in first] == [5, 5]
    for pair in (first, second, first, second):
        feed(pair, 1, [0])
    assert first[0].length == first[1].length == 7
    for pair in pairs:
        pair[0].close()
    reports = turnout_cudasim.reports()
    print(f"sessions: logits off by {worst:.2g} of the largest; {len(reports)} reports")
    return 0 if worst < 1e-5 and not reports else 1


if __name__ == "__main__":
    sys.exit(main())
