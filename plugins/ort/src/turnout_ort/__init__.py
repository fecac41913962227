"""Any execution provider of the installed ONNX Runtime as a turnout provider."""

from __future__ import annotations

from turnout_ort.provider import OrtProvider

__all__ = ["OrtProvider"]
