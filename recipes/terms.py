"""The terms of the objective that a recipe can name: one row of settings each.

This module knows no torch, so that recipes are read quickly; a row's term is built when training starts.
"""

from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict, Field

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


TermConfig = L2SPConfig
"""Any term that a recipe can name; a discriminated union as soon as there are two."""
