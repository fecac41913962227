"""Logits of one model on two machines: `compare.py FOLDER write TOKENS` on the first, `compare.py FOLDER compare` on the second.

The recipe for the CPU lets products round what they read to 8 bits, in blocks which each processor chooses by its instructions: so that the
model is run as it is and in float32, and each machine's rounding is measured against that.
"""

import platform
import resource
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import onnxruntime

import turnout


def exact(folder: Path) -> Path:
    """The same model, its products in float32."""
    model = onnx.load(folder / "model.onnx", load_external_data=False)
    for node in model.graph.node:
        for attribute in node.attribute:
            if attribute.name == "accuracy_level":
                attribute.i = 1
    onnx.save(model, folder / "exact.onnx")
    return folder / "exact.onnx"


def logits(path: Path, feeds: dict[str, np.ndarray]) -> np.ndarray:
    with turnout.load(path, device="cpu") as model:
        return model.run(feeds)["logits"]


def write(folder: Path, tokens: int) -> None:
    from turnout_recipes.sources import opened

    feeds = opened(folder / "model.onnx").feeds(np.arange(40, 40 + tokens))
    np.savez(folder / "feeds.npz", **feeds)
    np.savez(folder / "wanted.npz", exact=logits(exact(folder), feeds), rounded=logits(folder / "model.onnx", feeds))


def off(found: np.ndarray, wanted: np.ndarray) -> str:
    return f"{np.linalg.norm(found - wanted) / np.linalg.norm(wanted):.2e}"


def main() -> int:
    folder = Path(sys.argv[1])
    if sys.argv[2] == "write":
        write(folder, int(sys.argv[3]))
        return 0
    start, feeds, wanted = time.perf_counter(), dict(np.load(folder / "feeds.npz")), np.load(folder / "wanted.npz")
    same, rounded = logits(folder / "exact.onnx", feeds), logits(folder / "model.onnx", feeds)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    print(f"{folder.name} on {platform.machine()}, ONNX Runtime {onnxruntime.__version__}, {time.perf_counter() - start:.0f} s")
    print(f"in float32: off by {off(same, wanted['exact'])} from the first machine's")
    print(f"as it is: off by {off(rounded, wanted['exact'])} from that; the first machine: {off(wanted['rounded'], wanted['exact'])}")
    alike = (rounded.argmax(-1) == wanted["exact"].argmax(-1)).mean()
    print(f"likeliest tokens alike: {alike:.0%}; peak resident memory, the emulator's included: {peak:.0f} MB")
    return not np.allclose(same, wanted["exact"], rtol=1e-3, atol=1e-3 * np.abs(wanted["exact"]).max())


if __name__ == "__main__":
    sys.exit(main())
