"""cuBLASLt: what is asked of it and when, with a stand-in where no library and no GPU is. tests/cuda/cublas_header.py has the real one."""

import ctypes
import gc
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from turnout_cuda import cublaslt
from turnout_cuda.cublaslt import Layout, Problem

SIM = pytest.mark.skipif(sys.platform != "linux", reason="the simulator stands in for Linux's driver only")

HEAD = """
import numpy as np, onnx, turnout, turnout_cudasim
turnout_cudasim.install()
from turnout.plugins import providers
from cublas_stand_in import StandIn
from turnout_cuda.cublaslt import CublasLt

def model(text):
    return onnx.parser.parse_model('<ir_version: 10, opset_import: ["" : 20]> ' + text)

cuda = next(one for one in providers() if one.name == "cuda")
device = cuda.probe()[0]
context = cuda.context(device)

def use(library):
    context.cublaslt = CublasLt(library)
    return library
"""


def run(code: str) -> str:
    """What the code prints, in the simulator; nothing may be reported."""
    text = HEAD + textwrap.dedent(code) + "\nassert not turnout_cudasim.reports(), turnout_cudasim.reports()\n"
    given = {**os.environ, "TURNOUT_CUDA": "sim", "PYTHONPATH": str(Path(__file__).parent)}
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, env=given, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def _read(memory: np.ndarray, one: Layout, turned: bool) -> np.ndarray:
    """The matrices that the library sees in memory: columns first."""
    places = np.arange(one.count)[:, None, None] * one.stride + np.arange(one.columns)[None, :, None] * one.leading + np.arange(one.rows)
    seen = memory[places].swapaxes(1, 2)
    return seen.swapaxes(1, 2) if turned else seen


SIZES = st.integers(1, 5)


@given(SIZES, SIZES, SIZES, SIZES, st.booleans(), st.booleans(), st.booleans(), st.booleans())
def test_columns_first_is_the_same_product(m: int, n: int, k: int, count: int, ta: bool, tb: bool, one_a: bool, one_b: bool) -> None:
    random = np.random.default_rng(0)
    a = random.integers(-9, 9, (1 if one_a else count, *((k, m) if ta else (m, k))))
    b = random.integers(-9, 9, (1 if one_b else count, *((n, k) if tb else (k, n))))
    strides = (0 if one_a else m * k, 0 if one_b else k * n)
    first, second, third = Problem("float32", m, n, k, (ta, tb), count, strides).layouts()
    product = _read(b.ravel(), first, tb) @ _read(a.ravel(), second, ta)
    wanted = (a.swapaxes(1, 2) if ta else a) @ (b.swapaxes(1, 2) if tb else b)
    y = np.broadcast_to(wanted, (count, m, n)).reshape(-1)
    assert np.array_equal(product, _read(y, third, False))


def test_the_struct_is_as_long_as_the_headers() -> None:
    assert ctypes.sizeof(cublaslt.Heuristic) == 64 + 8 + 4 + 4 + 16
    assert cublaslt.Heuristic.workspace.offset == 64
    assert cublaslt.Heuristic.state.offset == 72


def test_each_way_of_doing_without_has_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "takes PTX" in str(cublaslt.opened(takes_ptx=True))
    monkeypatch.setattr(cublaslt, "located", lambda: None)
    assert cublaslt.opened(takes_ptx=False) == "cuBLASLt is not here: pip install 'turnout-cuda[cublas]'"
    monkeypatch.setattr(cublaslt, "located", lambda: "/nowhere/libcublasLt.so.13")
    assert str(cublaslt.opened(takes_ptx=False)).startswith("cuBLASLt could not be loaded: /nowhere")
    monkeypatch.setattr(cublaslt.ctypes, "CDLL", lambda path: object())
    assert "lacks a function" in str(cublaslt.opened(takes_ptx=False))
    monkeypatch.setenv("TURNOUT_CUBLAS", "0")
    assert "asks for our own kernels" in str(cublaslt.opened(takes_ptx=False))


@SIM
def test_products_go_through_it_and_are_the_same() -> None:
    run("""
        import ml_dtypes
        library = use(StandIn())
        random = np.random.default_rng(0)
        made = {"float": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}
        cases = [((40, 24), (24, 33)), ((3, 40, 24), (24, 33)), ((3, 40, 24), (3, 24, 33)), ((2, 3, 40, 24), (2, 3, 24, 33)),
                 ((40, 24), (3, 24, 33)), ((40, 24), (24,)), ((2, 1, 40, 24), (3, 24, 33))]
        for dtype, kind in made.items():
            for left, right in cases:
                a, b = (random.uniform(-1, 1, shape).astype(kind) for shape in (left, right))
                text = f"g ({dtype}[{','.join(map(str, left))}] a, {dtype}[{','.join(map(str, right))}] b) => ({dtype}[?] y)"
                before = len(library.products)
                got = turnout.load(model(text + "{ y = MatMul(a, b) }"), device="cuda").run(a=a, b=b)["y"]
                wanted = a.astype(np.float64) @ b.astype(np.float64)
                assert got.shape == wanted.shape
                assert np.allclose(got.astype(np.float64), wanted, atol=1e-5 if kind is np.float32 else 0.06), (dtype, left, right)
                if (left, right) != cases[-1]:  # two axes of stacks that do not become one
                    assert len(library.products) == before + 1, (dtype, left, right)
        turned = [(l, r) for l in (0, 1) for r in (0, 1)]
        for (ta, tb), c, scales in zip(turned * 2, ((33,), (40, 33), (1,), (40, 1), (1, 33), (), None, (33,)), ((1, 1), (0.5, 2)) * 4):
            alpha, beta = scales
            a = random.uniform(-1, 1, (24, 40) if ta else (40, 24)).astype("f")
            b = random.uniform(-1, 1, (33, 24) if tb else (24, 33)).astype("f")
            added = None if c is None else random.uniform(-1, 1, c).astype("f")
            inputs = f"float{list(a.shape)} a, float{list(b.shape)} b" + ("" if c is None else f", float{list(c)} c")
            text = f"g ({inputs}) => (float[40,33] y) {{ y = Gemm<transA={ta}, transB={tb}, alpha={float(alpha)}, beta={float(beta)}>"
            text += "(a, b) }" if c is None else "(a, b, c) }"
            before = len(library.products)
            feeds = {"a": a, "b": b} | ({} if c is None else {"c": added})
            got = turnout.load(model(text), device="cuda").run(feeds)["y"]
            wanted = alpha * ((a.T if ta else a) @ (b.T if tb else b)) + (0 if c is None else beta * added)
            assert np.allclose(got, wanted, atol=1e-5), (ta, tb, c)
            assert len(library.products) == before + 1
            assert bool(library.products[-1]["bias"]) == (c in ((33,), (1, 33)) and beta == 1)
    """)


