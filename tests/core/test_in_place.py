"""Outputs in the memory of inputs: where a model declares it, the device does it in place or turnout copies; nothing is ever wrong."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, parser

import turnout
from turnout.device import Link
from turnout.errors import InvalidInput
from turnout.formats import open_source
from turnout.graph import alias_of, declare_alias
from turnout.testing.fakes import FakeProvider, installed

DEVICES = ["cpu", ["toy", "cpu"], "reference"]
devices = pytest.mark.parametrize("device", DEVICES, ids=str)

# the state is read again after it would have been overwritten, once before and once after another output was made of it
COUNTER = """g (float[2,3] state, float[2,3] x) => (float[2,3] new, float[2,3] before, float[2,3] after) {
    before = Abs(state)
    new = Add(state, x)
    twice = Mul(state, state)
    after = Add(twice, new)
}"""


def declared(text: str, **aliases: str) -> onnx.ModelProto:
    """A model in ONNX's own notation whose outputs alias inputs."""
    made = parser.parse_model(f'<ir_version: 10, opset_import: ["" : 24, "com.microsoft" : 1]> {text}')
    for output in made.graph.output:
        if output.name in aliases:
            output.metadata_props.add(key="turnout.alias", value=aliases[output.name])
    return made


def test_a_declaration_stays_with_the_model() -> None:
    model = open_source(declared(COUNTER, new="state")).model()
    assert [alias_of(value) for value in model.graph.outputs] == ["state", None, None]
    declare_alias(model.graph.outputs[2], model.graph.inputs[1])
    with turnout.load(model, device="cpu") as loaded:
        assert [info.alias for info in loaded.outputs] == ["state", None, "x"]


@devices
@pytest.mark.parametrize("aliases", [{"new": "state"}, {}], ids=["declared", "not declared"])
def test_one_buffer_for_an_input_and_an_output(device: Any, aliases: dict[str, str]) -> None:
    state, x = np.ones((2, 3), np.float32), np.full((2, 3), 2, np.float32)
    with turnout.load(declared(COUNTER, **aliases), device=device) as model:
        bound = model.bind(state=state, x=x, outputs={"new": state})
        for number in range(4):
            held = 1 + 2 * number
            found = bound.run()
            assert found["new"] is state
            assert found["before"].tolist() == [[held] * 3] * 2
            assert found["after"].tolist() == [[held * held + held + 2] * 3] * 2
            assert state.tolist() == [[held + 2] * 3] * 2


@devices
def test_outputs_that_swap_the_memory_of_inputs(device: Any) -> None:
    swap = "g (float[3] a, float[3] b) => (float[3] x, float[3] y) { x = Neg(b) y = Identity(a) }"
    a, b = np.arange(3, dtype=np.float32), np.full(3, 7, np.float32)
    with turnout.load(declared(swap, x="a", y="b"), device=device) as model:
        model.bind(a=a, b=b, outputs={"x": a, "y": b}).run()
    assert a.tolist() == [-7, -7, -7]
    assert b.tolist() == [0, 1, 2]


@devices
def test_memory_that_overlaps_only_in_part(device: Any) -> None:
    long = np.arange(6, dtype=np.float32)
    with turnout.load(declared("g (float[4] x) => (float[4] y) { y = Neg(x) }", y="x"), device=device) as model:
        model.bind(x=long[:4], outputs={"y": long[2:]}).run()
    assert long.tolist() == [0, 1, 0, -1, -2, -3]


def test_two_outputs_cannot_share_memory() -> None:
    buffer = np.zeros((2, 3), np.float32)
    with turnout.load(declared(COUNTER), device="cpu") as model, pytest.raises(InvalidInput, match="were given the same memory"):
        model.bind(state=buffer.copy(), x=buffer.copy(), outputs={"new": buffer, "before": buffer})


CACHE = """g (float[1,2,C,4] past, float[1,2,T,4] new, int64[1] at) => (float[1,2,C,4] present, float[1,2,C,4] seen) {
    present = TensorScatter(past, new, at)
    seen = Neg(present)
}"""


@pytest.mark.parametrize(
    "device", [["cpu", "reference"], ["toy", "cpu", "reference"], "reference"], ids=str
)  # old runtimes lack TensorScatter
def test_a_cache_is_filled_in_place(device: Any) -> None:
    cache, new, at = np.zeros((1, 2, 8, 4), np.float32), np.ones((1, 2, 1, 4), np.float32), np.zeros(1, np.int64)
    with turnout.load(declared(CACHE, present="past"), device=device) as model:
        bound = model.bind(past=cache, new=new, at=at, outputs={"present": cache})
        for position in range(8):
            at[0], new[...] = position, position + 1
            found = bound.run()
            assert cache[0, :, :, 0].tolist() == [[*range(1, position + 2), *[0] * (7 - position)]] * 2
            assert np.array_equal(found["seen"], -cache)


ATTENTION = """g (float[B,T,16] q, float[B,T,16] k, float[B,T,16] v,
    float[B,2,C,8] past_k, float[B,2,C,8] past_v, int32[B] last, int32[1] total)
    => (float[B,T,16] y, float[B,2,C,8] new_k, float[B,2,C,8] new_v) {
    y, new_k, new_v = com.microsoft.GroupQueryAttention <num_heads = 2, kv_num_heads = 2> (q, k, v, past_k, past_v, last, total)
}"""


