"""`python -m turnout_cudasim.opcodes > docs/cudasim-opcodes.md`: the opcode table as a page."""

from __future__ import annotations

import importlib

from turnout_cudasim.emit import SPECIAL
from turnout_cudasim.opcodes import SECTIONS, TABLE, Handler

HEAD = """\
# The instructions that turnout-cudasim knows

Made from the simulator's own table by `uv run python -m turnout_cudasim.opcodes > docs/cudasim-opcodes.md`; a test keeps it so. The words
are PTX's ([PTX ISA](https://docs.nvidia.com/cuda/parallel-thread-execution/)). An opcode that no form here allows, by a modifier, a type or
the order of its words, is refused before a kernel starts, with its name and the word that has no meaning there.

How to read a form: after a dot comes a word that must be there, in `( )` one of several, in `[ ]` one that may be missing. `~` marks a word
that changes no value here: a default, a cache hint, a scope. Of every other modifier a test proves that it changes what is computed.
`*` stands for a number, `...` for any further words.

Of the PTX that nvcc 13.5 makes of ggml's CUDA backend (65 files of its sources, for compute_80), all 1348 kernels translate:
`tests/benchmarks/cudasim_breadth.py FOLDER` counts, and lists what is missing.
"""


def page() -> str:
    """The table as Markdown."""
    parts = [HEAD]
    for section in SECTIONS:
        module = importlib.import_module(f"turnout_cudasim.opcodes.{section}")
        parts.append(f"\n## {(module.__doc__ or section).strip()}\n")
        parts += [_row(handler) for handler in TABLE if handler.section == section]
    registers = ", ".join(f"`%{name}`" for name in sorted(SPECIAL))
    parts.append(f"\n## Special registers\n\n{registers}\n\nClocks count the basic blocks that a batch of threads has run.\n")
    return "".join(parts)


def _row(handler: Handler) -> str:
    forms = "".join(f"{form}\n" for form in handler.forms)
    return f"\n{handler.summary}\n\n```\n{forms}```\n"


if __name__ == "__main__":
    print(page(), end="")
