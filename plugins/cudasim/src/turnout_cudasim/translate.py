"""Kernels to NumPy: each basic block becomes a Python function over arrays with one element per thread.

    kernel body ──flatten──► instructions ──survey──► registers' reads, writes and types ──► basic blocks ──► Python source, on first run

A generated function looks like this; `t` is the threads that run it (threads.py), a register is an array, or a NumPy scalar while all
threads agree on its value:

    def block_3(t, r1, rd4, f2):
        value1 = Address(rd4.view(I8))
        f7 = load(t, "global", "f4", value1, 16, 17); del value1
        f2 = fma(f7, f7, f2); del f7
        p1 = r1 < U4_64
        return (f2,), p1

The same function serves all threads and a part of them: whoever calls it gathers and scatters (execute.py). Both the survey and the
writing of source run the same opcode handlers (opcodes/), against two emitters.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import CodeType
from typing import Any

from turnout_cudasim import opcodes
from turnout_cudasim.emit import Survey, Surveyor, Writer, local
from turnout_cudasim.flatten import Flat, flatten
from turnout_cudasim.parse import Instruction, Kernel
from turnout_cudasim.report import NotModelled

END = 1 << 30  # the block number of a thread that is done


@dataclass
class Block:
    """A basic block: `code(threads, *reads) -> (writes, control)`."""

    number: int
    first: int  # instructions [first, last)
    last: int
    exit: str = "fall"  # "fall", "jump", "branch", "switch", "return", "barrier"
    targets: tuple[int, ...] = ()
    mask: str | int | None = None  # the lanes that must be here before it runs: a number, a register, or None (no warp instruction leads)
    reads: tuple[int, ...] = ()
    writes: tuple[int, ...] = ()
    code: Callable[..., Any] | None = None
    source: str = ""


class Translation:
    """A kernel, ready to run. Raises NotModelled with every missing opcode at once."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.flat: Flat = flatten(kernel)
        self.instructions: list[Instruction] = self.flat.instructions
        self.symbols: dict[str, str] = {}  # module variables used, -> their name in generated code
        self.granule = 16  # bytes of shared memory per race record: the smallest access
        self.constants: dict[str, Any] = {}
        surveys = self._survey()
        self.names = sorted(set().union(*(s.reads | s.writes for s in surveys))) if surveys else []
        self.index = {name: i for i, name in enumerate(self.names)}
        self.homes = [self.home[name] for name in self.names]
        self.blocks = self._find_blocks()
        self._find_liveness(surveys)

    # ---- pass 1: reads, writes, types

    def _survey(self) -> list[Survey]:
        emitter = Surveyor(self)
        missing: list[str] = []
        surveys = []
        for site, instruction in enumerate(self.instructions):
            emitter.begin(site, instruction)
            try:
                handler = opcodes.find(instruction)
                handler.emit(emitter, instruction)
            except NotModelled as error:
                if error.feature not in missing:
                    missing.append(error.feature)
            surveys.append(emitter.survey)
        if missing:
            raise NotModelled(", ".join(missing), self.kernel.name)
        self.home = emitter.homes()
        self.computed = emitter.computed_floats()
        return surveys

    # ---- basic blocks

    def _find_blocks(self) -> list[Block]:
        starts = {0, *self.flat.labels.values()}
        in_step = False  # whether the instructions so far, in this block, already brought the warp together
        for i, instruction in enumerate(self.instructions):
            if i in starts:
                in_step = False
            if opcodes.find(instruction).ends_block:
                starts.add(i + 1)
            elif (mask := self._mask(instruction)) is not None:
                if not in_step or mask != 0xFFFFFFFF:
                    starts.add(i)
                in_step = mask == 0xFFFFFFFF
        ordered = sorted(s for s in starts if s < len(self.instructions))
        self.number = {start: n for n, start in enumerate(ordered)}
        blocks = []
        for n, (first, last) in enumerate(zip(ordered, [*ordered[1:], len(self.instructions)], strict=True)):
            block = Block(n, first, last, mask=self._mask(self.instructions[first]))
            self._find_exit(block)
            blocks.append(block)
        return blocks

    def _mask(self, instruction: Instruction) -> str | int | None:
        """The lanes that an instruction needs in step."""
        where = opcodes.find(instruction).mask
        if where is None:
            return None
        operand = where(instruction)
        if operand is None:
            return None
        return operand if operand in self.index else int(operand, 0) & 0xFFFFFFFF

    def _find_exit(self, block: Block) -> None:
        last = self.instructions[block.last - 1]
        after = self.number.get(block.last, END)
        kind = opcodes.find(last).ends_block
        block.exit, block.targets = kind or "fall", (after,)
        if kind == "branch":
            target = self._target(last.operands[0])
            block.exit, block.targets = ("branch", (target, after)) if last.guard else ("jump", (target,))
        elif kind == "switch":
            block.targets = tuple(self._target(name) for name in self.flat.branch_targets[last.operands[1]])
        elif kind == "return":
            block.targets = (END, after) if last.guard else (END,)
            block.exit = "branch" if last.guard else "jump"

    def _target(self, label: str) -> int:
        if label not in self.flat.labels:
            raise NotModelled(f"branch to {label}, which is no label", self.kernel.name)
        return self.number.get(self.flat.labels[label], END)

    def _find_liveness(self, surveys: Sequence[Survey]) -> None:
        """Which registers each block needs from before, and which of its own are needed after (a backward data-flow analysis)."""
        needs, makes = [], []
        for block in self.blocks:
            need: set[str] = set()
            made: set[str] = set()
            for survey in surveys[block.first : block.last]:
                need |= survey.reads - made
                made |= survey.writes
            needs.append(need)
            makes.append(made)
        live = [set(need) for need in needs]
        after: list[set[str]] = [set() for _ in self.blocks]
        changed = True
        while changed:
            changed = False
            for block in reversed(self.blocks):
                n = block.number
                wanted: set[str] = set().union(*(live[t] for t in block.targets if t != END))
                if wanted != after[n]:
                    after[n] = wanted
                    live[n] = needs[n] | (wanted - makes[n])
                    changed = True
        for block in self.blocks:
            n = block.number
            barrier_result = makes[n] if block.exit == "barrier" else set()
            block.reads = tuple(self.index[name] for name in sorted(needs[n] | (barrier_result & needs[n])))
            block.writes = tuple(self.index[name] for name in sorted(makes[n] & after[n]))

    # ---- pass 2: source

    def source(self, block: Block) -> str:
        """The block as Python source."""
        writer = Writer(self)
        for site in range(block.first, block.last):
            instruction = self.instructions[site]
            writer.begin(site, instruction)
            opcodes.find(instruction).emit(writer, instruction)
        arguments = "".join(f", {local(self.names[k])}" for k in block.reads)
        results = "".join(f"{local(self.names[k])}, " for k in block.writes)
        lines = "".join(f"    {line}\n" for line in _let_go(writer.lines, f"{results}{writer.control}"))
        return f"def block_{block.number}(t{arguments}):\n{lines}    return ({results}), {writer.control}\n"

    def compile(self, block: Block) -> Callable[..., Any]:
        """The block as a function; made once."""
        if block.code is None:
            block.source = self.source(block)
            code = _compile(block.source, f"<{self.kernel.name}, block {block.number}>")
            space: dict[str, Any] = {**opcodes.NAMESPACE, **self.constants}
            exec(code, space)
            block.code = space[f"block_{block.number}"]
        assert block.code is not None
        return block.code


