"""A model file on ONNX Runtime alone, for `turnout bench --vs onnxruntime`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from turnout_ort.runtime import onnxruntime

__all__ = ["open_peer"]


def open_peer(path: str) -> Callable[[Mapping[str, Any]], Any]:
    """A session on the CPU with ONNX Runtime's own defaults, as a function of arrays by input name."""
    session = onnxruntime().InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda feed: session.run(None, feed)
