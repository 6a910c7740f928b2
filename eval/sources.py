"""Finding a task's splits: a folder, a file, a saved `datasets` folder, or the Hub."""

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa

from graft.errors import DataError
from graft.eval.formats import SUFFIXES, Table, TsvLayout, from_dataset, is_saved, read_saved, read_table
from graft.eval.wording import listed
from graft.hub import OFFLINE, unreachable

# What files of a split are called in the wild; GLUE's own say dev.
_STEMS: dict[str, tuple[str, ...]] = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "validation_matched": ("validation_matched", "dev_matched"),
    "validation_mismatched": ("validation_mismatched", "dev_mismatched"),
}


def read_local(path: Path, task: str, validations: Sequence[str], layout: TsvLayout | None = None) -> dict[str, Table]:
    """Read a task's splits from a file or a folder.

    A folder holds the task's own folder (`mrpc`, or `MRPC` as GLUE names it) or the files themselves: one per split,
    such as train.parquet and validation.parquet, or shards train-00000-of-00002.parquet. A single file is all
    training examples. Splits named test are not read.

    Args:
        path: File or folder.
        task: The task's name.
        validations: Names of the task's validation splits; where none of them is there, "validation" is tried.
        layout: Column names of a benchmark's own tsv.

    Returns:
        "train", then the validation splits that were found, if any.

    Raises:
        DataError: Nothing is there, nothing in it is a training split, or a file is unreadable.
    """
    if path.is_file():
        return {"train": read_table(path, layout)}
    if not path.is_dir():
        raise DataError(
            f"{path}: no such file or folder; `data` names a folder with train and validation files, or a file"
        )
    folder = _task_folder(path, task)
    if is_saved(folder):
        found = read_saved(folder)
        return _choose(found, validations, str(folder))
    tables: dict[str, Table] = {}
    for split in dict.fromkeys(("train", *validations, "validation")):
        files = _split_files(folder, split)
        if files and (split != "validation" or "validation" in validations or len(tables) == 1):
            tables[split] = _concatenate([read_table(file, layout) for file in files])
    if "train" not in tables:
        seen = listed(sorted(entry.name for entry in folder.iterdir())) or "nothing"
        raise DataError(
            f"{folder}: no train file ({', '.join('train' + end for end in SUFFIXES)}); it holds {seen}; rename the "
            "one to train on, or give its own path as `data`"
        )
    return tables


def read_hub(repository: str, config: str | None, validations: Sequence[str]) -> dict[str, Table]:
    """Read a task's splits from the Hub; with HF_HUB_OFFLINE=1, from the local cache.

    Args:
        repository: Dataset id, such as nyu-mll/glue.
        config: The dataset's configuration, such as mrpc.
        validations: Names of the validation splits.

    Returns:
        "train", then the validation splits.

    Raises:
        DataError: The Hub cannot be reached, or it (or the cache) has no such dataset.
    """
    import datasets  # takes seconds to import, so only where it is needed

    name = f"{repository} ({config})" if config else repository
    instead = "give --data FOLDER with train and validation files instead"
    reason = unreachable()  # asked first, as `load_dataset` would retry for half a minute before it says so
    if reason not in (None, OFFLINE):
        raise DataError(
            f"Hub dataset {name}: {reason}; {instead}, or set HF_HUB_OFFLINE=1 to use a copy that was downloaded before"
        )
    try:
        return {
            split: from_dataset(datasets.load_dataset(repository, config, split=split), f"{name} {split}")
            for split in ("train", *validations)
        }
    except (OSError, ValueError, RuntimeError) as error:
        raise DataError(f"Hub dataset {name}: {error}; {instead}") from error


def _task_folder(path: Path, task: str) -> Path:
    """The folder inside `path` that is named like the task (SST-2 for sst2), or `path` itself."""
    wanted = _plain(task)
    for entry in sorted(path.iterdir()):
        if entry.is_dir() and _plain(entry.name) == wanted:
            return entry
    return path


def _plain(name: str) -> str:
    """A name without case and hyphens."""
    return name.lower().replace("-", "").replace("_", "")


def _split_files(folder: Path, split: str) -> list[Path]:
    """The file of a split, or its shards in order.

    Raises:
        DataError: Several files could be meant.
    """
    stems = _STEMS.get(split, (split,))
    whole = [file for stem in stems for end in SUFFIXES if (file := folder / f"{stem}{end}").is_file()]
    shards = [file for stem in stems for file in sorted(folder.glob(f"{stem}-*-of-*.parquet"))]
    if len(whole) > 1 or (whole and shards):
        names = ", ".join(file.name for file in (*whole, *shards))
        raise DataError(f"{folder}: {names} could each be the {split} split; keep one")
    return whole or shards


def _concatenate(tables: list[Table]) -> Table:
    """Shards as one table."""
    first = tables[0]
    if len(tables) == 1:
        return first
    for table in tables:
        if table.class_names != first.class_names:
            raise DataError(f"{table.origin}: names its classes otherwise than {first.origin} does; write them alike")
    try:
        data = pa.concat_tables([pa.table(dict(table.data)) for table in tables])
    except pa.ArrowException as error:
        raise DataError(f"{first.origin}: its shards have different columns ({error}); write them alike") from error
    return Table(data, first.origin, first.class_names)


def _choose(found: dict[str, Table], validations: Sequence[str], origin: str) -> dict[str, Table]:
    """The splits of a saved dataset that are wanted."""
    if "train" not in found:
        raise DataError(f"{origin}: no split named train; it has {', '.join(found)}")
    names = [name for name in validations if name in found]
    if not names:
        names = [name for name in _STEMS["validation"] if name in found][:1]
    return {"train": found["train"]} | {
        ("validation" if name in _STEMS["validation"] else name): found[name] for name in names
    }
