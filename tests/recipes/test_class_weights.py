"""Class weights multiply each example's loss, by scikit-learn's formula or as they are given."""

import json

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from sklearn.utils.class_weight import compute_class_weight

from graft import train
from graft.errors import RecipeError
from graft.recipes.building import build, gather
from graft.recipes.class_weights import ClassWeights, balanced
from graft.recipes.options import RunOptions
from graft.recipes.step import train_step

CPU = torch.device("cpu")
NAMED = {"name": "class_weights", "weights": {"low": 0.5, "high": 3.0, "none": 1.25}}


@pytest.fixture(scope="module")
def uneven_task(tmp_path_factory):
    """Three classes, of 40, 13 and 4 training examples."""
    folder = tmp_path_factory.mktemp("uneven") / "words"
    folder.mkdir()
    names = ["none"] * 40 + ["low"] * 13 + ["high"] * 4
    rows = [{"text": f"w{number} w{number % 7}", "label": name} for number, name in enumerate(names)]
    for split, chosen in (("train", rows), ("validation", rows[1::3])):
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in chosen))
    return folder


def state_of(tiny_recipe, task, terms, **sections):
    recipe = tiny_recipe(
        task={"data": str(task), "holdout": 0}, model={"dropout": 0.0}, objective={"terms": terms}, **sections
    )
    return build(gather(recipe), CPU)


def outputs_of(state, rows):
    batch = state.kind.collate(state.train, rows.tolist())
    with torch.no_grad():
        return state.model(batch.inputs).logits.double().numpy(), batch.labels.numpy()


def losses_of(logits, labels):
    """Cross-entropy by hand."""
    likelihoods = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return -np.log(likelihoods[np.arange(len(labels)), labels])


@pytest.mark.parametrize("tokens", [8192, 10])  # all in one micro-batch, or one example in each
@pytest.mark.parametrize("terms", ["class_weights", [NAMED]])
def test_a_steps_loss_is_the_sum_of_weighted_losses_over_the_examples(tiny_recipe, uneven_task, terms, tokens):
    state = state_of(tiny_recipe, uneven_task, terms, budget={"tokens": tokens})
    names, labels = gather(state.recipe).data.label_names, state.train.labels
    if terms == "class_weights":
        counts = dict(zip(*np.unique(labels, return_counts=True), strict=True))
        weights = np.array([57 / (3 * counts[number]) for number in range(3)])
        assert sorted(counts.values()) == [4, 13, 40]
    else:
        weights = np.array([NAMED["weights"][name] for name in names])
    rows = state.rows()
    logits, truth = outputs_of(state, rows)
    train_step([state], Accelerator(cpu=True))
    expected = (weights[truth] * losses_of(logits, truth)).sum() / len(rows)
    assert state.losses == [pytest.approx(expected, rel=1e-5)]


def test_over_the_whole_split_balanced_weights_are_torchs_own(tiny_recipe, uneven_task):
    """The gradient too: all examples in one step, against `CrossEntropyLoss(weight=...)`."""
    state = state_of(tiny_recipe, uneven_task, "class_weights", schedule={"examples": 57}, optim={"clip": None})
    weights = torch.tensor(balanced(state.train.labels, 3), dtype=torch.float32)
    batch = state.kind.collate(state.train, range(57))
    state.model.train()
    expected = torch.nn.CrossEntropyLoss(weight=weights)(state.model(batch.inputs).logits, batch.labels)
    expected.backward()
    gradient = state.model.heads["default"].classifier.weight.grad.clone()
    state.optimizer.zero_grad()
    seen = []
    state.optimizer.register_step_pre_hook(
        lambda *_: seen.append(state.model.heads["default"].classifier.weight.grad.clone())
    )
    train_step([state], Accelerator(cpu=True))
    assert state.losses == [pytest.approx(expected.item(), rel=1e-5)]
    torch.testing.assert_close(seen[0], gradient, rtol=1e-4, atol=1e-6)


def test_balanced_weights_are_scikit_learns_and_have_a_mean_of_one():
    labels = np.random.default_rng(1).choice(4, p=[0.6, 0.25, 0.1, 0.05], size=200)
    weights = np.array(balanced(labels, 4))
    np.testing.assert_allclose(weights, compute_class_weight("balanced", classes=np.arange(4), y=labels))
    assert weights[labels].mean() == pytest.approx(1.0)


def test_a_class_without_training_examples_leaves_the_others_balanced():
    labels = np.array([0, 0, 0, 2])
    assert balanced(labels, 4) == pytest.approx([4 / (2 * 3), 1.0, 4 / 2, 1.0])


@pytest.mark.parametrize(
    ("weights", "complaint"),
    [
        (
            {"none": 1, "low": 1, "hihg": 1},
            r"'hihg' is no class of this task \(did you mean 'high'\?\).*high, low, none",
        ),
        ({"none": 1, "low": 1}, r"no weight for high; every class needs one.*high, low, none"),
        ({}, r"no weight for high, low, none"),
        ({True: 1}, r"'true' is no class of this task; .*yes and no are names only in quotes"),
    ],
)
def test_weights_that_do_not_fit_the_classes_are_refused(tiny_recipe, uneven_task, weights, complaint):
    with pytest.raises(RecipeError, match=r"objective\.terms: class_weights\.weights: " + complaint):
        state_of(tiny_recipe, uneven_task, [NAMED | {"weights": weights}])


@pytest.mark.parametrize("kind", ["regression", "causal_lm"])
def test_a_task_without_classes_is_refused(tiny_recipe, tmp_path, word_task, kind):
    task = {"data": str(word_task), "kind": kind} | ({"label": None} if kind == "causal_lm" else {})
    family = "gpt2" if kind == "causal_lm" else "bert"
    recipe = tiny_recipe(family=family, task=task, objective={"terms": "class_weights"})
    with pytest.raises(RecipeError, match=r"class_weights: this task has no classes.*drop the term"):
        train(recipe, options=RunOptions(out=tmp_path / "runs", quiet=True))
    assert not list((tmp_path / "runs").glob("[!.]*"))


def test_weights_change_what_is_learned_and_the_run_reads_back(tiny_recipe, uneven_task, tmp_path):
    def run(objective):
        recipe = tiny_recipe(task={"data": str(uneven_task), "holdout": 0}, objective=objective)
        return train(recipe, options=RunOptions(out=tmp_path, quiet=True))

    plain, weighted = run({}), run({"terms": [NAMED]})
    assert plain.record.losses != weighted.record.losses
    assert weighted.record.recipe["objective"]["terms"] == [NAMED]
    assert run({"terms": [NAMED]}).reused


def test_the_term_names_itself():
    assert ClassWeights({"a": 1.0}).identity() == {"name": "class_weights", "weights": {"a": 1.0}}
    assert ClassWeights().identity() == {"name": "class_weights", "weights": "balanced"}
