"""Context: one GPU as this process uses it. Its stream, its memory, and the kernels that were loaded onto it."""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from turnout.errors import DeviceLost, OutOfMemory, RunError
from turnout_cuda import build
from turnout_cuda.driver import Gpu
from turnout_cuda.staging import Staging
from turnout_cuda.tensor import MIRRORED, DeviceTensor

if TYPE_CHECKING:
    from turnout_cuda.cublaslt import CublasLt

__all__ = ["ALLOWED", "Context", "Memory"]

ALLOWED = 48 << 10
"""Bytes of shared memory that a block may take without asking."""

_OUT_OF_MEMORY = 2
# cuda.h, CUresult: after these nothing works any more in this process, or the device is gone
_LOST = {46, 100, 101, 214, 219, 226, 700, 702, 708, 709, 714, 715, 716, 717, 718, 719, 999}


class Memory:
    """A piece of device memory, given back when nobody holds it any more. Frees in the stream's order, so never too early."""

    __slots__ = ("address", "context", "nbytes")

    def __init__(self, context: Context, nbytes: int) -> None:
        self.context = context
        self.nbytes = nbytes
        self.address = context.reserve(nbytes)

    def __del__(self) -> None:
        with contextlib.suppress(Exception):  # the interpreter may be going down, and the driver with it
            self.context.release(self.address)


