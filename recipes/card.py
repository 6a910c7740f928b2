"""The model card of an export: what it is, how it scores, how to load it, and what is known of its limits."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData

from graft.adapters.methods import METHODS
from graft.adapters.saving import saved_checkpoint
from graft.eval.records import RunRecord
from graft.eval.tasks import TASKS
from graft.recipes import licences
from graft.recipes.card_verdict import Verdict
from graft.recipes.combined import Combination, read_combination
from graft.recipes.exported import CARD, Form, learned_folder, portable

if TYPE_CHECKING:
    from graft.recipes.export import Parity
    from graft.recipes.run import LoadedRun


@dataclass(frozen=True)
class Destination:
    """Where an export will stand, and what is known of it beyond its run.

    Attributes:
        name: The repository on the Hub, `user/name`; none for a folder, which the card calls FOLDER.
        revision: The repository's branch; none means its main one.
        verdict: What a comparison says of the run.
    """

    name: str | None = None
    revision: str | None = None
    verdict: Verdict | None = None

    @property
    def arguments(self) -> str:
        """What a loader takes, as it is written in Python."""
        at = f', revision="{self.revision}"' if self.revision else ""
        return f'"{self.name or "FOLDER"}"{at}'


HERE = Destination()
"""A folder on this machine."""


def write_card(
    folder: Path,
    loaded: "LoadedRun",
    form: Form,
    dtype: str,
    parity: Mapping[str, "Parity"],
    destination: Destination,
) -> None:
    """Write `README.md` with the metadata that the Hub reads.

    Args:
        folder: The export.
        loaded: The run.
        form: Of the export.
        dtype: Of the weights.
        parity: What the reloaded export scored.
        destination: Where the export will stand.
    """
    record = loaded.record
    base, revision = saved_checkpoint(learned_folder(loaded.folder))
    local = Path(base).is_absolute()
    licence = licences.of_base(loaded.checkpoint.path)
    combination = read_combination(loaded.folder)
    name = destination.name.partition("/")[2] if destination.name else _name(record, combination)
    parts = [
        f"# {name}",
        _purpose(record, base if not local else Path(base).name, revision, form, dtype, combination),
        *(["## What was combined", combination.text()] if combination else []),
        "## Load it",
        f"```python\n{loading_lines(loaded, form, base, revision, destination)}\n```",
        *([] if form == "graft" else [f"With graft: `graft.load({destination.arguments})`."]),
        "## Scores",
        _scores(record, parity, "combination" if combination else "run"),
        *(["## Against other methods", destination.verdict.text()] if destination.verdict else []),
        "## How it was trained",
        combination.training()
        if combination
        else f"```yaml\n{yaml.safe_dump(portable(record.recipe), sort_keys=False, allow_unicode=True)}```",
        _environment(record),
        "## Limits",
        _limits(record),
        "## Licences",
        f"- base model: {licence or licences.UNKNOWN}\n- data: {licences.of_data(record.recipe['task']['name'])}",
    ]
    methods = combination.tags if combination else [record.recipe["method"]["name"]]
    data = _metadata(record, None if local else base, form, name, _results(record, parity), licence, methods)
    (folder / CARD).write_text(f"---\n{data.to_yaml()}\n---\n\n" + "\n\n".join(parts) + "\n", encoding="utf-8")
    ModelCard.load(folder / CARD)  # what the Hub cannot read must not leave this process


def _name(record: RunRecord, combination: Combination | None) -> str:
    how = combination.how if combination else record.recipe["method"]["name"]
    return f"{record.recipe['task']['name']}-{how}".replace("/", "-")


def _metadata(
    record: RunRecord,
    base: str | None,
    form: Form,
    name: str,
    results: list[EvalResult],
    licence: licences.Licence | None,
    methods: list[str],
) -> ModelCardData:
    """What the Hub reads."""
    hub = _hub_data(record)
    library = {"merged": "transformers", "peft": "peft", "graft": "graft"}[form]
    return ModelCardData(
        model_name=name,
        base_model=base,
        base_model_relation=None if base is None else "finetune" if form == "merged" else "adapter",
        library_name=library,
        pipeline_tag="text-generation" if record.data.kind == "causal_lm" else "text-classification",
        tags=list(dict.fromkeys(["graft", library, *methods])),
        datasets=[hub[0]] if hub else None,
        license=licence.identifier if licence else None,
        license_name=licence.name if licence else None,
        license_link=licence.link if licence else None,
        eval_results=results,
    )


def _hub_data(record: RunRecord) -> tuple[str, str | None] | None:
    """The data set's id and configuration on the Hub, where the run took it from there."""
    task = record.recipe["task"]["name"]
    return TASKS[task].hub if task in TASKS and record.recipe["task"]["data"] is None else None


