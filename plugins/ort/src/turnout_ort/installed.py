"""Execution providers that are installed beside turnout, each offered as `ort-NAME:n`; nothing here knows any of them.

Two kinds: plugin packages, which ONNX Runtime loads from a library of their own, and those built into the onnxruntime wheel itself
(onnxruntime-gpu, -openvino, -webgpu; CoreML on macOS). Those that turnout has a plugin for are left to it.
"""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from turnout.device import Device
from turnout.errors import Unavailable
from turnout.provider import No, Yes
from turnout_ort.census import census
from turnout_ort.provider import OrtProvider

if TYPE_CHECKING:
    import onnx_ir as ir
    from pydantic import BaseModel

__all__ = ["InstalledProvider", "installed"]

_PACKAGE = re.compile(r"onnxruntime-(?:ep-)?(.+)")
_NO_PROVIDERS = frozenset({"extensions", "genai", "tools", "training"})
_LEFT_OUT = frozenset({"cpu", "dml", "azure"})  # turnout-cpu's, turnout-directml's, and one that asks a server
_DRIVERS = "its documentation says which drivers it wants"


def installed() -> list[InstalledProvider]:
    """One provider for each: the lists of installed files are read, and what the wheel said when it was asked."""
    found: dict[str, InstalledProvider] = {}
    for distribution in importlib.metadata.distributions():
        name = re.sub(r"[-_.]+", "-", distribution.metadata["Name"] or "").lower()
        if not name.startswith("onnxruntime"):
            continue
        for short, module in _offers(name, distribution):
            found.setdefault(short, InstalledProvider(short, module, name))
    return [found[short] for short in sorted(found)]


def _offers(name: str, distribution: importlib.metadata.Distribution) -> Iterator[tuple[str, str]]:
    """(short name, module that knows where its library is; "" where the wheel has it built in)."""
    files = [str(file).replace("\\", "/") for file in distribution.files or ()]
    if any(file.startswith("onnxruntime/") for file in files):
        short_names = (ep.removesuffix("ExecutionProvider").lower() for ep in census().providers)
        yield from ((short, "") for short in short_names if short not in _LEFT_OUT)
        return
    package = _PACKAGE.fullmatch(name)
    modules = [file.removesuffix("/__init__.py") for file in files if file.count("/") == 1 and file.endswith("/__init__.py")]
    if package and package[1] not in _NO_PROVIDERS and modules:
        yield package[1], modules[0]


class InstalledProvider(OrtProvider):
    """An execution provider that turnout knows nothing of but its name and where it is."""

    rank = 60

    def __init__(self, short: str, module: str, distribution: str) -> None:
        super().__init__()
        self.name = f"ort-{short}"  # type: ignore[misc]  # one class serves them all
        self._short, self._module, self._distribution = short, module, distribution
        self._devices: list[Any] = []
        self.hint = f"pip install --force-reinstall {distribution}"  # type: ignore[misc]

    def probe(self) -> Sequence[Device]:
        from turnout_ort.runtime import onnxruntime

        if not self._module:
            self.ep = self._built_in()  # type: ignore[misc]
            self._start()
            return [Device(self.name, description=f"ONNX Runtime, {self.ep}")]
        self.ep = self._register()  # type: ignore[misc]
        self._devices = [one for one in onnxruntime().get_ep_devices() if one.ep_name == self.ep]
        if not self._devices:
            raise Unavailable(f"{self.ep} finds no device that it can use", hint=_DRIVERS)
        return [Device(self.name, index, _described(one, self.ep)) for index, one in enumerate(self._devices)]

    def _built_in(self) -> str:
        from turnout_ort.runtime import onnxruntime

        for ep in onnxruntime().get_available_providers():
            if ep.removesuffix("ExecutionProvider").lower() == self._short:
                return str(ep)
        raise Unavailable(f"ONNX Runtime here has no provider {self._short} any more", hint=self.hint)

    def _start(self) -> None:
        """Raises Unavailable where no session can be made with it: that a wheel holds a provider does not say that the machine does."""
        from turnout_ort.build import trivial
        from turnout_ort.failures import sentence

        try:
            trivial(self.session_options(Device(self.name), None, strict=False))
        except Exception as error:  # whatever the library below says: no device, no driver, another library that is missing
            raise Unavailable(f"{self.ep} does not start here: {sentence(error)}", hint=_DRIVERS) from error

    def _register(self) -> str:
        """Tells ONNX Runtime of the plugin's library, as its package says where it is; the name of its execution provider."""
        from turnout_ort.registry import PLUGINS
        from turnout_ort.runtime import onnxruntime

        register = getattr(onnxruntime(), "register_execution_provider_library", None)
        if register is None:
            version = onnxruntime().__version__
            raise Unavailable(f"ONNX Runtime {version} has no plugin providers", hint="pip install --upgrade onnxruntime")
        try:
            package = importlib.import_module(self._module)
            ep, library = str(package.get_ep_name()), str(package.get_library_path())
            if ep not in {one.ep_name for one in onnxruntime().get_ep_devices()}:
                register(self.name, library)
            PLUGINS.add(ep)
        except Exception as error:  # a package of another make, a library that lacks another, a version that does not fit
            raise Unavailable(f"{self._distribution} does not load: {error}", hint=self.hint) from error
        return ep

    def supports(self, node: ir.Node, graph: ir.Graph, device: Device) -> Yes | No:
        from turnout_ort.registry import registry

        if registry(self.ep):
            verdict = super().supports(node, graph, device)
            if not verdict:
                return verdict
        return self._try(node, graph, device)  # a strange provider's kernels may refuse what its registry promises

    def add_provider(self, settings: Any, device: Device, options: BaseModel | None) -> None:
        if self._devices:
            settings.add_provider_for_devices([self._devices[device.index]], {})
        else:
            settings.add_provider(self.ep, {})

    def versions(self) -> Mapping[str, str]:
        return {**super().versions(), self._distribution: _version(self._distribution)}


@functools.cache
def _version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _described(ep_device: Any, ep: str) -> str:
    """What the device calls itself, and by which provider it is used."""
    hardware = ep_device.device
    own = dict(hardware.metadata).get("Description", "") or str(hardware.vendor)
    kind = str(hardware.type).rpartition(".")[2]
    return f"{own} {kind} ({ep})".strip()
