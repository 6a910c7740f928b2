"""From run folders to a comparison: what counts, what is refused, what is warned of."""

import json
import shutil
import time

import numpy as np
import pytest
from scipy import stats
from synthetic_runs import invent_classes, invent_scores, write_run

from graft.errors import RunError
from graft.eval.comparison import read_comparison, write_comparison
from graft.eval.folders import find_runs
from graft.eval.gathering import compare_runs


@pytest.fixture
def write_suite(tmp_path):
    """Make `write(accuracies, seeds, examples, **run)`: runs of several methods on the same examples."""

    def write(accuracies=None, seeds=3, examples=200, *, root=tmp_path, number=0, only_seeds=None, **run):
        accuracies = accuracies or {"full": 0.85, "lora": 0.84, "bitfit": 0.6}
        labels, found = invent_classes(accuracies, seeds, examples, seed=number)
        return {
            (method, seed): write_run(root, {"validation": (labels, scores)}, method=method, seed=seed, **run)
            for method, all_scores in found.items()
            for seed, scores in enumerate(all_scores, 1)
            if only_seeds is None or seed in only_seeds.get(method, range(1, seeds + 1))
        }

    return write


def by_method(comparison, task="mrpc"):
    return {result.method: result for result in comparison.results if result.task == task}


def test_every_method_is_compared_with_the_reference_which_comes_first(write_suite, tmp_path):
    write_suite()
    comparison = compare_runs([tmp_path], margin=1.0)
    assert [result.method for result in comparison.results] == ["full", "bitfit", "lora"]
    found = by_method(comparison)
    assert (found["full"].direction, found["full"].size, found["full"].low) == ("reference", "reference", None)
    assert (found["bitfit"].direction, found["bitfit"].size) == ("worse", "not equivalent")
    assert found["lora"].direction == "not shown"
    assert found["lora"].seeds == (1, 2, 3)
    assert found["lora"].low < found["lora"].difference < found["lora"].high
    assert found["lora"].sentence.startswith("lora: not shown to differ from full fine-tuning on mrpc, ")
    assert comparison.warnings == ()
    assert comparison.missing == ()
    write_comparison(tmp_path, comparison)
    assert read_comparison(tmp_path) == comparison


def test_the_report_names_what_all_runs_have_in_common(write_suite, tmp_path):
    write_suite()
    comparison = compare_runs([tmp_path], margin=1.0, alpha=0.1)
    protocol = comparison.protocol
    assert (protocol.alpha, protocol.margin, protocol.reference) == (0.1, 1.0, "full")
    assert protocol.settings["schedule"] == {"epochs": 3.0, "steps": None, "examples": 32}
    assert protocol.settings.keys().isdisjoint({"task", "model", "method", "seed"})
    assert "lr" not in protocol.settings["optim"]
    assert comparison.versions == {"torch": "2.13.0", "numpy": "2.2.0"}
    assert comparison.hardware["cpu"] == "x86_64"
    assert protocol.fingerprints.keys() == {"mrpc"}


def test_runs_are_found_one_or_two_levels_deep_and_never_in_hidden_folders(write_suite, tmp_path):
    write_suite(root=tmp_path / "all" / "machine")
    write_suite(root=tmp_path / "all" / ".hidden", number=1)
    write_suite(root=tmp_path / "all" / "too" / "deep", number=2)
    assert len(find_runs([tmp_path / "all"]).finals) == 9
    assert len(find_runs([tmp_path / "all" / "machine"]).finals) == 9
    folders = sorted((tmp_path / "all" / "machine").iterdir())
    assert [run.folder for run in find_runs(folders).finals] == folders  # run folders themselves
    assert len(find_runs([tmp_path / "all", tmp_path / "all" / "machine"]).finals) == 9


def test_a_run_that_was_gathered_twice_counts_once(write_suite, tmp_path):
    write_suite(root=tmp_path / "one")
    before = compare_runs([tmp_path], margin=1.0)
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    after = compare_runs([tmp_path], margin=1.0)
    assert [result.difference for result in after.results] == [result.difference for result in before.results]
    assert after.warnings == ()


