"""Class weights: rare classes count for more, so that a model cannot do well by leaving them out.

`balanced` is scikit-learn's `class_weight="balanced"`, after King and Zeng (2001, "Logistic regression in rare events
data", Political Analysis 9(2)).
"""

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from graft.errors import RecipeError, nearest
from graft.eval.wording import listed
from graft.recipes.objective import BatchContext, Contribution, Term, TermSetup

_WHERE = "objective.terms: class_weights"


class ClassWeights(Term):
    """Multiplies each example's loss by the weight of its class.

    The weighted losses are divided by the number of examples of the step, as the others are, and not by the sum of
    their weights: a step's examples then count the same whichever others they are drawn with. Balanced weights have a
    mean of 1 over the training split, so the loss keeps its size; over the whole split it is what
    `torch.nn.CrossEntropyLoss(weight=...)` gives.
    """

    name = "class_weights"

    def __init__(self, weights: Literal["balanced"] | Mapping[str, float] = "balanced") -> None:
        """Make the term.

        Args:
            weights: `balanced` for examples / (classes * examples of the class), counted in the training split; or a
                factor above 0 for each class, by its label's name.
        """
        self.weights: Literal["balanced"] | dict[str, float] = weights if weights == "balanced" else dict(weights)
        self._factors = torch.ones(0)  # (classes,), once the term is set up

    def identity(self) -> dict[str, Any]:
        """Name the weights; what `balanced` comes to follows from the data."""
        return {"name": self.name, "weights": self.weights}

    def setup(self, setup: TermSetup) -> nn.Module | None:
        """Look the classes up.

        Raises:
            RecipeError: The task has no classes, or the weights name one that it has not or leave one out.
        """
        if setup.labels is None or not setup.label_names:
            raise RecipeError(f"{_WHERE}: this task has no classes, since it predicts a score or text; drop the term")
        if isinstance(self.weights, str):
            factors = balanced(setup.labels, len(setup.label_names))
        else:
            factors = _in_order(self.weights, setup.label_names)
        self._factors = torch.tensor(factors, dtype=torch.float32)
        return None

    def on_batch(self, context: BatchContext) -> Contribution:
        """Weigh every example by its class."""
        labels = context.batch.labels
        assert labels is not None
        return Contribution(weights=self._of(labels))

    def _of(self, labels: Tensor) -> Tensor:
        """Look up the factors of labels (B,), where the labels are."""
        self._factors = self._factors.to(labels.device)
        return self._factors[labels]


def balanced(labels: NDArray[Any], classes: int) -> list[float]:
    """Weigh classes so that each has the same sum of weights.

    Args:
        labels: int64 class numbers of the training examples, (N,).
        classes: How many classes the task has.

    Returns:
        N / (classes that occur * examples of the class), for each class; 1 for one that does not occur.
    """
    counts = np.bincount(labels, minlength=classes)
    occurring = np.count_nonzero(counts)
    return [len(labels) / (occurring * count) if count else 1.0 for count in counts.tolist()]


def _in_order(weights: Mapping[str, float], names: tuple[str, ...]) -> list[float]:
    """Put weights in the order of the classes.

    Raises:
        RecipeError: A name is none of the classes, or a class has no weight.
    """
    known = f"the task's classes are {listed(names)}"
    for name in weights:
        if name not in names:
            quoted = "; to YAML, yes and no are names only in quotes" if name in ("true", "false") else ""
            raise RecipeError(
                f"{_WHERE}.weights: {name!r} is no class of this task{nearest(name, names)}; {known}{quoted}"
            )
    if missing := [name for name in names if name not in weights]:
        raise RecipeError(f"{_WHERE}.weights: no weight for {listed(missing)}; every class needs one, and {known}")
    return [weights[name] for name in names]
