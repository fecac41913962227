"""Sessions of models that are ready to be opened, which is all that a load needs whose graph was kept."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from turnout_ort.pieces import Chain
from turnout_ort.runtime import onnxruntime
from turnout_ort.values import Tied

__all__ = ["Model", "Options", "open_model", "open_models", "session_of"]

Options = Callable[[], Any]
"""Makes new SessionOptions: weights are added to them, so that each session needs its own."""


@dataclass
class Model:
    """What a session is built from.

    proto: the model's bytes. names: unique node name to position in the graph. weights: those in memory, by name.
    folder: where the files of the other weights lie, None where there are none. files: their names there.
    """

    proto: bytes
    names: dict[str, int]
    weights: dict[str, Tied] = field(default_factory=dict)
    folder: Path | None = None
    files: Collection[str] = ()


def open_models(models: Sequence[tuple[Model, Options]]) -> Any:
    """A session of models that follow one another, all made at once: one here, the others by threads. Raises what ONNX Runtime raises."""
    if len(models) == 1:
        return open_model(*models[0])
    with ThreadPoolExecutor(len(models) - 1) as pool:
        others = pool.map(lambda one: open_model(*one), models[1:])
        return Chain([open_model(*models[0]), *others])


def open_model(model: Model, options: Options) -> Any:
    """An InferenceSession of a model, its weights handed over beside it. Raises what ONNX Runtime raises."""
    settings = options()
    if model.weights:
        settings.add_external_initializers(list(model.weights), [tied.value for tied in model.weights.values()])
    if model.folder is not None:
        settings.add_session_config_entry("session.model_external_initializers_file_folder_path", str(model.folder))
    return session_of(model.proto, settings)


def session_of(source: str | bytes, settings: Any) -> Any:
    """An InferenceSession of a model's file or bytes, on nothing but what the settings name. Raises what ONNX Runtime raises."""
    # without providers in the settings, none means whatever ONNX Runtime prefers
    providers = None if settings.has_providers() else ["CPUExecutionProvider"]
    session = onnxruntime().InferenceSession(source, settings, providers=providers, enable_fallback=0)
    session._model_bytes = None  # it would keep the whole model for a second session that is never made
    return session
