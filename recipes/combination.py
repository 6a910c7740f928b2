"""From several finished runs on one base to one model, exported and proved as a run's own model is."""

import logging
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from graft.adapters.combining import AVERAGE, WAYS, Combined, Member, Way, average_weights, combine_adapters
from graft.adapters.lora import LoraConfig
from graft.adapters.methods import METHODS, AttachContext
from graft.adapters.saving import save_adapter
from graft.errors import GraftError, RunError, nearest
from graft.eval.examples import read_examples
from graft.eval.kinds import KINDS
from graft.eval.metrics import METRICS
from graft.eval.predict import Predictions, predict
from graft.eval.records import Parameters, RunRecord, diagnose, read_record, write_predictions, write_record
from graft.files import fingerprint
from graft.recipes import hardware
from graft.recipes.card import HERE, Destination
from graft.recipes.combined import Combination, Parent, write_combination
from graft.recipes.export import TOLERANCE, Exported, export
from graft.recipes.exported import Dtype, portable, read_manifest
from graft.recipes.recipe import Recipe
from graft.recipes.run import LoadedRun, load, text_columns
from graft.recipes.solitary import Solitary

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Part:
    """One of the runs, before it is loaded.

    Attributes:
        name: What messages and the card call it.
        folder: Where it lies.
        record: What happened in it.
        recipe: Its recipe.
        weight: How much it counts.
    """

    name: str
    folder: Path
    record: RunRecord
    recipe: Recipe
    weight: float


def export_combined(
    runs: Sequence[str | Path],
    out: str | Path,
    *,
    how: str,
    weights: Sequence[float] | None = None,
    density: float | None = None,
    seed: int = 0,
    dtype: Dtype = "fp32",
    adapter: bool = False,
    dense: bool = False,
    tolerance: float = TOLERANCE,
    destination: Destination = HERE,
    prover: Solitary | None = None,
) -> Exported:
    """Combine runs on one base, and export the result as `graft.recipes.export.export` does a run.

    Args:
        runs: Folders of two or more finished runs from one checkpoint, for one task or for tasks with the same classes.
        out: As for a run.
        how: `average`, or the name of one of peft's combination types; `graft.adapters.combining.WAYS` has all.
        weights: One for each run, positive; none means equal ones that keep the scale of a single run.
        density: Fraction of the numbers that is kept, above 0 and up to 1, for a way that drops some.
        seed: Of what DARE drops.
        dtype: As for a run.
        adapter: As for a run; only combined adapters can be exported as one.
        dense: As for a run.
        tolerance: As for a run.
        destination: As for a run.
        prover: As for a run.

    Returns:
        What was written. Its parity compares it with the combination before it was exported.

    Raises:
        RunError: A run is unfinished, a trial or an export, or its texts are not beside it.
        GraftError: The runs do not fit each other, by run and key; a setting does not fit the way; or as for a run.
    """
    way = _way(how, density)
    parts = _parts(runs, way, weights)
    _check_fit(parts, way)
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "combination"
        _write(run, parts, way, density, seed)
        return export(
            run,
            out,
            dtype=dtype,
            adapter=adapter,
            dense=dense,
            tolerance=tolerance,
            destination=destination,
            prover=prover,
        )


def _way(how: str, density: float | None) -> Way:
    """Find a way to combine, and check the density."""
    if how not in WAYS:
        raise GraftError(f"--combine {how}: is no way to combine{nearest(how, WAYS)}; use one of {', '.join(WAYS)}")
    way = WAYS[how]
    if way.sparse and density is None:
        raise GraftError(f"--combine {how}: needs --density, the fraction of the numbers to keep, such as 0.5")
    if not way.sparse and density is not None:
        raise GraftError(f"--density: {how} keeps all numbers; leave it out, or use one of {', '.join(_sparse())}")
    if density is not None and not 0 < density <= 1:
        raise GraftError(f"--density {density:g}: a fraction of the numbers is above 0 and at most 1")
    return way


def _sparse() -> list[str]:
    return [name for name, way in WAYS.items() if way.sparse]


