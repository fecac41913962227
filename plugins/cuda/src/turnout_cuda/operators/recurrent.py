"""RNN, GRU and LSTM: the product with the inputs for all times at once, then one kernel (GRU: two) for each time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from turnout_cuda.array import Array
from turnout_cuda.call import Call, Given
from turnout_cuda.element import FLOATS, INDEX
from turnout_cuda.kernel import operator
from turnout_cuda.products import product

# activation functions of ONNX's recurrent operators, with the defaults of their alpha and beta
_ACTIVATIONS: dict[str, tuple[str, float, float]] = {
    "affine": ("alpha * v + beta", 1.0, 0.0),
    "elu": ("v < 0 ? alpha * expm1(v) : v", 1.0, 0.0),
    "hardsigmoid": ("fmax(A(0), fmin(A(1), alpha * v + beta))", 0.2, 0.5),
    "leakyrelu": ("v < 0 ? alpha * v : v", 0.01, 0.0),
    "relu": ("v < 0 ? A(0) : v", 0.0, 0.0),
    "scaledtanh": ("alpha * tanh(beta * v)", 1.0, 1.0),
    "sigmoid": ("A(1) / (A(1) + exp(-v))", 0.0, 0.0),
    "softplus": ("fmax(v, A(0)) + log1p(exp(-fabs(v)))", 0.0, 0.0),
    "softsign": ("v / (A(1) + fabs(v))", 0.0, 0.0),
    "tanh": ("tanh(v)", 0.0, 0.0),
    "thresholdedrelu": ("v < alpha ? A(0) : v", 1.0, 0.0),
}


class _Recurrence:
    """What the three have in common: sizes, directions, activations, states, and the product with the inputs."""

    def __init__(self, call: Call, gates: int, defaults: Sequence[str], lengths: int = 4, start: int = 5) -> None:
        self.call = call
        x, w, r = call.x, call.input(1), call.input(2)
        self.turned = bool(call.attribute("layout", 0))
        self.batch, self.times = (x.shape[0], x.shape[1]) if self.turned else (x.shape[1], x.shape[0])
        self.directions, self.hidden, self.gates = w.shape[0], r.shape[2], gates
        self.element, self.width = x.element, x.shape[2]
        direction = call.attribute("direction", "forward")
        self.reverse = [direction == "reverse"] if self.directions == 1 else [False, True]
        self.lengths = call.optional(lengths)
        self.work = "double" if x.element.name == "float64" else "float"
        self.kept = "float64" if x.element.name == "float64" else "float32"
        self.functions = self._functions(defaults)
        self.start = call.optional(start)

    def _functions(self, defaults: Sequence[str]) -> list[str]:
        """C++ of the activations f0, f1 ... of each direction."""
        names = self.call.attribute("activations") or list(defaults) * self.directions
        alphas, betas = list(self.call.attribute("activation_alpha") or []), list(self.call.attribute("activation_beta") or [])
        clip = self.call.attribute("clip")
        held = f"v = fmax(-A({clip!r}), fmin(A({clip!r}), v)); " if clip else ""
        texts = []
        for direction in range(self.directions):
            text = f"typedef {self.work} A;\n"
            for place in range(len(defaults)):
                name = names[direction * len(defaults) + place]
                formula, alpha, beta = _ACTIVATIONS[(name.decode() if isinstance(name, bytes) else name).lower()]
                if "alpha" in formula and alphas:
                    alpha = alphas.pop(0)
                if "beta" in formula and betas:
                    beta = betas.pop(0)
                text += f"DEVICE A f{place}(A v) {{ {held}const A alpha = A({alpha!r}), beta = A({beta!r}); return {formula}; }}\n"
            texts.append(text)
        return texts

    def projected(self, direction: int) -> Array:
        """X times W, plus its bias: [times, batch, gates * hidden] in work type."""
        call, bias = self.call, self.call.optional(3)
        width = self.gates * self.hidden
        y = call.new((self.times, self.batch, width), self.kept)
        place = "m % B * T + m / B" if self.turned else "m"
        given: Given = {} if bias is None else {"bias": bias}
        value = "a" if bias is None else "a + up(bias[d * 2 * N + n])"
        sizes = (self.times * self.batch, width, self.width)
        return product(
            call,
            y,
            sizes,
            f"up(x[({place}) * K + k])",
            "up(w[(d * N + n) * K + k])",
            store=f"y[m * N + n] = {value};",
            along=(True, True),
            sums=self.work,
            name="projected",
            x=call.x,
            w=call.input(1),
            d=direction,
            B=self.batch,
            T=self.times,
            **given,
        )

    def state(self, given: Array | None, direction: int) -> Array:
        """A state before the first time, [batch, hidden] in work type."""
        call = self.call
        state = call.new((self.batch, self.hidden), self.kept)
        if given is None:
            return call.fill(state)
        at = f"(i / H * {self.directions} + d) * H + i % H" if self.turned else f"d * {self.batch * self.hidden} + i"
        return call.each(state, f"y[i] = up(given[{at}]);", name="state", given=given, d=direction, H=self.hidden)

    def gate(self, number: int) -> str:
        """C++ for a gate before its activation: what the inputs gave, and the product of the last state with R."""
        bias = f" + up(bias[(d * 2 + 1) * {self.gates} * H + {number} * H + j])" if self.call.optional(3) is not None else ""
        row = f"(d * {self.gates} * H + {number} * H + j)"
        return f"projected[(at * B + b) * {self.gates} * H + {number} * H + j] + dot(h + b * H, r + {row} * H, H){bias}"

    def step(self, direction: int, time: int, state: Array, body: str, projected: Array, **more: Any) -> Array:
        """One kernel: a thread for each element of the state; `body` leaves the new one in `next`. Gives the new state."""
        call = self.call
        made = call.new(state.shape, self.kept)
        dot = (
            f"template <class X, class Y> DEVICE {self.work} dot(const X* x, const Y* y, index n)"
            f" {{ {self.work} a = 0; for (index k = 0; k < n; ++k) a += ({self.work})up(x[k]) * ({self.work})up(y[k]); return a; }}\n"
        )
        given: Given = {"h": state, "r": call.input(2), "projected": projected, **more}
        if call.optional(3) is not None:
            given["bias"] = call.input(3)
        length = "T"
        if self.lengths is not None:
            given["lengths"] = self.lengths
            length = "(index)lengths[b]"
        place = f"({length} - 1 - t)" if self.reverse[direction] else "t"
        text = f"const index b = i / H, j = i % H; const bool live = t < {length}; const index at = live ? {place} : t; {body}"
        numbers: Given = {"H": self.hidden, "B": self.batch, "T": self.times, "t": time, "d": direction}
        writes = [key for key in more if key.endswith("_out")]
        call.each(made, text, also=writes, functions=dot + self.functions[direction], name=f"{call.node.op_type} step", **given, **numbers)
        return made

    def outputs(self) -> tuple[Array, str]:
        """Y, and C++ for where an element of the state at time `at` lies in it."""
        shape = [self.times, self.directions, self.batch, self.hidden]
        if self.turned:
            shape = [self.batch, self.times, self.directions, self.hidden]
            return self.call.new(shape, self.element), f"((b * T + at) * {self.directions} + d) * H + j"
        return self.call.new(shape, self.element), f"((at * {self.directions} + d) * B + b) * H + j"

    def last(self, states: Sequence[Array]) -> Array:
        """The directions' last states as one output."""
        call = self.call
        shape = [self.batch, self.directions, self.hidden] if self.turned else [self.directions, self.batch, self.hidden]
        y = call.new(shape, self.element)
        for direction, state in enumerate(states):
            at = f"(i / H * {self.directions} + d) * H + i % H" if self.turned else f"d * {self.batch * self.hidden} + i"
            body = f"y[{at}] = down<Y>(state[i]);"
            call.each(y, body, count=state.size, name="last state", state=state, d=direction, H=self.hidden)
        return y