def test_grouped_attention_updates_its_cache_in_place() -> None:
    """ONNX Runtime takes a cache for shared where both pointers are one: it then adds its tokens to it, rather than to a copy."""
    rng = np.random.default_rng(0)
    tokens = [rng.standard_normal((3, 1, count, 16)).astype(np.float32) for count in (5, 1, 1)]
    room, wanted_k = np.zeros((2, 1, 2, 16, 8), np.float32), []
    with turnout.load(declared(ATTENTION, new_k="past_k", new_v="past_v"), device="cpu") as model:
        length, answers = 0, []
        for q, k, v in tokens:
            length += q.shape[1]
            wanted_k.append(k.reshape(1, -1, 2, 8).transpose(0, 2, 1, 3))
            bound = model.bind(
                q=q,
                k=k,
                v=v,
                past_k=room[0],
                past_v=room[1],
                last=np.array([length - 1], np.int32),
                total=np.array([length], np.int32),
                outputs={"new_k": room[0], "new_v": room[1]},
            )
            found = bound.run()
            answers.append(found["y"])
            assert found["new_k"] is not None
            assert np.shares_memory(found["new_k"], room)
        assert np.array_equal(room[0][:, :, :length], np.concatenate(wanted_k, 2))
        assert not room[:, :, :, length:].any()
        whole = np.concatenate(tokens, 2)
        once = model.run(
            q=whole[0],
            k=whole[1],
            v=whole[2],
            past_k=np.zeros((1, 2, 16, 8), np.float32),
            past_v=np.zeros((1, 2, 16, 8), np.float32),
            last=np.array([length - 1], np.int32),
            total=np.array([length], np.int32),
        )["y"]
    np.testing.assert_allclose(np.concatenate(answers, 1), once, rtol=1e-5, atol=1e-6)


class Noting(FakeProvider):
    """A fake that notes which of its outputs it was given a buffer for."""

    def compile(self, graph: Any, device: Any, options: Any) -> Any:
        executable = super().compile(graph, device, options)
        run, self.given = executable.run, []

        def noting(values: Sequence[Any], out: Sequence[Any] | None = None) -> Sequence[Any]:
            self.given.append([value.name for value, buffer in zip(graph.outputs, out or (), strict=False) if buffer is not None])
            return run(values, out)

        executable.run = noting
        return executable


def test_a_part_gets_the_buffer_only_where_nobody_else_reads_the_input() -> None:
    alone = "g (float[3] state, float[3] x) => (float[3] new, float[3] y) { new = Add(state, x) t = Neg(new) y = Abs(t) }"
    shared = "g (float[3] state, float[3] x) => (float[3] new, float[3] y) { new = Add(state, x) t = Neg(state) y = Add(t, new) }"
    for text, expected in ((alone, ["new"]), (shared, [])):
        state, x = np.zeros(3, np.float32), np.ones(3, np.float32)
        near = Noting("near", ["Add", "Abs"])
        with installed(near), turnout.load(declared(text, new="state"), device=["near", "cpu"]) as model:
            assert len(model.explain().partitions) > 1
            model.bind(state=state, x=x, outputs={"new": state}).run()
        assert expected in near.given
        assert any(near.given) == bool(expected)
        assert state.tolist() == [1, 1, 1]


operators = st.lists(
    st.tuples(st.sampled_from(["Add", "Mul", "Neg", "Abs"]), st.integers(0, 99), st.integers(0, 99)), min_size=2, max_size=7
)


@given(operators, st.data())
def test_random_graphs_with_random_aliases_compute_the_same(drawn: list[tuple[str, int, int]], data: Any) -> None:
    names, nodes = ["a", "b"], []
    for number, (operator, one, other) in enumerate(drawn):
        inputs = [names[one % len(names)], names[other % len(names)]][: 2 if operator in ("Add", "Mul") else 1]
        nodes.append(helper.make_node(operator, inputs, [f"v{number}"]))
        names.append(f"v{number}")
    outputs = data.draw(st.lists(st.sampled_from(names[2:]), min_size=1, max_size=2, unique=True))
    kinds = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [3]) for name in ("a", "b", *outputs)]
    pairs = dict(zip(outputs, data.draw(st.permutations(["a", "b"])), strict=False))
    for info in kinds[2:]:
        if data.draw(st.booleans()):
            info.metadata_props.add(key="turnout.alias", value=pairs[info.name])
    made = helper.make_model(
        helper.make_graph(nodes, "g", kinds[:2], kinds[2:]), opset_imports=[helper.make_opsetid("", 21)], ir_version=10
    )
    a, b = np.array([1, -2, 3], np.float32), np.array([-1, 5, 2], np.float32)
    near, far = FakeProvider("near", ["Add", "Neg"]), FakeProvider("far", ["Mul", "Abs"], link=Link(1e-6, 1e9))
    with installed(near, far):
        for device in ("cpu", ["near", "cpu"], ["far", "near"]):
            with turnout.load(made, device=device) as model:
                wanted = model.run(a=a, b=b)
                buffers = {"a": a.copy(), "b": b.copy()}
                model.bind(**buffers, outputs={name: buffers[source] for name, source in pairs.items()}).run()
            for name, source in pairs.items():
                assert np.array_equal(buffers[source], wanted[name], equal_nan=True)
