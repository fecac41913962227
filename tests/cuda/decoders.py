"""Decoders out of GGUF files in the simulator, whole on the device, against the CPU's exact path.

    python tests/cuda/decoders.py [LAYERS]

Small random ones first, of several architectures and kinds of blocks, and a Phi-3 in halves as exports have it; then SmolLM2, its first
LAYERS blocks (all 30 by default, 0 for none): a prompt, and tokens one at a time into the same cache. Prints how far the logits are apart,
as a share of the largest; ends with status 1 where that is more than half precision explains, where another token is the likeliest of
SmolLM2, or where the simulator reports anything. TURNOUT_CUDA=real: on a GPU.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "models"))
sys.path.append(str(Path(__file__).parents[1] / "gguf"))
sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))

import device
import gguf_decoders
import numpy as np
import packages
from cuda_text import TINY, Build
from running import Text, load

import turnout
from turnout.graph import ir
from turnout_gguf.format import GgufFormat, Options

sys.path.remove(str(Path(__file__).parents[1] / "benchmarks"))  # where `import cuda` would find a file
device.choose()

HALF = 2**-10
"""Half precision's rounding, of the largest logit."""
PROMPT = (504, 3575, 282, 4649, 314)
"""The capital of France is"""
SMALL = (("llama", "Q4_1"), ("phi3", "Q4_0"), ("phi3", "F16"), ("qwen3", "Q4_K"), ("gemma2", "Q8_0"))
FAST = (("llama", "Q4_0"), ("gemma2", "Q8_0"))
"""Whose prompts may go through the tensor cores as halves."""


def small(architecture: str, kind: str, accuracy: str = "exact") -> float:
    """A random decoder of two blocks: a prompt, single tokens, and a few more."""
    file, random = gguf_decoders.decoder(architecture, kind=kind), np.random.default_rng(0)
    ways, most = (("cuda", accuracy), ("cpu", "exact")), 0.0
    texts = [Text(load(file, device=place, accuracy=how)) for place, how in ways]
    for count in (40, 1, 1, 3):
        tokens = random.integers(0, gguf_decoders.VOCABULARY, (1, count))
        found, wanted = (text.feed(tokens) for text in texts)
        most = max(most, float(np.abs(found - wanted).max() / np.abs(wanted).max()))
    return most


def halves(precision: str) -> float:
    """A decoder in the shape of Phi-3 as exports have it, two blocks of it, in halves throughout: against the CPU, which rounds as well."""
    models = [turnout.load(Build(TINY, precision, 1).model(), device=place) for place in ("cuda", ["cpu", "reference"])]
    size = (1, TINY.key_heads, TINY.context, TINY.head)
    caches = [{info.name: np.zeros(size, np.float16) for info in model.inputs if "." in info.name} for model in models]
    past, most = 0, 0.0
    for count in (20, 1, 1):
        given = {"input_ids": np.random.default_rng(past).integers(0, TINY.vocabulary, (1, count))}
        given |= {"past_tokens": np.array([past]), "wanted_tokens": np.array([count - 1])}
        logits = []
        for model, cache in zip(models, caches, strict=True):
            found = model.run({**given, **cache})
            logits.append(found.pop("logits"))
            cache.update({name.replace("present", "past"): array for name, array in found.items()})
        past, most = past + count, max(most, float(np.abs(logits[0] - logits[1]).max() / np.abs(logits[1]).max()))
    return most


def cut(model: ir.Model, layers: int) -> ir.Model:
    """The model with its first blocks only: what the next one reads is what the end of the graph reads."""
    graph = model.graph
    blocks = {value.name for node in graph for value in node.outputs}
    last = max(int(name.split(".")[1]) for name in blocks if name and name.startswith("blk."))
    if layers > last:
        return model
    values = {value.name: value for node in graph for value in node.outputs}
    end, now = values[f"blk.{last}"], values[f"blk.{layers - 1}"]
    for node in graph:
        if any(value is end for value in node.inputs):
            for position, value in enumerate(node.inputs):
                if value is end:
                    node.replace_input_with(position, now)
    kept = [value for value in graph.outputs if value.name == "logits" or int(str(value.name).split(".")[1]) < layers]
    given = [value for value in graph.inputs if not str(value.name).startswith("past_") or "." not in str(value.name)]
    given += [value for value in graph.inputs if "." in str(value.name) and int(str(value.name).split(".")[1]) < layers]
    wanted, nodes = {value.producer() for value in kept}, []
    for node in reversed(list(graph)):
        if node in wanted:
            nodes.append(node)
            wanted.update(value.producer() for value in node.inputs if value is not None)
    for node in graph:
        if node not in wanted:
            graph.remove(node)
    del graph.outputs[:]
    graph.outputs.extend(kept)
    del graph.inputs[:]
    graph.inputs.extend(given)
    used = {value for node in nodes for value in node.inputs}
    for name, value in list(graph.initializers.items()):
        if value not in used:
            del graph.initializers[name]
    return model


def smollm2(layers: int) -> tuple[float, list[int], bool]:
    """(how far off, the tokens that came, whether the CPU's were the same)."""
    path = packages.model_path("smollm2")
    sources = [GgufFormat().open(path, accuracy="exact", options=Options(keep=False)) for _ in range(2)]
    models = [turnout.load(cut(source.model(), layers), device=place) for source, place in zip(sources, ("cuda", "cpu"), strict=True)]
    texts, tokens, most, came, same = [Text(model) for model in models], list(PROMPT), 0.0, [], True
    for _ in range(4):
        found, wanted = (text.feed([tokens], [len(tokens) - 1])[0, 0] for text in texts)
        most = max(most, float(np.abs(found - wanted).max() / np.abs(wanted).max()))
        tokens = [int(found.argmax())]
        came, same = came + tokens, same and tokens[0] == wanted.argmax()
    return most, came, same


def main(layers: int) -> int:
    worst, same = 0.0, True
    for architecture, kind in SMALL:
        start = time.perf_counter()
        off = small(architecture, kind)
        worst = max(worst, off)
        print(f"{architecture} of {kind}: logits off by {off:.2g} of the largest ({time.perf_counter() - start:.0f} s)", flush=True)
    for architecture, kind in FAST:
        off = small(architecture, kind, "fast")
        worst = max(worst, off)
        print(f"{architecture} of {kind}, fast: logits off by {off:.2g} of the largest", flush=True)
    for precision in ("int4", "fp16"):
        off = halves(precision)
        worst = max(worst, off / 4)  # each of two sides rounds the stream to halves several times
        print(f"Phi-3 as exported, {precision}: logits off by {off:.2g} of the largest", flush=True)
    if layers:
        start = time.perf_counter()
        off, came, same = smollm2(layers)
        worst = max(worst, off)
        print(f"SmolLM2, {layers} blocks: logits off by {off:.2g} of the largest, tokens {came} ({time.perf_counter() - start:.0f} s)")
    reports = device.reports()
    for report in reports[:20]:
        print(f"REPORT {report}")
    print(f"{device.NAME} against cpu exact: at most {worst:.2g}; {device.found()}")
    return 0 if worst < HALF and same and not reports else 1


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 30))
