"""The table of texts that runs on the same data share, read back as splits."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet

from graft.errors import RunError
from graft.eval.records import RunRecord
from graft.eval.splits import Split


def read_examples(run: Path, record: RunRecord) -> dict[str, Split]:
    """Read the texts that a run was trained and scored on.

    Args:
        run: The run folder; the table lies beside it.
        record: Its record.

    Returns:
        By name of the split. Ids and labels as in the predictions.

    Raises:
        RunError: The table is missing or damaged, or holds other examples than the run's.
    """
    path = run.absolute().parent / ".examples" / f"{record.data.fingerprint}.parquet"
    try:
        table = pyarrow.parquet.read_table(path, partitioning=None)
        names = table.column("split").to_pylist()
        splits = {}
        for name in dict.fromkeys(names):
            part = table.filter(pa.compute.equal(table.column("split"), name))
            labels = part.column("label")
            kind = np.float32 if record.data.kind == "regression" else np.int64
            splits[name] = Split(
                name,
                "train" if name == "holdout" else name,
                np.array(part.column("id").to_pylist(), dtype=np.int64),
                tuple(tuple(texts) for texts in part.column("texts").to_pylist()),
                None if labels.null_count else np.array(labels.to_pylist(), dtype=kind),
            )
    except FileNotFoundError as error:
        raise RunError(f"{path}: the table of texts is not there; copy it along with the run folder") from error
    except (OSError, pa.ArrowException, LookupError, TypeError, ValueError) as error:
        raise RunError(f"{path}: damaged ({str(error).strip()}); copy it again, or train the run again") from error
    for name, wanted in record.data.fingerprints.items():
        if name not in splits and record.data.sizes[name] == 0:
            continue
        if name not in splits or splits[name].fingerprint != wanted:
            raise RunError(f"{path}: {name} is not what the run was trained on; copy the right table along")
    return splits
