"""Which part of the learning set learns at a step, and at which rate.

The method fixes the largest set of parameters that may learn; a strategy only ever narrows it. It is a pure function of
the step, so that resume and several processes need nothing from it. Stages are those of the model's, in forward
order (embeddings, layers, head), of which the method lets something learn.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field


class _Strategy(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class Constant(_Strategy):
    """Everything that may learn learns, at one rate."""

    name: Literal["constant"] = "constant"

    def rates(self, step: int, total_steps: int, stages: int) -> tuple[float, ...]:
        """One for every stage."""
        return (1.0,) * stages


class GradualUnfreezing(_Strategy):
    """Let one more stage learn at a time, from the head down (Howard and Ruder 2018, arXiv:1801.06146)."""

    name: Literal["gradual_unfreezing"] = "gradual_unfreezing"
    share: float = Field(default=0.5, gt=0, le=1)
    """Share of all steps after which everything learns."""

    def rates(self, step: int, total_steps: int, stages: int) -> tuple[float, ...]:
        """One for the stages that are thawed at this step, zero below them."""
        thawed = 1 + int(step * (stages - 1) / max(1.0, self.share * total_steps))
        return tuple(1.0 if stages - stage <= thawed else 0.0 for stage in range(stages))


class LayerwiseDecay(_Strategy):
    """Lower layers learn more slowly (Howard and Ruder 2018, arXiv:1801.06146, section 3.1)."""

    name: Literal["layerwise_decay"] = "layerwise_decay"
    decay: float = Field(default=0.9, gt=0, le=1)
    """Ratio of a stage's rate to that of the stage above it. ULMFiT used 1/2.6; BERT-like encoders use about 0.9."""

    def rates(self, step: int, total_steps: int, stages: int) -> tuple[float, ...]:
        """One for the head, falling geometrically below it."""
        return tuple(self.decay ** (stages - 1 - stage) for stage in range(stages))


class ProbeThenFineTune(_Strategy):
    """The head alone first, then everything: LP-FT (Kumar et al. 2022, arXiv:2202.10054)."""

    name: Literal["probe_then_fine_tune"] = "probe_then_fine_tune"
    share: float = Field(default=0.3, ge=0, le=1)
    """Share of all steps in which the head learns alone."""

    def rates(self, step: int, total_steps: int, stages: int) -> tuple[float, ...]:
        """One for the head, and for the rest once its share of the steps is over."""
        below = 1.0 if step >= self.share * total_steps else 0.0
        return (*((below,) * (stages - 1)), 1.0)


StrategyConfig = Annotated[
    Constant | GradualUnfreezing | LayerwiseDecay | ProbeThenFineTune, Field(discriminator="name")
]
"""Any strategy that a recipe can name."""
