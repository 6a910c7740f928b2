"""The benchmark's contestants train and tell what they did, and its figures are what their segments say."""

import os
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
    for name in ("bench", "contestants", "turns"):
        sys.modules.pop(name, None)


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
        "pools": 1,
        "steps": 4,
        "threads": 2,
    }


def test_a_row_has_medians_of_neighbours_ratios_and_utilisation(bench):
    found = measured(
        bench,
        graft=[segment(4000, 1.0), segment(1000, 1.0, padded=1200), segment(2000, 1.0)],
        Trainer=[segment(1000, 1.0), segment(2000, 4.0), segment(500, 1.0)],
    )
    ours, peer = bench.summary(found, "full")
    # 2,000 tokens a second at 10 an example; 6 x 1,000 weights x 2,000 of 2e9 operations; padding over all segments
    assert ours == ["graft", "200.0", "", "", "2,000", "3%", "1%", "1,024", "1.0", "1.0"]
    assert peer == [
        "Trainer",
        "50.0",
        "4.00x",
        "2.00 to 4.00",
        "500",
        "0%",
        "0%",
        "1,024",
        "1.0",
        "1.0",
    ]  # ratios 4, 2, 4; not 2,000 / 500's


def test_the_time_to_verdict_adds_up_trainings_and_the_probes_first_pass(bench, tmp_path):
    for method in bench.VERDICT:
        found = measured(bench, first=60.0, graft=[segment(2000, 1.0)], Trainer=[segment(500, 1.0)])
        (tmp_path / f"mrpc {method}.json").write_text(bench.json.dumps(found))
    lines = bench.verdict(tmp_path)
    training = bench.TRAININGS * bench.EPOCHS * bench.TRAINED_ON * 10 / 60
    minutes = {"graft": len(bench.VERDICT) * training / 2000 + 1, "Trainer": len(bench.VERDICT) * training / 500}
    for name, took in minutes.items():
        assert f"| {name} | {took:.0f} | {took / minutes['graft']:.2f} |" in lines
    probe = tmp_path / "mrpc probe.json"
    earlier = bench.json.loads(probe.read_text()) | {"protocol": bench.PROTOCOL - 1}
    probe.write_text(bench.json.dumps(earlier))
    assert bench.verdict(tmp_path) == []
    probe.unlink()
    assert bench.verdict(tmp_path) == []


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


@pytest.mark.slow
def test_contestants_train_side_by_side(bench, settings, monkeypatch):
    monkeypatch.setattr(bench.hardware, "threads", lambda: 2)
    assert bench.side_by_side("graft", settings, 2) > 0


@pytest.mark.slow
@pytest.mark.parametrize("name", ["graft", "Trainer, best", "bare loop"])
def test_a_contestant_takes_segments_in_a_process_of_its_own(bench, settings, monkeypatch, name):
    monkeypatch.setitem(os.environ, "LRU_CACHE_CAPACITY", "7")  # as graft would have set it for this process
    with bench.Turns(name, settings) as contestant:
        assert contestant.about["threads"] == 1
        assert (contestant.about["backbone_weights"] is not None) == (name == "graft")
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
        assert found["examples"] > bench.EXAMPLES
        contestant._process.kill()
        with pytest.raises(SystemExit, match="ended early"):
            contestant.segment(2)