def _parts(runs: Sequence[str | Path], way: Way, weights: Sequence[float] | None) -> list[Part]:
    """Read the runs' records and give each its weight.

    Raises:
        RunError: A folder is no finished final run.
        GraftError: There are fewer than two runs, one is named twice, or the weights do not fit them.
    """
    folders = [Path(run) for run in runs]
    if len(folders) < 2:
        raise GraftError(f"--combine {way.name}: takes two or more runs; name them all before --out")
    twice = next((folder for folder in folders if [f.resolve() for f in folders].count(folder.resolve()) > 1), None)
    if twice is not None:
        raise GraftError(f"{twice}: is named twice; give a run more weight by --weights instead")
    chosen = [1.0 if way.elects else 1 / len(folders)] * len(folders) if weights is None else list(weights)
    if len(chosen) != len(folders):
        raise GraftError(f"--weights: {len(chosen)} for {len(folders)} runs; give one for each, in their order")
    same_names = len({folder.name for folder in folders}) < len(folders)
    parts = []
    for folder, weight in zip(folders, chosen, strict=True):
        if not 0 < weight < float("inf"):
            raise GraftError(f"--weights: {weight:g} for {folder}; a weight is above 0 and finite")
        if read_manifest(folder) is not None:
            raise RunError(f"{folder}: is an export; name the folder of the run that it was made from")
        record = read_record(folder)
        if record.kind != "final":
            raise RunError(f"{folder}: is a trial; train it as a final run first: `graft train ... --kind final`")
        name = f"{folder.parent.name}/{folder.name}" if same_names else folder.name
        parts.append(Part(name, folder, record, Recipe.model_validate(record.recipe), weight))
    return parts


def _check_fit(parts: Sequence[Part], way: Way) -> None:
    """Refuse runs that cannot become one model.

    Raises:
        GraftError: Names the run, the key, both values and what to do.
    """
    first = parts[0]
    for part in parts[1:]:
        for key, value, other, advice in _compared(part, first):
            if value != other:
                raise GraftError(f"{part.name}: {key} is {value}, and {first.name}'s is {other}; {advice}")
    for part in parts:
        method = part.recipe.method
        if way.name != AVERAGE and not METHODS[method.name].mixes(method):
            what = "lora with method.dora" if isinstance(method, LoraConfig) else method.name
            raise GraftError(
                f"{part.name}: method is {what}, and {way.name} combines plain LoRA adapters; "
                f"use --combine {AVERAGE}, which takes whatever can be merged"
            )
        if not METHODS[method.name].abilities.mergeable:
            raise GraftError(
                f"{part.name}: method is {method.name}, which cannot be merged, so that there are no weights to "
                "average; serve such runs side by side: graft.load([RUN, RUN])"
            )
    ranks = {part.name: part.recipe.method.r for part in parts if isinstance(part.recipe.method, LoraConfig)}
    if way.equal_ranks and len(set(ranks.values())) > 1:
        said = ", ".join(f"{rank} in {name}" for name, rank in ranks.items())
        raise GraftError(f"method.r: is {said}, and {way.name} needs equal ranks; use {AVERAGE}, svd or ..._svd")


def _compared(part: Part, first: Part) -> Iterator[tuple[str, Any, Any, str]]:
    """What two runs must have in common: key, the one's value, the other's, and what to do if they differ."""
    bases = "only runs from one checkpoint can be combined"
    apart = "serve them side by side instead: graft.load([RUN, RUN])"
    heads = f"their heads mean different things, and a mean of them nothing; {apart}"
    yield "checkpoint", part.record.checkpoint[:12], first.record.checkpoint[:12], bases
    one, other = part.record.data, first.record.data
    yield "data.kind", one.kind, other.kind, heads
    yield "data.outputs", one.outputs, other.outputs, heads
    yield "data.label_names", list(one.label_names), list(other.label_names), heads
    if one.kind == "regression":
        yield "task.name", part.recipe.task.name, first.recipe.task.name, heads
    yield "task.text", len(text_columns(part.recipe)), len(text_columns(first.recipe)), f"one reads pairs; {apart}"
    yield "model.pooling", part.recipe.model.pooling, first.recipe.model.pooling, f"heads read other features; {apart}"


def _write(folder: Path, parts: Sequence[Part], way: Way, density: float | None, seed: int) -> None:
    """Combine, score, and write what a run folder holds."""
    host = load(parts[0].folder)
    context = AttachContext(seed=seed, total_steps=host.record.planned_steps, checkpoint=host.checkpoint)
    members = (_member(part, host if part is parts[0] else load(part.folder)) for part in parts)
    if all(METHODS[part.recipe.method.name].mixes(part.recipe.method) for part in parts):
        combined = combine_adapters(members, way, density, seed, context)
    else:
        combined = average_weights(members, context)
    log.info("%d runs combined by %s; scoring the combination", len(parts), way.name)
    scored = {part.name: _score(part, host, combined) for part in _distinct(parts)}
    own = scored[parts[0].name]
    page = Combination(
        how=way.name,
        density=density,
        seed=seed,
        head=bool(combined.model.head_parameters()),
        parents=tuple(_parent(part, _alike(part, parts), scored) for part in parts),
    )
    save_adapter(folder / "adapter", combined.model, combined.attached, combined.config, host.checkpoint)
    _copy_examples(parts[0], folder)
    write_predictions(folder, own)
    write_combination(folder, page)
    write_record(folder, _record(parts, combined, own, page))


