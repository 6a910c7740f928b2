"""Every mistake that one can make with data gives one message, which names the file and says what to do."""

import codecs
import json
import logging
import re

import datasets
import pyarrow as pa
import pyarrow.parquet
import pytest

from graft.errors import DataError, GraftError
from graft.eval.config import TaskConfig
from graft.eval.formats import read_table
from graft.eval.resolution import resolve

CSV = "text,label\n" + "".join(f"text {row},{row % 2}\n" for row in range(40))
JSONL = "".join(json.dumps({"text": f"text {row}", "label": row % 2}) + "\n" for row in range(40))


def labelled(labels, header="text,label"):
    """A csv with these labels."""
    return header + "\n" + "".join(f"text {row},{label}\n" for row, label in enumerate(labels))


def lines(*changed):
    """Forty lines of jsonl, the last of them these."""
    return "".join(JSONL.splitlines(keepends=True)[: 40 - len(changed)]) + "\n".join(changed)


def scores(last):
    """Forty scores, the last of them this."""
    return labelled([*(row / 4 for row in range(39)), last])


def load(path, **settings):
    return resolve(TaskConfig(data=path, **{"text": "text", "label": "label", **settings}))


def refusal(path, **settings):
    with pytest.raises(GraftError) as raised:
        load(path, **settings)
    return str(raised.value)


