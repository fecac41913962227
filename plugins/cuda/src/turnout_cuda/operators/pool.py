"""Pooling: one thread for each element of the result walks its window."""

from __future__ import annotations

from collections.abc import Sequence

from turnout_cuda.array import Array
from turnout_cuda.call import Call, Given
from turnout_cuda.element import FLOATS, INDEX, Types
from turnout_cuda.kernel import Declaration, declare, operator
from turnout_cuda.operators.reduce import lowest
from turnout_cuda.rows import SUM, Accumulator, reduce_rows
from turnout_cuda.source import coordinates
from turnout_cuda.windows import Window

_MAX: Types = FLOATS | {"int8", "uint8"}


def _slide(call: Call, window: Window, body: str) -> str:
    """C++ that runs `body` for each element of a window that is inside, with its offset `at` in the channel."""
    rank = len(window.out)
    decode = coordinates("i", ["", *(f"o{a}" for a in range(rank))], "p")
    loops, at = "", "0"
    for a in range(rank):
        loops += f"for (index f{a} = 0; f{a} < w{a}; ++f{a}) {{ const index q{a} = p{a + 1} * s{a} - b{a} + f{a} * e{a};"
        loops += f" if (q{a} < 0 || q{a} >= d{a}) continue; "
        at = f"({at} * d{a} + q{a})"
    volume = " * ".join(f"d{a}" for a in range(rank))
    return f"{decode} const index base = p0 * {volume}; {loops} const index at = {at}; {body} {'}' * rank}"


def _numbers(window: Window) -> Given:
    return {
        "w": window.kernel,
        "o": window.out,
        "d": window.spatial,
        "s": window.strides,
        "b": window.begin,
        "e": window.dilations,
    }


def _window(call: Call) -> tuple[Window, list[int]]:
    x = call.x
    if x.ndim < 3:
        raise call.wrong("pooling wants a batch of images with channels")
    window = Window(call, x.shape[2:], call.attribute("kernel_shape"), ceil=bool(call.attribute("ceil_mode", 0)))
    return window, [*x.shape[:2], *window.out]


@operator("MaxPool", takes=(_MAX,))
def max_pool(call: Call) -> Sequence[Array | None]:
    window, shape = _window(call)
    x = call.x
    y, keep = call.new(shape, x.element), ""
    given: Given = {}
    also: list[str] = []
    indices = None
    if call.wants(1):
        indices = call.new(shape, "int64")
        also = ["places"]
        given["places"] = indices
        turn = "at"
        if call.attribute("storage_order", 0):  # columns first: the place counted with the first axis fastest
            turn, step = "0", "1"
            for a in range(len(window.out)):
                turn, step = f"{turn} + q{a} * {step}", f"{step} * d{a}"
        volume = " * ".join(f"d{a}" for a in range(len(window.out)))
        keep = f" place = base + ({turn});"
        after = f"places[i] = place; (void)({volume});"
    else:
        after = ""
    body = _slide(call, window, f"const Y_ v = up(x[base + at]); if (none || v > best || v != v) {{ best = v; none = false;{keep} }}")
    text = f"Y_ best = {lowest(x.element)}; bool none = true; long long place = 0; {body} y[i] = down<Y>(best); {after}"
    call.each(y, text, x=x, also=also, **given, **_numbers(window))
    return [y, indices]


def _average(call: Call, power: int | None) -> Array:
    window, shape = _window(call)
    x, y = call.x, call.new(shape, call.x.element)
    work = x.element.work
    if power is not None:
        exponent = float(power)
        add = {1: "sum += fabs(v);", 2: "sum += v * v;"}.get(power, f"sum += pow(fabs(v), {work}({exponent!r}));")
        end = {1: "sum", 2: "sqrt(sum)"}.get(power, f"pow(sum, {work}({1 / exponent!r}))")
    elif call.attribute("count_include_pad", 0):
        # padding counts, and what ceil_mode adds beyond it does not
        rank = len(window.out)
        add, end = "sum += v;", "sum / count_all"
        ends = [window.spatial[a] + window.begin[a] + window.end[a] for a in range(rank)]
        counting = "".join(
            f"{{ index c = 0; for (index f = 0; f < w{a}; ++f) c += p{a + 1} * s{a} + f * e{a} < z{a}; count_all *= c; }}"
            for a in range(rank)
        )
        body = _slide(call, window, f"const {work} v = up(x[base + at]); {add}")
        head, _, tail = body.partition("const index base")
        text = f"{work} sum = 0; index count_all = 1; {head} {counting} const index base{tail} y[i] = down<Y>({end});"
        return call.each(y, text, x=x, z=ends, **_numbers(window))
    else:
        add, end = "sum += v; ++seen;", "sum / seen"
    body = _slide(call, window, f"const {work} v = up(x[base + at]); {add}")
    return call.each(y, f"{work} sum = 0; index seen = 0; {body} y[i] = down<Y>({end});", x=x, **_numbers(window))


