import json

import numpy as np
import pyarrow.parquet
import pytest

from graft.errors import RunError
from graft.eval.predict import Predictions
from graft.eval.records import (
    Evaluation,
    Parameters,
    RunRecord,
    describe_data,
    diagnose,
    read_predictions,
    read_record,
    write_examples,
    write_predictions,
    write_record,
)
from graft.eval.resolution import TaskData
from graft.eval.splits import Split
from graft.eval.tasks import TASKS


def make_data(label=1):
    def split(name, texts, labels):
        return Split(name, name, np.arange(len(texts)), tuple(texts), np.array(labels))

    return TaskData(
        TASKS["mrpc"],
        split("train", [("a", "b"), ("c", "d")], [0, 1]),
        split("holdout", [("e", "f")], [label]),
        {"validation": split("validation", [("g", "h")], [0])},
    )


def make_record(**changes):
    return RunRecord(
        **{
            "digest": "ab12",
            "kind": "final",
            "recipe": {"method": {"name": "lora", "r": 8}},
            "scores": {"validation": {"f1": 87.5, "accuracy": 82.1}},
            "primary_metric": "f1",
            "parameters": Parameters(trainable=10, trainable_without_head=8, total=100),
            "train_seconds": 1.5,
            "samples_per_second": 64.0,
            "peak_memory_bytes": 2**30,
            "losses": [0.7, 0.1 + 0.2],
            "versions": {"torch": "2.13.0"},
            "hardware": {"threads": 2},
            "steps": 2,
            "evaluations": [Evaluation(step=2, scores={"holdout": {"f1": 80.0}})],
            "data": describe_data(make_data()),
            "checkpoint": "cd34",
            "kept_step": 2,
            "planned_steps": 3,
            "micro_batch_tokens": 8192,
            **changes,
        }
    )


def test_a_record_reads_back_as_it_was_written(tmp_path):
    record = make_record()
    write_record(tmp_path, record)
    assert read_record(tmp_path) == record


def test_what_other_programs_rely_on_is_in_the_file(tmp_path):
    write_record(tmp_path, make_record())
    value = json.loads((tmp_path / "record.json").read_text())
    assert value["schema"] == 1
    assert value["recipe"]["method"]["name"] == "lora"
    assert value["scores"]["validation"]["f1"] == 87.5
    assert value["parameters"] == {"trainable": 10, "trainable_without_head": 8, "total": 100}
    assert {"digest", "kind", "primary_metric", "train_seconds", "samples_per_second"} <= value.keys()
    assert {"peak_memory_bytes", "losses", "versions"} <= value.keys()


