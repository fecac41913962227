"""Cases of the kernels of language models: graphs of one node, inputs, and what NumPy makes of them in float64."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from turnout.graph import ir
from turnout_text.options import Sampling
from turnout_text.sampling import Sampler

__all__ = ["EXPLAINED", "FAMILIES", "TYPES", "TextCase"]

Floats = NDArray[Any]
MICROSOFT, OWN = "com.microsoft", "turnout.cuda"
TYPES = {"float32": np.dtype(np.float32), "float16": np.dtype(np.float16), "bfloat16": np.dtype(ml_dtypes.bfloat16)}
EXPLAINED = {"float32": 2e-6, "float16": 2e-3, "bfloat16": 1.6e-2}
"""By type, the largest difference that its rounding explains, as a share of the largest number."""


@dataclass
class TextCase:
    """what: in a few words. type: what it computes in. wanted: outputs in float64. kernel: its key in the budget, "" for none."""

    what: str
    type: str
    model: ir.Model
    inputs: dict[str, Any]
    wanted: dict[str, Floats]
    kernel: str = ""


def one_node(operator: str, inputs: dict[str, Any], outputs: dict[str, Any], domain: str = MICROSOFT, **attributes: Any) -> ir.Model:
    """inputs: name to array or None, in the operator's order; outputs: name to (dtype, shape)."""
    values = {name: _value(name, array.dtype, array.shape) for name, array in inputs.items() if array is not None}
    made = [_value(name, *kind) if name.strip() else ir.Value(name="") for name, kind in outputs.items()]
    given, version = [values.get(name) for name in inputs], 1 if domain else 24
    node = ir.node(operator, given, attributes, domain=domain, outputs=made, version=version, name=operator)
    asked = [value for value in made if value.name]
    graph = ir.Graph(list(values.values()), asked, nodes=[node], opset_imports={"": 24, domain or "": version}, name="one")
    return ir.Model(graph, ir_version=11)


def _value(name: str, dtype: Any, shape: Any) -> ir.Value:
    return ir.Value(name=name, type=ir.TensorType(ir.DataType.from_numpy(np.dtype(dtype))), shape=ir.Shape(shape))


