"""Kernels built ahead of time: a process without NVRTC runs from them, and says so where one is missing."""

import subprocess
import sys
import textwrap
import zipfile
from pathlib import Path

import numpy as np
import onnx
import pytest

from turnout.formats import open_source
from turnout_cuda import ahead, build, cubins
from turnout_cuda.build import Target, key_of
from turnout_cuda.dry import launches

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the simulator stands in for Linux's driver only")

HEAD = """
import os, sys
os.environ["TURNOUT_CUDA"] = "sim"
sys.modules["cuda.bindings.nvrtc"] = None  # importing it fails
import numpy as np, onnx, turnout, turnout_cudasim
from turnout_cuda import build

def load(text):
    proto = onnx.parser.parse_model('<ir_version: 10, opset_import: ["" : 20]> g ' + text)
    return turnout.load(proto, device="cuda")
"""
CHAIN = "(float[4, 8] x, float[8] z) => (float[4, 8] y) { a = Mul(x, z) b = Sigmoid(a) y = Mul(b, a) }"


def kernels() -> dict[str, str]:
    """Those of a product and a sigmoid, each by itself."""
    found: dict[str, str] = {}
    for text in (
        "(float[4, 8] x, float[8] z) => (float[4, 8] y) { y = Mul(x, z) }",
        "(float[9] x, float[9] z) => (float[9] y) { y = Mul(x, z) }",
    ):
        found |= _of(text)
    return found | _of("(float[9] x) => (float[9] y) { y = Sigmoid(x) }")


def _of(text: str) -> dict[str, str]:
    ((model, inputs),) = ahead.given([onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : 20]> g {text}')])
    return ahead.sources(model, inputs)


def archives(folder: Path, targets: list[Target]) -> Path:
    """A package of archives with two operators, as the wheel has all; gives the folder for sys.path."""
    package = folder / cubins.PACKAGE
    package.mkdir()
    (package / "__init__.py").touch()
    for target in targets:
        ahead.write(package, [target], kernels(), processes=1)
    return folder


def without_nvrtc(path: Path, code: str) -> str:
    text = HEAD + textwrap.dedent(code)
    environment = {"PYTHONPATH": str(path), "TURNOUT_CACHE": str(path / "cache"), "PATH": "/usr/bin:/bin", "HOME": str(path)}
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, env=environment, timeout=200, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def there(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return archives(tmp_path_factory.mktemp("ahead"), [Target("sm_90a", ptx=True), Target("sm_90a")])


def test_a_chain_runs_unfused_and_right(there: Path) -> None:
    said = without_nvrtc(
        there,
        f"""
        turnout_cudasim.install()
        assert not build.compiles()
        x = np.linspace(-2, 2, 32, dtype="f").reshape(4, 8)
        with load("{CHAIN}") as model:
            y = model.run(x=x, z=x[1])["y"]
            (prepared,) = model._program.executables[0]._plans.values()
            print(len(prepared.segment.steps))
        a = x * x[1]
        assert np.allclose(y, a / (1 + np.exp(-a)), atol=1e-6)
        assert not turnout_cudasim.reports()
        """,
    )
    assert said.split() == ["3"]  # a launch for each node: the fused kernel could not be known


def test_cubins_are_what_a_real_device_is_given(there: Path) -> None:
    said = without_nvrtc(
        there,
        f"""
        turnout_cudasim.install("noop")
        build.target = lambda gpu: build.Target("sm_90a")
        load("{CHAIN}").run(x=np.zeros((4, 8), "f"), z=np.zeros(8, "f"))
        from turnout.plugins import providers
        (cuda,) = (one for one in providers() if one.name == "cuda")
        modules = cuda.context(cuda.probe()[0])._modules
        print(len(modules), all(binary.startswith(b"\\x7fELF") for _, binary in modules))
        """,
    )
    assert said.split() == ["3", "True"]
    assert not (there / "cache" / "cuda").exists()


def test_what_is_not_among_them_is_said(there: Path) -> None:
    said = without_nvrtc(
        there,
        """
        turnout_cudasim.install()
        try:
            load("(float[4, 8] x) => (float[4, 8] y) { y = Softmax(x) }").run(x=np.zeros((4, 8), "f"))
        except turnout.errors.RunError as error:
            print(error.message, error.hint)
        """,
    )
    assert "not among the" in said
    assert "pip install nvidia-cuda-nvrtc" in said


def test_the_archive_comes_before_the_compiler(there: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.syspath_prepend(str(there))
    monkeypatch.setenv("TURNOUT_CACHE", str(tmp_path))
    (kept,) = {cubins.archive(Target("sm_90a"))}
    assert kept is not None
    source = next(iter(kernels().values()))
    found = build.build(source, Target("sm_90a"))
    assert found == kept.get(key_of(source, Target("sm_90a"), build.compiler_version())) == build.make(source, Target("sm_90a"))
    assert list(tmp_path.iterdir()) == []
    assert cubins.archive(Target("sm_80")) is None


def test_gpus_of_one_generation_share_their_cubins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = archives(tmp_path, [])
    for arch in ("sm_75", "sm_80", "sm_90a", "sm_100", "sm_120"):
        with zipfile.ZipFile(folder / cubins.PACKAGE / f"{arch}.zip", "w") as file:
            file.comment = b"13.5"
    monkeypatch.syspath_prepend(str(folder))
    taken = {
        arch: getattr(cubins.archive(Target(arch)), "arch", None) for arch in ("sm_75", "sm_86", "sm_89", "sm_90a", "sm_103", "sm_121")
    }
    assert taken == {"sm_75": "sm_75", "sm_86": "sm_80", "sm_89": "sm_80", "sm_90a": "sm_90a", "sm_103": "sm_100", "sm_121": "sm_120"}
    assert cubins.archive(Target("sm_110")) is None


def test_typical_models_are_models_that_run() -> None:
    for operator in ("Add", "Softmax", "LayerNormalization", "MatMul", "GlobalAveragePool", "BatchNormalization", "HardSigmoid"):
        made = list(ahead._typical(frozenset([operator])))
        assert made
        for model, inputs in made[:3]:
            assert ahead.sources(model, inputs)


def test_without_nvrtc_rows_of_any_length_are_one_kernel() -> None:
    """With it they are held in registers, as many as the length asks for."""

    def entries(fuses: bool) -> set[str]:
        found: set[str] = set()
        for width in (64, 96, 512):
            text = f'<ir_version: 10, opset_import: ["" : 20]> g (float[3,{width}] x) => (float[3,{width}] y) {{ y = Softmax(x) }}'
            model = open_source(onnx.parser.parse_model(text)).model()
            found |= set(launches(model, [np.ones((3, width), np.float32)], fuses=fuses))
        return found

    assert len(entries(fuses=False)) == 1
    assert len(entries(fuses=True)) == 3
