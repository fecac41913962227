"""turnout as an ONNX backend: what `onnx.backend.base.Backend` asks for, over `turnout.load`.

import onnx.backend.test, turnout.backend
tests = onnx.backend.test.BackendTest(turnout.backend, __name__)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import helper
from onnx.backend.base import Backend, BackendRep, namedtupledict

import turnout
from turnout.errors import InvalidInput, TurnoutError

if TYPE_CHECKING:
    from turnout.model import Model

__all__ = ["TurnoutBackend", "TurnoutRep", "is_compatible", "prepare", "run_model", "run_node", "supports_device"]


class TurnoutRep(BackendRep):  # onnx is not typed
    """A loaded model as ONNX's runner uses it."""

    def __init__(self, model: Model) -> None:
        self.model = model

    def run(self, inputs: Any, **options: Any) -> tuple[Any, ...]:
        """Inputs by position or by name, to a tuple whose elements also answer to their names: `outputs["y"]`."""
        given = [inputs] if isinstance(inputs, Mapping) else _positional(inputs)
        outputs = self.model.run(*given)
        made: tuple[Any, ...] = namedtupledict("Outputs", list(outputs))(*outputs.values())
        return made


def _positional(inputs: Any) -> list[Any]:
    if not isinstance(inputs, (list, tuple)):
        raise InvalidInput(f"the inputs are a {type(inputs).__name__}", hint="give a list of arrays, or a mapping of them by name")
    return list(inputs)


class TurnoutBackend(Backend):  # onnx is not typed
    """ONNX's device "CPU" is turnout's own choice (`device=None`); any other name is a demand, as in `turnout.load`: "CUDA:1"."""

    @classmethod
    def is_compatible(cls, model: onnx.ModelProto, device: str = "CPU", **options: Any) -> bool:
        """Whether turnout can load the model there."""
        try:
            turnout.load(model, device=_device(device), **options).close()
        except TurnoutError:
            return False
        return True

    @classmethod
    def prepare(cls, model: onnx.ModelProto, device: str = "CPU", **options: Any) -> TurnoutRep:
        """Loads a model. `options`: those of `turnout.load`, and ONNX's tolerances, which are its runner's business."""
        options = {name: value for name, value in options.items() if name not in ("rtol", "atol")}
        return TurnoutRep(turnout.load(model, device=_device(device), **options))

    @classmethod
    def run_model(cls, model: onnx.ModelProto, inputs: Any, device: str = "CPU", **options: Any) -> tuple[Any, ...]:
        """Loads a model and runs it once."""
        return cls.prepare(model, device, **options).run(inputs)

    @classmethod
    def run_node(
        cls,
        node: onnx.NodeProto,
        inputs: Any,
        device: str = "CPU",
        outputs_info: Sequence[tuple[Any, tuple[int, ...]]] | None = None,
        *,
        opset_version: int | None = None,
        **options: Any,
    ) -> tuple[Any, ...]:
        """Runs one node; `outputs_info` says dtype and shape of each output where inference alone would not."""
        names = [name for name in dict.fromkeys(node.input) if name]
        values = inputs if isinstance(inputs, Mapping) else dict(zip(names, _positional(inputs), strict=True))
        made = [name for name in node.output if name]
        outputs = [onnx.ValueInfoProto(name=name) for name in made]
        if outputs_info is not None:
            outputs = [_value_info(name, np.dtype(dtype), shape) for name, (dtype, shape) in zip(made, outputs_info, strict=True)]
        graph = helper.make_graph([node], node.op_type, [_info_of(name, values[name]) for name in names], outputs)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid(node.domain, opset_version or _newest(node.domain))])
        return cls.run_model(model, values, device, **options)

    @classmethod
    def supports_device(cls, device: str) -> bool:
        """Whether turnout has such a device here."""
        wanted = _device(device)
        return wanted is None or any(wanted in (one.name, one.provider) for one in turnout.devices())


def _device(name: str) -> str | None:
    return None if name.upper() == "CPU" else name.lower()


def _newest(domain: str) -> int:
    schemas = onnx.defs.get_all_schemas_with_history()
    return max((one.since_version for one in schemas if one.domain == domain), default=1)


def _info_of(name: str, value: Any) -> onnx.ValueInfoProto:
    if isinstance(value, list):
        inner = _info_of(name, value[0]).type if value else helper.make_tensor_type_proto(onnx.TensorProto.FLOAT, None)
        inner.tensor_type.ClearField("shape")
        return helper.make_value_info(name, helper.make_sequence_type_proto(inner))
    array = np.asarray(value)
    return _value_info(name, array.dtype, array.shape)


def _value_info(name: str, dtype: np.dtype[Any], shape: tuple[int, ...]) -> onnx.ValueInfoProto:
    element = onnx.TensorProto.STRING if dtype.kind in "OUS" else helper.np_dtype_to_tensor_dtype(dtype)
    return helper.make_tensor_value_info(name, element, shape)


is_compatible = TurnoutBackend.is_compatible
prepare = TurnoutBackend.prepare
run_model = TurnoutBackend.run_model
run_node = TurnoutBackend.run_node
supports_device = TurnoutBackend.supports_device
