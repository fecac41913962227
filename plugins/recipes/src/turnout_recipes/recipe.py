"""The recipe: all that decides what an optimised model is, as a document, and the report that tells what became of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from turnout.errors import InvalidInput

if TYPE_CHECKING:
    from turnout.device import Device

__all__ = ["PRECISIONS", "TARGETS", "Layer", "Quality", "Recipe", "Report", "automatic", "recipe_for"]

Target = Literal["cpu", "cuda", "directml"]
Precision = Literal["int4-rtn", "int4-awq", "int8", "fp16"]
TARGETS: tuple[Target, ...] = ("cpu", "cuda", "directml")
PRECISIONS: tuple[Precision, ...] = ("int4-rtn", "int4-awq", "int8", "fp16")


class Recipe(BaseModel):
    """How a model is made smaller."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: Literal[1] = 1
    source: str = Field("", description="the model, where the recipe is for one: a file or folder, or empty")
    target: Target = Field("cpu", description="the family of devices it is made for; the other fields' defaults follow from it")
    precision: Precision = Field("int4-rtn", description="of the weights of products: 4 or 8 bits, or halves")
    activations: Literal["float32", "float16"] = Field("float32", description="what everything else computes in")
    block: int = Field(32, ge=16, le=256, description="weights under one scale, a power of two")
    symmetric: bool = Field(False, description="the zero point is the middle of the range, and not one for each block")
    accuracy_level: Literal[0, 1, 2, 3, 4] = Field(4, description="MatMulNBits: 4 lets the CPU round activations to 8 bits, 1 is float32")
    keep: tuple[str, ...] = Field((), description="names of nodes whose weights stay as they are; * and ? stand for any letters")
    float32: tuple[str, ...] = Field((), description="names of nodes that compute in float32 where the activations are float16")
    more_bits: float = Field(0.0, ge=0, le=1, description="the share of the weights that get 8 bits and not 4: where the error is largest")
    clip: bool = Field(True, description="int4-awq: whether ranges are also made narrower where that helps")
    compensate: bool = Field(True, description="int4-awq: whether what a weight loses is made up for by those behind it, as GPTQ does")
    calibration: str = Field("", description="int4-awq: a text, or .npz of inputs; empty: the help texts that come with Python")
    evaluation: str = Field("", description="the text whose perplexity is reported; empty: other help texts of Python's")
    calibration_tokens: int = Field(2048, ge=16, description="tokens of the calibration text that are run")
    evaluation_tokens: int = Field(1024, ge=0, description="tokens of the evaluation text that are run; 0: no perplexity")

    @field_validator("block")
    @classmethod
    def _power_of_two(cls, value: int) -> int:
        if value & (value - 1):
            raise ValueError("is a power of two: 16, 32, 64, 128 or 256")
        return value

    @property
    def bits(self) -> int:
        """Bits of a weight."""
        return {"int8": 8, "fp16": 16}.get(self.precision, 4)

    @property
    def calibrated(self) -> bool:
        """Whether it wants to see activations."""
        return self.precision == "int4-awq"


_DEFAULTS: dict[Target, dict[str, Any]] = {
    "cpu": {"precision": "int4-rtn", "activations": "float32", "block": 32, "accuracy_level": 4},
    "cuda": {"precision": "fp16", "activations": "float16", "block": 32, "accuracy_level": 0},
    "directml": {"precision": "int4-awq", "activations": "float16", "block": 128, "accuracy_level": 0},
}


def recipe_for(target: Target, **changes: Any) -> Recipe:
    """The recipe for a family of devices, with changes. Raises pydantic's ValidationError."""
    return Recipe.model_validate({"target": target, **_DEFAULTS[target], **changes})


def automatic(devices: Sequence[Device], parameters: int, **changes: Any) -> tuple[Recipe, str]:
    """The recipe for the best of the devices, and why. parameters: how many numbers the model has."""
    device = next((one for one in devices if one.provider in TARGETS), None)
    if device is None:
        raise InvalidInput("no device here has a recipe", hint=f"recipes are for {', '.join(TARGETS)}; choose one with --for")
    target: Target = next(one for one in TARGETS if one == device.provider)
    halves = 2.4 * parameters  # bytes, with room for a cache and what lies between layers
    size = f"about {halves / 1e9:.1f} GB in halves"
    if target != "cuda":
        why = f"{device.name} is the best device here, and {_DEFAULTS[target]['precision']} is what it runs fastest"
    elif device.memory is None or halves <= device.memory:
        why = f"{device.name} is the best device here, and the model fits: {size}"
    else:
        changes = {"precision": "int4-rtn", **changes}
        why = f"{device.name} is the best device here, and its {device.memory / 1e9:.1f} GB are too few: {size}"
    return recipe_for(target, **changes), f"{why} ({device.description})" if device.description else why


class Layer(BaseModel):
    """One matrix.

    error: norm of the difference over the norm of the weights. output_error: the same of what comes out for the calibration text, None
    without one. exponent: of the scales that AWQ found; 0 for none. scales_in: where they went. Sizes in bytes.
    """

    name: str
    shape: tuple[int, int]
    bits: int
    block: int
    error: float
    output_error: float | None = None
    exponent: float = 0.0
    scales_in: str = ""
    before: int
    after: int


class Quality(BaseModel):
    """Perplexity of the evaluation text.

    divergence: of what is predicted for a token from what was predicted before (Kullback and Leibler), on average: unlike perplexity it is
    never better by luck. agreement: on which share of the tokens the likeliest next token is the same.
    """

    tokens: int
    before: float
    after: float
    divergence: float
    agreement: float

    def __str__(self) -> str:
        return (
            f"perplexity {self.before:.3f} before, {self.after:.3f} after ({self.after / self.before - 1:+.2%}); "
            f"divergence {self.divergence:.4f}; "
            f"the likeliest token is the same for {self.agreement:.1%} of {self.tokens}"
        )


class Report(BaseModel):
    """What became of a model.

    kept: nodes that could have been quantised and were not, each with the reason. float32: nodes that stayed in float32, with the reason.
    quality: None where there is no text to measure it on. peak_memory: bytes, of the whole process.
    """

    source: str
    recipe: Recipe
    layers: list[Layer]
    kept: dict[str, str]
    float32: dict[str, str] = {}
    quality: Quality | None = None
    seconds: float = 0.0
    peak_memory: int = 0

    def __str__(self) -> str:
        lines = [f"{self.source}: {self.recipe.precision} for {self.recipe.target}", *self._layers()]
        if self.kept:
            lines.append(f"{len(self.kept)} kept as they were")
        if self.quality is not None:
            lines.append(str(self.quality))
        return "; ".join(lines)

    def _layers(self) -> list[str]:
        if not self.layers:
            return []
        before, after = sum(one.before for one in self.layers), sum(one.after for one in self.layers)
        worst = max(self.layers, key=lambda one: one.error)
        return [
            f"{len(self.layers)} layers, {before / 1e6:.1f} MB to {after / 1e6:.1f} MB",
            f"relative error {sum(one.error for one in self.layers) / len(self.layers):.4f} on average, "
            f"{worst.error:.4f} at most ({worst.name})",
        ]
