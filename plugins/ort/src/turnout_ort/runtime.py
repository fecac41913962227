"""The ONNX Runtime that is installed, imported when it is first needed.

It ships no types, so that all that comes out of it is `Any`. Only this module and `owners` import it.
"""

from __future__ import annotations

import functools
from typing import Any

from turnout.errors import Unavailable

__all__ = ["bindings", "cpu_memory", "onnxruntime"]


@functools.cache
def onnxruntime() -> Any:
    """The module `onnxruntime`.

    Raises Unavailable where no distribution brought it, or where what is left of it does not import.
    """
    try:
        import onnxruntime as module
    except ModuleNotFoundError as error:
        if error.name != "onnxruntime":
            raise Unavailable(f"onnxruntime does not import: {error}", hint=_reinstall()) from error
        raise Unavailable("no ONNX Runtime is installed", hint="pip install turnout-ort-wheel") from error
    except ImportError as error:
        raise Unavailable(f"onnxruntime does not import: {error}", hint=_reinstall()) from error
    if not hasattr(module, "InferenceSession"):  # a folder that survived its distribution still imports, as a namespace
        raise Unavailable("the package onnxruntime is there but empty: it went with another wheel", hint=_reinstall())
    return module


def _reinstall() -> str:
    from turnout_ort.owners import owners

    return f"pip install --force-reinstall {next(iter(owners()), 'onnxruntime')}"


@functools.cache
def bindings() -> Any:
    """ONNX Runtime's extension module: the kernel registry, and sessions without their Python wrapper."""
    onnxruntime()
    import onnxruntime.capi._pybind_state as module

    return module


@functools.cache
def cpu_memory() -> Any:
    """Host memory, as ONNX Runtime names it in bindings."""
    return onnxruntime().OrtDevice.make("cpu", 0)._get_c_device()
