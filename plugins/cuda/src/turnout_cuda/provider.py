"""CudaProvider: NVIDIA GPUs, with the kernels that `turnout_cuda.operators` declares."""

from __future__ import annotations

import contextlib
import importlib.metadata
import threading
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field

from turnout.device import Device, Link
from turnout.errors import Unavailable
from turnout.provider import Executable, No, Provider, Rewrite, Yes

if TYPE_CHECKING:
    import onnx_ir as ir

    from turnout_cuda.context import Context
    from turnout_cuda.driver import Gpu
    from turnout_cuda.element import Types

__all__ = ["CudaProvider", "Options"]

_LINK = Link(latency=10e-6, bandwidth=20e9)
"""A copy of pageable memory over PCIe 4.0 x16, roughly; only the veto reads it."""


class Options(BaseModel):
    """The load options of CUDA: `load(..., options={"cuda": {"graphs": False}})`."""

    model_config = ConfigDict(extra="forbid")

    graphs: bool = Field(default=True, description="record launches as CUDA graphs, and replay them where shapes and addresses repeat")


class CudaProvider(Provider):
    """NVIDIA GPUs of compute capability 7.5 and later."""

    name = "cuda"
    rank = 10
    Options: ClassVar[type[BaseModel] | None] = Options

    def __init__(self) -> None:
        self._gpus: Sequence[Gpu] | None = None
        self._contexts: dict[int, Context] = {}
        self._lock = threading.Lock()

    def probe(self) -> Sequence[Device]:
        from turnout_cuda import driver

        self._gpus = driver.gpus()
        missing = _missing()
        if missing:
            raise Unavailable(f"there is a GPU, but the package {missing} is not installed", hint=f"pip install {missing}")
        return [self._device(index, gpu) for index, gpu in enumerate(self._gpus)]

    def _device(self, index: int, gpu: Gpu) -> Device:
        properties = {
            "compute capability": f"{gpu.capability[0]}.{gpu.capability[1]}",
            "multiprocessors": str(gpu.processors),
            "driver": f"CUDA {gpu.driver // 1000}.{gpu.driver % 1000 // 10}",
            "uuid": gpu.uuid,
        }
        if gpu.mig:
            properties["slice"] = "Multi-Instance GPU"
        return Device(self.name, index, gpu.name, gpu.memory, _LINK, properties=properties)

    def supports(self, node: ir.Node, graph: ir.Graph, device: Device) -> Yes | No:
        from turnout_cuda.kernel import find

        found = find(node)
        if isinstance(found, str):
            return No(found)
        if found.plain:
            return Yes(remark=self._products(node, found.plain, device))
        if found.host:
            return Yes(remark="shapes follow from some of its inputs: those are read on the host")
        if node.op_type in ("Shape", "Size"):
            return Yes(remark="shape arithmetic, on the host")
        return Yes()

    def _products(self, node: ir.Node, plain: Types, device: Device) -> str:
        """How a product is computed on that device."""
        from turnout_cuda.element import element_of

        value = node.inputs[0]
        element = None if value is None or value.type is None else element_of(value.type.dtype)
        if element is None or element.name not in plain:
            return ""
        found = self.context(device).cublaslt
        if isinstance(found, str):
            return f"by a kernel of our own: {found}"
        return f"through cuBLASLt {found.version}, or where that has no algorithm for the shapes, by a kernel of our own"

    def lower(self, graph: ir.Graph, device: Device) -> Iterable[Rewrite]:
        from turnout_cuda.dialect import rewrites

        return rewrites(graph)

    def compile(self, graph: ir.GraphView, device: Device, options: Any) -> Executable:
        from turnout_cuda.executable import CudaExecutable

        chosen = options if isinstance(options, Options) else Options()
        return CudaExecutable(graph, self.context(device), graphs=chosen.graphs)

    def context(self, device: Device) -> Context:
        """The GPU behind a device, made ready at its first use."""
        from turnout_cuda.context import Context

        with self._lock:
            made = self._contexts.get(device.index)
            if made is None:
                if self._gpus is None:
                    self.probe()
                assert self._gpus is not None
                made = self._contexts[device.index] = Context(self._gpus[device.index])
            return made

    def to_device(self, array: Any, device: Device) -> Any:
        import numpy as np

        from turnout_cuda.tensor import DeviceTensor

        if isinstance(array, list):
            return [self.to_device(one, device) for one in array]
        if isinstance(array, DeviceTensor):  # what `from_dlpack` made
            return array
        array = np.asarray(array) if isinstance(array, np.generic) else array
        if not isinstance(array, np.ndarray) or array.dtype == object:
            return array  # None, or strings: they pass through, and no kernel takes them
        return self.context(device).upload(array)

    def from_dlpack(self, value: Any, device: Device) -> Any | None:
        from turnout.tensor import held
        from turnout_cuda.dlpack import ALIGNED, borrow
        from turnout_cuda.tensor import DeviceTensor

        context = self.context(device)
        own = held(value)
        if isinstance(own, DeviceTensor) and own.memory.context is context:
            return DeviceTensor(own.shape, own.dtype, own.memory)
        found = borrow(context, value)
        if found is None:
            return None
        tensor = DeviceTensor(*found)
        return context.copied(tensor) if tensor.address % ALIGNED else tensor  # kernels load sixteen bytes at once

    def to_host(self, value: Any, device: Device) -> Any:
        from turnout_cuda.tensor import DeviceTensor

        if isinstance(value, (list, tuple)):
            return [self.to_host(one, device) for one in value]
        if not isinstance(value, DeviceTensor):
            return value
        return self.context(device).download(value.address, value.shape, value.dtype)

    def versions(self) -> Mapping[str, str]:
        found = {}
        for name in ("cuda-bindings", "nvidia-cuda-nvrtc"):
            with contextlib.suppress(importlib.metadata.PackageNotFoundError):
                found[name] = importlib.metadata.version(name)
        return found

    @contextlib.contextmanager
    def lose(self, device: Device) -> Any:
        """For tests: the device is gone within this context."""
        with self.context(device).losing():
            yield


def _missing() -> str:
    """The first package that is needed and not here."""
    from importlib.util import find_spec

    from turnout_cuda.cubins import PACKAGE

    built_ahead = find_spec(PACKAGE) is not None
    for module, package in (("cuda.bindings", "cuda-bindings"), *([] if built_ahead else [("nvidia", "nvidia-cuda-nvrtc")])):
        try:
            there = find_spec(module) is not None
        except ModuleNotFoundError:
            there = False
        if not there:
            return package
    return ""
