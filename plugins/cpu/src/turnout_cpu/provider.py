"""CpuProvider: ONNX Runtime's CPU execution provider."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

from turnout.device import Device
from turnout_cpu.threads import usable_cores
from turnout_ort.provider import OrtProvider

if TYPE_CHECKING:
    import onnx_ir as ir

    from turnout.provider import Rewrite

__all__ = ["CpuProvider", "Options"]

Level = Literal["all", "extended", "basic", "none"]

SPIN_MICROSECONDS = "20"
_MOST_PIECES = 4  # each session has threads of its own

_LEVELS = {
    "all": "ORT_ENABLE_ALL",
    "extended": "ORT_ENABLE_EXTENDED",
    "basic": "ORT_ENABLE_BASIC",
    "none": "ORT_DISABLE_ALL",
}


class Options(BaseModel):
    """The load options of the CPU: `load(..., options={"cpu": {"threads": 2}})`."""

    model_config = ConfigDict(extra="forbid")

    threads: int | None = Field(
        default=None, ge=1, description="threads that one operator is spread over; as many as there are usable cores where not given"
    )
    spinning: bool = Field(default=True, description="idle threads spin for a moment: quicker runs, more processor time")
    graph_optimization: Level = Field(default="all", description="how far ONNX Runtime rewrites the graph")


class CpuProvider(OrtProvider):
    """The machine's processor, through ONNX Runtime."""

    name = "cpu"
    rank = 90
    ep = "CPUExecutionProvider"
    Options: ClassVar[type[BaseModel] | None] = Options

    def probe(self) -> Sequence[Device]:
        self.require()
        return [Device(self.name, description=_brand(), memory=_memory())]

    def lower(self, graph: ir.Graph, device: Device) -> Iterable[Rewrite]:
        from turnout_cpu.dialect import rewrites

        return rewrites(graph)

    def at_once(self) -> int:
        return min(usable_cores() or os.cpu_count() or 1, _MOST_PIECES)

    def configure(self, settings: Any, device: Device, options: BaseModel | None) -> None:
        from turnout_ort.runtime import onnxruntime

        chosen = options if isinstance(options, Options) else Options()
        settings.execution_mode = onnxruntime().ExecutionMode.ORT_SEQUENTIAL
        settings.inter_op_num_threads = 1
        settings.intra_op_num_threads = chosen.threads or usable_cores()
        level = _LEVELS[chosen.graph_optimization]
        settings.graph_optimization_level = getattr(onnxruntime().GraphOptimizationLevel, level)
        settings.add_session_config_entry("session.intra_op.allow_spinning", str(int(chosen.spinning)))
        # tests/benchmarks/spinning.py: as fast as ONNX Runtime's 1000 on an idle machine, and 1.4 times as fast beside a busy process
        settings.add_session_config_entry("session.intra_op.spin_duration_us", SPIN_MICROSECONDS)


def _brand() -> str:
    """What the processor calls itself."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    found = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(found, "") or platform.processor() or platform.machine()


def _memory() -> int | None:
    """Bytes of memory in the machine, where the system has a standard way to tell."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None