_STRING, _NAME, _RESULTS = re.compile(r"""("|').*?\1"""), re.compile(r"[A-Za-z_]\w*"), re.compile(r"((?:\w+,? ?)+) = ")


def _let_go(lines: Sequence[str], after: str) -> list[str]:
    """The lines, each with a `del` of the values that nobody reads after it: their memory, still in the cache, serves the next ones."""
    made, read = [], []
    for line in lines:
        plain = _STRING.sub("", line)
        results = _RESULTS.match(plain)
        made.append(set(_NAME.findall(results[1])) if results else set())
        read.append(set(_NAME.findall(plain[results.end() :] if results else plain)))
    locals_ = set().union(*made)
    needed = set(_NAME.findall(after)) & locals_
    kept = []
    for line, makes, reads in zip(lines[::-1], made[::-1], read[::-1], strict=True):
        ended = sorted(((reads & locals_) | makes) - needed)
        kept.append(f"{line}; del {', '.join(ended)}" if ended else line)
        needed = (needed - makes) | (reads & locals_)
    return kept[::-1]


def _compile(source: str, name: str) -> CodeType:
    return compile(source, name, "exec")


def translate(kernel: Kernel) -> Translation:
    """The translation of a kernel, kept with it."""
    found = kernel.__dict__.get("translation")
    if found is None:
        found = kernel.__dict__["translation"] = Translation(kernel)
    return found
