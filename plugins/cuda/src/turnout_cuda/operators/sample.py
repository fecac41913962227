"""Sample: the next token out of its logits, on the device."""

from __future__ import annotations

from turnout_cuda.array import Array
from turnout_cuda.call import Call
from turnout_cuda.kernel import operator
from turnout_cuda.operators.blocks import TEXT_FLOATS
from turnout_cuda.operators.cache import OWN
from turnout_cuda.sampling import NUMBERS
from turnout_cuda.templates import launch_file


@operator("Sample", domain=OWN, takes=(TEXT_FLOATS, frozenset({"uint8"}), frozenset({"float64"})))
def sample(call: Call) -> list[Array]:
    """Logits of one token, [..., vocabulary]; seen, [vocabulary], 1 for tokens that the penalty is for; numbers, [NUMBERS] (sampling.py).

    Gives the token, int64 [1], and `seen` with it marked, which may lie in the memory of the input.
    """
    logits, seen, numbers = call.x, call.input(1), call.input(2)
    vocabulary = logits.shape[-1]
    if logits.size != vocabulary or seen.shape != (vocabulary,) or numbers.shape != (NUMBERS,) or not vocabulary:
        raise call.wrong(f"logits of one token, a mark for each of the vocabulary, and {NUMBERS} numbers are due")
    marked = seen
    if not call.may_overwrite(1, 1):
        marked = call.new(seen.shape, seen.element)
        call.copy(seen, marked, seen.nbytes)
    token = call.new((1,), "int64")
    vector = 16 // logits.element.size
    blocks = -(-vocabulary // (vector * _THREADS))
    groups = blocks * _THREADS
    lanes = next((lanes for lanes in (4, 8, 16) if groups <= lanes * _PARTS), 32)
    keys, bests = call.new((groups * vector,), "uint32"), call.new((groups // lanes,), "uint64")
    launch_file(
        call,
        "likeliest.cu",
        constants={"THREADS": _THREADS, "LANES": lanes},
        arrays={"logits": logits, "numbers": numbers, "seen": marked, "keys": keys, "bests": bests},
        writes=("keys", "bests"),
        numbers={"vocabulary": vocabulary},
        includes=("keys.cuh",),
        grid=(blocks, 1, 1),
        block=_THREADS,
        name="likeliest",
    )
    launch_file(
        call,
        "sample.cu",
        constants={"PARTS": groups // lanes, "SPAN": lanes * vector},
        arrays={"numbers": numbers, "keys": keys, "bests": bests, "seen": marked, "token": token},
        writes=("seen", "token"),
        numbers={"vocabulary": vocabulary},
        includes=("keys.cuh",),
        grid=(1, 1, 1),
        block=1024,
        name="sample",
    )
    return [token, marked]


_THREADS = 256
_PARTS = 2048
"""Parts of the vocabulary whose likeliest tokens are known beforehand, roughly."""
