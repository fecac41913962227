"""Level 8: language models make text on it: streams, stops, seeds, cancels, overflows, and the tokens that exact arithmetic chooses.

Two small random models (llama, phi3), as GGUF files, go the way of every user's: `turnout.load(file, device=...)`, whether the provider
runs their operators or takes the file whole. The oracle is the reference provider on the operator graph, in float32.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from turnout.errors import InvalidInput, NoProvider, TurnoutError
from turnout.testing.decoders import ARCHITECTURES, CONTEXT, LETTERS, decoder

if TYPE_CHECKING:
    from turnout.model import Model
    from turnout.testing.result import Result
    from turnout.testing.subject import Subject

__all__ = ["MARGIN", "text"]

MARGIN = 0.5
"""Where the oracle's likeliest token leads by more than this, the provider has to choose it: its arithmetic may be of 8 bits."""

_PROMPT = "turnout"
_LENGTH = 24


def text(subject: Subject) -> Iterator[Result]:
    """The level."""
    from turnout.testing.result import Result

    if why := _absent():
        yield Result("text", "text/any", "skipped", why)
        return
    # on Windows a file that is still mapped cannot be deleted
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder, _reachable(subject):
        for architecture in ARCHITECTURES:
            file = Path(folder) / f"{architecture}.gguf"
            file.write_bytes(decoder(architecture))
            yield from _of_model(subject.device.name, architecture, file)


def _absent() -> str:
    """What has to be installed for this level and is not."""
    from turnout import plugins
    from turnout.formats.choose import formats

    if not any(one.name == "gguf" for one in formats()):
        return "no installed format reads GGUF: pip install turnout-gguf"
    if not any(hasattr(plugin.module, "turnout_text") for plugin in plugins.installed()):
        return "no installed plugin makes text: pip install turnout-text"
    return ""


def _reachable(subject: Subject) -> AbstractContextManager[None]:
    """`turnout.load` finds the provider, also where it was handed over without being installed."""
    from turnout import plugins
    from turnout.testing.fakes import installed

    if any(one is subject.provider for one in plugins.providers()):
        return nullcontext()
    return installed(subject.provider, name=f"{subject.provider.name}, under test")


def _of_model(device: str, architecture: str, file: Path) -> Iterator[Result]:
    import turnout
    from turnout.testing.result import Result

    start = time.perf_counter()
    try:
        model = turnout.load(file, device=device)
    except TurnoutError as error:
        outcome: Any = "refused" if isinstance(error, NoProvider) else "failed"
        yield Result("text", f"load/{architecture}", outcome, error.message.splitlines()[0], time.perf_counter() - start)
        return
    with model:
        for name, check in _CHECKS.items():
            start = time.perf_counter()
            try:
                problem = check(model, file)
            except TurnoutError as error:
                problem = f"{type(error).__name__}: {error.message}"
            yield Result("text", f"{name}/{architecture}", "failed" if problem else "passed", problem, time.perf_counter() - start)


def _made(model: Model, **options: Any) -> str:
    return "".join(model.generate(_PROMPT, raw=True, **{"max_tokens": _LENGTH, **options}))


def _streams(model: Model, file: Path) -> str:
    stream = model.generate(_PROMPT, raw=True, max_tokens=_LENGTH)
    pieces = list(stream)
    if len(pieces) != _LENGTH:
        return f"{_LENGTH} tokens of one character each came in {len(pieces)} pieces"
    if "".join(pieces) != stream.result.text or stream.result.finish_reason != "length":
        return f"the pieces make {''.join(pieces)!r}, the result says {stream.result.text!r} ({stream.result.finish_reason})"
    return "" if _made(model) == stream.result.text else "the same prompt gave another text the second time"


def _stops(model: Model, file: Path) -> str:
    whole = _made(model)
    stop = whole[7:9]
    stream = model.generate(_PROMPT, raw=True, max_tokens=_LENGTH, stop=stop)
    found = "".join(stream)
    expected = whole[: whole.index(stop)]
    if found != expected or stream.result.finish_reason != "stop":
        return f"stopped at {stop!r}, {whole!r} became {found!r} ({stream.result.finish_reason}), not {expected!r}"
    return ""


def _seeds(model: Model, file: Path) -> str:
    drawn = [_made(model, temperature=1.5, seed=seed) for seed in (1, 1, 2)]
    if drawn[0] != drawn[1]:
        return f"seed 1 gave {drawn[0]!r}, then {drawn[1]!r}"
    return f"seeds 1 and 2 both gave {drawn[0]!r}" if drawn[0] == drawn[2] else ""


def _cancels(model: Model, file: Path) -> str:
    whole = _made(model)
    stream = model.generate(_PROMPT, raw=True, max_tokens=_LENGTH)
    begun = "".join(next(stream) for _ in range(5))
    stream.close()
    if list(stream):
        return "pieces came after the stream was closed"
    if begun != whole[:5]:
        return f"it began with {begun!r}, not {whole[:5]!r}"
    return "" if _made(model) == whole else "after a cancelled generation the same prompt gave another text"


def _overflows(model: Model, file: Path) -> str:
    stream = model.generate(_PROMPT, raw=True, max_tokens=None)
    made = len("".join(stream))
    held = stream.result.prompt_tokens + made
    if stream.result.finish_reason != "length" or not CONTEXT <= held <= CONTEXT + 1:
        return f"a context of {CONTEXT} was full at {held} tokens ({stream.result.finish_reason})"
    try:
        list(model.generate((LETTERS * 2)[: CONTEXT + 1], raw=True, max_tokens=1))
    except InvalidInput:
        pass
    else:
        return f"a prompt of more than {CONTEXT} tokens was taken"
    return "" if len(_made(model)) == _LENGTH else "after an overflow it does not generate any more"


def _tokens(model: Model, file: Path) -> str:
    import turnout

    prompt = model.tokenize(_PROMPT)
    stream = model.generate(_PROMPT, raw=True, max_tokens=_LENGTH, logprobs=0)
    for _ in stream:
        pass
    chosen = [token.id for token in stream.result.tokens]
    with turnout.load(file, device="reference", accuracy="exact") as oracle:
        logits = oracle.logits([*prompt, *chosen])[len(prompt) - 1 : -1]
    two = np.sort(logits, axis=-1)[:, -2:]
    sure = two[:, 1] - two[:, 0] > MARGIN
    if sure.sum() < _LENGTH // 2:
        return f"the oracle is sure of {sure.sum()} of {_LENGTH} tokens only: too few to judge by"
    wrong = np.flatnonzero(sure & (logits.argmax(-1) != np.array(chosen)))
    if wrong.size:
        where = int(wrong[0])
        lead = float(two[where, 1] - two[where, 0])
        return f"token {where} is {chosen[where]}, where exact arithmetic is sure of {int(logits[where].argmax())} by {lead:.2f}"
    return ""


_CHECKS: dict[str, Callable[[Model, Path], str]] = {
    "streams": _streams,
    "stops": _stops,
    "seeds": _seeds,
    "cancels": _cancels,
    "overflows": _overflows,
    "tokens": _tokens,
}
"""What is checked of a model: each gives what is wrong, or an empty string."""
