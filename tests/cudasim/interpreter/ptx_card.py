"""What the interpreter's tests share: a device (with --cuda=real the machine's GPU), kernels from CUDA C++ and from PTX by hand."""

from __future__ import annotations

import ctypes
import functools
import os
import shutil
import tempfile
from importlib.metadata import version
from pathlib import Path

import numpy as np

from turnout_cudasim.execute import launch
from turnout_cudasim.memory import Memory
from turnout_cudasim.parse import parse
from turnout_cudasim.program import load
from turnout_cudasim.tensormap import encode

HEADER = ".version 8.4\n.target sm_90a\n.address_size 64\n"


class Card:
    """A small simulated device with one module."""

    def __init__(self, ptx: str, size: int = 1 << 28) -> None:
        self.memory = Memory(size)
        self.program = load(ptx, self.memory)

    def put(self, array, label: str = "") -> int:
        array = np.ascontiguousarray(array)
        address = self.memory.allocate(array.nbytes, label=label)
        self.memory.write(address, array.reshape(-1).view(np.uint8))
        return address

    def empty(self, size: int, label: str = "") -> int:
        return self.memory.allocate(size, label=label)

    def get(self, address: int, shape, dtype) -> np.ndarray:
        dtype = np.dtype(dtype)
        return self.memory.read(address, int(np.prod(shape)) * dtype.itemsize).view(dtype).reshape(shape).copy()

    def symbol(self, name: str) -> tuple[int, int]:
        """Address and size of a variable."""
        return self.program.symbols[name]

    def tensor_map(self, **description) -> bytes:
        """The 128 bytes that TMA reads: see turnout_cudasim.tensormap.encode."""
        return encode(**description)

    def run(self, name: str, grid, block, *arguments, **options) -> None:
        """Arguments: integers (addresses too), Python floats for float32, NumPy scalars, or bytes for structs."""
        launch(self.program, name, triple(grid), triple(block), packed(self.program.module.kernels[name], arguments), **options)


def packed(kernel, arguments) -> bytes:
    """The parameter buffer of a kernel."""
    buffer = bytearray(kernel.parameter_bytes)
    assert len(kernel.parameters) == len(arguments)
    for parameter, value in zip(kernel.parameters, arguments, strict=True):
        if isinstance(value, float):
            value = np.float32(value)
        raw = value if isinstance(value, bytes) else value.tobytes() if isinstance(value, np.generic) else None
        raw = int(value).to_bytes(parameter.size, "little", signed=value < 0) if raw is None else raw
        assert len(raw) == parameter.size, (parameter, value)
        buffer[parameter.offset : parameter.offset + parameter.size] = raw
    return bytes(buffer)


