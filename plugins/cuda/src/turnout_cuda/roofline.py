"""What a kernel could reach: its bytes over a chip's bandwidth, its operations over the chip's rate, and what its launch makes of them.

A model and no measurement: rates are those of the data sheets, and caches, bank conflicts and waits within a block are not in it. It is for
comparing a kernel with itself, before and after a change, where no GPU is at hand.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

__all__ = ["CHIPS", "Chip", "Launched", "Prediction", "arithmetic", "occupancy", "predicted", "resident"]


@dataclass(frozen=True)
class Chip:
    """A GPU of an architecture.

    registers, warps, blocks, shared: what a multiprocessor holds (CUDA C++ programming guide, "Compute Capabilities"). bandwidth, floats,
    halves: bytes, float32 operations and tensor cores' operations on halves, a second (data sheet).
    """

    name: str
    registers: int
    warps: int
    blocks: int
    shared: int
    processors: int
    bandwidth: float
    floats: float
    halves: float


CHIPS = {
    "sm_75": Chip("T4", 65536, 32, 16, 64 << 10, 40, 0.32e12, 8.1e12, 65e12),
    "sm_80": Chip("A100 80 GB", 65536, 64, 32, 164 << 10, 108, 2.039e12, 19.5e12, 312e12),
    "sm_90a": Chip("H200", 65536, 64, 32, 228 << 10, 132, 4.8e12, 67e12, 989e12),
    "sm_100": Chip("B200", 65536, 64, 32, 228 << 10, 148, 8e12, 75e12, 2250e12),
    "sm_120": Chip("RTX 5090", 65536, 48, 24, 100 << 10, 170, 1.792e12, 104.8e12, 209.5e12),
}

LATENCY = 600e-9
"""Seconds from a load to its value in a loaded chip, roughly: so many seconds of bandwidth have to be under way."""
WARPS_OF_FLOATS, WARPS_OF_HALVES = 16, 8
"""Warps of a multiprocessor that keep its arithmetic busy: four schedulers with four cycles from a result to its use; two warpgroups."""


@dataclass(frozen=True)
class Launched:
    """What one launch asks of a chip.

    nbytes: read and written, each array once. operations: adds, multiplications and the like, None where nobody counted them. tensor:
    whether tensor cores do them. wide: bytes of one load. blocks, block: blocks, and threads of each. registers: of a thread.
    shared: bytes of a block.
    """

    nbytes: int
    operations: int | None
    tensor: bool
    wide: int
    blocks: int
    block: int
    registers: int
    shared: int


@dataclass(frozen=True)
class Prediction:
    """bound: "bandwidth" or "arithmetic", whichever takes longer. ceiling: seconds at the chip's rates. share: what is reached of them."""

    bound: str
    ceiling: float
    share: float


def resident(chip: Chip, registers: int, shared: int, block: int) -> int:
    """Blocks that a multiprocessor holds at once, as registers, shared memory and warps allow; 0 where it holds none."""
    warps = -(-block // 32)
    by_registers = chip.registers // (-(-max(registers, 1) // 8) * 8 * 32 * warps)
    by_shared = chip.shared // shared if shared else chip.blocks
    return min(by_registers, by_shared, chip.blocks, chip.warps // warps)


def occupancy(arch: str, registers: int, shared: int, block: int) -> float:
    """The share of a multiprocessor's warps that can be there at once."""
    chip = CHIPS[arch]
    return resident(chip, registers, shared, block) * -(-block // 32) / chip.warps


def predicted(arch: str, launch: Launched) -> Prediction | None:
    """What the launch takes on the architecture's chip; None where a multiprocessor holds no block of it.

    Of bandwidth: as many bytes as the loads of all resident threads have under way, of those that the latency asks for. Of arithmetic: how
    evenly the blocks fall on the multiprocessors, times the warps that are there, of those that keep it busy.
    """
    chip = CHIPS[arch]
    most = resident(chip, launch.registers, launch.shared, launch.block)
    if not most or not launch.blocks:
        return None
    under_way = min(launch.blocks, most * chip.processors) * launch.block * launch.wide
    flow = min(1.0, under_way / (chip.bandwidth * LATENCY))
    each = -(-launch.blocks // chip.processors)
    needed = WARPS_OF_HALVES if launch.tensor else WARPS_OF_FLOATS
    busy = launch.blocks / (each * chip.processors) * min(1.0, min(each, most) * -(-launch.block // 32) / needed)
    moving = launch.nbytes / chip.bandwidth
    counting = (launch.operations or 0) / (chip.halves if launch.tensor else chip.floats)
    ceiling = max(moving, counting)
    if not ceiling:
        return None
    return Prediction("bandwidth" if moving >= counting else "arithmetic", ceiling, ceiling / max(moving / flow, counting / busy))


_CONVERSIONS = "up|down|W|R|S|Y|X|A|int|float|double|bool|index|sizeof|if|for|while|return|unsigned|static_cast"
_COUNTED = re.compile(rf"\b(?!(?:{_CONVERSIONS})\()[A-Za-z_]\w*\(|(?<=[\w)\]}}])\s*(?:[-+*/%]=?|[<>]=?|==|!=|&&|\|\||\?)(?!=)")


def arithmetic(text: str) -> int:
    """Operations in C++ expressions: operators between operands and calls of functions, one each; conversions are none."""
    return len(_COUNTED.findall(re.sub(r"<[\w, ]*>\s*(?=\()", "", text)))
