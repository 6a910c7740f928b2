"""The state of one run: everything that a step reads or changes."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from graft.adapters.methods import Attached, Plain
from graft.adapters.model import AdaptedModel
from graft.errors import TrainingError
from graft.eval.encoding import Encoded
from graft.eval.kinds import Kind
from graft.recipes import hardware, heap
from graft.recipes.batching import Rows, epoch_plan, rounded, steps_per_epoch
from graft.recipes.dropout import DropoutStream
from graft.recipes.objective import Objective, Term
from graft.recipes.optimisation import Learner
from graft.recipes.recipe import Recipe
from graft.recipes.row_gradients import RowGradients

if TYPE_CHECKING:
    from graft.recipes.frozen import Frozen
    from graft.recipes.sweep import Sweep


@dataclass(frozen=True)
class Evaluation:
    """A score of the holdout.

    Attributes:
        step: Optimiser steps done before it.
        scores: Metric → value.
    """

    step: int
    scores: dict[str, float]


@dataclass(frozen=True)
class Unread:
    """What a step said that the host has not read yet.

    Attributes:
        figures: Loss and norm of the gradient, (2,) on the processor, perhaps still on their way there.
        there: Tells when they have come; none where they have.
        number: Of the step.
        examples: Ids (B,) and task losses (B,) of each micro-batch.
    """

    figures: torch.Tensor
    there: "torch.Event | None"
    number: int
    examples: list[tuple[torch.Tensor, torch.Tensor]]

    @classmethod
    def of(cls, figures: torch.Tensor, number: int, examples: list[tuple[torch.Tensor, torch.Tensor]]) -> Self:
        """Send for a step's figures, where that takes waiting; arguments are as the attributes, on the run's device."""
        if figures.device.type == "cpu" or not hardware.queues(figures.device):
            return cls(figures.cpu(), None, number, examples)
        sent = figures.to("cpu", non_blocking=True)
        there = torch.Event(figures.device)
        there.record()
        return cls(sent, there, number, examples)

    def read(self) -> tuple[float, float]:
        """Wait for the loss and the norm."""
        if self.there is not None:
            self.there.synchronize()
        loss, norm = self.figures.tolist()
        return loss, norm


@dataclass
class RunState:
    """One run.

    Attributes:
        recipe: Resolved.
        model: The model, adapters attached.
        attached: What the method said about it.
        objective: The terms.
        learners: All that may learn.
        optimizer: Over the learners.
        kind: The task's kind.
        train: The tokenised training examples.
        draws: Where dropout masks come from.
        total_steps: Optimiser steps of the whole run.
        tokens: Most tokens in a micro-batch; halved when memory runs out.
        step: Optimiser steps done.
        losses: The objective's value at every step done, but for those in `unread`.
        evaluations: Of the holdout, in order.
        best: The best evaluation's weights; none before the first.
        best_step: Where they were.
        examples_seen: Training examples in the steps done.
        seconds: Spent in training steps, over all resumptions.
        stopped: Early stopping said so.
        largest: Tokens of the largest step that this process has taken, padding counted.
        shortened: In training, the last layer is computed for the first token alone.
        frozen: Knows what lies below all that learns; none to run the whole model always.
        failed: Why the run cannot go on, where other runs do; none while it can.
        sweep: The runs that this one takes its steps with; none to take them by itself.
        unread: Steps whose loss the host has not read yet, in their order; only on devices that queue their work.
        row_gradients: The gradients of large tables of embeddings.
    """

    recipe: Recipe
    model: AdaptedModel
    attached: Attached
    objective: Objective
    learners: tuple[Learner, ...]
    optimizer: torch.optim.Optimizer
    kind: Kind
    train: Encoded
    draws: DropoutStream
    total_steps: int
    tokens: int
    step: int = 0
    losses: list[float] = field(default_factory=list)
    evaluations: list[Evaluation] = field(default_factory=list)
    best: dict[str, torch.Tensor] | None = None
    best_step: int | None = None
    examples_seen: int = 0
    seconds: float = 0.0
    stopped: bool = False
    largest: int = 0
    shortened: bool = False
    frozen: "Frozen | None" = None
    failed: TrainingError | None = None
    sweep: "Sweep | None" = None
    unread: list[Unread] = field(default_factory=list)
    row_gradients: RowGradients = field(default_factory=RowGradients)
    _plan: tuple[int, list[Rows]] | None = None
    _learning_now: set[int] | None = None
    _rounded: dict[str, Rows] = field(default_factory=dict)

    @property
    def done(self) -> bool:
        """Whether no step is left, or none can be taken."""
        return self.failed is not None or self.stopped or self.step >= self.total_steps

    @property
    def progress(self) -> float:
        """Share of the run that is done."""
        return self.step / self.total_steps

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.learners[0].weight.device

    @cached_property
    def stages(self) -> tuple[tuple[nn.Module, ...], ...]:
        """The modules of each of the model's stages, in forward order."""
        return tuple(tuple(stage.modules) for stage in self.model.stages())

    @property
    def epoch_steps(self) -> int:
        """Optimiser steps of one pass over the training examples."""
        return steps_per_epoch(len(self.train.lengths), self.recipe.schedule.examples)

    @cached_property
    def rounds_lengths(self) -> bool:
        """Whether the rows of a step are made as long as those of others, so that what is compiled serves again."""
        speed = self.recipe.speed
        return speed.lengths == "rounded" and hardware.compiles_lengths(self.device, speed.precision)

    def lengths_of(self, encoded: Encoded) -> Rows:
        """Tell to which length, while training, each example is padded when it is the longest of its batch, (N,)."""
        if not self.rounds_lengths:
            return encoded.lengths
        if encoded.fingerprint not in self._rounded:
            self._rounded[encoded.fingerprint] = rounded(encoded.lengths)
        return self._rounded[encoded.fingerprint]

    def length_of(self, encoded: Encoded, rows: Rows) -> int:
        """Tell to which length some examples are padded together while training."""
        return int(self.lengths_of(encoded)[rows].max())

    @cached_property
    def acts_after_updates(self) -> bool:
        """Whether the method or a term does anything once the optimiser has stepped, for which it must have stepped."""
        terms = any(type(term).after_update is not Term.after_update for term in self.objective.terms)
        return terms or not isinstance(self.attached, Plain)

    def rows(self) -> Rows:
        """Look up the examples of the coming step in the epoch's plan."""
        epoch, position = divmod(self.step, self.epoch_steps)
        if self._plan is None or self._plan[0] != epoch:
            schedule = self.recipe.schedule
            plan = epoch_plan(
                self.train.lengths,
                seed=self.recipe.seed,
                epoch=epoch,
                examples=schedule.examples,
                buckets=self.recipe.speed.buckets,
            )
            self._plan = (epoch, plan)
        return self._plan[1][position]

    @cached_property
    def learning_stages(self) -> tuple[int, ...]:
        """Numbers of the stages of which something may learn, rising; a strategy has no use for the others."""
        return tuple(sorted({learner.stage for learner in self.learners}))

    def rates(self) -> dict[int, float]:
        """Ask the strategy for the rate, at the coming step, of each stage of which something may learn."""
        return self.rates_at(self.step)

    def rates_at(self, step: int) -> dict[int, float]:
        """As `rates`, at another step."""
        asked = self.recipe.strategy.rates(step, self.total_steps, len(self.learning_stages))
        return dict(zip(self.learning_stages, asked, strict=True))

    @cached_property
    def lowest_by_step(self) -> NDArray[np.int64]:
        """For each step of the run, the lowest stage of which anything has learned before it or learns in it."""
        learning = (self.rates_at(step).items() for step in range(self.total_steps))
        lowest = [min(stage for stage, rate in rates if rate > 0) for rates in learning]
        return np.minimum.accumulate(np.array(lowest, dtype=np.int64))

    @property
    def lowest(self) -> int:
        """Number of the lowest stage of which anything has learned so far, or is to learn in the coming step."""
        return int(self.lowest_by_step[min(self.step, self.total_steps - 1)])

    def enter_step(self) -> None:
        """Let learn what the strategy names, and run what lies below it in evaluation mode.

        Modules below the first one that learns compute the same function at every step, which `frozen` makes use of;
        they never drop anything, whether it does or not.
        """
        learning = {stage for stage, rate in self.rates().items() if rate > 0}
        if learning == self._learning_now and self.model.training:
            return
        for learner in self.learners:
            learner.weight.requires_grad_(learner.stage in learning)
        self.model.train()
        self.objective.modules.train()
        for modules in self.stages[: min(learning)]:
            for module in modules:
                module.eval()
        self._learning_now = learning

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Switch to evaluation mode; the next step switches back."""
        self.model.eval()
        heap.give_back()
        with torch.inference_mode():
            yield
        heap.give_back()

    def make_room(self, rows: Rows) -> None:
        """Before a step that is larger than all before it, give back the pieces of memory that those left."""
        tokens = len(rows) * self.length_of(self.train, rows)
        if tokens > self.largest:
            heap.give_back()
            self.largest = tokens

    def learned(self) -> dict[str, torch.Tensor]:
        """Copy what learns, for keeping the best weights."""
        return {learner.name: learner.weight.detach().clone() for learner in self.learners}

    def load_learned(self, weights: dict[str, torch.Tensor]) -> None:
        """Put back what `learned` gave."""
        with torch.no_grad():
            for learner in self.learners:
                learner.weight.copy_(weights[learner.name])
