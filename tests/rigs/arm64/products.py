"""How far products with a quantised matrix are off on this machine, by accuracy_level, which says what they may round: `run products`."""

from __future__ import annotations

import platform

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

import turnout

K, N, BLOCK = 576, 256, 32


def product(bits: int, level: int, codes: np.ndarray, scales: np.ndarray, x: np.ndarray) -> np.ndarray:
    """MatMulNBits as turnout-gguf writes it."""
    fields = codes.reshape(N, K // BLOCK, -1, 8 // bits).astype(np.uint8) << np.arange(0, 8, bits, dtype=np.uint8)
    weights = [numpy_helper.from_array(np.bitwise_or.reduce(fields, -1), "codes"), numpy_helper.from_array(scales, "scales")]
    if bits == 8:
        weights.append(numpy_helper.from_array(np.full((N, K // BLOCK), 128, np.uint8), "zeros"))
    how = {"K": K, "N": N, "bits": bits, "block_size": BLOCK, "accuracy_level": level, "domain": "com.microsoft"}
    node = helper.make_node("MatMulNBits", ["x", *(one.name for one in weights)], ["y"], **how)
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, "tokens", size]) for name, size in (("x", K), ("y", N))]
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(helper.make_graph([node], "product", ends[:1], ends[1:], weights), opset_imports=opsets, ir_version=10)
    with turnout.load(onnx.load_from_string(model.SerializeToString()), device="cpu") as loaded:
        return loaded.run(x=x)["y"]


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
            off = [float(np.linalg.norm(product(bits, level, codes, scales, x) - wanted) / np.linalg.norm(wanted)) for level in (4, 2, 0)]
            print(f"{tokens} rows, {bits} bits: 8 bits for x {off[0]:.1e}, two halves of 8 {off[1]:.1e}, float32 {off[2]:.1e}")
            failed |= off[0] > 0.05 or off[1] > 2e-4 or off[2] > 1e-5
    return int(failed)


if __name__ == "__main__":
    raise SystemExit(main())
