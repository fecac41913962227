"""What the simulator finds, and the errors it raises.

SimulationError ▸ ParseError    the PTX text is not understood
                ▸ NotModelled   an opcode or feature that is not simulated; it names itself, nothing runs
                ▸ LaunchError   a launch that a driver would refuse
                ▸ KernelFault   a kernel did something wrong; .report says what, who and where
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

Point = tuple[int, int, int]


class Kind(StrEnum):
    """What can be wrong with a kernel."""

    OUT_OF_BOUNDS = "out-of-bounds"
    USE_AFTER_FREE = "use-after-free"
    MISALIGNED = "misaligned"
    NEVER_WRITTEN = "never-written-read"
    UNWAITED_COPY = "unwaited-copy"
    SHARED_RACE = "shared-race"
    BARRIER_DEADLOCK = "barrier-deadlock"
    DIVERGENT_BARRIER = "divergent-barrier"
    SHUFFLE_MASK = "shuffle-mask"
    ENDLESS_LOOP = "endless-loop"
    TRAP = "trap"
    ASSERTION = "assertion"
    INVALID_BARRIER = "invalid-barrier"
    EARLY_ACCESS = "early-access"


# The CUresult with which a driver answers; what the hardware does not notice (races ...) counts as a failed launch.
CUDA_ERRORS = {
    Kind.OUT_OF_BOUNDS: 700,
    Kind.USE_AFTER_FREE: 700,
    Kind.MISALIGNED: 716,
    Kind.ENDLESS_LOOP: 702,
    Kind.ASSERTION: 710,
    Kind.TRAP: 715,
}
LAUNCH_FAILED = 719

# A kernel can run on after these, as it would on hardware.
SOFT = frozenset({Kind.NEVER_WRITTEN, Kind.UNWAITED_COPY, Kind.SHARED_RACE, Kind.EARLY_ACCESS})


@dataclass(frozen=True)
class Location:
    """A line of CUDA C++; `inlined_at` is the call that brought it there. Line 0: the PTX carries no line information."""

    file: str
    line: int
    inlined_at: Location | None = None

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.line else "unknown line (compile with -lineinfo)"
        return f"{place}, called from {self.inlined_at}" if self.inlined_at else place


NOWHERE = Location("", 0)


@dataclass(frozen=True)
class Report:
    """One finding: what, in which kernel, block and thread, at which source line."""

    kind: Kind
    kernel: str
    block: Point
    thread: Point
    location: Location
    message: str
    instruction: str = field(default="", compare=False)

    @property
    def file(self) -> str:
        return self.location.file

    @property
    def line(self) -> int:
        return self.location.line

    @property
    def inlined_at(self) -> tuple[tuple[str, int], ...]:
        """The calls around the line, innermost first."""
        chain, place = [], self.location.inlined_at
        while place is not None:
            chain.append((place.file, place.line))
            place = place.inlined_at
        return tuple(chain)

    @property
    def cuda_error(self) -> int:
        return CUDA_ERRORS.get(self.kind, LAUNCH_FAILED)

    def __str__(self) -> str:
        where = f"block {_point(self.block)}, thread {_point(self.thread)}"
        return f"{self.kind} in {self.kernel}, {where}, {self.location}: {self.message}"


def _point(point: Point) -> str:
    return "({},{},{})".format(*point)


class SimulationError(RuntimeError):
    """Base of everything the simulator raises; `hint` is the one line to do next."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class ParseError(SimulationError):
    """The text is not PTX as NVRTC writes it; `line` counts from 1 in the PTX."""

    def __init__(self, message: str, line: int = 0) -> None:
        super().__init__(f"PTX line {line}: {message}" if line else message)
        self.line = line


class NotModelled(SimulationError):
    """An opcode or feature that the simulator does not have; `feature` names it."""

    def __init__(self, feature: str, where: str = "") -> None:
        super().__init__(f"not modelled: {feature}" + (f" (in {where})" if where else ""), "docs/cudasim-opcodes.md lists what is modelled")
        self.feature = feature


class LaunchError(SimulationError):
    """A launch that a driver would refuse with the CUresult `cuda_error`."""

    def __init__(self, message: str, cuda_error: int = 1) -> None:
        super().__init__(message)
        self.cuda_error = cuda_error


class KernelFault(SimulationError):
    """A kernel did something wrong."""

    def __init__(self, report: Report) -> None:
        super().__init__(str(report))
        self.report = report
