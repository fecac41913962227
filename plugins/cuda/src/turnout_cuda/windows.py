"""Windows that slide over the spatial axes of images: what Conv, ConvTranspose and the pools have in common."""

from __future__ import annotations

from collections.abc import Sequence

from turnout_cuda.call import Call

__all__ = ["Window"]


class Window:
    """A window's kernel, strides, dilations and pads (begin and end) on each spatial axis, and the sizes that come out."""

    def __init__(self, call: Call, spatial: Sequence[int], kernel: Sequence[int], *, ceil: bool = False) -> None:
        rank = len(spatial)
        if len(kernel) != rank or any(size <= 0 for size in kernel):
            raise call.wrong(f"the kernel {list(kernel)} does not fit {rank} spatial axes")
        self.spatial: list[int] = list(spatial)
        self.kernel: list[int] = list(kernel)
        self.strides: list[int] = list(call.attribute("strides") or [1] * rank)
        self.dilations: list[int] = list(call.attribute("dilations") or [1] * rank)
        pads: list[int] = list(call.attribute("pads") or [0] * (2 * rank))
        if any(len(one) != wanted for one, wanted in ((self.strides, rank), (self.dilations, rank), (pads, 2 * rank))):
            raise call.wrong("strides, dilations or pads are not for as many axes as there are")
        self.begin, self.end = pads[:rank], pads[rank:]
        self.out = [self._size(call.attribute("auto_pad", "NOTSET"), axis, ceil) for axis in range(rank)]

    def reach(self, axis: int) -> int:
        """Elements from the window's first to its last."""
        return (self.kernel[axis] - 1) * self.dilations[axis] + 1

    def _size(self, auto: str, axis: int, ceil: bool) -> int:
        size, stride, reach = self.spatial[axis], self.strides[axis], self.reach(axis)
        if auto == "VALID":
            self.begin[axis] = self.end[axis] = 0
        elif auto in ("SAME_UPPER", "SAME_LOWER"):
            out = -(-size // stride)
            pad = max(0, (out - 1) * stride + reach - size)
            self.begin[axis] = pad // 2 if auto == "SAME_UPPER" else pad - pad // 2
            self.end[axis] = pad - self.begin[axis]
        room = size + self.begin[axis] + self.end[axis] - reach
        if room < 0:
            return 0
        out = (-(-room // stride) if ceil else room // stride) + 1
        if ceil and (out - 1) * stride >= size + self.begin[axis]:
            out -= 1  # a window that would begin in the padding at the end
        return out
