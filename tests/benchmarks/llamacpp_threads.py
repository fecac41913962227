"""What threads cost llama.cpp on a busy machine: `uv run python tests/benchmarks/llamacpp_threads.py MODEL.gguf`.

Decodes 32 tokens with each number of threads, alone and beside one program that never rests, with OpenMP's threads asleep while they
wait (as turnout loads it) and spinning (OpenMP's default). Prints tokens a second: the median of five.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

SPIN = "300000"  # GOMP_SPINCOUNT's default where no policy is set: some milliseconds


def rate(session: object) -> float:
    """Tokens a second of one decode."""
    start = time.perf_counter()
    for token in range(500, 532):
        session.feed([token], [0])  # type: ignore[attr-defined]
    return 32 / (time.perf_counter() - start)


def measure(model: Path, counts: list[int], busy: int) -> None:
    """One line: a rate per number of threads."""
    import turnout

    neighbours = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(busy)]
    try:
        found = []
        for threads in counts:
            with turnout.load(model, device="llamacpp", options={"llamacpp": {"threads": threads}}) as loaded:
                session = loaded._program.direct.new_session()
                session.feed(list(range(100, 110)), [])
                found.append(f"{threads} threads {statistics.median(rate(session) for _ in range(5)):6.1f}")
    finally:
        for one in neighbours:
            one.kill()
    waiting = "spinning" if "GOMP_SPINCOUNT" in os.environ else "asleep"
    print(f"  threads that wait {waiting}, {busy} busy beside: {', '.join(found)}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--busy", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    cores = os.cpu_count() or 1
    counts = sorted({1, max(1, cores // 2), max(1, cores - 1), cores})
    if given.busy is not None:
        measure(given.model, counts, given.busy)
        return
    print(f"tokens/s on {cores} processors, load {os.getloadavg()[0]:.1f} before we start")
    for busy in (0, 1):
        for policy in ({}, {"GOMP_SPINCOUNT": SPIN}):  # OpenMP reads it once a process
            subprocess.run([sys.executable, __file__, str(given.model), "--busy", str(busy)], env={**os.environ, **policy}, check=True)


if __name__ == "__main__":
    main()
