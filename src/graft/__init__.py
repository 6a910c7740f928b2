"""graft: find the cheap adaptation of a checkpoint that is as good as full fine-tuning, and take it home.

    from graft import Recipe, compare, load, push, train

    run = train(Recipe(task="mrpc", model="minilm", method="lora"))
    model = load(run.folder)
    found = compare(task="mrpc,rte", methods="full,lora,bitfit", margin=1.0, out="runs").comparison
    push(run.folder, "user/name")

Nothing heavy is imported before it is used.
"""

import os
from importlib import import_module, metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from graft.recipes.combination import export_combined
    from graft.recipes.compare import compare
    from graft.recipes.export import export
    from graft.recipes.pull import pull
    from graft.recipes.push import push
    from graft.recipes.recipe import Recipe
    from graft.recipes.run import load
    from graft.recipes.serving_app import create_app
    from graft.recipes.sweeping import sweep
    from graft.recipes.train import train

__all__ = [
    "Recipe",
    "__version__",
    "compare",
    "create_app",
    "export",
    "export_combined",
    "load",
    "pull",
    "push",
    "sweep",
    "train",
]

__version__ = metadata.version("graft-nlp")


def _spins(load: Path = Path("/proc/loadavg")) -> int:
    """Tell how often one of OpenMP's threads looks whether it has work again before it leaves the processor.

    A thread that has left has to be called back: on an idle machine that costs steps of short sentences 6 to 20 %. One
    that waits busily takes the processor from whatever else the machine runs: two trainings at once on two cores then
    do half to two thirds of the work. Processes that this one starts inherit what it has chosen. The kernel counts for
    the whole machine: two trainings that are kept to the same few processors of many it takes for an idle machine.

    Args:
        load: The kernel's file; its fourth field is how many threads run just now, this one among them, of how many.

    Returns:
        Many where the machine is idle, few where half of its processors have something else to do or nobody can tell.
    """
    try:
        running = int(load.read_text().split()[3].partition("/")[0])
    except (OSError, IndexError, ValueError):
        return 1_000
    return 1_000 if 2 * (running - 1) >= (os.cpu_count() or 1) else 4_000


if "OMP_WAIT_POLICY" not in os.environ:  # GNU OpenMP reads it when torch is imported
    os.environ.setdefault("GOMP_SPINCOUNT", str(_spins()))

_PLACES = {
    "Recipe": "graft.recipes.recipe",
    "compare": "graft.recipes.compare",
    "create_app": "graft.recipes.serving_app",
    "export": "graft.recipes.export",
    "export_combined": "graft.recipes.combination",
    "load": "graft.recipes.run",
    "pull": "graft.recipes.pull",
    "push": "graft.recipes.push",
    "sweep": "graft.recipes.sweeping",
    "train": "graft.recipes.train",
}


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'graft' has no attribute {name!r}")
    return getattr(import_module(_PLACES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
