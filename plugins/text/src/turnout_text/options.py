"""What `generate` and `chat` can be asked for."""

from __future__ import annotations

from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic_core import PydanticCustomError

from turnout.errors import InvalidInput

__all__ = ["Generation", "Sampling", "checked"]


def _as_strings(value: Any) -> Any:
    return (value,) if isinstance(value, str) else () if value is None else value


def _for_the_template(values: dict[str, Any]) -> dict[str, Any]:
    taken = next((name for name in ("messages", "tools", "add_generation_prompt", "answer") if name in values), None)
    if taken is not None:
        raise PydanticCustomError("taken", f"{taken!r} is given by turnout")
    return values


class Sampling(BaseModel):
    """How the next token is chosen."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    temperature: float = Field(default=0.0, ge=0, allow_inf_nan=False, description="0 takes the likeliest token; 1 draws as the model says")
    top_k: int = Field(default=0, ge=0, description="draw from the so many likeliest; 0: from all")
    top_p: float = Field(default=1.0, gt=0, le=1, description="draw from the likeliest that together are so likely")
    min_p: float = Field(default=0.0, ge=0, lt=1, description="leave out what is less likely than this share of the likeliest")
    repetition_penalty: float = Field(default=1.0, ge=0.01, le=100, description="above 1: tokens seen before are less likely")
    seed: int | None = Field(default=None, ge=0, description="the same seed draws the same tokens; None: another each time")


class Generation(Sampling):
    """One generation."""

    max_tokens: int | None = Field(default=512, ge=1, description="tokens to make at most; None: as many as fit in the context")
    stop: Annotated[tuple[Annotated[str, Field(min_length=1)], ...], BeforeValidator(_as_strings)] = Field(
        default=(), description="texts that end the generation; they are not part of the result"
    )
    logprobs: int | None = Field(default=None, ge=0, description="log probability of each token, and of so many of the likeliest instead")
    raw: bool = Field(default=False, description="continue the prompt as it stands, without the chat template")
    tools: list[Any] | None = Field(default=None, description="handed to the chat template")
    template: Annotated[dict[str, Any], AfterValidator(_for_the_template)] = Field(
        default_factory=dict, description="further values for the chat template (enable_thinking ...)"
    )


M = TypeVar("M", bound=BaseModel)


def checked(kind: type[M], given: dict[str, Any], what: str) -> M:
    """The options as their model. Raises InvalidInput for what is unknown or out of range."""
    try:
        return kind.model_validate(given)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the options"
        said = f"there is no option {where!r}" if first["type"] == "extra_forbidden" else f"{where}: {first['msg']}"
        raise InvalidInput(f"{what}: {said}", hint=f"the options are: {', '.join(kind.model_fields)}") from None
