"""Predictions of a finished run: those of its own validation, whatever the file, in the order of its rows."""

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import torch

from graft import load, train
from graft.errors import DataError, RunError
from graft.eval.records import read_predictions
from graft.recipes import file_prediction, row_reading
from graft.recipes.options import RunOptions
from graft.recipes.prediction import Request, main
from graft.recipes.recipe import Recipe


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def runs(
    tmp_path_factory: pytest.TempPathFactory, tiny_bert: Path, tiny_gpt2: Path, word_task: Path
) -> SimpleNamespace:
    """A run of each kind: texts to classes (two architectures), pairs, scores, and plain text."""
    out = tmp_path_factory.mktemp("runs")
    rows = [row | {"other": "w3 w4", "points": len(row["text"]) / 7} for row in lines(word_task / "train.jsonl")]
    pairs = out / "pairs.jsonl"
    pairs.write_text("".join(json.dumps(row) + "\n" for row in rows))

    def make(model: Path, **task: Any) -> Path:
        recipe = Recipe.model_validate(
            {
                "task": {"data": str(word_task), "text": "text", "label": "label", "max_length": 24, **task},
                "model": str(model),
                "method": {"name": "lora", "r": 2},
                "schedule": {"steps": 3, "examples": 8},
                "speed": {"precision": "fp32"},
                "threads": 1,
                "device": "cpu",
            }
        )
        return Path(train(recipe, options=RunOptions(out=out, quiet=True)).folder)

    return SimpleNamespace(
        classes=make(tiny_bert),
        decoder=make(tiny_gpt2),
        pairs=make(tiny_bert, data=str(pairs), text="text,other"),
        scores=make(tiny_bert, data=str(pairs), label="points"),
        language=make(tiny_gpt2, data=str(pairs), label=None, kind="causal_lm"),
    )


def softmax(logits: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    powers = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def test_a_files_predictions_are_those_that_the_run_was_scored_by(
    runs: SimpleNamespace, word_task: Path, tmp_path: Path
) -> None:
    out = tmp_path / "new" / "out.jsonl"
    assert main(Request(runs.classes, file=word_task / "validation.jsonl", out=out, quiet=True)) == 0
    before, after = lines(word_task / "validation.jsonl"), lines(out)
    probabilities = softmax(read_predictions(runs.classes)["validation"].scores)
    assert [{key: row[key] for key in ("text", "label")} for row in after] == before
    assert [row["prediction"] for row in after] == [str(number) for number in probabilities.argmax(axis=1)]
    found = np.array([[row["probabilities"]["0"], row["probabilities"]["1"]] for row in after])
    np.testing.assert_allclose(found, probabilities, rtol=1e-5)
    assert [file.name for file in out.parent.iterdir()] == ["out.jsonl"]


def test_chunks_change_nothing_and_keep_the_order(
    runs: SimpleNamespace, word_task: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = Request(runs.classes, file=word_task / "validation.jsonl", out=tmp_path / "whole.jsonl", quiet=True)
    assert main(request) == 0
    monkeypatch.setattr(row_reading, "WINDOW", 5)
    parts = Request(runs.classes, file=word_task / "validation.jsonl", out=tmp_path / "parts.jsonl", quiet=True)
    assert main(parts) == 0
    whole, parted = lines(tmp_path / "whole.jsonl"), lines(tmp_path / "parts.jsonl")
    assert [row["text"] for row in parted] == [row["text"] for row in whole]
    np.testing.assert_allclose(
        [row["probabilities"]["1"] for row in parted], [row["probabilities"]["1"] for row in whole], rtol=1e-5
    )


ROWS = [
    {"id": 7, "text": 'w1 "w2", w3', "more": None},
    {"id": 5, "text": "", "more": "ü\\n"},
    {"id": 6, "text": "w9 " * 9, "more": "x"},
]


def write(path: Path) -> Path:
    """The rows in one of the formats; csv and tsv know strings only."""
    if path.suffix == ".parquet":
        pa.parquet.write_table(
            pa.Table.from_pylist(ROWS, pa.schema({"id": pa.int16(), "text": pa.string(), "more": pa.string()})), path
        )
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    else:
        quoting = {"quoting": csv.QUOTE_NONE, "quotechar": None} if path.suffix == ".tsv" else {}
        with path.open("w", newline="") as stream:
            writer = csv.writer(stream, delimiter="\t" if path.suffix == ".tsv" else ",", **quoting)
            writer.writerows([ROWS[0].keys(), *(row.values() for row in ROWS)])
    return path


def read(path: Path) -> list[dict[str, Any]]:
    """What was written, by other readers than ours."""
    if path.suffix == ".parquet":
        return pa.parquet.read_table(path).to_pylist()
    if path.suffix == ".jsonl":
        return lines(path)
    quoting = {"quoting": csv.QUOTE_NONE} if path.suffix == ".tsv" else {}
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream, delimiter="\t" if path.suffix == ".tsv" else ",", **quoting))


SUFFIXES = (".jsonl", ".csv", ".tsv", ".parquet")


@pytest.mark.parametrize("to", SUFFIXES)
@pytest.mark.parametrize("source", SUFFIXES)
def test_every_column_and_the_order_survive_from_any_format_to_any(
    source: str, to: str, runs: SimpleNamespace, tmp_path: Path
) -> None:
    file, out = write(tmp_path / f"in{source}"), tmp_path / f"out{to}"
    assert main(Request(runs.classes, file=file, out=out, quiet=True)) == 0
    found = read(out)
    strings = ".csv" in (source, to) or ".tsv" in (source, to)
    for row, original in zip(found, ROWS, strict=True):
        kept = {name: row[name] for name in original}
        assert kept == (
            {name: "" if value is None else str(value) for name, value in original.items()} if strings else original
        )
        chances = row["probabilities"] if to in (".jsonl", ".parquet") else row
        prefix = "" if to in (".jsonl", ".parquet") else "probabilities."
        chances = {name: float(chances[f"{prefix}{name}"]) for name in ("0", "1")}
        assert sum(chances.values()) == pytest.approx(1)
        assert row["prediction"] == max(chances, key=lambda name: chances[name])
    if source == to == ".parquet":
        assert pa.parquet.read_schema(out).field("id").type == pa.int16()


def test_a_number_that_json_cannot_say_becomes_null(runs: SimpleNamespace, tmp_path: Path) -> None:
    nan, inf = float("nan"), float("inf")
    nested = {"x": [nan, 1.5], "y": [[1.0, nan], [-inf]], "z": [{"a": [inf], "b": 2.0}, {"a": [0.5], "b": nan}]}
    pa.parquet.write_table(pa.table({"text": ["w1", "w2"], **nested}), tmp_path / "in.parquet")
    for suffix in (".jsonl", ".csv"):
        request = Request(runs.classes, file=tmp_path / "in.parquet", out=tmp_path / f"out{suffix}", quiet=True)
        assert main(request) == 0

    def strictly(text: str) -> Any:
        return json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))

    rows = [strictly(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [row["x"] for row in rows] == [None, 1.5]
    assert [row["y"] for row in rows] == [[1.0, None], [None]]
    assert [row["z"] for row in rows] == [{"a": [None], "b": 2.0}, {"a": [0.5], "b": None}]
    assert [strictly(row["z"]) for row in read(tmp_path / "out.csv")] == [row["z"] for row in rows]


def test_texts_are_printed_for_a_person_and_for_programs(
    runs: SimpleNamespace, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(Request(runs.classes, texts=("w1 w2", "w30"))) == 0
    heading, first, second = capsys.readouterr().out.splitlines()
    assert heading.split() == ["prediction", "probabilities", "text"]
    assert first.endswith("w1 w2")
    assert second.endswith("w30")
    assert main(Request(runs.classes, texts=("w1 w2", "w30"), as_json=True)) == 0
    rows = json.loads(capsys.readouterr().out)
    expected = softmax(load(runs.classes).logits(["w1 w2", "w30"]).numpy())
    for row, line, chances in zip(rows, (first, second), expected, strict=True):
        assert row["probabilities"] == pytest.approx({"0": chances[0], "1": chances[1]}, rel=1e-4)
        assert line.split()[:3] == [row["prediction"], row["prediction"], f"{max(chances):.3f},"]


def test_pairs_are_predicted_together(runs: SimpleNamespace, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(Request(runs.pairs, texts=("w1 w2",), pairs=("w5",), as_json=True)) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["text"], row["other"]) == ("w1 w2", "w5")
    expected = softmax(load(runs.pairs).logits([("w1 w2", "w5")]).numpy())[0]
    assert row["probabilities"] == pytest.approx({"0": expected[0], "1": expected[1]}, rel=1e-5)
    assert expected[0] != pytest.approx(softmax(load(runs.pairs).logits([("w5", "w1 w2")]).numpy())[0][0], rel=1e-3)


def test_a_score_has_no_probabilities(
    runs: SimpleNamespace, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(Request(runs.scores, texts=("w1 w2",), as_json=True)) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row == {"text": "w1 w2", "prediction": pytest.approx(load(runs.scores).logits(["w1 w2"]).item(), rel=1e-5)}
    for suffix in SUFFIXES:
        assert main(Request(runs.scores, file=write(tmp_path / f"in{suffix}"), out=tmp_path / f"out{suffix}")) == 0
        error = [] if suffix == ".jsonl" else ["error"]
        assert list(read(tmp_path / f"out{suffix}")[0]) == ["id", "text", "more", "prediction", *error]
        assert float(read(tmp_path / f"out{suffix}")[1]["prediction"]) == pytest.approx(
            load(runs.scores).logits([""]).item(), rel=1e-5
        )


@pytest.mark.parametrize("kind", ["classes", "decoder", "language"])
def test_an_empty_text_has_logits(kind: str, runs: SimpleNamespace) -> None:
    loaded = load(getattr(runs, kind))
    alone, beside = loaded.logits([""]), loaded.logits(["", "w1 w2 w3"])
    assert torch.isfinite(alone).all()
    torch.testing.assert_close(beside[:1, : alone.shape[1]], alone)


def test_what_is_no_text_is_refused(runs: SimpleNamespace) -> None:
    loaded = load(runs.classes)
    assert loaded.predict([]) == []
    for texts in ([("a", "b")], [None], [("a", 3)], ["fine", "\ud800"]):
        with pytest.raises(DataError, match=rf"text {len(texts) - 1} \(the first is 0\)"):
            loaded.logits(texts)
    with pytest.raises(DataError, match="there are none"):
        loaded.logits([])
    with pytest.raises(DataError, match="a pair"):
        load(runs.pairs).logits(["alone"])
    with pytest.raises(RunError, match="language model"):
        load(runs.language).predict(["w1"])


def test_texts_that_are_cut_are_counted(
    runs: SimpleNamespace,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert main(Request(runs.classes, texts=("w1 " * 50, "w2"))) == 0
    assert "1 of 2 texts were longer than the run's task.max_length (24 tokens) and were cut" in caplog.text
    capsys.readouterr()
    monkeypatch.setattr(row_reading, "WINDOW", 1)
    (tmp_path / "in.csv").write_text(f"text\n{'w1 ' * 50}\nw2\n{'w3 ' * 50}\n")
    request = Request(runs.classes, file=tmp_path / "in.csv", out=tmp_path / "out.csv", as_json=True, quiet=True)
    assert main(request) == 0
    told = {"out": str(tmp_path / "out.csv"), "rows": 3, "truncated": 2, "bad": 0, "first_bad": None}
    assert json.loads(capsys.readouterr().out) == told


def test_a_prefix_leaves_the_texts_the_positions_that_it_does_not_take(
    tiny_recipe: Callable[..., Recipe], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    recipe = tiny_recipe({"name": "prefix", "tokens": 20}, task={"max_length": 32}, schedule={"epochs": 1, "steps": 1})
    loaded = load(train(recipe, options=RunOptions(out=tmp_path, quiet=True)).folder)
    assert int(loaded.encode(["w1 " * 60]).lengths.max()) == 20  # of 40 positions
    assert torch.isfinite(loaded.logits(["w1 " * 60])).all()
    assert main(Request(loaded.folder, texts=("w1 " * 60,), quiet=True)) == 0
    assert "longer than the 20 tokens that the model takes besides the 20 positions of its prefix" in caplog.text


def test_positions_bound_texts_that_the_recipe_would_let_through(
    tiny_recipe: Callable[..., Recipe], tmp_path: Path, caplog: pytest.LogCaptureFixture, tiny_bert: Path
) -> None:
    """As of a checkpoint whose tokenizer knows no limit."""
    checkpoint = Path(shutil.copytree(tiny_bert, tmp_path / "checkpoint"))
    settings = json.loads((checkpoint / "tokenizer_config.json").read_text())
    (checkpoint / "tokenizer_config.json").write_text(json.dumps(settings | {"model_max_length": 10**6}))
    recipe = tiny_recipe("lora", model={"name": str(checkpoint)}, task={"max_length": 64}, schedule={"steps": 1})
    run = train(recipe, options=RunOptions(out=tmp_path / "runs", quiet=True))
    assert main(Request(run.folder, texts=("w1 " * 60,), quiet=True)) == 0
    assert "longer than the 40 tokens that the model takes and were cut" in caplog.text


def test_an_interruption_or_a_failure_leaves_the_old_file(
    runs: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file, out = write(tmp_path / "in.jsonl"), tmp_path / "out.jsonl"
    out.write_text("old")
    monkeypatch.setattr(row_reading, "WINDOW", 2)
    rounds = iter(range(1))
    predict = file_prediction._predict

    def interrupted(*arguments: Any) -> Any:
        if next(rounds, None) is None:
            raise KeyboardInterrupt
        return predict(*arguments)

    monkeypatch.setattr(file_prediction, "_predict", interrupted)
    assert main(Request(runs.classes, file=file, out=out, quiet=True)) == 130
    assert capsys.readouterr().err.endswith("interrupted; nothing was written\n")
    assert out.read_text() == "old"
    assert {path.name for path in tmp_path.iterdir()} == {"in.jsonl", "out.jsonl"}


@pytest.mark.parametrize(
    ("asked", "complaint"),
    [
        ({}, 'give --text "..."'),
        ({"out": "out.csv", "texts": ("w1",)}, "--out: goes with --file"),
        ({"file": "in.csv"}, "--file: say where the predictions go"),
        ({"file": "in.csv", "out": "out.csv", "texts": ("w1",)}, "--file: comes alone"),
        ({"file": "in.csv", "out": "out.xlsx"}, "cannot write .xlsx"),
        ({"file": "in.csv", "out": "out"}, "cannot write a file without a suffix"),
        ({"file": "in.csv", "out": "./in.csv"}, "is the file that is read"),
        ({"file": "in.xlsx", "out": "out.csv"}, "cannot tell examples apart in .xlsx"),
        ({"file": "none.csv", "out": "out.csv"}, "no such file"),
        ({"file": "missing.csv", "out": "out.csv"}, "no column 'text' (did you mean 'texts'?)"),
        ({"file": "empty.csv", "out": "out.csv"}, "empty.csv: no rows in it"),
        ({"file": "nothing.csv", "out": "out.csv"}, "nothing.csv: no rows in it"),
        ({"file": "taken.csv", "out": "out.jsonl"}, "has a column 'prediction' already"),
        ({"file": "flat.csv", "out": "out.csv"}, "has a column 'probabilities.1' already"),
        ({"file": "tab.jsonl", "out": "out.tsv"}, "holds a tab or a line break"),
        ({"file": "mixed.jsonl", "out": "out.parquet"}, "several types of values"),
        ({"file": "error.jsonl", "out": "out.jsonl"}, "'error' already, which the reason of a bad row would hide"),
        ({"file": "null.jsonl", "out": "out.csv"}, "no row can be predicted, so nothing was written; row 0"),
        (
            {"file": "broken.jsonl", "out": "out.csv"},
            "none of its 2 rows can be read; the first of them: line 1: not JSON",
        ),
        ({"file": "list.jsonl", "out": "out.csv"}, "name the file .json"),
        ({"file": "semicolons.csv", "out": "out.csv"}, "between ';': save the file with commas"),
        ({"file": "twice.csv", "out": "out.csv"}, "two columns are named 'text'"),
        ({"file": "header.csv", "out": "out.csv"}, "line 1 is not UTF-8"),
        ({"file": "zip.csv", "out": "out.csv"}, "is a spreadsheet or a zip archive"),
        ({"file": "text.parquet", "out": "out.csv"}, "cannot be read as parquet"),
        ({"file": "folder.jsonl", "out": "out.csv"}, "is no plain file"),
        ({"file": "in.csv", "out": "in.csv/out.csv"}, "cannot write"),
        ({"texts": ("w1",), "pairs": ("w2",)}, "was trained on single texts (text); leave it out"),
        ({"texts": ("w1",), "run": "pairs"}, "give its other too"),
        ({"texts": ("w1", "w2"), "pairs": ("w2",), "run": "pairs"}, "1 of them for 2 --text"),
        ({"texts": ("w1",), "run": "language"}, "is a language model"),
        ({"texts": ("\ud800",)}, "is not UTF-8"),
        ({"texts": ("w1",), "run": "nowhere"}, "no such run folder"),
    ],
)
def test_a_mistake_is_one_message(
    asked: dict[str, Any],
    complaint: str,
    runs: SimpleNamespace,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    contents = {
        "in.csv": "text\nw1\n",
        "in.xlsx": "",
        "missing.csv": "texts\nw1\n",
        "empty.csv": "text\n",
        "nothing.csv": "",
        "taken.csv": "text,prediction\nw1,1\n",
        "flat.csv": "text,probabilities.1\nw1,1\n",
        "tab.jsonl": '{"text": "w1\\tw2"}\n',
        "mixed.jsonl": '{"text": "w1", "x": 1}\n{"text": "w2", "x": "one"}\n',
        "error.jsonl": '{"text": "w1"}\n{"text": "w2", "error": 4}\n',
        "null.jsonl": '{"text": null}\n{"text": null}\n',
        "broken.jsonl": '{"text": \nw1\n',
        "list.jsonl": '\n[{"text": "w1"}]\n',
        "semicolons.csv": "text;label\nw1;0\n",
        "twice.csv": "text,text\nw1,w2\n",
        "header.csv": b"text,\xe9\nw1,w2\n",
        "zip.csv": "PK\x03\x04",
        "text.parquet": "text\nw1\n",
        "folder.jsonl": None,
    }
    for name, content in contents.items():
        if content is None:
            (tmp_path / name).mkdir()
        else:
            (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    run = getattr(runs, asked.pop("run", "classes"), Path("nowhere"))
    paths = {key: Path(asked.pop(key)) for key in ("file", "out") if key in asked}
    assert main(Request(run, **asked, **paths, quiet=True)) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ")
    assert complaint in captured.err
    assert len(captured.err.splitlines()) == 1
    assert captured.out == ""
    assert {path.name for path in tmp_path.iterdir()} == set(contents)


def test_a_text_file_whose_lines_are_no_rows_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], runs: SimpleNamespace
) -> None:
    file = tmp_path / "in.txt"
    file.write_text("one\ntwo\n")
    assert main(Request(run=tmp_path, file=file, out=tmp_path / "out.jsonl")) == 2
    assert "cannot tell examples apart in .txt" in capsys.readouterr().err
