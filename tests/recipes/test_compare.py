"""A comparison from its configuration to its verdict: which runs are made, which are not, what is said of the rest."""

import json
from dataclasses import replace

import pytest
from comparing import METHODS, Here, run_folders

import graft
from graft import cli
from graft.errors import GraftError, RunError
from graft.eval.comparison import read_comparison
from graft.eval.records import read_record
from graft.recipes import compare as compare_module
from graft.recipes import looks as looks_module
from graft.recipes.compare import compare, foresee
from graft.recipes.comparison_config import from_mapping
from graft.recipes.execution import Outcome


def test_every_method_gets_as_many_trials_and_seeds_and_the_first_seeds_trial_is_not_trained_again(
    here, settings, tmp_path
):
    made = compare(settings, out=tmp_path, costs=False)
    trained = here.trained()
    for method in METHODS:
        own = [job for job in trained if job[0] == method]
        trials, finals = ([job for job in own if job[3] == kind] for kind in ("trial", "final"))
        assert len({rate for _, rate, _, _ in trials}) == len(trials) == 2
        assert {seed for _, _, seed, _ in trials} == {1}
        assert [seed for _, _, seed, _ in finals] == [1, 2]
        assert len({rate for _, rate, _, _ in finals}) == 1
    # Two trials and two finals each, of which the first final is a promoted trial.
    assert len(run_folders(tmp_path)) == 3 * (2 + 2 - 1)
    assert made.folder == tmp_path
    assert read_comparison(tmp_path) == made.comparison
    assert [result.method for result in made.comparison.results] == ["full", "bitfit", "lora"]
    assert {result.seeds for result in made.comparison.results} == {(1, 2)}
    assert {result.trials for result in made.comparison.results} == {2}
    assert made.comparison.missing == ()


def test_the_rate_with_the_best_holdout_score_is_taken_by_all_final_runs(here, settings, tmp_path):
    rates = {name: [1e-6, 1e-2, 1e-1] for name in METHODS}
    asked = {"trials": 3, "schedule": {"steps": 40, "examples": 8}, "learning_rates": rates}
    asked["task"] = settings["task"] | {"holdout": 0.4}
    differed = 0
    made = compare(settings | asked, out=tmp_path, costs=False)
    records = [read_record(folder) for folder in run_folders(tmp_path)]
    for result in made.comparison.results:
        own = [record for record in records if record.recipe["method"]["name"] == result.method]
        tried = {r.recipe["optim"]["lr"]: r.scores["holdout"]["accuracy"] for r in own if r.recipe["seed"] == 1}
        chosen = {record.recipe["optim"]["lr"] for record in own if record.kind == "final"}
        assert len(tried) == 3
        assert len(chosen) == 1
        assert tried[chosen.pop()] == max(tried.values())
        differed += len(set(tried.values())) > 1
    assert differed, "all rates score alike: nothing was shown"
    assert all("validation" not in record.scores for record in records if record.kind == "trial")


def test_a_finished_comparison_trains_nothing_again_and_says_the_same(here, settings, tmp_path):
    compare(settings, out=tmp_path, costs=False)
    first = (tmp_path / "comparison.json").read_bytes()
    here.jobs.clear()
    compare(settings, out=tmp_path, costs=False)
    assert here.jobs == []
    assert (tmp_path / "comparison.json").read_bytes() == first


def test_runs_of_other_comparisons_in_the_folder_are_reused_and_do_not_count(here, settings, tmp_path):
    compare(settings, out=tmp_path, costs=False)
    here.jobs.clear()
    small = compare(settings | {"methods": ["full", "lora"], "seeds": [1]}, out=tmp_path, costs=False)
    assert here.jobs == []
    assert [result.method for result in small.comparison.results] == ["full", "lora"]
    assert {result.seeds for result in small.comparison.results} == {(1,)}
    assert any("a single seed" in warning for warning in small.comparison.warnings)
    large = compare(settings | {"seeds": 3}, out=tmp_path, costs=False)
    assert [(kind, seed) for _, _, seed, kind in here.trained()] == [("final", 3)] * 3
    assert {result.seeds for result in large.comparison.results} == {(1, 2, 3)}


def test_a_method_that_fails_on_every_trial_is_reported_and_the_others_go_on(here, settings, tmp_path):
    here.fails = lambda job: "no memory" if job.recipe.method.name == "bitfit" else None
    found = compare(settings, out=tmp_path, costs=False).comparison
    assert [result.method for result in found.results] == ["full", "lora"]
    missing = {one.what: one.reason for one in found.missing}
    assert missing["words, tiny, bitfit"] == "no final runs, as every trial failed"
    assert [reason for what, reason in missing.items() if "bitfit, learning rate" in what] == ["no memory"] * 2
    here.fails = lambda job: None
    assert len(compare(settings, out=tmp_path, costs=False).comparison.results) == 3


