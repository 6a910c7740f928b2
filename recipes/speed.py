"""Which of the switches under `speed` are on for a run, what each does there, and why."""

from graft.recipes import converted, lean
from graft.recipes.batching import epoch_plan, padded_share, pool_steps
from graft.recipes.frozen import LARGEST, Cut, find_cut, size_of
from graft.recipes.recipe import Recipe
from graft.recipes.row_gradients import tables
from graft.recipes.state import RunState


def explain_speed(asked: Recipe, state: RunState) -> dict[str, str]:
    """Say what makes a run fast.

    Args:
        asked: The recipe before it was resolved.
        state: The run, before its first step.

    Returns:
        Name of the switch → where it stands and what that means for this run.
    """
    return {
        "precision": _precision(asked, state),
        "buckets": _buckets(state),
        "lengths": _lengths(state),
        "dropout": _dropout(state),
        "attention": _attention(state),
        "layers": _layers(state),
        "last_layer": _last_layer(state),
        "cache": _cache(state),
    }


def _precision(asked: Recipe, state: RunState) -> str:
    chosen, device = state.recipe.speed.precision, state.device.type
    if asked.speed.precision != "auto":
        return f"{chosen}, as asked"
    why = "computes bf16 natively" if chosen == "bf16" else "has no bf16 of its own, and emulated it would be slower"
    return f"{chosen}: this {'processor' if device == 'cpu' else device} {why}"


def _buckets(state: RunState) -> str:
    examples, seed, lengths = state.recipe.schedule.examples, state.recipe.seed, state.train.lengths
    on, off = (
        padded_share(epoch_plan(lengths, seed=seed, epoch=0, examples=examples, buckets=buckets), lengths)
        for buckets in (True, False)
    )
    if state.recipe.speed.buckets and pool_steps(state.epoch_steps) == 1:
        return f"on, but an epoch of {state.epoch_steps} steps is too short to sort; {off:.0%} of tokens are padding"
    if state.recipe.speed.buckets:
        return f"on: {on:.0%} of the tokens are padding; off it would be {off:.0%}"
    return f"off: {off:.0%} of the tokens are padding; on it would be {on:.0%}"


def _lengths(state: RunState) -> str:
    if state.recipe.speed.lengths == "exact":
        return "exact: a step is as long as its longest example"
    if not state.rounds_lengths:
        return "rounded, but nothing is compiled for a length here: a step is as long as its longest example"
    schedule, lengths = state.recipe.schedule, state.train.lengths
    plan = epoch_plan(
        lengths,
        seed=state.recipe.seed,
        epoch=0,
        examples=schedule.examples,
        buckets=state.recipe.speed.buckets,
    )
    before, after = padded_share(plan, lengths), padded_share(plan, lengths, state.lengths_of(state.train))
    return (
        "rounded: this processor compiles matrix products for every length, so steps have few lengths; "
        f"{after:.0%} of tokens are padding, {before:.0%} without"
    )


def _dropout(state: RunState) -> str:
    if state.recipe.speed.dropout == "stock":
        return "stock: torch's own masks, which depend on how a step is cut and cost more on a processor"
    return "counted: masks by a hash of seed, step, place and example, the same however a step is cut"


def _attention(state: RunState) -> str:
    if state.recipe.speed.attention == "sdpa":
        return "sdpa: torch's own kernels; probabilities are dropped by torch's own masks"
    return "matmul: matrix products, below a few hundred tokens the fastest on a processor"


def _layers(state: RunState) -> str:
    if state.recipe.speed.layers == "stock":
        return "stock: as torch and peft compute them, with more passes over memory"
    parts = []
    if state.recipe.speed.precision == "bf16" and any(
        isinstance(module, lean.LeanLayerNorm) for module in state.model.modules()
    ):
        parts.append("normalisation hands on bf16")
    if any(isinstance(module, lean.LeanLora) and module.only_adapter() for module in state.model.modules()):
        parts.append("LoRA's update is added by the product that computes it")
    if any(weight.requires_grad for weight in tables(state.model)):
        parts.append("embeddings have a gradient in the rows that a step reads")
    state.enter_step()  # what rests is run in evaluation mode, and not converted
    if copies := converted.copied(state.model):
        parts.append(f"frozen weights are converted to bf16 once ({copies / 2**20:.1f} MiB)")
    return f"lean: {'; '.join(parts) or 'nothing that it shortens is in this run'}"


def _last_layer(state: RunState) -> str:
    if state.recipe.speed.last_layer == "all":
        return "all: computed for every token"
    if state.objective.needs:
        return "all: a term needs all hidden states"
    if not state.shortened:
        return f"all: the head reads more than the first token, or {state.model.family.name} has no shorter layer here"
    layers = sum(stage.name.startswith("layer.") for stage in state.model.stages())
    if state.lowest > layers:
        return "read, but as yet without effect: the last layer does not learn"
    return "read: in training, the last layer is computed for the first token of each example, which alone is read"


def kept_at(state: RunState) -> Cut | None:
    """Find where the part ends whose outputs are kept from the first step on; none where nothing is kept."""
    cut = find_cut(state)
    return cut if isinstance(cut, Cut) and size_of(state.model, cut, state.train) <= LARGEST else None


def _cache(state: RunState) -> str:
    found = find_cut(state)
    if isinstance(found, str):
        return f"nothing to keep: {found}"
    cut = kept_at(state)
    if cut is None:
        return f"nothing is kept: the outputs would take more than {LARGEST / 2**30:.0f} GiB"
    size = size_of(state.model, cut, state.train)
    what = "pooled vectors" if cut.layers is None else f"hidden states after {cut.layers} layers"
    how = "on disk for later epochs and runs" if state.recipe.speed.cache else "for an epoch"
    return f"{'on' if state.recipe.speed.cache else 'off'}: {what}, {size / 2**20:.1f} MiB, are kept {how}"
