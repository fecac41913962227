"""The declarations, and that NVRTC builds for every architecture that is promised."""

import ml_dtypes
import numpy as np
import onnx.defs
import pytest
from click.testing import CliRunner

from turnout.errors import CompileError
from turnout.formats import open_source
from turnout_cuda.build import Target, build, make, usage
from turnout_cuda.command import ARCHITECTURES, kernel, occupancy
from turnout_cuda.dry import launches
from turnout_cuda.element import ANY
from turnout_cuda.kernel import declarations
from turnout_cuda.sass import features

OPERATORS = {one.operator for one in declarations() if not one.domain} - {"SimplifiedLayerNormalization"}
"""ONNX's own, and not the one that ONNX Runtime has under ONNX's name."""


def test_there_are_as_many_as_are_promised() -> None:
    assert len(OPERATORS) >= 150


@pytest.mark.parametrize("name", sorted(OPERATORS))
def test_each_is_an_operator_of_onnx(name: str) -> None:
    schema = onnx.defs.get_schema(name)
    for one in declarations():
        if one.operator == name:
            assert one.since <= schema.since_version
            assert all(types <= ANY for types in one.takes)
            assert all(place < len(schema.inputs) for place in one.host)


def _simple(text: str) -> onnx.ModelProto:
    return onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : 20]> {text}')


SOFTMAX = _simple("g (float[8, 64] x) => (float[8, 64] y) { y = Softmax(x) }")
PRODUCT = _simple("g (float16[64, 64] x) => (float16[64, 64] y) { y = MatMul(x, x) }")


@pytest.mark.parametrize("arch", ARCHITECTURES)
@pytest.mark.parametrize("model", [SOFTMAX, PRODUCT], ids=["Softmax", "MatMul"])
def test_every_architecture_is_built_for_without_spills(arch: str, model: onnx.ModelProto) -> None:
    dtype = np.float32 if model is SOFTMAX else np.float16
    for launch in launches(open_source(model).model(), [np.ones([d.dim_value for d in _shape(model)], dtype)]).values():
        took = usage(launch.source, Target(arch))
        assert 0 < took.registers <= 128
        assert took.spilled == 0


def _shape(model: onnx.ModelProto) -> list[onnx.TensorShapeProto.Dimension]:
    return list(model.graph.input[0].type.tensor_type.shape.dim)


@pytest.mark.parametrize(("arch", "tensor"), [("sm_75", False), ("sm_80", True), ("sm_90a", True)])
def test_products_of_halves_go_through_the_tensor_cores(arch: str, tensor: bool, tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TURNOUT_CACHE", str(tmp_path))
    (launch,) = launches(open_source(PRODUCT).model(), [np.ones((64, 64), np.float16)]).values()
    ptx = build(launch.source, Target(arch, ptx=True))
    assert (b"mma.sync.aligned.m16n8k16" in ptx) == tensor


KINDS = {"MatMul": np.float16, "Gemm": ml_dtypes.bfloat16}
WIDE = {
    "MatMul": _simple("g (float16[256, 192] x, float16[192, 128] w) => (float16[256, 128] y) { y = MatMul(x, w) }"),
    "Gemm": _simple("g (bfloat16[256, 192] x, bfloat16[128, 192] w) => (bfloat16[256, 128] y) { y = Gemm<transB = 1>(x, w) }"),
}


@pytest.mark.parametrize("name", WIDE)
def test_products_go_through_wgmma_on_hopper(name: str) -> None:
    inputs = [np.ones([d.dim_value for d in one.type.tensor_type.shape.dim], KINDS[name]) for one in WIDE[name].graph.input]
    model = open_source(WIDE[name]).model()
    (launch,) = launches(model, inputs, arch="sm_90a").values()
    took = usage(launch.source, Target("sm_90a"))
    assert took.registers <= 128  # two warpgroups of accumulators, and no spills
    assert took.spilled == 0
    assert not took.warnings  # that products wait for each other, above all
    became = features(make(launch.source, Target("sm_90a")))
    assert became is not None
    assert became["HGMMA"] == 4
    assert became["LDGSTS"] >= 8
    (other,) = launches(model, inputs, arch="sm_80").values()
    assert features(make(other.source, Target("sm_80")))["HMMA"]  # type: ignore[index]


def test_what_is_built_is_kept(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TURNOUT_CACHE", str(tmp_path))
    source = 'extern "C" __global__ void k(float* x) { x[threadIdx.x] += 1; }'
    first = build(source, Target("sm_90a"))
    assert first.startswith(b"\x7fELF")
    (kept,) = (tmp_path / "cuda").iterdir()
    kept.write_bytes(b"kept")
    assert build(source, Target("sm_90a")) == b"kept"
    assert build(source, Target("sm_80")) != b"kept"
    assert b".target sm_80" in build(source, Target("sm_80", ptx=True))


def test_a_kernel_that_is_wrong_says_where(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TURNOUT_CACHE", str(tmp_path))
    with pytest.raises(CompileError, match='identifier "nothing" is undefined'):
        build('extern "C" __global__ void k() { nothing(); }', Target("sm_90"))


@pytest.mark.slow
def test_the_command_tells_registers() -> None:
    said = CliRunner().invoke(kernel, ["Softmax", "--arch", "sm_90a"])
    assert said.exit_code == 0, said.output
    assert "registers" in said.output
    assert "softmax_" in said.output
    assert CliRunner().invoke(kernel, ["Nonsense"]).exit_code == 1


def test_occupancy_is_bounded_by_registers_and_shared_memory() -> None:
    assert occupancy("sm_90a", 32, 0, 256) == 1.0
    assert occupancy("sm_90a", 128, 0, 256) == 0.25
    assert occupancy("sm_90a", 32, 100 << 10, 256) == 0.25
