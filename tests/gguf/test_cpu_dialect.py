"""The CPU provider's rewrites: what each makes of the canonical graph, when it keeps off, and that the numbers stay."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import gguf_decoders
import numpy as np
import pytest
from running import Text, load

from turnout.graph import ir
from turnout.provider import Rewrite
from turnout.rules import Readers
from turnout_cpu.dialect import attention_with_cache, norm, norm_of_sum, rewrites
from turnout_cpu.products import product_in_halves, product_of_nibbles
from turnout_cpu.provider import CpuProvider
from turnout_gguf.format import GgufFormat, Options

BLOCKS = gguf_decoders.BLOCKS


def graph_of(architecture: str = "llama", batch: int | None = 1, accuracy: str = "fast", **how: Any) -> ir.Graph:
    file = gguf_decoders.decoder(architecture, **{"kind": "Q4_1", **how})
    return GgufFormat().open(file, accuracy=accuracy, options=Options(keep=False, batch=batch)).model().graph


Rule = Callable[[ir.Node, Readers], Rewrite | None]


def found(rule: Rule, graph: ir.Graph) -> list[Rewrite]:
    readers = Readers(graph)
    return [one for one in (rule(node, readers) for node in graph) if one is not None]


def operators(nodes: Any) -> dict[str, int]:
    return dict(Counter(node.op_type for node in nodes))


def test_a_norm_becomes_a_simplified_one() -> None:
    one = found(norm, graph_of())[0]
    assert operators(one.nodes) == {"RMSNormalization": 1}
    (new,) = one.replacement
    assert (new.op_type, new.outputs[0].name) == ("SimplifiedLayerNormalization", "blk.0.attn_norm")
    assert new.attributes["epsilon"].value == pytest.approx(1e-5)


def test_a_sum_and_its_norm_become_one() -> None:
    first, *rest = found(norm_of_sum, graph_of())
    assert len(rest) == 2 * BLOCKS - 2  # the last block's first sum goes through a Gather before it is normed
    assert operators(first.nodes) == {"Add": 1, "RMSNormalization": 1}
    (new,) = first.replacement
    assert new.op_type == "SkipSimplifiedLayerNormalization"
    assert [value.name for value in new.outputs] == ["blk.0.ffn_norm", "", "", "blk.0.attended"]


def test_attention_with_its_cache_becomes_one() -> None:
    first, *rest = found(attention_with_cache, graph_of())
    assert len(rest) == BLOCKS - 1
    covered = {"Split": 1, "RotaryEmbedding": 2, "Reshape": 4, "Transpose": 4, "TensorScatter": 2, "Attention": 1}
    assert operators(first.nodes) == covered
    new = first.replacement[-1]
    assert new.op_type == "GroupQueryAttention"
    assert [value and value.name for value in new.inputs[:5]] == ["blk.0.attn_qkv", None, None, "past_key.0", "past_value.0"]
    assert [value.name for value in new.outputs] == ["blk.0.seen", "present_key.0", "present_value.0"]
    said = {name: attribute.value for name, attribute in new.attributes.items()}
    assert said == {"num_heads": 4, "kv_num_heads": 2, "do_rotary": 1, "rotary_interleaved": 1}


def test_products_for_wanted_tokens_become_products_in_halves() -> None:
    graph = graph_of()
    last = BLOCKS - 1
    names = [one.nodes[0].name for one in found(product_in_halves, graph)]
    assert names == [f"blk.{last}.ffn_gate_up.centred", f"blk.{last}.ffn_down.centred", "logits.centred"]
    first = next(node for node in graph if node.name == names[0])
    assert len(found(product_in_halves, graph_of(accuracy="exact"))) == 0
    assert len(found(product_in_halves, graph_of(accuracy="near"))) == operators(graph)["MatMulNBits"]
    first.attributes["K"] = ir.AttrInt64("K", 70)  # half a block at the end
    assert len(found(product_in_halves, graph)) == 2


def test_exact_products_of_bytes_become_those_of_their_nibbles() -> None:
    graph = graph_of(accuracy="exact", kind="Q8_0")
    first, *rest = found(product_of_nibbles, graph)
    assert 1 + len(rest) == operators(graph)["MatMulNBits"]
    assert operators(first.replacement) == {"MatMulNBits": 2, "Add": 1}
    assert [node.attributes["bits"].value for node in first.replacement[:2]] == [4, 4]
    first.nodes[0].inputs[1].const_value = None  # computed, as far as anybody knows
    assert len(found(product_of_nibbles, graph)) == len(rest)
    assert found(product_of_nibbles, graph_of(kind="Q8_0")) == []
    assert found(product_of_nibbles, graph_of(accuracy="exact", kind="Q4_0", table="F32")) == []


def test_exact_products_of_2_bits_become_those_of_4() -> None:
    graph = graph_of(accuracy="exact", kind="TQ2_0")
    first, *rest = found(product_of_nibbles, graph)
    assert 1 + len(rest) == operators(graph)["MatMulNBits"]
    (new,) = first.replacement
    assert [first.nodes[0].attributes[name].value for name in ("bits", "block_size")] == [2, 128]
    assert [new.attributes[name].value for name in ("bits", "block_size", "accuracy_level")] == [4, 128, 1]


def test_normed_heads_are_not_read_from_before_the_split() -> None:
    new = found(attention_with_cache, graph_of("qwen3", head_norms=True))[0].replacement[-1]
    assert [value and value.name for value in new.inputs[:3]] == ["blk.0.attn_q_norm.joined", "blk.0.attn_k_norm.joined", "blk.0.attn_v"]


def test_a_window_becomes_an_attribute() -> None:
    new = found(attention_with_cache, graph_of(changes={"attention.sliding_window": 5}))[0].replacement[-1]
    assert new.attributes["local_window_size"].value == 5


def test_several_texts_at_once_stay_as_they_are() -> None:
    assert not found(attention_with_cache, graph_of(batch=None))


def test_half_turned_heads_of_a_size_without_kernel_stay_as_they_are() -> None:
    assert found(attention_with_cache, graph_of(changes={"rope.dimension_count": 32}))
    assert not found(attention_with_cache, graph_of(changes={"rope.dimension_count": 20}))


def test_what_somebody_else_reads_stays() -> None:
    graph = graph_of()
    graph.outputs.append(next(node for node in graph if node.op_type == "Attention").outputs[0])
    assert len(found(attention_with_cache, graph)) == BLOCKS - 1


@pytest.mark.parametrize("change", ["another mask", "other lengths", "other starts", "not causal"])
def test_attention_that_only_looks_alike_stays(change: str) -> None:
    graph = graph_of(changes={"attention.sliding_window": 5})
    node = next(node for node in graph if node.op_type == "Attention")
    if change == "another mask":
        node.replace_input_with(3, ir.Value(name="mask"))
    elif change == "other lengths":
        node.replace_input_with(6, ir.Value(name="lengths"))
    elif change == "other starts":
        node.inputs[1].producer().replace_input_with(2, ir.Value(name="starts"))  # type: ignore[union-attr]
    else:
        del node.attributes["is_causal"]
    assert len(found(attention_with_cache, graph)) == BLOCKS - 1


def test_no_rewrite_takes_what_another_has() -> None:
    graph = graph_of("qwen3", head_norms=True)
    nodes = [node for one in rewrites(graph) for node in one.nodes]
    assert len(nodes) == len(set(nodes))
    assert not {"Attention", "TensorScatter", "RotaryEmbedding", "RMSNormalization"} & {node.op_type for node in set(graph) - set(nodes)}


CASES: dict[str, dict[str, Any]] = {
    "llama": {},
    "qwen2": {"architecture": "qwen2", "biases": "q k v"},
    "qwen3": {"architecture": "qwen3", "head_norms": True},
    "a window": {"changes": {"attention.sliding_window": 5}},
    "half of each head turned": {"changes": {"rope.dimension_count": 32}},
    "dense weights": {"kind": "F16"},
}


@pytest.mark.parametrize("case", CASES)
def test_the_rewritten_graph_computes_the_same(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    file = gguf_decoders.decoder(**{"kind": "Q4_1", **CASES[case]})
    ids = np.random.default_rng(0).integers(0, gguf_decoders.VOCABULARY, 13)
    rewritten = load(file)
    monkeypatch.setattr(CpuProvider, "lower", lambda self, graph, device: ())
    plain = load(file, device=["cpu", "reference"])  # older ONNX Runtimes have no TensorScatter
    assert "GroupQueryAttention x2" in str(rewritten.explain())
    assert "GroupQueryAttention" not in str(plain.explain())
    texts = [Text(model, capacity=20) for model in (rewritten, plain)]
    for start, end in ((0, 7), (7, 8), (8, 11), (11, 13)):
        one, other = (text.feed(ids[start:end]) for text in texts)
        assert np.abs(one - other).max() < 1e-5 * np.abs(other).max()
    for name, array in texts[0].state.items():
        used, other = (state[:, :, : len(ids)] for state in (array, texts[1].state[name]))
        assert np.abs(used - other).max() < 1e-5 * np.abs(other).max()
