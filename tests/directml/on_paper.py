"""DirectML without DirectML: the real provider's verdicts and rewrites, by the list of its kernels, computed by the CPU provider.

kernels.json is what onnxruntime-directml 1.24.4 and onnxruntime-windowsml 1.30 say of themselves, alike, by tests/rigs/directml/kernels.py.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import turnout_ort.registry
from turnout.device import Device
from turnout.graph import ir
from turnout.provider import Executable, Rewrite
from turnout_cpu.provider import CpuProvider
from turnout_directml.adapters import EP
from turnout_directml.provider import DirectMLProvider

FOREVER = 2**31 - 1


@functools.cache
def kernels() -> turnout_ort.registry.Registry:
    table = json.loads((Path(__file__).parent / "kernels.json").read_text())
    kinds = [{name: [f"tensor({one})" for one in some] for name, some in kind.items()} for kind in table["types"]]
    return turnout_ort.registry.Registry(
        EP,
        [
            SimpleNamespace(domain=domain, op_name=name, version_range=(first, FOREVER if last < 0 else last), type_constraints=kinds[kind])
            for domain, name, first, last, kind in table["kernels"]
        ],
    )


def installed(monkeypatch: Any) -> None:
    """Makes ONNX Runtime have DirectML's kernels, for as long as a test takes."""
    real = turnout_ort.registry.registry
    monkeypatch.setattr(turnout_ort.registry, "registry", lambda ep: kernels() if ep == EP else real(ep))


class OnPaper(DirectMLProvider):
    """DirectML, as far as planning goes. lowers: False leaves the graph as it is."""

    def __init__(self, *, lowers: bool = True) -> None:
        super().__init__()
        self._lowers = lowers

    def probe(self) -> Sequence[Device]:
        return [Device(self.name)]

    def lower(self, graph: ir.Graph, device: Device) -> Iterable[Rewrite]:
        return super().lower(graph, device) if self._lowers else ()

    def compile(self, graph: ir.GraphView, device: Device, options: Any) -> Executable:
        return CpuProvider().compile(graph, Device("cpu"), None)
