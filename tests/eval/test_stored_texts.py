"""Texts leave Python's memory and come back as they were."""

import copy
import tempfile

import numpy as np
import pytest

from graft.errors import DataError
from graft.eval import stored_texts
from graft.eval.splits import Split
from graft.eval.stored_texts import StoredTexts

PAIRS = tuple((f"text {row} " + "ü" * (row % 7), "" if row % 5 == 0 else f"\n{row}\udc80") for row in range(5000))


@pytest.fixture(params=["memory", "file"])
def stored(request, monkeypatch):
    monkeypatch.setattr(stored_texts, "_SMALL", 1 << 30 if request.param == "memory" else 100)
    return StoredTexts(PAIRS)


def test_examples_come_back_by_position_slice_and_iteration(stored):
    assert len(stored) == len(PAIRS)
    assert stored[0] == PAIRS[0]
    assert stored[-1] == PAIRS[-1]
    assert stored[2040:2060] == PAIRS[2040:2060]
    assert stored[4990:9999] == PAIRS[4990:]
    assert tuple(stored) == PAIRS
    assert list(reversed(stored))[:3] == [PAIRS[-1], PAIRS[-2], PAIRS[-3]]
    with pytest.raises(IndexError):
        stored[len(PAIRS)]


def test_what_is_equal_is_equal_wherever_it_lies(stored):
    assert stored == PAIRS
    assert stored == StoredTexts(list(PAIRS))
    assert stored != PAIRS[:-1]
    assert stored != (*PAIRS[:-1], ("other", "text"))
    with pytest.raises(TypeError):
        hash(stored)


def test_copies_and_other_processes_get_the_same_examples(stored):
    assert copy.deepcopy(stored) == PAIRS
    made, arguments = stored.__reduce__()
    assert made(*arguments) == PAIRS


def test_examples_of_different_widths_are_refused():
    with pytest.raises(ValueError, match="an example has not 2 columns"):
        StoredTexts([("a", "b"), ("c",)])


def test_none_at_all():
    empty = StoredTexts([])
    assert len(empty) == 0
    assert empty[0:10] == ()
    assert list(empty) == []


def test_no_room_is_one_message_that_says_what_to_do(monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tempfile, "SpooledTemporaryFile", full)
    with pytest.raises(DataError, match=r"no room for the task's texts .*TMPDIR"):
        StoredTexts(PAIRS)


def test_a_split_keeps_few_bytes_of_an_example(monkeypatch):
    import tracemalloc

    monkeypatch.setattr(stored_texts, "_SMALL", 100)
    ids = np.arange(20_000, dtype=np.int64)
    tracemalloc.start()
    try:
        split = Split("train", "train", ids, (("x" * 300, f"{row}") for row in range(20_000)), None)
        kept = tracemalloc.get_traced_memory()[0] / len(split)
    finally:
        tracemalloc.stop()
    assert kept < 30
    part = split.take(ids[::2], "half")
    assert part.texts[1] == ("x" * 300, "2")
