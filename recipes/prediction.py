"""Predict with a finished run: texts from the command line, or a whole file, row by row in its own order."""

import contextlib
import csv
import json
import logging
import math
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from graft.errors import DataError, GraftError, nearest
from graft.eval.formats import Table, read_table
from graft.eval.texts import read_texts
from graft.eval.wording import row_name
from graft.recipes import launch
from graft.recipes.inventory import print_json, print_table, write_out

if TYPE_CHECKING:
    from graft.recipes.run import LoadedRun, Prediction

log = logging.getLogger(__name__)

_CHUNK = 2048
"""Rows that are tokenised, predicted and written together; memory is bounded by them, not by the file."""

_CLASSES_SHOWN = 3
"""Classes whose probabilities a person is shown; programs get all."""


@dataclass(frozen=True)
class Request:
    """What to predict.

    Attributes:
        run: The run folder.
        texts: Texts, or the first texts of pairs.
        pairs: The second texts of pairs.
        file: A file of examples, with the task's text columns.
        out: Where the file's rows go, with their predictions.
        as_json: Print for programs.
        quiet: Show no progress.
    """

    run: Path
    texts: tuple[str, ...] = ()
    pairs: tuple[str, ...] = ()
    file: Path | None = None
    out: Path | None = None
    as_json: bool = False
    quiet: bool = False


def main(request: Request) -> int:
    """Predict what was asked for, and print it or where it was written.

    Returns:
        The exit code, as `graft.recipes.launch.main`.
    """

    def action() -> None:
        _check(request)
        launch.log_to_stderr(quiet=request.quiet)
        if request.file is not None and request.out is not None:
            _predict_file(request, request.file, request.out)
        else:
            _predict_texts(request)

    return launch.guarded(action, after_interruption="nothing was written")


def _check(request: Request) -> None:
    """Refuse what contradicts itself, before anything is loaded."""
    if request.file is None:
        if request.out is not None:
            raise GraftError("--out: goes with --file; predictions of --text are printed")
        if not request.texts:
            raise GraftError('nothing to predict; give --text "...", or --file FILE --out FILE')
        if request.pairs and len(request.pairs) != len(request.texts):
            raise GraftError(
                f"--text-pair: {len(request.pairs)} of them for {len(request.texts)} --text; give one for each"
            )
        return
    if request.texts or request.pairs:
        raise GraftError("--file: comes alone; leave --text and --text-pair out")
    if request.file.suffix.lower() not in _WRITERS:
        raise GraftError(
            f"--file {request.file}: cannot tell examples apart in {request.file.suffix or 'a file without a suffix'}"
            f"{nearest(request.file.suffix, _WRITERS)}; use {', '.join(_WRITERS)}"
        )
    if request.out is None:
        raise GraftError(f"--file: say where the predictions go: --out FILE ({', '.join(_WRITERS)})")
    if request.out.suffix.lower() not in _WRITERS:
        raise GraftError(
            f"--out {request.out}: cannot write {request.out.suffix or 'a file without a suffix'}"
            f"{nearest(request.out.suffix, _WRITERS)}; use {', '.join(_WRITERS)}"
        )
    if request.out.resolve() == request.file.resolve():
        raise GraftError(f"--out {request.out}: is the file that is read; choose another name")


def _load(request: Request) -> "LoadedRun":
    """Load the run, on the machine's accelerator where there is one."""
    from graft.recipes import hardware
    from graft.recipes.run import load

    loaded = load(request.run)
    loaded.model.to(hardware.device())
    return loaded


def _predict_texts(request: Request) -> None:
    """Predict the texts of the command line, and print."""
    columns = _columns(request.run)
    _check_pairs(request, columns)
    texts = list(zip(request.texts, request.pairs, strict=True)) if len(columns) == 2 else list(request.texts)
    loaded = _load(request)
    encoded = loaded.encode(texts)
    predictions = loaded.judge(encoded)
    _warn_of_cuts(encoded.truncated, len(texts), loaded)
    rows = [dict(zip(columns, (text,) if isinstance(text, str) else text, strict=True)) for text in texts]
    if request.as_json:
        print_json([row | _fields(prediction) for row, prediction in zip(rows, predictions, strict=True)])
        return
    classes = bool(predictions[0].probabilities)
    headings = ["prediction", *(["probabilities"] if classes else []), *columns]
    cells = [
        [_worded(prediction.value), *([_likeliest(prediction)] if classes else []), *row.values()]
        for row, prediction in zip(rows, predictions, strict=True)
    ]
    print_table(headings, cells)


