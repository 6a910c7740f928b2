"""The benchmark's contestants train and tell what they did, and its figures are what their segments say."""

import json
import os
import signal
import sys
from pathlib import Path

import pytest

SCRIPTS = str(Path(__file__).parents[1] / "scripts")


@pytest.fixture
def bench(monkeypatch):
    """The module; scripts import each other by their bare names."""
    monkeypatch.syspath_prepend(SCRIPTS)
    import bench

    yield bench
    for name in ("bench", "bench_page", "bench_rows", "contestants", "turns"):
        sys.modules.pop(name, None)


@pytest.fixture
def page(bench):
    """The module that writes the page."""
    return sys.modules["bench_page"]


@pytest.fixture
def loud():
    """Peers silence transformers in their process; in this one only for a test."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    yield
    logging.set_verbosity(level)
    if bars:
        logging.enable_progress_bar()


def segment(tokens, seconds, padded=None):
    return {"seconds": seconds, "examples": 32, "tokens": tokens, "padded": padded or tokens}


def measured(bench, first=1.0, **segments):
    return {
        "segments": segments,
        "peak_memory_bytes": dict.fromkeys(segments, 2**30),
        "gemm_flops": [4e9, 1e9, 2e9],
        "backbone_weights": 1000,
        "tokens_per_example": 10.0,
        "first_seconds": dict.fromkeys(segments, first),
        "protocol": bench.PROTOCOL,
        "settings": {"task": "mrpc"},
        "rounds": len(next(iter(segments.values()))),
        "pools": 1,
        "steps": 4,
        "threads": 2,
        "examples": 100,
        "where": "A machine",
    }


def test_a_row_has_medians_of_neighbours_ratios_and_utilisation(bench, page):
    found = measured(
        bench,
        graft=[segment(4000, 1.0), segment(1000, 1.0, padded=1200), segment(2000, 1.0)],
        Trainer=[segment(1000, 1.0), segment(2000, 4.0), segment(500, 1.0)],
    )
    ours, peer = page.summary(found, "full")
    # 2,000 tokens a second at 10 an example; 6 x 1,000 weights x 2,000 of 2e9 operations; padding over all segments
    assert ours == ["graft", "200.0", "", "", "2,000", "3%", "1%", "1,024", "1.0", "1.0"]
    assert peer == [
        "Trainer",
        "50.0",
        "4.00",
        "2.00 to 4.00",
        "500",
        "0%",
        "0%",
        "1,024",
        "1.0",
        "1.0",
    ]  # ratios 4, 2, 4; not 2,000 / 500's


def test_the_time_to_verdict_adds_up_trainings_and_the_probes_first_pass(bench, page):
    found = measured(bench, first=60.0, graft=[segment(2000, 1.0)], Trainer=[segment(500, 1.0)])
    there = [(bench.Row("mrpc", method, {}), found) for method in page.VERDICT]
    training = page.TRAININGS * page.EPOCHS * 90 * 10 / 60  # a tenth of 100 examples is held out
    minutes = {"graft": len(page.VERDICT) * training / 2000 + 1, "Trainer": len(page.VERDICT) * training / 500}
    told = page.verdict(there)
    for name, took in minutes.items():
        assert f"| {name} | {took:.0f} | {took / minutes['graft']:.2f} |" in told
    assert "side by side" not in "".join(told)
    assert page.verdict(there[1:]) == []
    beside = found | {"side_by_side": {"graft": [1000.0, 3000.0, 2000.0], "Trainer, best": [500.0, 1000.0, 1500.0]}}
    told = page.verdict([(row, beside) for row, _ in there])
    took = len(page.VERDICT) * training / 1000
    assert f"| graft, side by side | {took / 2 + 1:.0f} | {(took / 2 + 1) / minutes['graft']:.2f} |" in told
    assert f"| Trainer, best, side by side | {took:.0f} | {took / minutes['graft']:.2f} |" in told
    assert "| probe | 2,000 | 1,000 | 2.00 | 1.33 to 3.00 |" in told


def test_a_whole_training_of_a_probe_counts_grafts_first_pass(bench, page):
    found = measured(bench, first=60.0, graft=[segment(2000, 1.0)], Trainer=[segment(500, 1.0)])
    steps = page.EPOCHS * 100 * 10
    [told] = page.whole_probes(found)
    assert f"graft {60 + steps / 2000:.1f} s; Trainer {steps / 500:.1f} s" in told


def run(bench, monkeypatch, *given):
    monkeypatch.setattr(sys, "argv", ["bench.py", *given])
    return bench.main()


def test_rows_are_kept_while_they_are_as_asked_for(bench, monkeypatch, tmp_path):
    asked = []

    def take(settings, rounds, pools):
        asked.append((settings["task"], rounds))
        found = measured(bench, graft=[segment(1, 1.0)] * rounds, Trainer=[segment(1, 1.0)] * rounds)
        return found | {"settings": dict(settings), "pools": pools, "where": bench.where()}

    monkeypatch.setattr(bench, "take", take)
    (tmp_path / "data").mkdir()
    of_glue = ("--out", str(tmp_path), "--data", str(tmp_path / "data"), "--only", "mrpc bitfit")
    run(bench, monkeypatch, *of_glue, "--rounds", "2")
    run(bench, monkeypatch, *of_glue, "--rounds", "1")  # two are enough
    run(bench, monkeypatch, *of_glue, "--rounds", "3")
    assert asked == [("mrpc", 2), ("mrpc", 3)]
    assert "## mrpc, bitfit" in (tmp_path / "performance.md").read_text()
    written = tmp_path / "other.md"
    run(bench, monkeypatch, "--out", str(tmp_path), "--only", "bitfit", "--rounds", "1", "--page", str(written))
    assert asked[2:] == [("pocket/paraphrase", 1)]  # what stands in is measured and named by itself
    assert "## pocket/paraphrase, bitfit" in written.read_text()
    assert "## mrpc" not in written.read_text()
    assert f"\n{bench.where()}." in written.read_text()
    file = tmp_path / "pocket-paraphrase bitfit.json"
    monkeypatch.setattr(sys.modules["bench_rows"], "where", lambda: "elsewhere")  # as if all had moved
    monkeypatch.setattr(bench, "where", lambda: "elsewhere")
    run(bench, monkeypatch, "--out", str(tmp_path), "--only", "bitfit", "--rounds", "1")
    assert asked[3:] == [("pocket/paraphrase", 1)]
    file.write_text(file.read_text()[:-9])
    with pytest.raises(SystemExit, match=r"bitfit\.json: unreadable"):
        run(bench, monkeypatch, "--out", str(tmp_path), "--only", "bitfit")


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (("--only", "nonsense"), "no row has such a name; there are: pocket-paraphrase LoRA, query and value; "),
        (("--rounds", "0"), "0 is less than 1"),
        (("--rounds", "two"), "invalid whole_number value: 'two'"),
        (("--pools", "5"), "invalid choice: 5"),
    ],
)
def test_what_cannot_be_measured_is_refused(bench, monkeypatch, tmp_path, capsys, given, told):
    with pytest.raises(SystemExit):
        run(bench, monkeypatch, *given, "--out", str(tmp_path))
    assert told in capsys.readouterr().err


def test_side_by_side_is_measured_again_for_more_rounds(bench, monkeypatch, tmp_path):
    def take(settings, rounds, pools):
        found = measured(bench, graft=[segment(1, 1.0)] * 3, Trainer=[segment(1, 1.0)] * 3)
        return found | {"settings": dict(settings), "pools": pools, "where": bench.where()}

    asked = []

    def side_by_side(settings, steps, rounds):
        asked.append(rounds)
        return {name: [1.0] * rounds for name in bench.SIDE_BY_SIDE}

    monkeypatch.setattr(bench, "take", take)
    monkeypatch.setattr(bench, "side_by_side", side_by_side)
    for rounds in ("2", "1", "3"):
        run(bench, monkeypatch, "--out", str(tmp_path), "--only", "bitfit", "--side-by-side", "--rounds", rounds)
    assert asked == [2, 3]


def test_without_rows_there_is_no_page(bench, monkeypatch, tmp_path):
    with pytest.raises(SystemExit, match="no row was measured"):
        run(bench, monkeypatch, "--out", str(tmp_path), "--write-only")
    assert list(tmp_path.iterdir()) == []


def test_a_comparison_of_different_methods_is_refused(bench, monkeypatch):
    class Contestant:
        def __init__(self, name, settings):
            self.about = {"learns": len(name), "examples": 100}

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

    monkeypatch.setattr(bench, "Turns", Contestant)
    with pytest.raises(SystemExit, match=r"not the same method.*'graft': 5, 'Trainer': 7"):
        bench.take({}, 1, 1)


def test_a_page_of_two_machines_says_which_is_which_and_adds_nothing_up(bench, page, tmp_path):
    found = measured(bench, graft=[segment(2000, 1.0)], Trainer=[segment(500, 1.0)])
    for method in page.VERDICT:
        (tmp_path / f"mrpc {method}.json").write_text(json.dumps(found))
    assert "## Time to verdict" in page.page(tmp_path, tmp_path)
    (tmp_path / "mrpc probe.json").write_text(json.dumps(found | {"where": "Another one"}))
    told = page.page(tmp_path, tmp_path)
    assert "## Time to verdict" not in told
    assert told.count("2 threads on machine 1,") == len(page.VERDICT) - 1
    assert told.count("2 threads on machine 2,") == 1
    assert told.endswith("1. A machine.\n2. Another one.\n")


def test_signals_end_a_bench_in_one_line_and_are_what_they_were_afterwards(bench, monkeypatch, tmp_path):
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(bench, "take", lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(SystemExit, match="interrupted; rows that are done are kept in"):
        run(bench, monkeypatch, "--out", str(tmp_path), "--only", "bitfit")
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_page_that_cannot_be_written_is_told_before_anything_is_measured(bench, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(bench, "take", lambda *_: pytest.fail("measured"))
    with pytest.raises(SystemExit, match=r"error: .*file"):
        run(bench, monkeypatch, "--out", str(tmp_path / "out"), "--page", str(tmp_path / "file" / "page.md"))


def test_pocket_rows_have_the_examples_that_they_ask_for(bench):
    from graft.eval.pocket import SUITE

    asked = [row for row in bench.rows(None) if "task.train_size" in row.settings]
    assert asked == []
    assert {row.task for row in bench.rows(None)} <= set(SUITE)
    assert {row.settings.get("task.train_size") for row in bench.rows(Path("data"))} == {None, "10000"}


def test_places_are_picked_at_even_distances_in_random_order(bench):
    lengths = sorted(range(100, 0, -1))
    spread = sys.modules["contestants"].spread
    for seed in range(20):
        chosen = spread(lengths, 10, seed=seed)
        assert sorted(one // 10 - (one % 10 == 0) for one in chosen) == list(range(10))  # one of each tenth
        assert chosen != sorted(chosen)
    assert spread(lengths, 10, seed=1) != spread(lengths, 10, seed=2)
    assert sorted(spread([1, 2], 4, seed=0)) == [1, 1, 2, 2]


def test_the_clock_stands_still_while_others_have_their_turns(bench, monkeypatch):
    contestants = sys.modules["contestants"]
    now, waits = [0.0], []
    monkeypatch.setattr(contestants.time, "perf_counter", lambda: now[0])

    def wait():
        waits.append(now[0])
        now[0] += 100  # others have their turns

    watch = contestants.Watch(steps=5, turn=2, wait=wait, finish=lambda: None)
    now[0] += 7  # preparation
    watch.begin()
    for _ in range(5):
        now[0] += 1
        watch.step()
    assert watch.seconds == 5
    assert waits == [7, 109, 211]  # before steps 1, 3 and 5


def test_in_a_round_all_take_step_after_step_and_another_one_begins_each_time(bench, monkeypatch):
    turns = sys.modules["turns"]
    monkeypatch.setattr(turns, "REST", 0.0)
    seen = []

    class Contestant:
        def __init__(self, name):
            self.name, self.left = name, 0

        def prepare(self, steps, turn):
            self.left = steps // turn - (self.name == "c")  # whose data ended early

        def go(self):
            assert self.left
            self.left -= 1
            seen.append(self.name)

        def answer(self):
            return {} if self.left else {"of": self.name}

    found = turns.by_turns({name: Contestant(name) for name in "abc"}, 8, 2, lambda: seen.append(" "))
    assert "".join(seen) == " abc bca cab ab"
    assert found == {name: {"of": name} for name in "abc"}


@pytest.fixture
def settings(bench, tiny_bert, word_task):
    """A row's settings, of a model and texts that are small."""
    return {
        "task.data": str(word_task),
        "task.text": "text",
        "task.label": "label",
        "task.max_length": "24",
        "task.holdout": "0",
        "model": str(tiny_bert),
        "method": "lora",
        "method.targets": "query,value",
        "schedule.examples": str(bench.EXAMPLES),
        "schedule.epochs": "100",
        "threads": "1",
    }


