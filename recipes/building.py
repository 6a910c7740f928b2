"""From a recipe to a run that can take its first step."""

import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from graft.adapters.checkpoint import Checkpoint
from graft.adapters.loading import load_model
from graft.adapters.methods import METHODS, AttachContext
from graft.adapters.model import AdaptedModel
from graft.errors import RecipeError
from graft.eval.encoding import Batch, Encoded
from graft.eval.kinds import KINDS, Kind
from graft.eval.resolution import TaskData
from graft.recipes import converted, last_layer, lean, row_gradients
from graft.recipes.attention import implementation
from graft.recipes.batching import epoch_plan, micro_batches
from graft.recipes.dropout import DropoutStream, install
from graft.recipes.objective import Objective, Term, TermSetup, check_names
from graft.recipes.optimisation import learners, make_optimizer
from graft.recipes.recipe import Recipe, resolved
from graft.recipes.reference import Snapshot
from graft.recipes.state import RunState
from graft.recipes.stock import Stock
from graft.recipes.streams import stream

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Materials:
    """What a recipe names, found and read.

    Attributes:
        recipe: Resolved: nothing is left "auto".
        data: The task's splits.
        checkpoint: The pretrained checkpoint.
        kind: The task's kind.
        encoded: Split → tokenised examples; `train`, `holdout` and the validation splits.
        digest: Of the run.
    """

    recipe: Recipe
    data: TaskData
    checkpoint: Checkpoint
    kind: Kind
    encoded: dict[str, Encoded]
    digest: str


def gather(recipe: Recipe, *, terms: Sequence[Term] = (), processes: int = 1, stock: Stock | None = None) -> Materials:
    """Find and read what a recipe names, and tell the digest of the run.

    Args:
        recipe: As the user gave it.
        terms: Terms that no recipe names, handed over as objects.
        processes: Over how many the run is spread; like threads, it changes the last bits of a gradient.
        stock: What earlier runs have read; none to read everything.

    Raises:
        GraftError: Something the recipe names is missing or wrong.
    """
    recipe, stock = resolved(recipe), stock or Stock()
    data = stock.data(recipe.task)
    return Materials(
        recipe=recipe,
        data=data,
        checkpoint=stock.checkpoint(recipe.model),
        kind=KINDS[data.task.kind],
        encoded=stock.encoded(recipe.task, recipe.model),
        digest=stock.name(recipe, terms=terms, processes=processes),
    )


def warn_of_cuts(materials: Materials) -> None:
    """Tell how many examples lose text to the maximum length, where some do."""
    cut = {name: encoded.truncated for name, encoded in materials.encoded.items() if encoded.truncated}
    if cut:
        counts = ", ".join(f"{count:,} of {len(materials.encoded[name]):,} in {name}" for name, count in cut.items())
        limit = materials.recipe.task.max_length
        log.warning("task.max_length: examples of more than %d tokens are cut (%s)", limit, counts)


def build_model(materials: Materials) -> AdaptedModel:
    """Load the checkpoint with a head for the task, before any method touches it."""
    recipe, data = materials.recipe, materials.data
    return load_model(
        materials.checkpoint,
        materials.kind.head,
        materials.kind.outputs(data.task),
        recipe.model,
        data.label_names or None,
        seed=stream(recipe.seed, "head"),
        attention=implementation(recipe.speed.attention),
    )


