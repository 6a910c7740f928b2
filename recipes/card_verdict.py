"""What a comparison says of a run, for the run's card."""

import logging
from dataclasses import dataclass
from pathlib import Path

from graft.errors import RunError
from graft.eval.comparison import COMPARISON, Comparison, Result, read_comparison

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Verdict:
    """What a comparison found of one run's method.

    Attributes:
        sentence: What the evidence supports.
        method: Its label in the comparison.
        reference: What it was compared with.
        seeds: Of the runs compared.
        examples: Of the validation split.
        interval: How intervals were made, in a sentence.
    """

    sentence: str
    method: str
    reference: str
    seeds: tuple[int, ...]
    examples: int
    interval: str

    def text(self) -> str:
        """Say it in a paragraph."""
        seeds = ", ".join(map(str, self.seeds))
        return (
            f"{self.sentence}\n\nFrom a comparison of methods with {self.reference}, seeds {seeds}, "
            f"{self.examples:,} examples. {self.interval} This model is one of the runs compared."
        )


def find_verdict(run: Path, folder: Path | None = None) -> Verdict | None:
    """Look up what a comparison says of a run.

    Args:
        run: The run's folder.
        folder: That of the comparison; none means one that lies where the run lies, or beside it.

    Returns:
        What it says; none where no folder is named and no comparison knows the run.

    Raises:
        RunError: The folder that was named holds no comparison of this run.
    """
    if folder is not None:
        found = _about(read_comparison(folder), run)
        if found is None:
            raise RunError(
                f"--verdict {folder}: {COMPARISON} does not know {run.absolute().name}; name the folder of one "
                f"that it was part of, or make one with `graft verdict {folder} {run}`"
            )
        return found
    home = run.absolute().parent
    beside = sorted(path.parent for path in home.glob(f"*/{COMPARISON}"))
    for place in dict.fromkeys((home, run.absolute(), home.parent, *beside)):
        if not (place / COMPARISON).is_file():
            continue
        try:
            found = _about(read_comparison(place), run)
        except RunError as error:
            log.warning("the card is without a verdict of %s: %s", place, error)
            continue
        if found is not None:
            return found
    return None


def _about(comparison: Comparison, run: Path) -> Verdict | None:
    """The result that a run is part of; folders are told by their names, which hold the run's digest."""
    name = run.absolute().name
    for result in comparison.results:
        if name in {Path(folder).name for folder in result.runs}:
            return _verdict(comparison, result)
    return None


def _verdict(comparison: Comparison, result: Result) -> Verdict:
    protocol = comparison.protocol
    return Verdict(result.sentence, result.method, protocol.reference, result.seeds, result.examples, protocol.interval)