def _predict_file(request: Request, file: Path, out: Path) -> None:
    """Predict a file's rows, and write them with their predictions."""
    columns = _columns(request.run)
    table = read_table(file)
    texts = read_texts(table, columns, blank=True)  # a trained model has an answer to an empty text, too
    if not texts:
        raise DataError(f"{file}: no rows in it, only the names of columns; add rows")
    loaded = _load(request)
    names = loaded.record.data.label_names
    _check_room(table, _added(names, flat=out.suffix.lower() in _FLAT))
    with _progress(len(texts), visible=not request.quiet) as advance, _whole(out) as partial:
        chunks = _Chunks(loaded, texts, advance)
        _WRITERS[out.suffix.lower()](partial, table, names, chunks)
    _warn_of_cuts(chunks.truncated, len(texts), loaded)
    if request.as_json:
        print_json({"out": str(out), "rows": len(texts), "truncated": chunks.truncated})
    else:
        write_out(f"predictions: {out}\n")


def _columns(run: Path) -> tuple[str, ...]:
    """The run's text columns, once it is known to be one that predicts."""
    from graft.eval.records import read_record
    from graft.recipes.recipe import Recipe
    from graft.recipes.run import refuse_language_model, text_columns

    record = read_record(run)
    refuse_language_model(run, record)
    return text_columns(Recipe.model_validate(record.recipe))


def _check_pairs(request: Request, columns: Sequence[str]) -> None:
    if len(columns) == 2 and not request.pairs:
        raise GraftError(
            f"--text-pair: {request.run} was trained on pairs; --text is its {columns[0]}, give its {columns[1]} too"
        )
    if len(columns) == 1 and request.pairs:
        raise GraftError(f"--text-pair: {request.run} was trained on single texts ({columns[0]}); leave it out")


def _check_room(table: Table, added: Sequence[str]) -> None:
    taken = [name for name in added if name in table.columns]
    if taken:
        raise DataError(f"{table.origin}: has a column {taken[0]!r} already, which a prediction would hide; rename it")


def _warn_of_cuts(truncated: int, rows: int, loaded: "LoadedRun") -> None:
    if truncated:
        log.warning("%d of %d texts were longer than %s and were cut", truncated, rows, _what_cuts(loaded))


def _what_cuts(loaded: "LoadedRun") -> str:
    """Name what bounds the length of a text: the recipe, or the positions that the model has left for it."""
    from graft.adapters.methods import METHODS

    method, limit, positions = loaded.recipe.method, loaded.recipe.task.max_length, loaded.model.positions
    if positions is None or limit <= positions:
        return f"the run's task.max_length ({limit} tokens)"
    taken = METHODS[method.name].positions(method)
    beside = f" besides the {taken} positions of its {method.name}" if taken else ""
    return f"the {positions} tokens that the model takes{beside}"


def _fields(prediction: "Prediction") -> dict[str, Any]:
    """A prediction as what it adds to a row."""
    return {"prediction": prediction.value} | (
        {"probabilities": prediction.probabilities} if prediction.probabilities else {}
    )


def _worded(value: str | float) -> str:
    return value if isinstance(value, str) else f"{value:.3f}"


def _likeliest(prediction: "Prediction") -> str:
    """The likeliest classes with their probabilities."""
    ranked = sorted(prediction.probabilities.items(), key=lambda item: -item[1])
    shown = ", ".join(f"{name} {probability:.3f}" for name, probability in ranked[:_CLASSES_SHOWN])
    return f"{shown}, ..." if len(ranked) > _CLASSES_SHOWN else shown


@contextlib.contextmanager
def _progress(total: int, *, visible: bool) -> Iterator[Callable[[int], None]]:
    """Show progress on stderr.

    Yields:
        Tell it how many rows are done in addition.
    """
    columns = TextColumn("rows"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=Console(stderr=True), disable=not visible) as progress:
        bar = progress.add_task("rows", total=total)
        yield lambda rows: progress.advance(bar, rows)


@dataclass
class _Chunks:
    """Predicts texts chunk by chunk, in their order.

    Attributes:
        loaded: The run.
        texts: All texts.
        advance: Is told how many more rows are done.
        truncated: Texts that were cut, so far.
    """

    loaded: "LoadedRun"
    texts: Sequence[tuple[str, ...]]
    advance: Callable[[int], None]
    truncated: int = 0

    def __iter__(self) -> Iterator[tuple[slice, list["Prediction"]]]:
        """Give each chunk's place among the rows, and its predictions."""
        for start in range(0, len(self.texts), _CHUNK):
            place = slice(start, min(start + _CHUNK, len(self.texts)))
            encoded = self.loaded.encode(self.texts[place])
            self.truncated += encoded.truncated
            yield place, self.loaded.judge(encoded)
            self.advance(place.stop - place.start)


