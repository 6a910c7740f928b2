"""Our attention computes what the stock one does, about as near to the exact one, and keeps less."""

import pytest
import torch
from torch import nn

from graft.recipes import attention
from graft.recipes.attention import Attend, _softmax, _softmax_backward, _stock
from graft.recipes.dropout import DropoutStream

KEYS = [1, 4, 12, 15, 16, 31, 32, 33, 56, 64, 96]


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


def ours(given, factor):
    result = _softmax(given)
    return result.to(given.dtype), _softmax_backward(factor, result if given.shape[-1] < 32 else result.to(given.dtype))


def stock(given):
    return torch.softmax(given, dim=-1, dtype=torch.float32).to(given.dtype)


@pytest.mark.parametrize("keys", KEYS)
def test_softmax_is_about_as_near_to_the_exact_one_as_the_stock_one_is(keys):
    given, factor = scores(keys)
    exact = outcome(lambda x: torch.softmax(x, dim=-1), given.double(), factor.double())
    found = ours(given, factor)
    for mine, other, true in zip(found, outcome(stock, given, factor), exact, strict=True):
        assert mine.dtype == torch.bfloat16
        mistake = (mine - true).norm()
        assert mistake <= 2.0 * (other - true).norm()
        assert mistake <= 4e-3 * true.norm()  # where a step of bf16 is 4e-3 to 8e-3 of a number
    assert not found[0][0, ..., (keys + 1) // 2 :].any()


@pytest.mark.parametrize("keys", [1, 7, 15, 16, 40])
def test_softmax_in_fp32_is_the_stock_one(keys):
    given, factor = (part.float() for part in scores(keys))
    before = given.clone(), factor.clone()
    found = ours(given, factor)
    for mine, other in zip(found, outcome(stock, given, factor), strict=True):
        assert mine.dtype == torch.float32
        torch.testing.assert_close(mine, other)
    assert torch.equal(given, before[0])
    assert torch.equal(factor, before[1])
    torch.testing.assert_close(found[0], stock(given))  # what it gave is as it was, too


def test_the_largest_scores_do_not_overflow():
    given = torch.tensor([[200.0, 100.0, torch.finfo(torch.float32).min]])
    torch.testing.assert_close(_softmax(given), torch.tensor([[1.0, 0.0, 0.0]]))


def heads(queries, keys, kind=torch.float64):
    generator = torch.Generator().manual_seed(queries + keys)
    shapes = (2, 3, queries, 4), (2, 3, keys, 4), (2, 3, keys, 4), (2, 1, 1, keys)
    return [torch.randn(shape, generator=generator).to(kind).requires_grad_() for shape in shapes]


def some_kept(queries, keys):
    bits = -torch.randint(0, 2, (2, 3, queries, keys), generator=torch.Generator().manual_seed(3))
    return bits, bits.neg().double() * 1.25


@pytest.mark.parametrize("drops", [False, True])
@pytest.mark.parametrize(("queries", "keys"), [(5, 5), (1, 17), (33, 33)])
def test_it_is_the_stock_one_with_its_gradients(queries, keys, drops):
    given = heads(queries, keys)
    bits, factors = some_kept(queries, keys) if drops else (None, None)
    found = Attend.apply(*given, bits, 0.5, 1.25 if drops else 1.0)
    expected = _stock(*given, factors, 0.5)
    torch.testing.assert_close(found, expected)
    of = [torch.randn_like(output) for output in expected]
    for chosen in ([0], [1], [0, 1]):
        mine, theirs = (
            torch.autograd.grad(
                [outputs[n] for n in chosen], given, [of[n] for n in chosen], retain_graph=True, allow_unused=True
            )
            for outputs in (found, expected)
        )
        for part, *both in zip(given, mine, theirs, strict=True):
            one, other = (torch.zeros_like(part) if gradient is None else gradient for gradient in both)
            torch.testing.assert_close(one, other)


def test_its_gradients_have_derivatives():
    given, (bits, _) = heads(3, 4), some_kept(3, 4)
    assert torch.autograd.gradcheck(lambda *parts: Attend.apply(*parts, bits, 0.5, 1.25), given)
    assert torch.autograd.gradgradcheck(lambda *parts: Attend.apply(*parts, bits, 0.5, 1.25), given)
    keys = heads(3, 4)[1]
    query, _, value, _ = (part.detach() for part in given)
    one = lambda key: Attend.apply(query, key, value, None, None, 0.5, 1.0)  # noqa: E731
    assert torch.autograd.gradgradcheck(one, [keys])


@pytest.mark.parametrize("derive", [lambda x: (x, x, x), lambda x: (x, x.sin(), x.sin())])
def test_a_gradient_that_is_to_be_derived_is_the_same_where_its_inputs_depend_on_one_another(derive):
    given = heads(3, 3)[0]
    outputs = Attend.apply(*derive(given * 1.0), None, None, 0.5, 1.0)
    of = [torch.randn_like(output) for output in outputs]
    plain, derivable = (
        torch.autograd.grad(outputs, given, of, retain_graph=True, create_graph=create)[0] for create in (False, True)
    )
    torch.testing.assert_close(derivable, plain)


def test_a_gradient_of_values_alone_can_be_derived():
    query, key, value, _ = heads(3, 3)
    mixed, probabilities = Attend.apply(query.detach(), key.detach(), value, None, None, 0.5, 1.0)
    (plain,) = torch.autograd.grad(mixed.sum() + probabilities.sum(), value, retain_graph=True)
    (derivable,) = torch.autograd.grad(mixed.sum() + probabilities.sum(), value, create_graph=True)
    torch.testing.assert_close(derivable, plain)


@pytest.mark.parametrize("shape", [(0, 2, 3, 4), (2, 2, 0, 4)])
def test_nothing_attends_to_nothing(shape):
    query, (key, value) = torch.randn(shape), torch.randn(2, shape[0], 2, 5, 4)
    mixed, probabilities = attention.attend(nn.Identity().eval(), query, key, value, None)
    assert mixed.shape == (shape[0], shape[2], 2, 4)
    assert probabilities.shape == (*shape[:3], 5)


def test_what_it_gives_may_be_changed_in_place():
    query, key, value, _ = heads(1, 3)
    mixed, _ = attention.attend(nn.Identity().eval(), query, key, value, None)
    mixed.add_(1.0).sum().backward()
    assert value.grad is not None


def trained(rate, kind):
    """A module in training, and its stream, in a step of two examples."""
    module, draws = nn.Identity().train(), DropoutStream(1)
    module.__dict__["graft_dropout"] = (draws, 7)
    draws.begin(0, torch.arange(2))
    return module, draws.mask(torch.Size((2, 3, 40, 40)), rate, 7, kind)


@pytest.mark.parametrize(("kind", "near"), [(torch.float32, 1e-5), (torch.bfloat16, 0.02)])
def test_it_drops_by_the_runs_stream(kind, near):
    query, key, value, _ = heads(40, 40, kind)
    module, factors = trained(0.25, kind)
    mixed, probabilities = attention.attend(module, query, key, value, None, dropout=0.25)
    expected, undropped = _stock(query, key, value, None, factors, 0.5)
    torch.testing.assert_close(mixed, expected.transpose(1, 2), atol=near, rtol=near)
    torch.testing.assert_close(probabilities, undropped, atol=near, rtol=near)
    assert 0.2 < (factors == 0).float().mean() < 0.3
    module.eval()
    whole = _stock(query, key, value, None, None, 0.5)[0].transpose(1, 2)
    torch.testing.assert_close(attention.attend(module, query, key, value, None)[0], whole, atol=near, rtol=near)


def test_without_a_stream_it_drops_as_torch_does():
    query, key, value, _ = heads(40, 40)
    torch.manual_seed(5)
    mixed, _ = attention.attend(nn.Identity().train(), query, key, value, None, dropout=0.25)
    torch.manual_seed(5)
    dropped = nn.functional.dropout(torch.softmax(0.5 * query @ key.mT, dim=-1), 0.25)
    torch.testing.assert_close(mixed, (dropped @ value).transpose(1, 2))


def test_nothing_wider_than_the_result_is_kept():
    query, key, value, _ = heads(40, 40, torch.bfloat16)
    module, _ = trained(0.25, torch.bfloat16)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        attention.attend(module, query, key, value, torch.zeros(2, 1, 40, 40).bfloat16(), dropout=0.25)
    assert sum(tensor.shape[-2:] == (40, 40) and tensor.shape[1] == 3 for tensor in kept) == 3
    assert {tensor.dtype for tensor in kept} == {torch.bfloat16, torch.int16}


@pytest.mark.parametrize("keys", [8, 16, 40])
@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
def test_probabilities_have_the_type_of_the_queries_whatever_the_masks_is(keys, kind):
    query, key, value, _ = heads(keys, keys, torch.bfloat16)
    mask = torch.zeros(2, 1, keys, keys, dtype=kind)
    mask[..., keys // 2 :] = torch.finfo(kind).min
    mask[0, :, 0] = torch.finfo(kind).min  # a query that sees nothing attends to all, and gives no NaN
    mixed, probabilities = attention.attend(nn.Identity().eval(), query, key, value, mask)
    assert mixed.dtype == probabilities.dtype == torch.bfloat16
    assert not probabilities[1, ..., keys // 2 :].any()
    torch.testing.assert_close(probabilities.float().sum(-1), torch.ones(2, 3, keys), atol=0.02, rtol=0)


def test_under_autocast_it_computes_in_autocasts_type():
    query, key, value, _ = heads(40, 40, torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        mixed, probabilities = attention.attend(nn.Identity().eval(), query, key, value, None)
    assert mixed.dtype == probabilities.dtype == torch.bfloat16
    mixed.sum().backward()
    assert query.grad.dtype == torch.float32