def test_of_copies_the_final_and_the_measured_one_counts(write_suite, tmp_path):
    folders = write_suite(root=tmp_path / "one")
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    original = folders["lora", 1]
    copy = tmp_path / "two" / original.name
    value = json.loads((copy / "record.json").read_text())
    (copy / "record.json").write_text(json.dumps(value | {"cost": {"seconds_per_step": 0.5}}))
    (original / "record.json").write_text(json.dumps(value | {"kind": "trial", "cost": {"seconds_per_step": 0.1}}))
    found = find_runs([tmp_path])
    assert len(found.finals) == 9
    assert found.trials == ()
    assert copy in {run.folder for run in found.finals}
    assert by_method(compare_runs([tmp_path]))["lora"].costs["seconds_per_step"].value == 0.5
    other = tmp_path / "two" / folders["full", 1].name / "record.json"
    other.write_text(json.dumps(json.loads(other.read_text()) | {"cost": {"seconds_per_step": 0.25}}))
    assert by_method(compare_runs([tmp_path]))["full"].costs["seconds_per_step"].value == 0.25


def test_trials_are_no_results_and_those_on_other_data_do_not_count(write_suite, tmp_path):
    write_suite()
    before = by_method(compare_runs([tmp_path]))
    write_suite({"lora": 0.99}, data="other", kind="trial", **{"optim.lr": 1e-3})
    after = by_method(compare_runs([tmp_path]))
    assert after == before
    assert after["lora"].trials == 0


def test_the_chosen_rate_and_the_number_of_trials_are_read_off_the_trials(write_suite, tmp_path):
    folders = write_suite()
    for rate in (1e-3, 2e-3, 4e-3):
        as_trial(folders["lora", 1], tmp_path / f"trial-{rate}", rate)
    as_trial(folders["full", 1], tmp_path / "trial-full", 1e-5)
    comparison = compare_runs([tmp_path])
    results = by_method(comparison)
    assert (results["lora"].chosen, results["lora"].trials) == ({"optim.lr": 5e-4}, 4)
    assert (results["full"].chosen, results["full"].trials) == ({"optim.lr": 5e-5}, 2)
    assert (results["bitfit"].chosen, results["bitfit"].trials) == ({}, 0)
    (warning,) = [warning for warning in comparison.warnings if "trials" in warning]
    assert "bitfit 0, full 2, lora 4" in warning


def as_trial(folder, copy, rate):
    """Leave what a trial with another learning rate would have left."""
    shutil.copytree(folder, copy)
    value = json.loads((copy / "record.json").read_text())
    value["recipe"]["optim"]["lr"] = rate
    scores = {"holdout": value["scores"]["holdout"]}
    value |= {"kind": "trial", "digest": f"{rate}{value['digest']}", "scores": scores}
    (copy / "record.json").write_text(json.dumps(value))


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        ("record", "damaged"),
        ("recipe", "not a run record: recipe"),
        ("no predictions", "not there"),
        ("cut", "damaged"),
        ("scores", "the record says"),
        ("fewer", "199 examples of validation are scored, of 200"),
    ],
)
def test_a_damaged_run_is_named_left_out_and_counted(write_suite, tmp_path, damage, reason):
    folder = write_suite()["lora", 2]
    record, predictions = folder / "record.json", folder / "predictions.parquet"
    value = json.loads(record.read_text())
    match damage:
        case "record":
            record.write_text(record.read_text()[:100])
        case "recipe":
            record.write_text(json.dumps(value | {"recipe": {"method": "lora"}}))
        case "no predictions":
            predictions.unlink()
        case "cut":
            predictions.write_bytes(predictions.read_bytes()[:-20])
        case "scores":
            value["scores"]["validation"]["accuracy"] += 1e-4
            record.write_text(json.dumps(value))
        case "fewer":
            import pyarrow.parquet

            table = pyarrow.parquet.read_table(predictions)
            pyarrow.parquet.write_table(table.slice(0, 199), predictions)
    comparison = compare_runs([tmp_path])
    (missing,) = comparison.missing
    assert str(folder) in missing.what
    assert reason in missing.reason
    assert by_method(comparison)["lora"].seeds == (1, 3)
    assert any("do not share the seeds 2" in warning for warning in comparison.warnings)


