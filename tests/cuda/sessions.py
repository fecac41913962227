"""Sessions with their caches on the simulated device, against the CPU's: python tests/cuda/sessions.py; TURNOUT_CUDA=real: on a GPU.

Prompts, single tokens that replay one CUDA graph, tokens forgotten, caches that grow, two sessions in turn, tokens chosen on the
device; of a GGUF, and of a folder as onnxruntime-genai exports one, whose graph counts the tokens of a mask.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[1] / "gguf"))
sys.path.append(str(Path(__file__).parents[1] / "text"))

import device
import gguf_decoders
import numpy as np
import onnx
from running import load
from test_folders import genai

import turnout
from turnout_cuda import session
from turnout_text.options import Sampling
from turnout_text.sampling import Sampler
from turnout_text.session import sessions_of

device.choose()
session._STEP = 16  # so that caches grow


def worst(models: Sequence[Any], vocabulary: int) -> float:
    """How far the first model's logits are from the second's, as a share of the largest."""
    makers: list[Any] = [sessions_of(model) for model in models]
    pairs = [[make() for make in makers] for _ in range(2)]
    assert all(type(pair[0]) is session.DeviceSession for pair in pairs)
    random, most = np.random.default_rng(0), 0.0

    def feed(pair: list[Any], count: int, wanted: Sequence[int]) -> None:
        nonlocal most
        tokens = random.integers(0, vocabulary, count).tolist()
        found, due = (one.feed(tokens, wanted) for one in pair)
        assert found.shape == due.shape
        most = max(most, float(np.abs(found - due).max(initial=0) / np.abs(due).max(initial=1e-9)))

    first, second = pairs
    for count, wanted in [(7, [6]), (1, [0]), (1, [0]), (4, [0, 3]), (1, [0]), (9, []), (1, [0]), (1, [0])]:
        feed(first, count, wanted)
    assert [one.truncate(5) for one in first] == [5, 5]
    for pair in (first, second, first, second):
        feed(pair, 1, [0])
    assert first[0].length == first[1].length == 7
    for pair in pairs:
        pair[0].close()
    return most


CHOICES: list[dict[str, Any]] = [
    {},
    {"repetition_penalty": 1.3},
    {"temperature": 1.0, "seed": 1},
    {"temperature": 0.8, "min_p": 0.05, "seed": 2},
    {"temperature": 1.2, "top_k": 20, "top_p": 0.9, "repetition_penalty": 1.1, "seed": 3},
]


def chosen(model: Any) -> int:
    """How many texts, one for each of CHOICES, are the same whether their tokens are chosen on the device or on the host."""
    make, prompt, same = sessions_of(model), [1, 2, 3, 4, 5, 6, 7], 0
    assert make is not None
    for options in CHOICES:
        texts = []
        for there in (True, False):
            held, sampler = make(), Sampler(Sampling(**options), prompt)
            texts.append([sampler.choose(held.feed(prompt, [6])[0])])
            values = Sampling(**options).model_dump(exclude={"seed"})
            chooser = held.chooser(**values, seen=[] if sampler.seen is None else sampler.seen.tolist()) if there else None
            for _ in range(24):
                token = texts[-1][-1]
                texts[-1].append(chooser(token, sampler.draw()) if chooser else sampler.choose(held.feed([token], [0])[0]))
            held.close()
        same += texts[0] == texts[1]
    return same


def main() -> int:
    file = gguf_decoders.decoder("llama", kind="Q4_0", blocks=1)
    same = chosen(load(file, device="cuda"))
    off = worst([load(file, device=place) for place in ("cuda", "cpu")], gguf_decoders.VOCABULARY)
    with tempfile.TemporaryDirectory() as away:
        folder = genai(Path(away) / "export")
        export = onnx.load(folder / "model.onnx")  # the builder writes the types of inner values down
        export.graph.value_info.extend(
            onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in ("seen", "y", "z")
        )
        onnx.save(export, folder / "model.onnx")
        exported = worst([turnout.load(folder, device=place) for place in ("cuda", "cpu")], 250)
    reports = device.reports()
    print(f"sessions: logits of a GGUF off by {off:.2g} of the largest, of an export by {exported:.2g}; {len(reports)} reports")
    print(f"sessions: {same} of {len(CHOICES)} texts are the same, chosen on the device or on the host")
    return 0 if max(off, exported) < 1e-5 and same == len(CHOICES) and not reports else 1


if __name__ == "__main__":
    sys.exit(main())
