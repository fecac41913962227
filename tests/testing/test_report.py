"""docs/operators.md is what the providers say."""

from pathlib import Path

import pytest

from turnout.testing.report import report, versions

PAGE = Path(__file__).parent.parent.parent / "docs" / "operators.md"


def test_the_page_is_not_stale():
    shown = PAGE.read_text(encoding="utf-8")
    if f"Made with {versions()}." not in shown:
        pytest.skip(f"the page was made with other versions than {versions()}")
    assert shown == report(), "run `uv run python -m turnout.testing.report docs/operators.md`"


def test_the_page_tells_nothing_of_the_machine():
    import getpass
    import platform

    shown = PAGE.read_text(encoding="utf-8")
    assert platform.node() not in shown
    assert f"/{getpass.getuser()}/" not in shown


def test_the_page_of_one_provider():
    page = report(["toy"])
    assert "| Add | 14 | float32 |" in page
    assert "| MatMul | 13 | no |" in page
    assert "- the toy knows Add, Mul, Relu, not …: Abs, " in page
    assert "- the toy's … takes float32 only: Add, Mul, Relu" in page
