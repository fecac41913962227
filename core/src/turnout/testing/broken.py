"""Providers that are broken in one way each, and one that is not: the kit is tested with them.

Each class is named after the level and the kind of check that must catch it: `OperatorsSpecial` is caught by the level "operators", by its
cases of kind "special". Its docstring says what is wrong with it. A third word tells two of a kind apart.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from turnout.device import Device, Link
from turnout.errors import CompileError, Unavailable
from turnout.graph import ir
from turnout.kernels import KernelExecutable, KernelProvider, kernel
from turnout.provider import Executable, No, Provider, Yes

__all__ = ["BROKEN", "Clean", "Far", "level_and_kind"]

Array = np.ndarray[Any, Any]

FLOAT = ("float32",)
NUMBERS = ("float32", "float64", "int64")


class Clean(KernelProvider):
    """A dozen operators in NumPy, all of them right."""

    name = "clean"
    only: ClassVar[Sequence[str]] = ("Add", "Div", "LeakyRelu", "Sqrt", "Softmax", "Expand", "Reshape", "Neg")
    """What the kit looks at when it tests itself; enough to show every kind of fault."""

    @kernel("Add", since=7, dtypes=NUMBERS)
    def add(self, a: Array, b: Array) -> Array:
        return np.asarray(a + b)

    @kernel("Sub", since=7, dtypes=NUMBERS)
    def sub(self, a: Array, b: Array) -> Array:
        return np.asarray(a - b)

    @kernel("Mul", since=7, dtypes=NUMBERS)
    def mul(self, a: Array, b: Array) -> Array:
        return np.asarray(a * b)

    @kernel("Div", since=7, dtypes=FLOAT)
    def div(self, a: Array, b: Array) -> Array:
        with np.errstate(all="ignore"):
            return np.asarray(a / b)

    @kernel("Neg", since=6, dtypes=FLOAT)
    def neg(self, x: Array) -> Array:
        return np.asarray(-x)

    @kernel("Relu", since=6, dtypes=FLOAT)
    def relu(self, x: Array) -> Array:
        return np.asarray(np.maximum(x, 0))

    @kernel("LeakyRelu", since=6, dtypes=FLOAT)
    def leaky_relu(self, x: Array, alpha: float = 0.01) -> Array:
        return np.asarray(np.where(x < 0, x * np.float32(alpha), x))

    @kernel("Sqrt", since=6, dtypes=FLOAT)
    def sqrt(self, x: Array) -> Array:
        with np.errstate(all="ignore"):
            return np.asarray(np.sqrt(x))

    @kernel("Softmax", since=13, dtypes=FLOAT)
    def softmax(self, x: Array, axis: int = -1) -> Array:
        if not x.size:
            return x.copy()
        with np.errstate(all="ignore"):
            powers = np.exp(x - x.max(axis=axis, keepdims=True))
            return np.asarray(powers / powers.sum(axis=axis, keepdims=True))

    @kernel("Expand", since=8, dtypes=NUMBERS)
    def expand(self, x: Array, shape: Array) -> Array:
        return x * np.ones(shape.tolist(), x.dtype)

    @kernel("Reshape", since=14, dtypes=NUMBERS)
    def reshape(self, x: Array, shape: Array, allowzero: int = 0) -> Array:
        sizes = [x.shape[axis] if size == 0 and not allowzero else size for axis, size in enumerate(shape.tolist())]
        if -1 in sizes:  # NumPy will not guess where there is nothing to share out
            rest = int(np.prod([size for size in sizes if size != -1]))
            sizes[sizes.index(-1)] = x.size // rest if rest else 0
        return x.reshape(sizes).copy()


class Far(Clean):
    """The same on a device with memory of its own, which only it can read."""

    name = "far"

    def probe(self) -> Sequence[Device]:
        return [Device(self.name, description="far away", link=Link(1e-6, 1e9))]

    def compile(self, graph: ir.GraphView, device: Device, options: Any) -> Executable:
        return _FarExecutable(self, graph)

    def to_device(self, array: Any, device: Device) -> Any:
        return ("far", array.dtype, array.shape, array.copy() if array.dtype.kind == "O" else array.tobytes())

    def to_host(self, value: Any, device: Device) -> Any:
        _, dtype, shape, data = value
        return data if dtype.kind == "O" else np.frombuffer(data, dtype).reshape(shape).copy()


class _FarExecutable(KernelExecutable):
    def __init__(self, provider: Far, graph: ir.GraphView) -> None:
        super().__init__(provider, graph)
        self._far = provider

    def run(self, values: Sequence[Any], out: Sequence[Any] | None = None) -> Sequence[Any]:
        (device,) = self._far.probe()
        results = super().run([self._far.to_host(value, device) for value in values])
        return [self._far.to_device(result, device) for result in results]


class _Wrapped(Executable):
    """An executable with another one's runs gone wrong."""

    def __init__(self, right: Executable, wrong: Callable[[Executable, Sequence[Any]], Sequence[Any]]) -> None:
        self._right = right
        self._wrong = wrong

    def run(self, values: Sequence[Any], out: Sequence[Any] | None = None) -> Sequence[Any]:
        return self._wrong(self._right, values)


