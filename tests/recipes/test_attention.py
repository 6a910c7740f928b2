"""Softmax in bf16 is about as near to the exact one as the stock one is, forward and backward, and keeps less."""

import pytest
import torch

from graft.recipes import attention
from graft.recipes.attention import Softmax, _softmax

KEYS = [32, 33, 56, 64, 96]


def scores(keys, spread=4.0):
    generator = torch.Generator().manual_seed(keys)
    made = spread * torch.randn(2, 3, 5, keys, generator=generator)
    made[0, ..., keys // 2 :] = torch.finfo(torch.bfloat16).min  # half a row is padding
    return made.bfloat16(), torch.randn(2, 3, 5, keys, generator=generator).bfloat16()


def outcome(function, given, factor):
    given = given.clone().requires_grad_()
    result = function(given)
    result.backward(factor)
    return result.detach(), given.grad


def stock(given):
    return torch.softmax(given, dim=-1, dtype=torch.float32).to(given.dtype)


@pytest.mark.parametrize("keys", KEYS)
def test_it_is_about_as_near_to_the_exact_one_as_the_stock_one_is(keys):
    given, factor = scores(keys)
    exact = outcome(lambda x: torch.softmax(x, dim=-1), given.double(), factor.double())
    ours, theirs = (outcome(function, given, factor) for function in (_softmax, stock))
    for mine, other, true in zip(ours, theirs, exact, strict=True):
        assert mine.dtype == torch.bfloat16
        mistake = (mine - true).norm() / true.norm()
        assert mistake < 2.0 * (other - true).norm() / true.norm()
        assert mistake < 4e-3  # where a step of bf16 is 4e-3 to 8e-3 of a number
    assert torch.equal(ours[0][0, ..., keys // 2 :], torch.zeros_like(ours[0][0, ..., keys // 2 :]))


@pytest.mark.parametrize("keys", [4, 32])
def test_its_gradients_are_the_derivatives(keys):
    given = torch.randn(2, keys, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(Softmax.apply, given)
    assert torch.autograd.gradgradcheck(Softmax.apply, given)


@pytest.mark.parametrize(
    ("keys", "kind", "ours"), [(31, torch.bfloat16, False), (32, torch.bfloat16, True), (64, torch.float32, False)]
)
def test_it_is_for_rows_in_bf16_that_fill_a_register(keys, kind, ours):
    given = scores(keys)[0].to(kind).requires_grad_()
    assert (type(_softmax(given).grad_fn).__name__ == "SoftmaxBackward") == ours
    if not ours:
        assert torch.equal(_softmax(given).to(kind), stock(given))


def test_nothing_wider_than_the_result_is_kept():
    query, key, value = (torch.randn(2, 3, 40, 8).bfloat16().requires_grad_() for _ in range(3))
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        attention.attend(torch.nn.Identity().eval(), query, key, value, torch.zeros(2, 1, 40, 40).bfloat16())
    assert any(tensor.shape[-2:] == (40, 40) for tensor in kept)
    assert {tensor.dtype for tensor in kept} == {torch.bfloat16}


@pytest.mark.parametrize("keys", [16, 40])
@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
def test_probabilities_have_the_type_of_the_queries_whatever_the_masks_is(keys, kind):
    query, key, value = (torch.randn(2, 3, keys, 8).bfloat16() for _ in range(3))
    mixed, probabilities = attention.attend(
        torch.nn.Identity().eval(), query, key, value, torch.zeros(2, 1, keys, keys, dtype=kind)
    )
    assert mixed.dtype == probabilities.dtype == torch.bfloat16