def _member(part: Part, loaded: LoadedRun) -> Member:
    return Member(part.name, loaded.model, part.recipe.method, part.weight)


def _distinct(parts: Sequence[Part]) -> list[Part]:
    """The first run of each set of examples."""
    return [part for part in parts if _alike(part, parts) is part]


def _alike(part: Part, parts: Sequence[Part]) -> Part:
    """The first run that was scored on a run's own examples."""
    return next(other for other in parts if _evaluated(other) == _evaluated(part))


def _evaluated(part: Part) -> dict[str, str]:
    """Evaluation split → fingerprint of its examples and of how they are cut and scored."""
    record = part.record
    return {name: record.data.fingerprints[name] for name in record.scores if name != "holdout"} | {
        "max_length": str(part.recipe.task.max_length),
        "metrics": str({name: list(scores) for name, scores in record.scores.items() if name != "holdout"}),
    }


def _score(part: Part, host: LoadedRun, combined: Combined) -> dict[str, Predictions]:
    """Score the combination on a run's evaluation splits, as the run was scored."""
    kind, recipe = KINDS[part.record.data.kind], part.recipe
    examples = read_examples(part.folder, part.record)
    return {
        name: predict(
            lambda batch: combined.model(batch.inputs).logits,
            kind,
            kind.encode(examples[name], host.tokenizer, recipe.task.max_length),
            tokens=hardware.scoring_tokens(recipe.budget.tokens, "cpu", recipe.threads),
            gather=list,
            rank=0,
            world=1,
            device=torch.device("cpu"),
        )
        for name in part.record.scores
        if name != "holdout"
    }


def _metrics(part: Part, found: dict[str, Predictions]) -> dict[str, dict[str, float]]:
    """The metrics of a run's task: split → metric → value."""
    kind = KINDS[part.record.data.kind]
    return {
        name: {
            metric: METRICS[metric].value(*kind.decide(predictions.scores, predictions.labels))
            for metric in part.record.scores[name]
        }
        for name, predictions in found.items()
    }


def _parent(part: Part, alike: Part, scored: dict[str, dict[str, Predictions]]) -> Parent:
    return Parent(
        name=part.name,
        digest=part.record.digest,
        weight=part.weight,
        recipe=portable(part.record.recipe),
        scores={name: scores for name, scores in part.record.scores.items() if name != "holdout"},
        combination=_metrics(part, scored[alike.name]),
    )


def _copy_examples(part: Part, folder: Path) -> None:
    """Put the table of texts where the proof in another process looks for it."""
    name = f".examples/{part.record.data.fingerprint}.parquet"
    target = folder.parent / name
    target.parent.mkdir()
    shutil.copyfile(part.folder.absolute().parent / name, target)


def _record(parts: Sequence[Part], combined: Combined, found: dict[str, Predictions], page: Combination) -> RunRecord:
    """The first run's record, with what the combination changes in it."""
    first = parts[0].record
    head = combined.model.head_parameters()
    learning = {name: combined.model.get_parameter(name).numel() for name in combined.attached.learning}
    settings = combined.config.model_dump(mode="json")
    return first.model_copy(
        update={
            "digest": fingerprint(
                page.model_dump(mode="json", include={"how", "density", "seed"})
                | {"parents": [[part.record.digest, part.weight] for part in parts]}
            ),
            "recipe": first.recipe | {"method": settings},
            "scores": _metrics(parts[0], found),
            "diagnostics": diagnose(first.data, found),
            "parameters": Parameters(
                trainable=sum(learning.values()),
                trainable_without_head=sum(count for name, count in learning.items() if name not in head),
                total=sum(parameter.numel() for parameter in combined.model.parameters()),
            ),
            "method_figures": {},
            "train_seconds": sum(part.record.train_seconds for part in parts),
            "steps": sum(part.record.steps for part in parts),
            "peak_memory_bytes": max(part.record.peak_memory_bytes for part in parts),
            "losses": [],
            "evaluations": [],
            "cost": None,
            "warnings": list(dict.fromkeys(line for part in parts for line in part.record.warnings)),
        }
    )
