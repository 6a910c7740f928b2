"""Prediction of files of any size, with bad rows in them: each row keeps its place, and says what is wrong with it."""

import csv
import json
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from graft import train
from graft.recipes import file_prediction, row_reading
from graft.recipes.options import RunOptions
from graft.recipes.prediction import Request, main
from graft.recipes.recipe import Recipe
from graft.recipes.row_reading import Row, windows
from graft.recipes.survey import survey


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, tiny_bert: Path, word_task: Path) -> Path:
    recipe = Recipe.model_validate(
        {
            "task": {"data": str(word_task), "text": "text", "label": "label", "max_length": 24},
            "model": str(tiny_bert),
            "schedule": {"steps": 1, "examples": 8},
            "speed": {"precision": "fp32"},
            "threads": 1,
        }
    )
    return Path(train(recipe, options=RunOptions(out=tmp_path_factory.mktemp("runs"), quiet=True)).folder)


def predicted(run: Path, file: Path, suffix: str) -> list[dict[str, Any]]:
    """Predict, and read the output with other readers than ours."""
    out = file.with_name(f"out{suffix}")
    assert main(Request(run, file=file, out=out, quiet=True)) == 0
    if suffix == ".parquet":
        found: list[dict[str, Any]] = pa.parquet.read_table(out).to_pylist()
        return found
    if suffix == ".jsonl":
        return [json.loads(line) for line in out.read_text().splitlines()]
    quoting = {"quoting": csv.QUOTE_NONE} if suffix == ".tsv" else {}
    with out.open(newline="") as stream:
        return list(csv.DictReader(stream, delimiter="\t" if suffix == ".tsv" else ",", **quoting))


BAD = {
    ".jsonl": (
        (
            b'{"text": "w1", "n": 1}\n{"text": "w2"\n\n{"n": 2}\n{"text": 3}\n{"text": "\xe9"}\n{"text": null}\n"w4"\n'
            b'{"text": "\\ud800"}\n{"text": "w5", "n": 3}\n'
        ),
        {
            1: "line 2: not JSON (column 14:",
            2: "no column 'text'",
            3: "column 'text' is 3, not text",
            4: "line 6 is not UTF-8",
            5: "nothing in column 'text'",
            6: "line 8 is 'w4'; expected an object",
            7: "line 9: a string holds half of a surrogate pair",
        },
    ),
    ".csv": (
        b'text,n\nw1,1\nw2,2,3\nw3\n"w4\nw5",2\n\xe9,2\n"w6,2\nw7,8\n"w8"x,1\nw9,3\n',
        {
            1: "line 3: expected 2 fields (text, n), found 3",
            2: "line 4: expected 2 fields (text, n), found 1",
            4: "line 7 is not UTF-8",
            5: "line 8: ",
            7: "line 10: ",
        },
    ),
    ".tsv": (
        b'text\tn\nw1\t1\nw2\nw3 "x\t2\n\xff\t2\n\nw5\t3\n',
        {1: "line 3: expected 2 fields (text, n), found 1", 3: "line 5 is not UTF-8"},
    ),
}


@pytest.mark.parametrize("to", [".jsonl", ".csv", ".tsv", ".parquet"])
@pytest.mark.parametrize("source", BAD)
def test_bad_rows_say_why_and_the_others_are_predicted(
    source: str, to: str, run: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    content, reasons = BAD[source]
    file = tmp_path / f"in{source}"
    file.write_bytes(content.replace(b'"w4\nw5"', b"w4 w5") if to == ".tsv" else content)
    found = predicted(run, file, to)
    assert len(found) == max(reasons) + 2  # the last row is a good one
    for number, row in enumerate(found):
        if number in reasons:
            line_break = source == ".csv" and to == ".tsv" and number > 3  # one line fewer, see above
            assert (row["error"] or "").startswith("line " if line_break else reasons[number])
            assert not row.get("prediction")
            assert not row.get("probabilities")
        else:
            assert row["prediction"] in ("0", "1")
            assert not row.get("error")
    assert (found[0]["text"], str(found[0]["n"])) == ("w1", "1")
    assert str(found[-1]["n"]) == "3"
    first = min(reasons)
    complaint = f"{len(reasons)} of {len(found)} rows have no prediction and say why under 'error'; the first is row"
    assert f"{complaint} {first} (the first is 0): {reasons[first]}" in caplog.text


def test_parquet_keeps_what_is_good_of_rows_that_are_bad(run: Path, tmp_path: Path) -> None:
    broken = pa.array([b"w1", b"w2 \xff", None, b"w3"], pa.binary()).view(pa.string())
    pa.parquet.write_table(pa.table({"text": broken, "n": [1, 2, 3, 4]}), tmp_path / "in.parquet", row_group_size=3)
    for to in (".parquet", ".jsonl"):
        found = predicted(run, tmp_path / "in.parquet", to)
        assert [row.get("error") for row in found] == [
            None,
            "column 'text' is not UTF-8",
            "nothing in column 'text'",
            None,
        ]
        assert [row["n"] for row in found] == [1, 2, 3, 4]
        assert found[1]["text"] == "w2 \ufffd"


def test_a_quote_that_never_closes_costs_one_row(tmp_path: Path) -> None:
    lines = ["text,n", *(f"w{number % 9},{number}" for number in range(5000))]
    lines[3] = '"w2,2'
    (tmp_path / "in.csv").write_text("\n".join(lines))
    rows = [row for window in windows(tmp_path / "in.csv", ["text"]) for row in window.rows]
    assert [number for number, row in enumerate(rows) if row.error] == [2]
    assert "line 4: " in str(rows[2].error)
    assert [row.values.get("n") for row in rows[3:]] == [str(number) for number in range(3, 5000)]
    assert csv.field_size_limit() == 131072


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".tsv"])
def test_a_line_without_end_costs_one_row(suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_reading, "_LONGEST", 100)
    head, row = ("", '{"text": "%s"}\n') if suffix == ".jsonl" else ("text\n", "%s\n")
    (tmp_path / f"in{suffix}").write_text(head + row % "w1" + row % ("w2" * 200) + row % "w3")
    first, second, third = next(windows(tmp_path / f"in{suffix}", ["text"])).rows
    assert (first, third) == (Row({"text": "w1"}), Row({"text": "w3"}))
    assert "longer than 100 characters" in str(second.error)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(st.lists(st.text(st.characters(codec="utf-8"), max_size=6), min_size=2, max_size=2), max_size=9))