@operator("RNN", since=7, takes=(FLOATS, FLOATS, FLOATS, FLOATS, INDEX, FLOATS))
def rnn(call: Call) -> list[Array]:
    own = _Recurrence(call, 1, ["Tanh"])
    y, at = own.outputs()
    finals = []
    for direction in range(own.directions):
        projected, state = own.projected(direction), own.state(own.start, direction)
        body = f"A next = h[i]; if (live) next = f0({own.gate(0)}); y_out[{at}] = down<y_out_t>(live ? next : A(0)); y[i] = next;"
        for time in range(own.times):
            state = own.step(direction, time, state, body, projected, y_out=y)
        finals.append(state)
    return [y, own.last(finals)]


@operator("GRU", since=7, takes=(FLOATS, FLOATS, FLOATS, FLOATS, INDEX, FLOATS))
def gru(call: Call) -> list[Array]:
    own = _Recurrence(call, 3, ["Sigmoid", "Tanh"])
    y, at = own.outputs()
    linear = bool(call.attribute("linear_before_reset", 0))
    finals = []
    for direction in range(own.directions):
        projected, state = own.projected(direction), own.state(own.start, direction)
        for time in range(own.times):
            gates = call.new((2, *state.shape), own.kept)
            reset = "reset" if linear else "reset * h[i]"
            body = (
                f"if (live) {{ gates_out[i] = f0({own.gate(0)}); const A reset = f0({own.gate(1)});"
                f" gates_out[B * H + i] = {reset}; }} y[i] = h[i];"
            )
            own.step(direction, time, state, body, projected, gates_out=gates)
            recurrent = "dot(gates + B * H + b * H, r + (d * 3 * H + 2 * H + j) * H, H)"
            bias = " + up(bias[(d * 2 + 1) * 3 * H + 2 * H + j])" if call.optional(3) is not None else ""
            inner = f"{recurrent}{bias}"
            if linear:
                inner = f"gates[B * H + i] * (dot(h + b * H, r + (d * 3 * H + 2 * H + j) * H, H){bias})"
            body = (
                f"A next = h[i]; if (live) {{ const A v = f1(projected[(at * B + b) * 3 * H + 2 * H + j] + {inner}); const A z = gates[i];"
                f" next = (A(1) - z) * v + z * h[i]; }} y_out[{at}] = down<y_out_t>(live ? next : A(0)); y[i] = next;"
            )
            state = own.step(direction, time, state, body, projected, y_out=y, gates=gates)
        finals.append(state)
    return [y, own.last(finals)]


