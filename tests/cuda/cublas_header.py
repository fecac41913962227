"""The binding of cuBLASLt against the package nvidia-cublas: python tests/cuda/cublas_header.py, beside turnout-cuda[cublas].

Constants, prototypes and the one struct are read out of the package's headers; the library is loaded, and descriptors and layouts are
made and read back, for which it needs no GPU. Last, it is started: without a GPU it must say so, and not crash. Ends with status 1 where
anything differs, and where the package is not here.
"""

import ctypes
import importlib.metadata
import re
import sys
from pathlib import Path
from typing import Any

from turnout.errors import RunError
from turnout_cuda.cublaslt import CONSTANTS, DTYPES, PROTOTYPES, CublasLt, Heuristic, Problem, located

_KINDS = {"uint64_t": "8 bytes", "int64_t": "8 bytes", "size_t": "8 bytes", "int": "int"}
_ENUMS = re.compile(r"cudaDataType(_t)?|cublasComputeType_t|cublasStatus_t|cublasLt\w+Attributes?_t")


def headers() -> str:
    """The text of the package's headers, without comments."""
    files = importlib.metadata.files("nvidia-cublas") or []
    wanted = {"cublasLt.h", "cublas_api.h"}
    found = [Path(str(one.locate())).read_text("utf-8") for one in files if one.name in wanted]
    assert len(found) == len(wanted), "nvidia-cublas has no headers"
    return re.sub(r"/\*.*?\*/|//[^\n]*", "", "\n".join(found), flags=re.DOTALL)


def constants(text: str) -> list[str]:
    """Names whose value is another one there."""
    there = {name: int(value, 0) for name, value in re.findall(r"\b(CUBLAS\w+)\s*=\s*(0x[\da-fA-F]+|\d+)", text)}
    return [f"{name} is {there.get(name)}, not {value}" for name, value in CONSTANTS.items() if there.get(name) != value]


def prototypes(text: str) -> list[str]:
    """Functions that are declared otherwise there: an enum is an int, and every pointer or handle is an address."""
    wrong = []
    for name, (result, parameters) in PROTOTYPES.items():
        found = re.search(rf"([\w \*]+?)\s*(?:CUBLASWINAPI\s+)?\b{name}\(([^)]*)\)", text)
        if found is None:
            wrong.append(f"{name} is not declared")
            continue
        declared = [_kind(one) for one in found[2].split(",") if one.strip() not in ("", "void")]
        own = [_own(one) for one in parameters]
        if declared != own or _kind(f"{found[1].replace('CUBLASWINAPI', '')} result") != _own(result):
            wrong.append(f"{name} takes {declared}, not {own}")
    return wrong


def _kind(declaration: str) -> str:
    words = declaration.replace("const ", " ").strip()
    kind = re.sub(r"\s*\w+(\[\])?$", "", words).strip()
    if _ENUMS.fullmatch(kind):
        return "int"
    if "*" in words or "[" in words or re.fullmatch(r"cudaStream_t|cublasLt\w+_t", kind):
        return "address"
    return _KINDS[kind]


def _own(kind: Any) -> str:
    if kind in (ctypes.c_void_p, ctypes.c_char_p) or issubclass(kind, ctypes._Pointer):
        return "address"
    return "int" if kind is ctypes.c_int else f"{ctypes.sizeof(kind)} bytes"


def struct(text: str) -> list[str]:
    """What differs in cublasLtMatmulHeuristicResult_t."""
    ((body),) = re.findall(r"typedef struct \{([^}]*)\} cublasLtMatmulHeuristicResult_t;", text)
    fields = [(kind, name, int(count or 1)) for kind, name, count in re.findall(r"(\w+) (\w+)(?:\[(\d+)\])?;", body)]
    ((words),) = re.findall(r"typedef struct \{\s*uint64_t data\[(\d+)\];\s*\} cublasLtMatmulAlgo_t;", text)
    sizes = {"cublasLtMatmulAlgo_t": 8 * int(words), "size_t": 8, "cublasStatus_t": 4, "float": 4, "int": 4}
    there = [sizes[kind] * count for kind, _, count in fields]
    own = [ctypes.sizeof(kind) for _, kind in Heuristic._fields_]
    return [] if there == own else [f"the heuristic's result has fields of {there} bytes, not {own}"]


