"""Dropout masks depend on (seed, step, site, example) alone, and are as random as they must be."""

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

from graft.recipes.dropout import Dropout, DropoutStream, install, site_number

IDS = torch.arange(16) * 37 + 5


def mask(shape, rate=0.1, site="a", seed=0, step=0, ids=IDS, source="train"):
    draws = DropoutStream(seed)
    draws.begin(step, ids, source)
    return draws.mask(torch.Size(shape), rate, site_number(site), torch.float32)


@pytest.mark.parametrize("shape", [(16, 50, 31), (16, 64), (16, 4, 33, 33)])
@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_drops_at_the_rate_and_keeps_the_mean(shape, rate):
    drawn = mask(shape, rate)
    dropped, size = int((drawn == 0).sum()), drawn.numel()
    assert stats.binomtest(dropped, size, rate).pvalue > 1e-4
    assert torch.equal(drawn.unique(), torch.tensor([0.0, 1 / (1 - rate)]))


def test_neighbours_examples_steps_sites_and_seeds_are_uncorrelated():
    def bits(**change):
        return (mask((16, 40, 64), 0.5, **change) == 0).numpy().reshape(16, -1).astype(float)

    base = bits()
    others = [bits(step=1), bits(site="b"), bits(seed=1), bits(source="target"), base[::-1], np.roll(base, 1, axis=1)]
    others += [np.roll(base, 2, axis=1), np.roll(base, 64, axis=1)]
    for other in others:
        correlation = np.corrcoef(base.ravel(), other.ravel())[0, 1]
        assert abs(correlation) < 4.5 / np.sqrt(base.size), correlation


def test_bits_pass_a_serial_chi_square_test():
    dropped = (mask((16, 128, 64), 0.5) == 0).to(torch.int64).reshape(16, -1, 4)
    words = (dropped * torch.tensor([8, 4, 2, 1])).sum(-1).flatten().numpy()
    assert stats.chisquare(np.bincount(words, minlength=16)).pvalue > 1e-4


@pytest.mark.parametrize("shape", [(16, 12, 8), (16, 9), (16, 2, 12, 12)])
def test_an_example_keeps_its_mask_in_any_micro_batch(shape):
    whole = mask(shape)
    part = mask((3, *shape[1:]), ids=IDS[[7, 2, 11]])
    assert torch.equal(part, whole[[7, 2, 11]])


def test_an_example_keeps_its_mask_whatever_it_is_padded_to():
    assert torch.equal(mask((16, 12, 9))[:, :7], mask((16, 7, 9)))
    assert torch.equal(mask((16, 3, 12, 12))[:, :, :7, :7], mask((16, 3, 7, 7)))


def test_a_folded_leading_axis_is_the_examples_axis_times_the_rest():
    assert torch.equal(mask((48, 8)).reshape(16, 24), mask((16, 24)))


def test_a_batch_that_is_no_multiple_of_the_examples_is_refused():
    with pytest.raises(RuntimeError, match="does not divide"):
        mask((17, 8))


def test_no_mask_outside_of_a_step():
    site = Dropout(0.1, "x", DropoutStream(0))
    with pytest.raises(RuntimeError, match="evaluation mode"):
        site.train()(torch.ones(2, 3))
    assert torch.equal(site.eval()(torch.ones(2, 3)), torch.ones(2, 3))


def test_install_replaces_every_dropout_and_gives_each_its_own_site():
    model = nn.Sequential(nn.Dropout(0.5), nn.ModuleDict({"inner": nn.Dropout(0.5)}), nn.Linear(2, 2))
    draws = DropoutStream(3)
    assert install(model, draws) == 2
    sites = [module for module in model.modules() if isinstance(module, Dropout)]
    assert len({site.site for site in sites}) == 2
    assert not any(type(module) is nn.Dropout for module in model.modules())


def test_gradients_pass_where_the_mask_is_not_zero():
    draws = DropoutStream(0)
    draws.begin(0, IDS)
    hidden = torch.ones(16, 40, requires_grad=True)
    out = Dropout(0.3, "x", draws).train()(hidden)
    out.sum().backward()
    assert torch.equal(hidden.grad, out.detach())
