"""turnout runs one model file on whatever hardware is there, and says why it chose what it chose.

    model = turnout.load("model.onnx")      # or device="cuda", or device=["cuda", "cpu"]
    outputs = model.run(image=x)
    print(model.explain())

Importing turnout loads nothing but the standard library; everything else is loaded when it is first used.
"""

from __future__ import annotations

TYPE_CHECKING = False  # typing takes ten milliseconds to import; type checkers know this name without it

if TYPE_CHECKING:
    from typing import Any

    from turnout.api import devices as devices
    from turnout.api import load as load
    from turnout.checkup import doctor as doctor
    from turnout.device import Device as Device
    from turnout.device import Link as Link
    from turnout.errors import TurnoutError as TurnoutError
    from turnout.explain import Explanation as Explanation
    from turnout.formats import Accuracy as Accuracy
    from turnout.hooks import hookimpl as hookimpl
    from turnout.kernels import KernelProvider as KernelProvider
    from turnout.kernels import kernel as kernel
    from turnout.model import Model as Model
    from turnout.operator import Operator as Operator
    from turnout.provider import Claim as Claim
    from turnout.provider import Executable as Executable
    from turnout.provider import No as No
    from turnout.provider import Provider as Provider
    from turnout.provider import Rewrite as Rewrite
    from turnout.provider import Yes as Yes
    from turnout.tensor import Tensor as Tensor

_HOMES = {
    "Accuracy": "formats",
    "Claim": "provider",
    "Device": "device",
    "Executable": "provider",
    "Explanation": "explain",
    "KernelProvider": "kernels",
    "Link": "device",
    "Model": "model",
    "No": "provider",
    "Operator": "operator",
    "Provider": "provider",
    "Rewrite": "provider",
    "Tensor": "tensor",
    "TurnoutError": "errors",
    "Yes": "provider",
    "devices": "api",
    "doctor": "checkup",
    "hookimpl": "hooks",
    "kernel": "kernels",
    "load": "api",
}

__all__ = sorted(_HOMES)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("turnout")
    if name in _HOMES:
        import importlib

        return getattr(importlib.import_module(f"turnout.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'turnout' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
