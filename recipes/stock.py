"""What runs share, read once: examples, checkpoints, tokenised splits, kept for the next run that names the same."""

from collections.abc import Sequence
from functools import lru_cache

from graft.adapters.checkpoint import Checkpoint
from graft.adapters.checkpoint import resolve as resolve_checkpoint
from graft.adapters.config import ModelConfig
from graft.adapters.loading import load_tokenizer
from graft.adapters.methods import METHODS
from graft.eval.config import TaskConfig
from graft.eval.encoding import Encoded
from graft.eval.kinds import KINDS
from graft.eval.resolution import TaskData
from graft.eval.resolution import resolve as resolve_task
from graft.files import fingerprint
from graft.recipes import heap
from graft.recipes.objective import Term
from graft.recipes.recipe import Recipe, digest

_KEPT = 8
"""Tasks and checkpoints that are kept, the longest unused one going first."""


class Stock:
    """Reads what recipes name, each thing once.

    The weights themselves are read again for every run: from the system's cache of files that takes a fifth of a
    second, and no run can then spoil the next one's.
    """

    def __init__(self) -> None:
        """Begin with nothing."""
        self._data = lru_cache(_KEPT)(resolve_task)
        self._checkpoint = lru_cache(_KEPT)(resolve_checkpoint)
        self._encoded = lru_cache(_KEPT)(self._encode)
        self._fingerprint = lru_cache(_KEPT)(lambda config: self._data(config).fingerprint)

    def data(self, config: TaskConfig) -> TaskData:
        """A task's splits; errors as `graft.eval.resolution.resolve`."""
        return self._data(config)

    def checkpoint(self, config: ModelConfig) -> Checkpoint:
        """A verified checkpoint; errors as `graft.adapters.checkpoint.resolve`."""
        return self._checkpoint(config)

    def encoded(self, task: TaskConfig, model: ModelConfig) -> dict[str, Encoded]:
        """Tokenised examples of every split that has any, by its name."""
        return dict(self._encoded(task, model))

    def name(self, recipe: Recipe, *, terms: Sequence[Term] = (), processes: int = 1) -> str:
        """Tell the digest of a run.

        Args:
            recipe: Resolved.
            terms: Terms that no recipe names, handed over as objects.
            processes: Over how many the run is spread; like threads, it changes the last bits of a gradient.
        """
        data = self._data(recipe.task)
        name = digest(
            recipe,
            data_fingerprint=self._fingerprint(recipe.task),
            checkpoint_digest=self._checkpoint(recipe.model).digest,
            versions={
                f"task.{data.task.name}": data.task.version,
                f"method.{recipe.method.name}": METHODS[recipe.method.name].version,
            },
        )
        if terms or processes > 1:
            name = fingerprint({"run": name, "terms": [term.identity() for term in terms], "processes": processes})
        return name

    def _encode(self, task: TaskConfig, model: ModelConfig) -> dict[str, Encoded]:
        data = self._data(task)
        kind, tokenizer = KINDS[data.task.kind], load_tokenizer(self._checkpoint(model))
        encoded = {
            name: kind.encode(split, tokenizer, task.max_length) for name, split in data.splits.items() if len(split)
        }
        heap.give_back()  # rows and texts were Python objects for a while, several times as large as what is kept
        return encoded
