"""Runs whose commands DirectML records once and replays: everything that they read and write stays in one place on the adapter."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np

from turnout_directml.resident import PLACE
from turnout_ort.failures import input_error, run_error
from turnout_ort.runtime import onnxruntime
from turnout_ort.session import PlainSession
from turnout_ort.values import Port

__all__ = ["Captured", "captured"]

log = logging.getLogger("turnout")


def captured(session: Any, inputs: Sequence[Port], outputs: Sequence[Port], keep: Any) -> Captured | None:
    """The session as one that is replayed; None where an output's shape or type is not known beforehand, so that it has no fixed place."""
    shapes = [_shape(meta) for meta in (*session.get_inputs(), *session.get_outputs())]
    plain = all(port.native and port.dtype is not None for port in (*inputs, *outputs))
    if not plain or None in shapes:
        log.info("graph_capture: the partition has an output whose shape is known only when it has run, and is not recorded")
        return None
    return Captured(session, inputs, outputs, keep)


def _shape(meta: Any) -> list[int] | None:
    """Of an input or output of a session; None where a dimension is unknown or zero."""
    return list(meta.shape) if all(isinstance(dim, int) and dim > 0 for dim in meta.shape) else None


class Captured(PlainSession):
    """A session over fixed buffers on adapter 0. One thread at a time may run it: the adapter's lock sees to that."""

    def __init__(self, session: Any, inputs: Sequence[Port], outputs: Sequence[Port], keep: Any) -> None:
        super().__init__(session, inputs, outputs, keep)
        types: dict[str, Any] = {port.name: port.dtype for port in (*inputs, *outputs)}

        def buffer(meta: Any) -> Any:
            return onnxruntime().OrtValue.ortvalue_from_shape_and_type(_shape(meta), types[meta.name].type, *PLACE)

        self._binding = session.io_binding()
        self._read = {meta.name: buffer(meta) for meta in session.get_inputs()}
        self._written = {meta.name: buffer(meta) for meta in session.get_outputs()}
        for name, value in self._read.items():
            self._binding.bind_ortvalue_input(name, value)
        for name, value in self._written.items():
            self._binding.bind_ortvalue_output(name, value)

    def run(self, values: Sequence[Any], out: Sequence[Any] | None = None) -> Sequence[Any]:
        if out is not None:
            return self._run_and_copy(values, out)
        wrong = input_error(self.inputs, values)
        if wrong is not None:
            raise wrong
        try:
            for port, value in zip(self.inputs, values, strict=True):
                if port.name in self._read:
                    self._read[port.name].update_inplace(np.asarray(port.feed(value), order="C"))
            self._session.run_with_iobinding(self._binding)
            return [self._written[port.name].numpy() for port in self.outputs]
        except Exception as error:
            raise run_error(error, self.inputs, values) from error

    def close(self) -> None:
        del self._binding, self._read, self._written
        super().close()
