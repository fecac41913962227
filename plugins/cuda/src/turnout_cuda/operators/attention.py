"""Attention and rotary positions."""

from __future__ import annotations

import math

from turnout_cuda.array import Array
from turnout_cuda.call import Call, Given
from turnout_cuda.element import BOOL, FLOATS, INDEX
from turnout_cuda.fuse import broadcast_strides
from turnout_cuda.kernel import operator
from turnout_cuda.many_queries import MOST_HEADS, Heads, Seen, attend, on_tensor_cores
from turnout_cuda.operators.move import transposed
from turnout_cuda.operators.reduce import EXPONENTIALS
from turnout_cuda.products import product
from turnout_cuda.rows import rewrite_rows


def _heads(call: Call, x: Array, heads: int) -> Array:
    """[batch, heads, length, size], from that or from [batch, length, heads * size]."""
    if x.ndim == 4:
        return x
    if x.ndim != 3 or not heads or x.shape[2] % heads:
        raise call.wrong("the heads do not divide the hidden size")
    b, length, hidden = x.shape
    return transposed(call, call.view(x, (b, length, heads, hidden // heads)), (0, 2, 1, 3))


def _with_past(call: Call, past: Array | None, new: Array) -> Array:
    """The cache with the new rows after it."""
    if past is None:
        return new
    b, heads, length, size = new.shape
    whole = call.new((b, heads, past.shape[2] + length, size), new.element)
    body = "y[(i / w * total + start) * size + i % w] = part[i];"
    for part, start in ((past, 0), (new, past.shape[2])):
        given: Given = {"w": part.shape[2] * size, "total": whole.shape[2], "start": start, "size": size}
        call.each(whole, body, bits=True, count=part.size, part=part, name="cache", **given)
    return whole


@operator(
    "Attention",
    since=23,
    takes=(FLOATS, FLOATS, FLOATS, FLOATS | BOOL, FLOATS, FLOATS, INDEX),
    refuses=lambda node: "Attention's fourth output has no kernel" if len(node.outputs) > 3 and node.outputs[3].name else "",
)
def attention(call: Call) -> list[Array | None]:
    """Scores with mask, cap and window as they are made; a softmax over each row; and the product with the values."""
    direct = _on_tensor_cores(call)
    if direct is not None:
        return direct
    flat = call.x.ndim == 3
    q = _heads(call, call.x, int(call.attribute("q_num_heads", 0)))
    heads = int(call.attribute("kv_num_heads", 0))
    k = _with_past(call, call.optional(4), _heads(call, call.input(1), heads))
    v = _with_past(call, call.optional(5), _heads(call, call.input(2), heads))
    b, hq, s, d = q.shape
    hk, t, dv = k.shape[1], k.shape[2], v.shape[3]
    if hq % max(hk, 1) or k.shape[3] != d or v.shape[2] != t:
        raise call.wrong("queries, keys and values do not fit")
    work = "float64" if q.element.name == "float64" else "float32"
    scale = float(call.attribute("scale") or 1 / math.sqrt(d))
    numbers: Given = {"hq": hq, "hk": hk, "scale": scale}
    store, given = _masked(call, (b, hq, s, t), numbers)
    scores = product(
        call,
        call.new((b, hq, s, t), work),
        (s, t, d),
        "up(q[(z * M + m) * K + k])",
        "up(keys[((z / hq * hk + z % hq / (hq / hk)) * N + n) * K + k])",
        store=store,
        batch=b * hq,
        along=(True, True),
        name="scores",
        q=q,
        keys=k,
        **given,
        **numbers,
    )
    # a row whose every key is masked gives zeros
    each = "a.top == -INFINITY ? R(0) : exp((R)x - a.top) / a.sum"
    weights = rewrite_rows(call, scores, call.new(scores.shape, work), [3], EXPONENTIALS, each, "attention softmax")
    y = call.new((b, s, hq * dv) if flat else (b, hq, s, dv), q.element)
    place = "(z / hq * M + m) * hq * N + z % hq * N + n" if flat else "(z * M + m) * N + n"
    product(
        call,
        y,
        (s, dv, t),
        "weights[(z * M + m) * K + k]",
        "up(values[((z / hq * hk + z % hq / (hq / hk)) * K + k) * N + n])",
        store=f"y[{place}] = down<Y>(a);",
        batch=b * hq,
        sums="double" if work == "float64" else "float",
        name="attended",
        weights=weights,
        values=v,
        hq=hq,
        hk=hk,
    )
    return [y, k if call.wants(1) else None, v if call.wants(2) else None]


def _on_tensor_cores(call: Call) -> list[Array | None] | None:
    """The same of halves, in one kernel that keeps no scores in memory; None where it does not take them."""
    counts = [int(call.attribute(name, 0)) for name in ("q_num_heads", "kv_num_heads", "kv_num_heads")]
    given = [call.input(place) for place in range(3)]
    if any(
        one.ndim not in (3, 4) or (one.ndim == 3 and (not count or one.shape[2] % count)) for one, count in zip(given, counts, strict=True)
    ):
        return None
    (b, hq, s, d), (_, hk, _, dk), (_, hv, _, dv) = (_sizes(one, count) for one, count in zip(given, counts, strict=True))
    alike = d == dk == dv and hk == hv and hk and hq % hk == 0 and len({one.element.name for one in given}) == 1
    ahead = int(call.attribute("right_window_size", -1))
    if not alike or not call.x.size or ahead >= 0 or b * hk > MOST_HEADS or not on_tensor_cores(call, call.x.element.name, d):
        return None
    past = [call.optional(4), call.optional(5)]
    for which in (0, 1):
        if past[which] is not None or call.wants(1 + which):
            given[1 + which] = _with_past(call, past[which], _heads(call, given[1 + which], hk))
    t = _sizes(given[1], hk)[2]
    if _sizes(given[2], hk)[2] != t or any(one.shape[0] != b for one in given):
        raise call.wrong("queries, keys and values do not fit")
    y = call.new((b, s, hq * d) if call.x.ndim == 3 else (b, hq, s, d), call.x.element)
    lengths, mask, window = call.optional(6), call.optional(3), int(call.attribute("left_window_size", -1))
    seen = Seen(
        scale=float(call.attribute("scale") or 1 / math.sqrt(d)),
        causal=bool(call.attribute("is_causal", 0)),
        past="known" if past[0] is not None or lengths is None else "(int)lengths[b] - S",
        known=0 if past[0] is None else past[0].shape[2],
        end="capacity" if lengths is None else "((int)lengths[b] < capacity ? (int)lengths[b] : capacity)",
        window=window + 1,
        cap=float(call.attribute("softcap", 0.0) or 0.0),
        arrays={} if lengths is None else {"lengths": lengths},
        mask=mask,
        mask_steps=() if mask is None else broadcast_strides(mask.shape, (b, hq, s, mask.shape[-1]))[:3],
    )
    q, k, v = given
    attend(call, (b, s, hq, hk, d, t), _laid(q, hq), _laid(k, hk), _laid(v, hk), _laid(y, hq), seen)
    return [y, given[1] if call.wants(1) else None, given[2] if call.wants(2) else None]


def _sizes(x: Array, heads: int) -> tuple[int, int, int, int]:
    """(texts, heads, tokens, elements of a head) of an array of either form."""
    if x.ndim == 4:
        return x.shape[0], x.shape[1], x.shape[2], x.shape[3]
    return x.shape[0], heads, x.shape[1], x.shape[2] // heads


def _laid(x: Array, heads: int) -> Heads:
    _, heads, tokens, size = _sizes(x, heads)
    step = size if x.ndim == 4 else heads * size
    return Heads(x, heads * tokens * size, step, tokens * size if x.ndim == 4 else size)


def _masked(call: Call, shape: tuple[int, int, int, int], numbers: Given) -> tuple[str, Given]:
    """Statements that store a score, capped, masked and within its window; and the arrays that they read."""
    b, hq, s, _ = shape
    given: Given = {}
    lines = ["A v = a * (A)scale;"]
    cap = float(call.attribute("softcap", 0.0) or 0.0)
    if cap > 0:
        lines.append("v = (A)cap * tanh(v / (A)cap);")
        numbers["cap"] = cap
    mask = call.optional(3)
    if mask is not None:
        given["mask"] = mask
        strides = broadcast_strides(mask.shape, (b, hq, s, mask.shape[-1]))
        numbers |= {"mb": strides[0], "mh": strides[1], "ms": strides[2], "mt": mask.shape[-1]}
        at = "mask[z / hq * mb + z % hq * mh + m * ms + n]"
        lines.append(f"if (n >= mt) v = -INFINITY; else v = {f'{at} ? v : -INFINITY' if mask.element.name == 'bool' else f'v + up({at})'};")
    offset, lengths, past = "0", call.optional(6), call.optional(4)
    if past is not None:
        offset, numbers["past"] = "past", past.shape[2]
    elif lengths is not None:
        offset = "((index)lengths[z / hq] - M)"
    if lengths is not None:
        given["lengths"] = lengths
        lines.append("if (n >= (index)lengths[z / hq]) v = -INFINITY;")
    if call.attribute("is_causal", 0):
        lines.append(f"if (n > m + {offset}) v = -INFINITY;")
    for name, test in (("left_window_size", "m + {0} - n > back"), ("right_window_size", "n - m - {0} > ahead")):
        size = int(call.attribute(name, -1))
        if size >= 0:
            numbers["back" if name.startswith("left") else "ahead"] = size
            lines.append(f"if ({test.format(offset)}) v = -INFINITY;")
    lines.append("y[(z * M + m) * N + n] = v;")
    return " ".join(lines), given


@operator("RotaryEmbedding", since=23, takes=(FLOATS, FLOATS, FLOATS, INDEX))
def rotary_embedding(call: Call) -> Array:
    """Pairs of a head's elements turned by the angle of their position (Su et al., "RoFormer", 2021)."""
    x, cosine, sine, places = call.x, call.input(1), call.input(2), call.optional(3)
    if x.ndim == 4:
        _, heads, length, size = x.shape
        decode = "const index d = i % size, s = i / size % length, b = i / size / length / heads;"
    else:
        _, length, hidden = x.shape
        heads = int(call.attribute("num_heads", 0))
        if not heads or hidden % heads:
            raise call.wrong("num_heads does not divide the hidden size")
        size = hidden // heads
        decode = "const index d = i % size, s = i / size / heads % length, b = i / size / heads / length;"
    turned = int(call.attribute("rotary_embedding_dim", 0)) or size
    half = turned // 2
    if cosine.shape[-1] != half or sine.shape != cosine.shape:
        raise call.wrong(f"the caches have {cosine.shape[-1]} angles where {half} are due")
    row = "(index)places[b * length + s]" if places is not None else "b * length + s"
    pair = "d / 2, other = d ^ 1; const bool first = !(d & 1)"
    if not call.attribute("interleaved", 0):
        pair = "d % half, other = d < half ? d + half : d - half; const bool first = d < half"
    work = x.element.work
    body = (
        f"{decode} if (d >= 2 * half) {{ y[i] = x[i]; return; }} const index k = {pair}; const index at = ({row}) * half + k;"
        f" const {work} c = up(cosine[at]), q = up(sine[at]), own = up(x[i]), its = up(x[i - d + other]);"
        " y[i] = down<Y>(first ? c * own - q * its : q * its + c * own);"
    )
    given: Given = {} if places is None else {"places": places}
    return call.each(
        call.new(x.shape, x.element), body, x=x, cosine=cosine, sine=sine, size=size, length=length, heads=heads, half=half, **given
    )
