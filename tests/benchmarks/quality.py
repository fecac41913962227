"""How much each way of computing a quantised model loses: SmolLM2 in 17 quantisations.

    uv run python tests/benchmarks/quality.py --genai PYTHON

For each type: perplexity of a paragraph in float64 on the dequantised weights (the oracle: NumPy, with the gguf package's dequantisation);
then for torch in float32 (transformers, on the weights that it dequantises itself), turnout exact, near and fast, llama.cpp and
onnxruntime-genai, the perplexity and on which share of the tokens the likeliest next token is the oracle's; "nats" is the mean divergence
from the oracle. llama.cpp, and its quantiser, come with the package cyllama in an environment of its own under .cache.
onnxruntime-genai cannot read a GGUF: its builder quantises the dequantised weights anew, to int4, by its defaults. PYTHON is one that
has what genai_folder.py names; without --genai torch and onnxruntime-genai are left out. The table is printed, and with all types
written to tests/benchmarks/results/quality.md with the date and this command.
"""

from __future__ import annotations

import argparse
import datetime
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
LLAMA = "cyllama==0.2.18"
# llama.cpp's file types by number (enum llama_ftype in llama.h); Q4_1 is the file itself
TYPES = {"Q4_1": 3, "F32": 0, "F16": 1, "BF16": 32, "Q8_0": 7, "Q4_0": 2, "Q5_0": 8, "Q5_1": 9, "Q2_K": 10, "Q3_K_M": 12, "Q4_K_M": 15}
TYPES |= {"Q5_K_M": 17, "Q6_K": 18, "IQ4_NL": 25, "IQ4_XS": 30, "TQ1_0": 36, "TQ2_0": 37}
CLOSE = ("torch", "exact")  # within rounding of the oracle: the difference itself is more telling than its share
SHOWN = {"torch": "torch fp32", "exact": "exact", "near": "near", "fast": "fast", "llama.cpp": "llama.cpp", "genai": "genai int4"}


# in llama.cpp's environment ---------------------------------------------------------------------------------------------


def quantise(source: str, target: str, number: int) -> None:
    from cyllama.llama import llama_cpp

    how = llama_cpp.LlamaModelQuantizeParams()
    how.ftype, how.allow_requantize, how.nthread = number, True, 2
    llama_cpp.model_quantize(source, target, how)


def llama_logits(path: str, ids: Sequence[int], target: str) -> None:
    import numpy as np
    from cyllama.llama import llama_cpp

    class Model(llama_cpp.LlamaModel):  # type: ignore[misc]
        """With the attribute that get_logits_ith of this release looks for, and its own model has not."""

        @property
        def n_vocab(self) -> int:
            return int(self.get_vocab().n_vocab)

    how = llama_cpp.LlamaContextParams()
    how.n_ctx, how.n_batch = 1024, 1024
    context = llama_cpp.LlamaContext(Model(path_model=path, params=llama_cpp.LlamaModelParams()), how)
    batch = llama_cpp.LlamaBatch(n_tokens=len(ids), embd=0, n_seq_max=1)
    for position, token in enumerate(ids):
        batch.add(token, position, [0], True)
    context.decode(batch)
    np.save(target, np.array([context.get_logits_ith(i) for i in range(len(ids))], np.float32))


def genai_logits(path: str, ids: Sequence[int], target: str) -> None:
    """In the environment of onnxruntime-genai: the builder's int4 of the file, and its logits."""
    import numpy as np
    import onnxruntime_genai as genai
    from genai_folder import main as made

    with tempfile.TemporaryDirectory() as folder:
        made(Path(path), Path(folder))
        model = genai.Model(folder)
        options = genai.GeneratorParams(model)
        options.set_search_options(max_length=len(ids) + 1)
        generator = genai.Generator(model, options)
        generator.append_tokens(np.array(ids, np.int32))
        np.save(target, generator.get_output("logits")[0].astype(np.float32))


def torch_logits(path: str, ids: Sequence[int], target: str) -> None:
    """In the same environment: float32 on the weights as transformers dequantises them."""
    import numpy as np
    import torch
    import transformers

    kind = {"pretrained_model_name_or_path": str(Path(path).parent), "gguf_file": Path(path).name}
    model = transformers.AutoModelForCausalLM.from_pretrained(**kind, dtype=torch.float32)
    with torch.no_grad():
        np.save(target, model(torch.tensor([list(ids)])).logits[0].numpy())


def in_llamas_environment(task: Sequence[str]) -> int:
    from cyllama.llama import llama_cpp

    llama_cpp.disable_logging()
    llama_cpp.llama_backend_init()
    llama_cpp.ggml_backend_load_all()
    if task[0] == "quantise":
        quantise(task[1], task[2], int(task[3]))
    else:
        llama_logits(task[1], [int(one) for one in task[2].split(",")], task[3])
    return 0


# in turnout's -----------------------------------------------------------------------------------------------------------


