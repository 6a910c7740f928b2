"""Examples on which methods disagree."""

import shutil

import numpy as np
import pytest
from scipy.special import softmax
from synthetic_runs import write_run, write_texts

from graft.eval.disagreement import disagreements
from graft.eval.gathering import compare_runs
from graft.eval.records import read_record

LABELS = np.tile([0, 1], 30)
TEXTS = [(f"first {n} <script>", f"second {n}") for n in range(60)]


def logits(wrong):
    said = LABELS.copy()
    said[list(wrong)] = 1 - said[list(wrong)]
    return np.eye(2)[said] * 3.0


@pytest.fixture
def suite(tmp_path):
    """Three seeds each; full errs on 0 to 4, lora on 3 to 5, of which 5 with two seeds of three and 6 with one."""
    for seed in (1, 2, 3):
        full = write_run(tmp_path, {"validation": (LABELS, logits(range(5)))}, method="full", seed=seed)
        wrong = {3, 4, *([5] if seed < 3 else []), *([6] if seed == 1 else [])}
        write_run(tmp_path, {"validation": (LABELS, logits(wrong))}, method="lora", seed=seed)
    write_texts(tmp_path, read_record(full), TEXTS, LABELS)
    return tmp_path


def test_examples_that_one_gets_right_and_another_wrong_come_most_disagreeing_first(suite):
    found = disagreements(compare_runs([suite]))
    assert [one.id for one in found] == [0, 1, 2, 5]
    assert [one.spread for one in found] == pytest.approx([1, 1, 1, 2 / 3])
    last = found[-1]
    assert (last.task, last.texts, last.label) == ("mrpc", TEXTS[5], "class 1")
    full, lora = last.answers
    assert (full.method, full.says, full.right) == ("full", "class 1", 1.0)
    assert (lora.method, lora.says, lora.right) == ("lora", "class 0", pytest.approx(1 / 3))
    sure = softmax([3.0, 0.0])
    assert full.probability == pytest.approx(sure[0])
    assert lora.probability == pytest.approx((2 * sure[1] + sure[0]) / 3)


def test_there_are_at_most_as_many_as_asked_for(suite):
    assert [one.id for one in disagreements(compare_runs([suite]), limit=2)] == [0, 1]


def test_runs_that_were_moved_are_found_again(suite, tmp_path_factory):
    comparison = compare_runs([suite])
    moved = tmp_path_factory.mktemp("moved") / "runs"
    shutil.move(suite, moved)
    assert disagreements(comparison) == ()
    assert [one.id for one in disagreements(comparison, [moved])] == [0, 1, 2, 5]
    run_folders = [path for path in moved.iterdir() if not path.name.startswith(".")]
    assert disagreements(comparison, run_folders)[0].texts == TEXTS[0]


def test_without_the_table_of_texts_there_are_no_texts(suite):
    comparison = compare_runs([suite])
    shutil.rmtree(suite / ".examples")
    assert [one.texts for one in disagreements(comparison)] == [()] * 4


def test_regressions_disagree_where_their_mean_scores_lie_furthest_apart(tmp_path):
    truth = np.linspace(0, 5, 60).astype(np.float32)
    for method, shift in (("full", 0.0), ("lora", 1.0)):
        for seed in (1, 2):
            scores = truth + 0.01 * seed
            scores[[7, 9]] += np.array([shift, 2 * shift])
            splits = {"validation": (truth, scores)}
            write_run(tmp_path, splits, metrics=("pearson",), task="stsb", method=method, seed=seed)
    first, second = disagreements(compare_runs([tmp_path]))[:2]
    assert (first.id, second.id) == (9, 7)
    assert first.spread == pytest.approx(2.0, abs=1e-5)
    assert first.label == pytest.approx(truth[9])
    assert first.answers[0].right is None
    assert first.answers[1].says == pytest.approx(float(truth[9]) + 2.015, abs=1e-5)


def test_language_models_have_no_disagreements(tmp_path):
    for method, least in (("full", 20), ("lora", 10)):
        scores = np.stack([-np.linspace(least, 60, 80), np.full(80, 20.0)], axis=1)
        write_run(tmp_path, {"validation": (np.zeros(80), scores)}, metrics=("loss",), task="text", method=method)
    assert disagreements(compare_runs([tmp_path])) == ()
