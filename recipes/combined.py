"""What a combination of runs says of itself: the page `combination.json`, which goes wherever its weights go."""

from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field

from graft.adapters.combining import AVERAGE, WAYS
from graft.eval.pages import read_page
from graft.files import write_json

COMBINATION = "combination.json"
SCHEMA = 1


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, populate_by_name=True)


class Parent(_Section):
    """One of the runs that were combined."""

    name: str
    """What it is called here."""

    digest: str
    """The run's own."""

    weight: float
    """How much it counts."""

    recipe: dict[str, Any]
    """How it was trained, without this machine's paths."""

    scores: dict[str, dict[str, float]]
    """Its own metrics by evaluation split."""

    combination: dict[str, dict[str, float]]
    """The combination's metrics on the same examples."""


class Combination(_Section):
    """How runs were combined, and how the result compares with each."""

    schema_version: int = Field(default=SCHEMA, alias="schema")
    """Layout; readers refuse a newer one."""

    how: str
    """`average`, or peft's name of the way."""

    density: float | None
    """Fraction of the numbers that was kept, for a way that drops some."""

    seed: int
    """Of what DARE drops."""

    head: bool
    """Whether there are heads or other fresh weights, which were averaged."""

    parents: tuple[Parent, ...]
    """The runs, in the order that they were named in."""

    @property
    def title(self) -> str:
        """How many runs, and how, in a few words."""
        return f"{len(self.parents)} runs combined by {self.how}"

    @property
    def tags(self) -> list[str]:
        """What the Hub finds it by: the runs' methods, and that it is a merge."""
        return [*dict.fromkeys(str(parent.recipe["method"]["name"]) for parent in self.parents), "merge"]

    def text(self) -> str:
        """Say it in a card: the runs with their weights, scores side by side, and what became of the heads."""
        density = f", density {self.density:g}" if self.density is not None else ""
        seed = f", seed {self.seed}" if self.how.startswith("dare") else ""
        runs = [f"| {parent.name} | {_told(parent)} | {parent.weight:g} |" for parent in self.parents]
        return "\n".join(
            [
                f"`{self.how}`{density}{seed}: {WAYS[self.how].what}.",
                "\n| run | method, task, seed | weight |\n|---|---|---|",
                *runs,
                f"\n{self._heads()}",
                "\n| examples of | split | metric | the run by itself | combination |\n|---|---|---|---|---|",
                *(line for parent in self.parents for line in _compared(parent)),
            ]
        )

    def training(self) -> str:
        """Say in a card how each run was trained."""
        return "\n\n".join(
            f"### {parent.name}\n\n```yaml\n{yaml.safe_dump(parent.recipe, sort_keys=False, allow_unicode=True)}```"
            for parent in self.parents
        )

    def _heads(self) -> str:
        if not self.head:
            return "The head is the base model's own, and was not changed."
        what = "Heads, and whatever else the base model does not bring, are averaged"
        scaled = "with the weights above" if self.how == AVERAGE else "with the weights above, scaled to sum to one"
        return f"{what} {scaled}."


def write_combination(folder: Path, combination: Combination) -> None:
    """Write `combination.json`, whole or not at all.

    Raises:
        GraftError: The folder cannot be written.
    """
    write_json(folder / COMBINATION, combination.model_dump(mode="json", by_alias=True))


def read_combination(folder: Path) -> Combination | None:
    """Read how a folder's weights were combined.

    Returns:
        The page; none where they are those of a single run.

    Raises:
        RunError: It is damaged, or a newer graft wrote it.
    """
    path = folder / COMBINATION
    if not path.is_file():
        return None
    again = "combine the runs again"
    return read_page(path, Combination, SCHEMA, what="a combination's page", absent=again, again=again)


def _told(parent: Parent) -> str:
    recipe = parent.recipe
    return f"{recipe['method']['name']}, {recipe['task']['name']}, {recipe['seed']}"


def _compared(parent: Parent) -> list[str]:
    """Lines of the table of scores."""
    return [
        f"| {parent.name} | {split} | {metric} | {value:.2f} | {parent.combination[split][metric]:.2f} |"
        for split, metrics in parent.scores.items()
        for metric, value in metrics.items()
    ]
