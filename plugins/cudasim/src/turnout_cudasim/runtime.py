"""Calls of generated code that are neither memory nor warps: barriers that do not wait, traps, printf, assert."""

from __future__ import annotations

import re
import sys
from typing import Any

import numpy as np

from turnout_cudasim.memory import LOCAL_WINDOW
from turnout_cudasim.report import Kind
from turnout_cudasim.threads import Threads

__all__ = ["assertion", "barrier_arrive", "cluster_arrive", "print_format", "trap"]


def trap(t: Threads, site: int) -> None:
    t.fault(Kind.TRAP, site, "the kernel executed a trap")


def barrier_arrive(t: Threads, number: Any, count: Any, site: int) -> None:
    t.batch.arrive_early(t, number, count)


def cluster_arrive(t: Threads, site: int) -> None:
    """barrier.cluster.arrive; twice without a wait is an error."""
    batch = t.batch
    if batch.cluster_arrived[t.index].any():
        t.fault(Kind.INVALID_BARRIER, site, "arrives at the cluster's barrier twice without waiting")
    batch.cluster_arrived[t.index] = True


def assertion(t: Threads, message: Any, file: Any, line: Any, function: Any, site: int) -> None:
    """__assertfail: its arguments lie in the thread's local memory."""
    texts = [_string(t, _word(t, 0, int(place), "u8")) for place in (message, file, function)]
    number = _word(t, 0, int(line), "u4")
    t.fault(Kind.ASSERTION, site, f"{texts[1]}:{number}: {texts[2]}: assertion `{texts[0]}` failed")


def print_format(t: Threads, text: Any, arguments: Any, result: Any, site: int) -> None:
    """vprintf(format, buffer), whose arguments lie in local memory."""
    for position in range(t.count):
        format_ = _string(t, _word(t, position, int(text), "u8"))
        buffer = _word(t, position, int(arguments), "u8") - LOCAL_WINDOW
        sys.stdout.write(_formatted(t, position, format_, buffer))
    local = t.batch.view("local", "u4")
    local[(t.local_base + int(result)) >> 2] = 0


def _word(t: Threads, position: int, offset: int, code: str) -> int:
    """A value in a thread's local memory."""
    at = int(t.index[position]) * t.batch.local_bytes + offset
    return int(t.batch.local[at : at + int(code[1])].view(code)[0])


def _string(t: Threads, address: int) -> str:
    memory = t.batch.memory
    owner = memory.allocation(address)
    if owner is None:
        return f"<no string at {address:#x}>"
    raw = memory.read(address, owner.end - address).tobytes()
    return raw.partition(b"\0")[0].decode("utf-8", "replace")


_CONVERSION = re.compile(r"%([-+ #0]*)(\d+|\*)?(?:\.(\d+|\*))?(hh|h|ll|l|z|t|j)?([diouxXeEfFgGaAcsp%])")


def _formatted(t: Threads, position: int, format_: str, buffer: int) -> str:
    """printf's conversions; every argument is aligned to its size."""
    offset = buffer

    def argument(code: str) -> Any:
        nonlocal offset
        size = int(code[1])
        offset = -(-offset // size) * size
        raw = _word(t, position, offset, f"u{size}")
        offset += size
        return np.array(raw, f"u{size}").view(code)[()]

    def convert(found: re.Match[str]) -> str:
        flags, width, precision, length, kind = found.groups()
        if kind == "%":
            return "%"
        width = str(argument("i4")) if width == "*" else width or ""
        precision = str(argument("i4")) if precision == "*" else precision
        layout = f"%{flags}{width}" + (f".{precision}" if precision is not None else "")
        if kind in "eEfFgGaA":
            return (layout + ("e" if kind in "aA" else kind)) % float(argument("f8"))
        if kind == "s":
            return (layout + "s") % _string(t, int(argument("u8")))
        if kind == "c":
            return (layout + "c") % chr(int(argument("u4")) & 255)
        if kind == "p":
            return (layout + "s") % hex(int(argument("u8")))
        wide = length in ("l", "ll", "z", "t", "j")
        code = ("i" if kind in "di" else "u") + ("8" if wide else "4")
        return (layout + ("d" if kind in "iu" else kind)) % int(argument(code))

    return _CONVERSION.sub(convert, format_)
