"""Between the driver library and the interpreter: images, launches and the state of memory come up, kernels and errors go down."""

from __future__ import annotations

import atexit
import ctypes
import re
import sys
import threading
import traceback
from collections.abc import Callable
from ctypes import CFUNCTYPE, POINTER, Structure, c_char_p, c_int, c_size_t, c_uint, c_uint32, c_uint64, c_void_p
from math import prod
from typing import Any

import numpy as np

from .device import Architecture
from .earlier import Earlier, Traces
from .execute import launch
from .memory import Memory
from .parse import Kernel
from .program import Program, load
from .report import KernelFault, LaunchError, NotModelled, ParseError, Report, SimulationError
from .tensormap import encode

# CUresult, where this side chooses one.
INVALID_VALUE, OUT_OF_MEMORY, INVALID_IMAGE, INVALID_PTX, UNSUPPORTED_PTX_VERSION, NOT_SUPPORTED = 1, 2, 200, 218, 222, 801
UNREACHABLE = 2  # what the hook `allocated` is told of memory that kernels cannot reach
NEWEST_PTX = 9
IS_PTX = re.compile(r"\s*(?://[^\n]*\n\s*|/\*.*?\*/\s*)*\.version\s+(\d+)", re.DOTALL)  # all else is an image of another kind


class Launch(Structure):
    """`struct launch`."""

    _fields_ = (
        ("library", c_void_p),
        ("kernel", c_char_p),
        ("grid", c_uint * 3),
        ("block", c_uint * 3),
        ("cluster", c_uint * 3),
        ("shared", c_uint),
        ("cooperative", c_uint),
        ("parameters", c_void_p),
        ("parameter_bytes", c_size_t),
        ("first", c_uint),
        ("number", c_uint),
        ("pending", POINTER(c_uint)),
        ("pending_count", c_size_t),
    )


class TensorMap(Structure):
    """`struct tensor_map`."""

    _fields_ = (
        ("element", c_uint),
        ("rank", c_uint),
        ("interleave", c_uint),
        ("swizzle", c_uint),
        ("fill_nan", c_uint),
        ("address", c_uint64),
        ("shape", POINTER(c_uint64)),
        ("strides", POINTER(c_uint64)),
        ("box", POINTER(c_uint32)),
        ("element_strides", POINTER(c_uint32)),
    )


class Hooks(Structure):
    """`struct hooks`: each field is called by the library under its own name."""

    _fields_ = (
        ("load", CFUNCTYPE(c_int, c_void_p, c_void_p, c_size_t, c_void_p, c_size_t)),
        ("unload", CFUNCTYPE(None, c_void_p)),
        ("launch", CFUNCTYPE(c_int, POINTER(Launch))),
        ("allocated", CFUNCTYPE(None, c_uint64, c_size_t, c_int)),
        ("freed", CFUNCTYPE(None, c_uint64)),
        ("written", CFUNCTYPE(None, c_uint64, c_size_t)),
        ("copied", CFUNCTYPE(None, c_uint64, c_uint64, c_size_t)),
        ("tensor_map", CFUNCTYPE(c_int, c_void_p, POINTER(TensorMap))),
        ("refused", CFUNCTYPE(None, c_char_p)),
    )


class Parameter(Structure):
    """`struct parameter`."""

    _fields_ = (("offset", c_size_t), ("size", c_size_t))


ELEMENTS = ("u8", "u16", "u32", "s32", "u64", "s64", "f16", "f32", "f64", "bf16", "f32_ftz", "tf32", "tf32_ftz")  # CUtensorMapDataType


class DeviceMemory(Memory):
    """The interpreter's view of memory that the library gives out; what the interpreter wants for itself, it gets from there too."""

    def __init__(self, library: ctypes.CDLL, base: int, size: int) -> None:
        super().__init__(size, base=base, buffer=np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(base)))
        self.library = library

    def allocate(self, size: int, *, written: bool = False, label: str = "") -> int:
        address = int(self.library.cudasim_reserve(size))
        if not address:
            raise MemoryError(f"{size} bytes of device memory for {label or 'a variable'}")
        self.adopt(address, size, written=written, label=label)
        return address

    def free(self, address: int) -> None:
        super().free(address)
        self.library.cudasim_release(address)


