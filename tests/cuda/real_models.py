"""Real models on the CUDA provider, in the simulator, against the CPU provider: python tests/cuda/real_models.py [NAME ...]

Prints for each the plan in numbers and the largest difference between the outputs, relative to the largest magnitude; with -v the whole
explanation too. Ends with status 1 where a difference is 1e-3 or more, or the simulator reports anything. TURNOUT_CUDA=real: on a GPU.
"""

import sys
import time
from pathlib import Path

import device
import numpy as np

import turnout

sys.path.insert(0, str(Path(__file__).parents[1] / "models"))

BOUND = 1e-3


def _feeds() -> dict[str, dict[str, np.ndarray]]:
    random = np.random.default_rng(7)

    def normal(*shape: int) -> np.ndarray:
        return random.standard_normal(shape).astype(np.float32)

    return {
        "vad_sequence": {"input": normal(4, 576), "h": normal(1, 1, 128) * 0, "c": normal(1, 1, 128) * 0},
        "vad_op15": {"input": normal(1, 576) * 0.1, "state": normal(2, 1, 128) * 0, "sr": np.array(16000, np.int64)},
        "ocr_direction": {"x": normal(1, 3, 48, 192)},
        "magika": {"bytes": random.integers(0, 257, (1, 2048), np.int32)},
    }


def difference(name: str, verbose: bool) -> float:
    """The largest difference between CUDA's outputs and the CPU's, over the largest magnitude of an output."""
    from packages import model_path

    path, feed = model_path(name), _feeds()[name]
    with turnout.load(path, device=["cuda", "cpu"]) as on_cuda, turnout.load(path, device="cpu") as on_cpu:
        start = time.perf_counter()
        got = on_cuda.run(feed)
        took = time.perf_counter() - start
        wanted = on_cpu.run(feed)
        plan = on_cuda.explain()
        print(str(plan) if verbose else "\n".join(str(plan).splitlines()[:4]))
    worst = 0.0
    for key in wanted:
        scale = max(1e-6, float(np.abs(wanted[key].astype(np.float64)).max()))
        worst = max(worst, float(np.abs(got[key].astype(np.float64) - wanted[key].astype(np.float64)).max()) / scale)
    print(f"{name}: the outputs differ by {worst:.1e} at most ({took:.1f} s)\n", flush=True)
    return worst


def main(arguments: list[str]) -> int:
    device.choose()
    names = [one for one in arguments if one != "-v"] or list(_feeds())
    worst = max(difference(name, "-v" in arguments) for name in names)
    print(device.found())
    return 0 if worst < BOUND and not device.reports() else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
