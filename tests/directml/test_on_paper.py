"""What DirectML takes of newer models, by the list of its kernels: nothing is lost for its operator set, and the numbers stay."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.version_converter
import pytest
from on_paper import OnPaper, installed

import turnout
from turnout.device import Device
from turnout.errors import NoProvider
from turnout.testing.subject import Subject

sys.path += [str(Path(__file__).parents[1] / folder) for folder in ("gguf", "models")]

RNG = np.random.default_rng(8)


@pytest.fixture(autouse=True)
def paper(monkeypatch: pytest.MonkeyPatch) -> None:
    installed(monkeypatch)


def opened(proto: onnx.ModelProto, *, lowers: bool = True) -> Any:
    return Subject(OnPaper(lowers=lowers), Device("directml")).opened(proto)


def lost(proto: onnx.ModelProto) -> str:
    """What DirectML does not take without the rewrites."""
    with pytest.raises(NoProvider) as caught:
        opened(proto, lowers=False)
    return caught.value.message


def test_a_real_model_at_opset_24_loses_nothing() -> None:
    from packages import model_path

    older = onnx.load(model_path("orientation"))
    newer = onnx.version_converter.convert_version(older, 24)
    assert older.opset_import[0].version == 15
    assert "Conv (32)" in lost(newer)
    x = RNG.standard_normal((1, 3, 224, 224)).astype(np.float32)
    with opened(newer) as lowered, turnout.load(older, device="cpu") as plain:
        assert "115 nodes in 1 partition" in str(lowered.explain())
        np.testing.assert_allclose(*(next(iter(model.run(x=x).values())) for model in (lowered, plain)), rtol=1e-4, atol=1e-5)


NEWEST = """<ir_version: 11, opset_import: ["": 24]> newest (float[1,3,8,8] x, float[4,3,3,3] w, float[4] s) => (float[1,4,16] y)
    <int64[3] shape = {1, 4, 16}> {
        c = Conv<pads=[1,1,1,1]>(x, w)
        p = MaxPool<kernel_shape=[2,2], strides=[2,2]>(c)
        t = Transpose<perm=[0,2,3,1]>(p)
        n = RMSNormalization(t, s)
        f = Swish(n)
        g = Cast<to=10>(f)
        h = Cast<to=1>(g)
        b = Transpose<perm=[0,3,1,2]>(h)
        y = Reshape(b, shape)
    }"""


def test_operators_of_newer_operator_sets_are_lowered_one_by_one() -> None:
    proto = onnx.parser.parse_model(NEWEST)
    assert "directml:0 cannot run 9 of the nodes: Transpose (2), Cast (2), Conv (1), MaxPool (1), RMSNormalization (1)" in lost(proto)
    feed = {"x": RNG.standard_normal((1, 3, 8, 8)).astype(np.float32), "w": RNG.standard_normal((4, 3, 3, 3)).astype(np.float32)}
    feed["s"] = RNG.standard_normal(4).astype(np.float32)
    with opened(proto) as lowered, turnout.load(proto, device=["cpu", "reference"]) as plain:
        np.testing.assert_allclose(lowered.run(**feed)["y"], plain.run(**feed)["y"], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("how", [{}, {"changes": {"attention.sliding_window": 5}}, {"architecture": "qwen3", "head_norms": True}], ids=str)
def test_a_decoder_with_its_caches_runs_whole(how: dict[str, Any]) -> None:
    """Attention, TensorScatter, RotaryEmbedding, RMSNormalization of operator set 24, and weights of 4 bits."""
    import gguf_decoders
    from running import Text

    from turnout_gguf.format import GgufFormat, Options

    file = gguf_decoders.decoder(**{"kind": "Q4_1", **how})

    def source() -> Any:
        return GgufFormat().open(file, accuracy="exact", options=Options(keep=False)).model()

    with Subject(OnPaper(), Device("directml")).opened(source()) as lowered, turnout.load(source(), device="cpu") as plain:
        ids = np.random.default_rng(0).integers(0, gguf_decoders.VOCABULARY, 13)
        texts = [Text(model, capacity=20) for model in (lowered, plain)]
        for start, end in ((0, 7), (7, 8), (8, 11), (11, 13)):
            one, other = (text.feed(ids[start:end]) for text in texts)
            assert np.abs(one - other).max() < 1e-4 * np.abs(other).max()
