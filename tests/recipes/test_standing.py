"""The display of a comparison: what is done, under way, failed, the scores so far and the time left."""

from concurrent.futures import Future
from types import SimpleNamespace

import pytest
from rich.console import Console

from graft.recipes.cells import Cell, Planned
from graft.recipes.execution import Outcome
from graft.recipes.prospect import Prospect, duration
from graft.recipes.standing import Standing


def found(score, seconds=10.0):
    """A finished run."""
    record = SimpleNamespace(
        data=SimpleNamespace(sizes={"train": 9, "holdout": 1, "validation": 5}),
        kind="final",
        primary_metric="accuracy",
        scores={"validation": {"accuracy": score}},
        train_seconds=seconds,
    )
    return SimpleNamespace(record=record, validations=("validation",))


@pytest.fixture
def comparison():
    """Two cells of three runs each, of which two runs of the first one are there."""
    cells = [Cell("words", "tiny", label, None, 1, False, None) for label in ("full", "lora")]
    runs = {cell: [Planned(cell, 1e-3, seed, "final") for seed in (1, 2, 3)] for cell in cells}
    there = {runs[cells[0]][0]: found(80.0), runs[cells[0]][1]: found(83.0)}
    schedule = SimpleNamespace(
        cells=cells,
        finals=lambda cell: runs[cell],
        progress=lambda cell: (sum(run in there for run in runs[cell]), 3),
        work_left=lambda cell: 3.0 - sum(run in there for run in runs[cell]),
        ledger=SimpleNamespace(found=there.get),
    )
    return SimpleNamespace(schedule=schedule, cells=cells, runs=runs, there=there)


def shown(standing):
    console = Console(width=100, record=True)
    with console.capture() as captured:
        console.print(standing.render())
    return captured.get()


def test_the_display_says_how_far_it_is_and_what_is_known_so_far(comparison):
    full, lora = comparison.cells
    prospect = Prospect(6, 2, 2.0, 0, {full: 60.0, lora: 120.0}, ())
    standing = Standing(comparison.schedule, prospect, 2, live=False)
    assert standing.counts() == (2, 6)
    assert standing.seconds_left() == (60 + 3 * 120) / 2
    running, waiting = Future(), Future()
    running.set_running_or_notify_cancel()
    standing.on_submit(comparison.runs[lora][0], running)
    standing.on_submit(comparison.runs[lora][1], waiting)
    standing.on_finish(comparison.runs[lora][2], Outcome(failure="no memory [for] it"), None)
    text = shown(standing)
    assert "2 of 6 runs done; 2 were there; 1 running; 1 failed; about 4 min left" in text
    assert "words, tiny, lora, seed 1 (0 s)" in text
    assert "failed: words, tiny, lora, seed 3: no memory [for] it" in text
    assert "accuracy 81.50 (2 seeds)" in text


def test_time_left_follows_what_runs_really_take(comparison):
    full, lora = comparison.cells
    standing = Standing(comparison.schedule, Prospect(6, 0, 2.0, 0, {full: 60.0, lora: 60.0}, ()), 1, live=False)
    comparison.there[comparison.runs[lora][0]] = found(70.0)
    standing.on_finish(comparison.runs[lora][0], Outcome(seconds=300.0), found(70.0))
    assert standing.seconds_left() == 60 + 2 * 300
    # A trial that only had to be scored says nothing of how long training takes.
    standing.on_finish(comparison.runs[lora][1], Outcome(seconds=1.0), found(70.0))
    assert standing.seconds_left() == 60 + 2 * 300


def test_without_a_terminal_there_is_a_line_for_each_run_and_no_display(comparison, caplog, capsys):
    full = comparison.cells[0]
    caplog.set_level("INFO", "graft")
    with Standing(comparison.schedule, Prospect(6, 0, None, 0, {full: 60.0}, ()), 1, live=True) as standing:
        standing.on_finish(comparison.runs[full][1], Outcome(seconds=30.0), found(83.0))
    assert [message.partition(";")[0] for message in caplog.messages] == [
        "2 of 6: words, tiny, full, seed 2: validation accuracy 83.00"
    ]
    assert capsys.readouterr() == ("", "")


def test_durations_are_in_words():
    assert [duration(seconds) for seconds in (4, 89, 600, 12600)] == ["4 s", "89 s", "10 min", "3.5 h"]