class Context:
    """One GPU. Everything goes to one stream, so that whatever is asked for first is done first; any thread may ask."""

    def __init__(self, gpu: Gpu) -> None:
        from cuda.bindings import driver  # type: ignore[import-untyped,unused-ignore]

        self.gpu = gpu
        self.target = build.target(gpu)
        self.fuses = build.compiles()  # a fused chain is a kernel that nobody could build ahead
        self.driver = driver
        self.lost = False
        self._lock = threading.Lock()
        self._functions: dict[str, int] = {}
        self._modules: list[Any] = []
        self._allowed: dict[int, int] = {}
        self.check(driver.cuInit(0))
        device = self.check(driver.cuDeviceGet(gpu.ordinal))
        self.handle = self.check(driver.cuDevicePrimaryCtxRetain(device))
        self.enter()
        self.stream = self.check(driver.cuStreamCreate(driver.CUstream_flags.CU_STREAM_NON_BLOCKING.value))
        self.staging = Staging(self)
        pool = self.check(driver.cuDeviceGetDefaultMemPool(device))
        threshold = driver.cuuint64_t(2**63)  # keep what is freed: the pool would give it back to the system at each wait
        self.check(
            driver.cuMemPoolSetAttribute(pool, driver.CUmemPool_attribute.CU_MEMPOOL_ATTR_RELEASE_THRESHOLD, threshold),
        )

    def enter(self) -> None:
        """Makes this the calling thread's context. Raises DeviceLost."""
        if self.lost:
            raise DeviceLost(f"{self.gpu.name} is gone", hint="start the program again; nvidia-smi says whether the GPU is still there")
        self.check(self.driver.cuCtxSetCurrent(self.handle))

    @functools.cached_property
    def cublaslt(self) -> CublasLt | str:
        """The library for plain products, or why they go without it."""
        from turnout_cuda.cublaslt import opened

        self.enter()
        return opened(takes_ptx=self.target.ptx)

    # memory

    def reserve(self, nbytes: int) -> int:
        """Bytes of device memory, in the stream's order. Raises OutOfMemory with what was asked for and what was free."""
        code, address = self.driver.cuMemAllocAsync(max(nbytes, 1), self.stream)
        if code.value == _OUT_OF_MEMORY:
            raise self._full(nbytes)
        self.check((code,))
        return int(address)

    def _full(self, nbytes: int) -> OutOfMemory:
        code, free, total = self.driver.cuMemGetInfo()
        there = f"{free / 2**20:,.0f} MiB of {total / 2**20:,.0f} MiB are free" if not code.value else f"it has {self.gpu.memory:,} bytes"
        return OutOfMemory(
            f"{self.gpu.name}: {nbytes / 2**20:,.0f} MiB were asked for, and {there}",
            hint="use smaller inputs or a smaller batch, or close models that are not used",
        )

    def release(self, address: int) -> None:
        """Gives memory back, once all that was asked for before is done."""
        if not self.lost:
            self.driver.cuCtxSetCurrent(self.handle)
            self.driver.cuMemFreeAsync(address, self.stream)

    def upload(self, array: np.ndarray[Any, Any]) -> DeviceTensor:
        """A host array on the device. It may be changed as soon as this returns."""
        self.enter()
        dense = np.ascontiguousarray(array).reshape(array.shape)
        memory = Memory(self, dense.nbytes)
        if dense.nbytes:
            self.staging.upload(_bytes(dense), memory.address)
        mirror = dense.copy() if dense.size <= MIRRORED else None
        return DeviceTensor(dense.shape, dense.dtype, memory, mirror)

    def download(self, address: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray[Any, Any]:
        """A new host array of what is at an address, when all that was asked for before is done."""
        self.enter()
        array = np.empty(shape, dtype)
        if array.nbytes:
            self.staging.download(address, _bytes(array))
        return array

    def copied(self, tensor: DeviceTensor) -> DeviceTensor:
        """Another tensor of the same values."""
        self.enter()
        memory = Memory(self, tensor.nbytes)
        if tensor.nbytes:
            self.check(self.driver.cuMemcpyAsync(memory.address, tensor.address, tensor.nbytes, self.stream))
        return DeviceTensor(tensor.shape, tensor.dtype, memory, tensor.mirror)

    # streams

    def follow(self, first: Any, then: Any) -> None:
        """Whatever is asked of the stream `then` from now on waits for all that was asked of `first`."""
        driver = self.driver
        event = self.check(driver.cuEventCreate(driver.CUevent_flags.CU_EVENT_DISABLE_TIMING.value))
        try:
            self.check(driver.cuEventRecord(event, first))
            self.check(driver.cuStreamWaitEvent(then, event, 0))
        finally:
            driver.cuEventDestroy(event)

    def settle(self, *, everything: bool = False) -> None:
        """Waits until all that was asked for is done, of our stream or of the whole device."""
        if not self.lost:
            self.driver.cuCtxSetCurrent(self.handle)
            self.check(self.driver.cuCtxSynchronize() if everything else self.driver.cuStreamSynchronize(self.stream))

    # kernels

    def function(self, source: str, entry: str) -> int:
        """The handle of a kernel, built and loaded at its first use. Raises CompileError."""
        handle = self._functions.get(entry)
        if handle is None:
            binary = build.build(source, self.target)
            with self._lock:
                handle = self._functions.get(entry)
                if handle is None:
                    handle = self._functions[entry] = self._load(binary, entry)
        return handle

    def allow(self, function: Any, nbytes: int) -> None:
        """Lets a kernel take more than the usual shared memory of a block; launches of the same one may want different amounts."""
        if nbytes <= self._allowed.get(int(function), ALLOWED):
            return
        self._allowed[int(function)] = nbytes
        attribute = self.driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
        self.check(self.driver.cuFuncSetAttribute(function, attribute, nbytes))

    def _load(self, binary: bytes, entry: str) -> int:
        driver = self.driver
        library = self.check(driver.cuLibraryLoadData(binary, [], [], 0, [], [], 0))
        self._modules.append((library, binary))
        kernel = self.check(driver.cuLibraryGetKernel(library, entry.encode()))
        return int(self.check(driver.cuKernelGetFunction(kernel)))

    # errors

    def raised(self, code: Any) -> RunError:
        """The error for a driver's code."""
        if code.value == _OUT_OF_MEMORY:
            return self._full(0)
        self.lost = self.lost or code.value in _LOST
        _, name = self.driver.cuGetErrorName(code)
        _, text = self.driver.cuGetErrorString(code)
        said = f"{self.gpu.name}: {_text(name)}: {_text(text)}"
        if self.lost:
            return DeviceLost(said, hint="the process must start again before it can use this GPU")
        return RunError(said, hint="`turnout doctor` tells whether the device itself is well")

    def check(self, result: tuple[Any, ...]) -> Any:
        """What a call of the driver gave, or the error that it tells."""
        code, *rest = result
        if code.value:
            raise self.raised(code)
        return rest[0] if rest else None

    @contextlib.contextmanager
    def losing(self) -> Iterator[None]:
        """For tests: within it, the device is gone."""
        self.lost = True
        try:
            yield
        finally:
            self.lost = False


def _bytes(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """A dense array's memory."""
    return array.reshape(-1).view(np.uint8)


def _text(name: Any) -> str:
    return name.decode(errors="replace") if isinstance(name, bytes) else str(name)