# File name, its content, what its message must say behind the file's name.
FILES = {
    "two equal columns": ("a.csv", labelled(["0,1"] * 30, "text,label,label"), "two columns are named 'label'; rename"),
    "two equal columns, tabs": ("a.tsv", "text\ttext\tlabel\na\tb\t1\n", "two columns are named 'text'; rename"),
    "column missing": ("a.csv", labelled([0, 1], "text,labels"), r"no column 'label' \(did you mean 'labels'\?\)"),
    "no header": ("a.csv", "so good,1\nso bad,0\n", r"it has so good, 1 \(its first line names the columns\)"),
    "semicolons": ("a.csv", CSV.replace(",", ";"), "several columns between ';': save the file with commas"),
    "commas in a tsv": ("a.tsv", CSV, "several columns between ',': save the file with tabs"),
    "plain text": ("a.txt", "one\n\ntwo\n", "no column 'label'; it has text, as plain text has no other; use csv"),
    "empty csv": ("a.csv", "", "the file is empty; its first line should name the columns"),
    "empty tsv": ("a.tsv", "\n\n", "the file is empty"),
    "empty jsonl": ("a.jsonl", "\n", "the file is empty; expected an object a line"),
    "empty json": ("a.json", "", "the file is empty; expected a list of objects"),
    "empty list": ("a.json", "[]", "no examples in it"),
    "empty text file": ("a.txt", "", "no examples in it"),
    "empty parquet": ("a.parquet", b"", "cannot be read as parquet .*: write it again"),
    "header alone": ("a.csv", "text,label\n", "no examples in it, only the names of columns; add rows"),
    "one row": ("a.csv", "text,label\na,1\n", "all labels in column 'label' are the same, 1; classification needs two"),
    "two rows": ("a.csv", labelled([0, 1]), "no validation split, and 2 rows are too few .* add a validation file"),
    "one class": ("a.csv", labelled([3] * 40), "are the same, 3; classification needs two classes or more"),
    "empty text": (
        "a.csv",
        CSV + ",1\n  ,0\n",
        r"row 40 \(the first is 0\) and 1 more row: empty text in column 'text'",
    ),
    "missing text": ("a.jsonl", lines('{"label": 1}'), r"row 39 \(the first is 0\): nothing in column 'text'; fill"),
    "missing label": ("a.csv", CSV + "a,\nb,\nc, \n", r"row 40 \(the first is 0\) and 2 more rows: no label in column"),
    "number as text": ("a.jsonl", lines('{"text": 7, "label": 1}'), r"row 39 \(the .* 'text' is 7, not text; name a"),
    "nested text": ("a.jsonl", lines('{"text": {"a": [1]}, "label": 1}'), r"row 39 .* 'text' is \{'a': \[1\]\}, not"),
    "nested label": ("a.jsonl", lines('{"text": "a", "label": [1]}'), r"row 39 .* a number or a string, not \[1\]"),
    "nan among scores": ("a.csv", scores("nan"), r"row 39 \(the .* column 'label': 'nan' is no finite number.*; fill"),
    "inf among scores": ("a.csv", scores("-inf"), r"row 39 \(the .* column 'label': '-inf' is no finite number"),
    "a list of NaN": (
        "a.jsonl",
        lines('{"text": "a", "label": NaN}'),
        r"row 39 \(the first is 0\): no label in column",
    ),
    "infinity": ("a.jsonl", lines('{"text": "a", "label": Infinity}'), "row 39 .*: inf is no finite number"),
    "Latin 1": (
        "a.csv",
        CSV.encode() + b"caf\xe9,1\n",
        "line 42 is not UTF-8 .byte 0xe9.; save the file again as UTF-8",
    ),
    "Latin 1 in jsonl": ("a.jsonl", b'{"text": "a",\n"\xe9', "line 2 is not UTF-8"),
    "Latin 1 in text": ("a.txt", b"\xe9", "line 1 is not UTF-8"),
    "UTF-16": ("a.csv", CSV.encode("utf-16"), "is UTF-16, not UTF-8; save the file again as UTF-8"),
    "spreadsheet": ("a.csv", b"PK\x03\x04\x14\x00", "is a spreadsheet or a zip archive; export it as csv"),
    "compressed": ("a.jsonl", b"\x1f\x8b\x08", "is compressed; unpack it"),
    "parquet as csv": ("a.csv", b"PAR1\x00", "is parquet; name the file .parquet"),
    "csv as parquet": ("a.parquet", CSV, "cannot be read as parquet .*: write it again"),
    "too many fields": ("a.csv", CSV + "a,b,1\n", r"line 42 \(.*\): expected 2 fields \(text, label\), found 3; quote"),
    "too few fields": (
        "a.csv",
        'text,label\n"x\ny",1\na\n',
        r"line 4 \(the header is line 1\): expected 2 fields .*, found 1",
    ),
    "text as header": ("a.csv", '"so\ngood",1\nbad\n', r"line 3 .* expected 2 fields \(so good, 1\), found 1"),
    "too few tabs": ("a.tsv", "text\tlabel\na\t0\nb\n", "line 3 .*: expected 2 fields .*, found 1; no field may hold"),
    "open quote": ("a.csv", CSV + '"a,1\nb,0\n', "the row that begins at line 42: unexpected end of data; a quoted"),
    "stray quote": ("a.csv", CSV + '"a"b,1\n', "the row that begins at line 42: .*; a quoted field ends with a quote"),
    "truncated jsonl": ("a.jsonl", JSONL[:-12], r"line 40: not JSON \(column \d+: .*\); was the file cut short\?"),
    "truncated json": ("a.json", '[\n{"text": "a",', r"not JSON \(line 2, column 14: .*\); was the file cut short\?"),
    "numbers in jsonl": ("a.jsonl", lines("7"), "line 40 is 7; expected an object such as"),
    "list in jsonl": ("a.jsonl", '[{"text": "a"}]', "line 1 begins a list; for a list of objects, name the file .json"),
    "list over lines": ("a.jsonl", '[\n{"text": "a"}]', "line 1 begins a list; for a list of objects, name"),
    "lines in json": ("a.json", JSONL, "more than one value; for one object a line, name the file .jsonl"),
    "object in json": ("a.json", '{"text": []}', "expected a list of objects; for one object a line, name"),
    "numbers in json": ("a.json", '[{"text": "a"}, 7]', r"row 1 \(the first is 0\) is 7; expected an object such as"),
    "half a pair": ("a.jsonl", lines('{"text": "\\ud83d", "label": 1}'), "line 40: .* half of a surrogate pair"),
    "deep json": ("a.json", "[" * 100_000, "cannot be read as JSON"),
    "endless number": ("a.json", '[{"label": ' + "9" * 5000 + "}]", "cannot be read as JSON"),
    "unknown suffix": ("a.xlsx", b"PK", r"cannot read \.xlsx; use \.parquet, \.csv"),
    "no suffix": ("a", CSV, r"cannot read a file without a suffix; use \.parquet"),
}


