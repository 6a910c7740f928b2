"""graft: find the cheap adaptation of a checkpoint that is as good as full fine-tuning, and take it home.

    from graft import Recipe, train, load

    run = train(Recipe(task="mrpc", model="minilm", method="lora"))
    model = load(run.folder)

Nothing heavy is imported before it is used.
"""

from importlib import import_module, metadata
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from graft.recipes.recipe import Recipe
    from graft.recipes.run import load
    from graft.recipes.train import train

__all__ = ["Recipe", "__version__", "load", "train"]

__version__ = metadata.version("graft-nlp")

_PLACES = {"Recipe": "graft.recipes.recipe", "train": "graft.recipes.train", "load": "graft.recipes.run"}


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'graft' has no attribute {name!r}")
    return getattr(import_module(_PLACES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
