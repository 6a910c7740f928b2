"""Which runs are one method, and what it is called."""

import numpy as np
import pytest
from synthetic_runs import write_run

from graft.errors import RunError
from graft.eval.folders import find_runs
from graft.eval.gathering import gather
from graft.eval.grouping import group_runs, name_models

LABELS = np.tile([0, 1], 30)
SPLITS = {"validation": (LABELS, np.eye(2)[LABELS])}


def groups(root):
    runs = find_runs([root]).finals
    return group_runs(runs, name_models(runs))


def labels(root, task=None):
    return sorted({group.label for group in groups(root)[0] if task in (None, group.task)})


def test_seeds_and_machines_do_not_tell_methods_apart(tmp_path):
    write_run(tmp_path, SPLITS, seed=1)
    write_run(tmp_path, SPLITS, seed=2, device="cuda", threads=8, **{"budget.tokens": 512, "speed.precision": "bf16"})
    ((group,), warnings) = groups(tmp_path)
    assert (group.label, [run.seed for run in group.runs], warnings) == ("full", [1, 2], [])


def test_methods_of_one_name_are_told_apart_by_what_differs(tmp_path):
    for rank in (8, 16):
        write_run(tmp_path, SPLITS, method={"name": "lora", "r": rank})
    write_run(tmp_path, SPLITS)
    assert labels(tmp_path) == ["full", "lora, r=16", "lora, r=8"]


def test_a_rate_that_was_chosen_for_each_task_splits_no_label(tmp_path):
    for task, rate in (("mrpc", 5e-4), ("rte", 1e-3)):
        write_run(tmp_path, SPLITS, task=task, method="lora", **{"optim.lr": rate})
    assert labels(tmp_path) == ["lora"]


def test_a_rate_that_was_chosen_for_each_variant_and_task_is_no_part_of_the_label(tmp_path):
    rates = iter((1e-4, 2e-4, 3e-4, 4e-4))
    for task in ("mrpc", "rte"):
        for rank in (8, 16):
            write_run(tmp_path, SPLITS, task=task, method={"name": "lora", "r": rank}, **{"optim.lr": next(rates)})
    assert labels(tmp_path, "mrpc") == labels(tmp_path, "rte") == ["lora, r=16", "lora, r=8"]


def test_any_setting_that_differs_between_tasks_only_splits_no_label(tmp_path):
    for task, epochs in (("mrpc", 3.0), ("rte", 10.0)):
        write_run(tmp_path, SPLITS, task=task, method="lora", **{"schedule.epochs": epochs})
    assert labels(tmp_path) == ["lora"]


def test_two_rates_on_one_task_are_two_methods(tmp_path):
    for rate in (5e-4, 1.25e-3):
        write_run(tmp_path, SPLITS, method="lora", **{"optim.lr": rate})
    assert labels(tmp_path) == ["lora, lr=1.25e-3", "lora, lr=5e-4"]


def test_values_are_worded_as_people_write_them(tmp_path):
    for number, changes in enumerate(
        (
            {"strategy.name": "gradual"},
            {"method": {"name": "lora", "targets": ["query", "value"]}},
            {"objective.terms": [{"name": "l2sp", "strength": 0.01}]},
        )
    ):
        root = tmp_path / str(number)
        write_run(root, SPLITS, **{"method": "lora", **changes})
        write_run(root, SPLITS, method="lora")
    found = {label for number in range(3) for label in labels(tmp_path / str(number))}
    assert {"lora, strategy=gradual", "lora, targets=query+value", "lora, terms=l2sp(strength=0.01)"} <= found
    assert {"lora, strategy=constant", "lora, targets=all-linear", "lora, terms=none"} <= found


def test_a_setting_that_an_older_record_lacks_equals_none(tmp_path):
    write_run(tmp_path, SPLITS, seed=1)
    write_run(tmp_path, SPLITS, seed=2, **{"schedule.novelty": None})
    ((group,), _) = groups(tmp_path)
    assert [run.seed for run in group.runs] == [1, 2]


def test_where_data_and_weights_lay_does_not_tell_methods_apart(tmp_path):
    write_run(tmp_path, SPLITS, seed=1, model="/home/one/encoder", **{"task.data": "/home/one/mrpc"})
    write_run(tmp_path, SPLITS, seed=2, model="/mnt/two/my/encoder", **{"task.data": "/mnt/two/mrpc"})
    ((group,), _) = groups(tmp_path)
    assert (group.model, len(group.runs)) == ("encoder", 2)


def test_models_whose_folders_share_a_name_keep_their_whole_names(tmp_path):
    write_run(tmp_path, SPLITS, model="/one/encoder", checkpoint="a" * 64)
    write_run(tmp_path, SPLITS, model="/two/encoder", checkpoint="b" * 64)
    assert {group.model for group in groups(tmp_path)[0]} == {"/one/encoder", "/two/encoder"}


def test_an_alias_and_a_hub_id_of_the_same_weights_are_one_model(tmp_path):
    write_run(tmp_path, SPLITS, seed=1, model="minilm")
    write_run(tmp_path, SPLITS, seed=2, model="sentence-transformers/all-MiniLM-L6-v2")
    assert {group.model for group in groups(tmp_path)[0]} == {"minilm"}


def test_a_name_that_stands_for_different_weights_is_refused(tmp_path):
    one = write_run(tmp_path, SPLITS, seed=1, checkpoint="a" * 64)
    two = write_run(tmp_path, SPLITS, seed=2, checkpoint="b" * 64)
    with pytest.raises(RunError, match="different weights under the name minilm") as raised:
        gather([tmp_path])
    assert str(one) in str(raised.value)
    assert str(two) in str(raised.value)


def test_of_a_repeated_seed_the_first_counts_whatever_its_score(tmp_path):
    worse = {"validation": (LABELS, np.eye(2)[1 - LABELS])}
    first = write_run(tmp_path, worse, name="a")
    second = write_run(tmp_path, SPLITS, name="b", threads=2)
    ((group,), (warning,)) = groups(tmp_path)
    assert [run.folder for run in group.runs] == [first]
    assert warning == f"{second} repeats seed 1 of {first} with another threads; the first of them counts"
