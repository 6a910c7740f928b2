"""Dropout masks depend on (seed, step, site, example) alone, and are as random as they must be."""

import copy

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn
from transformers import DebertaV2Config
from transformers.models.deberta_v2.modeling_deberta_v2 import DisentangledSelfAttention

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


def test_one_site_may_draw_at_two_rates():
    draws = DropoutStream(0)
    draws.begin(0, IDS)
    for rate in (0.1, 0.5, 0.1):
        drawn = draws.mask(torch.Size((16, 64)), rate, site_number("a"), torch.float32)
        assert torch.equal(drawn, mask((16, 64), rate))


def test_every_element_is_dropped_at_the_rate_between_two_levels():
    # 0.1 is 25.6 of the 256 levels of an element's bits: an example's threshold is 25 or 26.
    dropped = mask((4000, 400), ids=torch.arange(4000)) == 0
    assert stats.binomtest(int(dropped.sum()), dropped.numel(), 0.1).pvalue > 1e-4
    shares = dropped.double().mean(dim=1)
    spread = float(shares.var()) / (0.1 * 0.9 / 400)  # 1 if an example's elements were independent
    assert abs(spread - 1.016) < 0.1
    of_positions = stats.binomtest(int(dropped[:, 17].sum()), 4000, 0.1)
    assert of_positions.pvalue > 1e-4


def test_neighbours_examples_steps_sites_and_seeds_are_uncorrelated():
    def bits(**change):
        return (mask((16, 40, 64), 0.5, **change) == 0).numpy().reshape(16, -1).astype(float)

    base = bits()
    others = [bits(step=1), bits(site="b"), bits(seed=1), bits(source="target"), base[::-1], np.roll(base, 1, axis=1)]
    others += [np.roll(base, 2, axis=1), np.roll(base, 64, axis=1)]
    for other in others:
        correlation = np.corrcoef(base.ravel(), other.ravel())[0, 1]
        assert abs(correlation) < 4.5 / np.sqrt(base.size), correlation


@pytest.mark.parametrize("shape", [(500, 16384), (500, 4, 64, 64)])
def test_elements_are_uncorrelated_at_any_distance(shape):
    dropped = (mask(shape, 0.1, ids=torch.arange(500)) == 0).double().reshape(500, -1)
    length = dropped.shape[1]
    spectrum = torch.fft.rfft((dropped - 0.1) / 0.3, n=2 * length)
    products = torch.fft.irfft(spectrum * spectrum.conj()).sum(dim=0)[1 : length - 1000]
    correlations = products / torch.sqrt(500.0 * (length - torch.arange(1, length - 1000)))  # normal, one per distance
    assert correlations.abs().max() < 5.5
    assert abs(float((correlations**2).mean()) - 1) < 0.06


def worst_correlation(columns):
    """Over all pairs of columns, (N, columns): the largest correlation, in standard deviations, and the mean square."""
    standard = (columns - columns.mean(dim=0)) / columns.std(dim=0, correction=0)
    pairs = (standard.T @ standard / len(columns) ** 0.5)[tuple(torch.triu_indices(*[columns.shape[1]] * 2, offset=1))]
    return float(pairs.abs().max()), float((pairs**2).mean())


@pytest.mark.parametrize("rate", [0.1, 0.5])
@pytest.mark.parametrize("shape", [(400,), (2, 10, 20)])
def test_no_two_elements_are_correlated_over_examples(rate, shape):
    dropped = (mask((8192, *shape), rate, ids=torch.arange(8192)) == 0).float().reshape(8192, -1)
    worst, square = worst_correlation(dropped)  # over 79,800 pairs
    assert worst < 7
    assert abs(square - 1) < 0.03


@pytest.mark.parametrize("rate", [0.1, 0.5])
@pytest.mark.parametrize("lane", [0, 1, 2, 3])
def test_no_two_examples_are_correlated_over_elements(rate, lane):
    dropped = (mask((400, 4 * 8192), rate, ids=torch.arange(400)) == 0).float()
    worst, square = worst_correlation(dropped[:, lane::4].T)
    assert worst < 7
    assert abs(square - 1) < 0.03


def test_no_two_examples_share_a_mask():
    # Of so many, keys of 32 bits would be shared by 36 pairs.
    drawn = (mask((560_000, 64), 0.5, ids=torch.arange(560_000)) == 0).numpy()
    assert len(np.unique(np.packbits(drawn, axis=1).view(np.uint64))) == len(drawn)


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


@pytest.mark.parametrize("shape", [(48, 8), (17, 8), (1, 16, 8), (8, 8)])
def test_a_first_axis_that_is_not_the_examples_is_refused(shape):
    with pytest.raises(RuntimeError, match="not the 16 examples"):
        mask(shape)


