"""The terms of the objective that a recipe can name: one row of settings each.

This module knows no torch, so that recipes are read quickly; a row's term is built when training starts.
"""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from graft.errors import nearest

if TYPE_CHECKING:
    from graft.recipes.objective import Term


class L2SPConfig(BaseModel):
    """Pull what learns back towards where it started (Li et al. 2018, arXiv:1802.01483)."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    name: Literal["l2sp"] = "l2sp"
    strength: float = Field(default=0.01, ge=0)
    """Weight of the penalty, in units of task loss per squared weight."""

    def build(self) -> "Term":
        """Make the term."""
        from graft.recipes.l2sp import L2SP

        return L2SP(self.strength)


def _weights(value: Any) -> Any:
    """Refuse what is no weights in words of our own, since pydantic's would be those of a union."""
    if isinstance(value, str):
        if value != "balanced":
            raise ValueError(f"{value!r} is unknown{nearest(value, ['balanced'])}; give `balanced` or {_BY_NAME}")
        return value
    if isinstance(value, Mapping):
        return {_label_name(name): _weight(name, weight) for name, weight in value.items()}
    raise ValueError(f"expected `balanced` or {_BY_NAME}, found {value!r}")


def _label_name(name: Any) -> str:
    """Give a label its name back where YAML read it as a number or, for `yes` and `no`, a truth value."""
    return str(name).lower() if isinstance(name, bool) else str(name)


def _weight(name: Any, value: Any) -> float:
    try:
        weight = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        weight = math.nan
    if not (weight > 0 and math.isfinite(weight)):
        raise ValueError(f"the weight of {name!r} must be a finite number above 0, found {value!r}")
    return weight


_BY_NAME = "one weight for each class by name, as in `{positive: 2.0, negative: 1.0}`"


class ClassWeightsConfig(BaseModel):
    """Let rare classes count for more: each example's loss is multiplied by the weight of its class."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    name: Literal["class_weights"] = "class_weights"
    weights: Annotated[Literal["balanced"] | dict[str, float], BeforeValidator(_weights)] = "balanced"
    """`balanced`: training examples / (classes * examples of the class). Or a factor for each class by name."""

    def build(self) -> "Term":
        """Make the term."""
        from graft.recipes.class_weights import ClassWeights

        return ClassWeights(self.weights)


TermConfig = Annotated[L2SPConfig | ClassWeightsConfig, Field(discriminator="name")]
"""Any term that a recipe can name."""
