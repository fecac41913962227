"""Sessions: whatever is fed, in whatever portions, and however often it is cut back, the logits are those of all tokens at once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from text_decoders import FORMS, VOCABULARY, expected, model

import turnout
from turnout.device import Device, Link
from turnout.errors import NotGenerative
from turnout.testing.fakes import FakeProvider, installed
from turnout_text.caches import Elsewhere, Growing, InPlace, Recomputed
from turnout_text.session import Session, sessions_of

KINDS = {"in place": InPlace, "growing": Growing, "whole": Recomputed, "last": Recomputed}
DEVICES = [["cpu", "reference"], ["toy", "cpu", "reference"], ["far"]]  # old runtimes have no TensorScatter; split, and in one piece


class Far(FakeProvider):
    """A device outside host memory, which counts the bytes that cross."""

    def __init__(self) -> None:
        super().__init__("far", link=Link(1e-5, 1e10))
        self.crossed = 0

    def to_device(self, array: Any, device: Device) -> Any:
        self.crossed += getattr(array, "nbytes", 0)
        return super().to_device(array, device)

    def to_host(self, value: Any, device: Device) -> Any:
        self.crossed += value.value.nbytes
        return super().to_host(value, device)


@pytest.fixture(scope="module", params=DEVICES, ids=["cpu", "split", "far"])
def models(request: Any) -> Iterator[dict[str, turnout.Model]]:
    with installed(Far()):
        made = {form: turnout.load(model(form), device=request.param) for form in FORMS}
    yield made
    for one in made.values():
        one.close()


def opened(models: dict[str, turnout.Model], form: str) -> Session:
    make = sessions_of(models[form])
    assert make is not None
    session = make()
    there = form == "in place" and not models[form].device_of("present_key.0").on_host
    assert type(session) is (Elsewhere if there else KINDS[form])
    assert session.vocabulary == VOCABULARY
    return session


tokens = st.integers(0, VOCABULARY - 1)
steps = st.lists(st.one_of(st.lists(tokens, min_size=1, max_size=5), st.integers(0, 12)), max_size=8)


@pytest.mark.parametrize("form", FORMS)
@settings(max_examples=25)
@given(steps=steps, data=st.data())
def test_any_feeding_and_cutting(models: dict[str, turnout.Model], form: str, steps: list[Any], data: Any) -> None:
    session, held = opened(models, form), list[int]()
    for step in steps:
        if isinstance(step, int):
            assert session.truncate(step) == min(step, len(held))
            del held[step:]
        else:
            wanted = data.draw(st.lists(st.integers(0, len(step) - 1), unique=True, max_size=3).map(sorted))
            wanted = wanted or [len(step) - 1]
            before, held = len(held), held + step
            rows = session.feed(step, wanted)
            assert rows.dtype == np.float32
            assert np.array_equal(rows, expected(held)[[before + place for place in wanted]])
        assert session.length == len(held)
    session.close()


@pytest.mark.parametrize("form", FORMS[:3])
def test_a_cache_grows_as_far_as_it_must(models: dict[str, turnout.Model], form: str) -> None:
    session = opened(models, form)
    held = np.random.default_rng(0).integers(0, VOCABULARY, 620).tolist()
    session.feed(held[:600], [599])
    capacities = set()
    for place in range(600, 620):
        assert np.array_equal(session.feed([held[place]], [0])[0], expected(held[: place + 1])[-1])
        capacities.add(getattr(session, "capacity", 0))
    assert capacities == ({768} if form == "in place" else {0})
    if isinstance(session, InPlace):
        assert np.array_equal(session.feed(held[:200], [199])[0], expected(held + held[:200])[-1])
        assert session.capacity == 1280  # 820 tokens: half as long again, in steps of 256
    session.close()


def test_a_cache_in_place_is_written_nowhere_else(models: dict[str, turnout.Model]) -> None:
    session = opened(models, "in place")
    assert isinstance(session, InPlace)
    session.feed([1, 2, 3], [2])
    (buffer,) = session.buffers.values()
    if isinstance(session, Elsewhere):
        return
    address = buffer.ctypes.data
    for token in range(50):
        session.feed([token], [0])
    (buffer,) = session.buffers.values()
    assert buffer.ctypes.data == address
    assert not buffer[:, :, 53:].any()


@pytest.mark.parametrize("form", ["in place", "growing"])
def test_a_cache_elsewhere_stays_there(form: str) -> None:
    """A token's step moves its few numbers (and the logits, by `FakeTensor.get`), and nothing of the cache, be it cut before or not."""
    far = Far()
    with installed(far), turnout.load(model(form), device="far") as loaded:
        session = sessions_of(loaded)()  # type: ignore[misc]
        session.feed(list(range(40)), [39])
        session.truncate(39)
        session.feed([39], [0])
        far.crossed = 0
        assert np.array_equal(session.feed([5], [0])[0], expected([*range(40), 5])[-1])
        assert far.crossed == {"in place": 3 * 8, "growing": 2 * 8}[form]  # its token, its place, whose logits are wanted


def test_what_is_no_decoder() -> None:
    from onnx import parser

    relu = parser.parse_model('<ir_version: 10, opset_import: ["" : 21]> g (float[2] x) => (float[2] y) { y = Relu(x) }')
    strange = model("whole")
    strange.graph.input.extend(
        parser.parse_model('<ir_version: 10, opset_import: ["" : 21]> g (float[2] pixels) => (float[2] y) { y = Relu(pixels) }').graph.input
    )
    for made in (relu, strange):
        with turnout.load(made, device="cpu") as loaded:
            assert sessions_of(loaded) is None
            with pytest.raises(NotGenerative):
                loaded.generate("x")


def test_a_provider_that_takes_the_whole_model_brings_its_own_sessions() -> None:
    from turnout.provider import Executable

    class Whole(FakeProvider):
        def compile(self, graph: Any, device: Any, options: Any) -> Executable:
            made = super().compile(graph, device, options)
            made.new_session = lambda: "a session"  # type: ignore[attr-defined]
            return made

    with installed(Whole("whole")), turnout.load(model("whole"), device="whole") as loaded:
        make = sessions_of(loaded)
        assert make is not None
        assert make() == "a session"