@pytest.mark.parametrize("shape", [(16, 8), (1, 80, 9), (3, 5, 7, 11)])
def test_a_weights_mask_is_a_function_of_seed_step_and_site(shape):
    def drawn(seed=0, step=0, site="a", ids=IDS, source="train"):
        draws = DropoutStream(seed)
        draws.begin(step, ids, source)
        with draws.on_weights():
            return draws.mask(torch.Size(shape), 0.5, site_number(site), torch.float32)

    base = drawn()
    assert base.shape == shape
    assert torch.equal(base, drawn(ids=IDS[[3]]))
    assert torch.equal(base, drawn(ids=IDS[8:], source="target"))
    for other in (drawn(seed=1), drawn(step=1), drawn(site="b"), mask((1, base.numel()), 0.5, ids=IDS[:1])):
        assert not torch.equal(base, other.reshape(shape))
    assert stats.binomtest(int((base == 0).sum()), base.numel(), 0.5).pvalue > 1e-4


def test_examples_are_keyed_again_after_a_weight():
    draws = DropoutStream(0)
    with pytest.raises(RuntimeError, match="evaluation mode"), draws.on_weights():
        draws.mask(torch.Size((4, 4)), 0.5, 1, torch.float32)
    draws.begin(0, IDS)
    with draws.on_weights():
        draws.mask(torch.Size((4, 4)), 0.5, 1, torch.float32)
    assert torch.equal(draws.mask(torch.Size((16, 9)), 0.1, site_number("a"), torch.float32), mask((16, 9)))


def _relative_attention(projection_dropout):
    config = DebertaV2Config(
        hidden_size=8,
        num_attention_heads=2,
        max_position_embeddings=8,
        relative_attention=True,
        pos_att_type=["p2c", "c2p"],
        share_att_key=True,
        hidden_dropout_prob=0.5,
        attention_probs_dropout_prob=0.0,
    )
    attention = DisentangledSelfAttention(config)
    if projection_dropout:  # as adapters do, on the projections that the table of positions passes through, too
        for name in ("query_proj", "key_proj"):
            setattr(attention, name, nn.Sequential(nn.Dropout(0.5), getattr(attention, name)))
    return nn.ModuleDict({"self": attention})


@pytest.mark.parametrize("projection_dropout", [False, True])
@pytest.mark.parametrize("batch", [4, 8, 16])  # 16 is the table's size as well
def test_relative_positions_meet_the_same_mask_in_any_micro_batch(projection_dropout, batch):
    model, draws = _relative_attention(projection_dropout), DropoutStream(0)
    install(model, draws)
    states = torch.randn(16, 8, 8, generator=torch.Generator().manual_seed(0))
    table = torch.randn(16, 8, generator=torch.Generator().manual_seed(1))

    def mixed(rows):
        draws.begin(0, IDS[rows])
        size = len(IDS[rows])
        visible = torch.ones(size, 1, 8, 8)
        return model.train()["self"](states[rows], visible, rel_embeddings=table)[0]

    alone = torch.cat([mixed([row]) for row in range(16)])
    cut = torch.cat([mixed(list(range(start, start + batch))) for start in range(0, 16, batch)])
    torch.testing.assert_close(cut, alone)
    assert not torch.allclose(alone, model.eval()["self"](states, torch.ones(16, 1, 8, 8), rel_embeddings=table)[0])


def test_a_copy_of_relative_attention_projects_with_its_own_weights():
    model, draws = _relative_attention(False), DropoutStream(0)
    install(model, draws)
    copied = copy.deepcopy(model).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.zero_()
    other = _relative_attention(False).eval()
    other.load_state_dict(copied.state_dict())
    inputs = (torch.randn(2, 8, 8), torch.ones(2, 1, 8, 8))
    table = torch.randn(16, 8)
    expected = other["self"](*inputs, rel_embeddings=table)[0]
    torch.testing.assert_close(copied["self"](*inputs, rel_embeddings=table)[0], expected)


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


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("shape", [(2, 3, 5, 7), (2, 5, 6)])
def test_bits_keep_what_the_mask_keeps(shape, kind):
    draws = DropoutStream(1)
    draws.begin(0, torch.arange(2))
    bits, mask = (draw(torch.Size(shape), 0.5, 7, kind) for draw in (draws.kept, draws.mask))
    assert bits.shape == mask.shape == shape
    assert bits.element_size() == mask.element_size()
    assert torch.equal(bits, -(mask != 0).to(bits.dtype))
    assert 0 < (mask != 0).sum() < mask.numel()


def test_no_example_has_no_mask():
    draws = DropoutStream(1)
    draws.begin(0, torch.arange(0))
    for shape in ((0, 6), (0, 2, 3, 5)):
        assert draws.mask(torch.Size(shape), 0.5, 7, torch.float32).shape == shape