class Bridge:
    """Answers the library's calls (`struct hooks`)."""

    def __init__(self, library: ctypes.CDLL, base: int, size: int, architecture: Architecture, reports: list[Report], races: bool) -> None:
        library.cudasim_reserve.restype = c_uint64
        library.cudasim_reserve.argtypes = [c_size_t]
        library.cudasim_release.argtypes = [c_uint64]
        library.cudasim_add_kernel.restype = c_void_p
        library.cudasim_add_kernel.argtypes = [c_void_p, c_char_p, c_size_t, POINTER(Parameter), POINTER(c_int)]
        library.cudasim_add_variable.argtypes = [c_void_p, c_char_p, c_uint64, c_size_t]
        self.library = library
        self.architecture = architecture
        self.reports = reports
        self.races = races
        self.memory = DeviceMemory(library, base, size)
        self.programs: dict[int, Program] = {}
        self.said: set[str] = set()
        self.traces: Traces | None = None
        self.lock = threading.RLock()  # the interpreter runs one kernel at a time
        self.hooks = Hooks(**{name: kind(self.guard(getattr(self, name), kind)) for name, kind in Hooks._fields_})
        library.cudasim_set_hooks(ctypes.byref(self.hooks))
        atexit.register(library.cudasim_set_hooks, None)  # buffers that are freed later than that find nobody to tell

    def guard(self, hook: Callable[..., Any], kind: Any) -> Callable[..., Any]:
        """A hook that lets no exception out into C: a fault in the simulator itself is printed, and is an error of the call."""

        def guarded(*arguments: Any) -> Any:
            try:
                with self.lock:
                    return hook(*arguments)
            except Exception as error:
                traceback.print_exception(error)
                self.say("the simulator itself failed (above); please report it")
                return NOT_SUPPORTED if kind._restype_ is c_int else None

        return guarded

    def say(self, message: str) -> None:
        print(f"turnout-cudasim: {message}", file=sys.stderr, flush=True)

    def refused(self, what: bytes) -> None:
        message = what.decode()
        if message not in self.said:
            self.said.add(message)
            self.say(f"not supported: {message}")

    def load(self, library: int, image: int, size: int, log: int, log_size: int) -> int:
        def fail(code: int, why: str) -> int:
            text = why.encode()[: log_size - 1] + b"\0"
            ctypes.memmove(log, text, len(text))
            self.say(why)
            return code

        try:
            text = ctypes.string_at(image, size).decode()
            if not (found := IS_PTX.match(text)):
                return fail(INVALID_IMAGE, "this is no PTX, and the simulator runs nothing else: no .version stands first")
            if int(found[1]) > NEWEST_PTX:
                return fail(UNSUPPORTED_PTX_VERSION, f"this is PTX {found[1]}; the simulator reads PTX up to {NEWEST_PTX}")
            program = load(text, self.memory)
        except ParseError as error:
            return fail(INVALID_PTX, f"this is no PTX that the simulator can read: {error}")
        except NotModelled as error:
            return fail(NOT_SUPPORTED, str(error))
        except MemoryError as error:
            return fail(OUT_OF_MEMORY, str(error))
        target = program.module.target
        if not runs_on(target, self.architecture):
            program.unload()
            here = f"sm_{self.architecture.name} (TURNOUT_CUDASIM_ARCH)"
            return fail(INVALID_PTX, f"PTX for {target} does not run on the simulated {here}")
        self.programs[library] = program
        for kernel in program.module.kernels.values():
            self.add_kernel(library, kernel)
        for name, (address, bytes_) in program.symbols.items():
            self.library.cudasim_add_variable(library, name.encode(), address, bytes_)
        return 0

    def add_kernel(self, library: int, kernel: Kernel) -> None:
        parameters = (Parameter * len(kernel.parameters))(*(Parameter(p.offset, p.size) for p in kernel.parameters))
        cluster = kernel.cluster or (0, 0, 0)
        major, minor = self.architecture.capability
        threads = kernel.max_threads or (prod(kernel.required_threads) if kernel.required_threads else 1024)
        values = {
            0: min(threads, 1024),  # CUfunction_attribute: MAX_THREADS_PER_BLOCK
            1: kernel.static_shared,
            3: kernel.local_bytes,
            4: kernel.registers,
            5: 10 * major + minor,  # PTX_VERSION
            6: 10 * major + minor,  # BINARY_VERSION
            8: max(49152 - kernel.static_shared, 0),  # MAX_DYNAMIC_SHARED_SIZE_BYTES
            9: -1,  # PREFERRED_SHARED_MEMORY_CARVEOUT
            10: int(any(cluster)),  # CLUSTER_SIZE_MUST_BE_SET
            11: cluster[0],
            12: cluster[1],
            13: cluster[2],
        }
        table = (c_int * 18)(*(values.get(i, 0) for i in range(18)))
        self.library.cudasim_add_kernel(library, kernel.name.encode(), len(parameters), parameters, table)

    def unload(self, library: int) -> None:
        program = self.programs.pop(library, None)
        if program is not None:
            program.unload()

    def launch(self, description: Any) -> int:
        what = description.contents
        found: list[Report] = []
        result = 0
        try:
            launch(
                self.programs[what.library],
                what.kernel.decode(),
                tuple(what.grid),
                tuple(what.block),
                ctypes.string_at(what.parameters, what.parameter_bytes),
                cluster=tuple(what.cluster),
                dynamic_shared=what.shared,
                cooperative=bool(what.cooperative),
                reports=found,
                earlier=self.earlier(what),
            )
        except KernelFault as fault:
            if fault.report not in found:
                found.append(fault.report)
            result = fault.report.cuda_error
        except LaunchError as error:
            self.say(str(error))
            result = error.cuda_error
        except SimulationError as error:  # an instruction or feature that is not modelled
            self.say(f"{what.kernel.decode()}: {error}")
            result = NOT_SUPPORTED
        for report in found:
            if not self.races and report.kind == "shared-race":
                continue
            self.reports.append(report)
            self.say(str(report))
        return result

    def earlier(self, what: Launch) -> Earlier | None:
        """The launches of its graph that may be running when this one starts; None if the graph has no programmatic edges."""
        if not what.number:
            return None
        self.traces = self.traces or Traces(self.memory)
        return Earlier(self.traces, what.kernel.decode(), what.first, what.number, what.pending[: what.pending_count])

    def allocated(self, address: int, size: int, written: int) -> None:
        known = self.memory.allocation(address)
        if known is not None and known.closed and not known.freed:
            known.closed = False  # its pool has been opened to the device
        else:
            self.memory.adopt(address, size, written=bool(written), closed=written == UNREACHABLE)

    def freed(self, address: int) -> None:
        Memory.free(self.memory, address)  # the library knows already

    def written(self, address: int, size: int) -> None:
        self.memory.mark_written(address, size)

    def copied(self, destination: int, source: int, size: int) -> None:
        self.memory.mark_copied(destination, source, size)

    def tensor_map(self, out: int, description: Any) -> int:
        what = description.contents
        if what.element >= len(ELEMENTS):
            self.say(f"tensor maps with elements of type {what.element} are not modelled")
            return NOT_SUPPORTED
        try:
            encoded = encode(
                element=ELEMENTS[what.element],
                address=what.address,
                shape=tuple(what.shape[: what.rank]),
                strides=tuple(what.strides[: what.rank - 1]) if what.rank > 1 else (),
                box=tuple(what.box[: what.rank]),
                element_strides=tuple(what.element_strides[: what.rank]),
                interleave=what.interleave,
                swizzle=what.swizzle,
                fill_nan=bool(what.fill_nan),
            )
        except NotModelled as error:
            self.say(str(error))
            return NOT_SUPPORTED
        except ValueError as error:
            self.say(str(error))
            return INVALID_VALUE
        ctypes.memmove(out, encoded, 128)
        return 0


def runs_on(target: str, device: Architecture) -> bool:
    """Does PTX for this target run on that device? On later ones too, unless it is for one architecture (a) or family (f)."""
    wanted = target.split(",")[0].strip().removeprefix("sm_")
    digits = wanted.rstrip("af")
    capability = (int(digits[:-1]), int(digits[-1]))
    if wanted.endswith("a"):
        return capability == device.capability
    if wanted.endswith("f"):
        return capability[0] == device.capability[0] and capability <= device.capability
    return capability <= device.capability
