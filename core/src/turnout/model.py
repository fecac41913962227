"""Model: a file that has been planned, compiled and is ready to run."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from turnout.errors import Closed, InvalidInput, NotGenerative, RunError
from turnout.graph import alias_of, constant_array, describe, ir
from turnout.provider import Executable
from turnout.tensor import Tensor, host_value, is_elsewhere

if TYPE_CHECKING:
    from turnout.device import Device
    from turnout.explain import Explanation
    from turnout.formats import Origin
    from turnout.plan import Plan
    from turnout.program import Program

__all__ = ["Bound", "Interface", "Model", "ValueInfo"]


_NOTHING = np.zeros(0)
"""Stands for a value that stays on its device, while the others are looked at."""

_KINDS = {"TensorType": "tensor", "SparseTensorType": "tensor", "SequenceType": "sequence", "OptionalType": "optional"}


@dataclass(frozen=True)
class ValueInfo:
    """An input or output of a model: name, kind ("tensor", "sequence", "optional", "map"), element dtype and shape.

    dtype: NumPy dtype (ml_dtypes for bfloat16, float8, int4; object for strings), None where the model does not say.
    shape: int for a fixed dimension, str for a named one, None for an unknown one; None in all where the rank is not known.
    required: False for an input that has a default.
    alias: of an output, the input in whose memory it may lie: `bind` takes one buffer for both, and updates it in place.
    """

    name: str
    kind: str
    dtype: np.dtype[Any] | None
    shape: tuple[int | str | None, ...] | None
    text: str
    required: bool = True
    alias: str | None = None

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
        return cls(value.name or "", kind, numpy_dtype, shape, describe(value), value.const_value is None, alias_of(value))

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class Interface:
    """What a model takes and gives. fingerprint: of its plan. defaults: of inputs that may be left out."""

    inputs: tuple[ValueInfo, ...]
    outputs: tuple[ValueInfo, ...]
    fingerprint: str
    defaults: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, plan: Plan) -> Interface:
        graph = plan.graph
        defaults = {value.name or "": constant_array(value) for value in graph.inputs if value.const_value is not None}
        inputs, outputs = (tuple(ValueInfo.of(value) for value in values) for values in (graph.inputs, graph.outputs))
        return cls(inputs, outputs, plan.fingerprint, defaults)


class Model:
    """A loaded model. Made by `turnout.load`; safe to run from several threads; a context manager that closes it."""

    def __init__(self, origin: Origin, interface: Interface, program: Program, explanation: Callable[[], Explanation]) -> None:
        self.name = origin.name
        self.origin = origin
        """Where it came from: format, path, and the file's metadata."""
        self.inputs = interface.inputs
        self.outputs = interface.outputs
        self.fingerprint = interface.fingerprint
        self._defaults = interface.defaults
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
        an empty optional; copies nothing that is in host memory already, nor what lies on the device that reads it.
        Gives NumPy arrays (bfloat16, float8 and int4 by ml_dtypes).
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

    def run_on_device(self, /, *arrays: Any, **named: Any) -> dict[str, Any]:
        """As `run`, but outputs stay where they are made: one that a device outside host memory makes is a Tensor there, with DLPack.

        Nothing is waited for: whoever takes such a Tensor by DLPack names the stream that he goes on with, and `Tensor.numpy` waits.
        """
        if arrays:
            named = self._by_name(arrays, named)
        program = self._opened()
        values = self._values(named, program)
        self._check(values)
        found = zip(self._output_names, program.run_on_device(values), strict=True)
        return {name: value if device.on_host else _tensor(value, device) for name, (value, device) in found}

    def device_of(self, output: str) -> Device:
        """Where `run_on_device` leaves an output: on the device that makes it (`device.on_host`: as an array). Raises InvalidInput."""
        program = self._opened()
        if output not in self._output_names:
            raise self._no_output(output)
        return program.home(self._output_names.index(output))

    def _run_checked(self, named: dict[str, Any]) -> dict[str, Any]:
        program = self._opened()
        values = self._values(named, program)
        self._check(values)
        return dict(zip(self._output_names, program.run(values), strict=True))

    def _values(self, named: Mapping[str, Any], program: Program) -> list[Any]:
        """Host values, and such of devices outside host memory as can go in as they are."""
        if not program.takes or all(type(value) is np.ndarray for value in named.values()):
            return self._host_values(named)
        taken = self._taken(named, program)
        others = self._host_values({**named, **{self._input_names[k]: _NOTHING for k in taken}})
        return [taken.get(k, value) for k, value in enumerate(others)]

    def _taken(self, named: Mapping[str, Any], program: Program) -> dict[int, Any]:
        """By position, the inputs that go in from the device where they lie."""
        taken = {}
        for position, take in program.takes.items():
            value = named.get(self._input_names[position])
            if is_elsewhere(value) and (made := take(value)) is not None:
                taken[position] = made
        return taken

    def bind(self, /, *arrays: Any, outputs: Mapping[str, Any] | None = None, **named: Any) -> Bound:
        """The same run again and again: `bound.run()` reads the given arrays anew each time, and writes into `outputs`.

        outputs: output name to a writable NumPy array that takes the result; an output without one gets its own where its shape is
        known. No input or output is copied where one partition in host memory takes the whole model.
        A tensor on the device that reads it is read there, each time after what its owner has asked for by then; outputs come to the host.
        An array may be an input and the output that aliases it (`ValueInfo.alias`): it is updated in place where the device can, and
        else when the run is over, which is also what happens where any other output is given the memory of an input.
        Raises InvalidInput.
        """
        program = self._opened()
        if arrays:
            named = self._by_name(arrays, named)
        values = self._values(named, program)
        self._check(values)
        buffers = self._buffers(outputs or {})
        bound = Bound(program, self._output_names, values, buffers, self._handed(values, buffers))
        there = {name: named[name] for name, value in zip(self._input_names, values, strict=True) if is_elsewhere(value)}
        if there:
            bound._call = self._taken_anew(bound._call, values, there, program)
        self._bounds.add(bound)
        return bound

    def _taken_anew(self, call: Callable[[], Any], values: list[Any], there: Mapping[str, Any], program: Program) -> Callable[[], Any]:
        """A bound call before which tensors on the device are asked for again, so that it comes after their owner's work."""

        def again() -> Any:
            for position, value in self._taken(there, program).items():
                values[position] = value
            return call()

        return again

    def _buffers(self, given: Mapping[str, Any]) -> list[Any]:
        if strangers := set(given) - set(self._output_names):
            raise self._no_output(min(strangers))
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

    def _no_output(self, name: str) -> InvalidInput:
        return InvalidInput(f"there is no output {name!r}", hint=f"the outputs are: {', '.join(self._output_names)}")

    def _handed(self, values: Sequence[Any], buffers: list[Any]) -> list[Any]:
        """The buffers that may be written to while the inputs are read: `buffers` itself where those are all of them."""
        withheld = set()
        for one, other in _overlaps(values, buffers):
            if one >= 0:
                raise InvalidInput(
                    f"outputs {self._output_names[one]!r} and {self._output_names[other]!r} were given the same memory",
                    hint="give each output a buffer of its own",
                )
            source = values[-one - 1]
            declared = self.outputs[other].alias == self._input_names[-one - 1]
            if not (declared and _address(source) == _address(buffers[other]) and source.flags.c_contiguous):
                withheld.add(other)
        return [None if i in withheld else buffer for i, buffer in enumerate(buffers)] if withheld else buffers

    @property
    def executable(self) -> Executable | None:
        """What one provider made of the whole model, where one did: for plugins that know more of it than its inputs and outputs."""
        return self._opened().whole

    def explain(self) -> Explanation:
        """Who runs what, and why: print it, or take `.to_dict()`, `.node(name)`, `.to_html()`."""
        if self._explanation is None:
            self._explanation = self._explain()
        return self._explanation

    def generate(self, prompt: Any, **options: Any) -> Any:
        """A stream of pieces of text. Needs a decoder, and the plugin turnout-text. Raises NotGenerative."""
        return self._writer().generate(prompt, **options)

    def chat(self, *system: str | None, **options: Any) -> Any:
        """A conversation; what the system says first may be given. Needs a decoder, and the plugin turnout-text. Raises NotGenerative."""
        return self._writer().chat(*system, **options)

    def tokenize(self, text: str, **options: Any) -> list[int]:
        """The text's tokens. Needs a language model, and the plugin turnout-text. Raises NotGenerative."""
        tokens: list[int] = self._writer().tokenize(text, **options)
        return tokens

    def detokenize(self, tokens: Sequence[int], **options: Any) -> str:
        """The tokens' text. Needs a language model, and the plugin turnout-text. Raises NotGenerative."""
        text: str = self._writer().detokenize(tokens, **options)
        return text

    def logits(self, tokens: Sequence[int]) -> np.ndarray[Any, Any]:
        """What the model gives each possible next token after each of these, float32 [tokens, vocabulary].

        Needs a language model, and the plugin turnout-text. Raises NotGenerative.
        """
        logits: np.ndarray[Any, Any] = self._writer().logits(tokens)
        return logits

    def embed(self, texts: Sequence[str], **options: Any) -> np.ndarray[Any, Any]:
        """A vector of each text, float32 [texts, width]. Needs an encoder, and the plugin turnout-text. Raises NotGenerative."""
        vectors: np.ndarray[Any, Any] = self._writer().embed(texts, **options)
        return vectors

    def _writer(self) -> Any:
        from turnout import plugins

        self._opened()
        if self._text is None:
            self._text = plugins.first("turnout_text", model=self)
        if self._text is None:
            raise NotGenerative(
                f"{self.name} does not make text here: no installed plugin takes it for a language model",
                hint="with turnout-text installed, GGUF files and exported folders do; run() and `turnout run` take any model",
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
            text, self._text = self._text, None
            if hasattr(text, "close"):
                text.close()
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
        return [value if value is _NOTHING else host_value(value, info.dtype, info.name, _kind(value, info)) for value, info in given]

    def _check(self, values: Sequence[Any]) -> None:
        for value, info in zip(values, self.inputs, strict=True):
            if problem := _problem(value, info):
                raise InvalidInput(f"input {info.name!r} {problem}", hint=f"it is {info}")


def _tensor(value: Any, device: Device) -> Any:
    """A value of a device as what a caller gets: tensors with DLPack, sequences of them as lists."""
    if isinstance(value, (list, tuple)):
        return [_tensor(one, device) for one in value]
    return (
        value if value is None or isinstance(value, np.ndarray) else Tensor(value, dtype=value.dtype, shape=value.shape, device=device.name)
    )


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
    if not isinstance(value, np.ndarray) and not is_elsewhere(value):
        return f"wants a tensor, not {type(value).__name__}"
    text = value.dtype.kind in "OUST"
    if info.dtype is not None and value.dtype != info.dtype and not (info.dtype == object and text):
        return f"has dtype {value.dtype}, not {'string' if info.dtype == object else info.dtype}"
    if info.shape is None:
        return ""
    if len(value.shape) != len(info.shape):
        return f"has {len(value.shape)} dimensions {value.shape}, not {len(info.shape)}"
    for axis, (have, want) in enumerate(zip(value.shape, info.shape, strict=True)):
        if isinstance(want, int) and have != want:
            return f"has {have} along axis {axis}, not {want}"
    return ""


class Bound:
    """A run with its buffers: made by `Model.bind`. `run()` reads the inputs as they are now and gives the outputs by name."""

    def __init__(self, program: Program, names: Sequence[str], values: list[Any], buffers: list[Any], handed: list[Any]) -> None:
        self._names = names
        self.inputs = values
        self._fixed: dict[str, Any] | None = None
        self._call = _bound_call(program, names, values, buffers, handed)
        if all(buffer is not None for buffer in buffers):
            self._fixed = dict(zip(names, buffers, strict=True))

    def run(self) -> dict[str, Any]:
        """Runs once. Where every output has a buffer, the mapping is the same object each time."""
        results = self._call()
        return self._fixed if self._fixed is not None else dict(zip(self._names, results, strict=False))


def _bound_call(
    program: Program, names: Sequence[str], values: list[Any], buffers: list[Any], handed: list[Any]
) -> Callable[[], Sequence[Any]]:
    """handed: the buffers that the program may write to as it runs; the others are filled when it is over."""
    direct, run = program.direct, program.run_direct
    if direct is None or run is None:
        return lambda: _into(_apart(program.run(values, handed), values), buffers, names)
    if type(direct).bind is Executable.bind:  # which may have no use for buffers
        return lambda: _into(_apart(run(values, handed), values), buffers, names)
    call = direct.bind(values, handed)
    return call if handed is buffers else lambda: _into(_apart(call(), values), buffers, names)


def _apart(results: Sequence[Any], values: Sequence[Any]) -> list[Any]:
    """Results, with a copy of each that is an input itself: its memory may be about to take another result."""
    inputs = {id(value) for value in values if isinstance(value, np.ndarray)}
    return [result.copy() if id(result) in inputs else result for result in results]


def _address(array: np.ndarray[Any, Any]) -> tuple[Any, ...]:
    return array.__array_interface__["data"][0], array.shape, array.dtype


def _overlaps(values: Sequence[Any], buffers: Sequence[Any]) -> list[tuple[int, int]]:
    """Pairs of (input or output, output) that share memory, an input counted as -1, -2 ... Empty arrays share nothing."""
    spans = []
    for number, array in (*((-i - 1, value) for i, value in enumerate(values)), *enumerate(buffers)):
        if isinstance(array, np.ndarray) and array.size and array.dtype != object:
            contiguous = array.flags.c_contiguous
            start = array.__array_interface__["data"][0]
            low, high = (start, start + array.nbytes) if contiguous else np.lib.array_utils.byte_bounds(array)
            spans.append((low, high, number))
    spans.sort()
    found = []
    for position, (_, end, one) in enumerate(spans):
        for start, _, other in spans[position + 1 :]:
            if start >= end:
                break
            if max(one, other) >= 0:
                found.append((min(one, other), max(one, other)))
    return found


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
