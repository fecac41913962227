"""DirectMLProvider: ONNX Runtime's DirectML execution provider."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

from turnout.device import Device
from turnout.errors import Unavailable
from turnout.provider import Executable, No, Rewrite, Yes
from turnout_directml.adapters import EP, RESIDENT, Adapter, adapters, chosen, lock_of
from turnout_ort.provider import OrtProvider

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["DirectMLOptions", "DirectMLProvider"]

_WINDOWS_10_1903 = 18362  # the first build with DirectML
_HINT = "pip install --force-reinstall onnxruntime-directml, after uninstalling every other onnxruntime wheel"


class DirectMLOptions(BaseModel):
    """The load options of DirectML: `load(..., options={"directml": {"adapter": "minimum_power"}})`."""

    model_config = ConfigDict(extra="forbid")

    adapter: int | Literal["high_performance", "minimum_power"] | str | None = Field(
        default=None, description="instead of the best: a DXGI number, a part of its name, high_performance or minimum_power"
    )
    metacommands: bool = Field(default=True, description="let the driver use its own kernels for convolutions, products ...")
    graph_capture: bool = Field(default=False, description="record the commands of a run once and replay them; DXGI adapter 0 only")
    shapes: int = Field(default=8, ge=1, description="sessions kept, one for each shape of the inputs that was run")


class DirectMLProvider(OrtProvider):
    """The machine's graphics adapters, through Direct3D 12."""

    name = "directml"
    rank = 30
    ep = EP
    finite = "Direct3D's shaders leave open what NaN, infinities and the ends of a type's range give"
    hint = _HINT
    Options: ClassVar[type[BaseModel] | None] = DirectMLOptions

    def __init__(self) -> None:
        super().__init__()
        self._adapters: list[Adapter] = []

    def probe(self) -> Sequence[Device]:
        if sys.platform != "win32" or sys.getwindowsversion().platform_version[2] < _WINDOWS_10_1903:
            raise Unavailable("DirectML needs Windows 10 1903 or later")
        from turnout_ort.runtime import onnxruntime

        self.require()
        self._adapters = adapters(onnxruntime().get_ep_devices())
        return [adapter.device(index) for index, adapter in enumerate(self._adapters)]

    def supports(self, node: ir.Node, graph: ir.Graph, device: Device) -> Yes | No:
        from turnout_directml.dialect import folds
        from turnout_directml.quirks import quirk
        from turnout_ort.registry import registry

        verdict = super().supports(node, graph, device)
        if verdict and (wrong := quirk(node)) is not None:
            verdict = wrong
        if not verdict and folds(node) and registry("CPUExecutionProvider").verdict(node):
            return Yes(remark="computed when the session is made, from shapes")
        return verdict

    def lower(self, graph: ir.Graph, device: Device) -> Iterable[Rewrite]:
        from turnout_directml.dialect import rewrites

        return rewrites(graph, lambda node: self.supports(node, graph, device))

    def compile(self, graph: ir.GraphView, device: Device, options: BaseModel | None) -> Executable:
        from turnout_directml.session import open_graph

        settings = options if isinstance(options, DirectMLOptions) else DirectMLOptions()
        adapter = chosen(settings.adapter, self._adapters, device)
        return open_graph(
            graph,
            lambda strict, capture: self._settings(adapter, settings, strict=strict, capture=capture),
            lock_of(adapter.number),
            shapes=settings.shapes,
            resident=adapter.number == RESIDENT,
            capture=settings.graph_capture and adapter.number == RESIDENT,
        )

    def keeps(self, device: Device) -> str | None:
        """Nothing: what ONNX Runtime reopens would have neither the adapter's lock nor a session for each shape."""
        return None

    def to_device(self, array: Any, device: Device) -> Any:
        """As it is: ONNX Runtime brings arrays over when it is given them for a run. Only a run's outputs are values of the adapter."""
        return array

    def from_dlpack(self, value: Any, device: Device) -> Any | None:
        """What `run_on_device` gave, as it was; nobody else has a tensor that lies there."""
        from turnout.tensor import held
        from turnout_directml.resident import DeviceValue

        own = held(value)
        return own if isinstance(own, DeviceValue) else None

    def to_host(self, value: Any, device: Device) -> Any:
        from turnout_directml.resident import fetched

        return fetched(value)

    def _settings(self, adapter: Adapter, options: DirectMLOptions, *, strict: bool, capture: bool) -> Any:
        """New SessionOptions for an adapter. strict: ONNX Runtime may move no node to its CPU provider. capture: commands are recorded."""
        from turnout_ort.runtime import onnxruntime

        settings = onnxruntime().SessionOptions()
        settings.log_severity_level = 4  # its errors come as exceptions; it would print them as well
        settings.enable_mem_pattern = False  # DirectML has neither memory patterns nor parallel execution
        settings.execution_mode = onnxruntime().ExecutionMode.ORT_SEQUENTIAL
        settings.intra_op_num_threads = settings.inter_op_num_threads = 1
        settings.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
        if strict:
            settings.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
        if capture:
            settings.add_session_config_entry("ep.dml.enable_graph_capture", "1")
        given = {"device_id": str(adapter.number), "disable_metacommands": str(not options.metacommands)}
        settings.add_provider(EP, given)
        return settings
