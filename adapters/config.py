"""What a recipe may say about the model: the checkpoint, how it is pooled, and the base of every method's settings.

Nothing here imports torch, transformers or peft, so that reading and showing a recipe is quick.
"""

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field


def _split(value: object) -> object:
    """Let a flag say `query,value` where a file says a list."""
    return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value


Names = Annotated[tuple[str, ...], BeforeValidator(_split)]
"""Several names; a string is split at its commas."""


def _distinct(names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(sorted(set(names)))


Targets = Annotated[Names, AfterValidator(_distinct)]
"""A set of names: neither order nor repetition tells two recipes apart."""

Pooling = Literal["native", "mean", "cls", "last"]


class Settings(BaseModel):
    """Frozen, refuses unknown keys, and documents its fields by the text below each."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class ModelConfig(Settings):
    """Which pretrained checkpoint is adapted, and how its hidden states become one vector per example."""

    name: str = "minilm"
    """An alias (`minilm`), a local folder, or a Hub id such as `roberta-base`."""

    revision: str | None = None
    """Branch, tag or commit of a Hub id; none means `main`. Refused for a local folder."""

    pooling: Pooling = "native"
    """`native`: as transformers' own sequence classification model of the family does it, the only choice that exports
    to a plain checkpoint; `mean` over the tokens that are not padding; `cls`: the first; `last`: the last of them."""

    dropout: float | None = Field(default=None, ge=0, lt=1)
    """Probability for every dropout of the backbone and the head; none keeps the checkpoint's own."""


class MethodSettings(Settings):
    """Base of every method's settings; a subclass narrows `name` to a literal, which picks it out of the union."""

    name: str
    """The method's name in the table of methods."""
