"""One base that serves several runs: each example of a batch is answered by the run that it names."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from graft.adapters.methods import METHODS
from graft.adapters.mixing import HOST, held_bytes, share, shares_all_but_adapter, stack
from graft.errors import RunError, nearest
from graft.eval.encoding import Batch, Encoded
from graft.eval.kinds import KINDS
from graft.eval.predict import predict
from graft.eval.ragged import Ragged
from graft.recipes.inference import batch_tokens
from graft.recipes.run import LoadedRun, Prediction, refuse_language_model

Text = str | tuple[str, ...]
Scores = NDArray[np.float32]


@dataclass(frozen=True)
class Mixture:
    """Runs whose adapters stand on one backbone, so that one pass serves examples of all of them.

    Attributes:
        host: The run whose backbone it is.
        adapters: Run → peft's name of its adapter there.
    """

    host: str
    adapters: dict[str, str]


@dataclass(frozen=True)
class LoadedRuns:
    """Several trained models on one base, ready to be used.

    Attributes:
        runs: Name → the run, whose model shares the base's weights with the others.
        mixtures: Runs that one pass can serve together; a run that is in none gets passes of its own.
    """

    runs: dict[str, LoadedRun]
    mixtures: tuple[Mixture, ...]

    @property
    def held_bytes(self) -> int:
        """Bytes of all weights in memory, each counted once however many runs use it."""
        return held_bytes(run.model for run in self.runs.values())

    def to(self, device: torch.device | str) -> "LoadedRuns":
        """Move all models to a device; they go on sharing the base."""
        for run in self.runs.values():
            run.model.to(device)
        return self

    def predict(
        self, texts: Sequence[Text], adapters: Sequence[str], *, tokens: int | None = None, mixed: bool | None = None
    ) -> list[Prediction]:
        """Say which class texts have, or which score, each by the run that is named for it.

        Args:
            texts: Any number of texts, or pairs for a task of pairs; cut at their run's `task.max_length`.
            adapters: A run's name for each text.
            tokens: Budget of a batch, padding included; none means as many as are scored fastest here.
            mixed: Let examples of different runs share a batch where that is possible; otherwise each run gets batches
                of its own, and says to the last bit what it says when it is loaded alone. None means to mix on an
                accelerator alone: on a processor batches of one run each are faster.

        Returns:
            One prediction for each, in their order.

        Raises:
            DataError: A text is none that its task's columns can hold.
            RunError: There is no run of a name, or not one name for each text.
        """
        found: dict[int, Prediction] = {}
        scored = self._scored(texts, adapters, tokens, mixed=mixed)
        for name, rows in _rows_of(adapters).items():
            scores = np.stack([scored[row] for row in rows])
            found |= dict(zip(rows, self.runs[name].named(scores), strict=True))
        return [found[row] for row in range(len(texts))]

    def logits(
        self, texts: Sequence[Text], adapters: Sequence[str], *, tokens: int | None = None, mixed: bool | None = None
    ) -> list[Tensor]:
        """Score texts, each by the run that is named for it; arguments and errors as for `predict`.

        Returns:
            (outputs,) for each text, in their order; runs of different tasks have different numbers of outputs.
        """
        return [torch.from_numpy(row) for row in self._scored(texts, adapters, tokens, mixed=mixed)]

    def _scored(
        self, texts: Sequence[Text], adapters: Sequence[str], tokens: int | None, *, mixed: bool | None
    ) -> list[Scores]:
        """Every text's logits, by passes of runs together or of each alone."""
        self._check(texts, adapters)
        budget = tokens or min(batch_tokens(run) for run in self.runs.values())
        rows_of = _rows_of(adapters)
        encoded = {name: self.runs[name].encode([texts[row] for row in rows]) for name, rows in rows_of.items()}
        scored: dict[int, Scores] = {}
        if mixed is None:
            mixed = next(iter(self.runs.values())).device.type != "cpu"
        for mixture in self.mixtures if mixed else ():
            asked = [name for name in mixture.adapters if name in encoded]
            if len(asked) > 1:
                order = [row for name in asked for row in rows_of.pop(name)]
                scored |= dict(zip(order, self._together(mixture, {n: encoded[n] for n in asked}, budget), strict=True))
        for name, rows in rows_of.items():
            scored |= dict(zip(rows, self.runs[name].score(encoded[name], tokens), strict=True))
        return [scored[row] for row in range(len(texts))]

    def _together(self, mixture: Mixture, encoded: Mapping[str, Encoded], tokens: int) -> list[Scores]:
        """Score texts of several runs in common batches, each by its own adapter and head."""
        owners = [name for name, part in encoded.items() for _ in range(len(part))]
        host = self.runs[mixture.host]
        widths = {name: self.runs[name].record.data.outputs for name in encoded}

        def forward(batch: Batch) -> Tensor:
            names = [owners[row] for row in batch.ids.tolist()]
            features = host.model.features(batch.inputs, [mixture.adapters[name] for name in names])
            logits = features.new_full((len(batch), max(widths.values())), float("nan"))
            for name, rows in _rows_of(names).items():
                logits[rows, : widths[name]] = self.runs[name].model.logits(features[rows])
            return logits

        found = predict(
            forward,
            KINDS["classification"],
            _joined(list(encoded.values())),
            tokens=tokens,
            gather=list,
            rank=0,
            world=1,
            device=host.device,
        )
        return [scores[: widths[name]] for name, scores in zip(owners, found.scores, strict=True)]

    def _check(self, texts: Sequence[Text], adapters: Sequence[str]) -> None:
        if isinstance(adapters, str) or len(adapters) != len(texts):
            said = repr(adapters) if isinstance(adapters, str) else f"{len(adapters)} names"
            raise RunError(f"adapters: {said} for {len(texts)} texts; name a run for each text")
        for name in dict.fromkeys(adapters):
            if name not in self.runs:
                known = ", ".join(self.runs)
                raise RunError(f"adapters: there is no run {name!r}{nearest(name, self.runs)}; there are {known}")


