"""What a comparison says is recomputed from `predictions.parquet` with numpy and scipy alone."""

import json

import numpy as np
import pyarrow.parquet
import pytest
from scipy import stats
from synthetic_runs import invent_classes, invent_scores, write_run

from graft.eval.gathering import compare_runs

SEEDS, EXAMPLES, ALPHA = 4, 300, 0.05


def right(predictions, labels):
    return 100.0 * (predictions == labels)


def f1(predictions, labels):
    """2 TP / (2 TP + FP + FN), and what each example adds to it by the derivative of that fraction."""
    true = 2.0 * ((predictions == 1) & (labels == 1))
    counted = (predictions == 1).astype(float) + (labels == 1)
    value = true.sum() / counted.sum()
    return 100.0 * (value + (true - value * counted) / counted.mean())


def matthews(predictions, labels):
    """Pearson's correlation of two classes as numbers."""
    return pearson(predictions.astype(float), labels.astype(float))


def pearson(predictions, labels):
    """r, and its influence function z_x z_y - r (z_x^2 + z_y^2) / 2 (Devlin, Gnanadesikan & Kettenring 1975)."""
    x, y = ((side - side.mean()) / side.std() for side in (predictions.astype(float), labels))
    r = (x * y).mean()
    return 100.0 * (r + x * y - r * (x**2 + y**2) / 2)


METRICS = {"accuracy": right, "f1": f1, "matthews": matthews, "pearson": pearson}


def spread_out(folder, metric):
    """A run's metric as a mean over its validation examples, from the file alone: (N,)."""
    rows = pyarrow.parquet.read_table(folder / "predictions.parquet").to_pylist()
    rows = sorted((row for row in rows if row["split"] == "validation"), key=lambda row: row["id"])
    scores, labels = np.array([row["scores"] for row in rows]), np.array([row["label"] for row in rows])
    predictions = scores[:, 0] if metric == "pearson" else scores.argmax(axis=1)
    return METRICS[metric](predictions, labels)


def interval(differences, alpha, counts):
    """Crossed random effects by mean squares; critical values of both parts weighted (Cochran & Cox 1957).

    Never narrower than half the variance of the examples alone nor, for a metric that counts, than what an example that
    did not occur could change: (1 - p)^N = alpha / 2.
    """
    seeds, examples = differences.shape
    grand = differences.mean()
    by_seed, by_example = differences.mean(axis=1), differences.mean(axis=0)
    ms_seed = examples * ((by_seed - grand) ** 2).sum() / (seeds - 1)
    ms_example = seeds * ((by_example - grand) ** 2).sum() / (examples - 1)
    rest = differences - by_seed[:, None] - by_example + grand
    ms_rest = (rest**2).sum() / ((seeds - 1) * (examples - 1))
    part = max(ms_example - ms_rest, 0.0)
    error = np.sqrt((ms_seed + part) / (seeds * examples))
    t_seed, t_example = stats.t.ppf(1 - alpha / 2, [seeds - 1, examples - 1])
    critical = (ms_seed * t_seed + part * t_example) / (ms_seed + part)
    half = max(critical * error, t_example * np.sqrt(0.5 * ms_example / (seeds * examples)))
    if counts:
        half = max(half, -np.log(alpha / 2) * 100.0 / examples)
    return grand, grand - half, grand + half


def write_methods(root, metric, methods):
    if metric == "pearson":
        labels, found = invent_scores({name: 0.8 + 0.1 * n for n, name in enumerate(methods)}, SEEDS, EXAMPLES)
    else:
        levels = {name: 0.85 - 0.03 * n for n, name in enumerate(methods)}
        labels, found = invent_classes(levels, SEEDS, EXAMPLES, positives=0.67)
    other = labels[::-1]
    for method, all_scores in found.items():
        for seed, scores in enumerate(all_scores, 1):
            splits = {"holdout": (other, scores), "validation": (labels, scores)}
            write_run(root, splits, metrics=(metric,), method=method, seed=seed)


def differences(root, metric, method):
    def rows(name):
        found = {}
        for path in root.glob("*/record.json"):
            recipe = json.loads(path.read_text())["recipe"]
            if recipe["method"]["name"] == name:
                found[recipe["seed"]] = spread_out(path.parent, metric)
        return np.stack([found[seed] for seed in sorted(found)])

    ours, theirs = rows(method), rows("full")
    return ours.mean(), ours - theirs


@pytest.mark.parametrize("metric", METRICS)
def test_one_methods_result_is_that_of_an_independent_calculation(tmp_path, metric):
    write_methods(tmp_path, metric, ("full", "lora"))
    result = compare_runs([tmp_path], alpha=ALPHA).results[1]
    mean, differing = differences(tmp_path, metric, "lora")
    expected = (mean, *interval(differing, ALPHA, metric != "pearson"))
    assert (result.mean, result.difference, result.low, result.high) == pytest.approx(expected, abs=1e-9, rel=0)


@pytest.mark.parametrize("metric", METRICS)
def test_several_methods_intervals_lie_between_each_alone_and_bonferroni(tmp_path, metric):
    methods = ("lora", "bitfit", "probe")
    write_methods(tmp_path, metric, ("full", *methods))
    found = {result.method: result for result in compare_runs([tmp_path], alpha=ALPHA).results}
    wider = False
    for method in methods:
        _, differing = differences(tmp_path, metric, method)
        point, low, high = interval(differing, ALPHA, metric != "pearson")
        _, lowest, highest = interval(differing, ALPHA / len(methods), metric != "pearson")
        assert found[method].difference == pytest.approx(point, abs=1e-9, rel=0)
        assert lowest - 1e-9 <= found[method].low <= low + 1e-9
        assert high - 1e-9 <= found[method].high <= highest + 1e-9
        wider |= found[method].high > high + 1e-6
    assert wider
