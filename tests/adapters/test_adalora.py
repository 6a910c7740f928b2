"""AdaLoRA through our hooks is peft's own: the penalty, the allocation, and an exact resume."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import AdaLoraConfig as PeftAdaLoraConfig
from peft import PeftModel, get_peft_model
from torch.nn import functional
from transformers import AutoModelForSequenceClassification

from graft.adapters.config import ModelConfig
from graft.adapters.loading import load_model
from graft.adapters.methods import METHODS, AttachContext
from graft.adapters.saving import load_adapter, save_adapter
from graft.errors import RecipeError

STEPS = 12
SETTINGS = {"r": 2, "initial_r": 4, "warmup": 0.2, "final": 0.3, "alpha": 8.0, "targets": ("query", "value")}


def _build(checkpoint: Any, steps: int = STEPS, **settings: Any) -> tuple[Any, Any]:
    model = load_model(checkpoint, "classification", 2, ModelConfig(), None, seed=3)
    row = METHODS["adalora"]
    attached = row.attach(model, row.config(**(SETTINGS | settings)), AttachContext(5, steps, checkpoint))
    return model, attached


def _optimizer(model: Any) -> torch.optim.Optimizer:
    return torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.01)


def _step(model: Any, attached: Any, optimizer: Any, batch: Any, step: int) -> float:
    labels = torch.tensor([0, 1, 0])
    loss = functional.cross_entropy(model(batch).logits, labels) + attached.penalty()
    loss.backward()
    optimizer.step()
    attached.after_update(step)
    optimizer.zero_grad()
    return loss.item()


def _ranks(model: Any) -> list[int]:
    return [int(p.ne(0).sum()) for name, p in model.named_parameters() if ".lora_E." in name]


def test_the_penalty_is_what_peft_adds_to_the_loss_when_it_sees_labels(tiny: Any, batch: Any) -> None:
    checkpoint = tiny("bert", "classification")
    model, attached = _build(checkpoint, orthogonality=0.7)
    base = AutoModelForSequenceClassification.from_pretrained(checkpoint.path, attn_implementation="eager")
    config = PeftAdaLoraConfig(
        task_type="SEQ_CLS",
        init_r=4,
        target_r=2,
        lora_alpha=8,
        total_step=STEPS,
        orth_reg_weight=0.7,
        target_modules=["query", "value"],
    )
    theirs = get_peft_model(base, config).eval()
    ours = {name.removeprefix(model.body_prefix): p for name, p in model.named_parameters() if ".lora_" in name}
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            key = name.removeprefix("base_model.model.bert.")
            if key in ours:
                parameter.copy_(ours[key])
    labels = torch.tensor([0, 1, 0])
    output = theirs(**batch, labels=labels)
    task = functional.cross_entropy(output.logits, labels)
    assert len(ours) == 12
    torch.testing.assert_close(attached.penalty(), output.loss - task)
    assert attached.penalty() > 0.1


def test_ranks_shrink_to_the_budget_and_stay_there(tiny: Any, batch: Any) -> None:
    model, attached = _build(tiny("bert"))
    optimizer = _optimizer(model)
    totals = []
    for step in range(1, STEPS + 1):
        _step(model, attached, optimizer, batch, step)
        totals.append(sum(_ranks(model)))
    # tinit = 2, tfinal = 3: the cubic schedule of eq. 12 from 16 down to 8 triplets over steps 2 to 9
    expected = [16, 16] + [int(8 * (1 - (step - 2) / 7) ** 3 + 8) for step in range(3, 10)] + [8, 8, 8]
    assert totals == expected
    assert attached.state()["rank_pattern"]


def test_a_resume_from_the_state_continues_bit_for_bit(tiny: Any, batch: Any) -> None:
    checkpoint = tiny("bert")
    for stop in (5, 10):  # while the budget shrinks, and when the ranks are fixed
        model, attached = _build(checkpoint)
        optimizer = _optimizer(model)
        for step in range(1, stop + 1):
            _step(model, attached, optimizer, batch, step)
        saved = {name: p.detach().clone() for name, p in model.state_dict().items()}
        moments = copy.deepcopy(optimizer.state_dict())
        state = attached.state()
        assert json.dumps({key: value for key, value in state.items() if not isinstance(value, torch.Tensor)})
        resumed, again = _build(checkpoint)
        resumed.load_state_dict(saved)
        again.load_state(state)
        optimizer_again = _optimizer(resumed)
        optimizer_again.load_state_dict(moments)
        for step in range(stop + 1, STEPS + 1):
            expected = _step(model, attached, optimizer, batch, step)
            assert _step(resumed, again, optimizer_again, batch, step) == expected
            ours, theirs = again.state(), attached.state()
            assert ours.pop("rank_pattern") == theirs.pop("rank_pattern")
            assert ours.keys() == theirs.keys()
            assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
        ours, theirs = resumed.state_dict(), model.state_dict()
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_triplets_that_a_strategy_holds_back_do_not_stop_the_allocation(tiny: Any, batch: Any) -> None:
    model, attached = _build(tiny("bert"))
    optimizer = _optimizer(model)
    held = [p for name, p in model.named_parameters() if "layer.0." in name and p.requires_grad]
    for step in range(1, 4):
        for parameter in held:
            parameter.requires_grad_(False)
        (model(batch).logits.square().sum() + attached.penalty()).backward()
        optimizer.step()
        attached.after_update(step)
        assert all(parameter.grad is None for parameter in held)
        optimizer.zero_grad()
        for parameter in held:
            parameter.requires_grad_(True)
    assert sum(_ranks(model)) > 0


def test_a_run_too_short_to_shrink_in_is_refused(tiny: Any) -> None:
    with pytest.raises(RecipeError, match="1 step"):
        _build(tiny("bert"), steps=1)


def test_pruned_ranks_come_back_exactly_here_and_in_plain_peft(tiny: Any, batch: Any, tmp_path: Path) -> None:
    checkpoint = tiny("bert", "classification")
    model, attached = _build(checkpoint)
    optimizer = _optimizer(model)
    for step in range(1, STEPS + 1):
        _step(model, attached, optimizer, batch, step)
    assert sum(_ranks(model)) == 8
    settings = METHODS["adalora"].config(**SETTINGS)
    save_adapter(tmp_path / "adapter", model, attached, settings, checkpoint)
    other, attached_too = _build(checkpoint)
    load_adapter(tmp_path / "adapter", other, attached_too)
    assert torch.equal(other(batch).logits, model(batch).logits)
    base = AutoModelForSequenceClassification.from_pretrained(checkpoint.path, attn_implementation="eager")
    theirs = PeftModel.from_pretrained(base, tmp_path / "adapter").eval()
    assert torch.equal(theirs(**batch).logits, model(batch).logits)
    assert attached.state()["rank_pattern"]  # saving leaves the run's own pattern alone
