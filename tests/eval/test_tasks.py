import dataclasses
import json
import logging

import numpy as np
import pytest

from graft.errors import DataError, RecipeError
from graft.eval.config import TaskConfig
from graft.eval.kinds import KINDS
from graft.eval.metrics import METRICS
from graft.eval.resolution import resolve
from graft.eval.tasks import TASKS


def rows_of(count, label=lambda row: row % 2, **more):
    return [
        {"text": f"text {row}", "label": label(row), **{key: value(row) for key, value in more.items()}}
        for row in range(count)
    ]


def folder_of(path, train, validation=None):
    path.mkdir(exist_ok=True)
    for name, rows in (("train", train), ("validation", validation)):
        if rows is not None:
            (path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def custom(path, **settings):
    return resolve(TaskConfig(data=path, **{"text": "text", "label": "label", **settings}))


@pytest.mark.parametrize("name", TASKS)
def test_every_row_is_complete(name):
    row = TASKS[name]
    assert row.name == name
    assert row.kind in KINDS
    assert row.metrics
    assert all(row.kind in METRICS[metric].kinds for metric in row.metrics)
    assert set(row.group) <= set(row.text)
    assert bool(row.label_names) == (row.kind == "classification")
    assert row.tsv is None or set(row.tsv.columns) == {*row.text, row.label}


def test_resolution_gives_train_holdout_and_validation(tmp_path):
    path = folder_of(tmp_path, rows_of(100), rows_of(7))
    data = custom(path)
    assert {name: len(split) for name, split in data.splits.items()} == {"train": 90, "holdout": 10, "validation": 7}
    ids = [*data.train.ids, *data.holdout.ids]
    assert sorted(ids) == list(range(100))
    assert {data.train.source, data.holdout.source} == {"train"}
    for split in (data.train, data.holdout):
        assert split.texts == tuple((f"text {row}",) for row in split.ids)
        assert split.labels.tolist() == [row % 2 for row in split.ids]
    assert data.holdout.labels.mean() == 0.5


def test_the_holdout_never_shares_a_group_with_training(tmp_path):
    path = folder_of(tmp_path, rows_of(100, author=lambda row: f"author {row // 4}"), rows_of(4))
    by_author = custom(path, group="author", holdout=0.2)
    assert not {row // 4 for row in by_author.train.ids} & {row // 4 for row in by_author.holdout.ids}
    assert len(by_author.holdout) == 20
    doubled = folder_of(tmp_path / "doubled", [*rows_of(40), *rows_of(40)], rows_of(4))
    whole_text = custom(doubled)
    assert not set(whole_text.train.texts) & set(whole_text.holdout.texts)


def test_pairs_that_share_a_text_in_any_column_stay_on_one_side(tmp_path):
    chains = {"text": lambda row: f"first {row // 2}", "other": lambda row: f"other {row // 4}{(row % 4 + 1) // 2}"}
    path = folder_of(tmp_path, rows_of(100, **chains), rows_of(4, other=str))
    data = custom(path, text="text,other", holdout=0.3)
    sentences = [{text for texts in split.texts for text in texts} for split in (data.train, data.holdout)]
    assert not sentences[0] & sentences[1]
    assert len(data.holdout) == 4 * round(0.3 * 25)


def test_a_template_in_every_row_does_not_make_one_group_of_all(tmp_path, caplog):
    path = folder_of(tmp_path, rows_of(100, other=lambda _row: "This is positive."), rows_of(4, other=str))
    with caplog.at_level(logging.WARNING):
        data = custom(path, text="text,other")
    assert "100 of 100 rows hang together by repeated texts" in caplog.text
    assert "--task.group text" in caplog.text
    assert len(data.holdout) == 10


def test_train_size_counts_all_labelled_examples_and_nests(tmp_path):
    path = folder_of(tmp_path, rows_of(200, label=lambda row: int(row % 4 == 0)), rows_of(4))
    used = {}
    for size in (20, 80):
        data = custom(path, train_size=size)
        used[size] = {*data.train.ids.tolist(), *data.holdout.ids.tolist()}
        assert len(used[size]) == size
        assert len(data.holdout) == size // 10
        labels = np.concatenate([data.train.labels, data.holdout.labels])
        assert labels.sum() == size // 4
    assert used[20] < used[80]
    with pytest.raises(DataError, match=r"train_size: 201 examples asked for, and the training split has 200"):
        custom(path, train_size=201)


def test_data_without_validation_is_carved_with_a_notice_or_refused(tmp_path, caplog):
    path = folder_of(tmp_path, rows_of(100, author=lambda row: row // 2))
    with caplog.at_level(logging.WARNING):
        data = custom(path, group="author")
    assert "no validation split: 20 of its 100 rows serve as one" in caplog.text
    assert data.validation["validation"].source == "train"
    ids = [*data.train.ids, *data.holdout.ids, *data.validation["validation"].ids]
    assert sorted(ids) == list(range(100))
    authors = [{row // 2 for row in split.ids} for split in data.splits.values()]
    assert sum(map(len, authors)) == 50
    with pytest.raises(DataError, match="no validation split, and 19 rows are too few"):
        custom(folder_of(tmp_path / "small", rows_of(19)))


def test_fractions_make_a_regression_and_strings_make_classes(tmp_path):
    scores = custom(folder_of(tmp_path, rows_of(30, label=lambda row: row / 4), rows_of(4)))
    assert (scores.task.kind, scores.task.metrics, scores.label_names) == ("regression", ("pearson", "spearman"), ())
    assert scores.train.labels.dtype == np.float32
    names = custom(folder_of(tmp_path, rows_of(30, label=lambda row: "xy"[row % 2]), rows_of(4, label=lambda row: "x")))
    assert (names.task.kind, names.label_names) == ("classification", ("x", "y"))
    assert names.validation["validation"].labels.tolist() == [0, 0, 0, 0]
    ratings = folder_of(tmp_path, rows_of(30), rows_of(4))
    assert custom(ratings, kind="regression").train.labels.dtype == np.float32


def test_where_the_data_lies_and_how_it_is_written_leave_the_fingerprint_alone(tmp_path):
    train, validation = rows_of(40), rows_of(6)
    first = custom(folder_of(tmp_path / "a", train, validation)).fingerprint
    csv = tmp_path / "b"
    csv.mkdir()
    for name, rows in (("train", train), ("validation", validation)):
        lines = ["label,text", *(f'{row["label"]},"{row["text"]}"' for row in rows)]
        (csv / f"{name}.csv").write_text("\n".join(lines) + "\n")
    assert custom(csv).fingerprint == first
    changed = [{**train[0], "text": "other"}, *train[1:]]
    assert custom(folder_of(tmp_path / "c", changed, validation)).fingerprint != first
    flipped = [*validation[:-1], {**validation[-1], "label": 0}]
    assert custom(folder_of(tmp_path / "d", train, flipped)).fingerprint != first
    assert custom(tmp_path / "a", split_seed=1).fingerprint != first
    assert custom(tmp_path / "a", kind="regression").fingerprint != first


def test_the_fingerprint_tells_kinds_and_class_names_apart_where_the_examples_are_the_same(tmp_path):
    data = custom(folder_of(tmp_path, rows_of(40), rows_of(6)))
    others = (dataclasses.replace(data.task, kind="regression"), dataclasses.replace(data.task, label_names=("x", "y")))
    assert all(dataclasses.replace(data, task=task).fingerprint != data.fingerprint for task in others)
    renamed = dataclasses.replace(data, task=dataclasses.replace(data.task, name="other", metrics=("f1",)))
    assert renamed.fingerprint == data.fingerprint


def test_plain_text_needs_no_labels_and_leaves_blank_documents_out(tmp_path):
    path = tmp_path / "corpus.jsonl"
    path.write_text("".join(json.dumps({"text": f"document {row}" if row % 3 else " "}) + "\n" for row in range(60)))
    data = resolve(TaskConfig(name="text", data=path))
    assert data.train.labels is None
    assert data.task.metrics == ("loss", "perplexity")
    ids = np.concatenate([split.ids for split in data.splits.values()])
    assert sorted(ids) == [row for row in range(60) if row % 3]
    assert custom(path, label=None, kind="causal_lm").train.texts == data.train.texts


def refusal(**settings):
    with pytest.raises((RecipeError, DataError)) as raised:
        resolve(TaskConfig(**settings))
    return str(raised.value)


def test_settings_that_cannot_be_are_refused_with_what_to_do(tmp_path):
    path = folder_of(tmp_path, rows_of(30, label=lambda row: row % 3), rows_of(6))
    columns = {"data": path, "text": "text", "label": "label"}
    assert "no task 'mrcp' (did you mean 'mrpc'?)" in refusal(name="mrcp")
    assert "task.text: name the text column" in refusal(data=path)
    assert "task.label: name the label column" in refusal(data=path, text="text")
    assert "task.data: task 'text' has no source of its own" in refusal(name="text")
    assert "no metric 'acuracy' for classification (did you mean 'accuracy'?)" in refusal(**columns, metrics="acuracy")
    assert "no metric 'pearson' for classification" in refusal(**columns, metrics="pearson")
    assert "f1 is for two classes, and there are 3; use macro_f1" in refusal(**columns, metrics="f1")
    assert "no column 'txet' (did you mean 'text'?)" in refusal(**{**columns, "text": "txet"})
    assert "no column 'authors'" in refusal(**columns, group="authors")
    assert "causal_lm reads one column" in refusal(data=path, text="text,label", kind="causal_lm")
    assert "task.label: 'label' is a text column too" in refusal(data=path, text="text,label", label="label")


def test_bad_rows_are_named(tmp_path):
    gap = folder_of(tmp_path / "gap", [*rows_of(30), {"text": None, "label": 0}], rows_of(4))
    assert "row 30 (the first is 0): nothing in column 'text'" in refusal(data=gap, text="text", label="label")
    one = folder_of(tmp_path / "one", rows_of(30, book=lambda row: "the same"), rows_of(4))
    assert "all 30 training rows are one group" in refusal(data=one, text="text", label="label", group="book")
    hidden = folder_of(tmp_path / "sst2", [{"sentence": f"s {row}", "label": -1} for row in range(30)])
    assert "-1 marks a hidden test label" in refusal(name="sst2", data=hidden)


def test_the_same_rows_under_other_ids_are_other_data(tmp_path):
    """Dropout and joined predictions go by id, so a subset is not the file that holds just its rows."""
    rows = [json.dumps({"text": f"row {number}", "label": number % 2}) for number in range(40)]
    folders = []
    for name, lines in (("whole", rows), ("shifted", [rows[0], *rows])):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "train.jsonl").write_text("\n".join(lines))
        (folder / "validation.jsonl").write_text("\n".join(rows[:20]))
        folders.append(resolve(TaskConfig(data=folder, text=("text",), label="label", holdout=0)))
    whole, shifted = folders
    moved = shifted.train.take(np.arange(1, 41), "train")
    assert moved.fingerprint == whole.train.fingerprint
    assert dataclasses.replace(shifted, train=moved, holdout=whole.holdout).fingerprint != whole.fingerprint
    assert dataclasses.replace(whole).fingerprint == whole.fingerprint


def test_groups_of_two_id_columns_do_not_join_across_them(tmp_path):
    ids = {"user": lambda row: row, "document": lambda row: (row + 1) % 100}
    data = custom(folder_of(tmp_path, rows_of(100, **ids), rows_of(4, **ids)), group="user,document", holdout=0.2)
    assert len(data.holdout) == 20
