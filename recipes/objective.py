"""The objective: the task's loss, one value per example, and any number of terms on top.

A term may weigh examples, add a loss per example, add a loss over data of its own, or add one loss a step. It may bring
modules that learn with the model and a state that is saved with it. Terms know neither each other nor the method.
"""

from abc import ABC
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from graft.adapters.model import AdaptedModel, Outputs
from graft.errors import RecipeError
from graft.eval.encoding import Batch, Encoded
from graft.eval.kinds import Kind
from graft.eval.splits import Labels
from graft.recipes.reference import FrozenReference


@dataclass(frozen=True)
class DataStream:
    """Data of a term's own, drawn beside the task's: unlabelled target text, a Fisher set, earlier tasks.

    Its examples at a step are a pure function of (seed, name, step): the resume position is the step itself.

    Attributes:
        name: Unique among the streams of an objective.
        encoded: The tokenised examples.
        kind: How they are collated.
        examples: Examples per optimiser step, over all processes.
    """

    name: str
    encoded: Encoded
    kind: Kind
    examples: int


@dataclass(frozen=True)
class TermSetup:
    """What a term may look at when it is set up.

    Attributes:
        model: The model, adapters attached.
        reference: The frozen reference, if the term asked for one.
        seed: A seed of the term's own, for its modules.
        total_steps: Optimiser steps of the whole run.
        labels: Of the training examples, (N,): int64 class numbers or float32 scores; none for plain text.
        label_names: The classes in the order of their numbers; empty where the task has none.
    """

    model: AdaptedModel
    reference: FrozenReference | None
    seed: int
    total_steps: int
    labels: Labels | None = None
    label_names: tuple[str, ...] = ()


@dataclass(frozen=True)
class BatchContext:
    """One micro-batch, after its forward pass.

    Attributes:
        batch: The examples, B of them.
        outputs: What the model said, in fp32 whatever the precision of the forward pass.
        losses: The task's loss of each example, summed over its units, (B,); none on a term's own stream.
        step: The optimiser step, counted from 0.
        progress: Share of the run that is done, in [0, 1).
    """

    batch: Batch
    outputs: Outputs
    losses: Tensor | None
    step: int
    progress: float


@dataclass(frozen=True)
class StepContext:
    """One optimiser step, for losses that look at weights instead of examples.

    Attributes:
        model: The model.
        reference: The frozen reference, if the term asked for one.
        step: The optimiser step, counted from 0.
        progress: Share of the run that is done, in [0, 1).
    """

    model: AdaptedModel
    reference: FrozenReference | None
    step: int
    progress: float


@dataclass(frozen=True)
class Contribution:
    """What a term makes of a micro-batch.

    Attributes:
        weights: Factors of the task's losses, (B,); none leaves them alone. Factors of several terms multiply.
        losses: Losses to add, one per example, (B,); averaged over the examples of the step.
    """

    weights: Tensor | None = None
    losses: Tensor | None = None


class Term(ABC):
    """An addition to the task's loss. Every part is optional; a term overrides what it uses."""

    name: str
    needs: frozenset[str] = frozenset()
    """Outputs beyond features and logits that `on_batch` and `on_stream` read: `"hidden"`."""
    wants_reference: bool = False
    """Whether `TermSetup` and `StepContext` must carry a frozen reference."""

    def identity(self) -> dict[str, Any]:
        """Name everything about the term that changes results, as JSON types: it enters the run's digest.

        Raises:
            NotImplementedError: The term was handed over as an object and does not say what it is.
        """
        raise NotImplementedError(f"{type(self).__name__} must say what it is: override identity()")

    def heads(self) -> Mapping[str, int]:
        """Name the heads of the term's own, with their number of outputs.

        They are on the model, as `model.heads[name]`, before the method attaches: they learn with the task's head, are
        saved with it, and count as head.
        """
        return {}

    def setup(self, setup: TermSetup) -> nn.Module | None:
        """Make the modules of the term's own; they learn with the model and are saved with it.

        The global generator is seeded with `setup.seed` around this call.
        """
        return None

    def streams(self) -> tuple[DataStream, ...]:
        """Name the term's own data."""
        return ()

    def on_batch(self, context: BatchContext) -> Contribution:
        """Weigh or add to the losses of a micro-batch of the task's examples."""
        return Contribution()

    def on_stream(self, name: str, context: BatchContext) -> Contribution:
        """Give the losses of a micro-batch of the term's own data."""
        return Contribution()

    def loss(self, step: StepContext) -> Tensor | None:
        """Give a loss of the weights, a scalar, once a step."""
        return None

    def after_update(self, step: StepContext) -> None:
        """Update the term's state when the optimiser has stepped."""

    def state(self) -> dict[str, Tensor]:
        """Hand out the state that a resumed run must have."""
        return {}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Take the state back."""


def check_names(terms: Sequence[Term]) -> None:
    """Refuse terms, heads or streams whose names would fall together: states, modules and draws are kept by name.

    Raises:
        RecipeError: A name is used twice, or is one of graft's own.
    """
    for kind, names, taken in (
        ("term", [term.name for term in terms], {"method"}),
        ("head", [name for term in terms for name in term.heads()], {"default"}),
        ("stream", [stream.name for term in terms for stream in term.streams()], {"train"}),
    ):
        for name in names:
            if names.count(name) > 1 or name in taken:
                why = "is graft's own" if name in taken else "is used more than once"
                raise RecipeError(f"objective.terms: the {kind} name {name!r} {why}; give each its own name")


@dataclass
class Objective:
    """The terms of one run, with their modules.

    Attributes:
        terms: In the recipe's order.
        modules: Each term's own module, by the term's name.
        reference: Shared by the terms that want it.
    """

    terms: tuple[Term, ...] = ()
    modules: nn.ModuleDict = field(default_factory=nn.ModuleDict)
    reference: FrozenReference | None = None

    @property
    def needs(self) -> frozenset[str]:
        """The outputs that some term reads."""
        return frozenset().union(*(term.needs for term in self.terms))

    @property
    def streams(self) -> tuple[tuple[Term, DataStream], ...]:
        """All terms' own data."""
        return tuple((term, stream) for term in self.terms for stream in term.streams())

    def batch_loss(self, context: BatchContext, *, units: float, examples: int) -> Tensor:
        """Add up a micro-batch's share of the step's loss.

        Args:
            context: The micro-batch.
            units: Units of the task's loss in the whole step, over all processes.
            examples: Examples in the whole step, over all processes.

        Returns:
            A scalar; summed over the step's micro-batches it is the step's loss.
        """
        assert context.losses is not None
        losses, added = context.losses, None
        for term in self.terms:
            contribution = term.on_batch(context)
            if contribution.weights is not None:
                losses = losses * contribution.weights
            if contribution.losses is not None:
                added = contribution.losses.sum() + (0.0 if added is None else added)
        total = losses.sum() / units
        return total if added is None else total + added / examples

    def step_loss(self, context: StepContext) -> Tensor | None:
        """Add up the terms' losses of the weights; none if there are none."""
        losses = [loss for term in self.terms if (loss := term.loss(context)) is not None]
        return sum(losses[1:], losses[0]) if losses else None