@operator("AveragePool", since=7, takes=(FLOATS,))
def average_pool(call: Call) -> Array:
    return _average(call, None)


@operator("LpPool", since=2, takes=(FLOATS,))
def lp_pool(call: Call) -> Array:
    return _average(call, int(call.attribute("p", 2)))


def _whole(name: str, how: Accumulator, finish: str) -> None:
    """A pool over the whole image."""

    def rule(call: Call) -> Array:
        x = call.x
        y = call.new([*x.shape[:2], *([1] * (x.ndim - 2))], x.element)
        power = call.real("p", 2)
        own = Accumulator(how.state, how.start, how.step.replace("P", f"R({power!r})"), how.join)
        return reduce_rows(call, x, y, list(range(2, x.ndim)), own, finish.replace("P", f"R({power!r})"), name)

    declare(Declaration(name, rule, since=2 if "Lp" in name else 1, takes=(FLOATS,)))


_whole("GlobalAveragePool", SUM, "a / (S)n")
_whole("GlobalMaxPool", Accumulator("W", "-INFINITY", "a = larger(a, x);", "larger(a, b)"), "a")
_whole("GlobalLpPool", Accumulator("R", "0", "a += pow(fabs((R)x), P);", "a + b"), "pow(a, R(1) / P)")


@operator("MaxUnpool", since=9, takes=(FLOATS, INDEX, INDEX), host=(2,))
def max_unpool(call: Call) -> Array:
    """Each maximum back to the place that MaxPool named; the rest is 0."""
    x, places = call.x, call.input(1)
    rank = x.ndim - 2
    kernel = call.attribute("kernel_shape")
    strides, pads = call.attribute("strides") or [1] * rank, call.attribute("pads") or [0] * (2 * rank)
    inferred = [(x.shape[2 + a] - 1) * strides[a] - pads[a] - pads[rank + a] + kernel[a] for a in range(rank)]
    shape = [*x.shape[:2], *inferred]
    wanted = call.ints(2)
    y = call.fill(call.new(wanted or shape, x.element))
    if not wanted or list(wanted) == shape:
        body = "const long long at = places[i]; if (at >= 0 && at < whole) y[at] = x[i];"
        return call.each(y, body, count=x.size, x=x, places=places, whole=y.size)
    # places are those of the inferred shape: take them apart there, and put them together here
    names = ["", *(f"n{k}" for k in range(1, len(shape)))]
    at = "0"
    for k in range(len(shape)):
        at = f"({at} * m{k} + c{k})"
    body = f"const index from = (index)places[i]; {coordinates('from', names, 'c')} if (from >= 0 && {at} < whole) y[{at}] = x[i];"
    return call.each(y, body, count=x.size, x=x, places=places, whole=y.size, n=shape, m=list(wanted))


@operator("MaxRoiPool", takes=(frozenset({"float32", "float64", "float16"}),))
def max_roi_pool(call: Call) -> Array:
    """Fast R-CNN's region pooling (Girshick, 2015): each region in bins, and the maximum of each."""
    x, rois = call.x, call.input(1)
    height, width = call.attribute("pooled_shape")
    n, c, h, w = x.shape
    body = (
        "const index pw = i % bw, ph = i / bw % bh, ch = i / bw / bh % c, k = i / bw / bh / c; const rois_t* q = rois + k * 5;"
        " const index im = (index)up(q[0]), x0 = (index)round((float)up(q[1]) * scale), y0 = (index)round((float)up(q[2]) * scale);"
        " const index x1 = (index)round((float)up(q[3]) * scale), y1 = (index)round((float)up(q[4]) * scale);"
        " const float rh = (float)(y1 - y0 + 1 > 1 ? y1 - y0 + 1 : 1) / bh, rw = (float)(x1 - x0 + 1 > 1 ? x1 - x0 + 1 : 1) / bw;"
        " index ya = (index)floor(ph * rh) + y0, yb = (index)ceil((ph + 1) * rh) + y0, xa = (index)floor(pw * rw) + x0,"
        " xb = (index)ceil((pw + 1) * rw) + x0; ya = ya < 0 ? 0 : ya > h ? h : ya; yb = yb < 0 ? 0 : yb > h ? h : yb;"
        " xa = xa < 0 ? 0 : xa > w ? w : xa; xb = xb < 0 ? 0 : xb > w ? w : xb; Y_ best = ya < yb && xa < xb ? (Y_)-INFINITY : (Y_)0;"
        " if (im >= 0 && im < n) for (index r = ya; r < yb; ++r) for (index s = xa; s < xb; ++s) {"
        " const Y_ v = up(x[((im * c + ch) * h + r) * w + s]); best = v > best ? v : best; } y[i] = down<Y>(best);"
    )
    y = call.new([rois.shape[0], c, height, width], x.element)
    scale = call.real("spatial_scale", 1.0)
    return call.each(y, body, x=x, rois=rois, bw=width, bh=height, c=c, h=h, w=w, n=n, scale=scale)