def test_predictions_whose_examples_are_not_the_others_are_damaged(write_suite, tmp_path):
    folder = write_suite()["full", 1]
    import pyarrow as pa
    import pyarrow.parquet

    table = pyarrow.parquet.read_table(folder / "predictions.parquet")
    ids = pa.array(np.arange(200) + 1000, pa.int64())
    pyarrow.parquet.write_table(table.set_column(1, "id", ids), folder / "predictions.parquet")
    comparison = compare_runs([tmp_path])
    assert "its examples are not those of the other runs" in comparison.missing[0].reason
    assert by_method(comparison)["full"].seeds == (2, 3)


def test_the_order_of_rows_in_a_file_does_not_matter(write_suite, tmp_path):
    folders = write_suite()
    before = by_method(compare_runs([tmp_path]))["lora"]
    import pyarrow.parquet

    path = folders["lora", 1] / "predictions.parquet"
    table = pyarrow.parquet.read_table(path)
    pyarrow.parquet.write_table(table.take(np.random.default_rng(0).permutation(200)), path)
    assert by_method(compare_runs([tmp_path]))["lora"].low == pytest.approx(before.low, abs=1e-12)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"data": "other"}, "the examples in train"),
        ({"examples": 150}, r"the size of validation \(200 examples, 150\)"),
        ({"metrics": ("f1", "accuracy")}, r"the metric \(accuracy; f1\)"),
        ({"checkpoint": "d" * 64}, "different weights under the name minilm"),
        ({"record_changes": {"holdout_trained_on": True}}, "whether the holdout was trained on"),
    ],
)
def test_runs_that_cannot_be_compared_are_refused_by_both_names(write_suite, tmp_path, change, what):
    first = write_suite({"full": 0.8})
    second = write_suite({"lora": 0.8}, **change)
    with pytest.raises(RunError, match=what) as raised:
        compare_runs([tmp_path])
    assert str(first["full", 1]) in str(raised.value)
    assert str(second["lora", 1]) in str(raised.value)


def test_other_conditions_are_warned_of(write_suite, tmp_path):
    write_suite({"full": 0.8})
    write_suite(
        {"lora": 0.8},
        hardware={"cpu": "arm"},
        versions={"torch": "2.14.0", "numpy": "2.2.0"},
        record_changes={"warnings": ["memory ran out once"]},
        **{"schedule.epochs": 10.0, "speed.precision": "bf16"},
    )
    comparison = compare_runs([tmp_path])
    warnings = "\n".join(comparison.warnings)
    assert "different hardware: cpu x86_64, arm" in warnings
    assert "different precision: precision fp32, bf16" in warnings
    assert "different library versions: torch 2.13.0, 2.14.0" in warnings
    assert "lora was trained otherwise than full, in schedule.epochs (10.0, 3.0)" in warnings
    assert "memory ran out once" in warnings
    assert comparison.versions["torch"] == "2.13.0, 2.14.0"


def test_time_and_memory_are_only_compared_on_hardware_of_one_kind(write_suite, tmp_path):
    cost = {"seconds_per_step": 0.2, "peak_memory_bytes": 2e9}
    write_suite({"full": 0.8}, cost=cost)
    write_suite({"lora": 0.8}, cost={"seconds_per_step": 0.3, "peak_memory_bytes": 1e9})
    costs = by_method(compare_runs([tmp_path]))["lora"].costs
    assert costs["seconds_per_step"].ratio == pytest.approx(1.5)
    assert costs["peak_memory_bytes"].ratio == 0.5
    assert costs["artefact_bytes"].value == 1000
    assert costs["trainable"].ratio == pytest.approx(310_000 / 22_000_000)
    assert costs["train_seconds"].value == 12.0
    write_suite({"bitfit": 0.8}, cost=cost, hardware={"cpu": "arm"})
    costs = by_method(compare_runs([tmp_path]))["bitfit"].costs
    assert costs["seconds_per_step"].value == 0.2
    assert costs["seconds_per_step"].ratio is None
    assert costs["trainable"].ratio is not None


