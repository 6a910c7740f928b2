import csv
import json

import datasets
import huggingface_hub
import pyarrow as pa
import pyarrow.parquet
import pytest

from graft.errors import DataError
from graft.eval.formats import read_table
from graft.eval.sources import read_hub, read_local

ROWS = [
    {"sentence": 'He said "no', "label": 1},
    {"sentence": "NA", "label": 0},
    {"sentence": "007", "label": 1},
    {"sentence": "naïve, null", "label": 0},
]


def write(path, rows=ROWS):
    """Write rows in the format that the suffix names, with the standard library where it can."""
    names = list(rows[0])
    match path.suffix:
        case ".parquet":
            pyarrow.parquet.write_table(pa.Table.from_pylist(rows), path)
        case ".jsonl":
            path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        case ".json":
            path.write_text(json.dumps(rows), encoding="utf-8")
        case ".csv":
            with path.open("w", newline="", encoding="utf-8") as stream:
                writer = csv.DictWriter(stream, names)
                writer.writeheader()
                writer.writerows(rows)
        case ".tsv":
            lines = ["\t".join(names), *("\t".join(str(row[name]) for name in names) for row in rows)]
            path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".tsv", ".jsonl", ".json"])
def test_every_format_gives_the_texts_as_they_are(tmp_path, suffix):
    table = read_table(write(tmp_path / f"train{suffix}"))
    assert table.values("sentence") == [row["sentence"] for row in ROWS]
    assert [int(value) for value in table.values("label")] == [1, 0, 1, 0]
    assert len(table) == 4


def test_a_csv_may_hold_line_breaks_and_commas_inside_quotes(tmp_path):
    rows = [{"sentence": 'one\ntwo, "three"', "label": 0}, {"sentence": "", "label": 1}]
    assert read_table(write(tmp_path / "x.csv", rows)).values("sentence") == ['one\ntwo, "three"', ""]


def test_a_users_tsv_with_a_broken_row_is_refused(tmp_path):
    path = tmp_path / "train.tsv"
    path.write_text("sentence\tlabel\ngood\t1\nbroken\n")
    with pytest.raises(DataError, match=r"train\.tsv: line 3 .*: expected 2 fields \(sentence, label\), found 1"):
        read_table(path)


def test_plain_text_holds_documents_between_blank_lines(tmp_path):
    path = tmp_path / "train.txt"
    path.write_text("one\ntwo\n\n \nthree\n")
    assert read_table(path).values("text") == ["one\ntwo", "three"]


def test_a_folder_may_hold_the_tasks_own_folder_or_the_files(tmp_path):
    for folder in (tmp_path, tmp_path / "SST-2"):
        folder.mkdir(exist_ok=True)
        write(folder / "train.csv")
        write(folder / "dev.tsv")
        assert list(read_local(folder, "sst2", ("validation",))) == ["train", "validation"]
    write(tmp_path / "SST-2" / "train.csv", ROWS[:1])
    assert len(read_local(tmp_path, "sst2", ("validation",))["train"]) == 1


def test_test_splits_are_never_read(tmp_path):
    write(tmp_path / "train.csv")
    write(tmp_path / "test.csv")
    assert list(read_local(tmp_path, "sst2", ("validation",))) == ["train"]


def test_both_validation_splits_are_read_or_a_single_one_in_their_place(tmp_path):
    write(tmp_path / "train.tsv")
    write(tmp_path / "validation.tsv")
    both = ("validation_matched", "validation_mismatched")
    assert list(read_local(tmp_path, "mnli", both)) == ["train", "validation"]
    write(tmp_path / "dev_matched.tsv")
    write(tmp_path / "dev_mismatched.tsv")
    assert list(read_local(tmp_path, "mnli", both)) == ["train", *both]


def test_shards_are_joined_in_order(tmp_path):
    write(tmp_path / "train-00001-of-00002.parquet", ROWS[2:])
    write(tmp_path / "train-00000-of-00002.parquet", ROWS[:2])
    found = read_local(tmp_path, "sst2", ("validation",))["train"]
    assert found.values("sentence") == [row["sentence"] for row in ROWS]


