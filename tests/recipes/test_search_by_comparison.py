"""How a comparison searches: within minutes instead of trials, and by successive halving."""

import importlib.util
import shutil
from dataclasses import replace

import numpy as np
import pytest
from comparing import METHODS, run_folders

from graft.errors import GraftError, TrainingError
from graft.eval.records import read_record
from graft.recipes.compare import compare, foresee
from graft.recipes.comparison_config import from_mapping
from graft.recipes.execution import Outcome


@pytest.fixture
def takes(here, monkeypatch):
    """Let trials of a method take so many seconds, by measurement."""
    seconds = {"full": 30.0, "lora": 13.0, "bitfit": 100.0}
    real = here.carrier.carry_out

    def carry_out(job):
        done = real(job)
        if job.kind == "calibration" and done.figures:
            done = replace(done, figures=done.figures | {"seconds": seconds[job.recipe.method.name]})
        return done

    monkeypatch.setattr(here.carrier, "carry_out", carry_out)
    return seconds


def test_minutes_give_every_method_the_trials_that_fit_into_them(here, takes, settings, tmp_path):
    del settings["trials"]
    compared = compare({**settings, "minutes": 1.0}, out=tmp_path / "out", costs=False)
    tried = {name: [job for job in here.trained() if job[0] == name and job[3] == "trial"] for name in METHODS}
    assert {name: len(jobs) for name, jobs in tried.items()} == {"full": 2, "lora": 4, "bitfit": 0}  # one is taken
    assert {result.method: result.trials for result in compared.comparison.results}["lora"] == 4
    assert any("different numbers of trials" in warning for warning in compared.comparison.warnings)


def test_a_comparison_by_minutes_goes_on_with_the_trials_that_it_began_with(here, takes, settings, tmp_path):
    del settings["trials"]
    compare({**settings, "minutes": 1.0}, out=tmp_path / "out", costs=False)
    there = here.trained()
    takes |= {"full": 1.0, "lora": 1.0}
    compare({**settings, "minutes": 1.0, "margin": 9.0}, out=tmp_path / "out", costs=False)
    assert here.trained() == there


def test_minutes_without_a_measurement_are_refused(here, settings, tmp_path, monkeypatch):
    del settings["trials"]
    monkeypatch.setattr(here.carrier, "carry_out", lambda job: Outcome(failure="no such file"))
    with pytest.raises(TrainingError, match=r"full: how long a trial takes could not be measured \(no such file\)"):
        compare({**settings, "minutes": 1.0}, out=tmp_path / "out")


@pytest.mark.parametrize("other", [{"trials": 2}, {"learning_rates": {"lora": [1e-3]}}])
def test_minutes_and_a_number_of_trials_exclude_each_other(settings, other):
    del settings["trials"]
    with pytest.raises(GraftError, match=f"minutes: .* as {next(iter(other))} does; give one of the two"):
        from_mapping({**settings, **other, "minutes": 3})


HALVED = {"trials": 4, "halving": True, "schedule": {"steps": 8, "examples": 8}}


def halved(here, name="lora"):
    """Rates of each round's trials, and of the final runs' seeds."""
    rounds = {}
    for job in here.jobs:
        if job.kind != "calibration" and job.recipe.method.name == name:
            at = (job.kind, job.recipe.schedule.steps)
            rounds.setdefault(at, []).append((job.recipe.optim.lr, job.recipe.seed))
    return rounds


def test_halving_trains_the_better_half_for_longer(here, settings, tmp_path):
    compared = compare({**settings, **HALVED}, out=tmp_path / "out", costs=False)
    rounds = halved(here)
    sizes = {at: len(found) for at, found in rounds.items()}
    assert sizes == {("trial", 2): 4, ("trial", 4): 2, ("trial", 8): 1, ("final", 8): 2}
    scores = {
        (read_record(folder).recipe["optim"]["lr"], read_record(folder).planned_steps): read_record(folder)
        for folder in run_folders(tmp_path / "out")
        if read_record(folder).recipe["method"]["name"] == "lora" and read_record(folder).recipe["seed"] == 1
    }
    quarter = {rate: record.scores["holdout"]["accuracy"] for (rate, steps), record in scores.items() if steps == 2}
    kept = {rate for rate, _ in rounds["trial", 4]}
    assert min(quarter[rate] for rate in kept) >= max(quarter[rate] for rate in quarter.keys() - kept)
    assert {rate for rate, _ in rounds["trial", 8]} < kept
    assert {rate for rate, _ in rounds["final", 8]} == {rate for rate, _ in rounds["trial", 8]}
    result = next(result for result in compared.comparison.results if result.method == "lora")
    assert (result.trials, result.chosen) == (4, {"optim.lr": rounds["final", 8][0][0]})


