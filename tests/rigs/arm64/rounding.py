"""How far products with a quantised matrix are off on this machine, by accuracy_level, which says what they may round: `run products`."""

from __future__ import annotations

import platform
import sys
from pathlib import Path

import numpy as np
import onnxruntime

sys.path.insert(0, str(Path(__file__).parents[2] / "gguf"))
from products import BLOCK, K, N, product


def main() -> int:
    print(f"{platform.machine()}, ONNX Runtime {onnxruntime.__version__}")
    failed = False
    for tokens in (1, 7):
        for bits in (4, 8):
            random = np.random.default_rng(bits + tokens)
            codes = random.integers(0, 1 << bits, (N, K))
            scales = random.uniform(0.5, 1, (N, K // BLOCK)).astype(np.float32)
            x = random.standard_normal((1, tokens, K)).astype(np.float32)
            x[..., random.integers(0, K, 6)] *= 20  # as language models have them
            wanted = x @ ((codes - (1 << bits - 1)) * np.repeat(scales, BLOCK, 1)).T
            found = (product(bits, bits == 8, level, codes, scales).run(x=x)["y"] for level in (4, 2, 0))
            off = [float(np.linalg.norm(y - wanted) / np.linalg.norm(wanted)) for y in found]
            print(f"{tokens} rows, {bits} bits: 8 bits for x {off[0]:.1e}, two halves of 8 {off[1]:.1e}, float32 {off[2]:.1e}")
            failed |= off[0] > 0.05 or off[1] > 2e-4 or off[2] > 1e-5
    return int(failed)


if __name__ == "__main__":
    raise SystemExit(main())
