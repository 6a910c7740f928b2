"""What an exported folder holds beside its weights, so that graft reads it back: the page `export.json` and the record.

Nothing in it names this machine: a record's recipe keeps the names of files and folders, not where they lie. The one
exception is the base model of an adapter that was trained from a local folder, without which nobody could load it; such
an adapter is never published.
"""

import fnmatch
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from graft.adapters.checkpoint import MODELS, TOKENIZER_FILES
from graft.adapters.saving import saved_checkpoint
from graft.errors import GraftError
from graft.eval.pages import read_page
from graft.eval.records import RECORD, RunRecord, write_record
from graft.files import write_json
from graft.recipes.combined import COMBINATION

Form = Literal["merged", "peft", "graft"]
Dtype = Literal["fp32", "bf16", "fp16"]

EXPORT = "export.json"
SCHEMA = 1
CARD = "README.md"
_LEARNED = ("adapter_config.json", "adapter_model.safetensors", "graft.json", "graft.safetensors")
_MODEL = ("config.json", "generation_config.json", "model.safetensors", "model.safetensors.index.json")
_SHARDS = "model-?????-of-?????.safetensors"
_TEXT = (*TOKENIZER_FILES, "chat_template.jinja")
WANTED = (
    *(CARD, EXPORT, RECORD, COMBINATION, *_MODEL, _SHARDS, *_TEXT, *_LEARNED),
    *(f"adapter/{name}" for name in (*_MODEL, _SHARDS, *_TEXT, *_LEARNED)),
)
"""Patterns of all files that an export may hold, and all that are ever fetched: safetensors, JSON and text, no code."""


def wanted(path: str) -> bool:
    """Whether a file, by its path in the folder, may be one of an export."""
    return any(fnmatch.fnmatchcase(path, pattern) for pattern in WANTED)


def refuse_foreign(target: Path) -> None:
    """Refuse to replace what is no export.

    Raises:
        GraftError: As the name says.
    """
    if target.is_dir() and not any(target.iterdir()):
        return
    if target.exists() and not (target / EXPORT).is_file():
        raise GraftError(f"--out {target}: exists and is no earlier export; name another folder, or move it away")


class Manifest(BaseModel):
    """What an export says of itself."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, populate_by_name=True)

    schema_version: int = Field(default=SCHEMA, alias="schema")
    """Layout; readers refuse a newer one."""

    form: Form
    """`merged`: a plain checkpoint; `peft`: an adapter, in this folder; `graft`: for graft alone, in `adapter`."""

    dtype: Dtype
    """Of the weights."""

    run: str
    """Digest of the run."""

    parity: dict[str, dict[str, Any]]
    """Split → how far the export is from its run."""


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write `export.json`, whole or not at all.

    Raises:
        GraftError: The folder cannot be written.
    """
    write_json(folder / EXPORT, manifest.model_dump(mode="json", by_alias=True))


def read_manifest(folder: Path) -> Manifest | None:
    """Read what an export says of itself.

    Returns:
        The page; none for a folder that is no export, such as a run's own.

    Raises:
        RunError: It is damaged, or a newer graft wrote it.
    """
    if not (folder / EXPORT).is_file():
        return None
    again = "export or pull it again"
    return read_page(folder / EXPORT, Manifest, SCHEMA, what="an export's page", absent=again, again=again)


def learned_folder(folder: Path) -> Path:
    """Where a run, or an export that is not merged, keeps what was learned."""
    inner = folder / "adapter"
    return inner if inner.is_dir() else folder


def portable(recipe: dict[str, Any], *, keep_base: bool = False) -> dict[str, Any]:
    """A recipe without this machine's paths.

    Args:
        recipe: In canonical form.
        keep_base: Leave the path of a local base model, which an adapter is loaded onto.
    """
    task, model = dict(recipe["task"]), dict(recipe["model"])
    for section, key in ((task, "data"), *(() if keep_base else ((model, "name"),))):
        if section.get(key) and Path(str(section[key])).is_absolute():
            section[key] = Path(str(section[key])).name
    return recipe | {"task": task, "model": model}


def write_portable_record(folder: Path, record: RunRecord, form: Form, learned: Path) -> None:
    """Write the record of a run for whoever loads the export, with the base model at the commit that was trained from.

    Args:
        folder: The export.
        record: The run's.
        form: Of the export.
        learned: The run's folder of weights.

    Raises:
        GraftError: The folder cannot be written.
    """
    recipe = portable(record.recipe, keep_base=form != "merged")
    _, commit = saved_checkpoint(learned)
    if commit is not None and recipe["model"]["name"] not in MODELS:  # an alias's content is fixed by its hashes
        recipe["model"]["revision"] = commit
    write_record(folder, record.model_copy(update={"recipe": recipe}))
