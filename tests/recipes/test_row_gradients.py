"""The gradient of a large table is the one that torch gives, whatever the table is used for."""

from unittest.mock import patch

import pytest
import torch
from accelerate import Accelerator
from torch import nn

from graft.recipes import row_gradients
from graft.recipes.building import build, gather
from graft.recipes.row_gradients import RowGradients, install, tables
from graft.recipes.step import _reduce, forward_backward, train_step

CPU = torch.device("cpu")


@pytest.fixture
def small(monkeypatch):
    """Let tables of any size have sparse gradients."""
    monkeypatch.setattr(row_gradients, "LARGE", 1)


def table(**settings):
    torch.manual_seed(3)
    return nn.Embedding(50, 4, **settings)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("padding", [None, 0])
def test_gradients_and_their_norm_are_torchs_over_several_steps(padding):
    stock, ours, spread = table(padding_idx=padding), table(padding_idx=padding), RowGradients()
    install(ours)
    assert tables(ours) == [ours.weight]
    for step in range(4):  # other rows in each, and two backward passes
        generator = torch.Generator().manual_seed(step)
        stock.weight.grad = ours.weight.grad = None
        for _ in range(2):
            ids = torch.randint(0, 20, (6, 5), generator=generator) + 10 * (step % 2)
            factors = torch.randn(6, 5, 4, generator=generator)
            for module in (stock, ours):
                (module(ids) * factors).sum().backward()
        assert ours.weight.grad.is_sparse
        read = spread.spread([ours.weight])
        torch.testing.assert_close(ours.weight.grad, stock.weight.grad)
        torch.testing.assert_close(torch.nn.utils.get_total_norm(read), stock.weight.grad.norm())
        assert read[0].shape[0] < 50


@pytest.mark.usefixtures("small")
def test_a_weight_without_a_gradient_is_passed_over_and_a_dense_one_stays():
    dense, none = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3))
    dense.grad = torch.full((3,), 2.0)
    assert RowGradients().spread([none, dense]) == [dense.grad]


@pytest.mark.usefixtures("small")
def test_a_table_that_is_also_a_head_stays_as_it_is():
    model = nn.ModuleDict({"words": table(), "head": nn.Linear(4, 50, bias=False)})
    model["head"].weight = model["words"].weight
    install(model)
    assert not model["words"].sparse


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("settings", [{"scale_grad_by_freq": True}, {"max_norm": 1.0}])
def test_a_table_that_asks_for_more_stays_as_it_is(settings):
    module = table(**settings)
    install(module)
    assert not module.sparse


def test_a_gradient_is_never_larger_than_its_table_however_many_micro_batches(tiny_recipe, monkeypatch):
    monkeypatch.setattr(row_gradients, "LARGE", 1)
    state = build(gather(tiny_recipe("full", budget={"tokens": 24}, schedule={"examples": 40})), CPU)
    rows = state.rows()
    forward_backward(state, rows, Accelerator(cpu=True))
    for weight in tables(state.model):
        assert weight.grad.is_sparse
        assert weight.grad._nnz() <= len(weight) < state.train.lengths[rows].sum()


@pytest.mark.usefixtures("small")
def test_processes_add_up_what_their_tables_have(tiny_recipe):
    class Two(Accelerator):
        """Two processes that say the same."""

        def reduce(self, message, reduction):
            assert reduction == "sum"
            return 2 * message

    alone = build(gather(tiny_recipe("full")), CPU)
    tally = forward_backward(alone, alone.rows(), Accelerator(cpu=True))
    loss, one = _reduce(alone, tally.loss, Accelerator(cpu=True))
    together = build(gather(tiny_recipe("full")), CPU)
    tally = forward_backward(together, together.rows(), Accelerator(cpu=True))
    accelerator = Two(cpu=True)
    with patch.object(Two, "num_processes", 2):
        twice, both = _reduce(together, tally.loss, accelerator)
    torch.testing.assert_close(twice, 2 * loss)
    torch.testing.assert_close(torch.nn.utils.get_total_norm(both), 2 * torch.nn.utils.get_total_norm(one))
    for mine, theirs in zip(together.learners, alone.learners, strict=True):
        torch.testing.assert_close(mine.weight.grad, 2 * theirs.weight.grad)


@pytest.mark.parametrize("tokens", [8192, 64])
def test_a_plan_counts_sparse_gradients(tiny_recipe, monkeypatch, tokens):
    from graft.recipes import plan as plan_module

    found = []
    for least in (1 << 40, 1):
        monkeypatch.setattr(row_gradients, "LARGE", least)
        found.append(plan_module._work_out(tiny_recipe("full", budget={"tokens": tokens})))
    dense, sparse = found
    assert sparse.memory.gradients == dense.memory.gradients
    assert abs(sparse.memory.total - dense.memory.total) < 0.25 * dense.memory.total


def test_small_tables_stay_as_they_are():
    module = table()
    install(module)
    assert tables(module) == []


@pytest.mark.parametrize(
    "sections",
    [
        {},
        {"objective": {"terms": "l2sp"}},
        {"budget": {"tokens": 64}},
        {"budget": {"gradient_checkpointing": True}},
        {"strategy": {"name": "gradual_unfreezing", "share": 0.5}, "schedule": {"steps": 5}},
    ],
)
@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_a_run_learns_the_same(tiny_recipe, monkeypatch, family, sections):
    states = []
    for least in (1 << 40, 1):
        monkeypatch.setattr(row_gradients, "LARGE", least)
        recipe = tiny_recipe(
            "full", family, optim={"eps": 1e-3}, **sections
        )  # a gradient that is all rounding stays one
        state = build(gather(recipe), CPU)
        for _ in range(5):
            train_step([state], Accelerator(cpu=True))
        states.append(state)
    plain, ours = states
    assert not tables(plain.model)
    assert len(tables(ours.model)) >= 2
    torch.testing.assert_close(ours.losses, plain.losses, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(ours.learned(), plain.learned(), rtol=1e-5, atol=1e-6)
