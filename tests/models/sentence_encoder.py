"""all-MiniLM-L6-v2 as an ONNX graph over its own safetensors file, whose bytes become the model's external data; and its tokenizer."""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

LAYERS, HEADS, WIDTH = 6, 12, 384


def write(safetensors: Path, target: Path) -> None:
    """The graph; `target` must come to lie in the folder of the weights' file."""
    maker = _Maker(safetensors)
    flat = helper.make_graph(list(maker.nodes()), "minilm", _inputs(), _outputs(), maker.initializers())
    model = helper.make_model(flat, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    target.write_bytes(model.SerializeToString())


def _inputs() -> list[onnx.ValueInfoProto]:
    return [helper.make_tensor_value_info(name, onnx.TensorProto.INT64, ["batch", "length"]) for name in ("ids", "mask")]


def _outputs() -> list[onnx.ValueInfoProto]:
    return [helper.make_tensor_value_info("sentence", onnx.TensorProto.FLOAT, ["batch", WIDTH])]


CONSTANTS: dict[str, Any] = {
    "tokens": np.array([0, 0, HEADS, WIDTH // HEADS]),
    "merged": np.array([0, 0, WIDTH]),
    "scale": np.float32((WIDTH // HEADS) ** -0.5),
    "lowest": np.float32(-10000),
    "one": np.float32(1),
    "zero_i": np.array(0),
    "one_i": np.array(1),
    "axis1": np.array([1]),
    "axes12": np.array([1, 2]),
    "axis2": np.array([2]),
}


class _Maker:
    def __init__(self, file: Path) -> None:
        self.file = file
        with file.open("rb") as opened:
            (size,) = struct.unpack("<Q", opened.read(8))
            self.tensors: dict[str, Any] = json.loads(opened.read(size))
        self.base = 8 + size
        self.used: dict[str, None] = {}

    def weight(self, name: str) -> str:
        self.used[name] = None
        return name

    def initializers(self) -> list[onnx.TensorProto]:
        small = [numpy_helper.from_array(np.asarray(value), name) for name, value in CONSTANTS.items()]
        return small + [self._external(name) for name in self.used]

    def _external(self, name: str) -> onnx.TensorProto:
        start, end = self.tensors[name]["data_offsets"]
        tensor = onnx.TensorProto(name=name, data_type=onnx.TensorProto.FLOAT, dims=self.tensors[name]["shape"])
        tensor.data_location = onnx.TensorProto.EXTERNAL
        for key, value in (("location", self.file.name), ("offset", self.base + start), ("length", end - start)):
            tensor.external_data.add(key=key, value=str(value))
        return tensor

    def nodes(self) -> Iterator[onnx.NodeProto]:
        yield from self.embed()
        for number in range(LAYERS):
            yield from self.layer(f"encoder.layer.{number}", f"h{number}", f"h{number + 1}")
        yield from self.pool(f"h{LAYERS}")

    def embed(self) -> Iterator[onnx.NodeProto]:
        words, places, kinds = (self.weight(f"embeddings.{name}_embeddings.weight") for name in ("word", "position", "token_type"))
        yield helper.make_node("Gather", [words, "ids"], ["words"])
        yield helper.make_node("Shape", ["ids"], ["length_"], start=1, end=2)
        yield helper.make_node("Squeeze", ["length_"], ["length"])
        yield helper.make_node("Range", ["zero_i", "length", "one_i"], ["positions"])
        yield helper.make_node("Gather", [places, "positions"], ["places"])
        yield helper.make_node("Gather", [kinds, "zero_i"], ["kind"])
        yield helper.make_node("Add", ["words", "places"], ["placed"])
        yield helper.make_node("Add", ["placed", "kind"], ["embedded"])
        yield self.norm("embeddings.LayerNorm", "embedded", "h0")
        yield helper.make_node("Cast", ["mask"], ["seen"], to=onnx.TensorProto.FLOAT)
        yield helper.make_node("Sub", ["one", "seen"], ["unseen"])
        yield helper.make_node("Mul", ["unseen", "lowest"], ["bias2"])
        yield helper.make_node("Unsqueeze", ["bias2", "axes12"], ["bias"])

    def norm(self, name: str, source: str, target: str) -> onnx.NodeProto:
        return helper.make_node(
            "LayerNormalization", [source, self.weight(f"{name}.weight"), self.weight(f"{name}.bias")], [target], epsilon=1e-12
        )

    def linear(self, name: str, source: str, target: str) -> Iterator[onnx.NodeProto]:
        """The weight stands as PyTorch has it, outputs first."""
        yield helper.make_node("Transpose", [self.weight(f"{name}.weight")], [f"{name}/turned"], perm=[1, 0])
        yield helper.make_node("MatMul", [source, f"{name}/turned"], [f"{name}/product"])
        yield helper.make_node("Add", [f"{name}/product", self.weight(f"{name}.bias")], [target])

    def layer(self, name: str, source: str, target: str) -> Iterator[onnx.NodeProto]:
        for part, perm in (("query", [0, 2, 1, 3]), ("key", [0, 2, 3, 1]), ("value", [0, 2, 1, 3])):
            yield from self.linear(f"{name}.attention.self.{part}", source, f"{name}/{part}")
            yield helper.make_node("Reshape", [f"{name}/{part}", "tokens"], [f"{name}/{part}/heads"])
            yield helper.make_node("Transpose", [f"{name}/{part}/heads"], [f"{name}/{part}/turned"], perm=perm)
        yield helper.make_node("MatMul", [f"{name}/query/turned", f"{name}/key/turned"], [f"{name}/raw"])
        yield helper.make_node("Mul", [f"{name}/raw", "scale"], [f"{name}/scaled"])
        yield helper.make_node("Add", [f"{name}/scaled", "bias"], [f"{name}/masked"])
        yield helper.make_node("Softmax", [f"{name}/masked"], [f"{name}/shares"], axis=-1)
        yield helper.make_node("MatMul", [f"{name}/shares", f"{name}/value/turned"], [f"{name}/mixed"])
        yield helper.make_node("Transpose", [f"{name}/mixed"], [f"{name}/back"], perm=[0, 2, 1, 3])
        yield helper.make_node("Reshape", [f"{name}/back", "merged"], [f"{name}/merged"])
        yield from self.linear(f"{name}.attention.output.dense", f"{name}/merged", f"{name}/attended")
        yield helper.make_node("Add", [f"{name}/attended", source], [f"{name}/sum1"])
        yield self.norm(f"{name}.attention.output.LayerNorm", f"{name}/sum1", f"{name}/middle")
        yield from self.linear(f"{name}.intermediate.dense", f"{name}/middle", f"{name}/wide")
        yield helper.make_node("Gelu", [f"{name}/wide"], [f"{name}/gelu"])
        yield from self.linear(f"{name}.output.dense", f"{name}/gelu", f"{name}/narrow")
        yield helper.make_node("Add", [f"{name}/narrow", f"{name}/middle"], [f"{name}/sum2"])
        yield self.norm(f"{name}.output.LayerNorm", f"{name}/sum2", target)

    def pool(self, source: str) -> Iterator[onnx.NodeProto]:
        """The mean over the words that are no padding, at length one."""
        yield helper.make_node("Unsqueeze", ["seen", "axis2"], ["weights"])
        yield helper.make_node("Mul", [source, "weights"], ["kept"])
        yield helper.make_node("ReduceSum", ["kept", "axis1"], ["total"], keepdims=0)
        yield helper.make_node("ReduceSum", ["seen", "axis1"], ["count"], keepdims=1)
        yield helper.make_node("Div", ["total", "count"], ["mean"])
        yield helper.make_node("LpNormalization", ["mean"], ["sentence"], axis=-1, p=2)


def tokenize(texts: list[str], tokenizer: Path) -> dict[str, Any]:
    """Lower-cased WordPiece, padded to the longest: `ids` and `mask`."""
    vocabulary: dict[str, int] = json.loads(tokenizer.read_text("utf-8"))["model"]["vocab"]
    rows = [[vocabulary["[CLS]"], *_pieces(text, vocabulary), vocabulary["[SEP]"]] for text in texts]
    longest = max(map(len, rows))
    ids = np.array([row + [0] * (longest - len(row)) for row in rows])
    return {"ids": ids, "mask": (ids != 0).astype(np.int64)}


def _pieces(text: str, vocabulary: dict[str, int]) -> Iterator[int]:
    for word in re.findall(r"\w+|[^\w\s]", text.lower()):
        start = 0
        while start < len(word):
            prefix = "##" if start else ""
            end = next(end for end in range(len(word), start, -1) if prefix + word[start:end] in vocabulary)
            yield vocabulary[prefix + word[start:end]]
            start = end
