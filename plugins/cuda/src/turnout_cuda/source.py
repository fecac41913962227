"""Kernel sources: the prelude and the .cu files of this package, and generators for kernels that differ in types and formulas only."""

from __future__ import annotations

import functools
import hashlib
import re
from collections.abc import Sequence
from importlib import resources

__all__ = ["coordinates", "file", "mangled", "prelude", "whole"]


@functools.cache
def file(name: str) -> str:
    """A source file of `cu/`."""
    return resources.files("turnout_cuda").joinpath("cu", name).read_text("utf-8")


def prelude() -> str:
    """What every kernel begins with."""
    return file("prelude.cuh")


def whole(source: str) -> str:
    """A kernel's complete translation unit."""
    return f"{prelude()}\n{source}"


def mangled(name: str, body: str) -> str:
    """An entry name that says what the kernel is, and differs where its source does."""
    plain = re.sub(r"\W+", "_", name).strip("_").lower()
    return f"{plain}_{hashlib.sha256(body.encode()).hexdigest()[:8]}"


def coordinates(index: str, sizes: Sequence[str], prefix: str) -> str:
    """C++ that takes a linear index apart into coordinates prefix0, prefix1 ... (the last fastest), as ints named so."""
    lines = []
    rest = index
    for axis in range(len(sizes) - 1, 0, -1):
        lines.append(f"index {prefix}{axis} = {rest} % {sizes[axis]}; index {prefix}_{axis} = {rest} / {sizes[axis]};")
        rest = f"{prefix}_{axis}"
    if sizes:
        lines.append(f"index {prefix}0 = {rest};")
    return " ".join(lines)
