"""GLUE's own tsv files, quirks included, against the same examples as parquet."""

import logging
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from graft.eval.config import TaskConfig
from graft.eval.resolution import resolve
from graft.eval.tasks import TASKS

SIZE = 24
# The header line of each file; CoLA's has none.
HEADERS = {
    "cola": None,
    "sst2": "sentence\tlabel",
    "mrpc": "\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String",
    "qqp": "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate",
    "stsb": "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2\tscore",
    "mnli": "index\tpromptID\tpairID\tgenre\tsentence1_binary_parse\tsentence2_binary_parse\tsentence1_parse\t"
    "sentence2_parse\tsentence1\tsentence2\tlabel1\tgold_label",
    "qnli": "index\tquestion\tsentence\tlabel",
    "rte": "index\tsentence1\tsentence2\tlabel",
    "wnli": "index\tsentence1\tsentence2\tlabel",
}
FOLDERS = {"cola": "CoLA", "sst2": "SST-2", "stsb": "STS-B"}
NAMED = "mnli", "qnli", "rte"  # labels are words in these


def texts_of(row, columns):
    """Texts with what trips readers up: quotes that never close, empty-looking words, commas."""
    quirks = ('he said "no', "NA", "'s, and\u00a0so on", '"quoted" twice"', "1999")
    return {column: f"{quirks[row % 5]} {place} {row}" for place, column in enumerate(columns)}


def examples_of(name, start):
    task = TASKS[name]
    for row in range(start, start + SIZE):
        label = round(row % 5 + 0.2, 3) if task.kind == "regression" else row % len(task.label_names)
        yield {**texts_of(row, task.text), "label": label}


def line_of(name, example):
    """One example as the benchmark writes it; columns that do not matter hold a dash."""
    task = TASKS[name]
    label = task.label_names[example["label"]] if name in NAMED else str(example["label"])
    if name == "cola":
        return "\t".join(["gj04", label, "" if label == "1" else "*", example["sentence"]])
    theirs = dict(task.tsv.columns) if task.tsv else {column: column for column in (*task.text, "label")}
    values = {theirs[column]: text for column, text in example.items()} | {theirs["label"]: label}
    return "\t".join(values.get(column, "-") for column in HEADERS[name].lstrip("\ufeff").split("\t"))


@pytest.mark.parametrize("name", HEADERS)
def test_glues_own_files_give_the_same_examples_as_parquet(tmp_path, name):
    own, parquet = tmp_path / "own" / FOLDERS.get(name, name.upper()), tmp_path / "parquet" / name
    for folder in (own, parquet):
        folder.mkdir(parents=True)
    stems = {"train": "train", "validation": "dev"} | {f"validation_{m}": f"dev_{m}" for m in ("matched", "mismatched")}
    for place, split in enumerate(("train", *TASKS[name].validations)):
        examples = list(examples_of(name, place * SIZE))
        header = [] if HEADERS[name] is None else [HEADERS[name]]
        lines = [*header, *(line_of(name, example) for example in examples)]
        (own / f"{stems[split]}.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
        pyarrow.parquet.write_table(pa.Table.from_pylist(examples), parquet / f"{split}.parquet")
    first, second = (resolve(TaskConfig(name=name, data=tmp_path / form)) for form in ("own", "parquet"))
    assert first.splits.keys() == {"train", "holdout", *TASKS[name].validations}
    for split, found in first.splits.items():
        assert found.texts == second.splits[split].texts
        np.testing.assert_array_equal(found.labels, second.splits[split].labels)
    assert first.fingerprint == second.fingerprint


def test_qqps_broken_rows_are_left_out_and_counted(tmp_path, caplog):
    lines = [HEADERS["qqp"], *(line_of("qqp", example) for example in examples_of("qqp", 0))]
    (tmp_path / "dev.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    lines.insert(5, "77\t1\t2\tonly one question")
    (tmp_path / "train.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    with caplog.at_level(logging.WARNING):
        data = resolve(TaskConfig(name="qqp", data=tmp_path))
    assert "train.tsv: 1 rows lack columns and are left out" in caplog.text
    assert len(data.train) + len(data.holdout) == SIZE


# Rows of the official splits, RTE and MRPC as in the Hub's copy.
OFFICIAL = {
    "cola": (8551, 1043),
    "sst2": (67349, 872),
    "mrpc": (3668, 408),
    "stsb": (5749, 1500),
    "rte": (2490, 277),
    "wnli": (635, 71),
}


@pytest.mark.parametrize("name", OFFICIAL)
def test_real_glue_resolves_whole_and_without_shared_groups(name):
    root = os.environ.get("GRAFT_TEST_DATA")
    folder = Path(root or "absent") / "glue"
    if not (folder / name).is_dir():
        pytest.skip("GRAFT_TEST_DATA is not set or has no GLUE")
    data = resolve(TaskConfig(name=name, data=folder))
    assert (len(data.train) + len(data.holdout), len(data.validation["validation"])) == OFFICIAL[name]
    task = data.task
    sentences = [{text for texts in split.texts for text in texts} for split in (data.train, data.holdout)]
    assert not sentences[0] & sentences[1]
    share = len(data.holdout) / OFFICIAL[name][0]
    assert share == pytest.approx(0.1, abs=0.015)
    if task.kind == "classification":
        assert data.holdout.labels.mean() == pytest.approx(data.train.labels.mean(), abs=0.05)