def test_saved_datasets_keep_their_splits_and_class_names(tmp_path):
    features = datasets.Features(
        {"sentence": datasets.Value("string"), "label": datasets.ClassLabel(names=["bad", "good"])}
    )
    part = datasets.Dataset.from_list(ROWS, features=features)
    part.save_to_disk(tmp_path / "one")
    datasets.DatasetDict({"train": part, "val": part, "test": part}).save_to_disk(tmp_path / "three")
    part.to_parquet(tmp_path / "train.parquet")
    assert list(read_local(tmp_path / "one", "x", ("validation",))) == ["train"]
    three = read_local(tmp_path / "three", "x", ("validation",))
    assert list(three) == ["train", "validation"]
    for table in (three["train"], read_local(tmp_path, "x", ("validation",))["train"]):
        assert table.class_names == {"label": ("bad", "good")}
        assert table.values("sentence") == [row["sentence"] for row in ROWS]
        assert table.values("label") == [1, 0, 1, 0]


def test_what_is_wrong_with_a_place_is_said(tmp_path):
    def refusal(path):
        with pytest.raises(DataError) as raised:
            read_local(path, "sst2", ("validation",))
        return str(raised.value)

    assert "no such file or folder" in refusal(tmp_path / "absent")
    assert "no train file" in refusal(tmp_path)
    write(tmp_path / "dev.tsv")
    assert "it holds dev.tsv" in refusal(tmp_path)
    write(tmp_path / "train.csv")
    write(tmp_path / "train.tsv")
    assert "train.csv, train.tsv could each be the train split" in refusal(tmp_path)
    (tmp_path / "train.xlsx").write_bytes(b"")
    assert "cannot read .xlsx; use .parquet" in refusal(tmp_path / "train.xlsx")
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 not really")
    assert "bad.parquet: cannot be read as parquet" in refusal(tmp_path / "bad.parquet")
    (tmp_path / "bad.csv").write_bytes(b"text,label\n\xff\xfe,1\n")
    assert "bad.csv: line 2 is not UTF-8" in refusal(tmp_path / "bad.csv")
    (tmp_path / "bad.json").write_text('{"text": "a"}')
    assert "name the file .jsonl" in refusal(tmp_path / "bad.json")
    (tmp_path / "empty.csv").write_text("")
    assert "empty.csv: the file is empty" in refusal(tmp_path / "empty.csv")
    (tmp_path / "state.json").write_text("{}")
    assert "cannot be read as a saved dataset" in refusal(tmp_path)


def test_a_missing_column_is_named_with_those_that_are_there(tmp_path):
    table = read_table(write(tmp_path / "train.csv"))
    with pytest.raises(DataError, match=r"no column 'sentense' \(did you mean 'sentence'\?\); it has sentence, label"):
        table.values("sentense")


def test_without_a_network_the_hub_is_given_up_at_once(monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")

    def retried(*args, **options):
        raise AssertionError("load_dataset would retry for half a minute")

    monkeypatch.setattr(datasets, "load_dataset", retried)
    with pytest.raises(DataError, match=r"nyu-mll/glue \(mrpc\): .*:9 cannot be reached \(.*\); give --data"):
        read_hub("nyu-mll/glue", "mrpc", ("validation",))


def test_the_hubs_splits_are_read_by_name(monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    asked = []

    def load_dataset(repository, config, split):
        asked.append((repository, config, split))
        return datasets.Dataset.from_list(ROWS)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    found = read_hub("nyu-mll/glue", "mnli", ("validation_matched", "validation_mismatched"))
    assert list(found) == ["train", "validation_matched", "validation_mismatched"]
    assert asked == [("nyu-mll/glue", "mnli", split) for split in found]
    assert found["train"].values("label") == [1, 0, 1, 0]
