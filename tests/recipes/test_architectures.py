"""Every architecture trains through the real loop: a row in the table of families is all that a new one needs here."""

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from transformers import AutoConfig, AutoModel

from graft.adapters.checkpoint import resolve
from graft.adapters.config import ModelConfig
from graft.adapters.families import FAMILIES
from graft.adapters.loading import load_model, load_tokenizer
from graft.adapters.methods import METHODS
from graft.errors import GraftError, RecipeError
from graft.recipes import stock
from graft.recipes.building import build, gather
from graft.recipes.frozen import Frozen
from graft.recipes.last_layer import shortens
from graft.recipes.scoring import metrics_of, score_splits
from graft.recipes.step import train_step

CPU = torch.device("cpu")
POSITIONS = 40
# Each config takes what it knows, under its own name for it, and carries the rest along.
SIZES = {
    "vocab_size": 44,
    "hidden_size": 16,
    "embedding_size": 8,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "intermediate_size": 24,
    "hidden_dim": 24,
    "max_position_embeddings": POSITIONS,
    "initializer_range": 0.2,
    "pad_token_id": 0,
    "cls_token_id": 2,
    "bos_token_id": 2,
    "sep_token_id": 3,
    "eos_token_id": 3,
    "relative_attention": True,
    "pos_att_type": ["p2c", "c2p"],
    "share_att_key": True,
    "tie_word_embeddings": True,  # else a language model's head would be fresh, and learn
}
METHOD_SETTINGS = {"full": "full", "lora": {"name": "lora", "dropout": 0.2}}
ALL = sorted(FAMILIES)
HEADS = [(family, "classification") for family in ALL]
HEADS += [(family, "causal_lm") for family in ALL if FAMILIES[family].decoder]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """Make `checkpoint(family)`: a tiny random one with a table of 40 positions; the same folder every time."""
    folder = tmp_path_factory.mktemp("architectures")

    def make(family, **overrides):
        path = folder / "-".join([family, *map(str, overrides.values())])
        if not path.exists():
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(7)
                AutoModel.from_config(AutoConfig.for_model(family, **(SIZES | overrides))).save_pretrained(path)
        return path

    return make


@pytest.fixture
def recipe_of(checkpoint, tiny_recipe, tiny_bert, monkeypatch):
    """Make `recipe_of(family, method, kind, dropout)`: two steps of 8 examples; every text is BERT's tokens."""
    tokenizer = load_tokenizer(resolve(ModelConfig(name=str(tiny_bert))))
    tokenizer.model_max_length = 10**30  # as transformers has it where nobody said
    monkeypatch.setattr(stock, "load_tokenizer", lambda _: tokenizer)

    def make(family, method="full", kind="classification", dropout=0.2, positions=POSITIONS, **sections):
        sections.setdefault("task", {})
        if kind == "causal_lm":
            sections["task"] |= {"kind": kind, "label": None}
        name = str(checkpoint(family, max_position_embeddings=positions))
        return tiny_recipe(
            METHOD_SETTINGS.get(method, method),
            model={"name": name, "dropout": dropout},
            optim={"lr": 1e-3},
            schedule={"steps": 2},
            **sections,
        )

    return make


@pytest.fixture
def accelerator():
    return Accelerator(cpu=True)


def trained(recipe, accelerator):
    """Take both steps; tells the weights before and how often the model ran, too."""
    state = build(gather(recipe), CPU)
    before = {name: weight.detach().clone() for name, weight in state.model.named_parameters()}
    passes = []
    state.model.register_forward_hook(lambda *_: passes.append(1))
    while not state.done:
        train_step([state], accelerator)
    return state, before, len(passes)


@pytest.mark.parametrize("method", sorted(METHOD_SETTINGS))
@pytest.mark.parametrize(("family", "kind"), HEADS)
def test_micro_batches_change_nothing_though_everything_drops(family, kind, method, recipe_of, accelerator):
    whole, _, passes = trained(recipe_of(family, method, kind), accelerator)
    cut, _, more_passes = trained(recipe_of(family, method, kind, budget={"tokens": 40}), accelerator)
    plain = METHOD_SETTINGS | {"lora": "lora"}
    still, _, _ = trained(recipe_of(family, plain[method], kind, dropout=0.0), accelerator)
    assert passes == 2
    assert more_passes > 4
    assert np.isfinite(whole.losses).all()
    np.testing.assert_allclose(cut.losses, whole.losses, rtol=1e-5)
    assert np.abs(np.array(still.losses) / whole.losses - 1).min() > 1e-4  # and something did drop


@pytest.mark.parametrize("method", sorted(METHOD_SETTINGS))
@pytest.mark.parametrize(("family", "kind"), HEADS)
def test_what_the_method_declares_learns_and_nothing_else(family, kind, method, recipe_of, accelerator):
    state, before, _ = trained(recipe_of(family, method, kind), accelerator)
    names = set(before)
    if method == "lora":
        head = "heads." if kind == "classification" else "no head of a language model"
        names = {name for name in names if "lora_" in name or name.startswith(head)}
    assert {learner.name.removeprefix("model.") for learner in state.learners} == names
    weights = dict(state.model.named_parameters())
    changed = {name for name, weight in weights.items() if not torch.equal(weight, before[name])}
    assert changed <= names
    assert {name for name in names if weights[name].ndim > 1} <= changed  # a key's bias has no gradient


@pytest.mark.parametrize(("family", "kind"), HEADS)
def test_a_trained_model_scores_every_example_without_dropping(family, kind, recipe_of, accelerator):
    materials = gather(recipe_of(family, "lora", kind))
    state = build(materials, CPU)
    train_step([state], accelerator)
    found = score_splits(state, materials, ["holdout"], accelerator)
    assert len(found["holdout"]) == len(materials.encoded["holdout"])
    assert np.isfinite(found["holdout"].scores).all()
    assert all(np.isfinite(value) for value in metrics_of(materials, found)["holdout"].values())
    train_step([state], accelerator)  # back in training mode