def test_what_was_not_measured_is_left_out_rather_than_zero(write_suite, tmp_path):
    shutil.rmtree(write_suite({"full": 0.8, "lora": 0.8}, seeds=1)["lora", 1] / "adapter")
    costs = by_method(compare_runs([tmp_path]))["lora"].costs
    assert costs.keys() == {"trainable", "trainable_without_head", "total", "train_seconds"}


def test_the_reference_must_be_there(write_suite, tmp_path):
    write_suite({"lora": 0.9, "bitfit": 0.5})
    with pytest.raises(RunError, match="to compare with; give --reference with one of: bitfit; lora"):
        compare_runs([tmp_path])
    comparison = compare_runs([tmp_path], reference="lora")
    assert by_method(comparison)["bitfit"].sentence.startswith("bitfit: worse than lora on mrpc")
    with pytest.raises(RunError, match="did you mean 'lora'"):
        compare_runs([tmp_path], reference="lorra")


def test_a_task_without_the_reference_is_missing_and_the_others_go_on(write_suite, tmp_path):
    write_suite()
    write_suite({"lora": 0.8}, task="rte")
    comparison = compare_runs([tmp_path])
    assert {result.task for result in comparison.results} == {"mrpc"}
    assert comparison.missing[0].what == "rte, minilm"
    assert "no run of full to compare with" in comparison.missing[0].reason


def test_the_difference_uses_the_seeds_that_both_have(write_suite, tmp_path):
    write_suite(only_seeds={"full": (1, 2), "lora": (2, 3), "bitfit": (3,)})
    comparison = compare_runs([tmp_path])
    found = by_method(comparison)
    assert found["full"].seeds == (1, 2)
    assert found["lora"].seeds == (2,)
    assert found["lora"].difference == pytest.approx(found["lora"].scores[0] - found["full"].scores[1])
    assert "bitfit" not in found
    assert comparison.missing[0].what == "mrpc, minilm, bitfit"
    assert any("lora and full do not share the seeds 1, 3" in warning for warning in comparison.warnings)


def test_a_single_seed_gives_an_interval_over_examples_and_says_so(write_suite, tmp_path):
    write_suite(seeds=1)
    comparison = compare_runs([tmp_path], margin=1.0)
    result = by_method(comparison)["lora"]
    assert result.components is None
    assert result.low < result.difference < result.high
    assert "single seed" in result.sentence
    assert any("a single seed of bitfit, lora" in warning for warning in comparison.warnings)
    assert comparison.power == ()


def test_few_examples_are_warned_of_with_the_width(write_suite, tmp_path):
    write_suite(examples=40)
    comparison = compare_runs([tmp_path])
    result = by_method(comparison)["lora"]
    (warning,) = [warning for warning in comparison.warnings if "only 40 evaluation examples" in warning]
    assert f"lora ±{(result.high - result.low) / 2:.1f}" in warning


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"margin": 0.0}, "margin: 0 is no margin"),
        ({"margin": -1.0}, "margin: -1 is no margin"),
        ({"margin": float("nan")}, "margin: nan is no margin"),
        ({"margin": float("inf")}, "margin: inf is no margin"),
        ({"alpha": 0.0}, "alpha: 0 is no level"),
        ({"alpha": 0.5}, "alpha: 0.5 is no level"),
        ({"alpha": float("nan")}, "alpha: nan is no level"),
        ({"level": 0.06}, "level: 0.06 is not above 0 and at most alpha"),
        ({"metric": "accurracy"}, "did you mean 'accuracy'"),
        ({"metric": "pearson"}, "no metric 'pearson' for mrpc"),
    ],
)
def test_values_that_mean_nothing_are_refused(write_suite, tmp_path, given, message):
    write_suite(seeds=1, examples=60)
    with pytest.raises(RunError, match=message):
        compare_runs([tmp_path], **given)


