"""The recipe: all that decides what an optimised model is, as a document, and the report that tells what became of it."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

__all__ = ["Layer", "Recipe", "Report"]

Precision = Literal["int4-rtn", "int8"]


class Recipe(BaseModel):
    """How a model is made smaller."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: Literal[1] = 1
    precision: Precision = Field("int4-rtn", description="weights of 4 or 8 bits, each rounded to the nearest (RTN)")
    block: int = Field(32, ge=16, le=256, description="weights under one scale, a power of two")
    keep: tuple[str, ...] = Field((), description="names of nodes that stay as they are; * and ? stand for any letters")
    accuracy_level: Literal[0, 1, 4] = Field(4, description="MatMulNBits: 4 lets the CPU round activations to 8 bits, 1 is float32")

    @field_validator("block")
    @classmethod
    def _power_of_two(cls, value: int) -> int:
        if value & (value - 1):
            raise ValueError("is a power of two: 16, 32, 64, 128 or 256")
        return value

    @property
    def bits(self) -> int:
        """Bits of a weight."""
        return 4 if self.precision == "int4-rtn" else 8


class Layer(BaseModel):
    """One matrix. error: norm of the difference over the norm of the weights. Sizes in bytes."""

    name: str
    shape: tuple[int, int]
    error: float
    before: int
    after: int


class Report(BaseModel):
    """What became of a model. kept: nodes that could have been quantised and were not, each with the reason."""

    source: str
    recipe: Recipe
    layers: list[Layer]
    kept: dict[str, str]

    def __str__(self) -> str:
        before, after = sum(one.before for one in self.layers), sum(one.after for one in self.layers)
        worst = max(self.layers, key=lambda one: one.error)
        return (
            f"{self.source}: {len(self.layers)} layers in {self.recipe.precision}, {before / 1e6:.1f} MB to {after / 1e6:.1f} MB; "
            f"relative error {sum(one.error for one in self.layers) / len(self.layers):.4f} on average, "
            f"{worst.error:.4f} at most ({worst.name}); {len(self.kept)} kept"
        )
