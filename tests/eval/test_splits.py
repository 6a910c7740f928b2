from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graft.eval.splits import (
    Split,
    content_fingerprint,
    group_holdout,
    hash_order,
    joined_groups,
    nested_subset,
    take_turns,
)

SEEDS = st.integers(0, 3)
ROWS = st.lists(st.tuples(st.integers(0, 30), st.integers(0, 2)), min_size=2, max_size=60)
KEYED = st.tuples(st.integers(0, 10**6), st.integers(0, 2))
DISTINCT = st.lists(KEYED, min_size=2, max_size=60, unique_by=lambda row: row[0])


def columns(rows):
    """Group names and int64 labels."""
    return [f"group {key}" for key, _ in rows], np.array([label for _, label in rows], dtype=np.int64)


@given(ROWS, st.floats(0.05, 0.6), SEEDS)
def test_a_holdout_and_the_rest_cover_everything_once_and_share_no_group(rows, fraction, seed):
    groups, labels = columns(rows)
    kept, held = group_holdout(groups, labels, fraction, seed)
    assert sorted([*kept, *held]) == list(range(len(rows)))
    assert not {groups[row] for row in kept} & {groups[row] for row in held}
    assert len({groups[row] for row in held}) == max(1, round(fraction * len(set(groups))))


@given(DISTINCT, st.floats(0.05, 0.6), SEEDS)
def test_a_holdout_has_each_label_in_proportion_to_within_one(rows, fraction, seed):
    groups, labels = columns(rows)
    _, held = group_holdout(groups, labels, fraction, seed)
    for label, size in Counter(labels.tolist()).items():
        share = Fraction(len(held) * size, len(rows))
        assert abs(int((labels[held] == label).sum()) - share) < 1


@given(DISTINCT, DISTINCT, st.floats(0.05, 0.6), SEEDS)
def test_added_rows_move_the_boundary_and_never_the_order(old, new, fraction, seed):
    known = {key for key, _ in old}
    rows = [*[row for row in new if row[0] not in known], *old]
    before = {old[row] for row in group_holdout(*columns(old), fraction, seed)[1]}
    after = {rows[row] for row in group_holdout(*columns(rows), fraction, seed)[1]} & set(old)
    for label in range(3):
        first, second = ({row for row in chosen if row[1] == label} for chosen in (before, after))
        assert first <= second or second <= first


@given(st.lists(st.text(max_size=5), unique=True, max_size=30), SEEDS)
def test_the_order_of_two_items_depends_on_them_alone(keys, seed):
    order = [keys[position] for position in hash_order(keys, seed, "test")]
    half = keys[::2]
    assert [half[position] for position in hash_order(half, seed, "test")] == [key for key in order if key in half]


@given(DISTINCT, st.data(), SEEDS)
def test_a_smaller_subset_lies_inside_a_larger_one(rows, data, seed):
    texts, labels = [(text,) for text in columns(rows)[0]], columns(rows)[1]
    small, large = sorted(data.draw(st.tuples(*[st.integers(0, len(rows))] * 2)))
    first, second = (nested_subset(texts, labels, size, seed) for size in (small, large))
    assert len(first) == small
    assert len(second) == large
    assert set(first.tolist()) <= set(second.tolist())
    for label, size in Counter(labels.tolist()).items():
        assert abs(int((labels[first] == label).sum()) - Fraction(small * size, len(rows))) < 1


@settings(max_examples=200)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=6))
def test_turns_are_proportional_after_every_one_of_them(sizes):
    turns = take_turns(sizes, sum(sizes))
    taken = Counter()
    for number, stratum in enumerate(turns, start=1):
        taken[stratum] += 1
        assert all(abs(taken[s] - Fraction(number * size, sum(sizes))) < 1 for s, size in enumerate(sizes))
    assert [taken[s] for s in range(len(sizes))] == sizes


def test_scores_are_stratified_by_their_rounded_value():
    labels = np.repeat(np.array([0.2, 2.8, 4.9], dtype=np.float32), 100)
    texts = [(f"text {row}",) for row in range(300)]
    chosen = nested_subset(texts, labels, 30, 0)
    assert Counter(np.rint(labels[chosen]).astype(int).tolist()) == {0: 10, 3: 10, 5: 10}


def test_another_seed_chooses_otherwise_and_the_same_seed_alike():
    groups = [str(row) for row in range(200)]
    first = group_holdout(groups, None, 0.1, 0)[1].tolist()
    assert group_holdout(groups, None, 0.1, 0)[1].tolist() == first
    assert group_holdout(groups, None, 0.1, 1)[1].tolist() != first


def test_the_choice_is_the_same_on_every_machine_and_in_every_version():
    groups = [f"sentence {row}" for row in range(40)]
    labels = np.arange(40) % 2
    assert group_holdout(groups, labels, 0.1, 0)[1].tolist() == [5, 16, 20, 33]


def test_a_fingerprint_tells_contents_apart_and_nothing_else():
    labels = np.array([0, 1])
    base = content_fingerprint([("a", "b"), ("c", "d")], labels)
    assert base == content_fingerprint([("a", "b"), ("c", "d")], labels.copy())
    others = [
        ([("ab", ""), ("c", "d")], labels),
        ([("a",), ("b",), ("c", "d")], labels),
        ([("c", "d"), ("a", "b")], labels),
        ([("a", "b"), ("c", "d")], np.array([0, 0])),
        ([("a", "b"), ("c", "d")], np.array([0, 1], dtype=np.float32)),
        ([("a", "b"), ("c", "d")], None),
    ]
    assert len({base, *(content_fingerprint(*other) for other in others)}) == 7


def test_a_part_of_a_split_keeps_the_ids_of_its_source():
    split = Split("train", "train", np.array([4, 5, 9]), (("a",), ("b",), ("c",)), np.array([0, 1, 0]))
    part = split.take(np.array([2, 0]), "holdout")
    assert (part.name, part.source, part.ids.tolist(), part.labels.tolist()) == ("holdout", "train", [9, 4], [0, 0])
    assert part.texts == (("c",), ("a",))
    moved = Split("x", "y", np.array([0, 1]), part.texts, part.labels)
    assert part.fingerprint == moved.fingerprint  # ids and names are not content
    with pytest.raises(AttributeError):
        part.name = "other"


pairs = st.lists(st.tuples(st.integers(0, 12), st.integers(0, 12)), min_size=1, max_size=40)


@given(pairs)
def test_joined_groups_are_the_connected_components(rows):
    columns = [[f"text {value}" for value in column] for column in zip(*rows, strict=True)]
    found = joined_groups(columns)
    parts: list[set[str]] = []  # merged by hand, one example after the other
    for texts in zip(*columns, strict=True):
        touched = [part for part in parts if part & set(texts)]
        parts = [part for part in parts if part not in touched] + [set(texts).union(*touched)]
    assert found == [min(next(part for part in parts if texts[0] in part)) for texts in zip(*columns, strict=True)]


def test_a_group_larger_than_the_holdout_stays_in_training():
    groups = ["large"] * 60 + [f"small {row}" for row in range(40)]
    for seed in range(20):
        _, held = group_holdout(groups, None, 0.1, seed)
        assert held.min() >= 60
        assert len(held) == round(0.1 * 41)


def test_columns_of_ids_do_not_join_across_columns():
    users, documents = [f"{row}" for row in range(6)], [f"{(row + 1) % 6}" for row in range(6)]
    assert len(set(joined_groups([users, documents]))) == 1
    apart = [[(name, value) for value in values] for name, values in (("user", users), ("document", documents))]
    assert len(set(joined_groups(apart))) == 6
