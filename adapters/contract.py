"""What a method is: a row of data, typed settings, and the hooks through which the one loop drives it.

Nothing here imports torch at run time, so that listing methods and reading recipes is quick.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from graft.adapters.config import MethodSettings
from graft.errors import RecipeError

if TYPE_CHECKING:
    from torch import Tensor

    from graft.adapters.checkpoint import Checkpoint
    from graft.adapters.model import AdaptedModel


@dataclass(frozen=True)
class Abilities:
    """What a method can do, for planning and for refusing early.

    Attributes:
        mergeable: Its weights can be folded into the backbone's, leaving no cost at inference.
        quantised_base: It can train on a backbone in 4 or 8 bits.
        families: The architectures that it works on; none means all.
        mutates_base: Attaching changes the backbone's own weights, so switching the adapter off does not bring the
            pretrained model back.
        identity_at_start: Attaching changes no logit: training starts from the pretrained model itself.
        gradient_checkpointing: Activations may be computed twice instead of being kept.
    """

    mergeable: bool
    quantised_base: bool
    families: frozenset[str] | None = None
    mutates_base: bool = False
    identity_at_start: bool = True
    gradient_checkpointing: bool = True


@dataclass(frozen=True)
class AttachContext:
    """What attaching may depend on besides the model and the settings.

    Attributes:
        seed: Of the method's own initial weights; nothing else enters them.
        total_steps: Optimiser steps of the whole run.
        checkpoint: Where the model came from.
    """

    seed: int
    total_steps: int
    checkpoint: Checkpoint


class Attached(Protocol):
    """A method on a model. The loop calls these; none of them enlarges the set that learns."""

    @property
    def learning(self) -> tuple[str, ...]:
        """Names, in `model.named_parameters()`, of everything that may learn, the head included, in that order."""

    def rate(self, name: str) -> float:
        """The factor on the learning rate for one parameter; 1 for all unless the method says otherwise."""

    def decays(self, name: str) -> bool:
        """Whether weight decay applies to one parameter."""

    def prepare(self, batches: Iterable[Any]) -> None:
        """Calibrate on data before the first step, for methods that start from activations or gradients."""

    def penalty(self) -> Tensor | None:
        """A scalar to add to the loss, its weight included, once per optimiser step; none where there is none."""

    def after_update(self, step: int) -> None:
        """Act after the optimiser's step, while the gradients are still there.

        Args:
            step: Optimiser steps done so far; 1 at the first call.
        """

    def settled(self, step: int) -> bool:
        """Whether the weights after so many optimiser steps have the form in which the method ends.

        Those that have not are neither kept as the best nor waited for by early stopping. The last step's have.
        """

    def figures(self) -> dict[str, float]:
        """What the run's record should tell of how the method ended, by name, such as the ranks that it chose."""

    def state(self) -> dict[str, Any]:
        """What an exact resume needs besides the weights: tensors, or values that JSON can hold."""

    def load_state(self, state: dict[str, Any]) -> None:
        """Put back what `state` gave."""


@dataclass(frozen=True)
class Plain:
    """A method without hooks of its own: it attaches, and its parameters learn.

    Attributes:
        learning: Names of all that may learn.
        decaying: Those of them that weight decay pulls on: matrices, not biases, norms and other vectors.
    """

    learning: tuple[str, ...]
    decaying: frozenset[str]

    def rate(self, name: str) -> float:
        """One for every parameter."""
        return 1.0

    def decays(self, name: str) -> bool:
        """Whether the parameter is a matrix."""
        return name in self.decaying

    def prepare(self, batches: Iterable[Any]) -> None:
        """Nothing to calibrate."""

    def penalty(self) -> Tensor | None:
        """No penalty."""
        return None

    def after_update(self, step: int) -> None:
        """Nothing to do."""

    def settled(self, step: int) -> bool:
        """Always."""
        return True

    def figures(self) -> dict[str, float]:
        """Nothing that the settings do not say."""
        return {}

    def state(self) -> dict[str, Any]:
        """No state besides the weights."""
        return {}

    def load_state(self, state: dict[str, Any]) -> None:
        """Nothing to put back."""


def accept(model: AdaptedModel, config: Any) -> None:
    """Refuse no model."""


def apart(config: Any) -> bool:  # noqa: ARG001
    """Keep each adapter on a model of its own."""
    return False


def no_positions(config: Any) -> int:  # noqa: ARG001
    """Leave all positions to the examples."""
    return 0


@dataclass(frozen=True)
class Method:
    """One row of the table of methods.

    Attributes:
        name: What a recipe calls it.
        config: The type of its settings.
        paper: Authors, year and arXiv number.
        version: Raised whenever the same settings begin to give another result; enters the digest.
        abilities: What it can do.
        learning_rate: The default, for AdamW and batches of 32.
        learning_rates: The grid that a search tries, ascending; each method's own range, not one for all.
        attach: Puts the method on a model, in place, and says which parameters may learn; it leaves
            `requires_grad` true for exactly those.
        refuse: Raises `RecipeError` where these settings cannot work on a model; `attach` asks it before it changes
            anything.
        positions: How many of the model's positions these settings take from the examples; `attach` takes them off
            `model.positions`.
        mixes: Whether peft can keep several adapters with such settings on one backbone under names of their own, serve
            each example of a batch by one of them, and combine them into one.
        imports: The module to import before plain peft loads what was saved; none where peft knows the method.
    """

    name: str
    config: type[MethodSettings]
    paper: str
    version: int
    abilities: Abilities
    learning_rate: float
    learning_rates: tuple[float, ...]
    attach: Callable[[AdaptedModel, Any, AttachContext], Attached]
    refuse: Callable[[AdaptedModel, Any], None] = accept
    positions: Callable[[Any], int] = no_positions
    mixes: Callable[[Any], bool] = apart
    imports: str | None = None

    def check(self, model: AdaptedModel, config: Any, *, longest: int, gradient_checkpointing: bool) -> None:
        """Refuse what the method cannot do on a model, before anything is attached.

        Args:
            model: As it was loaded.
            config: The method's settings.
            longest: Tokens of the longest example, special ones included.
            gradient_checkpointing: Whether the recipe asks for it.

        Raises:
            RecipeError: The architecture or the settings do not fit, activations cannot be computed twice, or the
                method leaves too few positions for the examples.
        """
        self.refuse(model, config)
        if gradient_checkpointing and not self.abilities.gradient_checkpointing:
            raise RecipeError(
                f"budget.gradient_checkpointing: {self.name} cannot have its activations computed twice; "
                "switch it off, and lower budget.tokens to save memory"
            )
        taken, known = self.positions(config), model.positions
        if known is not None and longest + taken > known:
            raise RecipeError(
                f"task.max_length: the longest example has {longest} tokens, and this {model.family.name} takes {known}"
                f"{f', of which {self.name} needs {taken}' if taken else ''}; set it to {known - taken} or less"
            )


def release(model: AdaptedModel, own: Iterable[str]) -> Plain:
    """Let a method's own parameters and the head learn, and nothing else.

    Args:
        model: The model with the method on it.
        own: Names of the parameters that the method trains; the head's are added.

    Returns:
        The plain hooks over that set.
    """
    chosen = {*own, *model.head_parameters()}
    learning: list[str] = []
    decaying: set[str] = set()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in chosen)
        if name in chosen:
            learning.append(name)
            if parameter.ndim > 1:
                decaying.add(name)
    return Plain(tuple(learning), frozenset(decaying))
