"""A file's tensors as initializers of a graph: mapped where a runtime takes the bytes as they lie, else repacked when first read."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from turnout.errors import InvalidModel
from turnout.graph import ir
from turnout_gguf.blocks import QUANTISED, dequantise
from turnout_gguf.reader import Gguf, Tensor
from turnout_gguf.repack import Form, Packed, form_of, repack

__all__ = ["DENSE", "Matrix", "Weights"]

DENSE: dict[str, ir.DataType] = {"F32": ir.DataType.FLOAT, "F16": ir.DataType.FLOAT16, "BF16": ir.DataType.BFLOAT16}
"""The types whose elements a runtime reads as they are."""


class Matrix:
    """One quantised matrix, repacked once, when the first of its parts is read."""

    def __init__(self, file: Gguf, tensor: Tensor) -> None:
        self.form: Form = form_of(tensor.type)
        self._file = file
        self._tensor = tensor

    @functools.cached_property
    def packed(self) -> Packed:
        return repack(self._file.raw(self._tensor), self._tensor.type, self.form)


class Weights:
    """Initializers over the tensors of one file. Every tensor that is asked for is checked, and counted as used."""

    def __init__(self, file: Gguf) -> None:
        self.file = file
        self.initializers: dict[str, ir.Value] = {}
        self._matrices: dict[str, Matrix] = {}
        self._used: set[str] = set()

    def has(self, name: str) -> bool:
        return name in self.file.tensors

    def rows(self, name: str) -> int:
        """The outermost dimension of a tensor that has to be there."""
        return self._found(name).shape[0]

    def _found(self, name: str) -> Tensor:
        found = self.file.tensors.get(name)
        if found is None:
            raise self._broken(f"tensor {name!r} is missing", "convert the model again")
        return found

    def tensor(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """A tensor that has to be there, with this shape and a type that can be read."""
        found = self._found(name)
        if found.shape != shape:
            raise self._broken(f"tensor {name!r} is {list(found.shape)}, and the metadata want {list(shape)}", "convert the model again")
        if found.type.name not in DENSE and found.type.name not in QUANTISED:
            kinds = ", ".join((*DENSE, *QUANTISED))
            raise self._broken(f"tensor {name!r} has type {found.type}, and turnout reads {kinds}", "take the model in one of those")
        self._used.add(name)
        return found

    def check_all_used(self) -> None:
        """Raises InvalidModel where a tensor is left over: without it the model would compute something else."""
        left = [name for name in self.file.tensors if name not in self._used]
        if left:
            listed = ", ".join(left[:3]) + (" ..." if len(left) > 3 else "")
            raise self._broken(f"{len(left)} tensors have no place in its architecture: {listed}", "update turnout-gguf")

    def vector(self, name: str, size: int) -> ir.Value:
        """A vector, float32 [size]."""
        tensor = self.tensor(name, (size,))
        raw = self.file.raw(tensor)
        if tensor.type.name == "F32":
            return self.add(name, ir.DataType.FLOAT, (size,), lambda: _mapped(raw, np.dtype(np.float32))[0])
        return self.add(name, ir.DataType.FLOAT, (size,), lambda: dequantise(raw, tensor.type)[0])

    def dense(self, tensor: Tensor, *, transposed: bool) -> ir.Value:
        """A matrix of a dense type, as it lies or seen from the other side."""
        dtype, raw = DENSE[tensor.type.name], self.file.raw(tensor)
        rows, columns = tensor.shape
        if transposed:
            name = f"{tensor.name}.transposed"
            return self.add(name, dtype, (columns, rows), lambda: _mapped(raw, dtype.numpy()).T)
        return self.add(tensor.name, dtype, (rows, columns), lambda: _mapped(raw, dtype.numpy()))

    def matrix(self, tensor: Tensor) -> Matrix:
        """A quantised matrix; asked for twice, it is the same one."""
        if tensor.name not in self._matrices:
            self._matrices[tensor.name] = Matrix(self.file, tensor)
        return self._matrices[tensor.name]

    def add(self, name: str, dtype: ir.DataType, shape: tuple[int, ...], make: Callable[[], NDArray[Any]]) -> ir.Value:
        """An initializer whose array is made when it is first read."""
        if name not in self.initializers:
            tensor = ir.LazyTensor(lambda: ir.Tensor(make(), dtype), dtype=dtype, shape=ir.Shape(shape), name=name)
            self.initializers[name] = ir.Value(name=name, type=ir.TensorType(dtype), shape=ir.Shape(shape), const_value=tensor)
        return self.initializers[name]

    def _broken(self, what: str, hint: str) -> InvalidModel:
        return InvalidModel(f"{self.file.name}: {what}", hint=hint)


def _mapped(raw: NDArray[np.uint8], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Bytes of the file as numbers; copied only where they lie at an odd address."""
    return np.require(raw.view(dtype), requirements="A")