@pytest.mark.parametrize("name", FILES)
def test_a_bad_file_gets_one_message_that_names_it(tmp_path, name):
    file, content, expected = FILES[name]
    path = tmp_path / file
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    message = refusal(path)
    assert message.startswith(str(path))
    assert re.search(expected, message.removeprefix(str(path)))
    assert "\n" not in message
    assert len(message) < 400 + len(str(path))


VALIDATION = {
    "unknown class": (
        "text,label\na,neg\nb,positiv\n",
        r"row 1 \(.*'positiv' \(did you mean 'pos'\?\) is none of neg,",
    ),
    "other spelling": ("text,label\na,Pos\n", r"row 0 .* label 'Pos' \(did you mean 'pos'\?\) is none of neg, pos; "),
    "column missing": ("text,labels\na,pos\n", r"no column 'label' \(did you mean 'labels'\?\)"),
    "empty": ("text,label\n", "no examples in it"),
    "empty text": ('text,label\n"",pos\n', r"row 0 \(the first is 0\): empty text"),
}


@pytest.mark.parametrize("name", VALIDATION)
def test_a_bad_validation_file_is_named_itself(tmp_path, name):
    (tmp_path / "train.csv").write_text(labelled(["neg", "pos"] * 20))
    content, expected = VALIDATION[name]
    (tmp_path / "validation.csv").write_text(content)
    assert re.search(re.escape(str(tmp_path / "validation.csv")) + ": " + expected, refusal(tmp_path))


def test_the_culprit_is_named_where_one_word_makes_strings_of_all_numbers(tmp_path):
    (tmp_path / "train.csv").write_text(labelled([0, 1] * 20))
    (tmp_path / "validation.csv").write_text(labelled(["0.0", "1", "x"]))
    assert re.search(r"validation\.csv: row 2 \(the first is 0\), .*label 'x' is none of 0, 1", refusal(tmp_path))


def test_a_long_list_of_classes_is_cut(tmp_path):
    (tmp_path / "train.csv").write_text(labelled([f"class {row % 30}" for row in range(120)]))
    (tmp_path / "validation.csv").write_text(labelled(["else"]))
    assert "class 0, class 1, class 10" in (message := refusal(tmp_path))
    assert "... (30 in all)" in message


def test_classes_that_two_files_number_differently_are_refused(tmp_path):
    for split, names in (("train", ["neg", "pos"]), ("validation", ["pos", "neg"])):
        features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=names)})
        rows = [{"text": f"{split} {row}", "label": row % 2} for row in range(40)]
        datasets.Dataset.from_list(rows, features=features).to_parquet(tmp_path / f"{split}.parquet")
    found = refusal(tmp_path)
    assert re.search(r"validation\.parquet: .* as pos, neg, and .*train\.parquet as neg, pos; write the labels", found)


def test_a_damaged_saved_dataset_is_refused(tmp_path):
    for state in ("", "[]", "{}", '{"_data_files": 3}', '{"_data_files": [{"filename": "x"}]}'):
        (tmp_path / "state.json").write_text(state)
        (tmp_path / "dataset_info.json").write_text("{}")
        assert "cannot be read as a saved dataset" in (message := refusal(tmp_path))
        assert message.endswith("save it again with save_to_disk")


@pytest.mark.parametrize("metadata", ["{", "[]", '{"info": null}', '{"info": {"features": [3]}}'])
def test_metadata_that_others_wrote_is_no_concern(tmp_path, metadata):
    table = pa.table({"text": [f"text {row}" for row in range(40)], "label": [0, 1] * 20})
    pyarrow.parquet.write_table(table.replace_schema_metadata({"huggingface": metadata}), tmp_path / "a.parquet")
    assert load(tmp_path / "a.parquet").label_names == ("0", "1")


def test_a_parquet_file_with_two_equal_columns_is_refused(tmp_path):
    table = pa.table([pa.array(["a"]), pa.array(["b"])], names=["text", "text"])
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    assert "a.parquet: two columns are named 'text'" in refusal(tmp_path / "a.parquet")