def test_records_that_cannot_be_read_say_why(tmp_path):
    def refusal(folder):
        with pytest.raises(RunError) as raised:
            read_record(folder)
        return str(raised.value)

    path = tmp_path / "record.json"
    assert "no such run folder" in refusal(tmp_path / "absent")
    assert "the run did not finish; resume it" in refusal(tmp_path)
    write_record(tmp_path, make_record())
    whole = path.read_text()
    path.write_text(whole[: len(whole) // 2])
    assert refusal(tmp_path).startswith(f"{path}: damaged (")
    path.write_text(whole.replace('"schema": 1', '"schema": 2'))
    assert "of a newer graft (schema 2, and this one reads up to 1); upgrade graft" in refusal(tmp_path)
    path.write_text(whole.replace('"digest": "ab12",', ""))
    assert "not a run record: digest" in refusal(tmp_path)
    for damaged in ("[]", "", "null", "[" * 100_000, '{"schema": "one"}', "\udcff"):
        path.write_text(damaged, errors="surrogateescape")
        assert "delete the run folder and train the run again" in refusal(tmp_path)
    path.unlink()
    path.mkdir()
    assert "damaged" in refusal(tmp_path)


def test_a_number_that_json_cannot_say_never_reaches_the_disk(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        write_record(tmp_path, make_record(losses=[float("nan")]))
    assert not (tmp_path / "record.json").exists()


def test_predictions_read_back_exactly_split_by_split(tmp_path):
    scores = np.array([[0.1, -2.5], [1e-7, 3.0]], dtype=np.float32)
    written = {
        "validation": Predictions(np.array([3, 1]), np.array([0, 1]), scores),
        "holdout": Predictions(np.array([7]), None, np.array([[-12.5, 4.0]], dtype=np.float32)),
    }
    write_predictions(tmp_path, written)
    found = read_predictions(tmp_path)
    assert list(found) == ["validation", "holdout"]
    np.testing.assert_array_equal(found["validation"].scores, scores)
    assert found["validation"].scores.dtype == np.float32
    assert found["validation"].ids.tolist() == [3, 1]
    assert found["validation"].labels.tolist() == [0.0, 1.0]
    assert found["holdout"].labels is None
    rows = pyarrow.parquet.read_table(tmp_path / "predictions.parquet").to_pylist()
    assert rows[2] == {"split": "holdout", "id": 7, "unit": 0, "label": None, "scores": [-12.5, 4.0]}
    table = pyarrow.parquet.read_table(tmp_path / "predictions.parquet")
    assert table.schema.field("unit").type == pyarrow.int64()
    assert table.column("unit").to_pylist() == [0, 0, 0]


def test_predictions_of_an_examples_units_read_back_and_files_from_before_units_too(tmp_path):
    scores = np.zeros((3, 1), dtype=np.float32)
    written = Predictions(np.array([4, 4, 5]), np.array([0, 1, 1]), scores, units=np.array([0, 1, 0]))
    write_predictions(tmp_path, {"validation": written})
    assert read_predictions(tmp_path)["validation"].units.tolist() == [0, 1, 0]
    path = tmp_path / "predictions.parquet"
    pyarrow.parquet.write_table(pyarrow.parquet.read_table(path).drop_columns(["unit"]), path)
    found = read_predictions(tmp_path)["validation"]
    assert found.units is None
    assert found.ids.tolist() == [4, 4, 5]


def test_a_record_from_before_diagnostics_and_figures_can_still_be_read(tmp_path):
    write_record(tmp_path, make_record(method_figures={"mean_rank": 2.5}))
    value = json.loads((tmp_path / "record.json").read_text())
    del value["diagnostics"], value["method_figures"]
    (tmp_path / "record.json").write_text(json.dumps(value))
    record = read_record(tmp_path)
    assert (record.diagnostics, record.method_figures) == ({}, {})


def test_a_classifier_is_diagnosed_split_by_split():
    scores = np.array([[9, 0], [9, 0], [0, 9]], dtype=np.float32)
    parts = {
        "validation": Predictions(np.arange(3), np.array([0.0, 1.0, 1.0]), scores),  # as they read back
        "test": Predictions(np.arange(3), None, scores),
    }
    data = describe_data(make_data())
    found = diagnose(data, parts)
    assert list(found) == ["validation"]
    assert found["validation"].confusion == ((1, 0), (1, 1))
    assert found["validation"].calibration_error == pytest.approx(100 / 3, abs=0.1)
    assert diagnose(data.model_copy(update={"kind": "regression", "outputs": 1}), parts) == {}


@pytest.mark.parametrize("damage", ["cut", "text", "columns", "ragged", "gap", "unit", "folder"])
def test_predictions_that_are_damaged_say_what_to_do(tmp_path, damage):
    path = tmp_path / "predictions.parquet"
    part = Predictions(np.array([3, 1]), np.array([0, 1]), np.zeros((2, 2), dtype=np.float32))
    write_predictions(tmp_path, {"validation": part})
    table = pyarrow.parquet.read_table(path)
    match damage:
        case "cut":
            path.write_bytes(path.read_bytes()[:-20])
        case "text":
            path.write_text("split,id\n")
        case "columns":
            pyarrow.parquet.write_table(table.drop_columns(["scores"]), path)
        case "ragged" | "gap" | "unit":
            rows = table.to_pylist()
            rows[0] |= {"ragged": {"scores": [1.0]}, "gap": {"id": None}, "unit": {"unit": None}}[damage]
            pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
        case "folder":
            path.unlink()
            path.mkdir()
    with pytest.raises(RunError) as raised:
        read_predictions(tmp_path)
    assert str(raised.value).startswith(f"{path}: damaged (")
    assert "delete the run folder and train the run again" in str(raised.value)


def test_predictions_that_are_not_there_say_why(tmp_path):
    with pytest.raises(RunError, match=r"predictions\.parquet: not there: the run did not finish; resume it"):
        read_predictions(tmp_path)
    with pytest.raises(RunError, match="no such run folder"):
        read_predictions(tmp_path / "absent")


def test_texts_are_written_once_per_content(tmp_path):
    path = write_examples(tmp_path, make_data())
    assert path == tmp_path / ".examples" / f"{make_data().fingerprint}.parquet"
    rows = pyarrow.parquet.read_table(path).to_pylist()
    assert [row["split"] for row in rows] == ["train", "train", "holdout", "validation"]
    assert rows[1] == {"split": "train", "id": 1, "texts": ["c", "d"], "label": 1.0}
    before = path.stat().st_mtime_ns
    assert write_examples(tmp_path, make_data()).stat().st_mtime_ns == before
    assert write_examples(tmp_path, make_data(label=0)) != path


def test_the_data_is_described_by_what_it_holds():
    described = describe_data(make_data())
    assert described.sizes == {"train": 2, "holdout": 1, "validation": 1}
    assert described.fingerprints.keys() == described.sizes.keys()
    assert len(set(described.fingerprints.values())) == 3
    assert described.task_version == TASKS["mrpc"].version
