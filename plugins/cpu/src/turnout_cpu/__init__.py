"""ONNX Runtime's CPU execution provider as a turnout provider: the device cpu:0."""

from __future__ import annotations

from turnout_cpu.provider import CpuProvider, Options

__all__ = ["CpuProvider", "Options"]