@contextlib.contextmanager
def _whole(path: Path) -> Iterator[Path]:
    """Write a file that is whole or absent.

    Yields:
        The name to write under, beside the final one.

    Raises:
        GraftError: The disk is full or the folder cannot be written; an old file is untouched.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        partial.replace(path)
    except OSError as error:
        raise GraftError(f"--out {path}: cannot write ({error.strerror or error}); choose another folder") from error
    finally:
        with contextlib.suppress(OSError):  # there is none, or the disk is gone
            partial.unlink()


def _added(names: Sequence[str], *, flat: bool) -> list[str]:
    """Names of the columns that predictions add; a flat file has one for each class."""
    if flat:
        return ["prediction", *(f"probabilities.{name}" for name in names)]
    return ["prediction", "probabilities"] if names else ["prediction"]


def _rows(table: Table, place: slice) -> Iterator[dict[str, Any]]:
    """Some rows of a table, as Python objects."""
    parts = [values[place] for values in table.data.values()]
    lists = [part.to_pylist() if isinstance(part, pa.ChunkedArray) else part for part in parts]
    for row in zip(*lists, strict=True):
        yield dict(zip(table.columns, row, strict=True))


def _write_jsonl(path: Path, table: Table, _names: Sequence[str], chunks: _Chunks) -> None:
    """Write an object a line; numbers that JSON cannot say become null, dates and the like text."""
    with path.open("w", encoding="utf-8") as stream:
        for place, predictions in chunks:
            for row, prediction in zip(_rows(table, place), predictions, strict=True):
                stream.write(_json(row | _fields(prediction)) + "\n")


def _json(value: Any) -> str:
    return json.dumps(_sayable(value), ensure_ascii=False, allow_nan=False, default=str)


def _sayable(value: Any) -> Any:
    """A value without the numbers that JSON cannot say, also inside of lists and objects."""
    if isinstance(value, dict):
        return {name: _sayable(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_sayable(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _write_csv(path: Path, table: Table, names: Sequence[str], chunks: _Chunks) -> None:
    """Write comma-separated values, quoted where they need it."""
    with path.open("w", encoding="utf-8", newline="") as stream:
        _write_delimited(csv.writer(stream, lineterminator="\n"), table, names, chunks)


def _write_tsv(path: Path, table: Table, names: Sequence[str], chunks: _Chunks) -> None:
    """Write a row a line, without quoting, as our reader and GLUE's files have it."""
    for number, row in enumerate(_rows(table, slice(None))):
        for name, value in row.items():
            if re.search(r"[\t\r\n]", _cell(value)):
                raise DataError(
                    f"{table.origin}: {row_name(number)}, column {name!r} holds a tab or a line break, which a tsv "
                    "cannot; write .csv, .jsonl or .parquet"
                )
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, delimiter="\t", quoting=csv.QUOTE_NONE, quotechar=None, lineterminator="\n")
        _write_delimited(writer, table, names, chunks)


def _write_delimited(writer: Any, table: Table, names: Sequence[str], chunks: _Chunks) -> None:
    writer.writerow([*table.columns, *_added(names, flat=True)])
    for place, predictions in chunks:
        for row, prediction in zip(_rows(table, place), predictions, strict=True):
            writer.writerow([*map(_cell, row.values()), prediction.value, *prediction.probabilities.values()])


def _cell(value: Any) -> str:
    """A value as text; lists and objects as JSON."""
    if value is None:
        return ""
    return _json(value) if isinstance(value, list | dict) else str(value)


def _write_parquet(path: Path, table: Table, names: Sequence[str], chunks: _Chunks) -> None:
    """Write parquet; columns that came from parquet keep their types."""
    try:
        data = pa.table(dict(table.data))
    except (pa.ArrowException, OverflowError) as error:
        raise DataError(f"{table.origin}: a column holds several types of values ({error}); write .jsonl") from error
    kinds = pa.struct([(name, pa.float64()) for name in names])
    with contextlib.ExitStack() as stack:
        writer = None
        for place, predictions in chunks:
            part = data.slice(place.start, place.stop - place.start)
            part = part.append_column("prediction", pa.array([prediction.value for prediction in predictions]))
            if names:
                found = pa.array([prediction.probabilities for prediction in predictions], kinds)
                part = part.append_column("probabilities", found)
            if writer is None:
                writer = stack.enter_context(pyarrow.parquet.ParquetWriter(path, part.schema))
            writer.write_table(part)


_FLAT = (".csv", ".tsv")
_WRITERS: dict[str, Callable[[Path, Table, Sequence[str], _Chunks], None]] = {
    ".jsonl": _write_jsonl,
    ".csv": _write_csv,
    ".tsv": _write_tsv,
    ".parquet": _write_parquet,
}
