"""A stand-in for cuBLASLt: the functions that turnout_cuda.cublaslt calls, as cublasLt.h describes them, over a plain kernel of its own.

Written from the header and not from the binding: prototypes, sizes of attributes and what counts as a column are said here again. Like the
library, it puts kernels on the stream that it is given, so it works under capture. It answers CUBLAS_STATUS_INVALID_VALUE where the
library may, and keeps what it was asked in `calls`.
"""

import ctypes
import struct
from typing import Any

from cuda.bindings import driver

from turnout_cuda.build import Target, make

SUCCESS, NOT_INITIALIZED, ALLOC_FAILED, INVALID_VALUE, EXECUTION_FAILED, NOT_SUPPORTED = 0, 1, 3, 7, 13, 15
SPARE = 4096
"""Bytes of workspace that each product wants."""
MARK = 0x5EED

KERNEL = """
extern "C" __global__ void lt_TYPE(const TYPE* a, const TYPE* b, const TYPE* c, TYPE* d, const TYPE* bias, unsigned* spare, float alpha,
        float beta, long long m, long long n, long long k, long long lda, long long ldb, long long ldc, long long ldd, int ta, int tb,
        long long sa, long long sb, long long sc, long long sd) {
    const long long i = (long long)blockIdx.x * 64 + threadIdx.x, z = blockIdx.y;
    if (i == 0) spare[z % 1024] = 1;
    if (i >= m * n) return;
    const long long row = i % m, column = i / m;
    float sum = 0;
    for (long long p = 0; p < k; ++p)
        sum += up(a[z * sa + (ta ? row * lda + p : p * lda + row)]) * up(b[z * sb + (tb ? p * ldb + column : column * ldb + p)]);
    float value = alpha * sum;
    if (beta != 0) value += beta * up(c[z * sc + column * ldc + row]);
    if (bias) value += up(bias[row]);
    d[z * sd + column * ldd + row] = down<TYPE>(value);
}
"""
TYPES = {0: ("float", 4), 2: ("f16", 2), 14: ("bf16", 2)}

_P, _I, _S, _U, _L = ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t, ctypes.c_uint64, ctypes.c_int64
_SET = (_I, _P, _I, _P, _S)


def function(*types: Any) -> Any:
    """Marks a method as one that C calls: its result, then its parameters."""

    def mark(method: Any) -> Any:
        method.types = types
        return method

    return mark


