"""Attention over a cache that is updated in place: com.microsoft's GroupQueryAttention, and what canonical graphs are lowered into."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from turnout.graph import attribute, input_at
from turnout_cuda.array import Array
from turnout_cuda.call import Call, Given
from turnout_cuda.element import INDEX
from turnout_cuda.hopper import MULTIPROCESSORS
from turnout_cuda.kernel import operator
from turnout_cuda.many_queries import Heads, Seen, attend, on_tensor_cores
from turnout_cuda.operators.blocks import MICROSOFT, TEXT_FLOATS
from turnout_cuda.rounded import may_round
from turnout_cuda.templates import launch_file

__all__ = ["OWN"]

OWN = "turnout.cuda"
"""The domain of operators that only this provider's lowering makes."""

_SHARE, _SPLITS = 64, 64
"""Tokens that a block looks at where several share a query, at least; and how many blocks do at most."""
_QUERIES = 4
"""Queries of a block: they share the keys and values that it loads."""
_THREADS = 128
_MANY = 16
"""Queries that share keys from which on the tensor cores are worth it."""
_ROWS = 8
"""Of the kernel for one token of a text: queries that share a block."""
_CLUSTER = 8
"""Blocks of a cluster there, at most; where clusters would not fill a large GPU, more blocks share a text."""
_LEAST = 64
"""Tokens of a block there, where there are as many."""
_ENOUGH = 2 * MULTIPROCESSORS
"""Blocks that fill a large GPU."""


@dataclass
class _Cached:
    """An attention at known shapes. lengths + less: the tokens of each text in the cache after the run. tables: cosines, sines."""

    projections: list[Array | None]
    past: list[Array | None]
    lengths: Array
    less: int
    tables: list[Array | None]
    positions: Array | None
    heads: int
    key_heads: int
    interleaved: bool
    scale: float
    cap: float
    window: int


@operator(
    "CachedAttention",
    domain=OWN,
    takes=(TEXT_FLOATS, TEXT_FLOATS, TEXT_FLOATS, TEXT_FLOATS, TEXT_FLOATS, INDEX, TEXT_FLOATS, TEXT_FLOATS, INDEX),
)
def cached_attention(call: Call) -> list[Array | None]:
    """Queries, keys, values (or all side by side in the first), caches of both, lengths [batch], cosines, sines, positions."""
    return _attend(call, _said(call, call.input(5), 0, (6, 7), 8))


def _refuses(node: Any) -> str:
    refused = {10: "bias of the scores", 11: "sink", 12: "scale of a quantised cache", 13: "scale of a quantised cache"}
    for position, what in refused.items():
        if input_at(node, position) is not None:
            return f"the GroupQueryAttention kernel takes no {what}"
    if attribute(node, "smooth_softmax", 0) > 0 or attribute(node, "qk_output", 0):
        return "the GroupQueryAttention kernel knows neither smooth_softmax nor qk_output"
    if any(attribute(node, f"{part}_quant_type", b"NONE") not in (b"NONE", "NONE") for part in ("k", "v")):
        return "the GroupQueryAttention kernel takes no quantised cache"
    if len(node.outputs) > 3 and node.outputs[3].name:
        return "the GroupQueryAttention kernel does not give the scores"
    return ""


@operator(
    "GroupQueryAttention",
    domain=MICROSOFT,
    takes=(TEXT_FLOATS, TEXT_FLOATS, TEXT_FLOATS, TEXT_FLOATS, TEXT_FLOATS, INDEX, INDEX, TEXT_FLOATS, TEXT_FLOATS, INDEX),
    refuses=_refuses,
)
def group_query_attention(call: Call) -> list[Array | None]:
    """Source of what it does: onnxruntime, docs/ContribOperators.md. seqlens_k counts one token less than there are after the run."""
    rotary = int(call.attribute("do_rotary", 0))
    return _attend(call, _said(call, call.input(5), 1, (7, 8) if rotary else (), 9))


def _said(call: Call, lengths: Array, less: int, tables: tuple[int, ...], positions: int) -> _Cached:
    window = int(call.attribute("local_window_size", -1))
    return _Cached(
        projections=[call.optional(place) for place in range(3)],
        past=[call.optional(3), call.optional(4)],
        lengths=lengths,
        less=less,
        tables=[call.input(place) for place in tables],
        positions=call.optional(positions) if tables else None,
        heads=int(call.attribute("num_heads")),
        key_heads=int(call.attribute("kv_num_heads")),
        interleaved=bool(call.attribute("rotary_interleaved", 0)),
        scale=call.real("scale", 0.0),
        cap=call.real("softcap", 0.0),
        window=max(window, 0),
    )