@operator("LSTM", since=7, takes=(FLOATS, FLOATS, FLOATS, FLOATS, INDEX, FLOATS, FLOATS, FLOATS))
def lstm(call: Call) -> list[Array]:
    own = _Recurrence(call, 4, ["Sigmoid", "Tanh", "Tanh"])
    y, at = own.outputs()
    peepholes = call.optional(7)
    peep = [
        f" + up(p[d * 3 * H + {k} * H + j]) * {cell}" if peepholes is not None else ""
        for k, cell in ((0, "c[i]"), (1, "cell"), (2, "c[i]"))
    ]
    given: Given = {} if peepholes is None else {"p": peepholes}
    forget = "A(1) - in" if call.attribute("input_forget", 0) else f"f0({own.gate(2)}{peep[2]})"
    body = (
        f"A next = h[i], cell = c[i]; if (live) {{ const A in = f0({own.gate(0)}{peep[0]}), keep = {forget};"
        f" cell = keep * c[i] + in * f1({own.gate(3)}); next = f0({own.gate(1)}{peep[1]}) * f2(cell); }}"
        f" y_out[{at}] = down<y_out_t>(live ? next : A(0)); cell_out[i] = cell; y[i] = next;"
    )
    finals, cells = [], []
    for direction in range(own.directions):
        projected, state = own.projected(direction), own.state(own.start, direction)
        cell = own.state(call.optional(6), direction)
        for time in range(own.times):
            following = call.new(cell.shape, own.kept)
            state = own.step(direction, time, state, body, projected, y_out=y, c=cell, cell_out=following, **given)
            cell = following
        finals.append(state)
        cells.append(cell)
    return [y, own.last(finals), own.last(cells)]