class StandIn:
    """The library. fails: function name to the status that it answers. refuses: whether it has no algorithm for anything."""

    def __init__(self, *, refuses: bool = False, **fails: int) -> None:
        self._fails, self._refuses = fails, refuses
        self._objects: dict[int, dict[str, Any]] = {}
        self._next = 0x1000
        self._loaded: dict[str, Any] = {}
        self.calls: list[str] = []
        self.products: list[dict[str, Any]] = []
        for name in [one for one in dir(type(self)) if one.startswith("cublasLt")]:
            method = getattr(self, name)
            setattr(self, name, ctypes.CFUNCTYPE(*method.types)(self._counted(name, method)))

    def _counted(self, name: str, method: Any) -> Any:
        def call(*given: Any) -> Any:
            self.calls.append(name)
            return self._fails.get(name, 0) or method(*given)

        return call

    @property
    def alive(self) -> int:
        """Objects that were made and not given back."""
        return len(self._objects)

    def _make(self, into: int, **facts: Any) -> int:
        self._next += 16
        self._objects[self._next] = {"attributes": {}, **facts}
        ctypes.c_void_p.from_address(into).value = self._next
        return SUCCESS

    def _drop(self, which: int) -> int:
        return SUCCESS if self._objects.pop(which, None) is not None else INVALID_VALUE

    def _set(self, which: int, attribute: int, source: int, size: int, sizes: dict[int, str]) -> int:
        form = sizes.get(attribute)
        if which not in self._objects or form is None or struct.calcsize(form) != size:
            return INVALID_VALUE
        (self._objects[which]["attributes"][attribute],) = struct.unpack(form, ctypes.string_at(source, size))
        return SUCCESS

    @function(_S)
    def cublasLtGetVersion(self) -> int:
        return 131000

    @function(ctypes.c_void_p, _I)
    def cublasLtGetStatusString(self, status: int) -> int:
        self._text = ctypes.create_string_buffer(f"stand-in says {status}".encode())
        return ctypes.addressof(self._text)

    @function(_I, _P)
    def cublasLtCreate(self, into: int) -> int:
        return self._make(into, kind="handle")

    @function(_I, _P)
    def cublasLtDestroy(self, which: int) -> int:
        return self._drop(which)

    @function(_I, _P, _I, _I)
    def cublasLtMatmulDescCreate(self, into: int, compute: int, scale: int) -> int:
        return self._make(into, kind="operation") if (compute, scale) == (68, 0) else NOT_SUPPORTED

    @function(_I, _P)
    def cublasLtMatmulDescDestroy(self, which: int) -> int:
        return self._drop(which)

    @function(*_SET)
    def cublasLtMatmulDescSetAttribute(self, which: int, attribute: int, source: int, size: int) -> int:
        return self._set(which, attribute, source, size, {3: "i", 4: "i", 7: "I", 8: "P"})

    @function(_I, _P, _I, _U, _U, _L)
    def cublasLtMatrixLayoutCreate(self, into: int, kind: int, rows: int, columns: int, leading: int) -> int:
        if kind not in TYPES or leading < rows or 0 in (rows, columns):
            return INVALID_VALUE
        return self._make(into, kind="layout", type=kind, rows=rows, columns=columns, leading=leading)

    @function(_I, _P)
    def cublasLtMatrixLayoutDestroy(self, which: int) -> int:
        return self._drop(which)

    @function(*_SET)
    def cublasLtMatrixLayoutSetAttribute(self, which: int, attribute: int, source: int, size: int) -> int:
        return self._set(which, attribute, source, size, {5: "i", 6: "q"})

    @function(_I, _P)
    def cublasLtMatmulPreferenceCreate(self, into: int) -> int:
        return self._make(into, kind="preference")

    @function(_I, _P)
    def cublasLtMatmulPreferenceDestroy(self, which: int) -> int:
        return self._drop(which)

    @function(*_SET)
    def cublasLtMatmulPreferenceSetAttribute(self, which: int, attribute: int, source: int, size: int) -> int:
        return self._set(which, attribute, source, size, {1: "Q", 3: "I", 5: "I", 6: "I", 7: "I", 8: "I"})

    @function(_I, _P, _P, _P, _P, _P, _P, _P, _I, _P, _P)
    def cublasLtMatmulAlgoGetHeuristic(
        self, handle: int, operation: int, a: int, b: int, c: int, d: int, preference: int, wanted: int, into: int, count: int
    ) -> int:
        facts = self._problem(operation, a, b, c, d)
        kinds = [self._objects.get(one, {}).get("kind") for one in (handle, preference)]
        if facts is None or kinds != ["handle", "preference"] or wanted < 1:
            return INVALID_VALUE
        if self._refuses or self._objects[preference]["attributes"].get(1, 0) < SPARE:
            ctypes.c_int.from_address(count).value = 0
            return NOT_SUPPORTED
        # cublasLtMatmulHeuristicResult_t: uint64_t algo[8]; size_t workspace; int state; float waves; int reserved[4]
        ctypes.memmove(into, struct.pack("8QQif4i", MARK, *[0] * 7, SPARE, 0, 1.0, *[0] * 4), 96)
        ctypes.c_int.from_address(count).value = 1
        return SUCCESS

    def _problem(self, operation: int, *layouts: int) -> dict[str, Any] | None:
        """What a product is, where its parts fit each other."""
        made = [self._objects.get(one) for one in (operation, *layouts)]
        if [one and one["kind"] for one in made] != ["operation", *["layout"] * 4]:
            return None
        (first, *rest) = made
        told = first["attributes"]
        turned = told.get(3, 0), told.get(4, 0)
        sizes = [(one["rows"], one["columns"]) for one in rest]
        (m, k), (k2, n) = (size[::-1] if turn else size for size, turn in zip(sizes[:2], turned, strict=True))
        counts = {one["attributes"].get(5, 1) for one in rest}
        if k != k2 or sizes[2] != (m, n) or sizes[3] != (m, n) or len(counts) != 1 or len({one["type"] for one in rest}) != 1:
            return None
        return {
            "sizes": (m, n, k),
            "turned": turned,
            "type": rest[0]["type"],
            "leading": [one["leading"] for one in rest],
            "strides": [one["attributes"].get(6, 0) for one in rest],
            "count": counts.pop(),
            "bias": told.get(8, 0) if told.get(7, 1) == 4 else 0,
        }

    @function(_I, _P, _P, _P, _P, _P, _P, _P, _P, _P, _P, _P, _P, _P, _P, _S, _P)
    def cublasLtMatmul(
        self, handle: int, operation: int, alpha: int, a: int, la: int, b: int, lb: int, beta: int, c: int, lc: int, d: int, ld: int,
        algorithm: int, spare: int, size: int, stream: int,
    ) -> int:  # fmt: skip
        facts = self._problem(operation, la, lb, lc, ld)
        if facts is None or ctypes.c_uint64.from_address(algorithm).value != MARK or not spare or size < SPARE:
            return INVALID_VALUE
        if any(address % 16 for address in (a, b, c, d, facts["bias"] or 0)):
            return INVALID_VALUE
        scales = [ctypes.c_float.from_address(one).value for one in (alpha, beta)]
        self.products.append({**facts, "alpha": scales[0], "beta": scales[1]})
        (m, n, k), name = facts["sizes"], TYPES[facts["type"]][0]
        values = (a, b, c, d, facts["bias"] or 0, spare, *scales, m, n, k, *facts["leading"], *facts["turned"], *facts["strides"])
        kinds = (*[_P] * 6, *[ctypes.c_float] * 2, *[_L] * 7, *[_I] * 2, *[_L] * 4)
        grid = (-(-m * n // 64), facts["count"], 1)
        (code,) = driver.cuLaunchKernel(self._kernel(name), *grid, 64, 1, 1, 0, stream or 0, (values, kinds), 0)
        return EXECUTION_FAILED if code.value else SUCCESS

    def _kernel(self, name: str) -> Any:
        if name not in self._loaded:
            source = make(KERNEL.replace("TYPE", name), Target("sm_80", ptx=True))
            _, library = driver.cuLibraryLoadData(source, [], [], 0, [], [], 0)
            _, kernel = driver.cuLibraryGetKernel(library, f"lt_{name}".encode())
            self._loaded[name] = driver.CUfunction(int(driver.cuKernelGetFunction(kernel)[1])), source
        return self._loaded[name][0]