# ---- imports


class ImportsLibraries(Clean):
    """Opens a shared library as it is made; any will do."""

    def __init__(self) -> None:
        import _ctypes
        import ctypes

        ctypes.CDLL(getattr(_ctypes, "__file__", None))


class ImportsQuick(Clean):
    """Takes over a second to make."""

    def __init__(self) -> None:
        end = time.process_time() + 1.2
        while time.process_time() < end:
            pass


class ImportsVersions(Clean):
    """Has another version each time it is asked."""

    def versions(self) -> Mapping[str, str]:
        return {"library": str(time.perf_counter_ns())}


# ---- probe


class ProbeTwice(Clean):
    """Finds another device the second time."""

    def probe(self) -> Sequence[Device]:
        return [Device(self.name, description=f"device {time.perf_counter_ns()}")]


class ProbeQuick(Clean):
    """Looks for its devices anew each time, and takes its time."""

    def probe(self) -> Sequence[Device]:
        time.sleep(0.06)
        return super().probe()


class ProbeDevices(Clean):
    """Counts its devices from one."""

    def probe(self) -> Sequence[Device]:
        return [Device(self.name, index=1, description="the second, by its own account")]


class ProbeReason(Clean):
    """Has no device, and does not say why."""

    def probe(self) -> Sequence[Device]:
        raise Unavailable("no device")


class ProbeReasonBare(Clean):
    """Lets the driver's own exception out."""

    def probe(self) -> Sequence[Device]:
        raise OSError("libdriver.so: cannot open shared object file")


# ---- operators


class OperatorsPlain(Clean):
    """Computes in float64 and gives that."""

    @kernel("LeakyRelu", since=6, dtypes=FLOAT)
    def leaky_relu(self, x: Array, alpha: float = 0.01) -> Array:
        return np.asarray(np.where(x < 0, x * alpha, x), np.float64)


class OperatorsSpecial(Clean):
    """Takes NaN for a positive number's lack."""

    @kernel("LeakyRelu", since=6, dtypes=FLOAT)
    def leaky_relu(self, x: Array, alpha: float = 0.01) -> Array:
        return np.asarray(np.nan_to_num(super().leaky_relu(x, alpha), nan=0.0, posinf=np.inf, neginf=-np.inf))


class OperatorsBroadcasting(Clean):
    """Repeats the smaller operand's values one after the other until they fill the larger, whatever the axes."""

    @kernel("Div", since=7, dtypes=FLOAT)
    def div(self, a: Array, b: Array) -> Array:
        shape = np.broadcast_shapes(a.shape, b.shape)
        return np.asarray(super().div(np.resize(a, shape), np.resize(b, shape)))


