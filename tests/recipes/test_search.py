"""Which learning rates are tried: the grid, the sampler beyond it, and the choice."""

import builtins
import math
from itertools import pairwise

import pytest

from graft.adapters.methods import METHODS
from graft.errors import RecipeError
from graft.recipes.search import Searched, at_the_edge, best, choose, grid, rungs, to_try, write_journal

LORA = METHODS["lora"]


def goodness(rate):
    """Best at 7e-4."""
    return -abs(math.log(rate / 7e-4))


def searched(trials, seed=1, at_a_time=99, fails=()):
    """Search with so many results known at a time; return the rates in the order of trying, and the results."""
    known = {}
    while True:
        tried = to_try(LORA, trials, known, seed)
        fresh = [rate for rate in tried if rate not in known]
        if not fresh:
            return tried, known
        for rate in fresh[::-1][:at_a_time]:
            known[rate] = None if rate in fails else goodness(rate)


@pytest.mark.parametrize("method", METHODS.values(), ids=lambda method: method.name)
def test_every_grid_has_as_many_rates_holds_the_default_and_the_smaller_grids(method):
    grids = [grid(method, trials) for trials in range(1, 13)]
    for trials, rates in enumerate(grids, 1):
        assert len(set(rates)) == trials
        assert list(rates) == sorted(rates)
        assert method.learning_rate in rates
    assert all(set(small) <= set(large) for small, large in pairwise(grids))
    assert set(grids[len(method.learning_rates) - 1]) == set(method.learning_rates)
    # One step beyond the method's own range and no further, however many there are.
    own = sorted(method.learning_rates)
    step = (own[-1] / own[0]) ** (1 / (len(own) - 1))
    assert grids[-1][0] == pytest.approx(own[0] / step, rel=0.1)
    assert grids[-1][-1] == pytest.approx(own[-1] * step, rel=0.1)


def test_a_sampler_takes_over_beyond_a_dozen_and_comes_near_the_best():
    tried, known = searched(20)
    assert len(tried) == len(set(tried)) == 20
    assert set(grid(LORA, 4)) <= set(tried)
    best = choose(known, LORA.learning_rate)
    assert 5e-4 < best < 1e-3
    assert best not in grid(LORA, 4)


def test_what_is_tried_depends_on_results_and_seed_alone_not_on_when_they_came():
    pytest.importorskip("optuna")
    whole, known = searched(18)
    assert searched(18, at_a_time=1)[0] == whole
    assert searched(18, seed=2)[0] != whole
    # Interrupted anywhere, the same search goes on.
    assert to_try(LORA, 18, dict(list(known.items())[:9]), 1) == whole[:12]


def test_a_failed_trial_is_no_result_and_the_search_goes_on():
    tried, known = searched(16, fails={5e-4})
    assert len(tried) == 16
    assert known[5e-4] is None
    assert choose(known, LORA.learning_rate) != 5e-4
    assert choose({1e-3: None}, 1e-3) is None


def test_of_equal_rates_the_one_nearest_to_the_default_is_chosen():
    assert choose({2e-4: 80.0, 1e-3: 80.0, 2e-3: 80.0}, 5e-4) == 1e-3
    assert choose({2e-4: 81.0, 5e-4: 80.0}, 5e-4) == 2e-4


def test_a_choice_at_the_edge_is_known_as_such():
    assert at_the_edge(1.0, [1.0, 2.0, 3.0]) == "lowest"
    assert at_the_edge(3.0, [1.0, 2.0, 3.0]) == "highest"
    assert at_the_edge(2.0, [1.0, 2.0, 3.0]) is None
    assert at_the_edge(1.0, [1.0]) is None


def test_optunas_journal_holds_the_search(tmp_path):
    optuna = pytest.importorskip("optuna")
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    tried, known = searched(14, fails={5e-4})
    path = tmp_path / "search.journal"
    write_journal(path, {"a": Searched(LORA, tried, known)})
    write_journal(path, {"a": Searched(LORA, tried, known)})
    study = optuna.load_study(study_name="a", storage=JournalStorage(JournalFileBackend(str(path))))
    assert [trial.params["optim.lr"] for trial in study.trials] == list(tried)
    assert study.best_params["optim.lr"] == choose(known, LORA.learning_rate)


def test_without_optuna_a_dozen_works_and_more_says_what_to_install(monkeypatch):
    real = builtins.__import__

    def without(name, *rest):
        if name.partition(".")[0] == "optuna":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    assert len(to_try(LORA, 12, {}, 1)) == 12
    with pytest.raises(RecipeError, match=r"graft-nlp\[search\]"):
        to_try(LORA, 13, {}, 1)


@pytest.mark.parametrize(
    ("trials", "expected"),
    [(3, [(3, 1.0)]), (4, [(4, 0.25), (2, 0.5), (1, 1.0)]), (9, [(9, 0.25), (5, 0.5), (3, 1.0)])],
)
def test_successive_halving_lays_out_rounds(trials, expected):
    assert [(rung.trials, rung.share) for rung in rungs(trials, halving=True)] == expected
    assert [(rung.trials, rung.share) for rung in rungs(trials, halving=False)] == [(trials, 1.0)]


def test_the_best_rates_are_those_that_would_be_chosen_one_after_the_other():
    known = {1e-4: 70.0, 1e-3: 80.0, 1e-2: None, 1e-5: 80.0, 1e-1: 60.0}
    assert best(known, 1e-3, 1) == (choose(known, 1e-3),) == (1e-3,)
    assert best(known, 1e-3, 3) == (1e-5, 1e-4, 1e-3)
    assert best(known, 1e-3, 9) == (1e-5, 1e-4, 1e-3, 1e-1)
