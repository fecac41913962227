"""Prompt and decode speed, load time, first token and memory, beside llama.cpp and onnxruntime-genai.

    python tests/benchmarks/text.py MODEL.gguf [MODEL.gguf ...] [--genai FOLDER] [--python PATH] [--threads 1 2] [--rounds 5] [--write]

Each engine runs in a process of its own, and the engines take turns, so that whatever else the machine does falls on all of them; figures
are medians over the rounds. Every case is measured on an idle machine and beside a process that keeps one processor busy.

turnout     model.generate with device="cpu": tokenizer, cache, sampling and text included
near, exact the same with that accuracy
llama.cpp   llama_decode alone, on the same file (the sessions of turnout-llamacpp, which add an argmax)
genai       onnxruntime-genai on the folder of --genai, by the Python of --python

Prompt: tokens a second of a prompt of 256 tokens, after one that warms up. Decode: tokens a second of the 128 that follow. Load: seconds
once the libraries are imported, of a file that was loaded so before. First: seconds from there to the first piece of text. Memory: the
process's peak. With --write the table goes to tests/benchmarks/results/text.md.
"""

from __future__ import annotations

import argparse
import datetime
import functools
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PROMPT, DECODE = 256, 128
TEXT = (
    "The railway turnout is a mechanical installation that lets trains move from one track to another. It has a pair of rails that "
    "taper to a point, and a lever or a motor moves them. In the early days of the railway, a man stood beside each turnout and set it. "
)


def measured_by_turnout(model: str, threads: int, accuracy: Any = "fast") -> dict[str, float]:
    import onnxruntime  # noqa: F401 - its import is not the load of a model

    import turnout

    turnout.devices()
    start = time.perf_counter()
    with turnout.load(model, device="cpu", accuracy=accuracy, options={"cpu": {"threads": threads}}) as llm:
        loaded = time.perf_counter()
        next(llm.generate("Hello", raw=True, max_tokens=2))
        first = time.perf_counter()
        tokens = llm.tokenize(TEXT * 8, ends=False)
        list(llm.generate(llm.detokenize(tokens[40 : 40 + PROMPT]), raw=True, max_tokens=8))
        result = llm.generate(llm.detokenize(tokens[:PROMPT]), raw=True, max_tokens=DECODE).result
        assert result.reused_tokens < 8
        assert result.generated_tokens > DECODE // 2, "it ended its text early"
        return {"load": loaded - start, "first": first - loaded, "prompt": result.prompt_rate, "decode": result.rate}


def measured_by_llamacpp(model: str, threads: int) -> dict[str, float]:
    import turnout
    from turnout_text.session import sessions_of

    turnout.devices()
    start = time.perf_counter()
    with turnout.load(model, device="llamacpp", options={"llamacpp": {"threads": threads}}) as llm:
        loaded = time.perf_counter()
        next(llm.generate("Hello", raw=True, max_tokens=2))
        first = time.perf_counter()
        tokens = llm.tokenize(TEXT * 8, ends=False)
        make = sessions_of(llm)
        assert make is not None
        session = make()
        _decoded(session, tokens[40 : 40 + PROMPT], 8)
        session.truncate(0)
        prompt, decode = _decoded(session, tokens[:PROMPT], DECODE)
        return {"load": loaded - start, "first": first - loaded, "prompt": prompt, "decode": decode}


def _decoded(session: Any, tokens: list[int], count: int) -> tuple[float, float]:
    """(prompt, decode) tokens a second of a session."""
    start = time.perf_counter()
    token = int(session.feed(tokens, [len(tokens) - 1])[0].argmax())
    middle = time.perf_counter()
    for _ in range(count - 1):
        token = int(session.feed([token], [0])[0].argmax())
    return len(tokens) / (middle - start), (count - 1) / (time.perf_counter() - middle)


def measured_by_genai(folder: str, threads: int) -> dict[str, float]:
    import onnxruntime_genai as genai

    config = genai.Config(folder)
    config.overlay(json.dumps({"model": {"decoder": {"session_options": {"intra_op_num_threads": threads}}}}))
    start = time.perf_counter()
    model = genai.Model(config)
    loaded = time.perf_counter()
    tokenizer = genai.Tokenizer(model)

    def run(tokens: Any, count: int) -> tuple[float, float]:
        options = genai.GeneratorParams(model)
        options.set_search_options(max_length=len(tokens) + count + 1, min_length=len(tokens) + count + 1)
        generator = genai.Generator(model, options)
        start = time.perf_counter()
        generator.append_tokens(tokens)
        generator.generate_next_token()
        middle = time.perf_counter()
        for _ in range(count - 1):
            generator.generate_next_token()
        return len(tokens) / (middle - start), (count - 1) / (time.perf_counter() - middle)

    run(tokenizer.encode("Hello"), 1)
    first = time.perf_counter()
    tokens = tokenizer.encode(TEXT * 8)
    run(tokens[40 : 40 + PROMPT], 8)
    prompt, decode = run(tokens[:PROMPT], DECODE)
    return {"load": loaded - start, "first": first - loaded, "prompt": prompt, "decode": decode}


ENGINES: dict[str, Callable[[str, int], dict[str, float]]] = {
    "turnout": measured_by_turnout,
    "near": functools.partial(measured_by_turnout, accuracy="near"),
    "exact": functools.partial(measured_by_turnout, accuracy="exact"),
    "llama.cpp": measured_by_llamacpp,
    "genai": measured_by_genai,
}