def test_folders_without_anything_to_compare_say_so(write_suite, tmp_path):
    with pytest.raises(RunError, match="no such folder"):
        compare_runs([tmp_path / "absent"])
    with pytest.raises(RunError, match="no finished final run"):
        compare_runs([tmp_path])
    write_suite({"full": 0.8}, kind="trial", seeds=1)
    with pytest.raises(RunError, match="1 trials are there"):
        compare_runs([tmp_path])
    write_suite({"full": 0.8}, data="other", task="rte")
    with pytest.raises(RunError, match="runs of full alone"):
        compare_runs([tmp_path])


def test_another_metric_may_be_judged(write_suite, tmp_path):
    write_suite()
    comparison = compare_runs([tmp_path], metric="macro_f1")
    assert {result.metric for result in comparison.results} == {"macro_f1"}


def test_a_part_of_the_level_widens_intervals_and_leaves_the_stated_level(write_suite, tmp_path):
    write_suite()
    whole, part = (compare_runs([tmp_path], level=level, looks=2) for level in (None, 0.01))
    assert part.protocol.alpha == whole.protocol.alpha == 0.05
    assert part.protocol.looks == 2
    assert by_method(part)["lora"].low < by_method(whole)["lora"].low


def test_further_validation_splits_are_rows_of_their_own_and_no_part_of_the_suite(tmp_path):
    for task, splits in (("mnli", ("validation_matched", "validation_mismatched")), ("rte", ("validation",))):
        for method in ("full", "lora"):
            parts = {name: invent_classes({method: 0.8}, 1, 120, seed=4, classes=3) for name in splits}
            for seed in (1, 2):
                scored = {name: (labels, found[method][0] + seed * 1e-3) for name, (labels, found) in parts.items()}
                write_run(tmp_path, scored, task=task, method=method, seed=seed)
    comparison = compare_runs([tmp_path])
    assert list(dict.fromkeys(result.task for result in comparison.results)) == [
        *("mnli", "mnli/validation_mismatched", "rte")
    ]
    assert comparison.suite[0].tasks == ("mnli", "rte")


def test_the_suite_has_means_ranks_and_wins(write_suite, tmp_path):
    for number, task in enumerate(("mrpc", "rte", "sst2")):
        write_suite({"full": 0.85, "lora": 0.85, "bitfit": 0.6}, task=task, number=number)
    comparison = compare_runs([tmp_path], margin=5.0)
    suite = {mean.method: mean for mean in comparison.suite}
    assert list(suite) == ["full", "bitfit", "lora"]
    for method, mean in suite.items():
        results = [result for result in comparison.results if result.method == method]
        assert mean.mean == pytest.approx(np.mean([result.mean for result in results]))
        assert mean.difference == pytest.approx(np.mean([result.difference for result in results]))
    assert (suite["bitfit"].rank, suite["bitfit"].losses, suite["bitfit"].direction) == (3.0, 3, "worse")
    ranks = [stats.rankdata([-by_method(comparison, task)[m].mean for m in suite]) for task in suite["full"].tasks]
    assert [mean.rank for mean in suite.values()] == pytest.approx(np.mean(ranks, axis=0).tolist())
    widths = [found.high - found.low for found in (by_method(comparison, task)["lora"] for task in suite["full"].tasks)]
    assert suite["lora"].high - suite["lora"].low < np.mean(widths)
    assert "the mean over 3 tasks" in suite["lora"].sentence


def test_a_method_that_lacks_a_task_has_no_mean_over_tasks(write_suite, tmp_path):
    write_suite()
    write_suite({"full": 0.8, "lora": 0.8}, task="rte", number=1)
    comparison = compare_runs([tmp_path])
    assert {mean.method for mean in comparison.suite} == {"full", "lora"}
    assert any("bitfit has no result on rte" in warning for warning in comparison.warnings)


