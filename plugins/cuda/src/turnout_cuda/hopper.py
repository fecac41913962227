"""Hopper's product of a warpgroup as a macro: its text names every register of the sums, so that it is made for each width; and how large
products are cut into tiles for it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

__all__ = ["MULTIPROCESSORS", "cut", "wgmma"]

MULTIPROCESSORS = 132
"""That an H100 or H200 has; a product is split into tiles so that few of them have nothing to do."""


def wgmma(columns: int, half: str, *, registers: bool = False, turned: bool = True) -> dict[str, str]:
    """WGMMA(d, a, b), which adds 64 by 16 times 16 by `columns` to the float d[columns / 2]; as a macro's name to its text.

    half: the operands' type in C++, f16 or bf16. registers: whether a is unsigned[4], not a descriptor of shared memory. turned: whether
    b lies as rows of its columns, along k.
    """
    count = columns // 2
    sums = ", ".join(f"%{place}" for place in range(count))
    named = ", ".join(f'"+f"((d)[{place}])' for place in range(count))
    if registers:
        operands, order = f"{{%{count}, %{count + 1}, %{count + 2}, %{count + 3}}}, %{count + 4}", f"1, 1, 1, {int(not turned)}"
        given = ", ".join(f'"r"((a)[{place}])' for place in range(4)) + ', "l"(b)'
    else:
        operands, order, given = f"%{count}, %{count + 1}", f"1, 1, 1, 0, {int(not turned)}", '"l"(a), "l"(b)'
    instruction = f"wgmma.mma_async.sync.aligned.m64n{columns}k16.f32.{half}.{half}"
    return {
        "WGMMA(d, a, b)": f'asm volatile("{instruction} {{{sums}}}, {operands}, {order};" : {named} : {given})',
        "SETTLED(d)": f'asm volatile("" : {named} :: "memory")',
    }


def cut(k: int, widths: Sequence[int], tiles: Callable[[int], int], cycles: Callable[[int], int]) -> tuple[int, int]:
    """(one of the widths of a tile, blocks of a cluster that share its k), by how long the last multiprocessor is busy.

    tiles: how many there are of a width. cycles: those of a slice of 64 along k, roughly, as an H100 takes them; some more lie around all
    slices, and in meeting the others of a cluster.
    """
    slices = -(-k // 64)

    def busy(choice: tuple[int, int]) -> int:
        width, split = choice
        each = -(-slices // split) * cycles(width) + (4000 if split == 1 else 10000)
        return -(-tiles(width) * split // MULTIPROCESSORS) * each

    return min(((width, split) for split in (1, 2, 4) if split <= slices for width in widths), key=busy)
