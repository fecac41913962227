"""cuBLASLt, where it is: products of plain matrices through NVIDIA's own library, an optional extra (pip install 'turnout-cuda[cublas]').

The binding is ctypes over the C API as cublasLt.h of CUDA 13 has it, fifteen functions of it. The library counts columns first: our
y = a @ w, rows first, is its y' = w' @ a', and a matrix whose rows are dense here is one whose columns are dense there; nothing is moved.

No GPU has run this: constants and structs are checked against the header, descriptors against the library, and calls against a stand-in.
"""

from __future__ import annotations

import ctypes
import os
import weakref
from dataclasses import dataclass
from typing import Any

from turnout.errors import OutOfMemory, RunError
from turnout_cuda.dlpack import ALIGNED

__all__ = ["CONSTANTS", "DTYPES", "CublasLt", "Heuristic", "Layout", "Problem", "Product", "Scaled", "located", "opened"]

# library_types.h, cudaDataType_t
DTYPES = {"float32": 0, "float16": 2, "bfloat16": 14}
"""Element types that are taken; all are summed and scaled in float32 (and never in TF32)."""

CONSTANTS = {
    "CUBLAS_STATUS_SUCCESS": 0,
    "CUBLAS_STATUS_ALLOC_FAILED": 3,
    "CUBLAS_STATUS_NOT_SUPPORTED": 15,
    "CUBLAS_OP_N": 0,
    "CUBLAS_OP_T": 1,
    "CUBLAS_COMPUTE_32F": 68,
    "CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT": 5,
    "CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET": 6,
    "CUBLASLT_MATMUL_DESC_TRANSA": 3,
    "CUBLASLT_MATMUL_DESC_TRANSB": 4,
    "CUBLASLT_MATMUL_DESC_EPILOGUE": 7,
    "CUBLASLT_MATMUL_DESC_BIAS_POINTER": 8,
    "CUBLASLT_EPILOGUE_BIAS": 4,
    "CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES": 1,
    "CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK": 3,
    "CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES": 5,
    "CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES": 6,
    "CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES": 7,
    "CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES": 8,
    "CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE": 2,
}
"""The values of the header's names that are used here; `python tests/cuda/cublas_header.py` holds them against the header."""

_OUT_OF_MEMORY, _NOT_SUPPORTED = CONSTANTS["CUBLAS_STATUS_ALLOC_FAILED"], CONSTANTS["CUBLAS_STATUS_NOT_SUPPORTED"]
_WORKSPACE = 32 << 20
"""Bytes that a product may want beside its operands; NVIDIA advises this much for Hopper."""

_PACKAGE = "pip install 'turnout-cuda[cublas]'"


class Heuristic(ctypes.Structure):
    """cublasLtMatmulHeuristicResult_t: an algorithm, and what it wants."""

    _fields_ = (
        ("algorithm", ctypes.c_uint64 * 8),
        ("workspace", ctypes.c_size_t),
        ("state", ctypes.c_int),
        ("waves", ctypes.c_float),
        ("reserved", ctypes.c_int * 4),
    )


_P, _I, _U, _S = ctypes.c_void_p, ctypes.c_int, ctypes.c_uint64, ctypes.c_size_t
_OUT = ctypes.POINTER(ctypes.c_void_p)
PROTOTYPES: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "cublasLtGetVersion": (_S, ()),
    "cublasLtGetStatusString": (ctypes.c_char_p, (_I,)),
    "cublasLtCreate": (_I, (_OUT,)),
    "cublasLtDestroy": (_I, (_P,)),
    "cublasLtMatmulDescCreate": (_I, (_OUT, _I, _I)),
    "cublasLtMatmulDescDestroy": (_I, (_P,)),
    "cublasLtMatmulDescSetAttribute": (_I, (_P, _I, _P, _S)),
    "cublasLtMatrixLayoutCreate": (_I, (_OUT, _I, _U, _U, ctypes.c_int64)),
    "cublasLtMatrixLayoutDestroy": (_I, (_P,)),
    "cublasLtMatrixLayoutSetAttribute": (_I, (_P, _I, _P, _S)),
    "cublasLtMatmulPreferenceCreate": (_I, (_OUT,)),
    "cublasLtMatmulPreferenceDestroy": (_I, (_P,)),
    "cublasLtMatmulPreferenceSetAttribute": (_I, (_P, _I, _P, _S)),
    "cublasLtMatmulAlgoGetHeuristic": (_I, (_P, _P, _P, _P, _P, _P, _P, _I, ctypes.POINTER(Heuristic), ctypes.POINTER(_I))),
    "cublasLtMatmul": (_I, (_P, _P, _P, _P, _P, _P, _P, _P, _P, _P, _P, _P, _P, _P, _S, _P)),
}
"""What is called: its result, and its parameters."""


