"""ONNX's backend test cases: a model, what goes in, what comes out."""

from __future__ import annotations

import functools
import glob
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
from onnx.numpy_helper import to_array, to_list, to_optional

__all__ = ["Case", "all_cases"]

FOLDERS = ("simple", "pytorch-operator", "pytorch-converted")


@dataclass(frozen=True)
class Case:
    """One case. path: the model's file, None for a case that ONNX keeps in memory. rtol, atol: ONNX's own tolerance for it."""

    name: str
    kind: str
    content: bytes
    path: Path | None
    rtol: float
    atol: float
    origin: Any

    def data(self) -> Iterator[tuple[list[Any], list[Any]]]:
        """(inputs, expected outputs) of each data set."""
        if self.path is None:
            for given, expected in self.origin.data_sets:
                yield list(map(_array, given)), list(map(_array, expected))
            return
        graph = onnx.load(self.path).graph
        for folder in sorted(self.path.parent.glob("test_data_set_*")):
            yield _stored(folder, "input", graph.input), _stored(folder, "output", graph.output)


@functools.cache
def all_cases() -> dict[str, Case]:
    """Every node, simple, PyTorch-operator and PyTorch-converted case, by name."""
    from onnx.backend.test.case.node import collect_testcases
    from onnx.backend.test.loader import load_model_tests

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # ONNX computes its cases' values as it collects them
        found = [*collect_testcases(None), *(case for kind in FOLDERS for case in load_model_tests(kind=kind))]
    cases = [_case(one) for one in found]
    assert len({case.name for case in cases}) == len(cases), "two cases of one name: one would hide the other"
    return {case.name: case for case in cases}


def _case(origin: Any) -> Case:
    path = None if origin.model_dir is None else Path(origin.model_dir, "model.onnx")
    content = origin.model.SerializeToString() if path is None else path.read_bytes()
    return Case(origin.name, origin.kind, content, path, origin.rtol, origin.atol, origin)


def _array(value: Any) -> Any:
    return to_array(value) if isinstance(value, onnx.TensorProto) else value


def _stored(folder: Path, what: str, values: Any) -> list[Any]:
    count = len(glob.glob(str(folder / f"{what}_*.pb")))
    return [_read((folder / f"{what}_{number}.pb").read_bytes(), values[number].type) for number in range(count)]


def _read(content: bytes, kind: onnx.TypeProto) -> Any:
    which = kind.WhichOneof("value")
    if which == "sequence_type":
        return to_list(onnx.SequenceProto.FromString(content))
    if which == "optional_type":
        return to_optional(onnx.OptionalProto.FromString(content))
    assert which == "tensor_type", f"a case with a {which}: teach this reader to read it"
    return to_array(onnx.TensorProto.FromString(content))
