import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graft.eval.verdicts import Finding, Ratios, direction, sentence, signed, size

ends = st.tuples(st.floats(-10, 10), st.floats(-10, 10)).map(sorted)


@pytest.mark.parametrize(
    ("low", "high", "way", "extent"),
    [
        (-0.5, 0.4, "not shown", "equivalent"),
        (0.1, 0.4, "better", "equivalent"),  # small and real
        (-0.8, -0.1, "worse", "equivalent"),
        (-2.9, 2.3, "not shown", "not shown"),
        (0.5, 1.5, "better", "not shown"),
        (1.0, 2.0, "better", "not equivalent"),
        (-3.0, -1.2, "worse", "not equivalent"),
        (-1.0, 0.5, "not shown", "not shown"),  # an interval that touches the margin is not within it
        (0.0, 0.5, "not shown", "equivalent"),
        (None, None, "not shown", "not shown"),
    ],
)
def test_both_axes_are_what_the_interval_shows(low, high, way, extent):
    assert direction(low, high) == way
    assert size(low, high, 1.0) == extent
    assert size(low, high, None) == "not shown"


def test_where_less_is_better_the_direction_turns_round_and_the_size_does_not():
    assert direction(0.1, 0.4, higher_is_better=False) == "worse"
    assert direction(-0.4, -0.1, higher_is_better=False) == "better"
    assert direction(-0.4, 0.1, higher_is_better=False) == "not shown"


@given(ends, st.floats(0.01, 5))
def test_equivalence_is_two_one_sided_tests(interval, margin):
    low, high = interval
    both = low > -margin and high < margin
    assert (size(low, high, margin) == "equivalent") == both


@given(ends, st.floats(0.01, 5))
def test_swapping_method_and_reference_turns_the_direction_and_keeps_the_size(interval, margin):
    low, high = interval
    turned = {"better": "worse", "worse": "better", "not shown": "not shown"}
    assert direction(-high, -low) == turned[direction(low, high)]
    assert size(-high, -low, margin) == size(low, high, margin)


def test_a_sentence_is_true_to_both_axes_and_names_costs():
    finding = Finding("LoRA r=8", "full fine-tuning", "MRPC", -0.3, -2.9, 2.3, 1.0)
    assert sentence(finding, Ratios(0.014, 0.55, 1.07)) == (
        "LoRA r=8: not shown to differ from full fine-tuning on MRPC, \N{MINUS SIGN}0.3 (\N{MINUS SIGN}2.9 … +2.3), "
        "size undecided at ±1; 1.4 % of the parameters, 55 % of the memory, 107 % of the time a step"
    )


def test_sentences_leave_out_what_was_not_measured_and_say_what_is_missing():
    worse = Finding("bitfit", "full fine-tuning", "rte", -0.6, -0.9, -0.2, 1.0)
    text = "bitfit: worse than full fine-tuning on rte, \N{MINUS SIGN}0.6 (\N{MINUS SIGN}0.9 … \N{MINUS SIGN}0.2)"
    assert sentence(worse) == f"{text}, equivalent within ±1"
    assert sentence(worse, Ratios()) == sentence(worse)
    assert sentence(worse, Ratios(parameters=0.0002)).endswith("; 0.02 % of the parameters")
    loss = Finding("lora", "full fine-tuning", "text", -0.2, -0.3, -0.1, 0.05, higher_is_better=False, unit="nats")
    assert "lora: better than full fine-tuning" in sentence(loss)
    assert sentence(loss).endswith("not equivalent within ±0.05 nats")
    alone = Finding("lora", "full fine-tuning", "rte", 1.0, -3.0, 5.0, seeds=1)
    assert sentence(alone).endswith("of a single seed, so that other seeds may say otherwise")
    assert "too few examples for an interval" in sentence(Finding("lora", "full", "rte", 1.0, None, None, 1.0))


@given(st.floats(-100, 100))
def test_a_difference_shown_has_the_sign_it_has(value):
    text = signed(value)
    number = float(text.replace("\N{MINUS SIGN}", "-"))
    assert abs(number - value) <= 0.05
    assert math.copysign(1, number) == math.copysign(1, value) or number == 0
    assert number != 0 or abs(value) < 0.0005