@dataclass(frozen=True)
class Layout:
    """A stack of matrices as the library sees them, columns first.

    leading: elements from a column to the next. count, stride: matrices, and elements from one to the next.
    """

    rows: int
    columns: int
    leading: int
    count: int = 1
    stride: int = 0


@dataclass(frozen=True)
class Scaled:
    """What is added to a product: a bias for each column of y ("bias"), or `by` times a matrix like y ("matrix"); "" for nothing."""

    kind: str = ""
    by: float = 0.0


@dataclass(frozen=True)
class Problem:
    """y [count, m, n] = alpha * a [m, k] @ b [k, n] + what is added, rows first.

    element: "float32", "float16" or "bfloat16", of all of them. turned: whether a is stored k by m, and b n by k.
    strides: elements from one matrix of a, and of b, to the next; 0 where all are the same one.
    """

    element: str
    m: int
    n: int
    k: int
    turned: tuple[bool, bool] = (False, False)
    count: int = 1
    strides: tuple[int, int] = (0, 0)
    alpha: float = 1.0
    added: Scaled = Scaled()

    def layouts(self) -> tuple[Layout, Layout, Layout]:
        """b, a and y, in this order: the library's A, B and D."""
        rows_a, columns_a = (self.k, self.m) if self.turned[0] else (self.m, self.k)
        rows_b, columns_b = (self.n, self.k) if self.turned[1] else (self.k, self.n)
        return (
            Layout(columns_b, rows_b, columns_b, self.count, self.strides[1]),
            Layout(columns_a, rows_a, columns_a, self.count, self.strides[0]),
            Layout(self.n, self.m, self.n, self.count, self.m * self.n),
        )


def located() -> str | None:
    """The library's path, or its name where the system finds it; None where it is not here."""
    try:
        from cuda import pathfinder  # type: ignore[import-untyped,unused-ignore]
    except ImportError:
        return None
    try:
        return str(pathfinder.load_nvidia_dynamic_lib("cublasLt").abs_path)
    except Exception:  # cuda.pathfinder has a class of error for each way of not finding it
        return None


def opened(*, takes_ptx: bool) -> CublasLt | str:
    """The library on the calling thread's device, or a sentence: why products go without it. takes_ptx: what the device loads is PTX."""
    if os.environ.get("TURNOUT_CUBLAS") == "0":
        return "TURNOUT_CUBLAS=0 asks for our own kernels"
    if takes_ptx:
        return "cuBLASLt brings machine code, and this device takes PTX"
    path = located()
    if path is None:
        return f"cuBLASLt is not here: {_PACKAGE}"
    try:
        return CublasLt(ctypes.CDLL(path))
    except OSError as error:
        return f"cuBLASLt could not be loaded: {error}"
    except AttributeError as error:
        return f"this cuBLASLt lacks a function: {error}"
    except RunError as error:
        return f"cuBLASLt does not start on this device: {error.message}"


class CublasLt:
    """The library with a handle on one device. Several threads may use it at once. Raises RunError where it does not start."""

    def __init__(self, library: Any) -> None:
        for name, (result, parameters) in PROTOTYPES.items():
            function = getattr(library, name)
            function.restype, function.argtypes = result, parameters
        self._library = library
        self.handle = self._made("Create")
        version = int(library.cublasLtGetVersion())
        self.version = f"{version // 10000}.{version % 10000 // 100}"
        weakref.finalize(self, library.cublasLtDestroy, self.handle).atexit = False

    def product(self, problem: Problem) -> Product | None:
        """How it computes that; None where it has no algorithm for it. Raises RunError, OutOfMemory."""
        product = Product(self, problem)
        return product if product.found else None

    def status(self, name: str, *arguments: Any) -> int:
        """What a call answers."""
        return int(getattr(self._library, f"cublasLt{name}")(*arguments))

    def call(self, name: str, *arguments: Any) -> None:
        """One call. Raises RunError with the library's words, OutOfMemory."""
        status = self.status(name, *arguments)
        if status:
            raise self.raised(name, status)

    def raised(self, name: str, status: int) -> RunError:
        """The error for a status."""
        said = self._library.cublasLtGetStatusString(status)
        text = f"{said.decode(errors='replace') if said else 'unknown'} (status {status} of cublasLt{name})"
        if status == _OUT_OF_MEMORY:
            return OutOfMemory(f"cuBLASLt: {text}", hint="use smaller inputs, or close models that are not used")
        return RunError(text, hint="TURNOUT_CUBLAS=0 in the environment leaves products to our own kernels")

    def _made(self, name: str, *arguments: Any) -> ctypes.c_void_p:
        made = ctypes.c_void_p()
        self.call(name, ctypes.byref(made), *arguments)
        return made

    def descriptor(self, owner: Any, kind: str, *arguments: Any) -> ctypes.c_void_p:
        """An object of the library's that lives as long as its owner."""
        made = self._made(f"{kind}Create", *arguments)
        weakref.finalize(owner, getattr(self._library, f"cublasLt{kind}Destroy"), made).atexit = False
        return made

    def tell(self, kind: str, made: ctypes.c_void_p, name: str, value: Any) -> None:
        """Sets an attribute, by the header's name for it."""
        self.call(f"{kind}SetAttribute", made, CONSTANTS[f"CUBLASLT_{name}"], ctypes.byref(value), ctypes.sizeof(value))