def build(materials: Materials, device: torch.device, terms: Sequence[Term] = ()) -> RunState:
    """Load, attach and set up one run.

    Args:
        materials: What the recipe names.
        device: Where to train.
        terms: Terms that no recipe names, added to the recipe's.

    Raises:
        RecipeError: The method does not fit the checkpoint, sequences are too long for it, or it cannot recompute.
    """
    recipe, train = materials.recipe, materials.encoded["train"]
    all_terms = (*(config.build() for config in recipe.objective.terms), *terms)
    check_names(all_terms)
    per_epoch = math.ceil(len(train.lengths) / recipe.schedule.examples)
    total_steps = recipe.schedule.steps or max(1, math.ceil(recipe.schedule.epochs * per_epoch))

    model = build_model(materials)
    for name, outputs in ((name, outputs) for term in all_terms for name, outputs in term.heads().items()):
        model.add_head(name, outputs, seed=stream(recipe.seed, "head", name))
    _check_fit(materials, model)
    snapshot = None
    if any(term.wants_reference for term in all_terms):
        snapshot = Snapshot(model)
    method = METHODS[recipe.method.name]
    context = AttachContext(
        seed=stream(recipe.seed, "attach"), total_steps=total_steps, checkpoint=materials.checkpoint
    )
    attached = method.attach(model, recipe.method, context)
    model.to(device)
    attached.prepare(_calibration(materials, device))
    if recipe.budget.gradient_checkpointing:
        model.body.activation_checkpointing_enable({"use_reentrant": False})
    draws = DropoutStream(recipe.seed)
    if recipe.speed.dropout == "counted":
        install(model, draws)
    if recipe.speed.layers == "lean":
        # Where layers only add to the residual stream, it begins in the embeddings and is normalised at the end.
        lean.install(model, keep=model.stages()[0].modules if model.family.norm is not None else ())
        if device.type == "cpu":  # where memory is filled faster than rows are sorted, it does not pay
            row_gradients.install(model)
        if device.type == "cpu" and recipe.speed.precision == "bf16":
            converted.install(model)
    shortened = recipe.speed.last_layer == "read" and not any(term.needs for term in all_terms)
    shortened = shortened and last_layer.shortens(model)
    if shortened:
        last_layer.install(model)
    objective = _objective(all_terms, model, attached.learning, snapshot, materials, total_steps)
    found = learners(model, attached, objective.modules.to(device))
    return RunState(
        recipe=recipe,
        model=model,
        attached=attached,
        objective=objective,
        learners=found,
        optimizer=make_optimizer(found, recipe.optim),
        kind=materials.kind,
        train=train,
        draws=draws,
        total_steps=total_steps,
        tokens=recipe.budget.tokens,
        shortened=shortened,
    )


def _check_fit(materials: Materials, model: AdaptedModel) -> None:
    """Refuse what the checkpoint cannot do, before anything is computed.

    What counts is the examples, not `task.max_length`: a limit that no text reaches does no harm.
    """
    name, recipe = materials.checkpoint.name, materials.recipe
    METHODS[recipe.method.name].check(
        model,
        recipe.method,
        longest=max(int(encoded.lengths.max(initial=0)) for encoded in materials.encoded.values()),
        gradient_checkpointing=recipe.budget.gradient_checkpointing,
    )
    if recipe.budget.gradient_checkpointing and not model.body.supports_gradient_checkpointing:
        raise RecipeError(
            f"budget.gradient_checkpointing: transformers has none for {model.family.name} ({name}); "
            "leave it off, and lower budget.tokens to save memory"
        )


def _calibration(materials: Materials, device: torch.device) -> Iterator[Batch]:
    """Batches of training examples in the order of the first epoch, for methods that look at data before they start."""
    recipe, train = materials.recipe, materials.encoded["train"]
    examples, buckets = recipe.schedule.examples, recipe.speed.buckets
    for rows in epoch_plan(train.lengths, seed=recipe.seed, epoch=0, examples=examples, buckets=buckets):
        for part in micro_batches(rows, train.lengths, tokens=recipe.budget.tokens):
            yield materials.kind.collate(train, part.tolist()).to(device)


def _objective(
    terms: Sequence[Term],
    model: AdaptedModel,
    learning: Sequence[str],
    snapshot: Snapshot | None,
    materials: Materials,
    total_steps: int,
) -> Objective:
    reference = None if snapshot is None else snapshot.reference(model, learning)
    labels, names = materials.encoded["train"].labels, materials.data.label_names
    modules = torch.nn.ModuleDict()
    for term in terms:
        own_seed = stream(materials.recipe.seed, "term", term.name)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(own_seed)
            module = term.setup(TermSetup(model, reference, own_seed, total_steps, labels, names))
        if module is not None:
            modules[term.name] = module
    return Objective(tuple(terms), modules, reference)