def _attend(call: Call, said: _Cached) -> list[Array | None]:
    q, k, v = said.projections
    assert q is not None
    b, s = q.shape[0], q.shape[1]
    wide = said.heads + 2 * said.key_heads if k is None else said.heads
    head, rest = divmod(q.shape[-1], wide)
    if q.ndim != 3 or rest or said.heads % said.key_heads or (k is None) != (v is None) or said.lengths.size != b:
        raise call.wrong("the heads do not divide the queries, or keys, values and lengths are not those of the queries")
    keys, values = (_cache(call, place, said, b, head, s) for place in range(2))
    y = call.new((b, s, said.heads * head), q.element)
    if y.size and s == 1 and on_tensor_cores(call, q.element.name, head):
        _decode(call, said, keys, values, y, head)
    elif y.size:
        turned = call.new((b, s, said.heads, head), q.element)
        _remember(call, said, turned, keys, values, s, head)
        _see(call, said, turned, keys, values, y)
    return [y, keys if call.wants(1) else None, values if call.wants(2) else None]


def _cache(call: Call, which: int, said: _Cached, b: int, head: int, tokens: int) -> Array:
    """The cache that this run's tokens are written into: the given one where that is allowed, else a copy with room for them."""
    past, own = said.past[which], said.projections[0]
    assert own is not None
    if past is None:
        return call.new((b, said.key_heads, tokens, head), own.element)
    if past.ndim != 4 or past.shape[:2] != (b, said.key_heads) or past.shape[3] != head or past.element is not own.element:
        raise call.wrong(f"a cache of {said.key_heads} heads of {head} elements of the queries' type is due")
    if call.may_overwrite(1 + which, 3 + which):
        return past
    longer = past.shape[2] if call.node.domain == OWN else _present(call, past.shape[2], tokens)
    whole = call.new((b, said.key_heads, longer, head), past.element)
    if longer == past.shape[2]:
        call.copy(past, whole, past.nbytes)
    else:
        body = "y[i / w * total + i % w] = part[i];"
        width, total = past.shape[2] * head, longer * head
        call.each(whole, body, bits=True, count=past.size, part=past, w=max(width, 1), total=total, name="longer_cache")
    return whole


def _present(call: Call, past: int, tokens: int) -> int:
    """How long the cache is that comes out: what went in where that has room for all tokens, as total_sequence_length says."""
    total = int(call.host(6).reshape(-1)[0])
    return max(past, total)


def _turning(call: Call, said: _Cached, tokens: int, head: int) -> tuple[dict[str, int], dict[str, Array], dict[str, int]]:
    """What a kernel has to know to turn queries and keys by their positions: constants, arrays, numbers."""
    q, k, v = said.projections
    assert q is not None
    rotary = bool(said.tables)
    cosines, sines = said.tables if rotary else (q, q)
    assert cosines is not None
    assert sines is not None
    half = cosines.shape[-1] if rotary else 0
    if rotary and (cosines.ndim != 2 or 2 * half > head or sines.shape != cosines.shape):
        raise call.wrong(f"tables of at most {head // 2} angles are due")
    positions = said.positions if said.positions is not None and rotary else None
    if positions is not None and positions.size != tokens:
        raise call.wrong("a position for each token is due")
    constants = {
        "PACKED": int(k is None),
        "ROTARY": int(rotary),
        "HALF": half,
        "HEAD": head,
        "INTERLEAVED": int(said.interleaved),
        "POSITIONS": int(positions is not None),
        "LESS": said.less,
    }
    arrays = {
        "q": q,
        "k": q if k is None else k,
        "v": q if v is None else v,
        "lengths": said.lengths,
        "cosines": cosines,
        "sines": sines,
        "positions": said.lengths if positions is None else positions,
    }
    return constants, arrays, {"rows": cosines.shape[0] if rotary else 0}


