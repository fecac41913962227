"""What graphs are put together from: embeddings, products with matrices of the file, norms; nodes, with their types and shapes.

Operators are ONNX's own, and com.microsoft's for quantised matrices.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from turnout.graph import ir
from turnout_gguf.reader import Tensor
from turnout_gguf.weights import DENSE, Matrix, Weights

__all__ = ["LEVELS", "OPSETS", "Dims", "Layers", "graph_input"]

OPSETS = {"": 24, "com.microsoft": 1}  # 24: TensorScatter, and Attention over a cache that is not full
_MICROSOFT = "com.microsoft"
_IR_VERSION = 11  # the first with operator sets so new
LEVELS = {"fast": 4, "near": 2, "exact": 0}  # accuracy_level of MatMulNBits: 8 bits, float16 or float32 will do for the activations

Dims = Sequence[int | str]


class Layers:
    """Adds nodes in order. A method takes values and gives the value it adds last.

    dims: of everything that is computed for each token, [batch, tokens]. accuracy: "exact" products compute in float32 throughout, for
    "near" ones a runtime may have the activations in float16, and round them to 8 bits for "fast" ones, which is several times quicker.
    """

    def __init__(self, weights: Weights, dims: Dims, accuracy: str) -> None:
        self.weights = weights
        self.dims = tuple(dims)
        self.level = LEVELS[accuracy]
        self.nodes: list[ir.Node] = []
        self.sums: dict[tuple[ir.Value, int], ir.Value] = {}

    def model(self, inputs: Sequence[ir.Value], outputs: Sequence[ir.Value]) -> ir.Model:
        """All nodes so far as a model. Raises InvalidModel where a tensor of the file was not used."""
        self.weights.check_all_used()
        initializers, name = list(self.weights.initializers.values()), self.weights.file.name
        graph = ir.Graph(inputs, outputs, nodes=self.nodes, initializers=initializers, opset_imports=dict(OPSETS), name=name)
        return ir.Model(graph, ir_version=_IR_VERSION, producer_name="turnout-gguf")

    # tables and matrices

    def embedding(self, table: Tensor, ids: ir.Value, name: str = "embedding") -> ir.Value:
        """Rows of a table, float32 [batch, tokens, width]."""
        width = table.shape[1]
        shape = (*self.dims, width)
        if table.type.name in DENSE:
            dtype = DENSE[table.type.name]
            rows = self.add("Gather", [self.weights.dense(table, transposed=False), ids], shape, f"{name}.rows", dtype)
            return self.as_float(rows)
        matrix = self.weights.matrix((table,), gathered=True)
        form = matrix.form
        blocks = form.blocks(width)
        values = self.weights.add(
            f"{matrix.name}.rows",
            ir.DataType.UINT8,
            (table.shape[0], width * form.bits // 8),
            lambda: matrix.packed.values.reshape(table.shape[0], -1),
            stored=f"{matrix.name}.values",
        )
        how = {"bits": form.bits, "block_size": form.block, "gather_axis": 0, "quantize_axis": 1}
        rows = self.microsoft("GatherBlockQuantized", [values, ids, *self.scales(matrix)], shape, f"{name}.rows", **how)
        if not form.has_offsets:
            return rows
        offsets = self.add("Gather", [self.offsets(matrix, transposed=False), ids], (*self.dims, blocks), f"{name}.offsets")
        offsets = self.add("Unsqueeze", [offsets, self.ints("last_axis", -1)], (*self.dims, blocks, 1), f"{name}.offsets.wide")
        apart = self.split_last(rows, blocks, form.block)
        whole = self.add("Add", [apart, offsets], (*self.dims, blocks, form.block), f"{name}.whole")
        return self.join_last(whole, width, name)

    def linear(self, name: str, x: ir.Value, size: int, *, bias: bool = False) -> ir.Value:
        """A product with a matrix of the file, `bias`: and its bias added."""
        (found,) = self.linears(name, [name], x, [size], biases=[name] if bias else [])
        return found

    def linears(self, name: str, parts: Sequence[str], x: ir.Value, sizes: Sequence[int], biases: Sequence[str] = ()) -> list[ir.Value]:
        """Products of x with several matrices, [batch, tokens, size] each: one product, where they are quantised alike, and a split.

        parts: the tensors' names without `.weight`; a single one may hold the rows of all. biases: those that have one.
        """
        columns = int(x.shape[-1])  # type: ignore[index, arg-type] # these graphs' own values have static last axes
        rows = list(sizes) if len(parts) == len(sizes) else [sum(sizes)]
        tensors = [self.weights.tensor(f"{part}.weight", (size, columns)) for part, size in zip(parts, rows, strict=True)]
        if len(parts) == len(sizes) > 1 and not self._alike(tensors):
            return [self.linear(part, x, size, bias=part in biases) for part, size in zip(parts, sizes, strict=True)]
        together = self.product(tensors, x, name)
        if biases:
            bias = self._bias(name, [(part, size, part in biases) for part, size in zip(parts, rows, strict=True)])
            together = self.add("Add", [together, bias], (*self.dims, sum(rows)), f"{name}.biased")
        if len(sizes) == 1:
            return [together]
        names = list(parts) if len(parts) == len(sizes) else [f"{name}.{i}" for i in range(len(sizes))]
        return self.split(together, sizes, names)

    def _alike(self, tensors: Sequence[Tensor]) -> bool:
        kinds = {tensor.type.name for tensor in tensors}
        return len(kinds) == 1 and not kinds & DENSE.keys()

    def _bias(self, name: str, parts: Sequence[tuple[str, int, bool]]) -> ir.Value:
        if len(parts) == 1:
            return self.weights.vector(f"{parts[0][0]}.bias", parts[0][1])
        arrays: list[Callable[[], NDArray[Any]]] = [
            self.weights.array(f"{part}.bias", (size,)) if there else functools.partial(np.zeros, size, np.float32)
            for part, size, there in parts
        ]
        whole = sum(size for _, size, _ in parts)
        return self.weights.add(f"{name}.bias", ir.DataType.FLOAT, (whole,), lambda: np.concatenate([array() for array in arrays]))

    def product(self, tensors: Sequence[Tensor], x: ir.Value, name: str) -> ir.Value:
        """x @ matrix.T, [..., rows of the matrix], where the matrix is the rows of all tensors one after another."""
        rows, columns = sum(tensor.shape[0] for tensor in tensors), tensors[0].shape[1]
        shape = (*tuple(x.shape or ())[:-1], rows)
        if tensors[0].type.name in DENSE:
            (tensor,) = tensors
            return self.add("MatMul", [x, self.as_float(self.weights.dense(tensor, transposed=True))], shape, name)
        matrix = self.weights.matrix(tuple(tensors))
        form = matrix.form
        blocks = form.blocks(columns)
        values = self._part(matrix, "values", ir.DataType.UINT8, (rows, blocks, form.block * form.bits // 8), lambda: matrix.packed.values)
        how = {"K": columns, "N": rows, "bits": form.bits, "block_size": form.block, "accuracy_level": self.level}
        label = f"{name}.centred" if form.has_offsets else name
        scales = self.scales(matrix)
        if form.bits == 4:  # 8 is the operator's own zero point, for which ONNX Runtime's kernel is quicker; that of 8 bits is slower
            scales = scales[:1]
        y = self.microsoft("MatMulNBits", [x, values, *scales], shape, label, **how)
        if not form.has_offsets:
            return y
        sums = self.block_sums(x, blocks, form.block)
        offset = self.add("MatMul", [sums, self.offsets(matrix, transposed=True)], shape, f"{name}.offset")
        return self.add("Add", [y, offset], shape, name)

    def block_sums(self, x: ir.Value, blocks: int, size: int) -> ir.Value:
        """Sums of x over blocks, [..., blocks]; every matrix that x meets shares them."""
        if (x, size) not in self.sums:
            apart = self.split_last(x, blocks, size)
            axis, shape = self.ints("last_axis", -1), (*tuple(x.shape or ())[:-1], blocks)
            self.sums[x, size] = self.add("ReduceSum", [apart, axis], shape, f"{x.name}.sums{size}", keepdims=0)
        return self.sums[x, size]

    def scales(self, matrix: Matrix) -> list[ir.Value]:
        """Scales and zero points of a quantised matrix."""
        (rows, columns) = matrix.shape
        blocks, nbytes = matrix.form.blocks(columns), matrix.form.zero_bytes(columns)
        return [
            self._part(matrix, "scales", ir.DataType.FLOAT, (rows, blocks), lambda: matrix.packed.scales),
            self._part(matrix, "zeros", ir.DataType.UINT8, (rows, nbytes), lambda: matrix.packed.zero_points),
        ]

    def _part(self, matrix: Matrix, part: str, dtype: ir.DataType, shape: tuple[int, ...], make: Callable[[], NDArray[Any]]) -> ir.Value:
        return self.weights.add(f"{matrix.name}.{part}", dtype, shape, make, stored=f"{matrix.name}.{part}")

    def offsets(self, matrix: Matrix, *, transposed: bool) -> ir.Value:
        (rows, columns) = matrix.shape
        blocks = matrix.form.blocks(columns)

        def made() -> NDArray[Any]:
            offsets = matrix.packed.offsets
            assert offsets is not None
            return offsets.T[None] if transposed else offsets

        # of three axes: one of two ONNX Runtime copies at each load, for products that are no quicker with one token or with many
        name, shape = ("offsets.transposed", (1, blocks, rows)) if transposed else ("offsets", (rows, blocks))
        return self._part(matrix, name, ir.DataType.FLOAT, shape, made)

    # norms and functions

    def norm(self, name: str, x: ir.Value, epsilon: float) -> ir.Value:
        """RMS norm over the last axis."""
        shape = tuple(x.shape or ())
        weight = self.weights.vector(f"{name}.weight", int(shape[-1]))  # type: ignore[arg-type]
        return self.add("RMSNormalization", [x, weight], shape, name, axis=-1, epsilon=epsilon)

    def gate(self, kind: str, x: ir.Value) -> ir.Value:
        shape = tuple(x.shape or ())
        if kind == "gelu":
            return self.add("Gelu", [x], shape, f"{x.name}.gelu", approximate="tanh")
        sigmoid = self.add("Sigmoid", [x], shape, f"{x.name}.sigmoid")
        return self.add("Mul", [x, sigmoid], shape, f"{x.name}.silu")

    # nodes

    def split(self, x: ir.Value, sizes: Sequence[int], names: Sequence[str]) -> list[ir.Value]:
        """Parts of the last axis."""
        front = tuple(x.shape or ())[:-1]
        outputs = [_value(name, ir.DataType.FLOAT, (*front, size)) for name, size in zip(names, sizes, strict=True)]
        self._node("", "Split", [x, self.ints("sizes", *sizes)], outputs, f"{x.name}.split", {"axis": -1})
        return outputs

    def split_last(self, x: ir.Value, count: int, size: int) -> ir.Value:
        """[batch, tokens, count * size] to [batch, tokens, count, size]."""
        front = tuple(x.shape or ())[:-1]
        return self.add("Reshape", [x, self.ints("apart", 0, 0, count, size)], (*front, count, size), f"{x.name}.apart{size}")

    def join_last(self, x: ir.Value, width: int, name: str) -> ir.Value:
        """[batch, tokens, count, size] to [batch, tokens, count * size]."""
        return self.add("Reshape", [x, self.ints("joined", 0, 0, width)], (*self.dims, width), name)

    def as_float(self, x: ir.Value) -> ir.Value:
        if x.dtype == ir.DataType.FLOAT:
            return x
        return self.add("Cast", [x], tuple(x.shape or ()), f"{x.name}.float32", to=int(ir.DataType.FLOAT))

    def ints(self, name: str, *numbers: int) -> ir.Value:
        return self.constant(f"{name}.{'.'.join(map(str, numbers))}", np.array(numbers, np.int64))

    def number(self, number: int) -> ir.Value:
        return self.constant(f"number.{number}", np.array(number, np.int64))

    def scalar(self, name: str, number: float) -> ir.Value:
        return self.constant(name, np.array(number, np.float32))

    def constant(self, name: str, array: NDArray[Any]) -> ir.Value:
        return self.weights.add(name, ir.DataType.from_numpy(array.dtype), array.shape, lambda: array)

    def microsoft(self, operator: str, inputs: Sequence[ir.Value], shape: Sequence[Any], name: str, **attributes: Any) -> ir.Value:
        output = _value(name, ir.DataType.FLOAT, shape)
        self._node(_MICROSOFT, operator, inputs, [output], name, attributes)
        return output

    def add(
        self,
        operator: str,
        inputs: Sequence[ir.Value | None],
        shape: Sequence[Any],
        name: str,
        dtype: ir.DataType = ir.DataType.FLOAT,
        **attributes: Any,
    ) -> ir.Value:
        output = _value(name, dtype, shape)
        self._node("", operator, inputs, [output], name, attributes)
        return output

    def _node(
        self,
        domain: str,
        operator: str,
        inputs: Sequence[ir.Value | None],
        outputs: Sequence[ir.Value],
        name: str,
        attributes: dict[str, Any],
    ) -> None:
        node = ir.node(operator, list(inputs), attributes, domain=domain, outputs=list(outputs), version=OPSETS[domain], name=name)
        self.nodes.append(node)


def _value(name: str, dtype: ir.DataType, shape: Sequence[Any]) -> ir.Value:
    return ir.Value(name=name, type=ir.TensorType(dtype), shape=ir.Shape(shape))


graph_input: Callable[[str, ir.DataType, Dims], ir.Value] = _value
