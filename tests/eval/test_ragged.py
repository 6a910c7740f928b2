"""Rows of different lengths in one array: read back, joined and padded as lists would be."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from graft.eval.ragged import Ragged

LISTS = st.lists(st.lists(st.integers(0, 200), max_size=6), max_size=8)


@given(LISTS)
def test_rows_come_back(rows):
    ragged = Ragged.of(rows, np.int32)
    assert [row.tolist() for row in ragged] == rows
    assert (len(ragged), ragged.lengths.tolist()) == (len(rows), [len(row) for row in rows])


@given(st.lists(LISTS, max_size=4))
def test_joined_rows_are_the_rows_of_all(parts):
    joined = Ragged.joined((Ragged.of(part, np.uint8) for part in parts), np.uint8)
    assert [row.tolist() for row in joined] == [row for part in parts for row in part]
    assert joined.values.dtype == np.uint8


@given(st.data(), LISTS.filter(any))
def test_padded_rows_are_filled_up_on_the_right(data, rows):
    chosen = data.draw(st.lists(st.integers(0, len(rows) - 1), min_size=1))
    padded, there = Ragged.of(rows, np.int32).padded(np.array(chosen), 7)
    longest = max(len(rows[row]) for row in chosen)
    assert padded.tolist() == [rows[row] + [7] * (longest - len(rows[row])) for row in chosen]
    assert there.tolist() == [[1] * len(rows[row]) + [0] * (longest - len(rows[row])) for row in chosen]


def test_a_row_takes_little_beyond_its_numbers():
    rows = [[1] * 20] * 1000
    ragged = Ragged.of(rows, np.int32)
    assert ragged.starts.nbytes == 8 * 1001
    assert ragged.values.nbytes == 4 * 20 * 1000
    assert np.shares_memory(ragged[3], ragged.values)
