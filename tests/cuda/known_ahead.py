"""How many of the kernels that real models launch are built ahead into turnout-cuda-cubins: python tests/cuda/known_ahead.py

For each ONNX model out of tests/models/packages.py that the CUDA provider takes whole (open dimensions count as 1), the kernels of its
first segment: all that a process without NVRTC, which fuses nothing, wants, and those of them that are known; then the same with fusion.
"""

import sys
import warnings
from pathlib import Path

from turnout.errors import TurnoutError
from turnout_cuda.ahead import given, known
from turnout_cuda.dry import launches

sys.path.insert(0, str(Path(__file__).parents[1] / "models"))


def main() -> int:
    from packages import MODELS, model_path

    warnings.simplefilter("ignore")
    ahead = known()
    print(f"{len(ahead)} kernels are known ahead")
    totals = [0, 0, 0, 0]
    for name, (_, file) in MODELS.items():
        if not file.endswith(".onnx"):
            continue
        row = []
        try:
            for model, inputs in given([model_path(name)]):
                for fuses in (False, True):
                    wanted = launches(model, inputs, fuses=fuses)
                    row += [sum(entry in ahead for entry in wanted), len(wanted)]
        except TurnoutError:
            continue  # it has nodes that other devices run
        totals = [a + b for a, b in zip(totals, row, strict=True)]
        print(f"{name:<18} {row[0]:3} of {row[1]:3}   fused {row[2]:3} of {row[3]:3}")
    print(f"{'all':<18} {totals[0]:3} of {totals[1]:3} ({totals[0] / totals[1]:.0%})   fused {totals[2]:3} of {totals[3]:3}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
