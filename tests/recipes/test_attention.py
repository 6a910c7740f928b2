"""Our softmax is about as near to the exact one as the stock one is, forward and backward, and keeps less."""

import pytest
import torch

from graft.recipes import attention
from graft.recipes.attention import ShortSoftmax, Softmax, _softmax

KEYS = [1, 4, 12, 15, 32, 33, 56, 64, 96]


def scores(keys, spread=4.0):
    generator = torch.Generator().manual_seed(keys)
    made = spread * torch.randn(2, 3, 5, keys, generator=generator)
    made[0, ..., (keys + 1) // 2 :] = torch.finfo(torch.bfloat16).min  # half a row is padding
    return made.bfloat16(), torch.randn(2, 3, 5, keys, generator=generator).bfloat16()


def outcome(function, given, factor):
    given = given.clone().requires_grad_()
    result = function(given)
    result.backward(factor)
    return result.detach(), given.grad


def narrowed(given):
    return _softmax(given).to(given.dtype)


def stock(given):
    return torch.softmax(given, dim=-1, dtype=torch.float32).to(given.dtype)


@pytest.mark.parametrize("keys", KEYS)
def test_it_is_about_as_near_to_the_exact_one_as_the_stock_one_is(keys):
    given, factor = scores(keys)
    exact = outcome(lambda x: torch.softmax(x, dim=-1), given.double(), factor.double())
    ours, theirs = (outcome(function, given, factor) for function in (narrowed, stock))
    for mine, other, true in zip(ours, theirs, exact, strict=True):
        assert mine.dtype == torch.bfloat16
        mistake = (mine - true).norm()
        assert mistake <= 2.0 * (other - true).norm()
        assert mistake <= 4e-3 * true.norm()  # where a step of bf16 is 4e-3 to 8e-3 of a number
    assert torch.equal(ours[0][0, ..., (keys + 1) // 2 :], torch.zeros_like(ours[0][0, ..., (keys + 1) // 2 :]))


@pytest.mark.parametrize("keys", [1, 7, 15])
def test_short_rows_in_fp32_are_the_stock_ones(keys):
    given, factor = (part.float() for part in scores(keys))
    for mine, other in zip(outcome(_softmax, given, factor), outcome(stock, given, factor), strict=True):
        assert mine.dtype == torch.float32
        torch.testing.assert_close(mine, other)


def test_the_largest_scores_do_not_overflow():
    given = torch.tensor([[200.0, 100.0, torch.finfo(torch.float32).min]])
    torch.testing.assert_close(_softmax(given), torch.tensor([[1.0, 0.0, 0.0]]))


@pytest.mark.parametrize(("function", "keys"), [(ShortSoftmax, 4), (Softmax, 32)])
def test_its_gradients_are_the_derivatives(function, keys):
    given = torch.randn(2, keys, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(function.apply, given)
    assert torch.autograd.gradgradcheck(function.apply, given)


@pytest.mark.parametrize(
    ("keys", "kind", "ours"),
    [
        (15, torch.bfloat16, "ShortSoftmaxBackward"),
        (15, torch.float32, "ShortSoftmaxBackward"),
        (16, torch.bfloat16, "SoftmaxBackward0"),
        (31, torch.bfloat16, "SoftmaxBackward0"),
        (32, torch.bfloat16, "SoftmaxBackward"),
        (64, torch.float32, "SoftmaxBackward0"),
    ],
)
def test_which_one_runs_depends_on_how_many_keys_fill_a_register(keys, kind, ours):
    given = scores(keys)[0].to(kind).requires_grad_()
    assert type(_softmax(given).grad_fn).__name__ == ours
    if ours == "SoftmaxBackward0":
        assert torch.equal(_softmax(given).to(kind), stock(given))


def test_nothing_wider_than_the_result_is_kept():
    query, key, value = (torch.randn(2, 3, 40, 8).bfloat16().requires_grad_() for _ in range(3))
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        attention.attend(torch.nn.Identity().eval(), query, key, value, torch.zeros(2, 1, 40, 40).bfloat16())
    assert any(tensor.shape[-2:] == (40, 40) for tensor in kept)
    assert {tensor.dtype for tensor in kept} == {torch.bfloat16}


@pytest.mark.parametrize("keys", [8, 16, 40])
@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
def test_probabilities_have_the_type_of_the_queries_whatever_the_masks_is(keys, kind):
    query, key, value = (torch.randn(2, 3, keys, 8).bfloat16() for _ in range(3))
    mixed, probabilities = attention.attend(
        torch.nn.Identity().eval(), query, key, value, torch.zeros(2, 1, keys, keys, dtype=kind)
    )
    assert mixed.dtype == probabilities.dtype == torch.bfloat16
