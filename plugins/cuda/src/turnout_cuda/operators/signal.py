"""Windows for signals, sampling from grids, and images from columns."""

from __future__ import annotations

import math

from turnout.graph import attribute, ir
from turnout_cuda.array import Array
from turnout_cuda.call import Call, Given
from turnout_cuda.element import FLOATS, INDEX, NUMBERS, element_of
from turnout_cuda.kernel import Declaration, declare, operator
from turnout_cuda.source import coordinates


def _window(name: str, formula: str) -> None:
    """A window over n points: `formula` is in t, which is 2 i / n, for cospi(x) = cos(pi x)."""

    def rule(call: Call) -> Array:
        size = int(call.host(0).reshape(-1)[0])
        element = element_of(call.attribute("output_datatype", 1))
        assert element is not None
        points = size if call.attribute("periodic", 1) else size - 1
        body = f"const double t = 2. * i / points; y[i] = down<Y>({formula});"
        return call.each(call.new((size,), element), body, points=max(points, 1))

    def refuses(node: ir.Node) -> str:
        element = element_of(attribute(node, "output_datatype", ir.DataType.FLOAT))
        return "" if element is not None and element.name in NUMBERS else f"the {name} kernel makes numbers"

    declare(Declaration(name, rule, since=17, takes=(INDEX,), host=(0,), refuses=refuses))


_window("HannWindow", "0.5 - 0.5 * cospi(t)")
_window("HammingWindow", "25. / 46 - 21. / 46 * cospi(t)")
_window("BlackmanWindow", "0.42 - 0.5 * cospi(t) + 0.08 * cospi(2 * t)")


@operator("Col2Im", since=18, takes=(FLOATS, INDEX, INDEX), host=(1, 2))
def col2im(call: Call) -> Array:
    """Overlapping blocks summed into an image: each pixel collects what the columns hold of it."""
    x, image, block = call.x, call.ints(1) or [], call.ints(2) or []
    rank = len(image)
    strides, dilations = call.attribute("strides") or [1] * rank, call.attribute("dilations") or [1] * rank
    pads = call.attribute("pads") or [0] * (2 * rank)
    steps = [(image[a] + pads[a] + pads[rank + a] - dilations[a] * (block[a] - 1) - 1) // strides[a] + 1 for a in range(rank)]
    cells, columns = math.prod(block), math.prod(steps)
    if x.ndim != 3 or x.shape[1] % cells or x.shape[2] != columns:
        raise call.wrong("the columns do not fit the image and the block")
    channels = x.shape[1] // cells
    decode = coordinates("i", ["", *(f"d{a}" for a in range(rank))], "p")
    loops, cell, column = "", "0", "0"
    for a in range(rank):
        loops += (
            f"for (index f{a} = 0; f{a} < w{a}; ++f{a}) {{ const index t{a} = p{a + 1} + b{a} - f{a} * e{a};"
            f" if (t{a} < 0 || t{a} % s{a} || t{a} / s{a} >= o{a}) continue; "
        )
        cell, column = f"({cell} * w{a} + f{a})", f"({column} * o{a} + t{a} / s{a})"
    work = x.element.work
    body = f"{decode} {work} sum = 0; {loops} sum += up(x[(p0 * cells + {cell}) * columns + {column}]); {'}' * rank} y[i] = down<Y>(sum);"
    y = call.new([x.shape[0], channels, *image], x.element)
    numbers: Given = {"d": image, "w": block, "s": list(strides), "b": list(pads[:rank]), "e": list(dilations), "o": steps}
    return call.each(y, body, x=x, cells=cells, columns=columns, **numbers)