class DriverCard:
    """The same through the driver library: the machine's GPU with --cuda=real, the stand-in otherwise. Nothing is reported here."""

    def __init__(self, ptx: str, size: int = 0) -> None:
        from cuda.bindings import driver

        self.driver = driver
        self.kernels = parse(ptx).kernels
        self.call("cuInit", 0)
        self.call("cuCtxSetCurrent", self.call("cuDevicePrimaryCtxRetain", self.call("cuDeviceGet", 0)))
        self.module = self.call("cuModuleLoadData", ptx.encode() + b"\0")

    def call(self, name: str, *arguments):
        error, *results = getattr(self.driver, name)(*arguments)
        assert int(error) == 0, (name, error)
        return results[0] if len(results) == 1 else tuple(results)

    def put(self, array, label: str = "") -> int:
        array = np.ascontiguousarray(array)
        address = self.empty(array.nbytes)
        self.call("cuMemcpyHtoD", address, array.ctypes.data, array.nbytes)
        return address

    def empty(self, size: int, label: str = "") -> int:
        return int(self.call("cuMemAlloc", size))

    def get(self, address: int, shape, dtype) -> np.ndarray:
        array = np.empty(shape, dtype)
        self.call("cuMemcpyDtoH", array.ctypes.data, address, array.nbytes)
        return array

    def symbol(self, name: str) -> tuple[int, int]:
        address, size = self.call("cuModuleGetGlobal", self.module, name.encode())
        return int(address), size

    def tensor_map(self, *, element: str, address: int, shape, strides, box, element_strides, swizzle: int = 0) -> bytes:
        driver, rank = self.driver, len(shape)
        kind = {"u32": "UINT32", "f16": "FLOAT16"}[element]
        tensor = self.call(
            "cuTensorMapEncodeTiled", getattr(driver.CUtensorMapDataType, f"CU_TENSOR_MAP_DATA_TYPE_{kind}"), rank, address,
            [driver.cuuint64_t(n) for n in shape], [driver.cuuint64_t(n) for n in strides], [driver.cuuint32_t(n) for n in box],
            [driver.cuuint32_t(n) for n in element_strides], driver.CUtensorMapInterleave.CU_TENSOR_MAP_INTERLEAVE_NONE,
            driver.CUtensorMapSwizzle(swizzle), driver.CUtensorMapL2promotion.CU_TENSOR_MAP_L2_PROMOTION_NONE,
            driver.CUtensorMapFloatOOBfill.CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
        )  # fmt: skip
        return b"".join(int(word).to_bytes(8, "little") for word in tensor.opaque)

    def run(self, name: str, grid, block, *arguments, dynamic_shared: int = 0, cooperative: bool = False, reports=None) -> None:
        buffer = ctypes.create_string_buffer(packed(self.kernels[name], arguments))
        places = [ctypes.addressof(buffer) + p.offset for p in self.kernels[name].parameters]
        function = self.call("cuModuleGetFunction", self.module, name.encode())
        if dynamic_shared > 48 << 10:
            attribute = self.driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
            self.call("cuFuncSetAttribute", function, attribute, dynamic_shared)
        start = "cuLaunchCooperativeKernel" if cooperative else "cuLaunchKernel"
        pointers = (ctypes.c_void_p * len(places))(*places)
        extra = () if cooperative else (0,)
        self.call(start, function, *triple(grid), *triple(block), dynamic_shared, 0, ctypes.addressof(pointers), *extra)
        self.call("cuCtxSynchronize")


def triple(size):
    size = size if isinstance(size, tuple) else (size,)
    return (*size, 1, 1)[:3]


@functools.cache
def headers() -> str:
    """Where NVRTC puts the headers that it brings along; it refuses a folder that another version has used."""
    folder = Path(tempfile.gettempdir()) / f"turnout-cudasim-headers-{version('nvidia-cuda-nvrtc')}"
    folder.mkdir(exist_ok=True)
    return str(folder)


@functools.cache
def header_options() -> tuple[str, ...]:
    """How NVRTC finds CUDA's headers: in itself, or, before 13.1, in a toolkit."""
    from cuda.bindings import nvrtc

    bundled = f"--use-bundled-headers={headers()}"
    _, program = nvrtc.nvrtcCreateProgram(b"", b"empty.cu", 0, [], [])
    (error,) = nvrtc.nvrtcCompileProgram(program, 1, [bundled.encode()])
    nvrtc.nvrtcDestroyProgram(program)
    if not int(error):
        return (bundled,)
    from cuda.pathfinder import find_nvidia_header_directory

    toolkits = [os.environ.get("CUDA_HOME"), Path(shutil.which("nvcc") or "/usr/local/cuda/bin/nvcc").resolve().parents[1]]
    folders = [find_nvidia_header_directory("cudart"), *(f"{t}/include" for t in toolkits if t)]
    folder = next((f for f in folders if f and Path(f, "crt/mma.h").exists()), None)  # some packages lack that one
    assert folder is not None, f"no CUDA toolkit's headers are in {folders}: set CUDA_HOME"
    return f"--include-path={folder}", f"--include-path={folder}/cccl"


