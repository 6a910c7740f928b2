"""Which learning rates a method tries: a fixed log grid of its own, or a sampler where there are more than a dozen.

What to try next follows from what is known by now and from nothing else, so that a search that was interrupted goes on
as if it had not been.
"""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graft.adapters.contract import Method
from graft.errors import RecipeError
from graft.recipes.comparison_config import LEAST_HALVED, MOST_GRID

if TYPE_CHECKING:
    import optuna

BATCH = 4
"""Rates that a sampler suggests at a time, knowing the results of all batches before: it does not matter then how many
runs there are at a time, or which of them ends first."""

_NAME = "optim.lr"

Known = Mapping[float, float | None]
"""Rate → how good it was on the holdout, larger being better; none where the trial failed."""


def grid(method: Method, trials: int) -> tuple[float, ...]:
    """Lay a fixed grid around a method's default; a larger grid holds every smaller one.

    Args:
        method: Its own range of rates counts.
        trials: How many rates.

    Returns:
        Ascending rates: of the method's own those nearest to its default. Where there are not enough, one more at
        either end in the same ratio, and then the middle of the widest gap, time and again.
    """
    default, own = method.learning_rate, _own(method)
    if trials <= len(own):
        nearest = sorted(own, key=lambda rate: (round(abs(math.log(rate / default)), 9), -rate))
        return tuple(sorted(nearest[:trials]))
    low, high = _range(method)
    below = sum(rate < default for rate in own)
    ends = [high, low] if below > len(own) - below - 1 else [low, high]
    rates = sorted([*own, *ends[: trials - len(own)]])
    while len(rates) < trials:
        one, next_one = max(
            pairwise(rates), key=lambda pair: (round(pair[1] / pair[0], 6), -abs(math.log(pair[0] / default)))
        )
        rates = sorted([*rates, _rounded(math.sqrt(one * next_one))])
    return tuple(rates)


def to_try(method: Method, trials: int, known: Known, seed: int) -> tuple[float, ...]:
    """Tell which rates are to be tried as far as one can know by now, those that are known already included.

    Args:
        method: Whose.
        trials: How many rates in all.
        known: What was found by now.
        seed: Of the sampler.

    Returns:
        The rates in the order in which they are tried. The search is over where all are known and there are `trials`.

    Raises:
        RecipeError: There are more trials than a grid takes, and Optuna is not installed.
    """
    if trials <= MOST_GRID:
        return grid(method, trials)
    study = _begin(method, seed)
    low, high = _range(method)
    tried: list[float] = []
    while len(tried) < trials:
        asked = [study.ask() for _ in range(min(BATCH, trials - len(tried)))]
        rates = [_rounded(trial.suggest_float(_NAME, low, high, log=True), 3) for trial in asked]
        tried += [rate for rate in dict.fromkeys(rates) if rate not in tried]
        if not all(rate in known for rate in rates):
            break
        for trial, rate in zip(asked, rates, strict=True):
            _tell(study, trial, known[rate])
    return tuple(tried)


@dataclass(frozen=True)
class Rung:
    """A round of a search.

    Attributes:
        trials: How many learning rates are in it.
        share: Of a run's length that each is trained for.
    """

    trials: int
    share: float


