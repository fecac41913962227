"""What a token of text takes, beside the time in which its weights could be read at all.

    uv run python tests/benchmarks/text_profile.py MODEL.gguf [MODEL.gguf ...] [--threads 1 2] [--rounds 3] [--write]

Every weight but an embedding's other rows is read once for a token, so that bytes over bandwidth is the least time it can take. Bandwidth
is measured beside it: a dot product of 256 MB with themselves, by OpenBLAS, on as many threads. The first table has that limit for the
bytes of the file, which llama.cpp reads, and for those that turnout's operators take, with the milliseconds that each engine takes
(`text.py`'s decode, medians of the rounds) and which share of them the limit is. The second splits the time of turnout's kernels in a token
by operator, as ONNX Runtime's profiler tells it: shares, since the profiler itself takes a few microseconds a node. With --write both go
to tests/benchmarks/results/text_profile.md.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from text import TEXT, as_markdown, command, in_a_process, machine

PROMPT, DECODE = 64, 64
_PRODUCTS = ("MatMulNBits", "MatMul", "Gemm")


def bandwidth(threads: int) -> float:
    """Bytes a second that so many threads read."""
    code = (
        "import time, numpy as np; a = np.ones(1 << 26, np.float32); best = 9.0\n"
        "for _ in range(8): start = time.perf_counter(); np.dot(a, a); best = min(best, time.perf_counter() - start)\n"
        "print(a.nbytes / best)"
    )
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": str(threads)}
    return float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment).stdout)


def bytes_of_file(model: str) -> int:
    """Bytes of a GGUF file that a token reads: all tensors, but of an embedding that is not the head as well."""
    from turnout_gguf.reader import read

    tensors = read(Path(model)).tensors
    tied = "output.weight" not in tensors
    return sum(tensor.nbytes for name, tensor in tensors.items() if tied or name != "token_embd.weight")


def bytes_of_operators(model: str) -> int:
    """Bytes of the constants of all products in turnout's graph of it."""
    from turnout.formats import open_source

    graph = open_source(model).model().graph
    read = {value.name: value for node in graph if node.op_type in _PRODUCTS for value in node.inputs[1:] if value is not None}
    return sum(value.const_value.nbytes for value in read.values() if value.const_value is not None)


def operators(model: str, threads: int) -> dict[str, float]:
    """By operator, its share of the time of all kernels in a token, the largest first."""
    with tempfile.TemporaryDirectory() as folder:
        run = [sys.executable, __file__, model, "--profile", folder, "--threads", str(threads)]
        subprocess.run(run, check=True)
        spent: Counter[str] = Counter()
        for file in Path(folder).glob("*.json"):
            for event in _last_runs(json.loads(file.read_text(encoding="utf-8")), DECODE):
                spent[event["args"]["op_name"]] += event["dur"]
    return {name: microseconds / spent.total() for name, microseconds in spent.most_common()}


def _last_runs(events: list[dict[str, Any]], count: int) -> list[dict[str, Any]]:
    """The kernels' events of a session's last so many runs."""
    starts = sorted(event["ts"] for event in events if event["name"] == "model_run")
    return [event for event in events if event["name"].endswith("_kernel_time") and event["ts"] >= starts[-count]]


def profiled(model: str, threads: int, folder: str) -> None:
    """Decodes with ONNX Runtime's profiler, which leaves its files in the folder."""
    import turnout
    import turnout_cpu.provider as cpu

    configure, numbers = cpu.CpuProvider.configure, itertools.count()

    def with_profiler(self: Any, settings: Any, device: Any, options: Any) -> None:
        configure(self, settings, device, options)
        settings.enable_profiling = True
        settings.profile_file_prefix = str(Path(folder, f"session{next(numbers)}"))  # two that are made at once would share a file

    cpu.CpuProvider.configure = with_profiler  # type: ignore[method-assign]
    options = {"cpu": {"threads": threads}, "gguf": {"keep": False}}  # what is kept belongs to sessions as they are
    with turnout.load(model, device="cpu", options=options) as llm:
        tokens = llm.tokenize(TEXT * 4, ends=False)[:PROMPT]
        list(llm.generate(llm.detokenize(tokens), raw=True, max_tokens=DECODE + 1))


def limits(models: list[str], threads: list[int], rounds: int) -> list[list[str]]:
    rows = []
    for model in models:
        of_file, of_operators = bytes_of_file(model), bytes_of_operators(model)
        for count in threads:
            speed: list[float] = []
            taken: dict[str, list[float]] = {"turnout": [], "llama.cpp": []}
            for _ in range(rounds):
                speed.append(bandwidth(count))
                for engine, times in taken.items():
                    times.append(1000 / in_a_process(sys.executable, engine, model, count)["decode"])
            reads = statistics.median(speed)
            row = [Path(model).stem, str(count), f"{reads / 1e9:.1f}"]
            for engine, size in (("turnout", of_operators), ("llama.cpp", of_file)):
                least, time_taken = size / reads * 1000, statistics.median(taken[engine])
                row += [f"{size / 1e6:.0f}", f"{least:.1f}", f"{time_taken:.1f}", f"{least / time_taken:.0%}"]
            rows.append(row)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", metavar="MODEL.gguf")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--write", action="store_true", help="write tests/benchmarks/results/text_profile.md")
    parser.add_argument("--profile", metavar="FOLDER", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.profile:
        profiled(asked.models[0], asked.threads[0], asked.profile)
        return
    one = ("MB", "least ms", "ms", "of the limit")
    heads = ("model", "threads", "GB/s", *(f"turnout: {name}" for name in one), *(f"llama.cpp: {name}" for name in one))
    said = [as_markdown(heads, limits(asked.models, asked.threads, asked.rounds))]
    spent = {(model, count): operators(model, count) for model in asked.models for count in asked.threads}
    names = list(dict.fromkeys(name for found in spent.values() for name, share in found.items() if share >= 0.01))
    rows = []
    for (model, count), found in spent.items():
        shares = [*(found.get(name, 0) for name in names), sum(share for name, share in found.items() if name not in names)]
        rows.append([Path(model).stem, str(count), *(f"{share:.0%}" for share in shares)])
    said.append(as_markdown(("model", "threads", *names, "others"), rows))
    print("\n\n".join(said))
    if asked.write:
        report = Path(__file__).parent / "results" / "text_profile.md"
        head = f"# What a token takes, and the least it can\n\n{machine()}\n\n    {command(asked)} --rounds {asked.rounds} --write"
        report.write_text("\n\n".join([head, *said]) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