class OperatorsEmpty(Clean):
    """Gives one zero where there is nothing to compute."""

    @kernel("LeakyRelu", since=6, dtypes=FLOAT)
    def leaky_relu(self, x: Array, alpha: float = 0.01) -> Array:
        return np.asarray(super().leaky_relu(x, alpha)) if x.size else np.zeros(1, x.dtype)


class OperatorsScalar(Clean):
    """Gives a vector of one where a scalar is due."""

    @kernel("LeakyRelu", since=6, dtypes=FLOAT)
    def leaky_relu(self, x: Array, alpha: float = 0.01) -> Array:
        return np.atleast_1d(super().leaky_relu(x, alpha))


class OperatorsLarge(Clean):
    """Works in blocks of 1024, and leaves out the last one."""

    @kernel("LeakyRelu", since=6, dtypes=FLOAT)
    def leaky_relu(self, x: Array, alpha: float = 0.01) -> Array:
        result = np.asarray(super().leaky_relu(x, alpha))
        result.reshape(-1)[1024:] = 0
        return result


class OperatorsStrided(Clean):
    """Reads the memory as if there were no holes between the values."""

    @kernel("LeakyRelu", since=6, dtypes=FLOAT)
    def leaky_relu(self, x: Array, alpha: float = 0.01) -> Array:
        flat = x if x.flags.c_contiguous or x.base is None else x.base.reshape(-1)[: x.size].reshape(x.shape)
        return np.asarray(super().leaky_relu(flat, alpha))


class OperatorsOpen(Clean):
    """Sizes its output by the first run."""

    def compile(self, graph: ir.GraphView, device: Device, options: Any) -> Executable:
        shapes: list[tuple[int, ...]] = []

        def wrong(right: Executable, values: Sequence[Any]) -> Sequence[Any]:
            results = right.run(values)
            shapes.append(results[0].shape)
            return [np.resize(result, shapes[0]) for result in results]

        leaky = any(node.op_type == "LeakyRelu" for node in graph)
        return _Wrapped(super().compile(graph, device, options), wrong) if leaky else super().compile(graph, device, options)


class OperatorsConstant(Clean):
    """Takes the first value of a weight for all of it."""

    def compile(self, graph: ir.GraphView, device: Device, options: Any) -> Executable:
        made = KernelExecutable(self, graph)
        if any(node.op_type == "Div" for node in graph):
            made._constants = {name: np.full_like(value, value.flat[0]) for name, value in made._constants.items()}
        return made


class OperatorsAttributes(Clean):
    """Has a slope of its own, whatever `alpha` says."""

    @kernel("LeakyRelu", since=6, dtypes=FLOAT)
    def leaky_relu(self, x: Array, alpha: float = 0.01) -> Array:
        return np.asarray(super().leaky_relu(x))


class OperatorsVersion(Clean):
    """Claims every version of Softmax, and computes the newest: along one axis, where it used to be over all from that one on."""

    @kernel("Softmax", since=1, dtypes=FLOAT)
    def softmax(self, x: Array, axis: int = -1) -> Array:
        return np.asarray(super().softmax(x, axis))


# ---- honesty


class HonestyAsks(Clean):
    """Answers with True where it means Yes()."""

    def supports(self, node: ir.Node, graph: ir.Graph, device: Device) -> Yes | No:
        answer = super().supports(node, graph, device)
        return True if node.op_type == "LeakyRelu" and answer else answer  # type: ignore[return-value]


class HonestyAsksBare(Clean):
    """Raises where it means No(...)."""

    def supports(self, node: ir.Node, graph: ir.Graph, device: Device) -> Yes | No:
        answer = super().supports(node, graph, device)
        if not answer and node.op_type == "LeakyRelu":
            raise NotImplementedError(node.op_type)
        return answer


