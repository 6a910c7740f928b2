"""A term for tests alone, with everything that a term may have: module, stream, state, weights and losses.

It is a small domain discriminator on the features, over text of its own.
"""

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from graft.eval.encoding import Encoded
from graft.eval.kinds import KINDS
from graft.eval.ragged import Ragged
from graft.recipes.objective import Contribution, DataStream, Term


class DomainTerm(Term):
    """Tells training text from its own text, and weighs examples by a running count."""

    name = "domain"

    def __init__(self, examples: int = 5) -> None:
        generator = np.random.default_rng(0)
        rows = [np.concatenate([[2], generator.integers(4, 44, size), [3]]).astype(np.int32) for size in range(2, 13)]
        count = len(rows)
        encoded = Encoded(
            Ragged.of(rows, np.int32),
            None,
            np.zeros(count, dtype=np.int64),
            np.arange(count),
            np.ones(count, dtype=np.int64),
            0,
            0,
        )
        self._stream = DataStream("target", encoded, KINDS["classification"], examples)
        self.steps = torch.zeros((), dtype=torch.int64)
        self.seen: list[list[int]] = []

    def identity(self):
        return {"name": self.name, "examples": self._stream.examples}

    def setup(self, setup):
        self._discriminator = nn.Linear(16, 1)
        return self._discriminator

    def streams(self):
        return (self._stream,)

    def on_batch(self, context):
        guess = self._discriminator(context.outputs.features).squeeze(1)
        weights = 1.0 / (1.0 + 0.1 * self.steps * (context.batch.ids % 2))
        return Contribution(weights, functional.softplus(guess))

    def on_stream(self, name, context):
        assert name == "target"
        self.seen.append(sorted(context.batch.ids.tolist()))
        return Contribution(losses=functional.softplus(-self._discriminator(context.outputs.features).squeeze(1)))

    def after_update(self, step):
        self.steps = self.steps + 1

    def state(self):
        return {"steps": self.steps}

    def load_state(self, state):
        self.steps = state["steps"]