@pytest.mark.parametrize(
    "method", ["LoRA, query and value", "LoRA, all linear layers", "full", "probe", "bitfit", "ia3"]
)
def test_a_method_trains_the_same_numbers_on_both_sides(bench, settings, loud, method):
    contestants = sys.modules["contestants"]
    chosen = {key: value for key, value in settings.items() if not key.startswith("method")} | sys.modules[
        "bench_rows"
    ].METHODS[method]
    ours, peer = (contestants.CONTESTANTS[name](chosen) for name in ("graft", "bare loop"))
    assert ours.learns() == peer.learns() > 0


@pytest.mark.slow
def test_contestants_train_side_by_side(bench, settings, monkeypatch):
    monkeypatch.setattr(bench.hardware, "threads", lambda: 2)
    found = bench.side_by_side(settings, 2, 2)
    assert list(found) == ["graft", "Trainer, best"]
    assert all(len(rates) == 2 and min(rates) > 0 for rates in found.values())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["graft", "Trainer, best", "bare loop"])
def test_a_contestant_takes_segments_in_a_process_of_its_own(bench, settings, monkeypatch, name):
    monkeypatch.setitem(os.environ, "LRU_CACHE_CAPACITY", "7")  # as graft would have set it for this process
    with bench.Turns(name, settings) as contestant:
        assert contestant.about["threads"] == 1
        assert (contestant.about["backbone_weights"] is not None) == (name == "graft")
        assert contestant.about["learns"] == 2 * 2 * 2 * 8 * 16 + 17 * 2  # LoRA's factors and a head of two classes
        kept = contestant.about["environment"]["LRU_CACHE_CAPACITY"]
        assert (kept in ("64", "640")) if name == "graft" else kept is None
        for _ in range(2):
            found = contestant.segment(2)
            assert 0 < found["tokens"] <= found["padded"] <= 2 * bench.EXAMPLES * 24
            assert found["examples"] <= 2 * bench.EXAMPLES
            assert found["seconds"] > 0
            assert found["peak_memory_bytes"] > 50 * 2**20
        [found] = bench.by_turns({name: contestant}, 3, 1, lambda: None).values()
        assert found["seconds"] > 0
        assert found["examples"] > 61  # an epoch has two steps: it goes on with the next one
        contestant._process.kill()
        with pytest.raises(SystemExit, match="ended early, by signal 9"):
            contestant.segment(2)
