"""Finding finished runs below folders: which are final, which are trials, and which cannot be used."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from graft.errors import RunError
from graft.eval.comparison import Missing
from graft.eval.records import PREDICTIONS, RECORD, RunRecord, read_record

DEPTH = 2
"""Levels below a given folder at which a run may lie: in it, or in a folder of it."""

SAME_SCORE = 1e-6
"""Largest difference, relative to scores above 1, between figures that are the same but for rounding."""


@dataclass(frozen=True)
class FoundRun:
    """A finished run.

    Attributes:
        folder: Where it lies.
        record: What happened.
    """

    folder: Path
    record: RunRecord

    @property
    def task(self) -> str:
        """The task's name."""
        return str(self.record.recipe["task"]["name"])

    @property
    def written_model(self) -> str:
        """The model's name as the recipe writes it: an alias, a Hub id, or a path on the machine that trained."""
        return str(self.record.recipe["model"]["name"])

    @property
    def method(self) -> str:
        """The method's name."""
        return str(self.record.recipe["method"]["name"])

    @property
    def seed(self) -> int:
        """The run's seed."""
        return int(self.record.recipe["seed"])

    @property
    def validations(self) -> tuple[str, ...]:
        """Names of the splits that final runs are scored on, the first of them the one that counts."""
        return tuple(name for name in self.record.data.sizes if name not in ("train", "holdout"))


@dataclass(frozen=True)
class FoundRuns:
    """What lies below some folders.

    Attributes:
        finals: Runs that are scored on validation, each digest once.
        trials: Runs that only chose hyper-parameters, each digest once, none of them among the finals.
        missing: Runs that cannot be used, and why.
        warnings: What a reader should know of the runs that can.
    """

    finals: tuple[FoundRun, ...]
    trials: tuple[FoundRun, ...]
    missing: tuple[Missing, ...]
    warnings: tuple[str, ...]

    def with_trials(self, folders: Collection[Path]) -> "FoundRuns":
        """The same runs, where those in some folders count as trials whatever their records say."""
        tried = {folder.resolve() for folder in folders}
        moved = tuple(run for run in self.finals if run.folder.resolve() in tried)
        finals = tuple(run for run in self.finals if run not in moved)
        return replace(self, finals=finals, trials=(*self.trials, *moved))


def find_runs(folders: Sequence[Path]) -> FoundRuns:
    """Read the record of every finished run in these folders.

    Args:
        folders: Run folders, or folders that hold them one or two levels deep; hidden folders are passed over.

    Returns:
        The runs by kind. A run that was gathered more than once counts once.

    Raises:
        RunError: A folder does not exist.
    """
    found: list[FoundRun] = []
    missing: list[Missing] = []
    for folder in _run_folders(folders):
        try:
            run = FoundRun(folder, read_record(folder))
            _check_recipe(run)
        except RunError as error:
            missing.append(Missing(what=str(folder), reason=str(error)))
        else:
            found.append(run)
    single, warnings = _each_digest_once(found)
    finals = tuple(run for run in single if run.record.kind == "final")
    trials = tuple(run for run in single if run.record.kind == "trial")
    return FoundRuns(finals, trials, tuple(missing), tuple(warnings))


def _run_folders(folders: Sequence[Path]) -> Iterator[Path]:
    """Every folder with a record, in the order given and then by name; none twice."""
    seen: set[Path] = set()
    for folder in folders:
        if not folder.is_dir():
            raise RunError(f"{folder}: no such folder; name folders that hold finished runs")
        for run in _below(folder, DEPTH):
            if (real := run.resolve()) not in seen:
                seen.add(real)
                yield run


def _below(folder: Path, depth: int) -> Iterator[Path]:
    try:
        if (folder / RECORD).exists():
            yield folder
            return  # what lies in a run folder is the run's own
        inner = sorted(path for path in folder.iterdir() if not path.name.startswith(".") and path.is_dir())
    except OSError as error:
        raise RunError(f"{folder}: cannot be read ({error.strerror}); mend its permissions or leave it out") from error
    for path in inner if depth else ():
        yield from _below(path, depth - 1)


def _check_recipe(run: FoundRun) -> None:
    """Refuse a record whose recipe, a free mapping in its layout, lacks what runs are told apart by."""
    try:
        _ = run.task, run.written_model, run.method, run.seed, run.record.recipe["optim"]["lr"]
        named = bool(run.validations)
    except (LookupError, TypeError, ValueError) as error:
        raise RunError(
            f"{run.folder / RECORD}: not a run record: recipe: {error!r} is not there or no recipe's; "
            "delete the run folder and train the run again"
        ) from error
    if run.record.kind == "final" and not named:
        raise RunError(f"{run.folder / RECORD}: a final run without a validation split; train the run again")


def _each_digest_once(found: Sequence[FoundRun]) -> tuple[list[FoundRun], list[str]]:
    """Keep one of the runs that have one digest: a final before a trial, then one whose cost was measured."""
    copies: dict[str, list[FoundRun]] = {}
    for run in found:
        copies.setdefault(run.record.digest, []).append(run)
    kept, warnings = [], []
    for same in copies.values():
        best = min(
            same,
            key=lambda run: (
                run.record.kind != "final",
                run.record.cost is None,
                not (run.folder / PREDICTIONS).is_file(),
            ),
        )
        kept.append(best)
        warnings += [
            f"{other.folder} has the digest of {best.folder} but other scores; it is left out"
            for other in same
            if other is not best and _scores_differ(best.record, other.record)
        ]
    return kept, warnings


def _scores_differ(one: RunRecord, other: RunRecord) -> bool:
    return any(
        not close(one.scores[split][name], value)
        for split, scores in other.scores.items()
        for name, value in scores.items()
        if name in one.scores.get(split, {})
    )


def close(one: float, other: float) -> bool:
    """Whether two figures are the same but for rounding."""
    return abs(one - other) <= SAME_SCORE * max(1.0, abs(one), abs(other))
