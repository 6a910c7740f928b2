import numpy as np
import pytest

from graft.errors import DataError
from graft.eval.labels import class_names, class_numbers, read_values, scores


def names_of(values):
    return class_names(read_values(values, "file", "label"), "file", "label")


@pytest.mark.parametrize(
    ("raw", "read"),
    [
        ([0, 1], [0, 1]),
        (["0", "1"], [0, 1]),
        (["1", "2.5"], [1.0, 2.5]),
        ([1, 2.5], [1.0, 2.5]),
        ([1.0, 2.0], [1, 2]),
        (["1.0", "0.0"], [1, 0]),
        (["1.0", "0.5"], [1.0, 0.5]),
        (["1_0", "2"], ["1_0", "2"]),
        (["yes", "1"], ["yes", "1"]),
        ([True, False], ["true", "false"]),
        (["nan", "x"], ["nan", "x"]),
    ],
)
def test_labels_are_numbers_where_all_of_them_are(raw, read):
    found = read_values(raw, "file", "label")
    assert found == read
    assert [type(value) for value in found] == [type(value) for value in read]


@pytest.mark.parametrize("missing", [None, "", "  ", float("nan")])
def test_a_missing_label_is_refused_with_its_row(missing):
    with pytest.raises(DataError, match=r"file: row 1 \(the first is 0\): no label in column 'label'"):
        read_values([1, missing], "file", "label")


@pytest.mark.parametrize("endless", ["nan", "-inf", float("inf"), "1e999"])
def test_a_label_without_end_among_numbers_is_refused_with_its_row(endless):
    with pytest.raises(DataError, match=r"row 2 .* column 'label': .* is no finite number"):
        read_values(["1", "0.5", endless], "file", "label")


def test_numbers_are_strings_where_training_labels_are():
    assert read_values(["1.0", "2"], "file", "label", numbers=False) == ["1.0", "2"]


def test_classes_are_in_the_order_of_their_numbers_or_of_the_alphabet():
    assert names_of([10, 9, 10]) == ("9", "10")
    assert names_of(["spam", "ham"]) == ("ham", "spam")
    assert names_of([-1, 1]) == ("-1", "1")


def test_integers_that_are_not_positions_are_numbered_by_their_order():
    values = read_values(["5", "1", "5"], "file", "label")
    assert class_numbers(values, ("1", "5"), "file", "label", numbered=False).tolist() == [1, 0, 1]


def test_declared_classes_take_names_or_positions():
    names = ("entailment", "not_entailment")
    for raw in (["not_entailment", "entailment"], [1, 0], ["1", "0"]):
        values = read_values(raw, "file", "label")
        assert class_numbers(values, names, "file", "label", numbered=True).tolist() == [1, 0]


def test_hidden_test_labels_are_refused_as_labels():
    with pytest.raises(DataError, match=r"every label is -1, as in a benchmark's hidden test set"):
        names_of([-1, -1])
    with pytest.raises(
        DataError, match=r"row 0 \(the first is 0\), column 'label': label -1 \(-1 marks a hidden test label\)"
    ):
        class_numbers([-1, 1], ("a", "b"), "file", "label", numbered=True)


def test_labels_that_are_no_class_are_refused_with_their_row():
    with pytest.raises(DataError, match=r"row 1 \(the first is 0\), column 'label': label 2 is none of a, b"):
        class_numbers([0, 2], ("a", "b"), "file", "label", numbered=True)
    with pytest.raises(DataError, match="label 'maybe' is none of no, yes; correct it"):
        class_numbers(["maybe"], ("no", "yes"), "file", "label", numbered=False)
    with pytest.raises(DataError, match="all labels in column 'label' are the same, 3"):
        names_of([3, 3])
    with pytest.raises(
        DataError, match=r"holds fractions \(row 1 \(the first is 0\): 0.5\); for scores, set --task.kind regression"
    ):
        names_of([1.0, 0.5])


def test_scores_are_floats_or_refused():
    found = scores([1, "2.5"], "file", "score")
    assert found.dtype == np.float32
    assert found.tolist() == [1.0, 2.5]
    with pytest.raises(DataError, match=r"row 1 .*, column 'score': 'high' is not a number"):
        scores(["1", "high"], "file", "score")
    with pytest.raises(DataError, match=r"row 0 .* is not a number"):
        scores([1e39], "file", "score")  # infinite in 32 bits
