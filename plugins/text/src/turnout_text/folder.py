"""Folders of exported language models: onnxruntime-genai's (genai_config.json) and Optimum's (config.json and a decoder's ONNX file)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from turnout.errors import InvalidModel
from turnout.formats import Accuracy, Format, Source
from turnout.formats.onnx import OnnxSource

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["ExportFolder", "FolderSource"]

_GENAI = "genai_config.json"
_DECODERS = ("model.onnx", "decoder_model_merged.onnx", "decoder_with_past_model.onnx", "model_quantized.onnx")

# the names that turnout's sessions know: key in genai_config.json -> name; %d stands for the layer
_NAMES = {
    "input_ids": "input_ids",
    "attention_mask": "attention_mask",
    "position_ids": "position_ids",
    "past_sequence_length": "past_sequence_length",
    "total_sequence_length": "total_sequence_length",
    "past_key_names": "past_key_values.%d.key",
    "past_value_names": "past_key_values.%d.value",
    "logits": "logits",
    "present_key_names": "present.%d.key",
    "present_value_names": "present.%d.value",
}


class ExportFolder(Format):
    """A folder with a decoder as ONNX, its tokenizer, and a description of both."""

    name = "onnx-folder"

    def accepts(self, head: bytes, name: str) -> bool:
        return False

    def accepts_folder(self, folder: Path) -> bool:
        return (folder / _GENAI).is_file() or ((folder / "config.json").is_file() and _optimum_decoder(folder) is not None)

    def open(self, file: Path | bytes, *, accuracy: Accuracy = "fast", options: Any = None) -> FolderSource:
        assert isinstance(file, Path)
        return FolderSource(file)


def _optimum_decoder(folder: Path) -> Path | None:
    places = (place / name for place in (folder, folder / "onnx") for name in _DECODERS)
    return next((path for path in places if path.is_file()), None)


class FolderSource(Source):
    """The decoder of a folder. Its cache is declared to be updated in place where every layer's operator can do that."""

    def __init__(self, folder: Path) -> None:
        from turnout_text.language import _json

        self.path = folder
        self.name = folder.name or str(folder)
        config = _json(folder / _GENAI)
        genai = (folder / _GENAI).is_file()
        self.format = "onnxruntime-genai" if genai else "optimum"
        settings = _json(folder / "config.json")
        decoder = _genai_decoder(folder, config) if genai else _optimum_decoder(folder)
        if decoder is None or not decoder.is_file():
            raise InvalidModel(f"{folder} names {decoder.name if decoder else 'no file'} as its decoder, which is not there", hint=_AGAIN)
        self._decoder = OnnxSource(decoder)
        self._metadata: dict[str, Any] = {"decoder": decoder.name}
        length = config.get("model", {}).get("context_length", settings.get("max_position_embeddings"))
        if isinstance(length, int) and length > 0:
            self._metadata["context_length"] = length
        if original := _original(settings):
            self._metadata["original_context_length"] = original
        head = config.get("model", {}).get("decoder", {}).get("head_size") if genai else settings.get("head_dim")
        self._head = head if isinstance(head, int) and head > 0 else None
        self._repaired = False
        if made_for := _made_for(config):
            self._metadata["made_for"] = made_for

    @property
    def metadata(self) -> Mapping[str, Any]:
        """The decoder's file, the length of its context, the provider that it was made for, and the file's own metadata."""
        return {**self._decoder.metadata, **self._metadata}

    def model(self) -> ir.Model:
        model = self._read()
        pasts = [value for value in model.graph.inputs if (value.name or "").startswith("past_key_values.")]
        if self._head is not None:
            _size_heads(pasts, self._head)
        if not _declare_cache(model.graph, pasts) and self.format == "onnxruntime-genai":
            _forget_shapes(model.graph)
            self._repaired = True
        return model

    def _read(self) -> ir.Model:
        try:
            return self._decoder.model()
        except InvalidModel as error:
            if self.format == "onnxruntime-genai" and _LOST_CACHE in error.message:
                raise InvalidModel(f"{self.name}: {error.message}; {_WHY_LOST}", hint=_NOT_LOST) from None
            raise

    def file(self) -> Path | bytes | None:
        return None if self._repaired else self._decoder.file()


