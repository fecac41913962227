"""A session of ONNX Runtime as a turnout executable."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np

from turnout.errors import CompileError, InvalidInput
from turnout.provider import Executable
from turnout_ort.failures import input_error, run_error
from turnout_ort.runtime import cpu_memory
from turnout_ort.values import Port, to_numpy

__all__ = ["CarefulSession", "PlainSession", "make_executable"]


class PlainSession(Executable):
    """A session whose inputs and outputs are arrays as NumPy has them: next to nothing stands before ONNX Runtime.

    session: an InferenceSession. inputs, outputs: its ports, in the graph's order. keep: what has to outlive it.
    in_place: the outputs whose kernels can work in the memory of the input that they alias.
    """

    checks_inputs = True

    def __init__(
        self, session: Any, inputs: Sequence[Port], outputs: Sequence[Port], keep: Any = None, in_place: Collection[int] = ()
    ) -> None:
        self.inputs = inputs
        self.outputs = outputs
        self._in_place = in_place
        self._session = session
        self._keep = keep
        self._run = session._sess.run  # InferenceSession.run checks names first: a fifth of the smallest model's time
        self._input_names = [port.name for port in inputs]
        self._output_names = [port.name for port in outputs]

    def run(self, values: Sequence[Any], out: Sequence[Any] | None = None) -> Sequence[Any]:
        if out is not None:
            return self.bind(values, out)()
        if len(values) != len(self._input_names):
            raise run_error(ValueError("wrong number of inputs"), self.inputs, values)
        return self.run_by_name(dict(zip(self._input_names, values, strict=True)))

    def run_by_name(self, feed: dict[str, Any]) -> Sequence[Any]:
        try:
            for value in feed.values():
                if not value.dtype.isnative:  # ONNX Runtime would take the bytes for its own, and say nothing
                    return self._run_copies([feed[name] for name in self._input_names])
            made: list[Any] = self._run(self._output_names, feed, None)
            return made
        except Exception as error:
            raise run_error(error, self.inputs, [feed[name] for name in self._input_names]) from error

    def _run_copies(self, values: Sequence[Any]) -> Sequence[Any]:
        feed = {port.name: port.feed(value) for port, value in zip(self.inputs, values, strict=True)}
        made: list[Any] = self._run(self._output_names, feed, None)
        return made

    def bind(self, values: Sequence[Any], out: Sequence[Any]) -> Callable[[], Sequence[Any]]:
        """One thread at a time may call the result. Each call makes new arrays for outputs without a buffer."""
        if len(out) != len(self.outputs):
            raise InvalidInput(f"{len(out)} buffers were given, and there are {len(self.outputs)} outputs")
        wrong = input_error(self.inputs, values)
        if wrong is not None:
            raise wrong
        for port, buffer in zip(self.outputs, out, strict=True):
            _check_buffer(port, buffer)
        if not self._can_bind(values, out):
            return lambda: self._run_and_copy(values, out)
        return self._bind(values, out)

    def _can_bind(self, values: Sequence[Any], out: Sequence[Any]) -> bool:
        given = all(port.aliasable(value) for port, value in zip(self.inputs, values, strict=True))
        sources = {value.__array_interface__["data"][0] for value in values if isinstance(value, np.ndarray) and value.size}
        for i, buffer in enumerate(out):
            if i not in self._in_place and isinstance(buffer, np.ndarray) and buffer.__array_interface__["data"][0] in sources:
                return False  # the kernel might write there before the last node has read
        return given and all(
            port.aliasable(buffer) if buffer is not None else port.dtype is not None for port, buffer in zip(self.outputs, out, strict=True)
        )

    def _bind(self, values: Sequence[Any], out: Sequence[Any]) -> Callable[[], Sequence[Any]]:
        binding = self._session.io_binding()._iobinding
        ties = [port.alias(value) for port, value in zip(self.inputs, values, strict=True)]
        for port, tied in zip(self.inputs, ties, strict=True):
            binding.bind_ortvalue_input(port.name, tied.value)
        fresh = []
        for i, (port, buffer) in enumerate(zip(self.outputs, out, strict=True)):
            if buffer is None:
                fresh.append((i, port))
                binding.bind_output(port.name, cpu_memory())
            else:
                ties.append(port.alias(buffer))
                binding.bind_ortvalue_output(port.name, ties[-1].value)
        run, inputs, buffers = self._session._sess.run_with_iobinding, self.inputs, tuple(out)

        def run_bound(ties: Any = ties) -> Sequence[Any]:  # the default keeps alive what the binding points to
            try:
                run(binding, None)
            except Exception as error:
                raise run_error(error, inputs, values) from error
            return buffers

        return (lambda: _run_fresh(run_bound, binding, fresh)) if fresh else run_bound

    def _run_and_copy(self, values: Sequence[Any], out: Sequence[Any]) -> Sequence[Any]:
        made = list(self.run(values))
        for i, buffer in enumerate(out):
            if buffer is not None:
                _copy_into(buffer, made[i], self.outputs[i])
                made[i] = buffer
        return made

    def placement(self) -> Mapping[str, int]:
        try:
            parts = self._session.get_provider_graph_assignment_info()
        except Exception:  # an ONNX Runtime that does not record it
            return {}
        counts: Counter[str] = Counter()
        for part in parts:
            counts[part.ep_name] += len(part.get_nodes())
        return dict(counts)

    def close(self) -> None:
        del self._run, self._session
        self._keep = None


def _run_fresh(run: Callable[[], Sequence[Any]], binding: Any, fresh: Sequence[tuple[int, Port]]) -> Sequence[Any]:
    # without this ONNX Runtime writes into the tensors of the last run, which its caller holds
    for _, port in fresh:
        binding.bind_output(port.name, cpu_memory())
    results = list(run())
    made = binding.get_outputs()
    for i, port in fresh:
        results[i] = to_numpy(made[i], port.foreign)
    return results


def _check_buffer(port: Port, buffer: Any) -> None:
    if buffer is None:
        return
    problem = port.problem(buffer) or ("" if isinstance(buffer, (np.ndarray, list)) else "is not an array")
    if not problem and isinstance(buffer, np.ndarray) and not buffer.flags.writeable:
        problem = "cannot be written to"
    if problem:
        raise InvalidInput(f"the buffer for output {port.name!r} {problem}")


def _copy_into(buffer: Any, value: Any, port: Port) -> None:
    if isinstance(buffer, list):
        buffer[:] = value
        return
    if buffer.shape != value.shape:
        raise InvalidInput(f"the buffer for output {port.name!r} is {buffer.shape}, and the output {value.shape}")
    buffer[...] = value


class CarefulSession(PlainSession):
    """A session with strings, sequences, optionals, maps or element types that NumPy does not have among its values."""

    def __init__(
        self, session: Any, inputs: Sequence[Port], outputs: Sequence[Port], keep: Any = None, in_place: Collection[int] = ()
    ) -> None:
        super().__init__(session, inputs, outputs, keep, in_place)
        self._foreign_out = any(port.foreign for port in outputs)

    def run(self, values: Sequence[Any], out: Sequence[Any] | None = None) -> Sequence[Any]:
        if out is not None:
            return self.bind(values, out)()
        # ONNX Runtime reads memory of these types without asking what it is, so the check cannot wait for its complaint
        wrong = input_error(self.inputs, values)
        if wrong is not None:
            raise wrong
        try:
            return self._run_tied(values) if self._foreign_out else self._run_copies(values)
        except Exception as error:
            raise run_error(error, self.inputs, values) from error

    def run_by_name(self, feed: dict[str, Any]) -> Sequence[Any]:
        return self.run([feed[name] for name in self._input_names])

    def _run_tied(self, values: Sequence[Any]) -> Sequence[Any]:
        ties = {port.name: port.tie(value) for port, value in zip(self.inputs, values, strict=True)}
        feed = {name: tied.value for name, tied in ties.items()}
        made = self._session._sess.run_with_ort_values(feed, self._output_names, None)
        return [to_numpy(made[i], port.foreign) for i, port in enumerate(self.outputs)]


def make_executable(
    session: Any, inputs: Sequence[Port], outputs: Sequence[Port], keep: Any = None, in_place: Collection[int] = ()
) -> PlainSession:
    """The executable for a session: the quick kind wherever its inputs and outputs allow.

    Raises CompileError for the one mixture that ONNX Runtime's Python interface has no call for.
    """
    foreign_out = [port for port in outputs if port.foreign]
    nested = [port for port in (*inputs, *outputs) if not port.type.startswith("tensor(")]
    nested += [port for port in inputs if port.type == "tensor(string)"]
    if foreign_out and nested:
        raise CompileError(
            f"ONNX Runtime's Python interface gives {foreign_out[0].type} ({foreign_out[0].name!r}) only where all "
            f"inputs are tensors of numbers and all outputs tensors, and {nested[0].name!r} is {nested[0].type}"
        )
    quick = all(port.native for port in inputs) and not foreign_out
    return (PlainSession if quick else CarefulSession)(session, inputs, outputs, keep, in_place)
