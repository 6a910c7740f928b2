"""`graft verdict`: what it prints, what it writes, and how it ends."""

import json
import os
import subprocess
import sys

import pytest
from synthetic_runs import invent_classes, write_run

from graft import cli


@pytest.fixture
def runs(tmp_path):
    labels, found = invent_classes({"full": 0.85, "lora": 0.84, "bitfit": 0.6}, 3, 200)
    for method, all_scores in found.items():
        for seed, scores in enumerate(all_scores, 1):
            write_run(tmp_path / "runs", {"validation": (labels, scores)}, method=method, seed=seed)
    return tmp_path / "runs"


def test_a_sentence_for_each_method_comes_first_then_the_table(runs, capsys):
    assert cli.main(["verdict", str(runs), "--margin", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("bitfit: worse than full fine-tuning on mrpc, \N{MINUS SIGN}")
    assert lines[1].startswith("lora: not shown to differ from full fine-tuning on mrpc, ")
    assert "mrpc, minilm: 200 examples" in lines
    assert any("half-width" in line for line in lines)
    assert lines[-1].startswith("wrote ")


def test_the_comparison_and_its_tables_are_written(runs, tmp_path, capsys):
    assert cli.main(["verdict", str(runs), "--margin", "1"]) == 0
    assert {"comparison.json", "comparison.csv", "comparison.tex"} <= {path.name for path in runs.iterdir()}
    first = (runs / "comparison.json").read_bytes()
    assert cli.main(["verdict", str(runs), "--margin", "1", "--out", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out" / "comparison.json").read_bytes() == first


def test_a_report_is_written_where_what_draws_it_is_installed(runs, tmp_path, capsys):
    pytest.importorskip("plotly")
    assert cli.main(["verdict", str(runs), "--out", str(tmp_path / "out")]) == 0
    assert {"report.html", "report.md"} <= {path.name for path in (tmp_path / "out").iterdir()}
    assert f"wrote {tmp_path / 'out' / 'report.html'}" in capsys.readouterr().out


def test_without_what_draws_it_there_is_no_report_and_the_way_to_one_is_told(runs, monkeypatch, capsys, caplog):
    monkeypatch.setitem(sys.modules, "plotly", None)
    assert cli.main(["verdict", str(runs)]) == 0
    assert "no report was written, since plotly is not installed; pip install 'graft-nlp[report]'" in caplog.text
    assert not (runs / "report.html").exists()
    assert (runs / "comparison.json").exists()
    assert cli.main(["verdict", str(runs), "--figures", str(runs / "figures")]) == 2
    assert "the report needs plotly" in capsys.readouterr().err


def test_json_for_programs_is_all_that_is_printed(runs, capsys):
    assert cli.main(["verdict", str(runs), "--margin", "1", "--alpha", "0.1", "--json"]) == 0
    value = json.loads(capsys.readouterr().out)
    assert value == json.loads((runs / "comparison.json").read_text())
    assert value["schema"] == 1
    assert value["protocol"]["alpha"] == 0.1
    result = value["results"][2]
    wanted = {"task", "model", "method", "seeds", "mean", "difference", "low", "high", "direction", "size"}
    assert wanted <= result.keys()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--margin", "0"], "error: margin: 0 is no margin"),
        (["--alpha", "0.7"], "error: alpha: 0.7 is no level"),
        (["--reference", "fulll"], "did you mean 'full'"),
        (["--margin", "wide"], "not a valid float"),
    ],
)
def test_a_mistake_is_one_message_and_exit_code_2(runs, given, message, capsys):
    assert cli.main(["verdict", str(runs), *given]) == 2
    assert message in (error := capsys.readouterr().err)
    assert "Traceback" not in error
    assert not (runs / "comparison.json").exists()


def test_a_folder_that_is_not_there_is_a_mistake(tmp_path, capsys):
    assert cli.main(["verdict", str(tmp_path / "absent")]) == 2
    assert "no such folder" in capsys.readouterr().err


def test_what_was_left_out_is_told(runs, capsys):
    (next(runs.glob("*lora-s2*")) / "record.json").write_text("{")
    assert cli.main(["verdict", str(runs)]) == 0
    out = capsys.readouterr().out
    assert "missing: " in out
    assert "lora-s2" in out
    assert "warning: mrpc, minilm: lora and full do not share the seeds 2" in out


def test_a_terminal_of_another_encoding_is_no_bug(runs):
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    command = [sys.executable, "-m", "graft", "verdict", str(runs), "--margin", "1"]
    done = subprocess.run(command, capture_output=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert b"200 examples" in done.stdout