class Product:
    """A problem with its descriptors and algorithm. One thread at a time. workspace: bytes. found: whether there is an algorithm."""

    def __init__(self, library: CublasLt, problem: Problem) -> None:
        self._library, self._problem = library, problem
        self._alpha, self._beta = ctypes.c_float(problem.alpha), ctypes.c_float(problem.added.by)
        self._operation = library.descriptor(self, "MatmulDesc", CONSTANTS["CUBLAS_COMPUTE_32F"], DTYPES["float32"])
        for name, turned in (("TRANSA", problem.turned[1]), ("TRANSB", problem.turned[0])):
            self._tell(name, ctypes.c_int32(CONSTANTS["CUBLAS_OP_T" if turned else "CUBLAS_OP_N"]))
        if problem.added.kind == "bias":
            self._tell("EPILOGUE", ctypes.c_uint32(CONSTANTS["CUBLASLT_EPILOGUE_BIAS"]))
            self._tell("BIAS_POINTER", ctypes.c_void_p(ALIGNED))  # the heuristic reads its alignment off it
        self._layouts = [self._layout(DTYPES[problem.element], one) for one in problem.layouts()]
        self._algorithm = Heuristic()
        self.found = self._choose()
        self.workspace = int(self._algorithm.workspace)

    def _tell(self, name: str, value: Any) -> None:
        self._library.tell("MatmulDesc", self._operation, f"MATMUL_DESC_{name}", value)

    def _layout(self, kind: int, one: Layout) -> ctypes.c_void_p:
        made = self._library.descriptor(self, "MatrixLayout", kind, one.rows, one.columns, one.leading)
        if one.count > 1:
            self._library.tell("MatrixLayout", made, "MATRIX_LAYOUT_BATCH_COUNT", ctypes.c_int32(one.count))
            self._library.tell("MatrixLayout", made, "MATRIX_LAYOUT_STRIDED_BATCH_OFFSET", ctypes.c_int64(one.stride))
        return made

    def _choose(self) -> bool:
        """Takes the library's first choice, where it has one; sums are never rounded to the elements' type between."""
        library, (first, second, third) = self._library, self._layouts
        preference = library.descriptor(self, "MatmulPreference")
        for name in "ABCD":
            library.tell("MatmulPreference", preference, f"MATMUL_PREF_MIN_ALIGNMENT_{name}_BYTES", ctypes.c_uint32(ALIGNED))
        library.tell("MatmulPreference", preference, "MATMUL_PREF_MAX_WORKSPACE_BYTES", ctypes.c_uint64(_WORKSPACE))
        scheme = ctypes.c_uint32(CONSTANTS["CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE"])
        library.tell("MatmulPreference", preference, "MATMUL_PREF_REDUCTION_SCHEME_MASK", scheme)
        asked = (library.handle, self._operation, first, second, third, third, preference)
        count = ctypes.c_int()
        status = library.status("MatmulAlgoGetHeuristic", *asked, 1, ctypes.byref(self._algorithm), ctypes.byref(count))
        if status not in (0, _NOT_SUPPORTED):
            raise library.raised("MatmulAlgoGetHeuristic", status)
        return not status and count.value > 0 and not self._algorithm.state

    def run(self, a: int, b: int, y: int, added: int, workspace: int, stream: int) -> None:
        """Puts the product onto a stream; all are addresses. Raises RunError, OutOfMemory."""
        library, (first, second, third) = self._library, self._layouts
        kind = self._problem.added.kind
        if kind == "bias":
            self._tell("BIAS_POINTER", ctypes.c_void_p(added))
        alpha, beta = ctypes.byref(self._alpha), ctypes.byref(self._beta)
        operands = (alpha, b, first, a, second, beta, added if kind == "matrix" else y, third, y, third)
        algorithm = ctypes.byref(self._algorithm)  # its first field is the algorithm
        library.call("Matmul", library.handle, self._operation, *operands, algorithm, workspace, self.workspace, stream)
