"""Operators that look for elements: TopK, NonZero, Unique, OneHot, NonMaxSuppression."""

from __future__ import annotations

import math
from collections.abc import Sequence

from turnout_cuda.array import Array
from turnout_cuda.call import Call, Given
from turnout_cuda.element import BOOL, FLOATS, INDEX, NUMBERS, Types
from turnout_cuda.kernel import operator
from turnout_cuda.source import coordinates


@operator("TopK", since=10, takes=(NUMBERS, INDEX), host=(1,))
def top_k(call: Call) -> list[Array]:
    """Each element counts those of its row that go before it, and the first k write themselves to their place."""
    x, k = call.x, int(call.host(1).reshape(-1)[0])
    axis = call.axis("axis", -1)
    size, inner = x.shape[axis], math.prod(x.shape[axis + 1 :])
    if not 0 <= k <= size:
        raise call.wrong(f"{k} of {size} elements are asked for")
    shape = [*x.shape[:axis], k, *x.shape[axis + 1 :]]
    values, places = call.new(shape, x.element), call.new(shape, "int64")
    before = ">" if call.attribute("largest", 1) else "<"
    body = (
        "const index at = i / inner % size, base = i - at * inner; const x_w v = up(x[i]); index rank = 0;"
        f" for (index j = 0; j < size; ++j) {{ const x_w o = up(x[base + j * inner]);"
        f" rank += o {before} v || (o != o && v == v) || ((o == v || (o != o && v != v)) && j < at); }}"
        " if (rank < k) { const index to = (i / inner / size * k + rank) * inner + i % inner; y[to] = x[i]; places[to] = at; }"
    )
    count = x.size if k else 0
    call.each(values, body, count=count, also=["places"], x=x, places=places, size=size, inner=inner, k=k)
    return [values, places]


_SCAN = """
// How many of the flags before each are set; one block walks over all of them, 1024 at a time. The last word is how many there are.
extern "C" __global__ void __launch_bounds__(1024) ENTRY(const bool* flags, long long* before, index count) {
    __shared__ long long sums[32], carry;
    if (!threadIdx.x) carry = 0;
    for (index first = 0; first < count; first += 1024) {
        const index i = first + threadIdx.x;
        const long long own = i < count && flags[i];
        long long sum = own;
        for (int d = 1; d < 32; d *= 2) {
            const long long other = __shfl_up_sync(0xffffffff, sum, d);
            if (threadIdx.x % 32 >= d) sum += other;
        }
        if (threadIdx.x % 32 == 31) sums[threadIdx.x / 32] = sum;
        __syncthreads();
        long long base = carry;
        for (int w = 0; w < threadIdx.x / 32; ++w) base += sums[w];
        if (i < count) before[i] = base + sum - own;
        __syncthreads();
        if (threadIdx.x == 1023) carry = base + sum;
        __syncthreads();
    }
    if (!threadIdx.x) before[count] = carry;
}
"""


def _counted(call: Call, flags: Array) -> list[Array]:
    """(how many flags are set, for each how many are before it)."""
    before = call.new((flags.size + 1,), "int64")
    count = call.new((1,), "int64")
    index = "int" if flags.size < 2**31 - 4096 else "long long"
    text = f"typedef {index} index;\n{_SCAN}"
    arguments = [("pointer", call.ready(flags)), ("pointer", before), (index, flags.size)]
    call.launch(text, "scan", (1, 1, 1), 1024, arguments, reads=[flags], writes=[before])
    call.copy(before, count, 8, source_offset=8 * flags.size)
    return [count, before, flags]


@operator("NonZero", since=9, takes=(NUMBERS | BOOL,))
def non_zero(call: Call) -> Array:
    x = call.x
    count, before, flags = call.measure(lambda: _counted(call, call.formula("{0} != 0", [x], "bool")))
    found = int(call.host_of(count)[0])
    rank = max(x.ndim, 1)
    decode = coordinates("i", ["", *(f"n{k}" for k in range(1, rank))], "c")
    store = " ".join(f"y[{k} * found + before[i]] = c{k};" for k in range(rank))
    y = call.new((x.ndim, found), "int64") if x.ndim else call.new((0, found), "int64")
    if not y.size:
        return y
    return call.each(y, f"if (flags[i]) {{ {decode} {store} }}", count=x.size, flags=flags, before=before, n=list(x.shape), found=found)


@operator(
    "Unique",
    since=11,
    takes=(NUMBERS | BOOL,),
    refuses=lambda node: "Unique along an axis has no kernel" if "axis" in node.attributes else "",
)
def unique(call: Call) -> list[Array]:
    """Each element compares itself with all others: it is the first of its value or not, and knows how many firsts go before it."""
    x = call.view(call.x, (call.x.size,))
    first = call.new(x.shape, "bool")
    loop = "for (index j = 0; j < i && own; ++j) own = !(up(x[j]) == v);"

    def flags() -> list[Array]:
        call.each(first, f"const x_w v = up(x[i]); bool own = true; {loop} y[i] = own;", x=x)
        return _counted(call, first)

    count, before, firsts = call.measure(flags)
    found = int(call.host_of(count)[0])
    ordered = call.attribute("sorted", 1)
    # an element's rank among the firsts: by value, or by where they stand
    rank = "for (index j = 0; j < size; ++j) rank += firsts[j] && (up(x[j]) < v || (v != v && up(x[j]) == up(x[j])));" if ordered else ""
    start = "0" if ordered else "before[at]"
    ranks, of = call.new(x.shape, "int64"), call.new(x.shape, "int64")
    find = "index at = i; for (index j = 0; j < i; ++j) if (up(x[j]) == v) { at = j; break; }"
    body = f"const x_w v = up(x[i]); {find} long long rank = {start}; {rank} y[i] = rank; of[i] = at;"
    call.each(ranks, body, also=["of"], x=x, firsts=firsts, before=before, of=of, size=x.size)
    values, places, counts = call.new((found,), x.element), call.new((found,), "int64"), call.new((found,), "int64")
    body = (
        "if (firsts[i]) { const index to = (index)ranks[i]; long long many = 0; for (index j = 0; j < size; ++j) many += of[j] == i;"
        " y[to] = x[i]; places[to] = i; counts[to] = many; }"
    )
    given: Given = {"places": places, "counts": counts, "firsts": firsts, "ranks": ranks, "of": of}
    call.each(values, body, count=x.size, also=["places", "counts"], x=x, size=x.size, **given)
    return [values, places, ranks, counts]