@SIM
def test_it_is_part_of_graphs_and_told_where_inputs_lie() -> None:
    run("""
        library = use(StandIn())
        text = ("g (float[40, 40] x, float[40] c) => (float[40, 40] y)"
                "{ a = Softmax(x) b = MatMul(a, x) d = Gemm(b, x, c) e = Softmax(d) y = MatMul(e, e) }")
        loaded = turnout.load(model(text), device="cuda")
        (one,) = loaded._program.executables
        soft = lambda v: np.exp(v) / np.exp(v).sum(1, keepdims=True)
        values = [cuda.to_device(np.zeros(shape, "f"), device) for shape in ((40, 40), (40,))]
        out = one.run(values)
        for number in range(5):
            x, c = (np.random.default_rng(number).uniform(-1, 1, shape).astype("f") for shape in ((40, 40), (40,)))
            for value, array in zip(values, (x, c)):
                context.driver.cuMemcpyHtoD(value.address, array.ctypes.data, array.nbytes)
            e = soft(soft(x) @ x @ x + c)
            assert np.allclose(cuda.to_host(one.run(values, out)[0], device), e @ e, atol=1e-5)
        (prepared,) = one._plans.values()
        assert len(prepared._graphs) == 1
        assert len(library.products) == 6  # done once, recorded once, and then replayed
        for number in range(8):  # at other addresses each time, and right all the same
            x, c = (np.random.default_rng(number).uniform(-1, 1, shape).astype("f") for shape in ((40, 40), (40,)))
            e = soft(soft(x) @ x @ x + c)
            assert np.allclose(loaded.run(x=x, c=c)["y"], e @ e, atol=1e-5)
        assert len(prepared._graphs) <= 4
        loaded.close()
    """)


@SIM
def test_what_it_cannot_is_done_by_our_own_kernels_and_its_errors_are_ours() -> None:
    said = run("""
        text = "g (float[40, 40] x) => (float[40, 40] y) { y = MatMul(x, x) }"
        x = np.random.default_rng(0).uniform(-1, 1, (40, 40)).astype("f")
        library = use(StandIn(refuses=True))
        assert np.allclose(turnout.load(model(text), device="cuda").run(x=x)["y"], x @ x, atol=1e-5)
        assert "cublasLtMatmul" not in library.calls
        for fails, status in (("cublasLtMatmul", 13), ("cublasLtMatmul", 3), ("cublasLtMatmulAlgoGetHeuristic", 14)):
            use(StandIn(**{fails: status}))
            loaded = turnout.load(model(text), device="cuda")
            print("through cuBLASLt 13.10" in loaded.explain().nodes[0].notes[0])
            try:
                loaded.run(x=x)
            except turnout.errors.RunError as error:
                print(type(error).__name__, error.message)
        try:
            use(StandIn(cublasLtCreate=1))
        except turnout.errors.RunError as error:
            print(error.message)
    """)
    assert said.splitlines() == [
        "True",
        "RunError stand-in says 13 (status 13 of cublasLtMatmul)",
        "True",
        "OutOfMemory cuBLASLt: stand-in says 3 (status 3 of cublasLtMatmul)",
        "True",
        "RunError stand-in says 14 (status 14 of cublasLtMatmulAlgoGetHeuristic)",
        "stand-in says 1 (status 1 of cublasLtCreate)",
    ]


@SIM
def test_what_was_made_is_given_back() -> None:
    from cublas_stand_in import StandIn

    library = StandIn()
    opened = cublaslt.CublasLt(library)
    product = opened.product(Problem("float16", 3, 4, 5))
    assert product is not None
    assert product.workspace == 4096
    assert library.alive == 6  # the handle, the operation, three layouts, the preference
    del product, opened
    gc.collect()
    assert library.alive == 0


@SIM
@pytest.mark.slow
def test_the_kits_cases_of_products_pass_through_it() -> None:
    said = run("""
        from turnout.testing import run, summary
        library = use(StandIn())
        found = summary(run("cuda", ("operators",), only=["MatMul", "Gemm"], share=(0, 4)))
        assert found.ok, found
        print(found.line("cuda"))
        print(len(library.products))
    """)
    assert int(said.splitlines()[-1]) > 10  # of the quarter of the cases
