"""OrtProvider: one execution provider of ONNX Runtime as a turnout provider; a plugin gives it a name and devices."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from turnout.device import Device
from turnout.errors import Unavailable
from turnout.provider import Executable, No, Provider, Yes

if TYPE_CHECKING:
    import onnx_ir as ir
    from pydantic import BaseModel

__all__ = ["OrtProvider"]

_CPU = "CPUExecutionProvider"


class OrtProvider(Provider):
    """Runs graphs on the execution provider `ep`, and never on another.

    A subclass gives `name`, `rank`, `ep` and, usually, `probe`; in `configure` its options become session options.
    """

    ep: ClassVar[str] = _CPU
    """The execution provider, by ONNX Runtime's name for it."""
    hint: ClassVar[str] = ""
    """What to do where the installed ONNX Runtime was built without it."""

    def __init__(self) -> None:
        self._trials: dict[str, Yes | No] = {}

    def probe(self) -> Sequence[Device]:
        self.require()
        return [Device(self.name, description=f"ONNX Runtime, {self.ep}")]

    def require(self) -> None:
        """Raises Unavailable where no ONNX Runtime is installed, or one without the execution provider."""
        from turnout_ort.runtime import onnxruntime

        built = onnxruntime().get_available_providers()
        if self.ep not in built:
            version = onnxruntime().__version__
            raise Unavailable(f"ONNX Runtime {version} here has no {self.ep}, only {', '.join(built)}", hint=self.hint)

    def supports(self, node: ir.Node, graph: ir.Graph, device: Device) -> Yes | No:
        from turnout_ort.quirks import quirk
        from turnout_ort.registry import registry

        kernels = registry(self.ep)
        verdict = kernels.verdict(node) if kernels else self._try(node, graph, device)
        wrong = quirk(node) if verdict and self.ep == _CPU else None
        return verdict if wrong is None else wrong

    def _try(self, node: ir.Node, graph: ir.Graph, device: Device) -> Yes | No:
        """The verdict of a session of this one node: a provider that compiles registers no kernels."""
        from turnout_ort.build import assigned, signature
        from turnout_ort.failures import sentence

        key = f"{device} {signature(node)}"
        if key not in self._trials:
            opsets = {**graph.opset_imports, node.domain: node.version or 1}
            try:
                placed = assigned(node, opsets, lambda: self.session_options(device, None))  # as strict as the partition will be
                self._trials[key] = Yes() if placed <= {self.ep} else No(f"{self.ep} leaves {node.op_type} to {_CPU}")
            except Exception as error:  # whatever a compiler below says of a node it does not take
                left = "fallback to CPU EP" in str(error)
                why = f"leaves {node.op_type} to {_CPU}" if left else f"does not take {node.op_type}: {sentence(error)}"
                self._trials[key] = No(f"{self.ep} {why}")
        return self._trials[key]

    def compile(self, graph: ir.GraphView, device: Device, options: BaseModel | None) -> Executable:
        from turnout_ort.build import build
        from turnout_ort.empty import guarded

        built = build(graph, lambda: self.session_options(device, options), self.at_once())
        return guarded(built, graph) if self.ep == _CPU else built

    def keeps(self, device: Device) -> str | None:
        """What is kept is a graph in this version's dialect; whether the processor is another does not matter to it."""
        from turnout_ort.runtime import bindings, onnxruntime

        library = os.stat(bindings().__file__)
        return f"{self.ep} {onnxruntime().__version__} {library.st_size} {library.st_mtime_ns}"

    def keep(self, graph: ir.GraphView, device: Device, folder: Path) -> bool:
        from turnout_ort.keeping import keep

        if self.ep != _CPU:
            return keep(graph, folder, guard=False)
        return keep(graph, folder, guard=True, rewrite=lambda: self.session_options(device, None), at_once=self.at_once())

    def reopen(self, folder: Path, device: Device, options: BaseModel | None) -> Executable:
        from turnout_ort.keeping import reopen

        return reopen(folder, lambda: self.session_options(device, options))

    def at_once(self) -> int:
        """Sessions that may be made at the same time, where making one takes long; what they hold then lies in pieces."""
        return 1

    def session_options(self, device: Device, options: BaseModel | None, *, strict: bool = True) -> Any:
        """New SessionOptions. `strict` forbids ONNX Runtime to move a node to its CPU provider."""
        from turnout_ort.runtime import onnxruntime

        settings = onnxruntime().SessionOptions()
        settings.log_severity_level = 4  # its errors come as exceptions; it would print them as well
        settings.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
        if self.ep != _CPU:
            self.add_provider(settings, device, options)
            if strict:
                settings.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
        self.configure(settings, device, options)
        return settings

    def add_provider(self, settings: Any, device: Device, options: BaseModel | None) -> None:
        """Adds the execution provider to the session options; override it to give it a device or options of its own."""
        settings.add_provider(self.ep, {})

    def configure(self, settings: Any, device: Device, options: BaseModel | None) -> None:
        """Turns the provider's options into session options. Does nothing by default."""

    def versions(self) -> Mapping[str, str]:
        from turnout_ort.owners import versions

        return versions()
