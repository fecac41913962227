"""`python -m turnout_cudasim.opcodes > docs/cudasim-opcodes.md`: the opcode table as a page."""

from __future__ import annotations

import importlib
from collections import defaultdict

from turnout_cudasim.emit import SPECIAL
from turnout_cudasim.opcodes import SECTIONS, TABLE, Handler

HEAD = """\
# The instructions that turnout-cudasim knows

Made from the simulator's own table by `uv run python -m turnout_cudasim.opcodes > docs/cudasim-opcodes.md`; a test keeps it so. The words
are PTX's ([PTX ISA](https://docs.nvidia.com/cuda/parallel-thread-execution/)). An opcode that is missing here, or a form that a row does
not name, is refused by its name before a kernel starts. Types are looked at everywhere, modifiers not yet: a rare one could be passed over.

Of the PTX that nvcc 13.5 makes of ggml's CUDA backend (65 files of its sources, for compute_80), all 1495 kernels translate:
`tests/benchmarks/cudasim_breadth.py FOLDER` counts, and lists what is missing.
"""


def page() -> str:
    """The table as Markdown."""
    rows: dict[str, dict[Handler, list[str]]] = defaultdict(dict)
    for name, handler in TABLE.items():
        same = next((h for h in rows[handler.section] if h.emit is handler.emit), handler)
        rows[handler.section].setdefault(same, []).append(name)
    parts = [HEAD]
    for section in SECTIONS:
        module = importlib.import_module(f"turnout_cudasim.opcodes.{section}")
        parts.append(f"\n## {(module.__doc__ or section).strip()}\n\n| opcode | |\n|---|---|\n")
        parts += [f"| {', '.join(f'`{n}`' for n in _short(names))} | {handler.summary} |\n" for handler, names in rows[section].items()]
    registers = ", ".join(f"`%{name}`" for name in sorted(SPECIAL))
    parts.append(f"\n## Special registers\n\n{registers}\n\nClocks count the basic blocks that a batch of threads has run.\n")
    return "".join(parts)


def _short(names: list[str]) -> list[str]:
    """Names that differ only in their type, as one."""
    types = ("u16", "s16", "u32", "s32", "u64", "s64", "u16x2", "s16x2")
    stems: dict[str, list[str]] = {}
    for name in names:
        stem, _, last = name.rpartition(".")
        stems.setdefault(stem if last in types else name, []).append(last if last in types else "")
    return [stem + (f".{{{','.join(lasts)}}}" if lasts[0] else "") for stem, lasts in stems.items()]


if __name__ == "__main__":
    print(page(), end="")
