"""What can be said of DirectML without it: which adapter, which device, and that its dialect computes the same."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterable, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest

from turnout.device import Device
from turnout.errors import CompileError, RunError, Unavailable
from turnout.graph import ir
from turnout.provider import No, Rewrite, Yes
from turnout.reference import ReferenceProvider
from turnout.tensor import Tensor, is_elsewhere
from turnout.testing.subject import Subject
from turnout_directml import resident
from turnout_directml.adapters import Adapter, Lock, adapters, chosen, lock_of
from turnout_directml.dialect import OPSET, rewrites
from turnout_directml.provider import DirectMLProvider
from turnout_directml.quirks import quirk
from turnout_directml.resident import DeviceValue

RNG = np.random.default_rng(8)


def ep_device(number: int, name: str, *, discrete: bool = False, speed: int = 9, kind: tuple[int, int] = (0x10DE, 1)) -> Any:
    about = {"Description": name, "Discrete": str(int(discrete)), "DxgiVideoMemory": "8192 MB", "LUID": "7"}
    about["DxgiHighPerformanceIndex"] = str(speed)
    hardware = SimpleNamespace(metadata=about, vendor_id=kind[0], device_id=kind[1])
    return SimpleNamespace(ep_name="DmlExecutionProvider", ep_options={"device_id": str(number)}, device=hardware)


def two() -> list[Adapter]:
    return adapters([ep_device(0, "Intel UHD", speed=1), ep_device(1, "NVIDIA RTX", discrete=True, speed=0)])


@pytest.mark.skipif(sys.platform == "win32", reason="there may be one")
def test_other_systems_are_refused_at_once() -> None:
    start = time.process_time()
    with pytest.raises(Unavailable, match="DirectML needs Windows 10 1903 or later"):
        DirectMLProvider().probe()
    assert time.process_time() - start < 0.01


def test_the_best_adapter_goes_first_and_not_the_one_of_the_display() -> None:
    first, second = (one.device(index) for index, one in enumerate(two()))
    assert (first.name, first.properties["DXGI adapter"], first.memory) == ("directml:0", "1", 8 << 30)
    assert "DXGI adapter 0, integrated" in second.description


def test_software_adapters_are_refused() -> None:
    with pytest.raises(Unavailable, match="only software adapters"):
        adapters([ep_device(0, "Microsoft Basic Render Driver", kind=(0x1414, 0x8C))])
    with pytest.raises(Unavailable, match="no adapter"):
        adapters([])


@pytest.mark.parametrize(("wish", "number"), [(None, 1), (0, 0), ("intel", 0), ("high_performance", 1), ("minimum_power", 0)])
def test_an_adapter_is_chosen(wish: int | str | None, number: int) -> None:
    assert chosen(wish, two(), Device("directml", 0)).number == number


@pytest.mark.parametrize("wish", [5, "AMD"])
def test_an_adapter_that_is_not_there_is_an_error(wish: int | str) -> None:
    with pytest.raises(CompileError, match="fits 0 of the adapters"):
        chosen(wish, two(), Device("directml", 0))
    with pytest.raises(CompileError, match="leave one out"):
        chosen(1, two(), Device("directml", 1))


def test_an_adapter_has_one_lock() -> None:
    assert lock_of(3) is lock_of(3)
    assert lock_of(3) is not lock_of(4)


def test_values_are_let_go_of_under_the_lock_and_nobody_waits_for_it() -> None:
    """By whoever holds it at the time: a finalizer that waited for a run in another thread could wait for itself."""
    lock, freed, held = Lock(), list[str](), threading.Event()
    values = {name: Freed(name, freed) for name in ("now", "later")}
    lock.drop([values.pop("now")])
    assert freed == ["now"]
    go_on = threading.Event()

    def hold() -> None:
        with lock:
            held.set()
            go_on.wait(10)
            assert freed == ["now"]

    other = threading.Thread(target=hold)
    other.start()
    held.wait(10)
    lock.drop([values.pop("later")])
    go_on.set()
    other.join()
    assert freed == ["now", "later"]


class Freed:
    def __init__(self, name: str, freed: list[str]) -> None:
        self.name, self.freed = name, freed

    def __del__(self) -> None:
        self.freed.append(self.name)


def test_values_stay_on_adapter_0_only() -> None:
    """Where ONNX Runtime's Python interface has no memory, values are arrays on the host, and nothing is copied by turnout."""
    assert {device.properties["DXGI adapter"]: device.on_host for device in (one.device(i) for i, one in enumerate(two()))} == {
        "0": False,
        "1": True,
    }


def there(array: Any, lock: Lock) -> DeviceValue:
    """A value as a run leaves it, but of the CPU's memory."""
    import onnxruntime

    return DeviceValue(onnxruntime.OrtValue.ortvalue_from_numpy(array), array.dtype, lock)


def test_a_value_on_the_adapter_goes_back_as_it_is_and_comes_only_when_it_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resident, "_ready", lambda: None)
    array, provider, device = normal(2, 3), DirectMLProvider(), Device("directml")
    value = there(array, lock_of(7))
    tensor = Tensor(value, dtype=value.dtype, shape=value.shape, device="directml:0")
    assert is_elsewhere(tensor)
    assert provider.to_device(provider.from_dlpack(tensor, device), device) is value
    assert provider.from_dlpack(array, device) is None
    for copy in (tensor.numpy(), np.asarray(value), provider.to_host([value], device)[0]):
        np.testing.assert_array_equal(copy, array)
    with pytest.raises(BufferError, match="DLPack does not know"):
        np.from_dlpack(tensor)
    (outline, same) = resident.outlines([value, array])
    assert (outline.shape, outline.dtype, same is array) == (array.shape, array.dtype, True)


def test_a_value_that_cannot_be_read_any_more_is_an_error_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    def gone() -> None:
        raise RuntimeError("(caller: 00006FFFF7A9135F) Exception(1) tid(24) 887A0005")

    monkeypatch.setattr(resident, "_ready", gone)
    with pytest.raises(RunError, match="887A0005"):
        there(normal(2), lock_of(7)).get()


def test_nothing_is_kept_of_a_load() -> None:
    """A second load took what the first had left, without the adapter's lock, and without a session for each shape."""
    assert DirectMLProvider().keeps(Device("directml")) is None


class Lowered(ReferenceProvider):
    """ONNX's evaluator speaking DirectML's dialect: it refuses newer operators, and those it is told to."""

    name = "lowered"

    def __init__(self, *refused: str) -> None:
        super().__init__()
        self.refused = refused

    def probe(self) -> Sequence[Device]:
        return [Device(self.name)]

    def supports(self, node: ir.Node, graph: ir.Graph, device: Device) -> Yes | No:
        from turnout.operator import operator_of

        operator = operator_of(node)
        if node.op_type in self.refused or (node.domain == "" and operator is not None and operator.since_version > OPSET):
            return No("this test wants it lowered")
        return super().supports(node, graph, device)

    def lower(self, graph: ir.Graph, device: Device) -> Iterable[Rewrite]:
        return rewrites(graph, lambda node: self.supports(node, graph, device))


def same_when_lowered(text: str, *refused: str, **inputs: Any) -> Any:
    """Runs a model as it is (on the CPU) and lowered; gives the lowered one's plan."""
    import turnout

    proto = onnx.parser.parse_model(text)
    provider = Lowered(*refused)
    with turnout.load(proto, device=["cpu", "reference"]) as plain, Subject(provider, Device("lowered")).opened(proto) as lowered:
        for name, wanted in plain.run(**inputs).items():
            np.testing.assert_allclose(lowered.run(**inputs)[name], wanted, rtol=2e-5, atol=2e-5)
        return lowered.explain()


def normal(*shape: int) -> Any:
    return RNG.standard_normal(shape).astype(np.float32)


def test_what_newer_operator_sets_only_renamed_is_taken_as_of_21() -> None:
    same_when_lowered(
        """<ir_version: 11, opset_import: ["": 24]> g (float[2,3,4] x) => (float[4,6] z) <int64[2] shape = {4, 6}> {
            y = Transpose<perm=[2, 0, 1]>(x)
            h = Cast<to=1>(y)
            z = Reshape(h, shape)
        }""",
        x=normal(2, 3, 4),
    )


@pytest.mark.parametrize("attributes", ["is_causal=1", "softcap=2.0", "scale=0.3"])
def test_attention_by_its_definition(attributes: str) -> None:
    same_when_lowered(
        f"""<ir_version: 11, opset_import: ["": 23]>
        g (float[2,4,5,8] q, float[2,2,5,8] k, float[2,2,5,8] v) => (float[2,4,5,8] y) {{ y = Attention<{attributes}>(q, k, v) }}""",
        q=normal(2, 4, 5, 8),
        k=normal(2, 2, 5, 8),
        v=normal(2, 2, 5, 8),
    )


def test_rms_normalization_by_its_definition() -> None:
    same_when_lowered(
        """<ir_version: 11, opset_import: ["": 23]>
        g (float[2,5,8] x, float[8] s) => (float[2,5,8] y) { y = RMSNormalization(x, s) }""",
        x=normal(2, 5, 8),
        s=normal(8),
    )


