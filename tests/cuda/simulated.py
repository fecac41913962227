"""The conformance kit on the CUDA provider, in the simulator: python tests/cuda/simulated.py [OPERATOR ...]

Runs every level, all of ONNX's own cases and the made ones, with the simulator's race detector on; prints
`cuda (sim): C of C claimed cases passed, operators: K`, and ends with status 1 if anything failed or the simulator reported anything.
"""

import os
import sys
import warnings

os.environ["TURNOUT_CUDA"] = "sim"

import turnout_cudasim
from turnout.testing import Result, run, summary

turnout_cudasim.install()


def main(only: list[str]) -> int:
    warnings.simplefilter("ignore")  # NumPy's, about the infinities that some cases are made of
    results: list[Result] = []
    for result in run("cuda", ["operators", "honesty"] if only else None, only=only or None):
        results.append(result)
        if result.outcome == "failed":
            print(f"FAILED {result.level} {result.case}\n       {result.detail}", flush=True)
    found = summary(results)
    reports = turnout_cudasim.reports()
    for report in reports[:20]:
        print(f"REPORT {report}")
    print(f"simulator: {len(reports)} reports (races, reads of what was never written, accesses out of bounds)")
    print(found.line("cuda (sim)"))
    return 0 if found.ok and not reports else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