def rungs(trials: int, *, halving: bool) -> tuple[Rung, ...]:
    """Lay out the rounds of a search: one, or by successive halving up to three (Jamieson and Talwalkar 2016).

    With halving, all rates are trained for a quarter of the run, the better half of them for half of it, and the better
    half of those for all of it. Each is a training of its own, whose learning rate comes to its end.

    Args:
        trials: Learning rates in the first round.
        halving: Whether there are several; with fewer rates than four there would be nothing to gain.
    """
    if not halving or trials < LEAST_HALVED:
        return (Rung(trials, 1.0),)
    return tuple(Rung(-(-trials // 2**number), share) for number, share in enumerate((0.25, 0.5, 1.0)))


def best(known: Known, default: float, count: int) -> tuple[float, ...]:
    """Name the best rates in ascending order, chosen as by `choose`; failed ones are left out."""
    left, found = dict(known), list[float]()
    while len(found) < count and (rate := choose(left, default)) is not None:
        found.append(rate)
        del left[rate]
    return tuple(sorted(found))


def choose(known: Known, default: float) -> float | None:
    """Choose the rate with the best holdout score; of equal ones that nearest to the default.

    Returns:
        The rate; none where every trial failed.
    """
    scored = {rate: score for rate, score in known.items() if score is not None}
    if not scored:
        return None
    return max(scored, key=lambda rate: (scored[rate], -abs(math.log(rate / default)), -rate))


def at_the_edge(rate: float, tried: Collection[float]) -> str | None:
    """Tell whether the chosen rate is the lowest or highest of those tried, so that a better one may lie beyond."""
    if len(tried) < 2:
        return None
    return "lowest" if rate == min(tried) else "highest" if rate == max(tried) else None


def _begin(method: Method, seed: int) -> "optuna.Study":
    """Begin a search by TPE (Bergstra et al. 2011), with the middle of the method's own grid as the first trials."""
    module = _optuna()
    sampler = module.samplers.TPESampler(seed=seed, n_startup_trials=8)
    study: optuna.Study = module.create_study(direction="maximize", sampler=sampler)
    for rate in grid(method, BATCH):
        study.enqueue_trial({_NAME: rate})
    return study


def _tell(study: "optuna.Study", trial: "optuna.Trial", score: float | None) -> None:
    from optuna.trial import TrialState

    if score is None:
        study.tell(trial, state=TrialState.FAIL)
    else:
        study.tell(trial, score)


@dataclass(frozen=True)
class Searched:
    """A search as it stands.

    Attributes:
        method: Whose.
        rates: In the order in which they were tried.
        known: What was found.
    """

    method: Method
    rates: tuple[float, ...]
    known: Known


def write_journal(path: Path, searches: Mapping[str, Searched]) -> None:
    """Write searches as Optuna's journal, for its dashboard to show. Nothing is read from it again.

    Args:
        path: The file; replaced.
        searches: By name.

    Raises:
        RecipeError: Optuna is not installed.
    """
    optuna = _optuna()
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    path.unlink(missing_ok=True)
    storage = JournalStorage(JournalFileBackend(str(path)))
    states = optuna.trial.TrialState
    for name, searched in searches.items():
        study = optuna.create_study(direction="maximize", storage=storage, study_name=name)
        low, high = _range(searched.method)
        for rate in (rate for rate in searched.rates if rate in searched.known):
            score = searched.known[rate]
            study.add_trial(
                optuna.trial.create_trial(
                    state=states.FAIL if score is None else states.COMPLETE,
                    value=score,
                    params={_NAME: rate},
                    distributions={_NAME: optuna.distributions.FloatDistribution(low, high, log=True)},
                )
            )


def _own(method: Method) -> list[float]:
    return sorted({*method.learning_rates, method.learning_rate})


def _range(method: Method) -> tuple[float, float]:
    """One step beyond the method's own rates at either end."""
    own = _own(method)
    ratio = (own[-1] / own[0]) ** (1 / (len(own) - 1)) if len(own) > 1 else 3.0
    return _rounded(own[0] / ratio), _rounded(own[-1] * ratio)


def _rounded(rate: float, digits: int = 2) -> float:
    return float(f"{rate:.{digits - 1}e}")


def _optuna() -> Any:
    """Import Optuna, quietly.

    Raises:
        RecipeError: It is not installed.
    """
    try:
        import optuna
    except ImportError as error:
        raise RecipeError(
            f"trials: more than {MOST_GRID} are searched by a sampler, and Optuna is not installed; "
            f"pip install 'graft-nlp[search]', or set trials to {MOST_GRID} or less"
        ) from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna
