"""Every case of ONNX's own backend suite, from its bytes and from a file, on whatever turnout chooses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from differences import difference
from onnx_cases import Case, all_cases
from random_cases import RANDOM

import turnout

pytestmark = [
    pytest.mark.onnx_suite,
    pytest.mark.filterwarnings("ignore::turnout.errors.SlowPathWarning"),
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),  # ONNX's evaluator, at the edges of what floats hold
]


@dataclass(frozen=True)
class Missed:
    """A case that does not pass: the beginning of what is said instead, or the tolerance within which the values do agree."""

    says: str = ""
    rtol: float = 0
    atol: float = 0


GRADIENT = Missed("NoProvider: cpu:0, reference:0 cannot run 1 of the nodes: ai.onnx.preview.training::Gradient")
MISSED = {
    "test_gradient_of_add": GRADIENT,
    "test_gradient_of_add_and_mul": GRADIENT,
    # two units in the last place of float16, where ONNX's runner allows one
    "test_attention_4d_causal_fp16": Missed(rtol=2**-9),
    # the case wants exactly 0 of float32 sums of up to 1,900, whose last place is 1e-4
    "test_stft_with_window": Missed(rtol=1e-3, atol=1e-4),
}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "case" in metafunc.fixturenames:
        cases = all_cases()
        metafunc.parametrize("case", cases.values(), ids=cases.keys())


@pytest.fixture(params=["bytes", "file"])
def model(case: Case, request: pytest.FixtureRequest, tmp_path: Path) -> bytes | Path:
    if request.param == "bytes":
        return case.content
    if case.path is not None:
        return case.path
    path = tmp_path / "model.onnx"
    path.write_bytes(case.content)
    return path


def test_case(case: Case, model: bytes | Path, record: Callable[[str, str], None]) -> None:
    try:
        found = problem(case, model, case.rtol, case.atol)
    except Exception as error:
        record(case.name, f"{type(error).__name__}: {error}")
        raise
    record(case.name, found)
    known = MISSED.get(case.name)
    if known is None:
        assert not found
    elif known.says:
        assert found.startswith(known.says), "it is missed for another reason than the table says, or passes now"
    else:
        assert found, "it passes now: take it off the table"
        assert not problem(case, model, known.rtol, known.atol)


def problem(case: Case, model: bytes | Path, rtol: float, atol: float) -> str:
    """What stands against the case; "" where nothing does."""
    if case.name in RANDOM:
        return RANDOM[case.name](case, model)
    try:
        loaded = turnout.load(model)
    except turnout.TurnoutError as error:
        return f"{type(error).__name__}: {error}"
    names = [info.name for info in loaded.inputs]
    for given, wanted in case.data():
        got = list(loaded.run(dict(zip(names, given, strict=False))).values())
        if len(got) != len(wanted):
            return f"{len(got)} outputs instead of {len(wanted)}"
        for name, have, want in zip((info.name for info in loaded.outputs), got, wanted, strict=True):
            if differs := difference(have, want, rtol, atol):
                return f"output {name}: {differs}"
    return ""


def test_there_are_as_many_cases_as_onnx_has() -> None:
    assert len(all_cases()) >= 2024
    assert set(MISSED) | set(RANDOM) <= set(all_cases())
