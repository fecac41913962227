"""The provider in the simulator, in a process of its own: this one may have met another driver."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the simulator stands in for Linux's driver only")

HEAD = """
import numpy as np, onnx, turnout, turnout_cudasim
turnout_cudasim.install()
from turnout.plugins import providers

def model(text):
    return onnx.parser.parse_model('<ir_version: 10, opset_import: ["" : 20]> ' + text)

def executable(loaded):
    (one,) = loaded._program.executables
    return one

cuda = next(one for one in providers() if one.name == "cuda")
"""


def run(code: str, **environment: str) -> str:
    """What the code prints, with the CUDA provider on the simulator; the simulator may have nothing to report."""
    text = HEAD + textwrap.dedent(code) + "\nassert not turnout_cudasim.reports(), turnout_cudasim.reports()\n"
    given = {**os.environ, "TURNOUT_CUDA": "sim", **environment}
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, env=given, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_a_chain_with_a_softmax_and_a_product() -> None:
    run("""
        loaded = turnout.load(model("g (float[N, 70] x, float[70, 9] w) => (float[N, 9] y)"
            "{ a = Softmax(x) b = MatMul(a, w) c = Sigmoid(b) y = Mul(b, c) }"), device="cuda")
        for rows in (5, 1, 0, 130):
            x, w = np.random.default_rng(rows).standard_normal((rows, 70)).astype("f"), np.ones((70, 9), "f")
            e = np.exp(x - x.max(1, keepdims=True)) if rows else x
            b = (e / e.sum(1, keepdims=True)) @ w
            assert np.allclose(loaded.run(x=x, w=w)["y"], b / (1 + np.exp(-b)), atol=1e-5)
    """)


def test_kernels_that_wait_for_themselves_are_launched_while_the_ones_before_them_run() -> None:
    run("""
        device = cuda.probe()[0]
        body = "a = Cos(x) s = Transpose(a) b = Softmax(s) c = Sin(b) d = Transpose(c) e = Add(d, x) f = Transpose(e) y = Cos(f)"
        loaded = turnout.load(model("g (float[8, 8] x) => (float[8, 8] y) { " + body + " }"), device="cuda")
        x = cuda.to_device(np.random.default_rng(0).standard_normal((8, 8)).astype("f"), device)
        one = executable(loaded)
        out = one.run([x])
        (prepared,) = one._plans.values()
        recorded = prepared.recorded() if prepared.point([x], one._addresses(prepared, {}, out), one.arena) is None else None
        driver = cuda.context(device).driver
        _, _, _, _, count = driver.cuGraphGetEdges(recorded._graph)
        _, _, _, edges, _ = driver.cuGraphGetEdges(recorded._graph, count)
        programmatic = driver.CUgraphDependencyType.CU_GRAPH_DEPENDENCY_TYPE_PROGRAMMATIC.value
        kinds = [edge.type for edge in edges]
        assert programmatic in kinds, kinds
        recorded.launch()
        recorded.close()
    """)


def test_repeated_runs_become_a_graph_that_reads_its_inputs_anew() -> None:
    said = run("""
        device = cuda.probe()[0]
        text = "g (float[8, 8] x) => (float[8, 8] y) { a = Softmax(x) b = MatMul(a, a) c = Softmax(b) d = MatMul(c, a) y = Softmax(d) }"
        graphs = turnout.load(model(text), device="cuda")
        plain = turnout.load(model(text), device="cuda", options={"cuda": {"graphs": False}})
        one, other = executable(graphs), executable(plain)
        x, y = (cuda.to_device(np.zeros((8, 8), "f"), device) for _ in range(2))
        for number in range(4):
            values = np.random.default_rng(number).standard_normal((8, 8)).astype("f")
            cuda.context(device).driver.cuMemcpyHtoD(x.address, values.ctypes.data, values.nbytes)
            (got,) = one.run([x], [y])
            assert got.memory is y.memory
            (wanted,) = other.run([cuda.to_device(values, device)])
            assert np.array_equal(cuda.to_host(got, device), cuda.to_host(wanted, device))
        print(sum(len(prepared._graphs) for prepared in one._plans.values()), sum(len(p._graphs) for p in other._plans.values()))
        graphs.close()
        plain.close()
    """)
    assert said.split() == ["1", "0"]


def test_a_shape_that_follows_from_values_is_waited_for() -> None:
    run("""
        loaded = turnout.load(model("g (float[N] x) => (int64[1, M] i, float[K] y)"
            "{ i = NonZero(x) s = Shape(i) two = Constant<value = int64[1] {1}>() one = Constant<value = int64[1] {2}>()"
            " n = Slice(s, two, one) y = Expand(h, n) h = Constant<value = float[1] {3.0}>() }".replace(
            "y = Expand(h, n) h = Constant<value = float[1] {3.0}>()", "h = Constant<value = float[1] {3.0}>() y = Expand(h, n)")),
            device="cuda")
        for x in ([0, 1, 0, 2, 3], [0, 0], [], [5]):
            found = loaded.run(x=np.array(x, "f"))
            assert found["i"].tolist() == [np.flatnonzero(x).tolist()]
            assert found["y"].tolist() == [3.0] * np.count_nonzero(x)
    """)


def test_explain_says_that_shapes_are_read_on_the_host() -> None:
    said = run("""
        loaded = turnout.load(model("g (float[4, 6] x, int64[2] s) => (float[a, b] y) { y = Reshape(x, s) }"), device="cuda")
        print(loaded.explain().to_dict())
    """)
    assert "read on the host" in said


@pytest.mark.parametrize("mode", ["no-device", "driver-too-old", "driver-mismatch", "init-fails"])
def test_drivers_without_a_usable_device_are_told_apart(mode: str) -> None:
    said = run(
        """
        try:
            cuda.probe()
        except turnout.errors.Unavailable as error:
            print(error.message)
        """,
        TURNOUT_CUDASIM_MODE=mode,
    )
    assert {
        "no-device": "sees no GPU",
        "driver-too-old": "is for CUDA 11.4",
        "driver-mismatch": "different versions",
        "init-fails": "not ready",
    }[mode] in said


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_real_models_agree_with_the_cpu() -> None:
    script = Path(__file__).with_name("real_models.py")
    done = subprocess.run([sys.executable, str(script), "vad_sequence", "magika"], capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]


def test_tensors_stay_on_the_device_from_model_to_model() -> None:
    run("""
        moved = []
        for name in ("upload", "download"):
            plain = getattr(type(cuda.context(cuda.probe()[0])), name)
            def counted(self, *given, plain=plain, name=name):
                moved.append(name)
                return plain(self, *given)
            setattr(type(cuda.context(cuda.probe()[0])), name, counted)
        first = turnout.load(model("g (float[N, 4] x) => (float[N, 4] y, float[N, 4] z) { y = Relu(x) z = Neg(x) }"), device="cuda")
        second = turnout.load(model("g (float[N, 4] a, float[4] b) => (float[N, 4] c) { c = Add(a, b) }"), device="cuda")
        x = np.arange(-4, 4, dtype="f").reshape(2, 4)
        kept = first.run_on_device(x=x)
        assert moved == ["upload"], moved
        y = kept["y"]
        assert isinstance(y, turnout.Tensor) and y.device == "cuda:0" and y.__dlpack_device__() == (2, 0)
        there = second.run_on_device(a=y, b=np.ones(4, "f"))["c"]
        assert moved == ["upload"] * 2, moved
        assert np.array_equal(there.numpy(), np.maximum(x, 0) + 1)
        assert moved == ["upload"] * 2 + ["download"]
        assert np.array_equal(second.run(a=kept["z"], b=np.zeros(4, "f"))["c"], -x)
        assert moved.count("upload") == 3
        try:
            second.run(a=first.run_on_device(x=x[:, :4].reshape(4, 2).T.reshape(1, 8)[:, :4])["y"], b=there)
        except turnout.errors.InvalidInput as error:
            assert "2 dimensions" in str(error) and "'b'" in str(error), error
        else:
            raise AssertionError
    """)


def test_dlpack_out_into_cuda_core_and_back() -> None:
    run("""
        import gc
        from cuda.core import Device
        from cuda.core.utils import StridedMemoryView
        place = cuda.probe()[0]
        context = cuda.context(place)
        Device().set_current()
        stream = Device().create_stream()
        relu = turnout.load(model("g (float[N, 4] x) => (float[N, 4] y) { y = Relu(x) }"), device="cuda")
        x = np.arange(-4, 4, dtype="f").reshape(2, 4)
        y = relu.run_on_device(x=x)["y"]
        address = y._data.address
        for handle in (-1, stream.handle, 1):
            view = StridedMemoryView.from_dlpack(y, stream_ptr=int(handle))
            assert (view.ptr, view.shape, view.is_device_accessible, view.device_id) == (address, (2, 4), True, 0)
            assert view.dtype == np.float32
            del view
        from turnout_cuda.dlpack import _living
        gc.collect()
        assert not _living
        capsule = y.__dlpack__(stream=1)  # one that nobody consumes
        assert len(_living) == 1
        del y
        assert not context.driver.cuMemcpyDtoH(np.empty(8, "f").ctypes.data, address, 32)[0].value
        del capsule
        assert not _living
        for wrong in ({"stream": 0}, {"stream": 1, "dl_device": (1, 0)}):
            try:
                relu.run_on_device(x=x)["y"].__dlpack__(**wrong)
            except BufferError:
                continue
            raise AssertionError(wrong)
        copy = relu.run_on_device(x=x)["y"]
        assert "versioned" in repr(copy.__dlpack__(stream=1, copy=True, max_version=(1, 0)))
    """)


def test_dlpack_in_reads_the_memory_of_others() -> None:
    run("""
        place = cuda.probe()[0]
        context = cuda.context(place)
        double = turnout.load(model("g (float[N, 4] x) => (float[N, 4] y) { y = Add(x, x) }"), device="cuda")

        class Foreign:
            '''A tensor of another library's, which notes what it was asked, and whether it was let go.'''
            def __init__(self, array, strides=None, ordinal=0):
                self.tensor, self.asked, self.strides, self.ordinal = context.upload(array), {}, strides, ordinal
            def __dlpack_device__(self):
                return (2, self.ordinal)
            def __dlpack__(self, **asked):
                self.asked = asked
                capsule = self.tensor.__dlpack__(stream=asked["stream"])
                if self.strides:
                    from turnout.tensor import struct_of
                    inner = struct_of(capsule)
                    inner.strides[0], inner.strides[1] = self.strides
                return capsule
            def get(self):
                return self.tensor.get()

        from turnout_cuda.dlpack import _living
        x = np.arange(8, dtype="f").reshape(2, 4)
        foreign = Foreign(x)
        y = double.run_on_device(x=foreign)["y"]
        assert foreign.asked["stream"] == int(context.stream) and foreign.asked["max_version"] == (1, 1)
        assert np.array_equal(y.numpy(), 2 * x)
        assert not _living
        context.driver.cuMemcpyHtoD(foreign.tensor.address, np.ones(8, "f").ctypes.data, 32)
        assert np.array_equal(double.run(foreign)["y"], 2 * np.ones((2, 4)))
        holes = Foreign(x, strides=(1, 2))
        assert np.array_equal(double.run(x=holes)["y"], 2 * x)  # by way of the host, by its own method
        elsewhere = Foreign(x, ordinal=1)
        assert np.array_equal(double.run(x=elsewhere)["y"], 2 * x)
        assert elsewhere.asked == {}
        with turnout.load(model("g (float[N, 4] x) => (float[N, 4] y) { y = Add(x, x) }"), device="cpu") as on_cpu:
            assert np.array_equal(on_cpu.run(x=foreign)["y"], 2 * np.ones((2, 4)))
            assert isinstance(on_cpu.run_on_device(x=x)["y"], np.ndarray)
    """)


def test_bound_runs_read_tensors_where_they_lie_and_ask_for_them_each_time() -> None:
    run("""
        context = cuda.context(cuda.probe()[0])
        add = turnout.load(model("g (float[2, 4] x, float[4] b) => (float[2, 4] y) { y = Add(x, b) }"), device="cuda")

        class Foreign:
            # another library's tensor, without its first elements
            def __init__(self, array, skipped=0):
                self.tensor, self.asked, self.skipped = context.upload(array), 0, skipped
                self.shape = array[skipped:].shape
            def __dlpack_device__(self):
                return (2, 0)
            def __dlpack__(self, *, stream, **asked):
                from turnout.tensor import struct_of
                self.asked += 1
                capsule = self.tensor.__dlpack__(stream=stream)
                inner = struct_of(capsule)
                inner.data += 4 * self.skipped
                inner.shape[0] -= self.skipped
                return capsule

        x, b = Foreign(np.arange(8, dtype="f").reshape(2, 4)), np.ones(4, "f")
        bound = add.bind(x=x, b=b)
        before = x.asked
        for number in range(3):
            values = np.full((2, 4), number, "f")
            context.driver.cuMemcpyHtoD(x.tensor.address, values.ctypes.data, 32)
            b[:] = 10 * number
            assert np.array_equal(bound.run()["y"], values + 10 * number)
        assert x.asked == before + 3  # so each run comes after what its owner did
        out = np.empty((2, 4), "f")
        assert add.bind(x=x, b=b, outputs={"y": out}).run()["y"] is out
        assert np.array_equal(out, values + 20)
        relu = turnout.load(model("g (float[N] x) => (float[N] y) { y = Relu(x) }"), device="cuda")
        whole = np.arange(-8, 9, dtype="f")
        assert np.array_equal(relu.run(x=Foreign(whole, skipped=1))["y"], np.maximum(whole[1:], 0))  # four bytes off where loads are wide
    """)


def test_runs_from_host_arrays_are_replayed_too() -> None:
    said = run("""
        text = "g (float[8, 8] x) => (float[8, 8] y) { a = Softmax(x) b = MatMul(a, a) c = Softmax(b) d = MatMul(c, a) y = Softmax(d) }"
        loaded = turnout.load(model(text), device="cuda")
        context = cuda.context(cuda.probe()[0])
        counted = {"cuGraphLaunch": 0, "cuLaunchKernel": 0}
        class Counting:
            def __getattr__(self, name):
                if name in counted:
                    counted[name] += 1
                return getattr(plain, name)
        plain, context.driver = context.driver, Counting()
        with turnout.load(model(text), device="cpu") as other:
            for number in range(6):
                x = np.random.default_rng(number).standard_normal((8, 8)).astype("f")
                got = loaded.run(x=x)["y"]
                assert np.allclose(got, other.run(x=x)["y"], atol=1e-6)
                del got
        print(counted["cuGraphLaunch"])
    """)
    assert int(said) >= 4  # the first run is issued, the second at the same addresses recorded


def test_too_little_memory_says_what_was_asked_for_and_what_was_free() -> None:
    said = run(
        """
        loaded = turnout.load(model("g (float[N] x) => (float[N] y) { y = Neg(x) }"), device="cuda")
        try:
            loaded.run(x=np.zeros(5 << 20, "f"))
        except turnout.errors.OutOfMemory as error:
            print(error.message)
        print(loaded.run(x=np.ones(3, "f"))["y"])
        try:
            loaded.run_on_device(x=np.zeros(3 << 20, "f"))
        except turnout.errors.OutOfMemory as error:
            print(error.message)
        """,
        TURNOUT_CUDASIM_MEMORY="16",
    )
    first, after, second = said.splitlines()
    assert "20 MiB were asked for, and" in first
    assert "MiB of 16 MiB are free" in first
    assert after == "[-1. -1. -1.]"
    assert "12 MiB were asked for" in second  # the input was there already: the output's memory was not


def test_a_lost_device_is_said_once_and_for_all() -> None:
    run("""
        from turnout.errors import DeviceLost
        loaded = turnout.load(model("g (float[N] x) => (float[N] y) { y = Neg(x) }"), device="cuda")
        loaded.run(x=np.ones(3, "f"))
        context = cuda.context(cuda.probe()[0])
        class Failing:
            def __getattr__(self, name):
                plain = getattr(driver, name)
                return (lambda *given: (driver.CUresult.CUDA_ERROR_ECC_UNCORRECTABLE,)) if name == "cuEventSynchronize" else plain
        driver, context.driver = context.driver, Failing()
        for _ in range(2):
            try:
                loaded.run(x=np.ones(3, "f"))
            except DeviceLost as error:
                print(error.message)
                assert error.hint
            else:
                raise AssertionError
    """)


def test_products_of_halves_through_wgmma() -> None:
    said = run("""
        import ml_dtypes
        rng = np.random.default_rng(0)
        def kernels(loaded):
            return [step.entry for plan in executable(loaded)._plans.values() for step in plan.segment.steps]
        for kind, m, k, n in ((np.dtype("e"), 200, 136, 72), (np.dtype(ml_dtypes.bfloat16), 130, 264, 264)):
            x, w, c = (rng.standard_normal(shape).astype(kind) for shape in ((m, k), (k, n), (n,)))
            loaded = turnout.load(model(f"g ({kind}[{m},{k}] x, {kind}[{k},{n}] w) => ({kind}[{m},{n}] y)"
                "{ y = MatMul(x, w) }"), device="cuda")
            wanted = x.astype("d") @ w.astype("d")
            bound = 1e-3 if kind == np.dtype("e") else 8e-3
            assert np.abs(loaded.run(x=x, w=w)["y"].astype("d") - wanted).max() < bound * np.abs(wanted).max()
            print(kernels(loaded))
            loaded = turnout.load(model(f"g ({kind}[{m},{k}] x, {kind}[{n},{k}] w, {kind}[{n}] c) => ({kind}[{m},{n}] y)"
                "{ y = Gemm<transB = 1, alpha = 0.5>(x, w, c) }"), device="cuda")
            wanted = wanted / 2 + c.astype("d")
            assert np.abs(loaded.run(x=x, w=w.T.copy(), c=c)["y"].astype("d") - wanted).max() < bound * np.abs(wanted).max()
            print(kernels(loaded))
        x, w = rng.standard_normal((3, 2, 70, 72)).astype("e"), rng.standard_normal((2, 72, 80)).astype("e")
        loaded = turnout.load(model("g (float16[3,2,70,72] x, float16[2,72,80] w) => (float16[3,2,70,80] y)"
            "{ y = MatMul(x, w) }"), device="cuda")
        wanted = x.astype("d") @ w.astype("d")
        assert np.abs(loaded.run(x=x, w=w)["y"].astype("d") - wanted).max() < 1e-3 * np.abs(wanted).max()
        print(kernels(loaded))
    """)
    assert said.count("_wide_") == 5


def test_products_of_halves_whose_k_is_shared() -> None:
    said = run("""
        from turnout_cuda import products
        rng = np.random.default_rng(0)
        for cut in ((128, 4), (256, 2)):
            products._cut = lambda *_: cut
            for m, k, n in ((72, 328, 264), (17, 264, 135)):
                x, w = rng.standard_normal((m, k)).astype("e"), rng.standard_normal((n, k)).astype("e")
                text = f"g (float16[{m},{k}] x, float16[{n},{k}] w) => (float16[{m},{n}] y) {{ y = Gemm<transB = 1>(x, w) }}"
                wanted = x.astype("d") @ w.T.astype("d")
                loaded = turnout.load(model(text), device="cuda")
                assert np.abs(loaded.run(x=x, w=w)["y"].astype("d") - wanted).max() < 1e-3 * np.abs(wanted).max()
                print([step.entry for plan in executable(loaded)._plans.values() for step in plan.segment.steps])
    """)
    assert said.count("_wide_") == 4


def test_products_with_four_bits_in_every_cut() -> None:
    run("""
        import sys
        sys.path.insert(0, "tests/cuda")
        from language_cases import EXPLAINED, _product
        from turnout_cuda.operators import blocks
        rng = np.random.default_rng(0)
        for cut in ((256, 1), (256, 2), (128, 4), (64, 1), (32, 2)):
            blocks._cut = lambda *_: cut
            case = _product(rng, "float16", (1, 40), 132, 600, 4, 32, "packed", bias=True)
            with turnout.load(case.model, device="cuda") as loaded:
                assert np.abs(loaded.run(case.inputs)["y"] - case.wanted["y"]).max() < EXPLAINED["float16"] * np.abs(case.wanted["y"]).max()
                assert "wide_4_bits" in str([step.entry for plan in executable(loaded)._plans.values() for step in plan.segment.steps])
    """)


def test_products_of_halves_in_tiles_of_256_which_a_block_makes_one_after_the_other() -> None:
    said = run("""
        from turnout_cuda import hopper, products
        hopper.MULTIPROCESSORS = products.MULTIPROCESSORS = 1  # of which two tiles of 128 take twice the time
        rng = np.random.default_rng(0)
        for m, k, n in ((136, 328, 400), (64, 64, 200)):
            x, w = rng.standard_normal((m, k)).astype("e"), rng.standard_normal((k, n)).astype("e")
            wanted = x.astype("d") @ w.astype("d")
            for body, right in (("MatMul(x, w)", w), ("Gemm<transB = 1>(x, w)", w.T.copy())):
                a, b = right.shape
                text = f"g (float16[{m},{k}] x, float16[{a},{b}] w) => (float16[{m},{n}] y) {{ y = {body} }}"
                loaded = turnout.load(model(text), device="cuda")
                assert np.abs(loaded.run(x=x, w=right)["y"].astype("d") - wanted).max() < 1e-3 * np.abs(wanted).max()
                (step,) = (step for plan in executable(loaded)._plans.values() for step in plan.segment.steps)
                print(step.entry, step.grid, "#define WIDTH 256" in step.source)
    """)
    assert said.count("_wide_") == said.count("(1, 1, 1) True") == 4


def test_large_arrays_cross_in_pieces_and_are_the_callers_at_once() -> None:
    run("""
        from turnout_cuda.staging import Staging
        context = cuda.context(cuda.probe()[0])
        small = context.staging = Staging(context, 64)
        loaded = turnout.load(model("g (float[N] x) => (float[N] y) { y = Neg(x) }"), device="cuda")
        for size in (0, 1, 15, 16, 17, 32, 33, 100):
            x = np.arange(size, dtype="f")
            there = context.upload(x)
            x[:] = -1
            assert np.array_equal(there.get(), np.arange(size))
            assert np.array_equal(loaded.run(x=np.arange(size, dtype="f"))["y"], -np.arange(size))
        halves = np.arange(70, dtype="e").reshape(7, 10)
        assert np.array_equal(context.upload(halves[:, ::2]).get(), halves[:, ::2])
        assert np.array_equal(context.upload(np.array(3.5)).get(), 3.5)
    """)


def test_rows_of_formulas_are_the_rows_of_their_values() -> None:
    run("""
        rng = np.random.default_rng(1)
        bodies = {
            "Softmax<axis = -1>": "a = Mul(x, x) b = Add(a, r) c = Mul(b, s) y = Softmax<axis = -1>(c)",
            "Softmax<axis = 1>": "a = Mul(x, s) b = Sub(a, x) y = Softmax<axis = 1>(b)",
            "ReduceMax": "a = Mul(x, z) b = Add(a, s) y = ReduceMax<keepdims = 0>(b, i)",
            "ReduceMean": "c = Cast<to = 1>(x) a = Sub(c, z32) y = ReduceMean<keepdims = 1>(a, i)",
            "LogSoftmax": "a = Add(x, z) y = LogSoftmax<axis = 2>(a)",
            "LayerNormalization": "a = Add(x, z) y = LayerNormalization<axis = 2>(a, r, r)",
        }
        for kind, name in (("float", np.float32), ("float16", np.float16)):
            for width in (7, 64, 2048):
                shape = f"{kind}[3,5,{width}]"
                x, z = (rng.standard_normal((3, 5, width)).astype(name) for _ in range(2))
                given = {"x": x, "z": z, "r": rng.standard_normal(width).astype(name), "s": np.array([0.5], name),
                         "z32": z.astype("f"), "i": np.array([1] if width == 7 else [2])}
                for operator, body in bodies.items():
                    names = [one for one in given if one in body.replace("(", " ").replace(")", " ").replace(",", " ").split()]
                    types = {"x": shape, "z": shape, "r": f"{kind}[{width}]", "s": f"{kind}[1]", "i": "int64[1]",
                             "z32": f"float[3,5,{width}]"}
                    inputs = ", ".join(f"{types[one]} {one}" for one in names)
                    text = f"g ({inputs}) => ({'float' if 'Cast' in body else kind}[a, b, c] y) {{ {body} }}"
                    if operator == "ReduceMax":
                        text = text.replace("[a, b, c] y", "[a, b] y")
                    feed = {one: given[one] for one in names}
                    with turnout.load(model(text), device="cuda") as on_cuda, turnout.load(model(text), device="reference") as other:
                        got, wanted = on_cuda.run(feed)["y"], other.run(feed)["y"]
                        (plan,) = executable(on_cuda)._plans.values()
                        assert len(plan.segment.steps) == 1, (operator, width, plan.segment.steps)
                    bound = 2e-5 if name is np.float32 else 1e-2
                    assert got.dtype == wanted.dtype and got.shape == wanted.shape
                    assert np.allclose(got.astype("d"), wanted.astype("d"), rtol=bound, atol=bound), (operator, kind, width)
    """)