_LOST_CACHE = "the output 'present."
_WHY_LOST = "onnxruntime-genai's builder (0.18) leaves the cache out of float32 graphs for cuda and dml, and nobody can run those"
_NOT_LOST = "export it again: -p fp16 or -p int4, or -p fp32 -e cpu, which turnout runs on other devices too"
_AGAIN = "download or export the folder again, with all its files"


def _genai_decoder(folder: Path, config: Mapping[str, Any]) -> Path:
    """The decoder's file. Raises InvalidModel for what is no single decoder of tokens with the usual names."""
    model = config.get("model")
    decoder = model.get("decoder") if isinstance(model, Mapping) else None
    if not isinstance(decoder, Mapping):
        raise InvalidModel(f"{folder / _GENAI} describes no decoder", hint=_AGAIN)
    if decoder.get("pipeline") or model.get("encoder"):  # type: ignore[union-attr]
        kind = model.get("type", "this model")  # type: ignore[union-attr]
        raise InvalidModel(f"{folder} holds several graphs ({kind}), and turnout runs a single decoder", hint="load its files one by one")
    for side in ("inputs", "outputs"):
        names = decoder.get(side) or {}
        if not isinstance(names, Mapping):
            raise InvalidModel(f"{folder / _GENAI}: its decoder's {side} are {names!r:.40}, and names of them are wanted", hint=_AGAIN)
        for key, name in names.items():
            if key in _NAMES and name != _NAMES[key]:
                raise InvalidModel(f"{folder}: its decoder calls {key} {name!r:.60}, and turnout knows {_NAMES[key]!r}", hint=_AGAIN)
    name = decoder.get("filename")
    if not isinstance(name, str) or Path(name).name != name:
        raise InvalidModel(f"{folder / _GENAI} names {name!r:.60} as its decoder's file", hint=_AGAIN)
    return folder / name


def _made_for(config: Mapping[str, Any]) -> str:
    """The provider that onnxruntime-genai would run it on: "" for the CPU."""
    try:
        listed = config["model"]["decoder"]["session_options"]["provider_options"]
        return ", ".join(key for entry in listed for key in entry)
    except (KeyError, TypeError):
        return ""


def _original(settings: Mapping[str, Any]) -> int:
    """Tokens beyond which a model with LongRoPE turns positions by its other factors; 0 for other models."""
    for scaling in (settings.get("rope_scaling"), settings.get("rope_parameters")):
        if isinstance(scaling, Mapping) and "long_factor" in scaling:
            for found in (settings.get(_ORIGINAL), scaling.get(_ORIGINAL)):
                if isinstance(found, int) and found > 0:
                    return found
    return 0


_ORIGINAL = "original_max_position_embeddings"


def _size_heads(pasts: Sequence[ir.Value], head: int) -> None:
    """The builder (0.18) leaves the size of a head in the cache open, and writes it into the config."""
    from turnout.graph import ir

    for value in pasts:
        if value.shape is not None and len(value.shape) == 4 and not isinstance(value.shape[3], int):
            value.shape = ir.Shape([*list(value.shape)[:3], head])


def _forget_shapes(graph: ir.Graph) -> None:
    """Takes the shapes off inner values: where the builder (0.18) repeats heads itself, it notes the run's tokens for those of the cache,
    and ONNX Runtime, which believes it, fails at the second run. The runtime infers them again."""
    outputs = set(graph.outputs)
    for node in graph:
        for value in node.outputs:
            if value not in outputs:
                value.shape = None


def _declare_cache(graph: ir.Graph, pasts: Sequence[ir.Value]) -> bool:
    """Says that the cache is updated in place, if all of it is made by GroupQueryAttention, which takes a shared buffer for that."""
    from turnout.graph import declare_alias

    pairs = []
    for node in graph:
        if node.op_type == "GroupQueryAttention" and node.domain == "com.microsoft" and len(node.outputs) > 2 and len(node.inputs) > 4:
            pairs += [(node.outputs[1], node.inputs[3]), (node.outputs[2], node.inputs[4])]
    outputs = set(graph.outputs)
    if not pasts or {past for _, past in pairs} != set(pasts) or not all(made in outputs for made, _ in pairs):
        return False
    for made, past in pairs:
        declare_alias(made, past)  # type: ignore[arg-type]
    return True