_HOT: Types = NUMBERS


@operator("OneHot", since=9, takes=(_HOT, _HOT, NUMBERS | BOOL), host=(1,))
def one_hot(call: Call) -> Array:
    indices, depth, values = call.x, int(call.host(1).reshape(-1)[0]), call.input(2)
    axis = call.checked_axis(int(call.attribute("axis", -1)), indices.ndim + 1)
    inner = math.prod(indices.shape[axis:])
    y = call.new([*indices.shape[:axis], depth, *indices.shape[axis:]], values.element)
    body = (
        "const long long hot = (long long)up(indices[i / inner / depth * inner + i % inner]), own = i / inner % depth;"
        " y[i] = values[(hot < 0 ? hot + depth : hot) == own];"
    )
    return call.each(y, body, indices=indices, values=values, depth=depth, inner=inner)


_SUPPRESS = """
DEVICE float overlap(const float* a, const float* b, bool centred) {
    float ay0, ax0, ay1, ax1, by0, bx0, by1, bx1;
    if (centred) {
        ax0 = a[0] - a[2] / 2; ax1 = a[0] + a[2] / 2; ay0 = a[1] - a[3] / 2; ay1 = a[1] + a[3] / 2;
        bx0 = b[0] - b[2] / 2; bx1 = b[0] + b[2] / 2; by0 = b[1] - b[3] / 2; by1 = b[1] + b[3] / 2;
    } else {
        ay0 = fmin(a[0], a[2]); ay1 = fmax(a[0], a[2]); ax0 = fmin(a[1], a[3]); ax1 = fmax(a[1], a[3]);
        by0 = fmin(b[0], b[2]); by1 = fmax(b[0], b[2]); bx0 = fmin(b[1], b[3]); bx1 = fmax(b[1], b[3]);
    }
    const float h = fmin(ay1, by1) - fmax(ay0, by0), w = fmin(ax1, bx1) - fmax(ax0, bx0);
    if (h <= 0 || w <= 0) return 0;
    const float both = h * w, all = (ay1 - ay0) * (ax1 - ax0) + (by1 - by0) * (bx1 - bx0) - both;
    return all <= 0 ? 0 : both / all;
}
"""


@operator(
    "NonMaxSuppression",
    since=10,
    takes=(frozenset({"float32"}), frozenset({"float32"}), INDEX, FLOATS, FLOATS),
    host=(2, 3, 4),
)
def non_max_suppression(call: Call) -> Array:
    """For each image and class, one thread takes the best box that is left, and strikes out those that overlap it too much."""
    boxes, scores = call.x, call.input(1)
    batches, classes, count = scores.shape
    most = min(int(call.number(2, "", 0) or 0), count)
    overlap, threshold = call.number(3, "", 0.0), call.number(4)

    def select() -> Sequence[Array]:
        lines = batches * classes
        chosen, state = call.new((lines, most), "int64"), call.fill(call.new((lines, count), "bool"))
        body = (
            "index many = 0; bool* gone = state + i * count_; const float* s = scores + i * count_;"
            " const float* b = boxes + i / classes * count_ * 4;"
            " for (index k = 0; k < most; ++k) y[i * most + k] = -1; while (many < most) { index best = -1;"
            " for (index j = 0; j < count_; ++j)"
            " if (!gone[j] && (!limited || s[j] > (float)least) && (best < 0 || s[j] > s[best])) best = j;"
            " if (best < 0) break; y[i * most + many++] = best; gone[best] = true;"
            " for (index j = 0; j < count_; ++j)"
            " if (!gone[j] && overlap(b + 4 * best, b + 4 * j, centred) > (float)limit) gone[j] = true; }"
        )
        call.each(
            chosen,
            body,
            count=lines if most else 0,
            also=["state"],
            functions=_SUPPRESS,
            boxes=boxes,
            scores=scores,
            state=state,
            classes=classes,
            count_=count,
            most=most,
            limited=int(threshold is not None),
            least=float(threshold or 0.0),
            limit=float(overlap or 0.0),
            centred=int(call.attribute("center_point_box", 0)),
        )
        return [*_counted(call, call.formula("{0} >= 0", [chosen], "bool")), chosen]

    if not most or not scores.size:
        return call.new((0, 3), "int64")
    total, before, flags, chosen = call.measure(select)
    y = call.new((int(call.host_of(total)[0]), 3), "int64")
    if not y.size:
        return y
    store = "long long* p = y + before[i] * 3; p[0] = i / most / classes; p[1] = i / most % classes; p[2] = chosen[i];"
    body = f"if (flags[i]) {{ {store} }}"
    return call.each(y, body, count=chosen.size, flags=flags, before=before, chosen=chosen, most=most, classes=classes)
