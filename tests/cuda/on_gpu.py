"""Everything that a GPU can show, by one command: python tests/cuda/on_gpu.py FOLDER [STAGE ...]

First what is right, at once: the conformance kit, the kernels of language models, decoders, sessions, real models, and the driver's own
tests that the simulator passes. Then what is fast, one after the other. Each stage's output goes to FOLDER/STAGE.txt, its last lines are
printed, and it is stopped at its limit of seconds; FOLDER/cuda.md tells all that was ever run into that folder, as
tests/benchmarks/results/cuda.md does. Ends with status 1 where a stage did.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HERE = Path(__file__).parent
BENCHMARKS = HERE.parent / "benchmarks"

RIGHT: dict[str, tuple[list[str], int]] = {
    "language": ([str(HERE / "language.py")], 90),
    "sessions": ([str(HERE / "sessions.py")], 60),
    "decoders": ([str(HERE / "decoders.py")], 90),
    "real_models": ([str(HERE / "real_models.py")], 60),
    "driver": (["-m", "pytest", str(HERE.parent / "cudasim"), "--cuda=real", "-n", "8", "-p", "no:cacheprovider"], 120),
    "kit": ([str(HERE / "simulated.py")], 150),
}
FAST: dict[str, tuple[list[str], int]] = {
    "text_kernels": ([str(BENCHMARKS / "cuda_text.py"), "kernels"], 45),
    "text_int4": ([str(BENCHMARKS / "cuda_text.py"), "int4"], 60),
    "text_fp16": ([str(BENCHMARKS / "cuda_text.py"), "fp16"], 60),
    "kernels": ([str(BENCHMARKS / "cuda.py")], 100),
    "torch": ([str(BENCHMARKS / "cuda_text.py"), "torch"], 60),
    "gguf": ([str(BENCHMARKS / "cuda_text.py"), "gguf"], 90),
}
"""Stages: arguments of Python, and seconds at most."""


def run(name: str, folder: Path) -> int:
    arguments, limit = {**RIGHT, **FAST}[name]
    start, status = time.monotonic(), -1
    with (folder / f"{name}.txt").open("w") as log:
        try:
            given = {**os.environ, "TURNOUT_CUDA": "real", "PYTHONUNBUFFERED": "1"}
            status = subprocess.run([sys.executable, *arguments], stdout=log, stderr=subprocess.STDOUT, timeout=limit, env=given).returncode
        except subprocess.TimeoutExpired:
            log.write(f"\nstopped after {limit} seconds\n")
    text = (folder / f"{name}.txt").read_text(errors="replace").rstrip().splitlines()
    shown = text if name in FAST and not status else text[-12:]
    print(f"== {name}: status {status}, {time.monotonic() - start:.0f} s\n" + "\n".join(f"   {line[:190]}" for line in shown), flush=True)
    return status


def page(folder: Path, statuses: dict[str, int]) -> str:
    """What was run and what it printed, in Markdown."""
    from turnout_cuda import build, driver

    gpu = driver.gpus()[0]
    lines = [
        "# What a GPU showed",
        "",
        f"`python tests/cuda/on_gpu.py FOLDER` wrote this page on {time.strftime('%Y-%m-%d')}: {gpu.name}, {gpu.memory / 2**30:.0f} GiB,"
        f" driver for CUDA {gpu.driver // 1000}.{gpu.driver % 1000 // 10}, NVRTC {build.compiler_version()}.",
        "`TURNOUT_CUDA=real` stands before each command.",
    ]
    for title, stages in (("Right", RIGHT), ("Fast", FAST)):
        lines += ["", f"## {title}"]
        for name in [one for one in stages if one in statuses]:
            words = [os.path.relpath(word, HERE.parents[1]) if word.startswith(str(HERE.parent)) else word for word in stages[name][0]]
            text = (folder / f"{name}.txt").read_text(errors="replace").rstrip().splitlines()
            shown = text if title == "Fast" else text[-8:]
            said = "" if statuses[name] == 0 else f" (status {statuses[name]})"
            lines += ["", f"`python {' '.join(words)}`{said}", "", "```", *(line.rstrip() for line in shown), "```"]
    return "\n".join(lines) + "\n"


def main(folder: str, asked: list[str]) -> int:
    away = Path(folder)
    away.mkdir(parents=True, exist_ok=True)
    asked = asked or [*RIGHT, *FAST]
    with ThreadPoolExecutor(len(RIGHT)) as pool:
        right = [name for name in asked if name in RIGHT]
        statuses = dict(zip(right, pool.map(lambda name: run(name, away), right), strict=True))
    for name in [one for one in asked if one in FAST]:
        statuses[name] = run(name, away)
    kept = away / "statuses.json"
    known = json.loads(kept.read_text("utf-8")) if kept.exists() else {}
    kept.write_text(json.dumps(known | statuses), "utf-8")
    (away / "cuda.md").write_text(page(away, known | statuses), "utf-8")
    return 1 if any(statuses.values()) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
