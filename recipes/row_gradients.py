"""The gradient of a large table of embeddings, of which a step reads few rows.

torch's own is as large as the table: for BERT's vocabulary 47 MB that are asked of the system, filled with zeros and
added up for the norm at every step, a tenth of a step of full fine-tuning on a processor. Here autograd hands over the
rows that were read, and they are written into one array that stays from step to step, once those of the step before are
zero again. The optimiser is given the same gradient, up to the order of sums.
"""

from collections import Counter
from collections.abc import Iterable

import torch
from torch import Tensor, nn

LARGE = 1 << 13
"""Rows of a table from which on this pays: a vocabulary's, not those of positions or prefixes, which are all read."""


def install(model: nn.Module) -> None:
    """Let autograd give the large tables of a model sparse gradients.

    Tables whose weight is also another module's, as a language model's head often is, have a gradient in every row and
    stay as they are.

    Args:
        model: The model, adapters attached.
    """
    owners = Counter(id(weight) for module in model.modules() for weight in module._parameters.values())
    for module in model.modules():
        if type(module) is nn.Embedding and module.num_embeddings >= LARGE and owners[id(module.weight)] == 1:
            # What these two ask for needs the dense gradient or changes weights in the forward pass.
            module.sparse = not module.scale_grad_by_freq and module.max_norm is None


def tables(model: nn.Module) -> list[Tensor]:
    """The weights whose gradients are sparse while they learn."""
    return [module.weight for module in model.modules() if isinstance(module, nn.Embedding) and module.sparse]


def compact(weights: Iterable[Tensor]) -> None:
    """Add up what several backward passes said of the same rows, so that a gradient is never larger than its table.

    Args:
        weights: Of all that learns.
    """
    for weight in weights:
        if weight.grad is not None and weight.grad.is_sparse:
            weight.grad = weight.grad.coalesce()


class RowGradients:
    """The dense gradients of one run's tables, each with the rows that are not zero."""

    def __init__(self) -> None:
        """Begin without any."""
        self._kept: dict[int, tuple[Tensor, Tensor]] = {}

    def spread(self, weights: Iterable[nn.Parameter]) -> list[Tensor]:
        """Put dense gradients into the place of sparse ones.

        Args:
            weights: Of all that learns; those without a gradient are passed over.

        Returns:
            Tensors that have the norm of all gradients together, of a table the rows that were read.
        """
        found: list[Tensor] = []
        for weight in weights:
            gradient = weight.grad
            if gradient is None:
                continue
            if gradient.is_sparse:
                gradient = gradient.coalesce()
                rows, gradient = gradient.indices()[0], gradient.values()
                weight.grad = self._dense(weight, rows, gradient)
            found.append(gradient)
        return found

    def _dense(self, weight: nn.Parameter, rows: Tensor, values: Tensor) -> Tensor:
        """Write rows (n,) with their values (n, width) into the array of a weight, which is zero elsewhere."""
        if id(weight) in self._kept:
            dense, before = self._kept[id(weight)]
            dense.index_fill_(0, before, 0.0)
        else:
            dense = torch.zeros_like(weight, requires_grad=False)
        self._kept[id(weight)] = (dense, rows)
        return dense.index_copy_(0, rows, values)
