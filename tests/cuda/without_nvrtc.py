"""A model on the CUDA provider in an environment with turnout-cuda-cubins and no NVRTC: python tests/cuda/without_nvrtc.py

The driver is turnout-cudasim's, which takes cubins and runs nothing: what is shown is that all that a device would be given was at hand.
"""

import os
import sys

os.environ["TURNOUT_CUDA"] = "sim"

import numpy as np
import onnx

import turnout
import turnout_cudasim
from turnout.plugins import providers
from turnout_cuda import build, cubins

TEXT = "g (float[N, 64] x, float[64] b) => (float[N, 64] y) { a = Add(x, b) c = Relu(a) y = Softmax(c) }"


def main() -> int:
    turnout_cudasim.install("noop")
    assert not build.compiles(), "NVRTC is here: take it away first"
    build.target = lambda gpu: build.Target("sm_90a")  # the simulator would ask for PTX
    ahead = cubins.archive(build.Target("sm_90a"))
    assert ahead is not None
    model = turnout.load(onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : 20]> {TEXT}'), device="cuda")
    for rows in (1, 8, 300):
        model.run(x=np.zeros((rows, 64), np.float32), b=np.zeros(64, np.float32))
    (cuda,) = (one for one in providers() if one.name == "cuda")
    given = cuda.context(cuda.probe()[0])._modules
    assert given
    assert all(binary.startswith(b"\x7fELF") for _, binary in given)
    print(f"without NVRTC: {len(given)} of {len(ahead)} cubins for sm_90a (NVRTC {ahead.compiler}) loaded, none was missing")
    return 0


if __name__ == "__main__":
    sys.exit(main())
