"""Device: one place that can compute. Link: what it costs to bring a value there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["HOST", "Device", "Link"]


@dataclass(frozen=True, slots=True)
class Link:
    """The way between a device's memory and the host's: `seconds(n) = latency + n / bandwidth`.

    latency: seconds. bandwidth: bytes per second.
    """

    latency: float
    bandwidth: float

    def seconds(self, nbytes: int) -> float:
        """Seconds to copy `nbytes` bytes one way."""
        return self.latency + nbytes / self.bandwidth


@dataclass(frozen=True, slots=True)
class Device:
    """One place that can compute, as a provider's probe reports it.

    provider: name of the provider, which is also the first half of the device's name.
    index: position among the provider's devices, best first.
    description: what a person would call it ("NVIDIA H200").
    memory: bytes of memory in all, None where unknown.
    link: the cost of copies from and to host memory; None where values live in host memory and nothing is ever copied.
    automatic: False keeps it out of `device=None`; it is used only where it is named.
    rank: its place among all devices where it differs from the provider's own rank; lower goes first where no device is named.
    properties: whatever else the provider knows, for people to read.
    """

    provider: str
    index: int = 0
    description: str = ""
    memory: int | None = None
    link: Link | None = None
    automatic: bool = True
    rank: int | None = None
    properties: Mapping[str, str] = field(default_factory=dict, hash=False)

    @property
    def name(self) -> str:
        """The name to ask for it by: `cpu:0`."""
        return "host" if self.provider == "host" else f"{self.provider}:{self.index}"

    @property
    def on_host(self) -> bool:
        """True where values live in host memory, as NumPy arrays."""
        return self.link is None

    def __str__(self) -> str:
        return self.name


HOST = Device("host", description="turnout itself, in host memory")
"""Where turnout's own steps (If, Loop, Scan) run, and where `run` takes inputs from and gives outputs to."""