def test_a_folder_without_a_train_file_says_what_it_holds(tmp_path):
    (tmp_path / "reviews.csv").write_text(CSV)
    message = refusal(tmp_path)
    assert message.startswith(f"{tmp_path}: no train file (train.parquet, train.csv")
    assert message.endswith("it holds reviews.csv; rename the one to train on, or give its own path as `data`")


def test_rows_without_a_group_are_refused(tmp_path):
    (tmp_path / "a.csv").write_text(
        "author,text,label\n" + "".join(f"{row or ''},t{row},{row % 2}\n" for row in range(40))
    )
    assert "row 0 (the first is 0): no group in column 'author'" in refusal(tmp_path / "a.csv", group="author")


def test_a_regression_refuses_words(tmp_path):
    (tmp_path / "a.csv").write_text(labelled([*range(39), "high"]))
    assert "row 39 (the first is 0), column 'label': 'high' is not a number" in refusal(
        tmp_path / "a.csv", kind="regression"
    )


def test_fractions_where_classes_are_asked_for_are_named(tmp_path):
    (tmp_path / "a.csv").write_text(labelled([*[0, 1] * 20, 0.5]))
    message = refusal(tmp_path / "a.csv", kind="classification")
    assert "holds fractions (row 40 (the first is 0): 0.5); for scores, set --task.kind regression" in message


WORKING = {
    "byte order mark": ("a.csv", codecs.BOM_UTF8 + CSV.encode()),
    "byte order mark, jsonl": ("a.jsonl", codecs.BOM_UTF8 + JSONL.encode()),
    "Windows line ends": ("a.csv", CSV.replace("\n", "\r\n").encode()),
    "Windows line ends, tabs": ("a.tsv", CSV.replace(",", "\t").replace("\n", "\r\n").encode()),
    "Windows line ends, jsonl": ("a.jsonl", JSONL.replace("\n", "\r\n").encode()),
    "old line ends": ("a.csv", CSV.replace("\n", "\r").encode()),
    "capital suffix": ("a.CSV", CSV.encode()),
    "blank lines": ("a.csv", CSV.replace("\n", "\n\n").encode()),
    "unnamed columns": ("a.csv", CSV.replace("\n", ",,\n").encode()),
    "quotes": ("a.csv", CSV.replace("text 1,", '"text 1",').encode()),
}


@pytest.mark.parametrize("name", WORKING)
def test_what_other_programs_write_is_read_alike(tmp_path, name):
    (tmp_path / "plain.jsonl").write_text(JSONL)
    file, content = WORKING[name]
    (tmp_path / file).write_bytes(content)
    assert load(tmp_path / file).fingerprint == load(tmp_path / "plain.jsonl").fingerprint


def test_fields_may_be_of_any_length_and_hold_line_breaks(tmp_path):
    long = "word, and\nmore " * 200_000  # 3 MB: the standard library stops at 128 KiB, Arrow at 1 MiB
    (tmp_path / "a.csv").write_text(CSV + f'"{long}",1\n')
    (tmp_path / "a.jsonl").write_text(JSONL + json.dumps({"text": long, "label": 1}) + "\n")
    found = [load(tmp_path / file) for file in ("a.csv", "a.jsonl")]
    assert found[0].fingerprint == found[1].fingerprint
    assert any(long in texts for split in found[0].splits.values() for texts in split.texts)