def _remember(call: Call, said: _Cached, turned: Array, keys: Array, values: Array, s: int, head: int) -> None:
    b = turned.shape[0]
    constants, arrays, numbers = _turning(call, said, b * s, head)
    count = b * s * (said.heads + 2 * said.key_heads) * head
    launch_file(
        call,
        "remember.cu",
        includes=("cache.cuh",),
        constants=constants,
        arrays={**arrays, "turned": turned, "keys": keys, "values": values},
        writes=("turned", "keys", "values"),
        numbers={
            **numbers,
            "tokens": b * s,
            "S": s,
            "heads": said.heads,
            "key_heads": said.key_heads,
            "capacity": keys.shape[2],
        },
        grid=(-(-count // 256), 1, 1),
        block=256,
        name="remember",
    )


def _decode(call: Call, said: _Cached, keys: Array, values: Array, y: Array, head: int) -> None:
    """The next token of each text: remembered and seen in one launch."""
    b, capacity, group = y.shape[0], keys.shape[2], said.heads // said.key_heads
    constants, arrays, numbers = _turning(call, said, b, head)
    across = b * said.key_heads * -(-group // _ROWS)
    splits, warps, resident, cluster = _shared(call, across, capacity)
    arrays |= {"keys": keys, "values": values, "y": y}
    writes = ["keys", "values", "y"]
    if splits > 1 and not cluster:
        arrays["parts"] = call.new((b * said.heads * splits, head + 2), "float32")
        arrays["counts"] = call.constant(np.zeros(across, np.int32))
        writes += ["parts", "counts"]
    launch_file(
        call,
        "attention_decode.cu",
        includes=("fragments.cuh", "cache.cuh"),
        constants={
            **constants,
            "SPLITS": splits,
            "WARPS": warps,
            "RESIDENT": resident,
            "CLUSTER": int(cluster),
            "LEAST": _LEAST,
            "CAPPED": int(said.cap > 0),
        },
        arrays=arrays,
        writes=writes,
        numbers={**numbers, **_numbers(said, 1, said.heads, head, capacity)},
        grid=(splits, b * said.key_heads, -(-group // _ROWS)),
        block=32 * warps,
        name="attention_of_token",
        operations=4 * y.size * capacity,
    )


def _shared(call: Call, across: int, capacity: int) -> tuple[int, int, int, bool]:
    """How blocks share a text's tokens, by what an H100 took: how many, of how many warps, how many to a multiprocessor; if a cluster."""
    most = max(1, -(-capacity // _LEAST))
    if across * _CLUSTER < MULTIPROCESSORS:
        return min(most, -(-MULTIPROCESSORS // across)), 8, 1, False
    splits = min(most, _CLUSTER, -(-_ENOUGH // across))
    warps = 4 if splits > 3 else 8
    return splits, warps, 16 // warps, splits > 1 and int(call.arch[3:].rstrip("af")) >= 90


def _rounded(call: Call, said: _Cached, turned: Array, keys: Array, values: Array) -> list[Array]:
    """The queries, and the tokens that are there, in halves."""
    body = "y[i] = down<Y>(fminf(fmaxf(x[i], -65504.f), 65504.f));"
    found = [call.each(call.new(turned.shape, "float16"), body, x=turned, name="rounded_queries")]
    where = "if (i / head % capacity >= (index)lengths[i / head / capacity / key_heads] + less) return; "
    _, key_heads, capacity, head = keys.shape
    sizes: Given = {"head": head, "capacity": capacity, "key_heads": key_heads, "less": said.less, "lengths": said.lengths}
    return found + [call.each(call.new(x.shape, "float16"), where + body, x=x, name="rounded_cache", **sizes) for x in (keys, values)]


def _see_many(call: Call, said: _Cached, turned: Array, keys: Array, values: Array, y: Array) -> None:
    b, s, heads, head = turned.shape
    capacity = keys.shape[2]
    tokens, cached = (s * heads * head, heads * head, head), (said.key_heads * capacity * head, head, capacity * head)
    seen = Seen(
        float(said.scale or 1 / math.sqrt(head)),
        causal=True,
        past="past_of(lengths, b, S)",
        end="capacity",
        window=said.window,
        cap=said.cap,
        arrays={"lengths": said.lengths},
        less=said.less,
    )
    sizes = (b, s, heads, said.key_heads, head, capacity)
    attend(call, sizes, Heads(turned, *tokens), Heads(keys, *cached), Heads(values, *cached), Heads(y, *tokens), seen)


def _numbers(said: _Cached, s: int, heads: int, head: int, capacity: int) -> dict[str, int | float]:
    return {
        "S": s,
        "heads": heads,
        "key_heads": said.key_heads,
        "capacity": capacity,
        "window": said.window,
        "scale": float(said.scale or 1 / math.sqrt(head)),
        "cap": float(said.cap),
    }


def _see(call: Call, said: _Cached, turned: Array, keys: Array, values: Array, y: Array) -> None:
    b, s, heads, head = turned.shape
    capacity, rows = keys.shape[2], heads // said.key_heads * s
    if rows >= _MANY and may_round(call, turned) and on_tensor_cores(call, "float16", head):
        q, k, v = _rounded(call, said, turned, keys, values)
        _see_many(call, said, q, k, v, y)
        return
    if rows >= _MANY and on_tensor_cores(call, turned.element.name, head):
        _see_many(call, said, turned, keys, values, y)
        return
    queries = min(_QUERIES, rows)
    vector = next(count for count in (16 // turned.element.size, 4, 2, 1) if head % count == 0)
    while head > 32 * vector:
        vector *= 2
    if head % vector:
        raise call.wrong(f"heads of {head} elements have no kernel")
    lanes = 1 << max(0, -(-head // vector) - 1).bit_length()
    across = b * said.key_heads * -(-rows // queries)
    splits = max(1, min(_SPLITS, -(-capacity // _SHARE), -(-4 * _ENOUGH // across)))
    arrays = {"q": turned, "keys": keys, "values": values, "lengths": said.lengths, "y": y}
    writes = ["y"]
    if splits > 1:
        arrays["parts"] = call.new((b * said.key_heads * rows * splits, head + 2), "float32")
        arrays["counts"] = call.constant(np.zeros(across, np.int32))
        writes += ["parts", "counts"]
    launch_file(
        call,
        "attention.cu",
        includes=("cache.cuh",),
        constants={
            "HEAD": head,
            "QUERIES": queries,
            "VECTOR": vector,
            "LANES": lanes,
            "SPLITS": splits,
            "CAPPED": int(said.cap > 0),
            "LESS": said.less,
        },
        arrays=arrays,
        writes=writes,
        numbers=_numbers(said, s, heads, head, capacity),
        grid=(splits, -(-rows // queries), b * said.key_heads),
        block=_THREADS,
        name="attention_over_cache",
        operations=4 * turned.size * capacity,
    )
