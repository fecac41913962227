"""The reference provider is ONNX's evaluator, and right where that is wrong."""

import numpy as np
import onnx.parser
import pytest

import turnout


@pytest.mark.parametrize("spatial", [(5,), (4, 5), (2, 3, 4)])
def test_global_max_pool_of_any_rank(spatial):
    shape = ",".join(map(str, (1, 2, *spatial)))
    model = onnx.parser.parse_model(
        f'<ir_version: 10, opset_import: ["" : 21]> g (float[{shape}] x) => (float[] y) {{ y = GlobalMaxPool(x) }}'
    )
    x = np.random.default_rng(0).normal(size=(1, 2, *spatial)).astype(np.float32)
    with turnout.load(model, device="reference") as loaded, turnout.load(model, device="cpu") as other:
        np.testing.assert_array_equal(loaded.run(x=x)["y"], other.run(x=x)["y"])
