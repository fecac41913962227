"""Rows of text in columns, for a terminal or a log."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["table"]


def table(rows: Sequence[Sequence[str]], heads: Sequence[str] = (), *, right: Sequence[int] = (), indent: int = 0) -> str:
    """The rows in columns as wide as their widest cell; columns whose number is in `right` are aligned to the right."""
    lines = [list(heads), *rows] if heads else list(rows)
    if not lines:
        return ""
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return "\n".join(
        " " * indent
        + "  ".join(
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )
