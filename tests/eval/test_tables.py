"""A comparison as tables: readable, exact, and safe for what other people called their methods."""

import csv
import io
import re
import shutil
import subprocess

import pytest
from rich.console import Console

from graft.eval.comparison import Comparison, Cost, Protocol, Result, SuiteResult
from graft.eval.tables import latex, terminal, to_csv, to_latex, write_tables

MINUS = "\N{MINUS SIGN}"
HOSTILE = 'a_b, "r=1"; 50% & $x$ #1 {~^\\} [red]<script>'


def result(method, **changes):
    values = {
        "task": "mrpc",
        "model": "minilm",
        "method": method,
        "metric": "f1",
        "seeds": (1, 2),
        "examples": 1408,
        "scores": (87.0, 88.0),
        "mean": 87.5,
        "runs": ("runs/a", "runs/b"),
        "sentence": "...",
        "difference": -0.1 - 0.2,
        "low": -2.9,
        "high": 2.3,
        "standard_error": 0.9,
        "degrees_of_freedom": 3.5,
        "direction": "not shown",
        "size": "not shown",
        "costs": {
            "trainable": Cost(value=312_456, ratio=0.014),
            "seconds_per_step": Cost(value=0.1234, ratio=1.07),
        },
        **changes,
    }
    return Result(**values)


def reference(**changes):
    none = {"difference": 0.0, "low": None, "high": None, "standard_error": None, "degrees_of_freedom": None}
    return result("full", **none, direction="reference", size="reference", **changes)


def comparison(*results, suite=()):
    protocol = Protocol(
        alpha=0.05, margin=1.0, reference="full", interval="", conditional_on="", fingerprints={"mrpc": "ab"}
    )
    return Comparison(protocol=protocol, results=results, suite=suite)


def mean(method, **changes):
    values = {
        "model": "minilm",
        "method": method,
        "tasks": ("mrpc", "rte"),
        "mean": 80.25,
        "rank": 1.5,
        "sentence": "",
        "wins": 0,
        "ties": 1,
        "losses": 1,
        "difference": -0.5,
        "low": -0.8,
        "high": -0.2,
        "standard_error": 0.1,
        "degrees_of_freedom": 8.0,
        "direction": "worse",
        "size": "equivalent",
        **changes,
    }
    return SuiteResult(**values)


def printed(found, width=200):
    console = Console(width=width, highlight=False)
    with console.capture() as captured:
        console.print(terminal(found))
    return captured.get()


def test_the_terminal_shows_both_axes_and_what_it_costs():
    text = printed(comparison(reference(), result("lora")))
    assert "mrpc, minilm: 1,408 examples" in text
    line = next(line for line in text.splitlines() if line.startswith("lora"))
    assert re.split(r"\s{2,}", line.strip()) == [
        *("lora", "87.5", f"{MINUS}0.3 ({MINUS}2.9 … +2.3)", "not shown", "not shown", "312,456", "0.123")
    ]
    assert "peak memory" not in text  # nobody measured it


def test_what_one_method_lacks_is_said_and_not_zero():
    text = printed(comparison(reference(), result("lora", costs={})))
    assert "not measured" in next(line for line in text.splitlines() if line.startswith("lora"))


def test_a_method_without_an_interval_says_so():
    text = printed(comparison(reference(), result("lora", low=None, high=None)))
    assert f"{MINUS}0.3 (no interval)" in text


def test_losses_have_three_decimals():
    text = printed(comparison(reference(metric="loss", mean=3.21456), result("lora", metric="loss", low=-0.01234)))
    assert "3.215" in text
    assert f"{MINUS}0.012" in text


def test_the_mean_over_tasks_has_ranks_and_counts():
    text = printed(comparison(reference(), result("lora"), suite=(mean("lora"),)))
    assert "mean of 2 tasks, minilm" in text
    line = next(line for line in text.splitlines() if line.startswith("lora") and "worse" in line)
    expected = ["lora", "80.2", f"{MINUS}0.5 ({MINUS}0.8 … {MINUS}0.2)", "worse", "equivalent", "1.50", "0, 1, 1"]
    assert re.split(r"\s{2,}", line.strip()) == expected


def test_names_are_shown_as_they_are_whatever_is_in_them():
    text = printed(comparison(reference(), result(HOSTILE)))
    assert HOSTILE in text
    rows = list(csv.DictReader(io.StringIO(to_csv(comparison(reference(), result(HOSTILE))))))
    assert rows[1]["method"] == HOSTILE


def test_csv_reads_back_exactly():
    found = comparison(reference(), result("lora"), suite=(mean("lora"),))
    rows = list(csv.DictReader(io.StringIO(to_csv(found))))
    assert float(rows[1]["difference"]) == -0.1 - 0.2
    assert (rows[1]["seeds"], rows[1]["examples"], rows[1]["trainable"]) == ("1 2", "1408", "312456")
    assert (rows[0]["low"], rows[1]["peak_memory_bytes"]) == ("", "")
    assert (rows[2]["task"], rows[2]["rank"], rows[2]["losses"]) == ("mean of 2 tasks", "1.5", "1")


def test_latex_has_a_row_for_each_method_and_the_same_columns_in_each():
    text = to_latex(comparison(reference(), result("lora"), suite=(mean("full"), mean("lora"))))
    assert text.count(r"\toprule") == text.count(r"\bottomrule") == 1
    assert r"lora & 87.5 & $-$0.3 ($-$2.9 \ldots{} +2.3) & not shown & not shown & 312,456 & not mea" in text
    rows = [line for line in text.splitlines() if line.endswith(r"\\") and "multicolumn" not in line]
    assert {row.count("&") for row in rows} == {7}


def test_latex_specials_are_escaped():
    assert latex(HOSTILE) == (
        r"a\_b, ''r=1''; 50\% \& \$x\$ \#1 \{\textasciitilde{}\textasciicircum{}\textbackslash{}\} "
        r"{[}red{]}\textless{}script\textgreater{}"
    )
    assert latex("two\nlines") == "two lines"
    row = next(line for line in to_latex(comparison(reference(), result("[x] y"))).splitlines() if "y &" in line)
    assert row.startswith("{[}x{]} y")  # not taken for the argument of the line end before


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")
def test_latex_compiles(tmp_path):
    table = to_latex(comparison(reference(), result(HOSTILE), suite=(mean("full"), mean(HOSTILE))))
    document = f"\\documentclass{{article}}\\usepackage{{booktabs}}\\begin{{document}}{table}\\end{{document}}"
    (tmp_path / "table.tex").write_text(document)
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "table.tex"]
    assert subprocess.run(command, cwd=tmp_path, capture_output=True, check=False).returncode == 0


def test_both_files_are_written(tmp_path):
    files = write_tables(tmp_path, comparison(reference(), result("lora")))
    assert [file.name for file in files] == ["comparison.csv", "comparison.tex"]
    assert all(file.read_text() for file in files)
