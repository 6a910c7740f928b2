"""Terms weigh, add and remember; L2-SP is its paper's formula; the frozen reference is what was loaded."""

import dataclasses

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from domain_term import DomainTerm

from graft import load, train
from graft.adapters.methods import METHODS as METHOD_ROWS
from graft.errors import GraftError, RecipeError
from graft.recipes.building import build, build_model, gather
from graft.recipes.l2sp import L2SP
from graft.recipes.objective import Contribution, Term
from graft.recipes.options import RunOptions
from graft.recipes.step import train_step

CPU = torch.device("cpu")


@pytest.fixture
def accelerator():
    return Accelerator(cpu=True)


def state_of(recipe, *terms):
    return build(gather(recipe, terms=terms), CPU, terms)


def quiet(recipe_maker, **sections):
    """A recipe without dropout, so that two passes over the same examples agree."""
    return recipe_maker(model={"dropout": 0.0}, **sections)


def task_losses(state, rows):
    batch = state.kind.collate(state.train, rows.tolist())
    with torch.no_grad():
        return state.kind.loss(state.model(batch.inputs).logits, batch), batch


class Weigher(Term):
    """Weighs every example by its id and adds a constant loss per example."""

    name = "weigher"

    def identity(self):
        return {"name": self.name}

    def on_batch(self, context):
        return Contribution(weights=context.batch.ids.float(), losses=torch.full((len(context.batch),), 3.0))

    def loss(self, step):
        return torch.tensor(0.25)


class Referring(Term):
    """Asks for the frozen reference, and does nothing with it."""

    name = "referring"
    wants_reference = True

    def identity(self):
        return {"name": self.name}


def test_weights_losses_and_a_loss_per_step_combine(tiny_recipe, accelerator):
    state = state_of(quiet(tiny_recipe), Weigher())
    rows = state.rows()
    losses, batch = task_losses(state, rows)
    expected = (losses * batch.ids).sum() / len(rows) + 3.0 + 0.25
    train_step([state], accelerator)
    assert state.losses == [pytest.approx(float(expected), rel=1e-5)]


def test_two_terms_multiply_their_weights(tiny_recipe, accelerator):
    class Other(Weigher):
        name = "other"

    state = state_of(quiet(tiny_recipe), Weigher(), Other())
    rows = state.rows()
    losses, batch = task_losses(state, rows)
    train_step([state], accelerator)
    assert state.losses[0] == pytest.approx(float((losses * batch.ids**2).sum() / len(rows) + 2 * 3.25), rel=1e-5)


def test_l2sp_is_half_the_squared_distance_of_what_was_pretrained(tiny_recipe, accelerator):
    recipe = quiet(tiny_recipe, objective={"terms": [{"name": "l2sp", "strength": 0.7}]})
    state = state_of(recipe)
    before = {n: p.detach().clone() for n, p in state.model.named_parameters() if n.startswith("backbone.")}
    for _ in range(2):
        train_step([state], accelerator)
    moved = sum(((dict(state.model.named_parameters())[n] - p) ** 2).sum().item() for n, p in before.items())
    assert moved > 0
    rows = state.rows()
    losses, _ = task_losses(state, rows)
    train_step([state], accelerator)
    assert state.losses[2] == pytest.approx(float(losses.mean()) + 0.5 * 0.7 * moved, rel=1e-4)


def test_l2sp_pulls(tiny_recipe, accelerator):
    def distance(strength):
        state = state_of(tiny_recipe(objective={"terms": [{"name": "l2sp", "strength": strength}]}))
        for _ in range(6):
            train_step([state], accelerator)
        return state.objective.reference.distance_squared().item()

    assert distance(10.0) < 0.5 * distance(0.0)


def test_l2sp_refuses_a_method_that_leaves_the_pretrained_weights_alone(tiny_recipe, accelerator):
    state = state_of(tiny_recipe("lora", objective={"terms": "l2sp"}))
    with pytest.raises(GraftError, match="nothing pretrained is learning"):
        train_step([state], accelerator)


def test_a_reference_is_taken_before_the_method_touches_the_base(tiny_recipe):
    """It stays what was loaded, whatever becomes of the model."""
    state = state_of(tiny_recipe(objective={"terms": "l2sp"}))
    assert float(state.objective.reference.distance_squared()) == 0.0
    with torch.no_grad():
        next(state.model.backbone.parameters()).add_(1.0)
    assert float(state.objective.reference.distance_squared()) > 0.0