def test_dates_in_jsonl_stay_texts_and_columns_nobody_asks_for_may_hold_anything(tmp_path):
    rows = [{"text": f"2020-01-{row + 1:02}", "label": row % 2, "more": [row, {}, "x"][row % 3]} for row in range(30)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert ("2020-01-07",) in {texts for split in load(tmp_path / "a.jsonl").splits.values() for texts in split.texts}


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_whole_numbers_that_a_spreadsheet_made_fractions_are_classes(tmp_path, suffix):
    values = [f"{row % 2}.0" for row in range(40)]
    content = labelled(values) if suffix == "csv" else JSONL.replace("0}", "0.0}").replace("1}", "1.0}")
    (tmp_path / f"a.{suffix}").write_text(content)
    assert load(tmp_path / f"a.{suffix}").label_names == ("0", "1")
    assert load(tmp_path / f"a.{suffix}", kind="regression").task.kind == "regression"


def test_a_few_fractions_among_whole_numbers_make_a_regression(tmp_path):
    (tmp_path / "a.csv").write_text(labelled([*(row % 6 for row in range(39)), 2.5]))
    assert load(tmp_path / "a.csv").task.kind == "regression"


WARNINGS = {
    "scores as classes": (range(80), "has 80 different labels in 80 rows.*; for scores, set --task.kind regression"),
    "more than fifty": ([row % 51 for row in range(306)], "has 51 different labels in 306 rows.* regression"),
    "few rows a class": ([row % 14 for row in range(40)], "has 14 different labels in 40 rows.* regression"),
    "texts as labels": (
        [f"id {row}" for row in range(40)],
        "has 40 different labels.* check that --task.label names the",
    ),
    "white space": (["pos", " pos", "neg", "neg"] * 10, "has the labels ' pos' and 'pos', which differ by white space"),
    "case": (["pos", "Pos", "neg", "neg"] * 10, "has the labels 'Pos' and 'pos', which differ by white space or case"),
    "a word among numbers": ([*["0", "1"] * 20, "n/a"], "holds numbers, but also 'n/a', so all its labels are read as"),
}


@pytest.mark.parametrize("name", WARNINGS)
def test_doubtful_classes_are_warned_of(tmp_path, name, caplog):
    labels, expected = WARNINGS[name]
    (tmp_path / "a.csv").write_text(labelled(labels))
    with caplog.at_level(logging.WARNING):
        load(tmp_path / "a.csv")
    assert re.search(re.escape(str(tmp_path / "a.csv")) + ": column 'label' " + expected, caplog.text)
    assert caplog.text.count("column 'label'") == 1


def test_classes_beyond_doubt_are_not_warned_of(tmp_path, caplog):
    (tmp_path / "a.csv").write_text(labelled([row % 50 for row in range(300)]))
    (tmp_path / "b.csv").write_text(labelled(["neg", "pos"] * 20))
    (tmp_path / "c.csv").write_text(labelled(range(80)))
    with caplog.at_level(logging.WARNING):
        load(tmp_path / "a.csv")
        load(tmp_path / "b.csv")
        load(tmp_path / "c.csv", kind="classification")
    assert "column 'label'" not in caplog.text


def test_slips_of_the_keyboard_are_warned_of_even_where_classes_are_asked_for(tmp_path, caplog):
    (tmp_path / "a.csv").write_text(labelled(["pos", "Pos", "neg", "neg"] * 10))
    with caplog.at_level(logging.WARNING):
        load(tmp_path / "a.csv", kind="classification")
    assert "has the labels 'Pos' and 'pos'" in caplog.text


def test_a_benchmarks_own_empty_texts_are_kept(tmp_path):
    (tmp_path / "train.jsonl").write_text(
        "".join(json.dumps({"sentence": f"text {row}" if row else "", "label": row % 2}) + "\n" for row in range(40))
    )
    data = resolve(TaskConfig(name="sst2", data=tmp_path))
    assert sum(len(split) for split in data.splits.values()) == 40


def test_columns_without_a_name_are_kept_unless_they_are_blank(tmp_path):
    file = tmp_path / "a.csv"
    file.write_text(",text,label,\n0,one,1,\n1,two,0,\n")
    table = read_table(file)
    assert list(table.columns) == ["Unnamed: 0", "text", "label"]
    assert table.values("Unnamed: 0") == ["0", "1"]


def test_a_blank_line_is_an_empty_text_where_there_is_one_column(tmp_path):
    file = tmp_path / "a.csv"
    file.write_text("text\none\n\nthree\n\n")
    assert read_table(file).values("text") == ["one", "", "three"]


def test_shards_that_name_their_classes_differently_are_refused(tmp_path):
    for shard, names in enumerate((["neg", "pos"], ["pos", "neg"])):
        features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=names)})
        rows = datasets.Dataset.from_dict({"text": ["a", "b"], "label": [0, 1]}, features=features)
        rows.to_parquet(tmp_path / f"train-0000{shard}-of-00002.parquet")
    with pytest.raises(DataError, match=r"train-00001.*names its classes otherwise"):
        resolve(TaskConfig(data=tmp_path, text=("text",), label="label"))