def test_a_run_that_fails_is_missing_and_the_search_takes_the_rest(here, settings, tmp_path):
    here.fails = lambda job: "bad" if job.recipe.method.name == "lora" and job.recipe.seed == 2 else None
    found = compare(settings, out=tmp_path, costs=False).comparison
    assert [(one.what, one.reason) for one in found.missing] == [("words, tiny, lora, seed 2", "bad")]
    assert {result.method: result.seeds for result in found.results}["lora"] == (1,)


def test_a_bug_in_one_run_does_not_stop_the_others(settings, tmp_path, monkeypatch):
    here = Here()
    monkeypatch.setattr(compare_module, "_executor", lambda *_: here)
    from graft.recipes import making

    real = making.fit

    def breaks(states, *arguments, **rest):
        if states[0].recipe.method.name == "bitfit":
            raise ZeroDivisionError("by design")
        real(states, *arguments, **rest)

    monkeypatch.setattr(making, "fit", breaks)
    found = compare(settings, out=tmp_path, costs=False).comparison
    assert [result.method for result in found.results] == ["full", "lora"]
    assert "ZeroDivisionError: by design" in {one.reason for one in found.missing}


def test_without_the_reference_nothing_is_compared_and_the_reason_is_told(here, settings, tmp_path):
    here.fails = lambda job: "no memory" if job.recipe.method.name == "full" else None
    with pytest.raises(RunError, match=r"no run of the reference could be made(.|\n)*full, learning rate.*no memory"):
        compare(settings, out=tmp_path, costs=False)
    assert not (tmp_path / "comparison.json").exists()
    assert {job[0] for job in here.trained()} == set(METHODS)


def test_an_interruption_stops_the_workers_and_the_same_call_goes_on(here, settings, tmp_path):
    here.fails = lambda job: KeyboardInterrupt() if job.recipe.seed == 2 else None
    with pytest.raises(KeyboardInterrupt):
        compare(settings, out=tmp_path, costs=False)
    assert here.interrupted
    here.jobs.clear()
    here.fails = lambda job: None
    compare(settings, out=tmp_path, costs=False)
    assert {(seed, kind) for _, _, seed, kind in here.trained()} <= {(2, "final"), (1, "final"), (1, "trial")}
    whole = compare(settings, out=tmp_path / "whole", costs=False).comparison
    cut = read_comparison(tmp_path)
    assert [(r.method, r.difference, r.low, r.high) for r in cut.results] == [
        (r.method, r.difference, r.low, r.high) for r in whole.results
    ]


def test_two_variants_of_a_method_two_tasks_and_grids_of_ones_own(here, settings, word_task, tiny_bert, tmp_path):
    task = settings["task"]
    found = compare(
        settings
        | {
            "task": [task, task | {"name": "again", "train_size": 40}],
            "methods": ["full", {"name": "lora", "r": 2}, {"name": "lora", "r": 4}],
            "learning_rates": {"lora, r=2": [1e-3, 2e-3], "full": [1e-4, 3e-4]},
            "seeds": 1,
        },
        out=tmp_path,
        costs=False,
    ).comparison
    labels = ["full", "lora, r=2", "lora, r=4"]
    assert [(r.task, r.method) for r in found.results] == [(t, m) for t in ("again", "words") for m in labels]
    assert [mean.method for mean in found.suite] == labels
    rates = {rate for name, rate, _, kind in here.trained() if name == "full" and kind == "trial"}
    assert rates == {1e-4, 3e-4}


def test_the_plan_counts_what_is_left_and_says_what_can_be_decided(here, settings, tmp_path):
    before = foresee(settings, out=tmp_path)
    assert (before.runs, before.there) == (9, 0)
    assert before.minutes > 0
    assert {job.kind for job in here.jobs} == {"calibration"}
    assert not run_folders(tmp_path)
    (told,) = before.decidable
    assert told.examples == 37
    assert "±5 can" in told.sentence
    assert 0 < told.limit < told.half_width
    compare(settings, out=tmp_path, costs=False)
    after = foresee(settings, out=tmp_path)
    assert (after.runs, after.there, after.minutes) == (9, 9, 0.0)


def test_power_follows_from_examples_seeds_and_tasks(here, settings, tmp_path):
    task = settings["task"]

    def width(**changes):
        return [one.half_width for one in foresee({**settings, **changes}, out=tmp_path).decidable]

    assert width(seeds=10)[0] < width(seeds=2)[0]
    one, other, mean = width(task=[task, task | {"name": "again"}], seeds=10)
    assert mean < min(one, other)


def test_costs_are_measured_for_the_first_seed_of_each_method_one_at_a_time(here, settings, tmp_path, monkeypatch):
    from graft.recipes import train as train_module

    monkeypatch.setattr(
        train_module, "measure", lambda recipe: {"seconds_per_step": 0.5, "peak_memory_bytes": 1e9, "steps": 3}
    )
    found = compare(settings, out=tmp_path).comparison
    assert [(job.recipe.method.name, job.recipe.seed) for job in here.jobs if job.measure_cost] == [
        (method, 1) for method in METHODS
    ]
    assert all(result.costs["seconds_per_step"].value == 0.5 for result in found.results)
    here.jobs.clear()
    compare(settings, out=tmp_path)
    assert here.jobs == []


