"""The kit catches every broken provider, at the level that its class is named after, and lets the clean ones pass."""

from collections import Counter

import pytest

from turnout.testing.broken import BROKEN, Clean, Far, level_and_kind
from turnout.testing.levels import Kit


@pytest.mark.slow
def test_every_broken_provider_is_caught():
    caught = [broken.__name__ for broken in BROKEN if _catches(broken)]
    print(f"{len(caught)} of {len(BROKEN)} caught")
    assert [broken.__name__ for broken in BROKEN] == caught
    assert len(BROKEN) >= 41


def _catches(broken: type[Clean]) -> bool:
    """Whether the named level, run until the named check fails, finds fault in that check, and the level in no other level's matters."""
    level, kind = level_and_kind(broken)
    only = broken.only if level in ("honesty", "operators") else ["Add"]
    for result in Kit(broken(), only).run([level]):
        if result.outcome == "failed":
            assert result.level == level, f"{broken.__name__}: {result}"
            assert result.detail
            if result.kind == kind:
                return True
    return False


@pytest.mark.parametrize("clean", [Clean, Far])
def test_a_clean_provider_passes_everything(clean):
    results = list(Kit(clean(), Clean.only).run())
    assert not [str(result) for result in results if result.outcome in ("failed", "skipped")]
    passed = Counter(result.level for result in results if result.outcome == "passed")
    assert set(passed) == {"imports", "probe", "operators", "honesty", "together", "lifetime", "faults"}
    assert passed["operators"] > 150
    assert passed["together"] >= 40


@pytest.mark.slow
@pytest.mark.parametrize("broken", BROKEN, ids=lambda broken: broken.__name__)
def test_a_broken_provider_is_caught_by_its_level_and_no_other(broken):
    results = list(Kit(broken(), Clean.only).run())
    level, kind = level_and_kind(broken)
    failed = [result for result in results if result.outcome == "failed"]
    assert {result.level for result in failed} == {level}, failed[:5]
    assert kind in {result.kind for result in failed}


def test_nothing_is_held_against_who_promises_finite_numbers_only():
    broken = next(one for one in BROKEN if level_and_kind(one) == ("operators", "special"))
    honest = type(broken.__name__, (broken,), {"finite": "its arithmetic has no NaN"})
    results = list(Kit(honest(), broken.only).run(["operators"]))
    wrong = [result for result in results if result.detail.startswith("its arithmetic has no NaN")]
    assert wrong
    assert {(result.kind, result.outcome) for result in wrong} == {("special", "refused")}
    assert "failed" not in {result.outcome for result in results}
