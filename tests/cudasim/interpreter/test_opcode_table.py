"""The page of opcodes is what the table says, and every row says something."""

from __future__ import annotations

from pathlib import Path

import pytest

from turnout_cudasim.opcodes import TABLE
from turnout_cudasim.opcodes.__main__ import page

PAGE = Path(__file__).parents[3] / "docs" / "cudasim-opcodes.md"


def test_the_page_is_up_to_date():
    assert PAGE.read_text() == page(), "run: uv run python -m turnout_cudasim.opcodes > docs/cudasim-opcodes.md"


@pytest.mark.parametrize("name", TABLE)
def test_every_row_is_described(name):
    assert TABLE[name].summary