@operator("RoiAlign", since=10, takes=(FLOATS, FLOATS, INDEX))
def roi_align(call: Call) -> Array:
    """Regions sampled between the pixels (He et al., "Mask R-CNN", 2017)."""
    x, rois, batch = call.x, call.input(1), call.input(2)
    height, width = int(call.attribute("output_height", 1)), int(call.attribute("output_width", 1))
    half = call.version >= 16 and call.attribute("coordinate_transformation_mode", "half_pixel") == "half_pixel"
    largest = call.attribute("mode", "avg") == "max"
    c, h, w = x.shape[1:]
    # the sample's four neighbours with their weights: the average sums products, the maximum takes the largest product
    take = (
        "const Y_ top = fmax(fmax(w0 * v0, w1 * v1), fmax(w2 * v2, w3 * v3)); best = none ? top : fmax(best, top); none = false;"
        if largest
        else "best += w0 * v0 + w1 * v1 + w2 * v2 + w3 * v3;"
    )
    least = "" if half else " rw = fmax(rw, Y_(1)); rh = fmax(rh, Y_(1));"
    body = (
        "const index pw = i % bw, ph = i / bw % bh, ch = i / bw / bh % c, k = i / bw / bh / c; const rois_t* q = rois + k * 4;"
        f" const Y_ shift = {'0.5f' if half else '0'}; const Y_ x0 = up(q[0]) * (Y_)scale - shift, y0 = up(q[1]) * (Y_)scale - shift;"
        f" Y_ rw = up(q[2]) * (Y_)scale - shift - x0, rh = up(q[3]) * (Y_)scale - shift - y0;{least}"
        " const Y_ sw = rw / bw, sh = rh / bh; const index gw = ratio > 0 ? ratio : (index)ceil(rw / bw);"
        " const index gh = ratio > 0 ? ratio : (index)ceil(rh / bh);"
        " Y_ best = 0; bool none = true; const x_t* p = x + ((index)batch[k] * c + ch) * h * w;"
        " for (index a = 0; a < gh; ++a) for (index e = 0; e < gw; ++e) {"
        " Y_ v = y0 + ph * sh + (a + Y_(0.5)) * sh / gh, u = x0 + pw * sw + (e + Y_(0.5)) * sw / gw;"
        " Y_ w0 = 0, w1 = 0, w2 = 0, w3 = 0, v0 = 0, v1 = 0, v2 = 0, v3 = 0;"
        " if (v >= -1 && v <= h && u >= -1 && u <= w) { v = v < 0 ? 0 : v; u = u < 0 ? 0 : u;"
        " index r = (index)v, s = (index)u, r1 = r + 1, s1 = s + 1;"
        " if (r >= h - 1) { r = r1 = h - 1; v = r; } if (s >= w - 1) { s = s1 = w - 1; u = s; } const Y_ lv = v - r, lu = u - s;"
        " w0 = (1 - lv) * (1 - lu); w1 = (1 - lv) * lu; w2 = lv * (1 - lu); w3 = lv * lu;"
        " v0 = up(p[r * w + s]); v1 = up(p[r * w + s1]); v2 = up(p[r1 * w + s]); v3 = up(p[r1 * w + s1]); }"
        f" {take} }} const index many = gw * gh > 0 ? gw * gh : 1; y[i] = down<Y>({'best' if largest else 'best / many'});"
    )
    y = call.new([rois.shape[0], c, height, width], x.element)
    scale, ratio = call.real("spatial_scale", 1.0), int(call.attribute("sampling_ratio", 0))
    return call.each(y, body, x=x, rois=rois, batch=batch, bw=width, bh=height, c=c, h=h, w=w, ratio=ratio, scale=scale)
