"""Predict the rows of a file: read, predicted and written window by window, whatever the file's size."""

import contextlib
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from graft.errors import DataError
from graft.eval.wording import row_name
from graft.recipes.inference import batch_tokens, warn_of_cuts
from graft.recipes.live_display import in_place
from graft.recipes.row_reading import Row, windows
from graft.recipes.row_writing import ERROR, WRITERS, Layout, whole
from graft.recipes.run import LoadedRun, Prediction
from graft.recipes.survey import Survey

log = logging.getLogger(__name__)


@dataclass
class Tally:
    """What became of a file's rows.

    Attributes:
        rows: All of them, so far.
        truncated: Those whose text was cut.
        bad: Those without a prediction.
        first_bad: The number, from 0, of the first of those.
        reason: Why it has none.
    """

    rows: int = 0
    truncated: int = 0
    bad: int = 0
    first_bad: int | None = None
    reason: str | None = None

    def count(self, rows: Sequence[Row]) -> None:
        """Count a window's rows."""
        for number, row in enumerate(rows, start=self.rows):
            if row.error is not None:
                self.bad += 1
                if self.first_bad is None:
                    self.first_bad, self.reason = number, row.error
        self.rows += len(rows)


def predict_file(
    loaded: LoadedRun, file: Path, out: Path, found: Survey, *, tokens: int | None = None, quiet: bool = False
) -> Tally:
    """Write a file's rows, in their order, with their predictions; a bad row says why it has none.

    Batches are made of texts of similar length within a window, so that little is padding. The output is whole or
    absent: an interruption or a full disk leaves what was there before.

    Args:
        loaded: The run, ready for prediction.
        file: Examples; its suffix says what it is.
        out: What is written; its suffix, too.
        found: What a first look through the file found.
        tokens: Budget of a batch, padding included; none chooses by the device.
        quiet: Show no progress.

    Returns:
        What became of the rows.

    Raises:
        DataError: No row has a prediction; nothing is written.
        GraftError: The output cannot be written.
    """
    layout = Layout(found.columns, found.types, loaded.record.data.label_names)
    tally, budget = Tally(), tokens or batch_tokens(loaded)
    with (
        _progress(found.rows, visible=not quiet) as advance,
        whole(out) as partial,
        contextlib.ExitStack() as stack,
    ):
        write = stack.enter_context(WRITERS[out.suffix.lower()](partial, layout))
        for window in windows(file, loaded.columns):
            write(window, _predict(loaded, window.rows, budget, tally))
            tally.count(window.rows)
            advance(len(window.rows))
        if tally.bad == tally.rows:
            raise DataError(
                f"{file}: no row can be predicted, so nothing was written; {row_name(0)}: {tally.reason}; mend the file"
            )
    warn_of_cuts(tally.truncated, tally.rows, loaded)
    if tally.first_bad is not None:
        log.warning(
            "%d of %d rows have no prediction and say why under %r; the first is %s: %s",
            *(tally.bad, tally.rows, ERROR, row_name(tally.first_bad), tally.reason),
        )
    return tally


def _predict(loaded: LoadedRun, rows: Sequence[Row], tokens: int, tally: Tally) -> list[Prediction | None]:
    """Predict those of a window's rows that can be."""
    texts = [tuple(row.values[name] for name in loaded.columns) for row in rows if row.error is None]
    if not texts:
        return [None] * len(rows)
    encoded = loaded.encode(texts)
    tally.truncated += encoded.truncated
    predictions = iter(loaded.judge(encoded, tokens))
    return [next(predictions) if row.error is None else None for row in rows]


@contextlib.contextmanager
def _progress(total: int, *, visible: bool) -> Iterator[Callable[[int], None]]:
    """Show progress on stderr, or below a notebook's cell.

    Yields:
        Tell it how many rows are done in addition.
    """
    columns = TextColumn("rows"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    progress = Progress(*columns, console=Console(stderr=True), disable=not visible)
    bar = progress.add_task("rows", total=total)
    with in_place(progress):
        yield lambda rows: progress.advance(bar, rows)