def packed(numbers: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    """Numbers along the last axis, several to a byte, the first lowest; the last byte is filled up with zeros."""
    each = 8 // bits
    padded = np.pad(numbers, [(0, 0)] * (numbers.ndim - 1) + [(0, -numbers.shape[-1] % each)])
    parts = padded.reshape(*padded.shape[:-1], -1, each).astype(np.uint16)
    return (parts << (bits * np.arange(each, dtype=np.uint16))).sum(-1).astype(np.uint8)


def quantised(random: np.random.Generator, n: int, k: int, bits: int, block: int, zero: str, dtype: Any) -> tuple[list[Any], Floats]:
    """Values, scales and zero points as MatMulNBits has them, and the matrix that they stand for: float64 [n, k]."""
    blocks = -(-k // block)
    numbers = random.integers(0, 1 << bits, (n, blocks, block), dtype=np.uint8)
    scales = random.uniform(0.5, 1.5, (n, blocks)).astype(dtype)
    zeros: Any = None
    points = np.full((n, blocks), 1 << (bits - 1), np.float64)
    if zero == "packed":
        whole = random.integers(0, 1 << bits, (n, blocks), dtype=np.uint8)
        zeros, points = packed(whole, bits), whole.astype(np.float64)
    elif zero == "typed":
        zeros = random.uniform(0, 1 << bits, (n, blocks)).astype(dtype)
        points = zeros.astype(np.float64)
    weights = (numbers - points[..., None]) * scales.astype(np.float64)[..., None]
    return [packed(numbers, bits), scales, zeros], weights.reshape(n, -1)[:, :k]


# what is tested ---------------------------------------------------------------------------------------------------------


def products() -> Iterator[TextCase]:
    """MatMulNBits: bits, blocks, zero points and types; one row and many; sizes that are no multiple of a block or a tile."""
    shapes = [(1, 70, 96), (1, 9, 80), (1, 40, 1100), (3, 33, 256), (4, 64, 64), (7, 50, 128), (16, 96, 544), (40, 70, 160), (130, 140, 64)]
    shapes += [(8, 38, 1040)]
    kinds = [
        (4, 32, "packed"),
        (4, 16, "none"),
        (8, 32, "packed"),
        (8, 128, "typed"),
        (4, 256, "typed"),
        (2, 64, "packed"),
        (2, 16, "none"),
    ]
    random = np.random.default_rng(0)
    for i, (tokens, n, k) in enumerate(shapes):
        for j, (bits, block, zero) in enumerate(kinds):
            name = list(TYPES)[(i + j) % 3]
            yield _product(random, name, (1, tokens), n, k, bits, block, zero, bias=(i + j) % 2 == 0)
    # what Hopper's wgmma takes, with few tiles, whose k is shared, and with rows and columns beyond which nothing is
    for name, tokens, n, k, bits, block, zero in [
        ("float16", 150, 132, 328, 4, 32, "packed"),
        ("bfloat16", 40, 64, 1000, 4, 64, "typed"),
        ("float16", 20, 72, 200, 4, 16, "none"),
        ("bfloat16", 70, 140, 200, 4, 128, "packed"),
        ("float16", 80, 132, 200, 8, 32, "packed"),
    ]:
        yield _product(random, name, (1, tokens), n, k, bits, block, zero, bias=name == "float16")


def rounded() -> Iterator[TextCase]:
    """Rows of float32 whose product may be taken in halves, numbers among them that no half holds."""
    random = np.random.default_rng(5)
    for tokens, n, k, size in ((30, 50, 128, 1e-6), (40, 70, 160, 1), (130, 140, 64, 1e6)):
        case = _product(random, "float32", (1, tokens), n, k, 4, 32, "packed", bias=False)
        case.inputs["x"] = (case.inputs["x"] * size).astype(np.float32)
        (node,) = case.model.graph
        node.attributes.add(ir.AttrInt64("accuracy_level", 4))
        key = f"MatMulNBits in halves, {tokens} rows" if tokens == 130 else ""
        yield TextCase(f"in halves: {case.what}", "float16", case.model, case.inputs, {"y": case.wanted["y"] * size}, key)


def _product(random: Any, name: str, front: Any, n: int, k: int, bits: int, block: int, zero: str, *, bias: bool) -> TextCase:
    (values, scales, zeros), weights = quantised(random, n, k, bits, block, zero, TYPES[name])
    x = random.standard_normal((*front, k)).astype(TYPES[name])
    added = random.standard_normal(n).astype(TYPES[name]) if bias else None
    inputs = {"x": x, "values": values, "scales": scales, "zeros": zeros, "order": None, "bias": added}
    how = {"K": k, "N": n, "bits": bits, "block_size": block}
    model = one_node("MatMulNBits", inputs, {"y": (TYPES[name], (*front, n))}, **how)
    wanted = x.astype(np.float64) @ weights.T + (0 if added is None else added.astype(np.float64))
    what = f"{name} {front} x {n} x {k}, {bits} bits in {block}, zero {zero}"
    short = ", short blocks" if block * bits < 128 else ""
    kernel = f"MatMulNBits {bits} bits, {front[-1]} rows, {name}{short}" if (bits, zero) == (4, "packed") or front[-1] == 1 else ""
    return TextCase(what, name, model, _given(inputs), {"y": wanted}, kernel)


def _given(inputs: dict[str, Any]) -> dict[str, Any]:
    return {name: array for name, array in inputs.items() if array is not None}


def gathers() -> Iterator[TextCase]:
    """GatherBlockQuantized, with places that count from the end."""
    random = np.random.default_rng(1)
    for bits, block, zero, name in [(4, 32, "packed", "float32"), (8, 16, "none", "float16"), (2, 64, "packed", "bfloat16")]:
        (values, scales, zeros), weights = quantised(random, 50, 128, bits, block, zero, TYPES[name])
        places = random.integers(-50, 50, (2, 9))
        inputs = {"data": values.reshape(50, -1), "places": places, "scales": scales, "zeros": zeros}
        how = {"bits": bits, "block_size": block, "gather_axis": 0, "quantize_axis": 1}
        model = one_node("GatherBlockQuantized", inputs, {"y": (TYPES[name], (2, 9, 128))}, **how)
        yield TextCase(f"{bits} bits in {block}", name, model, _given(inputs), {"y": weights[places]}, f"GatherBlockQuantized {bits} bits")


def attentions() -> Iterator[TextCase]:
    """Attention over a cache: heads that share keys, tokens behind others, windows, caps, and caches long enough to be split."""
    random = np.random.default_rng(2)
    # type, texts, tokens, heads, key heads, head, cache, tokens in it, further options
    rows: list[tuple[str, int, int, int, int, int, int, list[int], dict[str, Any]]] = [
        ("float32", 1, 1, 3, 1, 64, 256, [37], {"packed": True, "rotary": 64}),
        ("float16", 1, 1, 4, 4, 96, 700, [650], {"packed": True, "rotary": 96}),
        ("bfloat16", 2, 1, 8, 1, 128, 1100, [1000, 3], {"rotary": 64, "interleaved": 1}),
        ("float32", 2, 5, 4, 2, 16, 64, [0, 50], {"positions": True, "rotary": 16}),
        ("float16", 1, 40, 6, 2, 64, 128, [0], {"rotary": 64, "packed": True}),
        ("float16", 1, 70, 2, 2, 96, 300, [200], {"window": 33}),
        ("float32", 1, 3, 2, 1, 256, 40, [20], {"cap": 5.0, "scale": 0.05}),
        ("float32", 1, 1, 2, 1, 24, 600, [599], {"window": 7}),
        ("bfloat16", 1, 130, 4, 2, 128, 256, [100], {"packed": True, "rotary": 128}),
        ("float16", 2, 17, 4, 2, 128, 100, [70, 0], {"cap": 5.0, "window": 40}),
        # float32 that the model lets be halves
        ("float32", 1, 40, 6, 2, 64, 128, [30], {"rotary": 64, "packed": True, "level": 4}),
        ("float32", 2, 130, 2, 2, 96, 300, [0, 150], {"rotary": 96, "packed": True, "level": 4}),
        # the next token of each text, in halves: lengths about those that a block takes, groups that fill no tile, a full cache
        ("float16", 5, 1, 4, 4, 64, 1200, [0, 62, 63, 64, 999], {"packed": True, "rotary": 64}),
        ("bfloat16", 3, 1, 14, 2, 64, 300, [64, 299, 7], {"rotary": 32, "interleaved": 1, "positions": True}),
        ("float16", 2, 1, 16, 2, 128, 400, [130, 399], {"window": 70, "packed": True, "rotary": 128}),
        ("bfloat16", 2, 1, 4, 1, 128, 500, [260, 1], {"cap": 5.0, "scale": 0.05, "packed": True, "rotary": 128}),
        ("float16", 1, 1, 10, 1, 80, 200, [150], {"packed": True, "rotary": 80}),
        ("float16", 1, 1, 3, 1, 48, 90, [80], {}),
    ]
    for name, b, s, heads, key_heads, head, cache, lengths, how in rows:
        yield _attention(random, name, b, s, (heads, key_heads, head), cache, np.array(lengths), how)


def _attention(random: Any, name: str, b: int, s: int, sizes: Any, cache: int, past: NDArray[Any], how: dict[str, Any]) -> TextCase:
    heads, key_heads, head = sizes
    dtype, rotary = TYPES[name], how.get("rotary", 0)
    q, k, v = (random.standard_normal((b, s, count * head)).astype(dtype) for count in (heads, key_heads, key_heads))
    caches = [random.standard_normal((b, key_heads, cache, head)).astype(dtype) for _ in range(2)]
    for one, length in itertools.product(caches, [past]):
        for text in range(b):
            one[text, :, length[text] :] = 100  # what is there has no meaning, and must have no effect
    angles = random.uniform(0, 6, (cache, max(rotary // 2, 1)))
    cosines, sines = np.cos(angles).astype(dtype), np.sin(angles).astype(dtype)
    places = past[:, None] + np.arange(s)
    turned_at = random.integers(0, cache, (b, s)) if "positions" in how else places
    inputs: dict[str, Any] = {"q": q, "k": k, "v": v, "past_key": caches[0], "past_value": caches[1]}
    if how.get("packed"):
        inputs |= {"q": np.concatenate([q, k, v], -1), "k": None, "v": None}
    inputs |= {"lengths": (past + s - 1).astype(np.int32), "total": np.array((past + s).max(), np.int32)}
    inputs |= {"cosines": cosines if rotary else None, "sines": sines if rotary else None}
    inputs["positions"] = turned_at if "positions" in how else None
    attributes = {"num_heads": heads, "kv_num_heads": key_heads, "do_rotary": int(rotary > 0), "scale": how.get("scale", 0.0)}
    attributes |= {
        "rotary_interleaved": how.get("interleaved", 0),
        "local_window_size": how.get("window", -1),
        "softcap": how.get("cap", 0.0),
    }
    present = (dtype, (b, key_heads, cache, head))
    outputs = {"y": (dtype, (b, s, heads * head)), "present_key": present, "present_value": present}
    model, kernel = one_node("GroupQueryAttention", inputs, outputs, **attributes), ""
    if how.get("packed"):  # and as what canonical graphs are lowered into, which wants nothing of the host
        own = {**inputs, "lengths": past + s, "positions": places}
        total = own.pop("total")
        assert total.size == 1
        inputs, kernel = own, f"CachedAttention, {s} tokens, heads of {head}, {name}"
        attributes["accuracy_level"] = how.get("level", 0)
        model = one_node("CachedAttention", own, outputs, OWN, **attributes)
    # the same in float64
    apart = [one.astype(np.float64).reshape(b, s, -1, head) for one in (q, k, v)]
    for i in range(2 if rotary else 0):
        apart[i] = turned(apart[i], cosines[turned_at].astype(np.float64), sines[turned_at].astype(np.float64), rotary, how)
    whole = [one.astype(np.float64) for one in caches]
    for cached, new in zip(whole, apart[1:], strict=True):
        for text in range(b):
            cached[text, :, places[text]] = new[text]
    y = np.zeros((b, s, heads, head))
    for text, token, h in np.ndindex(b, s, heads):
        own = places[text, token]
        first = max(0, own - how["window"] + 1) if "window" in how else 0
        keys, values = (one[text, h // (heads // key_heads), first : own + 1] for one in whole)
        scores = keys @ apart[0][text, token, h] * (how.get("scale") or head**-0.5)
        if "cap" in how:
            scores = how["cap"] * np.tanh(scores / how["cap"])
        weights = np.exp(scores - scores.max())
        y[text, token, h] = weights @ values / weights.sum()
    what = f"{name} {b} x {s} tokens after {past.tolist()}, {heads} heads over {key_heads} of {head}, {how}"
    wanted = {"y": y.reshape(b, s, -1), "present_key": whole[0], "present_value": whole[1]}
    return TextCase(what, "float16" if "level" in how else name, model, _given(inputs), wanted, kernel)


def many_queries() -> Iterator[TextCase]:
    """ONNX's Attention of halves: either form, grouped heads, masks of both kinds, windows, tokens that are there already."""
    random = np.random.default_rng(4)
    # type, texts, queries, keys, heads, key heads, head, further options
    rows: list[tuple[str, int, int, int, int, int, int, dict[str, Any]]] = [
        ("float16", 1, 150, 150, 2, 2, 64, {"causal": True, "flat": True}),
        ("bfloat16", 2, 70, 200, 4, 2, 128, {}),
        ("float16", 1, 40, 190, 6, 2, 96, {"causal": True, "past": 150, "window": 60, "flat": True}),
        ("float16", 2, 33, 130, 2, 1, 64, {"mask": "float", "cap": 4.0}),
        ("bfloat16", 1, 100, 90, 2, 2, 32, {"mask": "bool", "flat": True}),
        ("float16", 2, 130, 260, 2, 1, 128, {"causal": True, "lengths": [130, 200]}),
    ]
    for name, b, s, t, heads, key_heads, head, how in rows:
        yield _many_queries(random, name, (b, s, t), (heads, key_heads, head), how)


def _many_queries(random: Any, name: str, counts: Any, sizes: Any, how: dict[str, Any]) -> TextCase:
    (b, s, t), (heads, key_heads, head), dtype = counts, sizes, TYPES[name]
    past, flat = how.get("past", 0), how.get("flat", False)
    q, k, v = (random.standard_normal((b, count, n, head)).astype(dtype) for count, n in ((heads, s), (key_heads, t), (key_heads, t)))
    new = [one[:, :, past:] if past else one for one in (k, v)]
    given = [one.transpose(0, 2, 1, 3).reshape(b, one.shape[2], -1) if flat else one for one in (q, *new)]
    inputs: dict[str, Any] = dict(zip(("q", "k", "v"), given, strict=True))
    mask = None
    if how.get("mask") == "bool":
        mask = random.random((s, t)) < 0.7
        mask[3] = False  # a query that sees nothing gives zeros
    elif how.get("mask"):
        mask = random.standard_normal((b, 1, s, t)).astype(dtype)
    inputs |= {"mask": mask, "past_key": k[:, :, :past] if past else None, "past_value": v[:, :, :past] if past else None}
    inputs["lengths"] = np.array(how["lengths"]) if "lengths" in how else None
    attributes: dict[str, Any] = {"is_causal": int(how.get("causal", False)), "softcap": how.get("cap", 0.0)}
    attributes |= {"q_num_heads": heads, "kv_num_heads": key_heads} if flat else {}
    attributes |= {"left_window_size": how["window"] - 1} if "window" in how else {}
    outputs = {"y": (dtype, (b, s, heads * head) if flat else (b, heads, s, head))}
    if past:
        outputs |= {"present_key": (dtype, k.shape), "present_value": (dtype, v.shape)}
    model = one_node("Attention", inputs, outputs, "", **attributes)
    # the same in float64
    whole = [np.repeat(one.astype(np.float64), heads // key_heads, 1) for one in (k, v)]
    scores = np.einsum("bhsd,bhtd->bhst", q.astype(np.float64), whole[0]) / head**0.5
    if "cap" in how:
        scores = how["cap"] * np.tanh(scores / how["cap"])
    if mask is not None:
        scores = np.where(mask, scores, -np.inf) if mask.dtype == bool else scores + mask.astype(np.float64)
    lengths = np.array(how.get("lengths", [t] * b))[:, None, None, None]
    own = np.arange(s)[:, None] + (lengths - s if "lengths" in how else past)
    places = np.arange(t)
    hidden = (
        (places >= lengths) | ((places > own) & how.get("causal", False)) | ((places <= own - how["window"]) if "window" in how else False)
    )
    scores = np.where(hidden, -np.inf, scores)
    top = scores.max(-1, keepdims=True)
    weights = np.exp(scores - np.where(np.isinf(top), 0, top))
    total = weights.sum(-1, keepdims=True)
    y = np.einsum("bhst,bhtd->bhsd", weights / np.where(total, total, 1), whole[1])
    wanted = {"y": y.transpose(0, 2, 1, 3).reshape(b, s, -1) if flat else y}
    wanted |= {"present_key": k.astype(np.float64), "present_value": v.astype(np.float64)} if past else {}
    what = f"Attention of {name}, {b} x {s} queries of {t} keys, {heads} heads over {key_heads} of {head}, {how}"
    kernel = f"Attention, heads of {head}, {name}" if not how.get("mask") else f"Attention, mask of {mask.dtype}"
    return TextCase(what, name, model, _given(inputs), wanted, kernel)


def turned(x: Floats, cosines: Floats, sines: Floats, part: int, how: dict[str, Any]) -> Floats:
    """Rotary positions: x float64 [batch, tokens, heads, head], angles [batch, tokens, part / 2]."""
    y, c, n = x.copy(), cosines[:, :, None], sines[:, :, None]
    if how.get("interleaved"):
        one, other = x[..., 0:part:2], x[..., 1:part:2]
        y[..., 0:part:2], y[..., 1:part:2] = c * one - n * other, n * one + c * other
    else:
        one, other = x[..., : part // 2], x[..., part // 2 : part]
        y[..., : part // 2], y[..., part // 2 : part] = c * one - n * other, n * one + c * other
    return y


def streams() -> Iterator[TextCase]:
    """What stands between products: sums with their norms, gates, and a few rows of x with a dense matrix."""
    random = np.random.default_rng(3)
    for name, width, bias in [("float32", 576, False), ("float16", 3072, True), ("bfloat16", 100, False)]:
        x, more = (random.standard_normal((2, 3, width)).astype(TYPES[name]) for _ in range(2))
        scale, added = random.uniform(0.5, 2, width).astype(TYPES[name]), random.standard_normal(width).astype(TYPES[name])
        inputs = {"x": x, "more": more, "scale": scale, "bias": added if bias else None}
        outputs = {"y": (TYPES[name], x.shape), "": (TYPES[name], ()), " ": (TYPES[name], ()), "sum": (TYPES[name], x.shape)}
        model = one_node("SkipSimplifiedLayerNormalization", inputs, outputs, epsilon=1e-5)
        total = x.astype(np.float64) + more.astype(np.float64) + (added.astype(np.float64) if bias else 0)
        y = total / np.sqrt((total**2).mean(-1, keepdims=True) + 1e-5) * scale.astype(np.float64)
        yield TextCase(f"norm of a sum of {width}, {name}", name, model, _given(inputs), {"y": y, "sum": total}, f"sum and norm, {name}")
    for name, gate in [("float16", "silu"), ("float32", "gelu")]:
        x = random.standard_normal((1, 5, 2 * 136)).astype(TYPES[name])
        g, up = np.split(x.astype(np.float64), 2, -1)
        y = g / (1 + np.exp(-g)) * up if gate == "silu" else g / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (g + 0.044715 * g**3))) * up
        model = one_node("GatedUnit", {"x": x}, {"y": (TYPES[name], y.shape)}, OWN, gate=gate)
        yield TextCase(f"{gate}, {name}", name, model, {"x": x}, {"y": y}, f"gate {gate}, {name}")
    shapes = [("float32", "float16", 1, 130, 72), ("float16", "float16", 4, 64, 513), ("bfloat16", "bfloat16", 2, 300, 4096)]
    shapes += [("float16", "float16", 3, 700, 200), ("float32", "bfloat16", 2, 517, 9)]  # few columns: blocks share k
    for name, own, rows, k, n in shapes:
        x, w = random.standard_normal((1, rows, k)).astype(TYPES[name]), random.standard_normal((k, n)).astype(TYPES[own])
        model = one_node("DenseProduct", {"x": x, "w": w}, {"y": (TYPES[name], (1, rows, n))}, OWN)
        wanted = {"y": x.astype(np.float64) @ w.astype(np.float64)}
        yield TextCase(f"{rows} rows of {name} by {own}", name, model, {"x": x, "w": w}, wanted, f"{rows} rows of {name} by {own}")
    for name, tokens, n, k in [("float32", 1, 50, 128), ("bfloat16", 8, 50, 416), ("float16", 20, 50, 96)]:
        (values, scales, zeros), weights = quantised(random, n, k, 4, 32, "packed", TYPES[name])
        shifts = random.standard_normal((n, k // 32)).astype(TYPES[name])
        x = random.standard_normal((1, tokens, k)).astype(TYPES[name])
        inputs = {"x": x, "values": values, "scales": scales, "zeros": zeros, "shifts": shifts}
        model = one_node("BlockProduct", inputs, {"y": (TYPES[name], (1, tokens, n))}, OWN, K=k, N=n, bits=4, block_size=32)
        wanted = {"y": x.astype(np.float64) @ (weights + np.repeat(shifts.astype(np.float64), 32, -1)).T}
        yield TextCase(f"{tokens} rows, offsets, {name}", name, model, inputs, wanted, f"BlockProduct, {tokens} rows, {name}")


CHOICES: tuple[dict[str, Any], ...] = (
    {},
    {"repetition_penalty": 1.5},
    {"temperature": 1.0},
    {"temperature": 0.7, "top_k": 5},
    {"temperature": 1.3, "top_p": 0.8},
    {"temperature": 1.0, "min_p": 0.1},
    {"temperature": 0.9, "top_k": 40, "top_p": 0.9, "min_p": 0.02, "repetition_penalty": 1.3},
)


def choices() -> Iterator[TextCase]:
    """The token that the text plugin's sampler chooses from the same logits by the same draw; half precision has many equal ones."""
    random = np.random.default_rng(5)
    for name, vocabulary in [("float32", 1), ("float32", 5000), ("float16", 300), ("bfloat16", 1031), ("float16", 140000)]:
        for number, options in enumerate(CHOICES if vocabulary < 100000 else CHOICES[2:4]):
            logits = (random.standard_normal((1, 1, vocabulary)) * 3).astype(TYPES[name])
            seen = (random.random(vocabulary) < 0.1).astype(np.uint8)
            said = Sampling(seed=number, **options)
            sampler = Sampler(said, np.flatnonzero(seen).tolist())
            draw = Sampler(said, []).draw()
            numbers = np.array([said.temperature, said.top_k, said.top_p, said.min_p, said.repetition_penalty, draw])
            inputs = {"logits": logits, "seen": seen, "numbers": numbers}
            outputs = {"token": (np.int64, (1,)), "marked": (np.uint8, (vocabulary,))}
            token = sampler.choose(logits.reshape(-1).astype(np.float32))
            marked = seen.astype(np.float64)
            marked[token] = 1
            wanted = {"token": np.array([token], np.float64)} if token else {}
            model = one_node("Sample", inputs, outputs, OWN)
            yield TextCase(f"{options} of {vocabulary}, {name}", name, model, inputs, {**wanted, "marked": marked}, f"sample, {name}")


FAMILIES: dict[str, Callable[[], Iterator[TextCase]]] = {
    "MatMulNBits": products,
    "rounded": rounded,
    "GatherBlockQuantized": gathers,
    "attention": attentions,
    "many queries": many_queries,
    "stream": streams,
    "sample": choices,
}
