"""The conformance kit on the CUDA provider, in the simulator: python tests/cuda/simulated.py [OPERATOR ...]; TURNOUT_CUDA=real: on a GPU.

Runs every level, all of ONNX's own cases and the made ones, with the simulator's race detector on; prints
`cuda (sim): C of C claimed cases passed, operators: K`, and ends with status 1 if anything failed or the simulator reported anything.
A process for each core takes its share of the operators' cases; the first takes the other levels too.
"""

import os
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator

import device

from turnout.testing import LEVELS, Result, run, summary

SHARED = ("operators", "honesty")
"""The levels that are swept over all cases."""


def main(only: list[str]) -> int:
    processes = min(len(os.sched_getaffinity(0)), 16)
    results: list[Result] = []
    reports: list[str] = []
    ended: list[int] = []

    def follow(which: int) -> None:
        command = [sys.executable, __file__, "--share", f"{which}/{processes}", *only]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
            for line in child.stdout or ():
                if line.startswith("{"):
                    results.append(Result.of_json(line))
                    if results[-1].outcome == "failed":
                        print(f"FAILED {results[-1].level} {results[-1].case}\n       {results[-1].detail}", flush=True)
                elif line.startswith("REPORT "):
                    reports.append(line.rstrip())
        ended.append(child.returncode)

    threads = [threading.Thread(target=follow, args=(which,)) for which in range(processes)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for report in reports[:20]:
        print(report)
    found = summary(results)
    print(device.found(reports))
    print(found.line(device.NAME))
    whole = not any(ended)
    if not whole:
        print(f"a process ended before its share was done (status {', '.join(map(str, ended))}): the figures above are not all")
    return 0 if found.ok and whole and not reports else 1


def share(text: str, only: list[str]) -> int:
    """One process's part: its results as lines of JSON, then what the simulator reported."""
    device.choose()
    warnings.simplefilter("ignore")  # NumPy's, about the infinities that some cases are made of
    which, processes = map(int, text.split("/"))
    for result in _results(which, processes, only):
        print(result.json(), flush=True)
    for report in device.reports():
        print(f"REPORT {report}")
    return 0


def _results(which: int, processes: int, only: list[str]) -> Iterator[Result]:
    yield from run("cuda", SHARED, only=only or None, share=(which, processes))
    if which == 0 and not only:
        yield from run("cuda", [level for level in LEVELS if level not in SHARED])


if __name__ == "__main__":
    sys.exit(share(sys.argv[2], sys.argv[3:]) if sys.argv[1:2] == ["--share"] else main(sys.argv[1:]))
