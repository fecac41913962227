"""The CUDA provider's rewrites: what each makes of the canonical graph, and when it keeps off. That the numbers stay: decoders.py."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.append(str(Path(__file__).parents[1] / "gguf"))

import gguf_decoders

from turnout.graph import constant_array, ir
from turnout.provider import Rewrite
from turnout.rules import Readers
from turnout_cuda.dialect import attention_with_cache, gated_unit, halves, norm_of_sum, offsets, rewrites
from turnout_cuda.kernel import find
from turnout_gguf.format import GgufFormat, Options

BLOCKS = gguf_decoders.BLOCKS


def graph_of(architecture: str = "llama", batch: int | None = 1, **how: Any) -> ir.Graph:
    file = gguf_decoders.decoder(architecture, **{"kind": "Q4_1", **how})
    return GgufFormat().open(file, options=Options(keep=False, batch=batch)).model().graph


def found(rule: Callable[[ir.Node, Readers], Rewrite | None], graph: ir.Graph) -> list[Rewrite]:
    readers = Readers(graph)
    return [one for one in (rule(node, readers) for node in graph) if one is not None]


def operators(nodes: Any) -> dict[str, int]:
    return dict(Counter(node.op_type for node in nodes))


def said(node: ir.Node) -> dict[str, Any]:
    return {name: attribute.value for name, attribute in node.attributes.items()}


def test_attention_with_its_cache_becomes_one() -> None:
    first, *rest = found(attention_with_cache, graph_of())
    assert len(rest) == BLOCKS - 1
    covered = {"Split": 1, "RotaryEmbedding": 2, "Reshape": 4, "Transpose": 4, "TensorScatter": 2, "Attention": 1}
    assert operators(first.nodes) == covered
    (new,) = first.replacement
    assert new.op_type == "CachedAttention"
    assert [value and value.name for value in new.inputs[:6]] == [
        "blk.0.attn_qkv",
        None,
        None,
        "past_key.0",
        "past_value.0",
        "cache.lengths",
    ]
    assert [value.name for value in new.outputs] == ["blk.0.seen", "present_key.0", "present_value.0"]
    assert said(new) == {"num_heads": 4, "kv_num_heads": 2, "local_window_size": -1, "rotary_interleaved": 1, "accuracy_level": 4}


def test_several_texts_at_once_are_taken_too() -> None:
    assert len(found(attention_with_cache, graph_of(batch=None))) == BLOCKS


def test_a_window_becomes_an_attribute() -> None:
    (new,) = found(attention_with_cache, graph_of(changes={"attention.sliding_window": 5}))[0].replacement
    assert said(new)["local_window_size"] == 5


def test_products_with_offsets_become_one_each() -> None:
    graph = graph_of()
    rows = found(offsets, graph)
    assert sum(len(one.replacement) for one in rows) == 4 * BLOCKS + 1
    first = rows[0]
    assert operators(first.nodes) == {"Reshape": 1, "ReduceSum": 1, "MatMul": 1, "MatMulNBits": 1, "Add": 1}
    (new,) = first.replacement
    assert new.op_type == "BlockProduct"
    table = next(node for node in first.nodes if node.op_type == "MatMul").inputs[1]
    assert np.array_equal(constant_array(new.inputs[4]), constant_array(table)[0].T)


@pytest.mark.parametrize("dims", [[8], [2, 4, 8], [1, 1, 1, 8]])
def test_products_with_what_is_no_matrix_stay(dims: list[int]) -> None:
    graph = graph_of()
    many = len(found(offsets, graph))
    times = next(node for one in found(offsets, graph) for node in one.nodes if node.op_type == "MatMul")
    table = ir.Value(
        name="table", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape(dims), const_value=ir.Tensor(np.zeros(dims, np.float32))
    )
    times.replace_input_with(1, table)
    assert len(found(offsets, graph)) == many - 1


def test_products_without_offsets_stay() -> None:
    assert not found(offsets, graph_of(kind="Q4_0"))


def test_a_sum_and_its_norm_become_one() -> None:
    first, *rest = found(norm_of_sum, graph_of())
    assert len(rest) == 2 * BLOCKS - 2  # the last sum goes through a Gather before it is normed
    assert operators(first.nodes) == {"Add": 1, "RMSNormalization": 1}
    (new,) = first.replacement
    assert [value.name for value in new.outputs] == ["blk.0.ffn_norm", "", "", "blk.0.attended"]


@pytest.mark.parametrize(("architecture", "gate"), [("llama", "silu"), ("phi3", "silu"), ("gemma2", "gelu")])
def test_a_gate_becomes_one(architecture: str, gate: str) -> None:
    first, *rest = found(gated_unit, graph_of(architecture))
    assert len(rest) == BLOCKS - 1
    (new,) = first.replacement
    assert (new.op_type, said(new)) == ("GatedUnit", {"gate": gate})
    assert first.nodes[0].op_type == "Split"


def test_matrices_of_halves_stay_halves() -> None:
    rows = found(halves, graph_of("phi3", kind="F16"))
    assert len(rows) == 4 * BLOCKS + 1
    assert operators(rows[0].nodes) == {"Cast": 1, "MatMul": 1}
    assert rows[0].replacement[0].inputs[1].dtype == ir.DataType.FLOAT16


@pytest.mark.parametrize("architecture", ["llama", "phi3", "qwen2", "qwen3", "gemma2", "gemma3"])
@pytest.mark.parametrize("kind", ["Q4_1", "Q6_K", "F16"])
def test_every_node_of_a_decoder_has_a_kernel(architecture: str, kind: str) -> None:
    graph = graph_of(architecture, kind=kind)
    made = list(rewrites(graph))
    covered = {node for one in made for node in one.nodes}
    left = [node for node in graph if node not in covered] + [node for one in made for node in one.replacement]
    assert [reason for node in left if isinstance(reason := find(node), str)] == []


def test_graphs_without_decoders_are_left_alone() -> None:
    x = ir.Value(name="x", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape([2, 4]))
    node = ir.node("Mul", [x, x], version=21, name="square")
    assert not list(rewrites(ir.Graph([x], list(node.outputs), nodes=[node], opset_imports={"": 21}, name="plain")))