def in_a_process(python: str, engine: str, model: str, threads: int) -> dict[str, float]:
    command = [python, __file__, model, "--worker", engine, "--threads", str(threads)]
    # modules are compiled once, as those of an installed package are
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    ran = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if ran.returncode:
        sys.exit(f"{engine} failed on {model}:\n{ran.stderr}")
    found: dict[str, float] = json.loads(ran.stdout.splitlines()[-1])
    return found


@contextmanager
def busy_beside(wanted: bool) -> Iterator[None]:
    """One process that never rests, for the length of a `with` block."""
    if not wanted:
        yield
        return
    other = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        other.kill()
        other.wait()


COLUMNS = {"prompt": "{:.0f}", "decode": "{:.1f}", "load": "{:.2f}", "first": "{:.2f}", "memory": "{:.0f}"}
HEADS = ("engine", "model", "threads", "beside", "prompt t/s", "decode t/s", "load s", "first s", "peak MB", "decode / llama.cpp")


def row(key: tuple[str, str, int, bool], found: dict[Any, list[dict[str, float]]]) -> list[str]:
    """A line of the table. The ratio is the median of ratios within a round."""
    engine, model, threads, busy = key
    figures = [text.format(statistics.median(one[name] for one in found[key])) for name, text in COLUMNS.items()]
    other = found.get(("llama.cpp", model, threads, busy)) or found.get(("llama.cpp", next(iter(found))[1], threads, busy))
    ratios = [mine["decode"] / its["decode"] for mine, its in zip(found[key], other or (), strict=False)]
    ratio = f"{statistics.median(ratios):.2f}" if ratios else ""
    return [engine, Path(model).stem, str(threads), "busy" if busy else "idle", *figures, ratio]


def printed(found: dict[Any, list[dict[str, float]]], markdown: bool) -> str:
    from turnout.table import table

    rows = [row(key, found) for key in found]
    if markdown:
        return as_markdown(HEADS, rows)
    return table(rows, HEADS, right=(2, 4, 5, 6, 7, 8, 9))


def as_markdown(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join("| " + " | ".join(cells) + " |" for cells in [heads, ["---"] * len(heads), *rows])


def header(asked: argparse.Namespace) -> str:
    """What was run, where and when."""
    genai = " --genai FOLDER --python PYTHON" if asked.genai else ""
    return (
        f"# Text beside llama.cpp and onnxruntime-genai\n\n{machine()} Medians of {asked.rounds} rounds;\n"
        f"onnxruntime-genai runs its builder's int4 (genai_folder.py), which damages the model: a peer in speed only.\n\n"
        f"    {command(asked)}{genai} --rounds {asked.rounds} --write"
    )


def command(asked: argparse.Namespace) -> str:
    return f"python tests/benchmarks/{Path(sys.argv[0]).name} {' '.join(Path(model).name for model in asked.models)}"


def machine() -> str:
    """Today, this machine and the engines, as a sentence."""
    from importlib.metadata import version

    import turnout

    devices = {one.provider: one for one in turnout.devices()}
    engines = f"onnxruntime {version('onnxruntime')}, llama.cpp {devices['llamacpp'].properties.get('llama.cpp', '')}"
    flags = Path("/proc/cpuinfo").read_text(encoding="utf-8") if Path("/proc/cpuinfo").exists() else ""
    vectors = "AVX-512 VNNI" if "avx512_vnni" in flags else "AVX2" if "avx2" in flags else "other vectors"
    return (
        f"{datetime.date.today()}, {devices['cpu'].description}, {os.cpu_count()} processors, {vectors}; "
        f"load {os.getloadavg()[0]:.1f} at the end. {engines}."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", metavar="MODEL.gguf")
    parser.add_argument("--genai", metavar="FOLDER")
    parser.add_argument("--python", default=sys.executable, help="the Python that has onnxruntime-genai")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--write", action="store_true", help="write tests/benchmarks/results/text.md")
    parser.add_argument("--worker", choices=ENGINES, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.worker:
        import resource

        figures = ENGINES[asked.worker](asked.models[0], asked.threads[0])
        print(json.dumps({**figures, "memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000}))
        return
    cases = [(engine, model, sys.executable) for model in asked.models for engine in ("turnout", "near", "exact", "llama.cpp")]
    cases += [("genai", asked.genai, asked.python)] if asked.genai else []
    found: dict[Any, list[dict[str, float]]] = {}
    for model in asked.models:
        for threads in asked.threads:  # the first load of a file repacks its weights, and what a load came to is kept
            for engine in ("turnout", "near", "exact"):
                in_a_process(sys.executable, engine, model, threads)
    for busy in (False, True):
        for number in range(asked.rounds):
            for threads in asked.threads:
                for engine, model, python in cases:
                    with busy_beside(busy):
                        figures = in_a_process(python, engine, model, threads)
                    found.setdefault((engine, model, threads, busy), []).append(figures)
            print(f"round {number + 1} of {asked.rounds}, {'beside a busy process' if busy else 'idle'}", file=sys.stderr)
    print(printed(found, markdown=False))
    if asked.write:
        report = Path(__file__).parent / "results" / "text.md"
        report.write_text(f"{header(asked)}\n\n{printed(found, markdown=True)}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
