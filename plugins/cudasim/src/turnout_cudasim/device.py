"""What the simulated device says of itself: CUDA's device attributes for each architecture.

Figures are those of a common board of that architecture (CUDA Programming Guide, table "Technical Specifications per Compute
Capability"). Those that only matter for speed are there to be plausible.
"""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Architecture:
    """One compute capability. Shared memory in bytes; "opt in" is what a block may ask for with cuFuncSetAttribute."""

    name: str  # "90a"
    multiprocessors: int
    threads: int  # per multiprocessor
    blocks: int  # per multiprocessor
    shared: int  # per multiprocessor
    shared_opt_in: int  # per block

    @property
    def capability(self) -> tuple[int, int]:
        digits = self.name.rstrip("af")
        return int(digits[:-1]), int(digits[-1])


KNOWN = {
    architecture.name: architecture
    for architecture in (
        Architecture("75", 40, 1024, 16, 65536, 65536),
        Architecture("80", 108, 2048, 32, 167936, 166912),
        Architecture("86", 84, 1536, 16, 102400, 101376),
        Architecture("87", 16, 1536, 16, 167936, 166912),
        Architecture("89", 128, 1536, 24, 102400, 101376),
        Architecture("90", 132, 2048, 32, 233472, 232448),
        Architecture("100", 148, 2048, 32, 233472, 232448),
        Architecture("120", 170, 1536, 24, 102400, 101376),
    )
}


def architecture(name: str) -> Architecture:
    """The architecture of a name such as "80", "9.0", "sm_90a" or "compute_120". Raises ValueError."""
    match = re.fullmatch(r"(?:sm_|compute_)?(\d+)\.?(\d)([af]?)", name)
    digits = f"{match[1]}{match[2]}" if match else ""
    if match is None or digits not in KNOWN:
        raise ValueError(f"no architecture {name!r}: choose one of {', '.join(KNOWN)} (with an a or f behind it, where it has one)")
    return Architecture(digits + match[3], *list(vars(KNOWN[digits]).values())[1:])


def attributes(architecture: Architecture) -> dict[int, int]:
    """CUdevice_attribute to value; what is not here is 0."""
    major, minor = architecture.capability
    hopper = int(major >= 9)
    return {
        1: 1024,  # MAX_THREADS_PER_BLOCK
        2: 1024,  # MAX_BLOCK_DIM_X, Y, Z
        3: 1024,
        4: 64,
        5: 2**31 - 1,  # MAX_GRID_DIM_X, Y, Z
        6: 65535,
        7: 65535,
        8: 49152,  # MAX_SHARED_MEMORY_PER_BLOCK
        9: 65536,  # TOTAL_CONSTANT_MEMORY
        10: 32,  # WARP_SIZE
        11: 2**31 - 1,  # MAX_PITCH
        12: 65536,  # MAX_REGISTERS_PER_BLOCK
        13: 1_500_000,  # CLOCK_RATE, in kHz
        14: 512,  # TEXTURE_ALIGNMENT
        15: 1,  # GPU_OVERLAP
        16: architecture.multiprocessors,
        18: 1,  # INTEGRATED: its memory is the host's
        19: 1,  # CAN_MAP_HOST_MEMORY
        31: 1,  # CONCURRENT_KERNELS
        36: 2_000_000,  # MEMORY_CLOCK_RATE, in kHz
        37: 5120,  # GLOBAL_MEMORY_BUS_WIDTH, in bits
        38: 50 << 20,  # L2_CACHE_SIZE
        39: architecture.threads,
        40: 3,  # ASYNC_ENGINE_COUNT
        41: 1,  # UNIFIED_ADDRESSING
        75: major,
        76: minor,
        78: 1,  # STREAM_PRIORITIES_SUPPORTED
        79: 1,  # GLOBAL_L1_CACHE_SUPPORTED
        80: 1,  # LOCAL_L1_CACHE_SUPPORTED
        81: architecture.shared,
        82: 65536,  # MAX_REGISTERS_PER_MULTIPROCESSOR
        83: 1,  # MANAGED_MEMORY
        87: 2 if major in (8, 9) and minor == 0 else 32,  # SINGLE_TO_DOUBLE_PRECISION_PERF_RATIO
        89: 1,  # CONCURRENT_MANAGED_ACCESS
        90: 1,  # COMPUTE_PREEMPTION_SUPPORTED
        95: 1,  # COOPERATIVE_LAUNCH
        97: architecture.shared_opt_in,
        106: architecture.blocks,
        111: 1024 if major >= 8 else 0,  # RESERVED_SHARED_MEMORY_PER_BLOCK
        115: 1,  # MEMORY_POOLS_SUPPORTED
        120: hopper,  # CLUSTER_LAUNCH
        126: 4 if hopper else 1,  # MEM_SYNC_DOMAIN_COUNT
        127: hopper,  # TENSOR_MAP_ACCESS_SUPPORTED
        134: -1,  # HOST_NUMA_ID
        144: 1,  # HOST_MEMORY_POOLS_SUPPORTED
    }