class HonestyPure(Clean):
    """Answers now this way and now that."""

    def __init__(self) -> None:
        self._asked = 0

    def supports(self, node: ir.Node, graph: ir.Graph, device: Device) -> Yes | No:
        self._asked += 1
        answer = super().supports(node, graph, device)
        return answer if answer else No(f"{node.op_type} is not supported: refusal number {self._asked}")


class HonestyReasons(Clean):
    """Refuses without a word."""

    def supports(self, node: ir.Node, graph: ir.Graph, device: Device) -> Yes | No:
        return super().supports(node, graph, device) or No("")


class HonestyCompiles(Clean):
    """Claims what it cannot compile."""

    def compile(self, graph: ir.GraphView, device: Device, options: Any) -> Executable:
        if any(node.op_type == "LeakyRelu" for node in graph):
            raise CompileError("the compiler gave up after all")
        return super().compile(graph, device, options)


class HonestyRuns(Clean):
    """Swallows what goes wrong in a run, and gives nothing."""

    def compile(self, graph: ir.GraphView, device: Device, options: Any) -> Executable:
        right = super().compile(graph, device, options)
        if all(node.op_type != "LeakyRelu" for node in graph):
            return right
        return _Wrapped(right, lambda right, values: [])


class HonestyInputs(Clean):
    """Computes in place."""

    @kernel("LeakyRelu", since=6, dtypes=FLOAT)
    def leaky_relu(self, x: Array, alpha: float = 0.01) -> Array:
        result = np.asarray(super().leaky_relu(x, alpha))
        x[...] = result
        return result


class HonestyAliasing(Clean):
    """Gives a view of its input."""

    def compile(self, graph: ir.GraphView, device: Device, options: Any) -> Executable:
        right = super().compile(graph, device, options)
        if [node.op_type for node in graph] != ["Reshape"]:
            return right
        return _Wrapped(right, lambda right, values: [values[0].reshape(right.run(values)[0].shape)])


class HonestyStrangers(Clean):
    """Goes by the operator's name, whatever its domain."""

    def supports(self, node: ir.Node, graph: ir.Graph, device: Device) -> Yes | No:
        return Yes() if node.domain and node.op_type == "Add" else super().supports(node, graph, device)


# ---- together


class TogetherSplit(Clean):
    """Gives its outputs in alphabetical order."""

    def compile(self, graph: ir.GraphView, device: Device, options: Any) -> Executable:
        names = [value.name or "" for value in graph.outputs]

        def wrong(right: Executable, values: Sequence[Any]) -> Sequence[Any]:
            results = right.run(values)
            return [results[place] for place in sorted(range(len(names)), key=names.__getitem__)]

        return _Wrapped(super().compile(graph, device, options), wrong)


class TogetherCopies(Far):
    """Copies memory as it lies, whatever the strides say: a transposed array comes back in another order."""

    def to_device(self, array: Any, device: Device) -> Any:
        return super().to_device(array.ravel(order="K").reshape(array.shape), device)


# ---- lifetime


class LifetimeClosed(Clean):
    """Fails to close."""

    def compile(self, graph: ir.GraphView, device: Device, options: Any) -> Executable:
        class Stuck(KernelExecutable):
            def close(self) -> None:
                raise RuntimeError("the device does not let go")

        return Stuck(self, graph)


class LifetimeAgain(Clean):
    """Writes each result over the last one."""

    def compile(self, graph: ir.GraphView, device: Device, options: Any) -> Executable:
        kept: dict[tuple[int, Any], Array] = {}

        def wrong(right: Executable, values: Sequence[Any]) -> Sequence[Any]:
            results = []
            for place, result in enumerate(right.run(values)):
                buffer = kept.setdefault((place, result.shape), result)
                buffer[...] = result
                results.append(buffer)
            return results

        return _Wrapped(super().compile(graph, device, options), wrong)