def test_rms_normalization_of_halves_is_computed_in_float32() -> None:
    """DirectML's own kernel squares in halves: a mean square above 65504 gave another number (in the rig 11.7 for 8), or none."""
    from turnout.formats import open_source

    proto = onnx.parser.parse_model(
        """<ir_version: 11, opset_import: ["": 23]>
        g (float16[1,2,64] x, float16[64] s) => (float16[1,2,64] y) { y = RMSNormalization(x, s) }"""
    )
    graph = open_source(proto).model().graph
    (found,) = rewrites(graph, lambda node: No("newer") if node.op_type == "RMSNormalization" else Yes())
    assert [node.op_type for node in found.replacement] == ["Cast", "Cast", "SimplifiedLayerNormalization", "Cast"]


@pytest.mark.parametrize("mode", ["linear", "circular"])
def test_tensor_scatter_as_scatter_elements(mode: str) -> None:
    import turnout

    proto = onnx.parser.parse_model(
        f"""<ir_version: 11, opset_import: ["": 24]>
        g (float[2,2,6,4] c, float[2,2,3,4] u, int64[2] at) => (float[2,2,6,4] y) {{ y = TensorScatter<mode="{mode}">(c, u, at) }}"""
    )
    feed = {"c": normal(2, 2, 6, 4), "u": normal(2, 2, 3, 4), "at": np.array([1, 3 if mode == "linear" else 5])}
    with turnout.load(proto, device="reference") as plain, Subject(Lowered(), Device("lowered")).opened(proto) as lowered:
        np.testing.assert_array_equal(lowered.run(**feed)["y"], plain.run(**feed)["y"])


@pytest.mark.parametrize("bits", [4, 8])
def test_rows_of_blocks_are_gathered_and_computed(bits: int) -> None:
    import turnout

    width = 64 * bits // 8
    proto = onnx.parser.parse_model(
        f"""<ir_version: 10, opset_import: ["": 21, "com.microsoft": 1]> g
        (uint8[9,{width}] w, int64[2,3] i, float[9,2] s) => (float[2,3,64] y) {{
            y = com.microsoft.GatherBlockQuantized<bits={bits}, block_size=32, gather_axis=0, quantize_axis=1>(w, i, s)
        }}"""
    )
    feed = {"w": RNG.integers(0, 256, (9, width), np.uint8), "i": RNG.integers(0, 9, (2, 3)), "s": normal(9, 2)}
    with turnout.load(proto, device="cpu") as plain:
        wanted = plain.run(**feed)["y"]
    with Subject(Lowered("GatherBlockQuantized"), Device("lowered")).opened(proto) as lowered:
        np.testing.assert_allclose(lowered.run(**feed)["y"], wanted, rtol=1e-6)


def test_what_directml_would_compute_wrongly_without_a_word_is_refused() -> None:
    q = ir.Value(name="q", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape([1, 2, 8]))
    for attribute in (ir.AttrInt64("do_rotary", 1), ir.AttrFloat32("softcap", 2.0), ir.AttrInt64("local_window_size", 4)):
        node = ir.Node("com.microsoft", "GroupQueryAttention", [q, q, q], [attribute], version=1)
        assert "does not look at" in str(quirk(node))
    assert quirk(ir.Node("com.microsoft", "GroupQueryAttention", [q, q, q], [], version=1)) is None


def test_installed_providers_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    from turnout_ort import installed
    from turnout_ort.census import Census

    def distribution(name: str, *files: str) -> Any:
        return SimpleNamespace(metadata={"Name": name}, files=files)

    there = [
        distribution("onnxruntime_ep_thing", "onnxruntime_ep_thing/__init__.py", "onnxruntime_ep_thing/libthing.so"),
        distribution("onnxruntime-gpu", "onnxruntime/__init__.py", "onnxruntime/capi/libonnxruntime_providers_shared.so"),
        distribution("onnxruntime-genai", "onnxruntime_genai/__init__.py"),
        distribution("numpy", "numpy/__init__.py"),
    ]
    monkeypatch.setattr(installed.importlib.metadata, "distributions", lambda: there)
    built_in = ("CUDAExecutionProvider", "DmlExecutionProvider", "AzureExecutionProvider", "CPUExecutionProvider")
    monkeypatch.setattr(installed, "census", lambda: Census(built_in))
    assert [one.name for one in installed.installed()] == ["ort-cuda", "ort-thing"]
