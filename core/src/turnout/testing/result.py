"""What one check found, and what many of them come to."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

__all__ = ["LEVELS", "Outcome", "Result", "Signature", "Summary", "strictly", "summary"]

Signature = tuple[str, str, int]
"""An operator: domain, name, since_version."""

Outcome = Literal["passed", "failed", "skipped", "refused"]

LEVELS = ("imports", "probe", "operators", "honesty", "together", "lifetime", "faults", "text")
"""The levels of the kit, in the order in which they run."""


@dataclass(frozen=True, slots=True)
class Result:
    """One check: `case` is `kind/what`, `detail` a sentence wherever the outcome is not "passed".

    failed: the provider breaks its contract. refused: it does not claim or offer this, and says why.
    skipped: nothing could be checked here (no device, no way to measure); with `--require` that counts as failed.
    operators: the operators that a case of the operator level is about; type: of one with a single node, the type of its first input.
    """

    level: str
    case: str
    outcome: Outcome
    detail: str = ""
    seconds: float = 0.0
    operators: tuple[Signature, ...] = ()
    type: str = ""

    @property
    def kind(self) -> str:
        """The first half of the case: which check it was, whatever it was about."""
        return self.case.partition("/")[0]

    def json(self) -> str:
        """One line of JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def of_json(cls, line: str) -> Result:
        """What `json` wrote."""
        found = json.loads(line)
        return cls(**{**found, "operators": tuple((domain, name, since) for domain, name, since in found["operators"])})

    def __str__(self) -> str:
        return f"{self.level} {self.case}: {self.outcome}" + (f": {self.detail}" if self.detail else "")


def strictly(result: Result) -> Result:
    """The same, where what was skipped counts as failed."""
    if result.outcome != "skipped":
        return result
    return replace(result, outcome="failed", detail=f"skipped, and nothing may be skipped: {result.detail}")


@dataclass(frozen=True)
class Summary:
    """Results in numbers. `levels`: level to outcome to count. `operators`: names of operators with a case that passed."""

    levels: dict[str, dict[str, int]]
    failures: list[Result]
    skipped: list[Result]
    operators: frozenset[str]

    @property
    def ok(self) -> bool:
        """True where nothing failed."""
        return not self.failures

    @property
    def claimed(self) -> int:
        """Operator cases that the provider claims. That it claims none, or has no device, is a result too, but no case."""
        counts = self.levels.get("operators", {})
        general = sum(one.level == "operators" and not one.operators for one in (*self.skipped, *self.failures))
        return sum(counts.values()) - counts.get("refused", 0) - general

    @property
    def passed(self) -> int:
        """Operator cases that the provider claims and gets right."""
        return self.levels.get("operators", {}).get("passed", 0)

    def line(self, name: str) -> str:
        """`cpu: 1412 of 1412 claimed cases passed, operators: 183`, or `mine: 12 checks passed`; then how many failed."""
        parts = [f"{name}: {self.passed} of {self.claimed} claimed cases passed, operators: {len(self.operators)}"]
        if not self.claimed:
            parts = [f"{name}: {sum(counts.get('passed', 0) for counts in self.levels.values())} checks passed"]
        if self.failures:
            parts.append(f"failed: {len(self.failures)}")
        return ", ".join(parts)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "ok": self.ok,
            "claimed": self.claimed,
            "passed": self.passed,
            "operators": sorted(self.operators),
            "levels": self.levels,
            "failures": [asdict(one) for one in self.failures],
            "skipped": [asdict(one) for one in self.skipped],
        }


def summary(results: Iterable[Result]) -> Summary:
    """What the results come to. Reads them once."""
    counts: dict[str, Counter[str]] = {}
    failures: list[Result] = []
    skipped: list[Result] = []
    operators: set[str] = set()
    for one in results:
        counts.setdefault(one.level, Counter())[one.outcome] += 1
        if one.outcome == "failed":
            failures.append(one)
        elif one.outcome == "skipped":
            skipped.append(one)
        elif one.level == "operators" and one.outcome == "passed":
            operators.update(name for _, name, _ in one.operators)
    return Summary({level: dict(count) for level, count in counts.items()}, failures, skipped, frozenset(operators))
