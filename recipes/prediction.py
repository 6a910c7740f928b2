"""Predict with a finished run: texts from the command line, or a whole file, row by row in its own order."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from graft.errors import GraftError, nearest
from graft.recipes import launch
from graft.recipes.inventory import print_json, print_table, write_out
from graft.recipes.row_writing import FLAT, WRITERS, added, fields
from graft.recipes.survey import refuse_taken, survey

if TYPE_CHECKING:
    from graft.recipes.run import Prediction

_CLASSES_SHOWN = 3
"""Classes whose probabilities a person is shown; programs get all."""


@dataclass(frozen=True)
class Request:
    """What to predict.

    Attributes:
        run: The run folder, or a repository's name on the Hub.
        texts: Texts, or the first texts of pairs.
        pairs: The second texts of pairs.
        file: A file of examples, with the task's text columns.
        out: Where the file's rows go, with their predictions.
        batch_tokens: Tokens of a batch, padding included; none chooses by the device.
        as_json: Print for programs.
        quiet: Show no progress.
    """

    run: str | Path
    texts: tuple[str, ...] = ()
    pairs: tuple[str, ...] = ()
    file: Path | None = None
    out: Path | None = None
    batch_tokens: int | None = None
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
        from graft.recipes.pull import find

        run = find(request.run)
        if request.file is not None and request.out is not None:
            _predict_file(request, run, request.file, request.out)
        else:
            _predict_texts(request, run)

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
    if request.file.suffix.lower() not in WRITERS:
        raise GraftError(
            f"--file {request.file}: cannot tell examples apart in {request.file.suffix or 'a file without a suffix'}"
            f"{nearest(request.file.suffix, WRITERS)}; use {', '.join(WRITERS)}"
        )
    if request.out is None:
        raise GraftError(f"--file: say where the predictions go: --out FILE ({', '.join(WRITERS)})")
    if request.out.suffix.lower() not in WRITERS:
        raise GraftError(
            f"--out {request.out}: cannot write {request.out.suffix or 'a file without a suffix'}"
            f"{nearest(request.out.suffix, WRITERS)}; use {', '.join(WRITERS)}"
        )
    if request.out.resolve() == request.file.resolve():
        raise GraftError(f"--out {request.out}: is the file that is read; choose another name")


def _predict_texts(request: Request, run: Path) -> None:
    """Predict the texts of the command line, and print."""
    from graft.recipes.inference import batch_tokens, ready, warn_of_cuts

    columns = _columns(run)
    _check_pairs(request, columns)
    texts = list(zip(request.texts, request.pairs, strict=True)) if len(columns) == 2 else list(request.texts)
    loaded = ready(run)
    encoded = loaded.encode(texts)
    predictions = loaded.judge(encoded, request.batch_tokens or batch_tokens(loaded))
    warn_of_cuts(encoded.truncated, len(texts), loaded)
    rows = [dict(zip(columns, (text,) if isinstance(text, str) else text, strict=True)) for text in texts]
    if request.as_json:
        print_json([row | fields(prediction) for row, prediction in zip(rows, predictions, strict=True)])
        return
    classes = bool(predictions[0].probabilities)
    headings = ["prediction", *(["probabilities"] if classes else []), *columns]
    cells = [
        [_worded(prediction.value), *([_likeliest(prediction)] if classes else []), *row.values()]
        for row, prediction in zip(rows, predictions, strict=True)
    ]
    print_table(headings, cells)


def _predict_file(request: Request, run: Path, file: Path, out: Path) -> None:
    """Predict a file's rows, and write them with their predictions."""
    from graft.eval.records import read_record
    from graft.recipes.file_prediction import predict_file  # torch, so only once the file is known to be right
    from graft.recipes.inference import ready

    found = survey(file, out, _columns(run))
    classes = read_record(run).data.label_names
    refuse_taken(file, found, added(classes, flat=out.suffix.lower() in FLAT))
    loaded = ready(run)
    tally = predict_file(loaded, file, out, found, tokens=request.batch_tokens, quiet=request.quiet)
    if request.as_json:
        told = {"out": str(out), "rows": tally.rows, "truncated": tally.truncated}
        print_json(told | {"bad": tally.bad, "first_bad": tally.first_bad})
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


def _worded(value: str | float) -> str:
    return value if isinstance(value, str) else f"{value:.3f}"


def _likeliest(prediction: "Prediction") -> str:
    """The likeliest classes with their probabilities."""
    ranked = sorted(prediction.probabilities.items(), key=lambda item: -item[1])
    shown = ", ".join(f"{name} {probability:.3f}" for name, probability in ranked[:_CLASSES_SHOWN])
    return f"{shown}, ..." if len(ranked) > _CLASSES_SHOWN else shown
