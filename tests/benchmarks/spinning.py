"""Tokens per second of decoding by how long ONNX Runtime's threads spin, on an idle machine and beside a busy process.

    uv run python tests/benchmarks/spinning.py [--tokens 64] [--rounds 3]

The provider's own limit is `turnout_cpu.provider.SPIN_MICROSECONDS`; 1000 is ONNX Runtime's.
"""

import argparse
import contextlib
import multiprocessing
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import turnout
import turnout_cpu.provider as cpu

sys.path.append(str(Path(__file__).parents[1] / "models"))
from packages import model_path

LIMITS = ("0", "20", "100", "1000")
THREADS = (1, 2)


def rate(limit: str, threads: int, tokens: int) -> float:
    """Tokens per second after the first."""
    cpu.SPIN_MICROSECONDS = limit
    with turnout.load(model_path("smollm2"), device="cpu", options={"cpu": {"threads": threads}}) as model:
        times = [time.perf_counter() for _ in model.generate("Write a long story about the sea.", max_tokens=tokens)]
    return (len(times) - 1) / (times[-1] - times[0])


def _work() -> None:
    while True:
        pass


@contextlib.contextmanager
def neighbour(busy: bool) -> Iterator[None]:
    """A process beside this one that never rests, or none."""
    process = multiprocessing.Process(target=_work, daemon=True)
    if busy:
        process.start()
    try:
        yield
    finally:
        if busy:
            process.kill()


def main() -> None:
    """Print the median of every round, limits side by side within a round."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    print("microseconds  threads  neighbour  tokens/s")
    for busy in (False, True):
        rates: dict[tuple[str, int], list[float]] = {}
        with neighbour(busy):
            for _ in range(arguments.rounds):
                for limit in LIMITS:
                    for threads in THREADS:
                        rates.setdefault((limit, threads), []).append(rate(limit, threads, arguments.tokens))
        for (limit, threads), found in rates.items():
            print(f"{limit:>12}  {threads:>7}  {'busy' if busy else 'idle':>9}  {statistics.median(found):8.1f}")


if __name__ == "__main__":
    main()
