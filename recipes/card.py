"""The model card of an export: what it is, how it scores, how to load it, and what is known of its limits."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData

from graft.adapters.methods import METHODS
from graft.adapters.saving import saved_checkpoint
from graft.eval.records import RunRecord
from graft.eval.tasks import TASKS

if TYPE_CHECKING:
    from graft.recipes.export import Parity
    from graft.recipes.run import LoadedRun


def write_card(folder: Path, loaded: "LoadedRun", form: str, dtype: str, parity: Mapping[str, "Parity"]) -> None:
    """Write `README.md` with the metadata that the Hub reads.

    Args:
        folder: The export.
        loaded: The run.
        form: `merged`, `peft` or `graft`.
        dtype: Of the weights.
        parity: What the reloaded export scored.
    """
    record = loaded.record
    base, revision = saved_checkpoint(loaded.folder / "adapter")
    local = Path(base).is_absolute()
    name = f"{record.recipe['task']['name']}-{record.recipe['method']['name']}"
    data = ModelCardData(
        model_name=name,
        base_model=None if local else base,
        library_name="peft" if form == "peft" else "transformers" if form == "merged" else "graft",
        pipeline_tag="text-generation" if record.data.kind == "causal_lm" else "text-classification",
        tags=["graft", record.recipe["method"]["name"], *(["peft"] if form == "peft" else [])],
        eval_results=_results(record, parity),
    )
    parts = [
        f"# {name}",
        _purpose(record, base if not local else Path(base).name, revision, form, dtype),
        "## Load it",
        f"```python\n{loading_lines(loaded, form, base, revision)}\n```",
        "## Scores",
        _scores(record, parity),
        "## How it was trained",
        f"```yaml\n{yaml.safe_dump(_portable(record.recipe), sort_keys=False, allow_unicode=True)}```",
        _environment(record),
        "## Limits",
        _limits(record),
    ]
    (folder / "README.md").write_text(f"---\n{data.to_yaml()}\n---\n\n" + "\n\n".join(parts) + "\n", encoding="utf-8")
    ModelCard.load(folder / "README.md")  # what the Hub cannot read must not leave this process


def loading_lines(loaded: "LoadedRun", form: str, base: str, revision: str | None) -> str:
    """The exact lines that load an export; FOLDER stands for where it is."""
    record = loaded.record
    auto = "AutoModelForCausalLM" if record.data.kind == "causal_lm" else "AutoModelForSequenceClassification"
    if form == "graft":
        return 'import graft\n\nmodel = graft.load("FOLDER")'
    lines = [f"from transformers import {auto}, AutoTokenizer", ""]
    lines.append('tokenizer = AutoTokenizer.from_pretrained("FOLDER")')
    if form == "merged":
        return "\n".join([*lines, f'model = {auto}.from_pretrained("FOLDER").eval()'])
    imports = METHODS[record.recipe["method"]["name"]].imports
    first = ["from peft import PeftModel", *([f"import {imports}  # adds its type to peft"] if imports else [])]
    labels = "" if record.data.kind == "causal_lm" else f", num_labels={record.data.outputs}"
    at = f', revision="{revision}"' if revision else ""
    lines.append(f'base = {auto}.from_pretrained("{base}"{at}{labels}, pad_token_id=tokenizer.pad_token_id)')
    return "\n".join([*first, *lines, 'model = PeftModel.from_pretrained(base, "FOLDER").eval()'])


def _portable(recipe: dict[str, object]) -> dict[str, object]:
    """The recipe without this machine's paths."""
    task, model = dict(recipe["task"]), dict(recipe["model"])  # type: ignore[call-overload]
    for section, key in ((task, "data"), (model, "name")):
        if section.get(key) and Path(str(section[key])).is_absolute():
            section[key] = Path(str(section[key])).name
    return recipe | {"task": task, "model": model}


def _purpose(record: RunRecord, base: str, revision: str | None, form: str, dtype: str) -> str:
    method = record.recipe["method"]["name"]
    what = {"merged": "merged into a plain checkpoint", "peft": "as an adapter for peft", "graft": "for graft"}[form]
    return (
        f"{base}{f' at revision {revision}' if revision else ''}, adapted to {record.recipe['task']['name']} with "
        f"{method} ({METHODS[method].paper}), {what}; weights in {dtype}. "
        f"{record.parameters.trainable:,} of {record.parameters.total:,} parameters were trained "
        f"({record.parameters.trainable_without_head:,} without the head)."
    )


def _scores(record: RunRecord, parity: Mapping[str, "Parity"]) -> str:
    lines = ["| split | metric | run | this export |", "|---|---|---|---|"]
    for split, metrics in record.scores.items():
        for metric, value in metrics.items():
            after = f"{parity[split].after[metric]:.2f}" if split in parity else "not scored again"
            lines.append(f"| {split} | {metric} | {value:.2f} | {after} |")
    lines += [
        f"\nOn {found.examples} examples of {split} the largest difference of a logit between run and export is "
        f"{found.largest_difference:.2g}; {100 * found.decided_alike:.2f} % are decided alike."
        for split, found in parity.items()
    ]
    return "\n".join([*lines, "\nOne run: no interval over seeds. Percent points, but for losses and perplexities."])


def _results(record: RunRecord, parity: Mapping[str, "Parity"]) -> list[EvalResult]:
    """What the Hub's model index shows: the export's own scores where it was scored."""
    task = record.recipe["task"]["name"]
    hub = TASKS[task].hub if task in TASKS and record.recipe["task"]["data"] is None else None
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
    where = f"{record.hardware['device']}, {record.recipe['precision']}"
    return f"Trained on {where}, in {record.train_seconds:.0f} s, with {packages}."


def _limits(record: RunRecord) -> str:
    sizes = record.data.sizes
    said = [
        f"Trained on {sizes['train']:,} examples; texts unlike them were not evaluated.",
        f"Texts are cut at {record.recipe['task']['max_length']} tokens.",
        "Licences: those of the base model and of the data apply.",
    ]
    return " ".join([*said, *record.warnings])