METHODS = ["full", "probe", "bitfit", "lora", "prefix", {"name": "adalora", "r": 2, "initial_r": 4}]


@pytest.mark.parametrize("family", ["bert", "gpt2"])
@pytest.mark.parametrize("method", METHODS, ids=lambda method: method if isinstance(method, str) else method["name"])
def test_the_reference_says_at_every_step_what_the_loaded_model_says(tiny_recipe, accelerator, method, family):
    """Under each method, with dropout in training, and whatever mode the trained model is in."""
    term = Referring()
    recipe = tiny_recipe(method, family, objective={}, model={"dropout": 0.3})
    materials = gather(recipe, terms=[term])
    loaded = build_model(materials).eval()
    state = build(materials, CPU, [term])
    batch = state.kind.collate(state.train, range(5))
    with torch.no_grad():
        expected = loaded(batch.inputs, need=frozenset({"hidden"}))
    for _ in range(3):
        train_step([state], accelerator)
        found = state.objective.reference.forward(batch.inputs, need=frozenset({"hidden"}))
        assert torch.equal(found.features, expected.features)
        assert torch.equal(found.logits, expected.logits)
        assert all(map(torch.equal, found.hidden, expected.hidden))
        assert not found.features.requires_grad
        with state.evaluating():
            assert not torch.allclose(state.model(batch.inputs).logits, expected.logits)


def test_the_reference_says_what_a_base_was_that_its_method_changed(tiny_recipe, monkeypatch):
    """As PiSSA and OLoRA do: the base neither learns nor stays what it was."""
    row = METHOD_ROWS["lora"]

    def changing(model, config, context):
        attached = row.attach(model, config, context)
        with torch.no_grad():
            for name, weight in model.named_parameters():
                if name.endswith("query.base_layer.weight"):
                    weight.mul_(0.5)
        return attached

    monkeypatch.setitem(METHOD_ROWS, "lora", dataclasses.replace(row, attach=changing))
    term = Referring()
    materials = gather(tiny_recipe("lora"), terms=[term])
    loaded = build_model(materials).eval()
    state = build(materials, CPU, [term])
    batch = state.kind.collate(state.train, range(5))
    reference, now = state.objective.reference, dict(state.model.named_parameters())
    assert torch.equal(reference.forward(batch.inputs).features, loaded.features(batch.inputs))
    changed = [name for name in now if name.endswith("query.base_layer.weight")]
    assert len(changed) == 2
    assert all(torch.equal(reference.weight(name), 2 * now[name]) for name in changed)
    assert reference.bytes == sum(weight.nbytes for name, weight in now.items() if name in changed or "heads" in name)


def test_the_reference_knows_each_weight_by_the_name_that_it_has_now(tiny_recipe, accelerator):
    for method in ("full", "lora"):
        term = Referring()
        materials = gather(tiny_recipe(method), terms=[term])
        loaded = dict(build_model(materials).named_parameters())
        state = build(materials, CPU, [term])
        train_step([state], accelerator)
        reference = state.objective.reference
        query = next(name for name in dict(state.model.named_parameters()) if "layer.1.attention.self.query" in name)
        before = loaded["backbone.encoder.layer.1.attention.self.query.weight"]
        assert torch.equal(reference.weight(query), before)
        fresh = "heads.default.classifier.weight"
        with pytest.raises(GraftError, match="did not bring this parameter"):
            reference.weight(fresh)


def test_a_reference_holds_only_what_learns(tiny_recipe):
    """All else is the memory of the model itself."""

    def held(method):
        state = build(gather(tiny_recipe(method), terms=[Referring()]), CPU, [Referring()])
        reference, learning = state.objective.reference, state.attached.learning
        pretrained = {
            n: p for n, p in state.model.named_parameters() if n.startswith("backbone.") and ".lora_" not in n
        }
        apart = {n for n, p in pretrained.items() if reference.weight(n).data_ptr() != p.data_ptr()}
        assert apart == set(pretrained) & set(learning)
        head = sum(weight.nbytes for weight in state.model.heads.parameters())
        assert reference.bytes == head + sum(pretrained[name].nbytes for name in apart)
        return len(apart)

    assert held("full") > held("bitfit") > held("lora") == held("probe") == 0