def together(arriving: Iterable[tuple[str, LoadedRun]]) -> LoadedRuns:
    """Let runs share one base, each from the moment that it is loaded.

    Args:
        arriving: Names and runs. The models are changed in place, and compute what they computed before.

    Returns:
        The runs, and which of them one pass can serve.

    Raises:
        RunError: A run has another base, changed most of the base, or is a language model.
    """
    loaded: dict[str, LoadedRun] = {}
    for name, run in arriving:
        refuse_language_model(run.folder, run.record)
        _refuse_own_base(name, run)
        if loaded:
            first_name, first = next(iter(loaded.items()))
            _refuse_other_base(name, run, first_name, first)
            share(first.model, run.model)
        loaded[name] = run
    mixtures = tuple(mixture for mixture in _mixtures(loaded) if len(mixture.adapters) > 1)
    for mixture in mixtures:
        guests = {inner: loaded[name].model for name, inner in mixture.adapters.items() if name != mixture.host}
        stack(loaded[mixture.host].model, guests)
    return LoadedRuns(loaded, mixtures)


def names_for(runs: Sequence[str | Path] | Mapping[str, str | Path]) -> dict[str, str | Path]:
    """Name runs: by a mapping's keys, else a folder by its last part and a repository by its whole name.

    Raises:
        RunError: There are none, or two have one name.
    """
    if not runs:
        raise RunError("there are no runs to load; name at least one")
    if isinstance(runs, Mapping):
        return dict(runs)
    named: dict[str, str | Path] = {}
    for run in runs:
        name = Path(run).name if Path(run).exists() else str(run)
        if name in named:
            raise RunError(f"{run}: another run is called {name!r} too; give names: load({{'one': ..., 'other': ...}})")
        named[name] = run
    return named


def _refuse_own_base(name: str, run: LoadedRun) -> None:
    """Refuse a run that would bring a base of its own."""
    parameters = run.record.parameters
    if 2 * parameters.trainable_without_head > parameters.total:
        raise RunError(
            f"{name}: {run.recipe.method.name} changed the base itself ({parameters.trainable_without_head:,} of "
            f"{parameters.total:,} parameters), so that there is none to share; load it alone"
        )


def _refuse_other_base(name: str, run: LoadedRun, first_name: str, first: LoadedRun) -> None:
    """Refuse a run that was trained from another checkpoint."""
    here, there = run.checkpoint, first.checkpoint
    if here.digest != there.digest:
        raise RunError(
            f"{name}: was trained from {here.name} ({here.digest[:12]}), and {first_name} from {there.name} "
            f"({there.digest[:12]}); runs that are loaded together share one base"
        )


def _mixtures(loaded: Mapping[str, LoadedRun]) -> list[Mixture]:
    """Group the runs whose method mixes and which differ in adapter and head alone."""
    mixtures: list[Mixture] = []
    for number, (name, run) in enumerate(loaded.items()):
        if not METHODS[run.recipe.method.name].mixes(run.recipe.method):
            continue
        for mixture in mixtures:
            if shares_all_but_adapter(loaded[mixture.host].model, run.model):
                mixture.adapters[name] = f"guest{number}"
                break
        else:
            mixtures.append(Mixture(name, {name: HOST}))
    return mixtures


def _rows_of(names: Sequence[str]) -> dict[str, list[int]]:
    """Name → its positions."""
    rows: dict[str, list[int]] = {}
    for row, name in enumerate(names):
        rows.setdefault(name, []).append(row)
    return rows


def _joined(parts: Sequence[Encoded]) -> Encoded:
    """Tokenised texts one after the other; their ids are their positions."""
    segments = [part.token_type_ids for part in parts if part.token_type_ids is not None]
    rows = sum(len(part) for part in parts)
    return dataclasses.replace(
        parts[0],
        input_ids=Ragged.joined((part.input_ids for part in parts), np.int32),
        token_type_ids=Ragged.joined(segments, np.uint8) if len(segments) == len(parts) else None,
        labels=None,
        ids=np.arange(rows, dtype=np.int64),
        units=np.ones(rows, dtype=np.int64),
        truncated=sum(part.truncated for part in parts),
    )
