"""What many queries see of keys and values, all of them halves: attention in one kernel, through the tensor cores."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from turnout_cuda.array import Array
from turnout_cuda.call import Call
from turnout_cuda.templates import launch_file

__all__ = ["MOST_HEADS", "Heads", "Seen", "attend", "on_tensor_cores"]

_ROWS, _THREADS = 64, 128
"""Queries of a block, and its threads."""
_WIDE_ROWS, _WIDE_HEADS = 128, (64, 96, 128)
"""The same for Hopper's wgmma, and the heads that it takes."""
MOST_HEADS = 65535
"""Heads of keys of all texts that one launch takes."""
_WIDEST = 128
"""Elements of the largest head whose sums a block's registers hold."""


@dataclass(frozen=True)
class Heads:
    """Heads of size elements, side by side in memory; how many elements lie from one text, token or head to the next."""

    array: Array
    text: int
    token: int
    head: int


@dataclass(frozen=True)
class Seen:
    """Which tokens a query sees, and how its scores become weights.

    past, end: C++ for the place of a text's first query among the keys, and for how many keys there are, over `arrays`, `known`, `capacity`
    and text b; less: what lengths count too few.
    window: the keys before it and itself that a query sees, 0 for all. cap: of the scores, 0 for none. mask: [texts, heads, queries,
    keys] of steps `mask_steps`, False or an infinity where a query does not look; keys beyond its last one are not seen.
    """

    scale: float
    causal: bool
    past: str
    end: str
    window: int = 0
    cap: float = 0.0
    arrays: Mapping[str, Array] = field(default_factory=dict)
    less: int = 0
    known: int = 0
    mask: Array | None = None
    mask_steps: Sequence[int] = ()


def on_tensor_cores(call: Call, element: str, head: int) -> bool:
    """Whether there is a kernel for heads of that type and size."""
    return element in ("float16", "bfloat16") and head % 16 == 0 and head <= _WIDEST and call.arch != "sm_75"


def attend(call: Call, sizes: tuple[int, int, int, int, int, int], q: Heads, keys: Heads, values: Heads, y: Heads, seen: Seen) -> None:
    """sizes: texts, queries of each, heads, heads of keys, their size, and how many keys there is room for."""
    b, s, heads, key_heads, head, tokens = sizes
    arrays: dict[str, Array] = {"q": q.array, "keys": keys.array, "values": values.array, **seen.arrays}
    numbers: dict[str, int | float] = {"S": s, "heads": heads, "key_heads": key_heads, "capacity": tokens}
    for name, one in (("q", q), ("k", keys), ("v", values), ("y", y)):
        numbers |= {f"{name}_text": one.text, f"{name}_token": one.token, f"{name}_head": one.head}
    numbers |= {"known": seen.known, "window": seen.window, "scale": float(seen.scale), "cap": float(seen.cap)}
    kind = 0
    if seen.mask is not None:
        arrays["mask"] = seen.mask
        kind = 1 if seen.mask.element.name == "bool" else 2
        numbers |= dict(zip(("m_text", "m_head", "m_token"), seen.mask_steps, strict=True))
        numbers["masked"] = seen.mask.shape[-1]
    arrays["y"] = y.array
    rows = heads // key_heads * s
    wide = call.arch == "sm_90a" and head in _WIDE_HEADS and kind == 0 and rows >= _WIDE_ROWS
    block, threads = (_WIDE_ROWS, 2 * _THREADS) if wide else (_ROWS, _THREADS)
    launch_file(
        call,
        "attention_wide.cu" if wide else "attention_prompt.cu",
        includes=("fragments.cuh", *(("cache.cuh",) if "lengths" in arrays else ())),
        constants={
            "HEAD": head,
            "CAPPED": int(seen.cap > 0),
            "FOLDED": int(seen.cap <= 0 and seen.scale > 0),
            "CAUSAL": int(seen.causal),
            "WINDOWED": int(seen.window > 0),
            "MASK": kind,
            "PAST": seen.past,
            "END": seen.end,
            "LESS": seen.less,
        },
        arrays=arrays,
        writes=["y"],
        numbers=numbers,
        grid=(math.ceil(rows / block), b * key_heads, 1),
        block=threads,
        shared=5 * _WIDE_ROWS * 128 * math.ceil(head / 64) + 1024 if wide else 0,
        name="attention_of_prompt_wide" if wide else "attention_of_prompt",
        operations=4 * b * s * heads * head * tokens,  # of a full cache: how full it is, only the device knows
    )
