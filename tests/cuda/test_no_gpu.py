"""What a machine without a GPU gets: a reason, at once."""

import ctypes
import time

import onnx
import pytest
from onnx import helper

import turnout
from turnout.errors import NoSuchDevice, Unavailable
from turnout_cuda import driver


@pytest.fixture(autouse=True)
def without_a_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TURNOUT_CUDA", raising=False)

    def missing(name: str, *given: object) -> None:
        raise OSError(f"{name}: cannot open shared object file: No such file or directory")

    monkeypatch.setattr(driver.ctypes, "CDLL", missing)


def test_the_reason_is_a_sentence_with_a_hint() -> None:
    with pytest.raises(Unavailable, match=r"no NVIDIA driver here: .* was not found") as raised:
        driver.gpus()
    assert "install its driver" in raised.value.hint


def test_it_is_said_in_a_millisecond() -> None:
    took = []
    for _ in range(20):
        start = time.perf_counter()
        with pytest.raises(Unavailable):
            driver.gpus()
        took.append(time.perf_counter() - start)
    assert min(took) < 1e-3


def test_a_model_that_must_go_there_says_why_not(monkeypatch: pytest.MonkeyPatch) -> None:
    from turnout import plugins, probe

    (cuda,) = (one for one in plugins.providers() if one.name == "cuda")
    monkeypatch.setattr(probe, "_probed", {id(cuda): probe.Probed(cuda, (), _reason())})
    x = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [2])
    y = helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [2])
    model = helper.make_model(helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [x], [y]))
    with pytest.raises(NoSuchDevice, match="was not found"):
        turnout.load(model, device="cuda")


def _reason() -> Unavailable:
    with pytest.raises(Unavailable) as raised:
        driver.gpus()
    return raised.value


class Library:
    """A driver of which each answer is given."""

    def __init__(self, *, init: int = 0, version: int = 13000, count: int = 0, capability: tuple[int, int] = (9, 0)) -> None:
        self._init, self._version, self._count, self._capability = init, version, count, capability

    def cuInit(self, flags: int) -> int:
        return self._init

    def cuDriverGetVersion(self, into: object) -> int:
        return self._give(into, self._version)

    def cuDeviceGetCount(self, into: object) -> int:
        return self._give(into, self._count)

    def cuDeviceGet(self, into: object, ordinal: int) -> int:
        return self._give(into, ordinal)

    def cuDeviceGetName(self, into: ctypes.Array[ctypes.c_char], size: int, device: object) -> int:
        into.value = b"Made GPU"
        return 0

    def cuDeviceTotalMem_v2(self, into: object, device: object) -> int:
        return self._give(into, 2**33)

    def cuDeviceGetUuid_v2(self, into: object, device: object) -> int:
        return 0

    def cuDeviceGetAttribute(self, into: object, number: int, device: object) -> int:
        return self._give(into, {75: self._capability[0], 76: self._capability[1], 16: 132}.get(number, 0))

    def cuGetErrorName(self, code: int, into: object) -> int:
        return self._give(into, f"CUDA_ERROR_{code}".encode())

    def _give(self, into: object, value: object) -> int:
        into._obj.value = value  # type: ignore[attr-defined]
        return 0


@pytest.mark.parametrize(
    ("library", "says"),
    [
        (Library(init=100), "sees no GPU"),
        (Library(init=34), "is a stub"),
        (Library(init=803), "different versions"),
        (Library(init=802), "not ready"),
        (Library(init=999), "CUDA_ERROR_999"),
        (Library(version=12040), "is for CUDA 12.4"),
        (Library(count=0), "sees no GPU"),
        (Library(count=1, capability=(6, 1)), r"older than compute capability 7.5: Made GPU \(compute capability 6.1\)"),
    ],
    ids=["no device", "stub", "mismatch", "not ready", "unknown", "old driver", "none", "old GPU"],
)
def test_each_absence_has_its_own_reason(library: Library, says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver.ctypes, "CDLL", lambda *given: library)
    with pytest.raises(Unavailable, match=says) as raised:
        driver.gpus()
    assert raised.value.hint


def test_hidden_devices_are_named_as_the_cause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr(driver.ctypes, "CDLL", lambda *given: Library(init=100))
    with pytest.raises(Unavailable, match="CUDA_VISIBLE_DEVICES is ''") as raised:
        driver.gpus()
    assert "CUDA_VISIBLE_DEVICES" in raised.value.hint


def test_what_is_there_is_described(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver.ctypes, "CDLL", lambda *given: Library(count=2))
    first, second = driver.gpus()
    assert (first.name, first.memory, first.capability, first.arch) == ("Made GPU", 2**33, (9, 0), "sm_90")
    assert (second.ordinal, second.processors) == (1, 132)
