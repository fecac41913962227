"""Generating with small decoders: pieces, stops, limits, what is not computed twice, cancelling, threads, and what is refused."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from text_decoders import END, START, TURN, VOCABULARY, expected, folder, model

import turnout
from turnout.errors import Closed, InvalidInput, InvalidModel, NotGenerative, RunError
from turnout_text.language import Pieces
from turnout_text.session import Session
from turnout_text.stream import Stops
from turnout_text.writer import Writer


@pytest.fixture(scope="module")
def small(tmp_path_factory: Any) -> Iterator[turnout.Model]:
    with turnout.load(folder(tmp_path_factory.mktemp("small") / "model"), device="cpu") as made:
        yield made


class Scripted(Session):
    """Says what it is told to, whatever it is fed, and notes what that was."""

    vocabulary = VOCABULARY

    def __init__(self, answer: list[int], context: int = 1000, fails_at: int = -1) -> None:
        self.answer, self.context, self.fails_at = answer, context, fails_at
        self.length = 0
        self.prompt = 0
        self.fed: list[int] = []
        self.closed = False

    def feed(self, tokens: Any, wanted: Any) -> Any:
        if self.length == self.fails_at:
            raise RunError("the device went away")
        self.fed += tokens
        self.length += len(tokens)
        if len(tokens) > 1 or not self.prompt:
            self.prompt = self.length
        logits = np.zeros((len(wanted), VOCABULARY), np.float32)
        logits[-1, self.answer[min(self.length - self.prompt, len(self.answer) - 1)]] = 9
        return logits

    def truncate(self, length: int) -> int:
        self.length, self.prompt = min(self.length, length), 0
        return self.length

    def close(self) -> None:
        self.closed = True


class Choosing(Scripted):
    """Chooses by itself, and notes what it was told."""

    def __init__(self, *values: Any, **changed: Any) -> None:
        super().__init__(*values, **changed)
        self.told: dict[str, Any] = {}
        self.draws: list[float] = []

    def chooser(self, **told: Any) -> Any:
        self.told = told
        return self._follow

    def _follow(self, token: int, draw: float) -> int:
        self.draws.append(draw)
        return int(self.feed([token], [0])[0].argmax())


def scripted(small: turnout.Model, answer: str | list[int], kind: Any = Scripted, **changed: Any) -> tuple[Writer, list[Any]]:
    """A writer over sessions that give this answer, and the sessions that it made."""
    made: list[Any] = []
    tokens = [*answer.encode(), END] if isinstance(answer, str) else answer

    def make() -> Any:
        made.append(kind(tokens, **changed))
        return made[-1]

    return Writer(small.origin, make), made


def greedy(prompt: list[int], count: int) -> list[int]:
    tokens = list(prompt)
    for _ in range(count):
        tokens.append(int(expected(tokens)[-1].argmax()))
        if tokens[-1] in (END, TURN):
            break
    return tokens[len(prompt) :]


# what comes out ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prompt", ["Hello", "a", "ü", "x y z"])
def test_the_likeliest_tokens_come_one_after_the_other(small: turnout.Model, prompt: str) -> None:
    result = small.generate(prompt, raw=True, max_tokens=12).result
    wanted = greedy(small.tokenize(prompt), 12)
    assert [token.id for token in result.tokens] == wanted
    assert result.generated_tokens == len(wanted)
    assert result.prompt_tokens == len(prompt.encode()) + 1
    assert result.finish_reason == ("stop" if wanted[-1] == END else "length")


def test_tokens_text_and_logits(small: turnout.Model) -> None:
    assert small.tokenize("ab") == [START, 97, 98]
    assert small.tokenize("a<turn>", ends=False) == [97, TURN]
    assert small.tokenize("a<turn>", ends=False, special=False) == [97, *b"<turn>"]
    assert small.detokenize([START, 97, TURN, 195, 164]) == "aä"
    assert small.detokenize([97, TURN], special=True) == "a<turn>"
    tokens = small.tokenize("x" * 1100, ends=False)[:990]
    logits = small.logits(tokens)
    assert logits.dtype == np.float32
    assert np.array_equal(logits, expected(tokens))


def test_pieces_are_the_text_and_the_result_counts(small: turnout.Model) -> None:
    writer, _ = scripted(small, "Äh, 你好 🦙!")
    stream = writer.generate("hi", raw=True)
    pieces = list(stream)
    assert "".join(pieces) == stream.result.text == "Äh, 你好 🦙!"
    assert "🦙" in pieces
    assert all("\ufffd" not in piece for piece in pieces)
    result = stream.result
    assert (result.finish_reason, result.prompt_tokens, result.generated_tokens) == ("stop", 3, len("Äh, 你好 🦙!".encode()) + 1)
    assert 0 < result.prompt_seconds <= result.first_piece_seconds <= result.seconds
    assert [token.id for piece in pieces for token in piece.tokens] == [token.id for token in result.tokens][: result.generated_tokens]


def test_a_session_that_chooses_by_itself_gets_options_seen_tokens_and_draws(small: turnout.Model) -> None:
    writer, found = scripted(small, "hello", Choosing)
    options = {"temperature": 0.5, "top_k": 3, "top_p": 0.9, "min_p": 0.1, "repetition_penalty": 1.2}
    result = writer.generate("hi", raw=True, seed=7, **options).result
    (made,) = found
    assert result.text == "hello"
    assert [token.id for token in result.tokens] == [*b"hello", END]
    assert made.told == {**options, "seen": sorted({START, *b"hi", result.tokens[0].id})}
    assert made.draws == np.random.default_rng(7).random(6).tolist()[1:]
    assert made.fed == [START, *b"hihello"]
    again = writer.generate("hihe", raw=True).result  # it knows what the session holds
    assert again.reused_tokens == 4
    assert made.draws[5:] == [0.0] * (again.generated_tokens - 1)


def test_who_asks_for_probabilities_gets_them_where_the_session_could_choose(small: turnout.Model) -> None:
    writer, found = scripted(small, "hey", Choosing)
    result = writer.generate("hi", raw=True, logprobs=1).result
    assert all(token.logprob is not None for token in result.tokens)
    assert found[0].draws == []


def test_bytes_that_are_no_text_come_out_in_the_end(small: turnout.Model) -> None:
    writer, _ = scripted(small, [255, 254, 97, 0xF0, 0x9F, END])
    assert writer.generate("x", raw=True).result.text == "\ufffd\ufffda\ufffd"
    writer, _ = scripted(small, [0x80] * 100 + [END])
    assert len(list(writer.generate("x", raw=True))) > 3  # not held back for ever


@given(st.text(max_size=30), st.integers(0, 5))
def test_pieces_of_any_text(small: turnout.Model, text: str, cut: int) -> None:
    language = small._writer().language
    try:
        tokens = language.encode(text, ends=False, special=False)
    except InvalidInput:
        assert any(0xD800 <= ord(character) < 0xE000 for character in text)
        return
    whole = text.encode()[: max(0, len(text.encode()) - cut)].decode(errors="replace")
    pieces = Pieces(language, [START])
    found = [pieces.add(token) for token in tokens[: max(0, len(tokens) - cut)]]
    assert "".join([*found, pieces.rest()]) == whole
    assert all(not piece.endswith("\ufffd") or "\ufffd" in text for piece in found)


@given(st.text("ab", max_size=20), st.lists(st.text("ab", min_size=1, max_size=4), max_size=3), st.data())
def test_stops_cut_at_the_first_and_hold_nothing_else_back(text: str, stops: list[str], data: Any) -> None:
    holder, said, rest = Stops(stops), "", text
    places = [text.find(stop) for stop in stops if stop in text]
    while rest:
        size = data.draw(st.integers(1, len(rest)))
        piece, rest = rest[:size], rest[size:]
        free, found = holder.add(piece)
        said += free
        if found:
            break
        assert not any(stop in said for stop in stops)
    else:
        assert not places
        said += holder.rest()
        assert said == text
        return
    first = next(end for end in range(len(text) + 1) if any(text[:end].endswith(stop) for stop in stops))
    assert said in {text[:end] for end in range(first + 1)}
    assert said == text[: min(text.find(stop) for stop in stops if stop in text[: len(text) - len(rest)])]


def test_a_stop_across_pieces_ends_the_text_before_it(small: turnout.Model) -> None:
    writer, _ = scripted(small, "one two. three")
    for stop, text in (("two.", "one "), (["three", "o. t"], "one tw"), ("ee", "one two. thr"), ("zz", "one two. three")):
        stream = writer.generate("x", raw=True, stop=stop)
        pieces = list(stream)
        assert "".join(pieces) == stream.result.text == text
        assert stream.result.finish_reason == "stop"


def test_probabilities_of_tokens(small: turnout.Model) -> None:
    result = small.generate("abc", raw=True, max_tokens=3, logprobs=2).result
    tokens = small.tokenize("abc")
    for token in result.tokens:
        logits = expected(tokens)[-1].astype(np.float64)
        known = logits - np.log(np.exp(logits).sum())
        assert token.logprob == pytest.approx(known[token.id], abs=1e-6)
        assert [one for one, _ in token.top] == np.argsort(-known, kind="stable")[:2].tolist()
        tokens.append(token.id)
    assert small.generate("abc", raw=True, max_tokens=1).result.tokens[0].logprob is None


def test_a_seed_makes_the_same_text(small: turnout.Model) -> None:
    texts = [small.generate("abc", raw=True, max_tokens=30, temperature=2.0, seed=seed).result.text for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]


# what is not computed twice, and what is too long -------------------------------------------------------------------


def test_a_common_beginning_is_computed_once(small: turnout.Model) -> None:
    writer, made = scripted(small, "yes")
    assert writer.generate("abcdef", raw=True).result.reused_tokens == 0
    result = writer.generate("abcxyz", raw=True).result
    assert result.reused_tokens == 4  # <s> a b c
    (session,) = made
    assert session.fed == [START, *b"abcdef", *b"yes", *b"xyz", *b"yes"]
    assert writer.generate("abcxyz", raw=True).result.reused_tokens == 6  # the last is computed again, for its logits


def test_a_session_that_cannot_stop_anywhere_begins_anew(small: turnout.Model) -> None:
    writer, made = scripted(small, "yes")
    list(writer.generate("abcdef", raw=True))
    (session,) = made
    cut = session.truncate
    session.truncate = lambda length: cut(length) if length == 0 else session.length  # type: ignore[method-assign]
    assert writer.generate("abcxyz", raw=True).result.reused_tokens == 0
    assert session.fed[-10:] == [START, *b"abcxyz", *b"yes"]


def test_a_prompt_is_fed_in_portions(small: turnout.Model) -> None:
    writer, _ = scripted(small, "yes", context=2000)
    result = writer.generate("x" * 1300, raw=True).result
    assert result.prompt_tokens == 1301
    assert result.text == "yes"


class Turning(Scripted):
    """Beyond 8 tokens it computes positions otherwise; it notes where each run began and how long it was."""

    switch = 8

    def feed(self, tokens: Any, wanted: Any) -> Any:
        self.runs = [*getattr(self, "runs", []), (self.length, len(tokens))]
        return super().feed(tokens, wanted)


@pytest.mark.parametrize("kind", [Turning, type("TurningChoosing", (Choosing, Turning), {})])
def test_nothing_that_was_turned_one_way_meets_what_is_turned_the_other(
    small: turnout.Model, kind: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("turnout_text.writer._CHUNK", 4)
    writer, made = scripted(small, [97], kind)
    assert writer.generate("x" * 5, raw=True, max_tokens=5).result.generated_tokens == 5  # the last of them is not fed
    (session,) = made
    assert session.runs == [(0, 4), (4, 2), (6, 1), (7, 1), (0, 9), (9, 1)]  # at the 9th all over
    assert session.fed[-10:] == [START, *b"xxxxx", *[97] * 4]
    session.runs.clear()
    assert writer.generate("x" * 6, raw=True, max_tokens=1).result.reused_tokens == 0  # 7 tokens: turned the first way
    assert writer.generate("x" * 15, raw=True, max_tokens=1).result.reused_tokens == 0  # 16: the other
    assert writer.generate("x" * 12, raw=True, max_tokens=1).result.reused_tokens == 12  # of 13
    assert session.runs == [(0, 4), (4, 3), (0, 9), (9, 4), (13, 3), (12, 1)]
    writer.logits([1] * 14)
    assert made[-1].runs == [(0, 9), (9, 4), (13, 1)]


@pytest.mark.parametrize(("says", "runs"), [(None, [(0, 9), (9, 4)]), (0, [(0, 4), (4, 4), (8, 4), (12, 1)])])
def test_a_session_that_does_not_say_where_positions_turn_otherwise_goes_by_the_metadata(
    small: turnout.Model, says: int | None, runs: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("turnout_text.writer._CHUNK", 4)
    made = type("Whole", (), {**vars(Scripted), **({} if says is None else {"switch": says})})([97])
    found: list[tuple[int, int]] = []
    feed = made.feed
    made.feed = lambda tokens, wanted: (found.append((made.length, len(tokens))), feed(tokens, wanted))[1]
    metadata = {**small.origin.metadata, "original_context_length": 8}
    writer = Writer(dataclasses.replace(small.origin, metadata=metadata), lambda: made)
    assert writer.generate("x" * 12, raw=True, max_tokens=1).result.prompt_tokens == 13
    assert found == runs


def test_the_context_is_a_limit(small: turnout.Model) -> None:
    writer, made = scripted(small, [97], context=10)
    with pytest.raises(InvalidInput, match=r"11 tokens, and .* takes 10"):
        writer.generate("x" * 10, raw=True)
    assert not any(session.fed for session in made)
    result = writer.generate("x" * 6, raw=True, max_tokens=None).result
    assert (result.finish_reason, result.generated_tokens) == ("length", 4)
    assert made[0].length <= 10
    assert writer.generate("x" * 9, raw=True, max_tokens=None).result.generated_tokens == 1
    with pytest.raises(InvalidInput, match="11 tokens"):
        writer.logits([1] * 11)


# cancelling, threads, failures ---------------------------------------------------------------------------------------


def test_closing_a_stream_cancels_it(small: turnout.Model) -> None:
    writer, made = scripted(small, [97] * 500 + [END])
    with writer.generate("x", raw=True) as stream:
        assert next(stream) == "a"
    fed = len(made[0].fed)
    assert list(stream) == []
    assert stream.result.finish_reason == "cancelled"
    assert stream.result.text == "a"
    assert len(made[0].fed) == fed
    list(writer.generate("x", raw=True, max_tokens=3))
    assert len(made) == 1  # its session was given back


def test_a_stream_that_nobody_reads_computes_nothing(small: turnout.Model) -> None:
    writer, made = scripted(small, "yes")
    writer.generate("x", raw=True).close()
    assert not any(session.fed for session in made)


class Slow(Scripted):
    """Takes a moment for each of 400 tokens, and tells when it has begun."""

    def __init__(self, started: threading.Event) -> None:
        super().__init__([97] * 400 + [END])
        self._started = started

    def feed(self, tokens: Any, wanted: Any) -> Any:
        self._started.set()
        threading.Event().wait(0.005)
        return super().feed(tokens, wanted)


def test_another_thread_cancels(small: turnout.Model) -> None:
    started = threading.Event()
    writer = Writer(small.origin, lambda: Slow(started))
    stream = writer.generate("x", raw=True)
    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(lambda: stream.result)
        assert started.wait(5)
        stream.close()
        result = reading.result(5)
    assert result.finish_reason == "cancelled"
    assert result.generated_tokens < 200


def test_another_thread_cancels_an_answer_which_joins_as_far_as_it_came(small: turnout.Model) -> None:
    started = threading.Event()
    chat = Writer(small.origin, lambda: Slow(started)).chat()
    answer = chat.send("hello")
    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(lambda: "".join(answer))
        assert started.wait(5)
        answer.close()
        said = reading.result(5)
    assert len(said) < 200
    assert answer.result.finish_reason == "cancelled"
    assert chat.messages == [{"role": "user", "content": "hello"}, {"role": "assistant", "content": said}]


def test_threads_generate_at_once_each_with_a_cache_of_its_own(small: turnout.Model) -> None:
    prompts = [f"{number} and more" for number in range(6)]
    with ThreadPoolExecutor(6) as pool:
        results = list(pool.map(lambda prompt: small.generate(prompt, raw=True, max_tokens=20).result, prompts * 2))
    for prompt, result in zip(prompts * 2, results, strict=True):
        assert [token.id for token in result.tokens] == greedy(small.tokenize(prompt), 20)


def test_two_streams_take_turns(small: turnout.Model) -> None:
    streams = [small.generate(prompt, raw=True, max_tokens=10) for prompt in ("left", "right")]
    ids: list[list[int]] = [[], []]
    for _ in range(10):
        for one, stream in zip(ids, streams, strict=True):
            piece = next(stream, None)
            one += [] if piece is None else [token.id for token in piece.tokens]
    for one, stream, prompt in zip(ids, streams, ("left", "right"), strict=True):
        one += [token.id for piece in stream for token in piece.tokens]
        assert one == greedy(small.tokenize(prompt), 10)


def test_a_session_that_failed_is_not_used_again(small: turnout.Model) -> None:
    writer, made = scripted(small, [97] * 20 + [END], fails_at=5)
    stream = writer.generate("x", raw=True)
    with pytest.raises(RunError, match="went away"):
        list(stream)
    assert made[0].closed
    made_before = len(made)
    with pytest.raises(RunError):
        list(writer.generate("x", raw=True))
    assert len(made) == made_before + 1


def test_a_closed_model_generates_no_more(tmp_path: Path) -> None:
    made = turnout.load(folder(tmp_path / "model"), device="cpu")
    stream = made.generate("x", raw=True)
    next(stream)
    writer = made._writer()
    made.close()
    with pytest.raises(Closed):
        list(stream)
    for ask in (lambda: made.generate("x"), lambda: writer.generate("x", raw=True).result, lambda: made.logits([1])):
        with pytest.raises(Closed):
            ask()


# messages and conversations ------------------------------------------------------------------------------------------


def test_a_text_is_a_message_where_there_is_a_template(small: turnout.Model) -> None:
    writer, made = scripted(small, "ok")
    list(writer.generate("hi"))
    assert bytes(made[0].fed[1:5]) == b"u:hi"
    assert made[0].fed[0] == START
    assert made[0].fed[5] == TURN
    asked = len(made[0].fed)
    list(writer.generate([{"role": "system", "content": "brief"}, {"role": "user", "content": "hi"}]))
    assert bytes(made[0].fed[asked : asked + 7]) == b"s:brief"


def test_a_conversation_keeps_its_messages_and_what_was_computed(small: turnout.Model) -> None:
    writer, _ = scripted(small, "fine")
    chat = writer.chat("be brief", max_tokens=50)
    assert "".join(chat.send("how are you?")) == "fine"
    assert [message["role"] for message in chat.messages] == ["system", "user", "assistant"]
    second = chat.send("and now?")
    assert second.result.text == "fine"
    assert second.result.reused_tokens > 20
    assert [message["content"] for message in chat.messages] == ["be brief", "how are you?", "fine", "and now?", "fine"]
    with chat.send("stop here") as answer:
        assert next(answer) == "f"
    assert chat.messages[-1] == {"role": "assistant", "content": "f"}
    chat.set(max_tokens=2)
    assert chat.send("short").result.text == "fi"
    chat.reset()
    assert chat.messages == [{"role": "system", "content": "be brief"}]
    with pytest.raises(InvalidInput, match="top_k"):
        chat.set(top_k=-1)


def test_an_answer_that_fails_does_not_join(small: turnout.Model) -> None:
    writer, _ = scripted(small, [97] * 50 + [END], fails_at=15)
    chat = writer.chat()
    with pytest.raises(RunError):
        list(chat.send("hello"))
    assert chat.messages == []


@pytest.mark.parametrize("prompt", [None, 3, [], {}, {"role": "user", "content": "x"}, ["x"], [{"content": "x"}], [3], b"x", [{"role": 1}]])
def test_what_is_no_prompt(small: turnout.Model, prompt: Any) -> None:
    with pytest.raises(InvalidInput) as wrong:
        small.generate(prompt)
    assert wrong.value.hint


@pytest.mark.parametrize("tokens", [[], [-1], [1.5], ["a"], [[1]], [[1], [2, 3]], "abc", None, 5, [2**70]])
def test_what_are_no_tokens(small: turnout.Model, tokens: Any) -> None:
    with pytest.raises(InvalidInput):
        small.logits(tokens)
    if tokens != []:
        with pytest.raises(InvalidInput):
            small.detokenize(tokens)  # type: ignore[arg-type, unused-ignore]


def test_tokens_that_the_model_has_not(small: turnout.Model) -> None:
    """Kernels read past a table, or give zeros, for numbers beyond it."""
    writer, made = scripted(small, "yes")
    for ask in (small.logits, writer.logits):
        with pytest.raises(InvalidInput, match=rf"no token {VOCABULARY}, .* {VOCABULARY - 1}"):
            ask([1, VOCABULARY, 2])
    assert not any(session.fed for session in made)
    short, _ = scripted(small, "yes", type("Short", (Scripted,), {"vocabulary": 100}))
    with pytest.raises(InvalidInput, match=f"no token {START}"):
        short.generate("x", raw=True)


@pytest.mark.parametrize("name", ["messages", "tools", "add_generation_prompt", "answer"])
def test_values_for_the_template_that_are_not_the_callers(small: turnout.Model, name: str) -> None:
    with pytest.raises(InvalidInput, match=f"template: {name!r} is given by turnout"):
        small.generate("x", template={name: []})


def test_text_that_is_none(small: turnout.Model) -> None:
    for text in (None, 5, b"x", "\ud800"):
        with pytest.raises(InvalidInput):
            small.tokenize(text)  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match="byte 0xe9 in it is not UTF-8"):  # what a terminal or a pipe in another encoding gives
        small.generate("caf\udce9")
    with pytest.raises(InvalidInput, match="no token -1"):
        small.detokenize([-1])


def test_models_that_lack_something(tmp_path: Path) -> None:
    with turnout.load(model("whole"), device="cpu") as bare:
        assert np.array_equal(bare.logits([1, 2]), expected([1, 2]))
        with pytest.raises(NotGenerative, match="no tokenizer"):
            bare.generate("x")
    made = folder(tmp_path / "plain")
    (made / "tokenizer_config.json").unlink()
    with turnout.load(made, device="cpu") as plain:
        assert plain.generate("x", max_tokens=2).result.prompt_tokens == 2  # no template: it goes on from the text
        with pytest.raises(NotGenerative, match="no chat template"):
            plain.chat()
        with pytest.raises(InvalidInput, match="no chat template"):
            plain.generate([{"role": "user", "content": "x"}])
    (made / "tokenizer.json").write_text("{")
    with turnout.load(made, device="cpu") as broken, pytest.raises(InvalidModel, match="cannot be read"):
        broken.generate("x")
