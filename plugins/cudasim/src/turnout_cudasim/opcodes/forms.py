"""Which opcodes there are, to the letter.

A form is written much as in the PTX ISA: `add[~rn|rz|rm|rp][ftz][sat].f32`. After a dot comes a word that must be there, in `( )` one of
several, in `[ ]` one that may be missing. `~` marks a word that changes no value here: a default, a cache hint, a scope. Of every other
optional word a test proves that it changes what is generated, so that none can be passed over. `*` stands for a number, a final `...` for
any further words.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

_GROUP = re.compile(r"\.([^.(\[]+)|\(([^)]*)\)|\[([^\]]*)\]")


@dataclass(frozen=True)
class Group:
    """One place of a form: the words that can stand there, and whether it may be empty. `same`: words that change no value."""

    words: tuple[str, ...]
    same: frozenset[str]
    optional: bool

    def takes(self, part: str) -> bool:
        return part in self.words or any("*" in word and re.fullmatch(word.replace("*", r"\d+"), part) for word in self.words)


class Form:
    """One way to write an opcode."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.open = text.endswith("...")
        found = re.match(r"\w+", text)
        assert found is not None, text
        self.name = found[0]
        groups, end = [], found.end()
        stop = len(text) - 3 * self.open
        while end < stop:
            piece = _GROUP.match(text, end)
            assert piece is not None, f"{text} at {end}"
            words = (piece[1] or piece[2] or piece[3]).split("|")
            plain = tuple(w.lstrip("~") for w in words)
            groups.append(Group(plain, frozenset(w[1:] for w in words if w[0] == "~"), piece[3] is not None))
            end = piece.end()
        self.groups = tuple(groups)

    def reach(self, parts: tuple[str, ...]) -> int:
        """How many parts of an opcode fit; one more than there are if the opcode is complete."""
        at = self._skip({0})
        for n, part in enumerate(parts[1:], 1):
            after = self._skip({g + 1 for g in at if g < len(self.groups) and self.groups[g].takes(part)})
            if not after:
                return len(parts) + 1 if self.open and len(self.groups) in at else n
            at = after
        return len(parts) + (len(self.groups) in at)

    def _skip(self, at: set[int]) -> set[int]:
        """The places that can come next, where optional ones are left out."""
        found = set(at)
        for g in range(len(self.groups)):
            if g in found and self.groups[g].optional:
                found.add(g + 1)
        return found

    def opcodes(self) -> Iterator[str]:
        """Every opcode of this form; numbers are 8."""
        choices = [((*g.words, "") if g.optional else g.words) for g in self.groups]
        for words in product(*choices):
            yield ".".join([self.name, *(w.replace("*", "8") for w in words if w)])

    def __str__(self) -> str:
        return self.text
