"""A file's tensors as initializers of a graph: mapped where a runtime takes the bytes as they lie, else repacked when first read."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from turnout.errors import InvalidModel
from turnout.graph import declare_place, ir
from turnout_gguf.blocks import QUANTISED, dequantise
from turnout_gguf.reader import Gguf, Tensor
from turnout_gguf.repack import Form, Packed, form_of, joined, repack
from turnout_gguf.store import Store, Wanted

__all__ = ["DENSE", "Matrix", "Weights"]

DENSE: dict[str, ir.DataType] = {"F32": ir.DataType.FLOAT, "F16": ir.DataType.FLOAT16, "BF16": ir.DataType.BFLOAT16}
"""The types whose elements a runtime reads as they are."""


class Matrix:
    """One quantised matrix, repacked once, when the first of its parts is read: the rows of some tensors, one after another.

    gathered: its rows are looked up, and not multiplied with.
    """

    def __init__(self, file: Gguf, tensors: tuple[Tensor, ...], *, gathered: bool) -> None:
        self.form: Form = form_of(tensors[0].type, narrowest=4 if gathered else 2)
        self.name = "+".join(tensor.name for tensor in tensors)
        if gathered and self.form != form_of(tensors[0].type):
            self.name += ".wide"
        self.shape = (sum(tensor.shape[0] for tensor in tensors), tensors[0].shape[1])
        self._file = file
        self._tensors = tensors

    @functools.cached_property
    def packed(self) -> Packed:
        return joined([repack(self._file.raw(tensor), tensor.type, self.form) for tensor in self._tensors])


class Weights:
    """Initializers over the tensors of one file. Every tensor that is asked for is checked, and counted as used."""

    def __init__(self, file: Gguf, store: Store | None = None, *, hold: bool = True) -> None:
        """hold: arrays stay in memory once they were read; False for whoever reads each once, and has less memory than weights."""
        self.file = file
        self._hold = hold
        self.initializers: dict[str, ir.Value] = {}
        self._store = store
        self._stored: dict[str, Wanted] = {}
        self._arrays: dict[str, tuple[NDArray[Any], int]] | None = None
        self._lock = threading.Lock()
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
            listed = ", ".join(f"{name!r:.80}" for name in left[:3]) + (" ..." if len(left) > 3 else "")
            raise self._broken(f"{len(left)} tensors have no place in its architecture: {listed}", "update turnout-gguf")

    def vector(self, name: str, size: int) -> ir.Value:
        """A vector, float32 [size]."""
        tensor = self.tensor(name, (size,))
        if tensor.type.name == "F32":
            return self.add(name, ir.DataType.FLOAT, (size,), lambda: _mapped(self.file.raw(tensor), np.dtype(np.float32))[0])
        return self.add(name, ir.DataType.FLOAT, (size,), lambda: dequantise(self.file.raw(tensor), tensor.type)[0])

    def dense(self, tensor: Tensor, *, transposed: bool) -> ir.Value:
        """A matrix of a dense type, as it lies or seen from the other side."""
        dtype = DENSE[tensor.type.name]
        rows, columns = tensor.shape
        if transposed:
            name = f"{tensor.name}.transposed"
            return self.add(name, dtype, (columns, rows), lambda: _mapped(self.file.raw(tensor), dtype.numpy()).T, stored=name)
        return self.add(tensor.name, dtype, (rows, columns), lambda: _mapped(self.file.raw(tensor), dtype.numpy()))

    def matrix(self, tensors: tuple[Tensor, ...], *, gathered: bool = False) -> Matrix:
        """A quantised matrix; asked for twice, it is the same one."""
        made = Matrix(self.file, tensors, gathered=gathered)
        return self._matrices.setdefault(made.name, made)

    def array(self, name: str, shape: tuple[int, ...]) -> Callable[[], NDArray[np.float32]]:
        """Makes the array of a tensor that has to be there, float32."""
        tensor = self.tensor(name, shape)
        return lambda: dequantise(self.file.raw(tensor).reshape(1, -1), tensor.type).reshape(shape)

    def add(
        self,
        name: str,
        dtype: ir.DataType,
        shape: tuple[int, ...],
        make: Callable[[], NDArray[Any]],
        *,
        stored: str | None = None,
    ) -> ir.Value:
        """An initializer whose array is made when it is first read.

        stored: the array's name in the store, where it is worth keeping; two initializers of the same bytes may share one.
        """
        if name not in self.initializers:
            if stored is not None and self._store is not None:
                self._stored.setdefault(stored, Wanted(dtype.numpy(), shape, make))
                make = functools.partial(self._kept, stored, name, make)
            tensor = ir.LazyTensor(functools.partial(_tensor, make, dtype), dtype=dtype, shape=ir.Shape(shape), name=name, cache=self._hold)
            self.initializers[name] = ir.Value(name=name, type=ir.TensorType(dtype), shape=ir.Shape(shape), const_value=tensor)
        return self.initializers[name]

    def _kept(self, stored: str, name: str, make: Callable[[], NDArray[Any]]) -> NDArray[Any]:
        """An initializer's array out of the store, which is made as a whole when the first array is read."""
        assert self._store is not None
        with self._lock:
            if self._arrays is None:
                self._arrays = self._store.arrays(self._stored) or {}
        found = self._arrays.get(stored)
        if found is None:
            return make()
        array, offset = found
        tensor = self.initializers[name].const_value
        assert tensor is not None
        declare_place(tensor, self._store.path, offset)
        return array.reshape(tensor.shape.numpy())

    def _broken(self, what: str, hint: str) -> InvalidModel:
        return InvalidModel(f"{self.file.name}: {what}", hint=hint)


def _mapped(raw: NDArray[np.uint8], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Bytes of the file as numbers; copied only where they lie at an odd address."""
    return np.require(raw.view(dtype), requirements="A")


def _tensor(make: Callable[[], NDArray[Any]], dtype: ir.DataType) -> ir.TensorProtocol:
    return ir.Tensor(make(), dtype)