def test_a_terms_module_learns_and_its_stream_goes_round(tiny_recipe, accelerator):
    term = DomainTerm()
    state = state_of(tiny_recipe("lora"), term)
    before = term._discriminator.weight.detach().clone()
    for _ in range(11):
        train_step([state], accelerator)
    assert not torch.equal(before, term._discriminator.weight)
    assert any(learner.name == "term.domain.weight" for learner in state.learners)
    assert int(term.steps) == 11
    counts = np.bincount(np.concatenate(term.seen), minlength=11)
    assert counts.tolist() == [5] * 11  # 11 steps of 5 go round 11 examples 5 times


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_terms_compute_in_fp32_whatever_the_precision(tiny_recipe, accelerator, precision):
    class Looker(Weigher):
        needs = frozenset({"hidden"})

        def on_batch(self, context):
            self.seen = [context.outputs.features, context.outputs.logits, *context.outputs.hidden]
            return Contribution()

    term = Looker()
    state = state_of(tiny_recipe("lora", speed={"precision": precision}), term, DomainTerm())
    train_step([state], accelerator)
    assert len(term.seen) == 2 + 3  # features, logits, embeddings and two layers
    assert {tensor.dtype for tensor in term.seen} == {torch.float32}


def test_a_terms_module_starts_from_the_seed_alone(tiny_recipe):
    def start(seed, noise):
        torch.manual_seed(noise)
        return state_of(tiny_recipe("lora", seed=seed), DomainTerm()).objective.modules["domain"].weight.detach()

    assert torch.equal(start(1, 5), start(1, 6))
    assert not torch.equal(start(1, 5), start(2, 5))


def test_a_term_that_is_an_object_changes_the_digest(tiny_recipe):
    def digest(*terms):
        return gather(tiny_recipe(), terms=terms).digest

    assert len({digest(), digest(DomainTerm(5)), digest(DomainTerm(6))}) == 3
    assert digest(DomainTerm(5)) == digest(DomainTerm(5))
    with pytest.raises(NotImplementedError, match="identity"):
        digest(type("Nameless", (Term,), {"name": "nameless"})())


def test_l2sp_names_itself():
    assert L2SP(0.5).identity() == {"name": "l2sp", "strength": 0.5}


@pytest.mark.parametrize("names", [("weigher", "weigher"), ("method",)])
def test_names_that_would_fall_together_are_refused(tiny_recipe, names):
    terms = []
    for name in names:
        terms.append(Weigher())
        terms[-1].name = name
    with pytest.raises(RecipeError, match=f"the term name '{names[-1]}'"):
        state_of(quiet(tiny_recipe), *terms)


def test_streams_of_one_name_are_refused(tiny_recipe):
    other = DomainTerm()
    other.name = "another"
    with pytest.raises(RecipeError, match="the stream name 'target' is used more than once"):
        state_of(tiny_recipe("lora"), DomainTerm(), other)


class SecondHead(Term):
    """Learns the parity of an example's id with a head of its own."""

    name = "second"

    def identity(self):
        return {"name": self.name}

    def heads(self):
        return {"parity": 2}

    def setup(self, setup):
        self._model = setup.model

    def on_batch(self, context):
        logits = self._model.logits(context.outputs.features, "parity")
        return Contribution(losses=torch.nn.functional.cross_entropy(logits, context.batch.ids % 2, reduction="none"))


@pytest.mark.parametrize("method", ["full", "lora"])
def test_a_terms_head_learns_and_comes_back(tiny_recipe, tmp_path, method):
    recipe = tiny_recipe(method, schedule={"steps": 3})
    started = state_of(recipe, SecondHead()).model.heads["parity"].classifier.weight
    run = train(recipe, options=RunOptions(out=tmp_path, quiet=True), terms=[SecondHead()])
    model = load(run.folder).model
    assert model.heads["parity"].outputs == 2
    assert not torch.equal(model.heads["parity"].classifier.weight, started)
    assert run.record.parameters.trainable - run.record.parameters.trainable_without_head == 2 * (16 * 2 + 2)