def test_halving_goes_on_where_it_stopped_and_survives_failures(here, settings, tmp_path):
    worst = []

    def fails(job):
        if job.recipe.method.name == "lora" and job.kind == "trial":
            worst.append(job.recipe.optim.lr)
            return "no memory" if job.recipe.optim.lr == worst[0] else None
        return None

    here.fails = fails
    compared = compare({**settings, **HALVED}, out=tmp_path / "out", costs=False)
    assert worst[0] not in {rate for rate, _ in halved(here)["trial", 4]}
    assert any("no memory" in one.reason for one in compared.comparison.missing)
    here.fails = lambda job: None
    here.jobs.clear()
    compare({**settings, **HALVED}, out=tmp_path / "out", costs=False)
    assert len(halved(here)["trial", 2]) == 1  # the one that failed is tried again


def test_where_a_whole_round_fails_the_next_best_rates_take_its_place(here, settings, tmp_path):
    tried = []

    def fails(job):
        if job.recipe.method.name == "lora" and job.recipe.schedule.steps == 4:
            tried.append(job.recipe.optim.lr)
            return "it diverged" if len(tried) <= 2 else None
        return None

    here.fails = fails
    compared = compare({**settings, **HALVED}, out=tmp_path / "out", costs=False)
    assert (len(tried), len(set(tried))) == (4, 4)
    assert {rate for rate, _ in halved(here)["final", 8]} <= set(tried[2:])
    assert sum("it diverged" in one.reason for one in compared.comparison.missing) == 2


def test_final_runs_of_another_comparison_that_serve_as_trials_are_no_method_of_this_one(here, settings, tmp_path):
    settings |= {"schedule": {"steps": 2, "examples": 8}, "trials": 1}
    compare(settings, out=tmp_path / "out", costs=False)  # its final runs are as long as a first round
    compared = compare({**settings, **HALVED}, out=tmp_path / "out", costs=False)
    assert {result.method for result in compared.comparison.results} == set(METHODS)
    assert {result.trials for result in compared.comparison.results} == {4}


def test_a_plan_knows_how_long_the_rest_of_a_halved_search_takes(here, settings, tmp_path):
    out = tmp_path / "out"
    compare({**settings, **HALVED}, out=out, costs=False)
    for folder in run_folders(out):
        if read_record(folder).planned_steps != 2:
            shutil.rmtree(folder)
    seconds = {}
    for folder in run_folders(out):
        record = read_record(folder)
        seconds.setdefault(record.recipe["method"]["name"], []).append(4 * record.train_seconds)
    left = foresee({**settings, **HALVED}, out=out)
    assert left.minutes == pytest.approx(sum(3 * np.mean(found) for found in seconds.values()) / 60)  # 2/2 + 1 + 1


def test_a_plan_counts_the_shorter_trials_of_halving(here, takes, settings, tmp_path):
    whole = foresee({**settings, "trials": 4}, out=tmp_path / "out")
    shorter = foresee({**settings, **HALVED, "schedule": settings["schedule"]}, out=tmp_path / "out")
    assert (whole.runs, shorter.runs) == (3 * 5, 3 * 8)
    assert shorter.minutes == pytest.approx(whole.minutes * 4 / 5)  # 3 whole runs for 4 rates, and another seed


def test_minutes_are_refused_where_several_processes_make_each_run_together(settings, tmp_path, monkeypatch):
    del settings["trials"]
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(GraftError, match=r"minutes: several processes .* give trials"):
        compare({**settings, "minutes": 1.0}, out=tmp_path / "out")


def test_minutes_that_need_a_sampler_say_so_before_anything_is_trained(here, takes, settings, tmp_path, monkeypatch):
    del settings["trials"]
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(GraftError, match=r"minutes: 10 make 46 trials of words, .*, lora; .* or give fewer minutes"):
        compare({**settings, "minutes": 10.0}, out=tmp_path / "out")
    assert not here.trained()


def test_few_trials_cannot_be_halved(settings):
    with pytest.raises(GraftError, match="halving: 3 learning rates gain nothing by it; give 4 trials"):
        from_mapping({**settings, "trials": 3, "halving": True})