def test_a_csv_that_is_whole_is_read_as_the_standard_library_reads_it(rows: list[list[str]], tmp_path: Path) -> None:
    with (tmp_path / "in.csv").open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream, quoting=csv.QUOTE_ALL).writerows([["a", "b"], *rows])
    found = [row for window in windows(tmp_path / "in.csv", ["a"]) for row in window.rows]
    assert [list(row.values.values()) for row in found] == rows
    assert not [row.error for row in found if row.error]


def test_blank_lines_and_unnamed_columns_are_those_that_training_leaves_out(run: Path, tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text("\ntext,,n,\n\nw1,,1,\nw2,x,2,\n\n")
    assert [list(row)[:3] for row in predicted(run, tmp_path / "in.csv", ".jsonl")] == [["text", "Unnamed: 1", "n"]] * 2
    (tmp_path / "in.csv").write_text("text\nw1\n\n\nw2\n\n")
    assert [row["text"] for row in predicted(run, tmp_path / "in.csv", ".csv")] == ["w1", "", "", "w2"]


def test_types_of_a_jsonl_are_those_of_all_its_rows(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_reading, "WINDOW", 1)
    rows = [{"text": "w1", "x": None}, {"text": "w2", "x": 1}, {"text": "w3", "x": 2.5, "y": [True]}]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = predicted(run, tmp_path / "in.jsonl", ".parquet")
    assert [(row["x"], row["y"]) for row in found] == [(None, None), (1.0, None), (2.5, [True])]


def write_rows(path: Path, rows: int) -> Path:
    """Rows of tiny texts."""
    if path.suffix == ".parquet":
        texts = pa.array([f"w{number % 40}" for number in range(rows)])
        pa.parquet.write_table(pa.table({"text": texts, "n": range(rows)}), path)
        return path
    head, row = ("", '{"text": "w%d", "n": %d}\n') if path.suffix == ".jsonl" else ("text,n\n", "w%d,%d\n")
    row = row.replace(",", "\t") if path.suffix == ".tsv" else row
    with path.open("w") as stream:
        stream.write(head.replace(",", "\t") if path.suffix == ".tsv" else head)
        stream.writelines(row % (number % 40, number) for number in range(rows))
    return path


@pytest.fixture
def traced() -> Iterator[None]:
    tracemalloc.start()
    yield
    tracemalloc.stop()


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".tsv", ".parquet"])
def test_memory_is_bounded_by_a_window_not_by_the_file(suffix: str, tmp_path: Path, traced: None) -> None:
    def peak(rows: int) -> int:
        file = write_rows(tmp_path / f"{rows}{suffix}", rows)
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0] + pa.total_allocated_bytes()
        found = survey(file, tmp_path / "out.jsonl", ["text"])
        arrow, seen = 0, 0
        for window in windows(file, ["text"]):
            seen += len(window.rows)
            assert len(window.rows) <= row_reading.WINDOW
            arrow = max(arrow, pa.total_allocated_bytes())
        assert found.rows == seen == rows
        return tracemalloc.get_traced_memory()[1] + arrow - before

    few, many = peak(5_000), peak(40_000)
    assert many < 1.5 * few + 2**20


def test_no_more_than_a_window_is_read_ahead_of_what_is_predicted(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(row_reading, "WINDOW", 16)
    file = write_rows(tmp_path / "in.jsonl", 100)
    read, sizes = [0], []
    objects, predict = row_reading._objects, file_prediction._predict

    def counted(*arguments: Any) -> Iterator[Any]:
        read[0] = 0
        for row in objects(*arguments):
            read[0] += 1
            yield row

    def measured(*arguments: Any) -> Any:
        sizes.append(read[0])
        return predict(*arguments)

    monkeypatch.setattr(row_reading, "_objects", counted)
    monkeypatch.setattr(file_prediction, "_predict", measured)
    assert len(predicted(run, file, ".jsonl")) == 100
    assert sizes == [16, 32, 48, 64, 80, 96, 100]