def test_a_place_that_is_no_folder_is_refused(settings, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match=r"--out .*file: cannot be a folder"):
        compare(settings, out=tmp_path / "file")


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"task": "mrcp"}, "no task 'mrcp' (did you mean 'mrpc'?)"),
        ({"model": "minilmm"}, "did you mean 'minilm'"),
        ({"task": {"name": "mrpc", "data": "/nowhere"}}, "/nowhere"),
    ],
)
def test_what_is_not_there_is_told_before_anything_is_begun(here, settings, tmp_path, changes, complaint):
    with pytest.raises(GraftError) as refusal:
        compare(settings | changes, out=tmp_path)
    assert complaint in str(refusal.value)
    assert here.jobs == []


def test_graft_compare_in_a_notebook_takes_keys_and_a_configuration(here, settings, tmp_path):
    made = graft.compare(**settings, out=tmp_path, costs=False)
    here.jobs.clear()
    assert graft.compare(from_mapping(settings), out=tmp_path, costs=False).comparison == made.comparison
    assert (
        graft.compare(from_mapping(settings), margin=7.0, out=tmp_path, costs=False).comparison.protocol.margin == 7.0
    )
    assert here.jobs == []
    with pytest.raises(GraftError, match=r"trails: unknown key \(did you mean 'trials'"):
        graft.compare(**settings, trails=3)


def test_the_command_prints_the_verdict_and_the_files(here, settings, tmp_path, capsys):
    file = tmp_path / "compare.yaml"
    file.write_text(json.dumps(settings))  # JSON is YAML
    command = ["compare", "--recipe", str(file), "--out", str(tmp_path / "runs"), "--costs", "false"]
    assert cli.main([*command, "--plan"]) == 0
    assert capsys.readouterr().out.startswith("9 runs; about ")
    assert cli.main(command) == 0
    shown = capsys.readouterr().out
    assert "on words, " in shown
    assert f"wrote {tmp_path / 'runs' / 'comparison.json'}" in shown
    assert cli.main([*command, "--margin", "0"]) == 2
    assert "margin: expected greater than 0" in capsys.readouterr().err
    here.fails = lambda job: KeyboardInterrupt()
    assert cli.main([*command, "--seeds", "3"]) == 130
    assert "the same command goes on where it stopped" in capsys.readouterr().err


def test_further_seeds_go_to_the_undecided_and_the_reference_at_levels_that_add_up(
    here, settings, tmp_path, monkeypatch
):
    levels: list[float] = []

    def decide(bounds, *, last, **rest):
        levels.append(bounds.level)
        return "decided" if len(levels) == 1 or last else "go on"  # the first result asked about is bitfit's

    compare(settings, out=tmp_path, costs=False)
    monkeypatch.setattr(looks_module, "decide", decide)
    asked = settings | {"until_decided": True, "max_seeds": 4, "margin": 0.5}
    here.jobs.clear()
    found = compare(asked, out=tmp_path, costs=False).comparison
    seeds = {result.method: result.seeds for result in found.results}
    assert seeds == {"bitfit": (1, 2), "lora": (1, 2, 3, 4), "full": (1, 2, 3, 4)}
    assert [job[2:] for job in here.trained()] == [(3, "final")] * 2 + [(4, "final")] * 2
    assert {name for name, *_ in here.trained()} <= {"lora", "full"}
    assert all(0 < level <= 0.05 for level in levels)

    assert levels[0] < levels[-1]
    assert found.protocol.looks == 3
    here.jobs.clear()
    levels.clear()
    assert compare(asked, out=tmp_path, costs=False).comparison == found
    assert here.jobs == []


def test_what_seeds_cannot_decide_is_said(here, settings, tmp_path, monkeypatch):
    monkeypatch.setattr(looks_module, "decide", lambda bounds, **rest: "cannot be decided")
    found = compare(settings | {"until_decided": True, "max_seeds": 4}, out=tmp_path, costs=False).comparison
    assert {result.seeds for result in found.results} == {(1, 2)}
    assert sum("cannot be decided with these examples" in warning for warning in found.warnings) == 2


def test_an_outcome_and_a_job_survive_their_spelling(tiny_recipe, tmp_path):
    from graft.recipes.execution import Job

    job = Job(tiny_recipe("lora"), "trial", tmp_path, measure_cost=True)
    assert Job.from_json(job.to_json()) == job
    outcome = Outcome("bad", False, 1.5, {"seconds": 2.0})
    assert Outcome.from_json(outcome.to_json()) == outcome
    assert replace(outcome, failure=None) != outcome
