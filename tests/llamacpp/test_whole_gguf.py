"""GGUF files that llama.cpp takes whole: logits, sessions, and its place beside the operator graph."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from whole_files import CONTEXT, write

import turnout
from turnout.errors import CompileError, InvalidInput, InvalidModel, NoProvider, RunError
from turnout.model import Model
from turnout_llamacpp.library import library
from turnout_llamacpp.model import LlamaModel
from turnout_text.session import sessions_of

VOCABULARY = 96


def opened(path: Path, **options: Any) -> LlamaModel:
    device = next(one for one in library().devices if one.kind == "CPU")
    return LlamaModel(library(), path, device, **{"context": None, "threads": 1, "layers": -1, **options})


@pytest.fixture(scope="module")
def executable(small: Path) -> Any:
    model = opened(small)
    yield model
    model.close()


def tokens(count: int, seed: int = 0) -> list[int]:
    return [int(one) for one in np.random.default_rng(seed).integers(3, VOCABULARY, count)]


def agree(found: NDArray[np.float32], exact: NDArray[np.float32], bound: float) -> None:
    """Close in all, and of one mind about the likeliest token wherever it leads by more than 0.5."""
    assert np.abs(found - exact).max() < bound * np.abs(exact).max()
    two = np.sort(exact, axis=-1)[..., -2:]
    sure = two[..., 1] - two[..., 0] > 0.5
    assert sure.any()
    np.testing.assert_array_equal(found.argmax(-1)[sure], exact.argmax(-1)[sure])


def test_logits_are_those_of_the_operator_graph(small: Path) -> None:
    ids = np.array([tokens(12, 1), tokens(12, 2)])
    with turnout.load(small, device="llamacpp") as model, turnout.load(small, device=["cpu", "reference"], accuracy="exact") as graph:
        exact = logits_of_graph(graph, ids)
        agree(model.run(input_ids=ids)["logits"], exact, 0.01)  # llama.cpp's cache and some products have 16 bits


def logits_of_graph(graph: Model, ids: NDArray[np.int64]) -> NDArray[np.float32]:
    """Row by row, since the operator graph keeps the cache of one text."""
    new_session = sessions_of(graph)
    assert new_session is not None
    return np.stack([new_session().feed(row.tolist(), range(len(row))).copy() for row in ids])


@settings(max_examples=15)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=6), st.integers(0, 99))
def test_tokens_may_come_in_any_portions(executable: LlamaModel, portions: Sequence[int], seed: int) -> None:
    text = tokens(sum(portions), seed)
    whole, parts = executable.new_session(), executable.new_session()
    expected = whole.feed(text, range(len(text)))
    start, found = 0, []
    for size in portions:
        found.append(parts.feed(text[start : start + size], range(size)))
        start += size
    assert parts.length == whole.length == len(text)
    np.testing.assert_allclose(np.concatenate(found), expected, atol=0.02 * np.abs(expected).max())
    whole.close()
    parts.close()


def test_a_session_grows_and_keeps_what_it_holds(executable: LlamaModel) -> None:
    text = tokens(1300)
    at_once, grown = executable.new_session(), executable.new_session()
    expected = at_once.feed(text, [1299])
    for start in range(0, 1300, 100):
        found = grown.feed(text[start : start + 100], [99])
    np.testing.assert_allclose(found, expected, atol=0.02 * np.abs(expected).max())


def test_truncated_it_is_as_if_the_rest_had_never_been(executable: LlamaModel) -> None:
    session, fresh = executable.new_session(), executable.new_session()
    session.feed(tokens(30), [])
    assert session.truncate(10) == session.length == 10
    fresh.feed(tokens(30)[:10], [])
    np.testing.assert_allclose(session.feed([5, 6], [1]), fresh.feed([5, 6], [1]), atol=1e-3)
    assert session.truncate(0) == 0
    assert session.truncate(7) == 0


def test_wanted_positions_are_rows_in_their_order(executable: LlamaModel) -> None:
    text = tokens(1100)
    every = executable.new_session().feed(text, range(1100))
    some = executable.new_session().feed(text, [0, 511, 512, 1099])
    np.testing.assert_allclose(some, every[[0, 511, 512, 1099]], atol=1e-3)


def test_what_does_not_fit_leaves_the_session_as_it_was(executable: LlamaModel) -> None:
    session = executable.new_session()
    session.feed(tokens(20), [])
    with pytest.raises(InvalidInput, match=f"do not fit into a context of {CONTEXT}"):
        session.feed(tokens(CONTEXT), [])
    for bad in ([VOCABULARY], [-1], [3, 10**9]):
        with pytest.raises(InvalidInput, match="tokens must be 0 to 95"):
            session.feed(bad, [])
    with pytest.raises(InvalidInput, match="logits are wanted of position 1 of 1"):
        session.feed([3], [1])
    assert session.length == 20
    fresh = executable.new_session()
    fresh.feed(tokens(20), [])
    np.testing.assert_allclose(session.feed([9], [0]), fresh.feed([9], [0]), atol=1e-3)


def test_the_context_can_be_made_smaller(small: Path) -> None:
    with turnout.load(small, device="llamacpp", options={"llamacpp": {"context": 40, "threads": 1}}) as model:
        model.run(input_ids=np.array([tokens(40)]))
        with pytest.raises(InvalidInput, match="41 tokens do not fit into a context of 40"):
            model.run(input_ids=np.array([tokens(41)]))


def test_sessions_in_several_threads_do_not_meet(executable: LlamaModel) -> None:
    def last(seed: int) -> NDArray[np.float32]:
        session = executable.new_session()
        for one in tokens(40, seed):
            found = session.feed([one], [0])
        session.close()
        return found

    alone = [last(seed) for seed in range(4)]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(last, range(4)))
    np.testing.assert_array_equal(together, alone)


def test_what_is_closed_says_so(small: Path) -> None:
    model = opened(small)
    session, other = model.new_session(), model.new_session()
    other.close()
    other.close()
    with pytest.raises(RunError, match="session was closed"):
        other.feed([3], [0])
    model.run([np.array([[3, 4]])])
    model.close()
    model.close()
    for call in (lambda: session.feed([3], [0]), lambda: session.truncate(0), model.new_session, lambda: model.run([np.array([[3]])])):
        with pytest.raises(RunError, match="was closed"):
            call()


def test_no_tokens_and_no_rows(executable: LlamaModel) -> None:
    assert executable.run([np.zeros((1, 0), np.int64)])[0].shape == (1, 0, VOCABULARY)
    assert executable.run([np.zeros((0, 5), np.int64)])[0].shape == (0, 5, VOCABULARY)


def test_bound_runs_write_where_they_are_told(small: Path) -> None:
    with turnout.load(small, device="llamacpp") as model:
        ids = np.array([tokens(4)])
        buffer = np.empty((1, 4, VOCABULARY), np.float32)
        bound = model.bind(input_ids=ids, outputs={"logits": buffer})
        assert bound.run()["logits"] is buffer
        np.testing.assert_array_equal(buffer, model.run(input_ids=ids)["logits"])


def test_where_none_is_named_the_graph_goes_first_and_says_why(small: Path) -> None:
    with turnout.load(small) as model:
        text = str(model.explain())
    assert "llamacpp:0: takes the file whole, but cpu:0 goes first and runs all of it; name it to use it" in text


def test_an_architecture_that_has_no_graph_runs_on_llama_cpp(tmp_path: Path) -> None:
    file = write(tmp_path / "olmo.gguf", "olmo")
    with turnout.load(file) as model:
        assert model.run(input_ids=np.array([[3, 4, 5]]))["logits"].shape == (1, 3, VOCABULARY)
        text = str(model.explain())
    assert "llamacpp:0 takes the file whole, so no operator graph was built: it is a GGUF of the architecture olmo" in text
    assert "cannot run the operator graph" in text
    with pytest.raises(InvalidModel, match="olmo"):
        turnout.load(file, device="cpu")


def test_an_architecture_that_nobody_knows(tmp_path: Path) -> None:
    file = write(tmp_path / "poem.gguf", "poem")
    with pytest.raises(InvalidModel, match=r"(?s)poem.*llamacpp:0, which takes files whole: .*unknown model architecture: 'poem'"):
        turnout.load(file)
    with pytest.raises(CompileError, match="unknown model architecture: 'poem'"):
        turnout.load(file, device="llamacpp")


def test_tensors_that_are_not_there(tmp_path: Path) -> None:
    file = write(tmp_path / "short.gguf", changes={"block_count": 3})
    with pytest.raises(CompileError, match=r"tensor 'blk.2.attn_norm.weight' not found"):
        turnout.load(file, device="llamacpp")


def test_a_file_that_is_cut_short_never_reaches_llama_cpp(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(small.read_bytes()[:1500])

    def never(*_: Any) -> None:
        raise AssertionError("llama.cpp was given a broken file")

    monkeypatch.setattr("turnout_llamacpp.provider.LlamaCppProvider.open_whole", never)
    with pytest.raises(InvalidModel):
        turnout.load(broken, device="llamacpp")


def test_what_it_does_not_take_is_refused_with_the_reason(small: Path, tmp_path: Path) -> None:
    for accuracy in ("near", "exact"):
        with pytest.raises(NoProvider, match=f"accuracy='{accuracy}' was asked for"):
            turnout.load(small, device="llamacpp", accuracy=accuracy)
    turnout.load(small, device="llamacpp", accuracy="auto").close()
    with pytest.raises(NoProvider, match="this model came as bytes"):
        turnout.load(small.read_bytes(), device="llamacpp")
    with pytest.raises(NoProvider, match="bert is no decoder"):
        turnout.load(write(tmp_path / "bert.gguf", "bert"), device="llamacpp")


def test_options_are_checked(small: Path) -> None:
    with pytest.raises(InvalidInput, match="threads"):
        turnout.load(small, device="llamacpp", options={"llamacpp": {"threads": 0}})
    with pytest.raises(InvalidInput, match="its options are: threads, context, gpu_layers"):
        turnout.load(small, device="llamacpp", options={"llamacpp": {"thread": 1}})


def test_smollm2_is_of_one_mind_with_exact_arithmetic(smollm2: Path) -> None:
    """The tokens of a plain English sentence or two."""
    ids = np.array([[504, 3575, 282, 4649, 314, 7042, 30, 378, 3838, 16070, 281, 260, 6476]])
    with turnout.load(smollm2, device="llamacpp") as model, turnout.load(smollm2, device="cpu", accuracy="exact") as graph:
        agree(model.run(input_ids=ids)["logits"], logits_of_graph(graph, ids), 0.12)


def test_text_comes_out_of_it(smollm2: Path) -> None:
    with turnout.load(smollm2, device="llamacpp") as model:
        answer = "".join(model.generate("Count: one two three four five six seven", raw=True, max_tokens=4))
    assert answer == " eight nine ten eleven"