class LifetimeBuffers(Clean):
    """Binds the inputs' values of the moment, not the inputs."""

    def compile(self, graph: ir.GraphView, device: Device, options: Any) -> Executable:
        class Hasty(KernelExecutable):
            def bind(self, values: Sequence[Any], out: Sequence[Any]) -> Callable[[], Sequence[Any]]:
                results = self.run(values)
                for buffer, result in zip(out, results, strict=True):
                    if buffer is not None:
                        buffer[...] = result
                return lambda: [result if buffer is None else buffer for buffer, result in zip(out, results, strict=True)]

        return Hasty(self, graph)


class LifetimeTwo(Clean):
    """Keeps the weights with the provider, where the next model finds its own in their place."""

    def __init__(self) -> None:
        self.weights: dict[str | None, Any] = {}

    def compile(self, graph: ir.GraphView, device: Device, options: Any) -> Executable:
        made = KernelExecutable(self, graph)
        self.weights.update(made._constants)
        made._constants = self.weights
        return made


class LifetimeThreads(Clean):
    """Has one place for the inputs of a run, whoever runs."""

    def compile(self, graph: ir.GraphView, device: Device, options: Any) -> Executable:
        place: list[Any] = []

        def wrong(right: Executable, values: Sequence[Any]) -> Sequence[Any]:
            place[:] = values
            time.sleep(0)  # another thread's turn
            return right.run(list(place))

        return _Wrapped(super().compile(graph, device, options), wrong)


class LifetimeGrowth(Clean):
    """Never lets go of a weight."""

    def __init__(self) -> None:
        self.leaked: list[Any] = []

    def compile(self, graph: ir.GraphView, device: Device, options: Any) -> Executable:
        made = KernelExecutable(self, graph)
        self.leaked += [np.array(value) for value in made._constants.values()]
        return made


# ---- faults


class FaultsDtype(Clean):
    """Says that it checks its inputs, and does not."""

    def compile(self, graph: ir.GraphView, device: Device, options: Any) -> Executable:
        class Careless(KernelExecutable):
            checks_inputs = True

        return Careless(self, graph)


class FaultsMismatch(Clean):
    """Cuts what does not fit."""

    @kernel("Add", since=7, dtypes=NUMBERS)
    def add(self, a: Array, b: Array) -> Array:
        if a.ndim == b.ndim == 2 and 1 < len(a) < len(b):
            b = b[: len(a)]
        return np.asarray(super().add(a, b))


class FaultsCompile(Clean):
    """Takes a weight that it cannot read for zero."""

    def compile(self, graph: ir.GraphView, device: Device, options: Any) -> Executable:
        try:
            return super().compile(graph, device, options)
        except OSError:
            for value in graph.initializers.values():
                value.const_value = ir.tensor(np.zeros((8, 8), np.float32))
            return super().compile(graph, device, options)


class FaultsMemory(Clean):
    """Takes the process with it when memory runs out."""

    @kernel("Expand", since=8, dtypes=NUMBERS)
    def expand(self, x: Array, shape: Array) -> Array:
        try:
            return np.asarray(super().expand(x, shape))
        except (MemoryError, ValueError):
            os.abort()


class FaultsLost(Clean):
    """Goes on computing after its device has gone."""

    @contextlib.contextmanager
    def lose(self, device: Device) -> Iterator[None]:
        yield


BROKEN: tuple[type[Provider], ...] = tuple(
    kind
    for name, kind in globals().items()
    if isinstance(kind, type) and issubclass(kind, Clean) and name not in ("Clean", "Far") and not name.startswith("_")
)
"""Every broken provider, by level."""


def level_and_kind(broken: type[Provider]) -> tuple[str, str]:
    """The level and the kind of check that must catch it, out of its name."""
    words = "".join(f" {letter}" if letter.isupper() else letter for letter in broken.__name__).split()
    return words[0].lower(), words[1].lower()