@functools.cache
def compiled(source: str, name: str = "kernel.cu", arch: str = "compute_90a", options: tuple[str, ...] = ()) -> str:
    """CUDA C++ to PTX, through NVRTC, which needs no GPU."""
    from cuda.bindings import nvrtc

    _, program = nvrtc.nvrtcCreateProgram(source.encode(), name.encode(), 0, [], [])
    flags = [f"--gpu-architecture={arch}", "-lineinfo", "--std=c++17", *header_options(), *options]
    (error,) = nvrtc.nvrtcCompileProgram(program, len(flags), [f.encode() for f in flags])
    if int(error):
        _, size = nvrtc.nvrtcGetProgramLogSize(program)
        log = b" " * size
        nvrtc.nvrtcGetProgramLog(program, log)
        raise AssertionError(log.decode())
    _, size = nvrtc.nvrtcGetPTXSize(program)
    text = b" " * size
    nvrtc.nvrtcGetPTX(program, text)
    nvrtc.nvrtcDestroyProgram(program)
    return text.rstrip(b"\0").decode()


def device_with(ptx: str, size: int = 1 << 28) -> Card | DriverCard:
    """A device with these kernels: the interpreter itself, or the machine's GPU with --cuda=real."""
    return (DriverCard if os.environ.get("TURNOUT_CUDA") == "real" else Card)(ptx, size)


def card(source: str, **options) -> Card | DriverCard:
    """The same, from CUDA C++."""
    return device_with(compiled(source, **options))


REGISTERS = {"pred": "p", "b8": "b", "b16": "h", "b32": "r", "b64": "d", "f32": "f", "f64": "g"}
CODES = {"b8": "u1", "b16": "u2", "b32": "u4", "b64": "u8"}


def instructions(body: str, inputs, outputs: str, *, threads: int | None = None) -> list[np.ndarray]:
    """Run PTX by hand: each thread's inputs in %i0, %i1 ..., its outputs from %o0, %o1 ...

    `inputs`: arrays, whose types give the registers'. `outputs`: NumPy codes, such as "u4 f4".
    """
    inputs = [np.asarray(a) for a in inputs]
    wanted = outputs.split()
    count = threads or inputs[0].size
    declarations, loads, stores = [], [], []
    for n, array in enumerate(inputs):
        kind = f"b{8 * array.dtype.itemsize}"
        register = "b16" if kind == "b8" else kind
        declarations.append(f".reg .{register} %i{n};")
        loads.append(f"ld.param.u64 %a, [in{n}]; mad.wide.u32 %a, %me, {array.dtype.itemsize}, %a; ld.global.{kind} %i{n}, [%a];")
    for n, code in enumerate(wanted):
        kind = f"b{8 * np.dtype(code).itemsize}"
        register = "b16" if kind == "b8" else kind
        declarations.append(f".reg .{register} %o{n};")
        stores.append(f"ld.param.u64 %a, [out{n}]; mad.wide.u32 %a, %me, {np.dtype(code).itemsize}, %a; st.global.{kind} [%a], %o{n};")
    parameters = [f".param .u64 in{n}" for n in range(len(inputs))] + [f".param .u64 out{n}" for n in range(len(wanted))]
    temporaries = " ".join(f".reg .{t} %{letter}<64>;" for t, letter in REGISTERS.items() if t != "b8")
    ptx = (
        f"{HEADER}.visible .entry k({', '.join(parameters)}) {{\n.reg .b64 %a; .reg .b32 %me; .reg .b32 %size; {temporaries}\n"
        + "\n".join(declarations)
        + "\nmov.u32 %me, %tid.x; mov.u32 %size, %ntid.x; mov.u32 %r63, %ctaid.x; mad.lo.u32 %me, %r63, %size, %me;\n"
        + "\n".join(loads)
        + f"\n{body}\n"
        + "\n".join(stores)
        + "\nret;\n}\n"
    )
    device = device_with(ptx, 1 << 24)
    block = min(count, 32) if count % 32 else 32
    assert count % block == 0
    targets = [device.empty(count * np.dtype(code).itemsize) for code in wanted]
    device.run("k", count // block, block, *(device.put(a) for a in inputs), *targets)
    return [device.get(t, count, code) for t, code in zip(targets, wanted, strict=True)]
