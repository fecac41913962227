"""The kernels of language models in the simulator, against NumPy in float64: python tests/cuda/language.py [FAMILY ...]; TURNOUT_CUDA=real:
on a GPU.

Prints a line for each family, `FAMILY: C cases, off by at most E of the largest number`, and ends with status 1 where one is further off
than its type's rounding explains, or where the simulator reports anything (races, reads of what was never written, accesses out of bounds).
"""

from __future__ import annotations

import sys
import time

import device
import numpy as np
from language_cases import EXPLAINED, FAMILIES, TextCase

import turnout

device.choose()


def off_by(case: TextCase) -> float:
    """The largest difference of an output, as a share of its largest number."""
    with turnout.load(case.model, device="cuda") as model:
        found = model.run(case.inputs)
    return max(float(np.abs(found[name].astype(np.float64) - one).max() / np.abs(one).max()) for name, one in case.wanted.items())


def main(only: list[str]) -> int:
    failed = 0
    for family, cases in FAMILIES.items():
        if only and family not in only:
            continue
        start, count, most = time.perf_counter(), 0, 0.0
        for case in cases():
            off = off_by(case)
            count, most = count + 1, max(most, off)
            if not off <= EXPLAINED[case.type]:
                failed += 1
                print(f"FAILED {family} {case.what}: off by {off:.2g} of the largest number")
        print(f"{family}: {count} cases, off by at most {most:.2g} of the largest number ({time.perf_counter() - start:.1f} s)", flush=True)
    reports = device.reports()
    for report in reports[:20]:
        print(f"REPORT {report}")
    print(device.found())
    return 1 if failed or reports else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