def test_metrics_in_different_units_have_no_mean(tmp_path, write_suite):
    write_suite()
    generator = np.random.default_rng(0)
    for method in ("full", "lora"):
        for seed in (1, 2):
            scores = np.stack([-generator.uniform(20, 60, size=80), np.full(80, 20.0)], axis=1)
            splits = {"validation": (np.zeros(80), scores)}
            write_run(tmp_path, splits, metrics=("loss",), task="text", method=method, seed=seed)
    comparison = compare_runs([tmp_path])
    assert comparison.suite == ()
    assert any("different units" in warning for warning in comparison.warnings)
    found = by_method(comparison, "text")["lora"]
    assert found.higher_is_better is False
    assert found.mcnemar == ()
    assert "nats" in found.sentence


def test_where_less_is_better_a_negative_difference_is_the_better_one(tmp_path):
    generator = np.random.default_rng(0)
    base = generator.uniform(30, 60, size=400)
    for method, less in (("full", 0.0), ("lora", 10.0)):
        for seed in (1, 2, 3):
            likelihoods = -(base - less + generator.normal(size=400))
            scores = np.stack([likelihoods, np.full(400, 20.0)], axis=1)
            splits = {"validation": (np.zeros(400), scores)}
            write_run(tmp_path, splits, metrics=("loss",), task="text", method=method, seed=seed)
    result = by_method(compare_runs([tmp_path]), "text")["lora"]
    assert result.difference == pytest.approx(-0.5, abs=0.05)
    assert result.direction == "better"


def test_mcnemar_of_each_seed_is_the_exact_binomial_test(write_suite, tmp_path):
    write_suite()
    labels, found = invent_classes({"full": 0.85, "lora": 0.84, "bitfit": 0.6}, 3, 200)
    for method in ("lora", "bitfit"):
        expected = []
        for ours, theirs in zip(found[method], found["full"], strict=True):
            right, base = ours.argmax(1) == labels, theirs.argmax(1) == labels
            gained, lost = (right & ~base).sum(), (~right & base).sum()
            tail = stats.binom.cdf(min(gained, lost), gained + lost, 0.5)
            expected.append(min(1.0, 2 * tail))
        assert by_method(compare_runs([tmp_path]))[method].mcnemar == pytest.approx(expected)


def test_what_is_known_to_be_missing_is_passed_on(write_suite, tmp_path):
    from graft.eval.comparison import Missing

    write_suite()
    failed = Missing(what="mrpc, minilm, prefix, seed 1", reason="loss is not finite")
    assert compare_runs([tmp_path], missing=[failed]).missing == (failed,)


def test_power_says_what_would_decide(write_suite, tmp_path):
    write_suite()
    comparison = compare_runs([tmp_path], margin=1.0)
    assert {power.method for power in comparison.power} == {"lora", "bitfit"}
    power = next(power for power in comparison.power if power.method == "lora")
    widths = list(power.half_widths.values())
    assert widths == sorted(widths, reverse=True)
    assert power.limit <= widths[-1]
    assert "200 examples and 3 seeds" in power.sentence
    result = by_method(comparison)["lora"]
    assert power.half_widths["3"] == pytest.approx((result.high - result.low) / 2, rel=0.7)


@pytest.mark.slow
def test_seven_methods_of_five_seeds_are_judged_within_five_seconds(tmp_path):
    names = ("full", "probe", "bitfit", "lora", "bottleneck", "prefix", "ia3")
    labels, found = invent_scores({name: 0.8 + 0.02 * n for n, name in enumerate(names)}, 5, 1500)
    for method, all_scores in found.items():
        for seed, scores in enumerate(all_scores, 1):
            splits = {"validation": (labels, scores)}
            write_run(tmp_path, splits, metrics=("pearson", "spearman"), task="stsb", method=method, seed=seed)
    started = time.process_time()
    compare_runs([tmp_path], margin=1.0)
    assert time.process_time() - started < 5.0
