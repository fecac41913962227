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


GROUPED = """<ir_version: 10, opset_import: ["": 20, "com.microsoft": 1]> grouped
    (float[{batch},S,64] q, float[{batch},S,32] k, float[{batch},S,32] v, float[{batch},2,{past},16] pk, float[{batch},2,{past},16] pv,
     int32[{batch}] last, int32 total, float[32,8] cos, float[32,8] sin)
    => (float[{batch},S,64] y, float[{batch},2,{present},16] nk, float[{batch},2,{present},16] nv) {{
        y, nk, nv = com.microsoft.GroupQueryAttention<num_heads=4, kv_num_heads=2, {how}>({qkv}, pk, pv, last, total, cos, sin)
    }}"""


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("how", ["", "do_rotary=1", "softcap=1.5", "local_window_size=3", "do_rotary=1, rotary_interleaved=1, softcap=2.0"])
def test_grouped_attention_is_written_in_what_directml_reads(how: str, packed: bool) -> None:
    """A prompt of six tokens into caches of twelve rows, then one more; what the CPU's kernel gives is right."""
    names = {"how": how or "softcap=0.0, scale=0.3, local_window_size=8", "qkv": "x, , " if packed else "q, k, v"}
    text = GROUPED.format(batch=1, past=12, present=12, **names)
    proto = onnx.parser.parse_model(text.replace("64] q,", "128] x,").replace("float[1,S,32] k, float[1,S,32] v,", "") if packed else text)
    caches = {name: np.zeros((1, 2, 12, 16), np.float32) for name in ("pk", "pv")}
    angles = np.arange(32)[:, None] / 10.0 ** (np.arange(8) / 2)
    tables = {"cos": np.cos(angles).astype(np.float32), "sin": np.sin(angles).astype(np.float32)}
    with opened(proto) as lowered, turnout.load(proto, device="cpu") as plain:
        assert "attention over its cache" in str(lowered.explain())
        for tokens, past in ((6, 0), (1, 6)):
            x = RNG.standard_normal((1, tokens, 128)).astype(np.float32)
            parts = {"x": x} if packed else {"q": x[..., :64], "k": x[..., 64:96], "v": x[..., 96:]}
            feed = {**parts, **caches, **tables, "last": np.array([past + tokens - 1], np.int32), "total": np.int32(past + tokens)}
            got, wanted = ({k: np.array(v) for k, v in model.run(**feed).items()} for model in (lowered, plain))
            np.testing.assert_allclose(got["y"], wanted["y"], rtol=1e-4, atol=1e-5)
            for name in ("nk", "nv"):
                np.testing.assert_allclose(got[name][:, :, : past + tokens], wanted[name][:, :, : past + tokens], rtol=1e-5, atol=1e-6)
            caches = {"pk": wanted["nk"], "pv": wanted["nv"]}


def test_grouped_attention_over_caches_that_grow_for_texts_of_different_lengths() -> None:
    text = GROUPED.format(batch=2, past=4, present=5, how="do_rotary=1, local_window_size=3", qkv="q, k, v")
    feed = {name: RNG.standard_normal((2, 1, 32)).astype(np.float32) for name in ("k", "v")}
    feed |= {name: RNG.standard_normal((2, 2, 4, 16)).astype(np.float32) for name in ("pk", "pv")}
    feed |= {name: RNG.standard_normal((32, 8)).astype(np.float32) for name in ("cos", "sin")}
    feed |= {"q": RNG.standard_normal((2, 1, 64)).astype(np.float32), "last": np.array([2, 4], np.int32), "total": np.array(5, np.int32)}
    proto = onnx.parser.parse_model(text)
    with opened(proto) as lowered, turnout.load(proto, device="cpu") as plain:
        got, wanted = (model.run(**feed) for model in (lowered, plain))
    np.testing.assert_allclose(got["y"], wanted["y"], rtol=1e-4, atol=1e-5)
    for name in ("nk", "nv"):
        assert got[name].shape == wanted[name].shape
        for text_number, rows in ((0, 3), (1, 5)):
            np.testing.assert_allclose(got[name][text_number, :, :rows], wanted[name][text_number, :, :rows], rtol=1e-5, atol=1e-6)
