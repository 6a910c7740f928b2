"""Memory that is given back to the system, or not taken."""

import ctypes
import os
import sys
from pathlib import Path

import pytest
import torch

from graft.recipes import heap

PIECE = 2**16  # bytes: far below what glibc asks the system for by itself
PIECES = 2000


def resident() -> int:
    """Bytes of this process in memory."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096


@pytest.mark.skipif(
    not sys.platform.startswith("linux") or not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="no glibc"
)
def test_free_pieces_go_back_to_the_system():
    kept = [torch.ones(PIECE // 4) for _ in range(PIECES)]
    kept = kept[-1:]  # the last one keeps the heap from shrinking by itself
    before = resident()
    heap.give_back()
    assert before - resident() > PIECE * PIECES / 2
    assert float(kept[0].sum()) == PIECE // 4


def test_without_glibc_nothing_is_called(monkeypatch):
    called = []

    class Library:
        """A C library that has what glibc has."""

        def malloc_trim(self, pad):
            called.append(pad)

    monkeypatch.setattr(ctypes, "CDLL", lambda name: Library())
    monkeypatch.setattr(sys, "platform", "darwin")
    heap.give_back()
    assert called == []
    monkeypatch.setattr(sys, "platform", "linux")
    heap.give_back()
    assert called == [0]
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    heap.give_back()
    assert called == [0]


@pytest.mark.parametrize(("tiles", "kept"), [(False, "64"), (True, "640")])
def test_what_is_prepared_for_shapes_is_bounded_before_anything_computes_and_the_users_bound_stays(
    monkeypatch, tiles, kept
):
    from graft.recipes import hardware

    monkeypatch.delenv("LRU_CACHE_CAPACITY", raising=False)
    monkeypatch.setenv("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "7")
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": tiles})
    hardware.accelerator("cpu")
    assert os.environ["LRU_CACHE_CAPACITY"] == kept
    assert os.environ["ONEDNN_PRIMITIVE_CACHE_CAPACITY"] == "7"


def test_only_a_step_larger_than_all_before_makes_room(tiny_recipe, monkeypatch):
    from graft.recipes import hardware
    from graft.recipes.building import build, gather

    state = build(gather(tiny_recipe()), hardware.accelerator("cpu").device)
    given = []
    monkeypatch.setattr(heap, "give_back", lambda: given.append(state.largest))
    order = state.train.lengths.argsort()
    short, long = order[:4], order[-4:]
    for rows in (short, short, long, short, long):
        state.make_room(rows)
    assert given == [0, 4 * state.train.lengths[short].max()]