@pytest.mark.parametrize("method", sorted(METHOD_SETTINGS))
@pytest.mark.parametrize("family", ALL)
def test_a_known_last_layer_feeds_forward_one_token(family, method, recipe_of, accelerator):
    state, seen = build(gather(recipe_of(family, method)), CPU), []
    *_, last = state.model.body.get_submodule(state.model.family.layers).children()
    down = last.get_submodule(state.model.family.linears["down"])
    down.register_forward_pre_hook(lambda _, given: seen.append(given[0].shape[-2]))
    train_step([state], accelerator)
    assert (max(seen) == 1) == state.shortened


@pytest.mark.parametrize("method", sorted(METHOD_SETTINGS))
@pytest.mark.parametrize("family", ALL)
def test_a_last_layer_for_what_is_read_trains_as_the_whole_one(family, method, recipe_of, accelerator):
    short, whole = (
        trained(recipe_of(family, method, speed={"last_layer": last_layer}), accelerator)[0]
        for last_layer in ("read", "all")
    )
    np.testing.assert_allclose(short.losses, whole.losses, rtol=1e-5)
    for one, other in zip(short.learners, whole.learners, strict=True):
        if one.weight.ndim > 1:  # a key's bias has no gradient, and AdamW makes steps of its rounding
            torch.testing.assert_close(one.weight, other.weight, rtol=1e-3, atol=1e-5)
    known = {"bert", "roberta", "xlm-roberta", "electra", "distilbert", "deberta-v2"}
    assert shortens(short.model) == short.shortened == (family in known)


@pytest.mark.parametrize("family", ALL)
def test_gradient_checkpointing_meets_the_same_masks_or_is_refused(family, recipe_of, accelerator):
    recipe = recipe_of(family, "lora", budget={"gradient_checkpointing": True})
    plain, _, _ = trained(recipe_of(family, "lora"), accelerator)
    try:
        plain.model.body.activation_checkpointing_enable()
    except ValueError:
        with pytest.raises(RecipeError, match=f"budget.gradient_checkpointing: transformers has none for {family}"):
            build(gather(recipe), CPU)
        return
    state, _, _ = trained(recipe, accelerator)
    assert state.model.body.is_activation_checkpointing
    np.testing.assert_allclose(state.losses, plain.losses, rtol=1e-6)
    for one, other in zip(plain.learners, state.learners, strict=True):
        torch.testing.assert_close(one.weight, other.weight, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("family", ALL)
def test_a_model_knows_how_many_tokens_transformers_takes(family, checkpoint):
    model = load_model(
        resolve(ModelConfig(name=str(checkpoint(family, max_position_embeddings=POSITIONS)))),
        "classification",
        2,
        ModelConfig(),
        None,
        seed=1,
    )

    def inputs(tokens):
        return {"input_ids": torch.full((2, tokens), 5), "attention_mask": torch.ones(2, tokens, dtype=torch.int64)}

    longest = model.positions or 3 * POSITIONS
    assert longest >= POSITIONS - 2
    assert model(inputs(longest)).logits.isfinite().all()
    if model.positions is not None:
        with pytest.raises((IndexError, RuntimeError)):
            model.body(**inputs(longest + 1))
        with pytest.raises(GraftError, match=rf"{longest + 1} tokens: this {family} takes {longest}; shorten"):
            model(inputs(longest + 1))


@pytest.mark.parametrize(("family", "offset"), [("bert", 0), ("roberta", 1), ("mpnet", 2), ("gpt2", 0)])
def test_a_text_that_is_too_long_for_the_positions_is_refused_before_training(family, offset, recipe_of):
    materials = gather(recipe_of(family))
    longest = max(int(encoded.lengths.max()) for encoded in materials.encoded.values())
    assert longest < materials.recipe.task.max_length
    build(gather(recipe_of(family, positions=longest + offset)), CPU)  # a limit that no text reaches does no harm
    with pytest.raises(RecipeError, match=rf"task.max_length: .* {longest} tokens.* set .* to {longest - 1} or less"):
        build(gather(recipe_of(family, positions=longest + offset - 1)), CPU)
    build(gather(recipe_of(family, positions=longest + offset - 1, task={"max_length": longest - 1})), CPU)


@pytest.mark.parametrize(("family", "method"), [(f, "lora") for f in ALL] + [("bert", m) for m in sorted(METHODS)])
def test_building_leaves_the_global_generator_as_it_was(family, method, recipe_of):
    recipe = recipe_of(family, method, objective={"terms": "l2sp"})
    torch.manual_seed(2)
    before = torch.get_rng_state()
    build(gather(recipe), CPU)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("family", ALL)
def test_above_frozen_layers_a_lookup_says_what_the_whole_model_says(family, recipe_of):
    state = build(gather(recipe_of(family)), CPU)
    state.frozen = Frozen(keep=True)
    batch = state.kind.collate(state.train, state.rows().tolist())
    state.model.eval()
    kept = []
    with torch.no_grad():
        whole = state.model(batch.inputs).logits
        for number, stage in enumerate(state.model.stages()):
            state.lowest_by_step = np.full(100, number)
            known = state.frozen.run(state, state.train, batch, precision="fp32")
            if known is not None:
                torch.testing.assert_close(known.logits, whole, atol=1e-5, rtol=1e-5)
                kept.append(stage.name)
    assert kept[-1] == "head"
    assert ("layer.1" in kept) == (family != "albert")  # whose layers are one
