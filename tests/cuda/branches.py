"""How much of real models may run at once in a CUDA graph: python tests/cuda/branches.py [NAME ...]

For each ONNX model out of tests/models/packages.py that the CUDA provider takes whole (open dimensions count as 1), its steps, and how many
of them the longest path has: by the data alone, by the memory plan that is made, and by the tightest one; with the arenas of the last two.
"""

import sys
import time
import warnings
from collections.abc import Sequence
from pathlib import Path

from turnout.errors import TurnoutError
from turnout_cuda.ahead import given
from turnout_cuda.array import Step
from turnout_cuda.dry import steps
from turnout_cuda.graph import dependencies
from turnout_cuda.memory import Placement, place

sys.path.insert(0, str(Path(__file__).parents[1] / "models"))


def longest(found: Sequence[Step], offsets: Placement) -> int:
    """Steps of the longest path."""
    depth: list[int] = []
    for waits in dependencies(found, offsets):
        depth.append(1 + max((depth[number] for number in waits), default=0))
    return max(depth, default=0)


def apart(found: Sequence[Step]) -> Placement:
    """A plan in which no memory is shared."""
    made: Placement = {}
    for step in found:
        for buffer in (*step.writes, *step.reads):
            if buffer.home == "scratch" and buffer not in made:
                made[buffer] = sum(max(one.nbytes, 1) for one in made)
    return made


def main(names: list[str]) -> int:
    from packages import MODELS, model_path

    warnings.simplefilter("ignore")
    for name, (_, file) in MODELS.items():
        if not file.endswith(".onnx") or (names and name not in names):
            continue
        try:
            ((model, inputs),) = given([model_path(name)])
            found = steps(model, inputs)
        except TurnoutError:
            continue  # it has nodes that other devices run
        start = time.process_time()
        offsets, nbytes = place(found)
        took = time.process_time() - start
        tight, least = place(found, at_once=False)
        paths = [longest(found, one) for one in (apart(found), offsets, tight)]
        print(
            f"{name:<18} {len(found):4} steps   longest path {paths[0]:4} by data, {paths[1]:4} as planned, "
            f"{paths[2]:4} in the least memory   arena {nbytes / 1e6:6.2f} MB, least {least / 1e6:6.2f}   planned in {took * 1e3:.0f} ms",
            flush=True,
        )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
