"""The recipe's `task` section: which task, where its data lies, which of it is used for what.

Nothing heavy is imported here, so that showing or checking a recipe is quick.
"""

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

KindName = Literal["classification", "regression", "causal_lm"]


class TaskConfig(BaseModel):
    """A task as a recipe states it; `graft.eval.resolution.resolve` turns it into examples."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    name: str = "custom"
    """A registered task, such as mrpc; any other name needs `text`, and reads columns of the user's own file."""

    data: Path | None = None
    """Folder or file with the examples; none means the task's Hub source. A location: its content is what counts."""

    text: tuple[str, ...] | None = None
    """One text column, or two for pairs ("a,b"); none means the task's own."""

    label: str | None = None
    """Column that holds the label; none means the task's own."""

    kind: KindName | None = None
    """What is predicted; none means the task's own, or what the labels suggest: fractions are a regression."""

    metrics: tuple[str, ...] | None = None
    """Metrics to report, the first being the one that selects; none means the task's own."""

    train_size: int | None = Field(default=None, ge=2)
    """Number of labelled examples in all, holdout included: a stratified subset, smaller ones inside larger ones."""

    holdout: float = Field(default=0.1, ge=0, lt=1)
    """Fraction of the training groups that is kept apart to choose by; 0 trains on everything, as is usual for a final
    run once all choices are made, and keeps the last weights."""

    group: tuple[str, ...] | None = None
    """Columns ("a" or "a,b") whose equal values never fall on both sides of a split; none means the task's own, or
    every text column."""

    split_seed: int = 0
    """Seed of the subset and of the holdout."""

    max_length: int = Field(default=128, ge=4)
    """Tokens per example at most, special tokens included; the block length for causal_lm."""

    @field_validator("text", "metrics", "group", mode="before")
    @classmethod
    def _split_commas(cls, value: Any) -> Any:
        """Read "a,b" as two names, as flags are written."""
        if isinstance(value, str):
            return tuple(part.strip() for part in value.split(",") if part.strip())
        return value

    @field_validator("text")
    @classmethod
    def _one_or_two(cls, value: tuple[str, ...] | None) -> tuple[str, ...] | None:
        """Refuse what no encoder input has room for."""
        if value is not None and len(value) not in (1, 2):
            raise ValueError(f"expected one text column or two, got {len(value)}")
        return value
