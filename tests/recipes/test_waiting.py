"""A device that queues its work is a step ahead of what the host reads of it, and nothing else differs.

The promise is to GPUs; a processor that is treated like one keeps it here.
"""

import pytest
import torch
from accelerate import Accelerator
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils._python_dispatch import TorchDispatchMode

from graft import train
from graft.errors import TrainingError
from graft.recipes import hardware
from graft.recipes import step as step_module
from graft.recipes.building import build, gather
from graft.recipes.frozen import Frozen
from graft.recipes.loop import fit
from graft.recipes.options import RunOptions
from graft.recipes.step import settle, train_step

CPU = torch.device("cpu")
METHODS = ["full", "lora", "prefix", "probe"]


@pytest.fixture
def accelerator():
    return Accelerator(cpu=True)


@pytest.fixture
def waiting(monkeypatch):
    """Treat the processor as a device that is worth being ahead of."""
    monkeypatch.setattr(hardware, "_QUEUEING", ("cpu",))


@pytest.mark.parametrize("method", METHODS)
def test_losses_are_read_a_step_late_and_are_the_same(tiny_recipe, accelerator, monkeypatch, method):
    states = []
    for devices in ((), ("cpu",)):
        monkeypatch.setattr(hardware, "_QUEUEING", devices)
        state = build(gather(tiny_recipe(method)), CPU)
        for _ in range(5):
            train_step([state], accelerator)
        states.append(state)
    at_once, late = states
    assert len(late.losses) == late.step - 1 == 4
    settle(late, accelerator)
    assert late.losses == at_once.losses
    torch.testing.assert_close(late.learned(), at_once.learned(), rtol=0, atol=0)


def test_a_run_is_the_same_to_the_end(tmp_path, tiny_recipe, monkeypatch):
    records = []
    for devices in ((), ("cpu",)):
        monkeypatch.setattr(hardware, "_QUEUEING", devices)
        given = RunOptions(out=tmp_path / str(len(devices)), quiet=True, track=("tensorboard",), checkpoint_steps=2)
        run = train(tiny_recipe("lora"), options=given)
        records.append(run.record)
        events = EventAccumulator(str(run.folder / "graft"))
        events.Reload()
        scalars = events.Scalars("train/loss")
        assert [event.step for event in scalars] == list(range(1, run.record.steps + 1))
        assert [event.value for event in scalars] == pytest.approx(run.record.losses, rel=1e-6)
    assert records[0].losses == records[1].losses
    assert records[0].scores == records[1].scores


@pytest.mark.usefixtures("waiting")
@pytest.mark.parametrize("method", ["full", "lora"])
def test_nothing_is_learned_from_what_is_not_finite_though_it_is_read_late(tiny_recipe, accelerator, method):
    state = build(gather(tiny_recipe(method)), CPU)
    for _ in range(2):
        train_step([state], accelerator)
    before, real = state.learned(), state.kind.loss
    moments = {key: value.clone() for key, value in state.optimizer.state[state.learners[0].weight].items()}
    object.__setattr__(state.kind, "loss", lambda logits, batch: real(logits, batch) * torch.nan)
    try:
        train_step([state], accelerator)  # the host has not looked yet
    finally:
        object.__setattr__(state.kind, "loss", real)
    torch.testing.assert_close(state.learned(), before, rtol=0, atol=0)
    with pytest.raises(TrainingError, match=r"step 2: the loss is nan \(training examples \["):
        train_step([state], accelerator)
    torch.testing.assert_close(state.learned(), before, rtol=0, atol=0)
    torch.testing.assert_close(dict(state.optimizer.state[state.learners[0].weight]), moments, rtol=0, atol=0)
    assert all(learner.weight.grad is None for learner in state.learners)
    assert len(state.losses) == 2
    assert state.unread == []


@pytest.mark.usefixtures("waiting")
def test_a_loss_that_is_not_finite_stops_the_run_before_weights_are_saved(tmp_path, tiny_recipe, monkeypatch):
    real = step_module._reduce
    monkeypatch.setattr(
        step_module,
        "_reduce",
        lambda state, loss, accelerator: real(state, loss * torch.nan if state.step == 3 else loss, accelerator),
    )
    given = RunOptions(out=tmp_path, quiet=True, checkpoint_steps=4)
    with pytest.raises(TrainingError, match="step 3: the loss is nan"):
        train(tiny_recipe("lora"), options=given)
    assert not list(tmp_path.rglob("step-*"))


class Asked(TorchDispatchMode):
    """Notes what makes the host wait for a device: a number, or a size that depends on numbers.

    On a processor it does not see copies between host and device, nor `tolist` and indexing by booleans.
    """

    OPERATIONS = ("_local_scalar_dense", "nonzero", "is_nonzero", "equal", "masked_select", "_unique2", "allclose")

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function.overloadpacket.__name__ in self.OPERATIONS:
            self.found.append(function.overloadpacket.__name__)
        return function(*args, **(kwargs or {}))


@pytest.mark.usefixtures("waiting")
@pytest.mark.parametrize("family", ["bert", "gpt2"])
@pytest.mark.parametrize("method", ["full", "lora", "bottleneck", "prefix", "bitfit", "ia3", "probe"])
def test_a_step_asks_the_device_for_nothing(tiny_recipe, accelerator, monkeypatch, method, family):
    monkeypatch.setattr("graft.recipes.row_gradients.install", lambda _: None)  # for processors alone
    state = build(gather(tiny_recipe(method, family)), CPU)
    state.frozen = Frozen(keep=False)
    for _ in range(2):
        train_step([state], accelerator)
    with Asked() as asked:
        train_step([state], accelerator)
    assert asked.found == []


@pytest.mark.usefixtures("waiting")
def test_a_run_that_fails_late_keeps_others_from_nothing(tiny_recipe, accelerator, monkeypatch):
    real = step_module._reduce
    monkeypatch.setattr(
        step_module,
        "_reduce",
        lambda state, loss, accelerator: real(
            state, loss * torch.nan if (state.recipe.seed, state.step) == (2, 1) else loss, accelerator
        ),
    )
    states = [build(gather(tiny_recipe("full", seed=seed, schedule={"steps": 2})), CPU) for seed in (1, 2, 3)]
    with pytest.raises(TrainingError, match=r"(?s)1 of 3 runs failed.*seed 2.*step 1: the loss is nan"):
        fit(states, accelerator, score=lambda _: {})
    assert [len(state.losses) for state in states] == [2, 1, 2]
    assert all(state.unread == [] for state in states)


@pytest.mark.usefixtures("waiting")
def test_what_acts_after_updates_is_never_ahead(tiny_recipe, accelerator):
    state = build(gather(tiny_recipe("adalora")), CPU)
    train_step([state], accelerator)
    assert state.acts_after_updates
    assert len(state.losses) == state.step == 1