def loading_lines(loaded: "LoadedRun", form: Form, base: str, revision: str | None, destination: Destination) -> str:
    """The exact lines that load an export."""
    record, place = loaded.record, destination.arguments
    auto = "AutoModelForCausalLM" if record.data.kind == "causal_lm" else "AutoModelForSequenceClassification"
    if form == "graft":
        return f"import graft\n\nmodel = graft.load({place})"
    lines = [f"from transformers import {auto}, AutoTokenizer", ""]
    lines.append(f"tokenizer = AutoTokenizer.from_pretrained({place})")
    if form == "merged":
        return "\n".join([*lines, f"model = {auto}.from_pretrained({place}).eval()"])
    imports = METHODS[record.recipe["method"]["name"]].imports
    first = ["from peft import PeftModel", *([f"import {imports}  # adds its type to peft"] if imports else [])]
    labels = "" if record.data.kind == "causal_lm" else f", num_labels={record.data.outputs}"
    at = f', revision="{revision}"' if revision else ""
    lines.append(f'base = {auto}.from_pretrained("{base}"{at}{labels}, pad_token_id=tokenizer.pad_token_id)')
    return "\n".join([*first, *lines, f"model = PeftModel.from_pretrained(base, {place}).eval()"])


def _purpose(
    record: RunRecord, base: str, revision: str | None, form: Form, dtype: str, combination: Combination | None
) -> str:
    method = record.recipe["method"]["name"]
    what = {"merged": "merged into a plain checkpoint", "peft": "as an adapter for peft", "graft": "for graft"}[form]
    at, task = f" at revision {revision}" if revision else "", record.recipe["task"]["name"]
    if combination:
        return f"{base}{at}, adapted to {task}: {combination.title}, {what}; weights in {dtype}."
    return (
        f"{base}{at}, adapted to {task} with "
        f"{method} ({METHODS[method].paper}), {what}; weights in {dtype}. "
        f"{record.parameters.trainable:,} of {record.parameters.total:,} parameters were trained "
        f"({record.parameters.trainable_without_head:,} without the head)."
    )


def _scores(record: RunRecord, parity: Mapping[str, "Parity"], whole: str) -> str:
    lines = [f"| split | metric | {whole} | this export |", "|---|---|---|---|"]
    for split, metrics in record.scores.items():
        for metric, value in metrics.items():
            after = f"{parity[split].after[metric]:.2f}" if split in parity else "not scored again"
            lines.append(f"| {split} | {metric} | {value:.2f} | {after} |")
    lines += [
        f"\nOn {found.examples} examples of {split} the largest difference of a logit between {whole} and export is "
        f"{found.largest_difference:.2g}; {100 * found.decided_alike:.2f} % are decided alike."
        for split, found in parity.items()
    ]
    return "\n".join(
        [*lines, f"\nOne {whole}: no interval over seeds. Percent points, but for losses and perplexities."]
    )


def _results(record: RunRecord, parity: Mapping[str, "Parity"]) -> list[EvalResult]:
    """What the Hub's model index shows: the export's own scores where it was scored."""
    task, hub = record.recipe["task"]["name"], _hub_data(record)
    return [
        EvalResult(
            task_type="text-generation" if record.data.kind == "causal_lm" else "text-classification",
            dataset_type=hub[0] if hub else task,
            dataset_config=hub[1] if hub else None,
            dataset_name=task,
            dataset_split=split,
            metric_type="matthews_correlation" if metric == "matthews" else metric,
            metric_value=parity[split].after[metric] if split in parity else value,
        )
        for split, metrics in record.scores.items()
        if split != "holdout"
        for metric, value in metrics.items()
    ]


def _environment(record: RunRecord) -> str:
    packages = ", ".join(f"{name} {version}" for name, version in record.versions.items())
    where = f"{record.hardware['device']}, {record.recipe['speed']['precision']}"
    return f"Trained on {where}, in {record.train_seconds:.0f} s, with {packages}."


def _limits(record: RunRecord) -> str:
    sizes = record.data.sizes
    said = [
        f"Trained on {sizes['train']:,} examples; texts unlike them were not evaluated.",
        f"Texts are cut at {record.recipe['task']['max_length']} tokens.",
    ]
    return " ".join([*said, *record.warnings])
