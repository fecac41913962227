"""The declarations, and that NVRTC builds for every architecture that is promised."""

import ml_dtypes
import numpy as np
import onnx.defs
import pytest
from click.testing import CliRunner

from turnout.errors import CompileError
from turnout.formats import open_source
from turnout_cuda.array import Launch
from turnout_cuda.build import Target, build, make, usage
from turnout_cuda.command import ARCHITECTURES, kernel, moved
from turnout_cuda.dry import launches
from turnout_cuda.element import ANY
from turnout_cuda.kernel import declarations
from turnout_cuda.roofline import Launched, arithmetic, occupancy, predicted
from turnout_cuda.sass import features, instructions

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
    assert took.registers <= 168  # three warpgroups fit, and take from each other
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


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("a + b", 1),
        ("-x", 0),
        ("x / (W(1) + fabs(x))", 3),
        ("x < 0 ? alpha * expm1(x) : x", 4),
        ("a += (S)x * x;", 2),
        ("const float t0 = up(down<f16>(a0 * a1));", 1),
    ],
)
def test_operations_are_counted(text: str, count: int) -> None:
    assert arithmetic(text) == count


def test_bytes_and_operations_of_kernels_are_those_of_the_hand() -> None:
    def only(model: onnx.ModelProto, *shapes: tuple[int, ...], arch: str = "sm_80", dtype: type = np.float32) -> Launch:
        (launch,) = launches(open_source(model).model(), [np.ones(shape, dtype) for shape in shapes], arch=arch).values()
        return launch

    one = only(_simple("g (float[512, 256] x) => (float[512, 256] y) { y = Softsign(x) }"), (512, 256))
    assert (moved(one), one.operations, one.grid[0]) == (2 * 4 * 512 * 256, 3 * 512 * 256, 512 * 256 // (256 * 4))
    sums = "{ a = Constant<value_ints = [1]>() y = ReduceSumSquare<keepdims = 0>(x, a) }"
    row = only(_simple(f"g (float[512, 256] x) => (float[512] y) {sums}"), (512, 256))
    assert (moved(row), row.operations) == (4 * (512 * 256 + 512), 2 * 512 * 256)
    wide = only(WIDE["MatMul"], (256, 192), (192, 128), arch="sm_90a", dtype=np.float16)
    assert (moved(wide), wide.operations) == (2 * (256 * 192 + 192 * 128 + 256 * 128), 2 * 256 * 192 * 128)


def test_the_prediction_is_that_of_the_hand() -> None:
    # 8 MiB through an A100: 4.114 us at 2.039 TB/s, and 1024 blocks of 256 threads have enough under way
    many = predicted("sm_80", Launched(1 << 23, 3 << 20, False, 16, 1024, 256, 32, 0))
    assert many is not None
    assert many.bound == "bandwidth"
    assert many.ceiling == pytest.approx(4.114e-6, rel=1e-3)
    assert many.share == 1.0
    # 54 blocks with loads of 16 bytes have 221,184 bytes under way, where 600 ns of that bandwidth are 1,223,400
    few = predicted("sm_80", Launched(1 << 23, 3 << 20, False, 16, 54, 256, 32, 0))
    assert few is not None
    assert few.share == pytest.approx(0.1808, rel=1e-3)
    # 8192^3 through wgmma on an H200: 1111.7 us at 989 TFLOP/s; 4096 blocks on 132 multiprocessors are 31 rounds and a bit, paid as 32
    product = predicted("sm_90a", Launched(3 * 2 * 8192**2, 2 * 8192**3, True, 16, 4096, 256, 121, 132096))
    assert product is not None
    assert product.bound == "arithmetic"
    assert product.ceiling == pytest.approx(1111.7e-6, rel=1e-3)
    assert product.share == pytest.approx(4096 / (32 * 132), rel=1e-6)
    assert predicted("sm_75", Launched(1, 1, True, 16, 1, 256, 32, 65 << 10)) is None  # no multiprocessor holds such a block


def test_the_command_takes_a_graph_at_its_shapes() -> None:
    text = "g (float[2048, 4096] x) => (float[2048, 4096] y) { y = Relu(x) }"
    said = CliRunner().invoke(kernel, ["Relu", "--arch", "sm_80", "--graph", text])
    assert said.exit_code == 0, said.output
    assert "8,192 blocks of 256 threads, 67,108,864 bytes read and written" in said.output
    assert "A100 80 GB: 32.913 us at its ceiling, which is bandwidth" in said.output
    assert CliRunner().invoke(kernel, ["Relu", "--graph", "nonsense"]).exit_code == 1


@pytest.mark.parametrize("text", ["y = Concat<axis = 0>(x, x)", "a = Cos(x) y = Add(a, x)"])
def test_kernels_on_hopper_wait_before_they_touch_memory(text: str) -> None:
    """The compiler may move loads of constant memory in front of the wait; then a graph would read what an earlier kernel still writes."""
    model = _simple(f"g (float16[64] x) => (float16[N] y) {{ {text} }}")
    for step in launches(open_source(model).model(), [np.ones(64, np.float16)], arch="sm_90a").values():
        words = instructions(make(step.source, Target("sm_90a")))
        if words is None:
            pytest.skip("no nvdisasm")
        memory = [one.split(".")[0] for one in words if one.split(".")[0] in ("LDG", "STG", "LD", "ST", "ACQBULK")]
        assert memory[0] == "ACQBULK"
        assert len(memory) > 2
