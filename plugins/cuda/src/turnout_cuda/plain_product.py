"""Plain products through cuBLASLt, where it is here: a step of a plan like any launch, which the library puts onto the stream itself."""

from __future__ import annotations

import logging
from typing import Any

from turnout_cuda.array import Array, Buffer, Outside
from turnout_cuda.call import Call
from turnout_cuda.cublaslt import Problem

__all__ = ["plain_product"]

log = logging.getLogger("turnout")


def plain_product(call: Call, shape: list[int], problem: Problem, a: Array, b: Array, added: Array | None = None) -> Array | None:
    """A new array of that shape; None where the library is not here, or takes the problem not: our own kernels do then."""
    library = call.cublaslt
    if isinstance(library, str) or 0 in (problem.m, problem.n, problem.k, problem.count):
        return None
    product = library.product(problem)
    if product is None:
        log.debug("cuBLASLt has no algorithm for %s", problem)
        return None
    y = call.new(shape, a.element)
    given = [call.ready(one).buffer for one in (a, b, added) if one is not None]
    buffers = [one for one in given if one is not None]
    assert y.buffer is not None
    target, workspace = y.buffer, Buffer(product.workspace) if product.workspace else None

    def issue(address_of: Any, stream: Any) -> None:
        left, right, *more = (address_of(one) for one in buffers)
        product.run(left, right, address_of(target), more[0] if more else 0, 0 if workspace is None else address_of(workspace), int(stream))

    call.outside(Outside(issue, buffers, [target] if workspace is None else [target, workspace]))
    return y