def llama(*task: Any) -> None:
    """Has the environment of llama.cpp do something, and makes that first where it is missing."""
    python = ROOT / ".cache" / LLAMA / "bin" / "python"
    if not python.exists():
        subprocess.run(["uv", "venv", "--quiet", str(python.parents[1])], check=True)
        subprocess.run(["uv", "pip", "install", "--quiet", "--python", str(python), LLAMA, "numpy"], check=True)
    subprocess.run([str(python), __file__, "--llama", *map(str, task)], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def rows(kinds: Sequence[str], folder: Path, genai: str | None) -> Iterator[tuple[str, ...]]:
    import numpy as np
    import packages
    from forward import Oracle
    from running import load, logits_of
    from test_smollm2 import PARAGRAPH, Words, perplexity

    from turnout_gguf.reader import read

    original = packages.model_path("smollm2")
    ids = Words(read(original).metadata).encode(PARAGRAPH)
    for kind in kinds:
        path = original
        if kind != "Q4_1":
            path = folder / f"{kind}.gguf"
            llama("quantise", original, path, TYPES[kind])
        oracle = Oracle(read(path), np.float64).logits(ids)
        text = ",".join(map(str, ids))
        llama("logits", path, text, folder / "llama.cpp.npy")
        peers = ["llama.cpp"]
        for peer in ("torch", "genai") if genai else ():
            run = [str(genai), __file__, f"--{peer}-logits", str(path), text, str(folder / f"{peer}.npy")]
            subprocess.run(run, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            peers.append(peer)
        found = {peer: np.load(folder / f"{peer}.npy") for peer in peers}
        for accuracy in ("exact", "near", "fast"):
            with load(path, accuracy=accuracy) as model:
                found[accuracy] = logits_of(model, ids)
        wanted = perplexity(oracle, ids)
        cells = [kind, f"{path.stat().st_size / 1e6:.0f}", f"{wanted:.3f}"]
        for who in SHOWN:
            if who in found:
                lost = perplexity(found[who], ids) - wanted
                cells.append(f"{lost:+.4f}" if who in CLOSE and wanted < 1000 else f"{lost / wanted:+.3%}")
                cells.append(f"{(found[who].argmax(-1) == oracle.argmax(-1)).mean():.3f}")
                cells += [] if who in CLOSE else [f"{divergence(oracle, found[who]):.5f}"]
        yield tuple(cells)
        if path != original:
            path.unlink()


def divergence(wanted: Any, found: Any) -> float:
    """Nats by which the distributions of logits are apart, Kullback-Leibler, mean over tokens."""
    import numpy as np

    p, q = (x - x.max(-1, keepdims=True) for x in (wanted.astype(np.float64), found.astype(np.float64)))
    p, q = (x - np.log(np.exp(x).sum(-1, keepdims=True)) for x in (p, q))
    return float((np.exp(p) * (p - q)).sum(-1).mean())


def titles(genai: str | None) -> list[str]:
    shown = [who for who in SHOWN if genai or who not in ("torch", "genai")]
    return ["type", "MB", "oracle", *(cell for who in shown for cell in (SHOWN[who], "agrees", *(() if who in CLOSE else ("nats",))))]


def line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.rjust(9) for cell in cells) + " |"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--types", nargs="*", default=list(TYPES), choices=list(TYPES))
    parser.add_argument("--genai", metavar="PYTHON", help="a Python with torch, transformers, accelerate, gguf and onnxruntime-genai")
    parser.add_argument("--llama", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    for peer in ("torch", "genai"):
        parser.add_argument(f"--{peer}-logits", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.llama:
        return in_llamas_environment(given.llama)
    for task, logits in ((given.torch_logits, torch_logits), (given.genai_logits, genai_logits)):
        if task:
            logits(task[0], [int(one) for one in task[1].split(",")], task[2])
            return 0
    sys.path[:0] = [str(ROOT / "tests" / "gguf"), str(ROOT / "tests" / "models")]
    title = titles(given.genai)
    lines = [line(title), "|" + "|".join(["--:"] * len(title)) + "|"]
    print("\n".join(lines), flush=True)
    with tempfile.TemporaryDirectory() as folder:
        for cells in rows(given.types, Path(folder), given.genai):
            lines.append(line(cells))
            print(lines[-1], flush=True)
    import onnxruntime

    how = " --genai PYTHON" if given.genai else ""
    said = f"{datetime.date.today()}, `uv run python tests/benchmarks/quality.py{how}`, onnxruntime {onnxruntime.__version__}, {LLAMA}."
    about = (
        "Perplexity of the oracle (float64), what the others have more or less of it, how often they agree on the likeliest token, and "
        "the mean divergence from the oracle in nats. TQ1_0 and TQ2_0 are made for models that were trained with three values a weight; "
        "of this one they leave nothing, so that the least rounding turns everything; turnout computes such files near to exact where "
        "fast is asked for."
    )
    if set(given.types) == set(TYPES):
        target = ROOT / "tests" / "benchmarks" / "results" / "quality.md"
        target.write_text("\n".join([f"{said} {about}", "", *lines, ""]), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