def descriptors(library: ctypes.CDLL) -> list[str]:
    """What reads back otherwise than it was set: row-major products as the library's layouts, without a device."""
    wrong = []
    for problem in (
        Problem("float32", 3, 5, 7),
        Problem("float16", 3, 5, 7, (True, False), 4, (21, 0)),
        Problem("bfloat16", 3, 5, 7, (False, True)),
    ):
        for one in problem.layouts():
            made = ctypes.c_void_p()
            status = library.cublasLtMatrixLayoutCreate(
                ctypes.byref(made),
                DTYPES[problem.element],
                ctypes.c_uint64(one.rows),
                ctypes.c_uint64(one.columns),
                ctypes.c_int64(one.leading),
            )
            for name, value in (("BATCH_COUNT", ctypes.c_int32(one.count)), ("STRIDED_BATCH_OFFSET", ctypes.c_int64(one.stride))):
                attribute = CONSTANTS[f"CUBLASLT_MATRIX_LAYOUT_{name}"]
                status = status or library.cublasLtMatrixLayoutSetAttribute(made, attribute, ctypes.byref(value), ctypes.sizeof(value))
            # cublasLtMatrixLayoutAttribute_t: type, rows, columns, leading dimension, count, stride
            kinds = {0: ctypes.c_uint32, 2: ctypes.c_uint64, 3: ctypes.c_uint64, 4: ctypes.c_int64, 5: ctypes.c_int32, 6: ctypes.c_int64}
            read = [_read(library.cublasLtMatrixLayoutGetAttribute, made, attribute, kind()) for attribute, kind in kinds.items()]
            wanted = [DTYPES[problem.element], one.rows, one.columns, one.leading, one.count, one.stride]
            library.cublasLtMatrixLayoutDestroy(made)
            if status or read != wanted:
                wrong.append(f"a layout reads back as {read}, not {wanted} (status {status})")
    return wrong + _attributes(library, "MatmulDesc", 68, 0) + _attributes(library, "MatmulPreference")


def _attributes(library: ctypes.CDLL, kind: str, *given: int) -> list[str]:
    """The attributes of an operation or a preference that do not read back."""
    made, wrong = ctypes.c_void_p(), []
    status = getattr(library, f"cublasLt{kind}Create")(ctypes.byref(made), *given)
    values = {
        "MATMUL_DESC_TRANSA": ctypes.c_int32(1),
        "MATMUL_DESC_TRANSB": ctypes.c_int32(1),
        "MATMUL_DESC_EPILOGUE": ctypes.c_uint32(CONSTANTS["CUBLASLT_EPILOGUE_BIAS"]),
        "MATMUL_DESC_BIAS_POINTER": ctypes.c_uint64(4096),
        "MATMUL_PREF_MAX_WORKSPACE_BYTES": ctypes.c_uint64(32 << 20),
        "MATMUL_PREF_REDUCTION_SCHEME_MASK": ctypes.c_uint32(CONSTANTS["CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE"]),
        **{f"MATMUL_PREF_MIN_ALIGNMENT_{name}_BYTES": ctypes.c_uint32(16) for name in "ABCD"},
    }
    for name, value in values.items():
        if name.startswith("MATMUL_DESC") != (kind == "MatmulDesc"):
            continue
        attribute = CONSTANTS[f"CUBLASLT_{name}"]
        status = status or getattr(library, f"cublasLt{kind}SetAttribute")(made, attribute, ctypes.byref(value), ctypes.sizeof(value))
        got = _read(getattr(library, f"cublasLt{kind}GetAttribute"), made, attribute, type(value)())
        if status or got != value.value:
            wrong.append(f"{name} reads back as {got}, not {value.value} (status {status})")
    getattr(library, f"cublasLt{kind}Destroy")(made)
    return wrong


def _read(get: Any, made: ctypes.c_void_p, attribute: int, value: Any) -> Any:
    written = ctypes.c_size_t()
    status = get(made, attribute, ctypes.byref(value), ctypes.sizeof(value), ctypes.byref(written))
    return f"status {status}" if status else value.value


def main() -> int:
    path = located()
    if path is None:
        print("nvidia-cublas is not here: nothing was checked")
        return 1
    text = headers()
    library = ctypes.CDLL(path)
    wrong = [*constants(text), *prototypes(text), *struct(text), *descriptors(library)]
    print("\n".join(wrong), end="\n" if wrong else "")
    try:
        started = f"started, version {CublasLt(library).version}"
    except RunError as error:
        started = f"not started here: {error.message}"
    version = importlib.metadata.version("nvidia-cublas")
    print(f"nvidia-cublas {version}: {len(CONSTANTS)} constants, {len(PROTOTYPES)} functions, {len(wrong)} wrong; {started}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
