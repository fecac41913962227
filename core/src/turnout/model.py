"""Model: a file that has been planned, compiled and is ready to run."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from turnout.errors import Closed, InvalidInput, NotGenerative, RunError
from turnout.graph import constant_array, describe, ir
from turnout.provider import Executable
from turnout.tensor import host_value

if TYPE_CHECKING:
    from turnout.execute import Program
    from turnout.explain import Explanation
    from turnout.plan import Plan

__all__ = ["Bound", "Model", "ValueInfo"]


_KINDS = {"TensorType": "tensor", "SparseTensorType": "tensor", "SequenceType": "sequence", "OptionalType": "optional"}


@dataclass(frozen=True)
class ValueInfo:
    """An input or output of a model: name, kind ("tensor", "sequence", "optional", "map"), element dtype and shape.

    dtype: NumPy dtype (ml_dtypes for bfloat16, float8, int4; object for strings), None where the model does not say.
    shape: int for a fixed dimension, str for a named one, None for an unknown one; None in all where the rank is not known.
    required: False for an input that has a default.
    """

    name: str
    kind: str
    dtype: np.dtype[Any] | None
    shape: tuple[int | str | None, ...] | None
    text: str
    required: bool = True

    @classmethod
    def of(cls, value: ir.Value) -> ValueInfo:
        """What the graph says of one of its inputs or outputs."""
        kind = _KINDS.get(type(value.type).__name__, "map")
        dtype = None if value.type is None else value.type.dtype
        shape = None
        if value.shape is not None and kind == "tensor":
            shape = tuple(dim if isinstance(dim, int) else dim.value for dim in value.shape)
        known = dtype not in (None, ir.DataType.UNDEFINED)
        numpy_dtype = None
        if known and dtype is not None:
            numpy_dtype = np.dtype(object) if dtype == ir.DataType.STRING else dtype.numpy()
        return cls(value.name or "", kind, numpy_dtype, shape, describe(value), value.const_value is None)

    def __str__(self) -> str:
        return self.text


class Model:
    """A loaded model. Made by `turnout.load`; safe to run from several threads; a context manager that closes it."""

    def __init__(self, name: str, plan: Plan, program: Program, explanation: Callable[[], Explanation]) -> None:
        self.name = name
        self.inputs: tuple[ValueInfo, ...] = tuple(ValueInfo.of(value) for value in plan.graph.inputs)
        self.outputs: tuple[ValueInfo, ...] = tuple(ValueInfo.of(value) for value in plan.graph.outputs)
        self.fingerprint: str = plan.fingerprint
        self._defaults = {value.name or "": constant_array(value) for value in plan.graph.inputs if value.const_value is not None}
        self._explain = explanation
        self._explanation: Explanation | None = None
        self._program: Program | None = program
        self._input_names = tuple(one.name for one in self.inputs)
        self._output_names = tuple(one.name for one in self.outputs)
        self._input_set = frozenset(self._input_names)
        self._quick = self._quick_door(program)
        self._text: Any = None
        self._bounds: weakref.WeakSet[Bound] = weakref.WeakSet()

    def _quick_door(self, program: Program) -> Callable[[dict[str, Any]], Sequence[Any]] | None:
        """Where one executable is all of the model, looks at arrays itself, and wants nothing but arrays of numbers."""
        plain = all(info.kind == "tensor" and info.dtype != object for info in self.inputs)
        if program.direct is None or not program.direct.checks_inputs or not plain:
            return None
        return program.direct.run_by_name

    def run(self, /, *arrays: Any, **named: Any) -> dict[str, Any]:
        """Runs once: a mapping of name to array, or arrays in the model's order, or keywords; gives a mapping in the model's order.

        Takes whatever has DLPack or the array protocol, lists of strings for string tensors, lists of arrays for sequences, None for
        an empty optional; copies nothing that is in host memory already. Gives NumPy arrays (bfloat16, float8 and int4 by ml_dtypes).
        An input that is itself an output is given back as it is, not copied.
        Raises InvalidInput, OutOfMemory, DeviceLost, Closed, or RunError for whatever else went wrong.
        """
        if arrays:
            named = self._by_name(arrays, named)
        run = self._quick
        if run is not None and named.keys() == self._input_set:
            for value in named.values():
                if type(value) is not np.ndarray:
                    break
            else:
                return dict(zip(self._output_names, run(named)))  # noqa: B905 - `strict` costs as much as all of this
        return self._run_checked(named)

    def _run_checked(self, named: dict[str, Any]) -> dict[str, Any]:
        program = self._opened()
        values = self._host_values(named)
        self._check(values)
        return dict(zip(self._output_names, program.run(values), strict=True))

    def bind(self, /, *arrays: Any, outputs: Mapping[str, Any] | None = None, **named: Any) -> Bound:
        """The same run again and again: `bound.run()` reads the given arrays anew each time, and writes into `outputs`.

        outputs: output name to a writable NumPy array that takes the result; an output without one gets its own where its shape is
        known. No input or output is copied where one partition in host memory takes the whole model. Raises InvalidInput.
        """
        program = self._opened()
        if arrays:
            named = self._by_name(arrays, named)
        values = self._host_values(named)
        self._check(values)
        bound = Bound(program, self._output_names, values, self._buffers(outputs or {}))
        self._bounds.add(bound)
        return bound

    def _buffers(self, given: Mapping[str, Any]) -> list[Any]:
        if strangers := set(given) - set(self._output_names):
            raise InvalidInput(f"there is no output {min(strangers)!r}", hint=f"the outputs are: {', '.join(self._output_names)}")
        buffers: list[Any] = []
        for info in self.outputs:
            buffer = given.get(info.name)
            if buffer is None and _is_static(info):
                buffer = np.empty(info.shape, info.dtype)
            elif buffer is not None:
                if not isinstance(buffer, np.ndarray) or not buffer.flags.c_contiguous or not buffer.flags.writeable:
                    raise InvalidInput(
                        f"output {info.name!r} was given a buffer that is no writable, C-contiguous NumPy array",
                        hint=f"numpy.empty(shape, {str(info.dtype)!r}) makes one",
                    )
                if problem := _mismatch(buffer, info):
                    raise InvalidInput(f"output {info.name!r} {problem}", hint=f"it is {info}")
            buffers.append(buffer)
        return buffers

    def explain(self) -> Explanation:
        """Who runs what, and why: print it, or take `.to_dict()`, `.node(name)`, `.to_html()`."""
        if self._explanation is None:
            self._explanation = self._explain()
        return self._explanation

    def generate(self, prompt: Any, **options: Any) -> Any:
        """A stream of pieces of text. Needs a decoder, and the plugin turnout-text. Raises NotGenerative."""
        return self._writer().generate(prompt, **options)

    def chat(self, **options: Any) -> Any:
        """A conversation. Needs a decoder, and the plugin turnout-text. Raises NotGenerative."""
        return self._writer().chat(**options)

    def _writer(self) -> Any:
        from turnout import plugins

        self._opened()
        if self._text is None:
            self._text = plugins.first("turnout_text", model=self)
        if self._text is None:
            raise NotGenerative(
                f"{self.name} does not make text here: no installed plugin takes it for a language model",
                hint="pip install turnout-text (for language models), or use run() (for any model)",
            )
        return self._text

    def close(self) -> None:
        """Frees what the model holds on its devices. Runs after this raise Closed; closing twice does nothing."""
        program, self._program = self._program, None
        if program is not None:
            self.explain()  # it stays to be read after the weights are gone
            self._quick = None
            for bound in self._bounds:
                bound._call = self._refuse
            program.close()

    def __enter__(self) -> Model:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "" if self._program is not None else ", closed"
        return f"<turnout.Model {self.name}: {len(self.inputs)} inputs, {len(self.outputs)} outputs{state}>"

    def _opened(self) -> Program:
        return self._program or self._refuse()

    def _refuse(self) -> NoReturn:
        raise Closed(f"{self.name} was closed", hint="load it again, or run it before close()")

    def _by_name(self, arrays: Sequence[Any], named: dict[str, Any]) -> dict[str, Any]:
        if len(arrays) == 1 and isinstance(arrays[0], Mapping) and not (len(self.inputs) == 1 and self.inputs[0].kind == "map"):
            return self._together(arrays[0], named, "in a mapping")
        if len(arrays) > len(self.inputs):
            raise InvalidInput(f"{len(arrays)} arrays for {len(self.inputs)} inputs", hint=self._wanted())
        return self._together(dict(zip(self._input_names, arrays, strict=False)), named, "by position")

    def _together(self, placed: Mapping[str, Any], named: dict[str, Any], way: str) -> dict[str, Any]:
        if twice := [name for name in placed if name in named]:
            raise InvalidInput(f"input {twice[0]!r} is given twice, {way} and by name", hint=self._wanted())
        return {**placed, **named}

    def _with_defaults(self, named: Mapping[str, Any]) -> list[Any]:
        if any(name not in self._input_names for name in named):
            raise self._unknown(named)
        missing = [info for info in self.inputs if info.name not in named and info.required and info.kind != "optional"]
        if missing:
            raise InvalidInput(f"input {missing[0].name!r} is missing", hint=self._wanted())
        return [named.get(name, self._defaults.get(name)) for name in self._input_names]

    def _unknown(self, named: Mapping[str, Any]) -> InvalidInput:
        import difflib

        stranger = next(name for name in named if name not in self._input_names)
        close = difflib.get_close_matches(str(stranger), self._input_names, n=1)
        return InvalidInput(f"there is no input {stranger!r}", hint=f"did you mean {close[0]!r}?" if close else self._wanted())

    def _wanted(self) -> str:
        return "the inputs are: " + ", ".join(f"{info.name} {info}" for info in self.inputs)

    def _host_values(self, named: Mapping[str, Any]) -> list[Any]:
        given = zip(self._with_defaults(named), self.inputs, strict=True)
        return [host_value(value, info.dtype, info.name, _kind(value, info)) for value, info in given]

    def _check(self, values: Sequence[Any]) -> None:
        for value, info in zip(values, self.inputs, strict=True):
            if problem := _problem(value, info):
                raise InvalidInput(f"input {info.name!r} {problem}", hint=f"it is {info}")


def _is_static(info: ValueInfo) -> bool:
    static = info.shape is not None and all(isinstance(dim, int) for dim in info.shape)
    return static and info.dtype is not None and info.dtype != object and info.kind == "tensor"


def _kind(value: Any, info: ValueInfo) -> str:
    """The kind that a value has to be; that of an optional which is there is what it holds."""
    if info.kind != "optional" or value is None:
        return info.kind
    return "sequence" if info.text.startswith("optional(seq") else "tensor"


def _problem(value: Any, info: ValueInfo) -> str:
    """What is wrong with a host value for an input, as the end of a sentence; "" where nothing is."""
    kind = _kind(value, info)
    if kind == "tensor":
        return _mismatch(value, info)
    if kind != "sequence":
        return ""
    problems = ((position, _mismatch(item, info)) for position, item in enumerate(value))
    return next((f"at position {position} {problem}" for position, problem in problems if problem), "")


def _mismatch(value: Any, info: ValueInfo) -> str:
    """What is wrong with an array for a tensor of this type and shape, as the end of a sentence; "" where nothing is."""
    if not isinstance(value, np.ndarray):
        return f"wants a tensor, not {type(value).__name__}"
    text = value.dtype.kind in "OUST"
    if info.dtype is not None and value.dtype != info.dtype and not (info.dtype == object and text):
        return f"has dtype {value.dtype}, not {'string' if info.dtype == object else info.dtype}"
    if info.shape is None:
        return ""
    if value.ndim != len(info.shape):
        return f"has {value.ndim} dimensions {value.shape}, not {len(info.shape)}"
    for axis, (have, want) in enumerate(zip(value.shape, info.shape, strict=True)):
        if isinstance(want, int) and have != want:
            return f"has {have} along axis {axis}, not {want}"
    return ""


class Bound:
    """A run with its buffers: made by `Model.bind`. `run()` reads the inputs as they are now and gives the outputs by name."""

    def __init__(self, program: Program, names: Sequence[str], values: list[Any], buffers: list[Any]) -> None:
        self._names = names
        self.inputs = values
        self._fixed: dict[str, Any] | None = None
        self._call = _bound_call(program, names, values, buffers)
        if all(buffer is not None for buffer in buffers):
            self._fixed = dict(zip(names, buffers, strict=True))

    def run(self) -> dict[str, Any]:
        """Runs once. Where every output has a buffer, the mapping is the same object each time."""
        results = self._call()
        return self._fixed if self._fixed is not None else dict(zip(self._names, results, strict=False))


def _bound_call(program: Program, names: Sequence[str], values: list[Any], buffers: list[Any]) -> Callable[[], Sequence[Any]]:
    direct, run = program.direct, program.run_direct
    if direct is None or run is None:
        return lambda: _into(program.run(values), buffers, names)
    if type(direct).bind is Executable.bind:  # which may have no use for buffers
        return lambda: _into(run(values, buffers), buffers, names)
    return direct.bind(values, buffers)


def _into(results: Sequence[Any], buffers: Sequence[Any], names: Sequence[str]) -> list[Any]:
    """Results, copied into the buffers that were given for them unless they are there already."""
    for result, buffer, name in zip(results, buffers, names, strict=True):
        if buffer is not None and result is not buffer:
            if result.shape != buffer.shape:
                raise RunError(
                    f"output {name!r} came out as {result.shape}, but its buffer is {buffer.shape}",
                    hint="bind a buffer of that shape, or none",
                )
            np.copyto(buffer, result)
    return [result if buffer is None else buffer for result, buffer in zip(results, buffers, strict=True)]
