"""What ONNX Runtime raises, as turnout's errors: what happened and where, without the noise of its C++ source."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from turnout.errors import InvalidInput, OutOfMemory, RunError
from turnout_ort.values import Port

__all__ = ["culprit", "input_error", "run_error", "sentence"]

# compiled when they are needed: doing it here took a tenth of a quick load
_NOISE = (
    r"Error in execution: ",
    r"\[ONNXRuntimeError\] : \d+ : [A-Z_]+ : ",
    # a source position, with the function's signature or bare name behind it
    r"\S+\.(?:cc|cpp|cu|h):\d+ (?:[^()]*?::[^()]*\([^)]*\)(?: const)?(?:::<\S+)?(?: \[with [^\]]*\])? |\w+ )",
    # DirectML's: where in the source and in memory, and the number of the error, before Windows' words for it
    r"\S+\.cpp\(\d+\)\S+: \(caller: \w+\) Exception\(\d+\) tid\(\w+\) [0-9A-F]{8} ",
    r"^\S.{0,200}? was false\. (?=\S)",
    r"^Exception during (?:loading|initialization): ",
)
_AT_NODE = r"(?s)^Non-zero status code returned while running (\w+) node\. Name:'([^']*)' Status Message: (.*)$"
_NODE_NAMES = (r"node with name '([^']*)'", r"Name:'([^']*)'", r"in node \(([^)]*)\)", r"Node \(([^)]*)\)")
_BYTES_ASKED = r"Failed to allocate memory for requested buffer of size (\d+)"
_NO_MEMORY = r"(?i)failed to allocate|bad allocation|bad_alloc|out of memory"


def sentence(error: BaseException) -> str:
    """The first sentence that says something."""
    text = _clean(str(error))
    at = re.match(_AT_NODE, text)
    if at:
        name = re.sub(r"#\d+$", "", at[2])
        where = f"{at[1]} node {name!r}" if name and name != at[1] else f"{at[1]} node"
        return f"{_first(at[3])} (in the {where})"
    return _first(text)


def _clean(text: str) -> str:
    for pattern in _NOISE:
        text = re.sub(pattern, "", text)
    return text.strip()


def _first(text: str) -> str:
    text = re.sub(r"\s+", " ", _clean(text)).strip()
    first = re.split(r"(?<=[a-z0-9'\])])\. (?=[A-Z])| Please fix ", text, maxsplit=1)[0]
    return first.rstrip(" .")


def culprit(error: BaseException, names: Mapping[str, int]) -> int | None:
    """The position of the node that the message names, or None."""
    for pattern in _NODE_NAMES:
        for name in re.findall(pattern, str(error)):
            if name in names:
                return names[name]
    return None


def run_error(error: Exception, inputs: Sequence[Port], values: Sequence[Any]) -> RunError:
    """The kind of RunError that an exception during a run stands for. Only now are the inputs looked at."""
    invalid = input_error(inputs, values)
    if invalid is not None:
        return invalid
    text, hint = str(error), "run with smaller inputs"
    asked = re.search(_BYTES_ASKED, text)
    if asked:
        at = re.search(r"while running (\w+) node", text)
        who = f"{at[1]} asked for" if at else "it asked for"
        return OutOfMemory(f"out of memory: {who} {_amount(int(asked[1]))}", hint=hint)
    if isinstance(error, MemoryError) or re.search(_NO_MEMORY, text):
        return OutOfMemory(f"out of memory: {sentence(error) or 'an allocation failed'}", hint=hint)
    return RunError(f"ONNX Runtime: {sentence(error)}")


def input_error(inputs: Sequence[Port], values: Sequence[Any]) -> InvalidInput | None:
    """The first input that is wrong, as an error; None where all are right."""
    if len(values) != len(inputs):
        names = ", ".join(port.name for port in inputs)
        return InvalidInput(f"{len(values)} inputs were given, and there are {len(inputs)}: {names}")
    for port, value in zip(inputs, values, strict=True):
        problem = port.problem(value)
        if problem:
            return InvalidInput(f"input {port.name!r} {problem}", hint=_mend(port, value))
    return None


def _mend(port: Port, value: Any) -> str:
    if not isinstance(value, np.ndarray):
        return f"numpy.asarray({port.name}, {str(port.dtype or 'object')!r})"
    if port.dtype is not None and value.dtype != port.dtype:
        return f"{port.name}.astype({str(port.dtype)!r})"
    return "`model.inputs` tells the shape of each input"


def _amount(nbytes: int) -> str:
    for unit, size in (("TB", 10**12), ("GB", 10**9), ("MB", 10**6)):
        if nbytes >= size:
            return f"{nbytes / size:.1f} {unit}"
    return f"{nbytes} bytes"
