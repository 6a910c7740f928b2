"""From a run to a folder that others load: merged into a plain checkpoint where that is possible, else an adapter.

Nothing is called done before a fresh process, with plain transformers or peft, has loaded the folder and said the same
of every evaluation example.
"""

import logging
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch

from graft.adapters.loading import quiet
from graft.adapters.merging import merge, obstacle
from graft.adapters.saving import saved_checkpoint
from graft.errors import GraftError, RunError
from graft.files import atomic_folder
from graft.recipes.card import HERE, Destination, write_card
from graft.recipes.combined import COMBINATION
from graft.recipes.exported import (
    Dtype,
    Form,
    Manifest,
    read_manifest,
    refuse_foreign,
    write_manifest,
    write_portable_record,
)
from graft.recipes.run import LoadedRun, load
from graft.recipes.solitary import PROVER, Solitary

log = logging.getLogger(__name__)

TOLERANCE = 1e-4
"""Largest difference of a logit in fp32: float32's rounding through a dozen layers, with a margin of ten."""
_DTYPES: dict[Dtype, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Parity:
    """How far an exported folder is from its run, on one evaluation split.

    Attributes:
        examples: Scored.
        largest_difference: Of any logit or score.
        decided_alike: Share of the examples on which both say the same class or score.
        before: Metrics of the run.
        after: Metrics of the exported folder.
    """

    examples: int
    largest_difference: float
    decided_alike: float
    before: dict[str, float]
    after: dict[str, float]


@dataclass(frozen=True)
class Exported:
    """A folder that others load.

    Attributes:
        folder: Where it is.
        form: `merged`, a plain checkpoint; `peft`, an adapter that plain peft loads; `graft`, what graft alone loads.
        dtype: Of its weights.
        size: Bytes of all files.
        parity: Split → how far it is from the run; empty for `graft`, whose loading is the run's own.
    """

    folder: Path
    form: Form
    dtype: Dtype
    size: int
    parity: dict[str, Parity]


def export(
    run: str | Path,
    out: str | Path,
    *,
    dtype: Dtype = "fp32",
    adapter: bool = False,
    dense: bool = False,
    tolerance: float = TOLERANCE,
    destination: Destination = HERE,
    prover: Solitary | None = None,
) -> Exported:
    """Export a run, and prove that the export says what the run said.

    Args:
        run: A finished run's folder.
        out: The folder to make; an earlier export there is replaced, anything else is refused.
        dtype: Of a merged checkpoint's weights. Merging itself is done in fp32.
        adapter: Export the adapter although the method could be merged.
        dense: Refuse anything but a plain merged checkpoint.
        tolerance: Largest difference of a logit that is accepted in fp32; other dtypes are measured and reported.
        destination: Where others will find it, for its card.
        prover: A process of `PROVER` that was started earlier; none means that one is started when it is needed.

    Returns:
        What was written.

    Raises:
        RunError: The run is unfinished or a trial, its texts are not beside it, or it is an export itself.
        GraftError: There is no dense form and one was demanded, `out` holds something else, an adapter for the Hub
            belongs to a base that is not there, or the export does not say what the run said; then nothing is left of
            it.
    """
    folder, target = Path(run), Path(out)
    if read_manifest(folder) is not None:
        raise RunError(f"{folder}: is an export already; name the folder of the run that it was made from")
    loaded = load(folder)
    if loaded.record.kind != "final":
        raise RunError(f"{folder}: is a trial; train it as a final run first: `graft train ... --kind final`")
    form = _form(loaded, adapter=adapter, dense=dense, flag="--dense" if destination.name is None else "--merged")
    if form != "merged" and dtype != "fp32":
        raise GraftError(f"--dtype {dtype}: only a merged checkpoint can be cast, and this is exported as an adapter")
    if form != "merged" and destination.name is not None:
        _refuse_private_base(loaded)
    refuse_foreign(target)
    with atomic_folder(target) as building:
        _fill(building, loaded, form, dtype)
        parity = {} if form == "graft" else _parity(loaded, building, form, prover)
        if dtype == "fp32":
            _check(parity, tolerance, target)
        write_card(building, loaded, form, dtype, parity, destination)
        write_portable_record(building, loaded.record, form, folder / "adapter")
        if (folder / COMBINATION).is_file():
            shutil.copyfile(folder / COMBINATION, building / COMBINATION)
        figures = {name: vars(found) for name, found in parity.items()}
        write_manifest(building, Manifest(form=form, dtype=dtype, run=loaded.record.digest, parity=figures))
        size = sum(file.stat().st_size for file in building.rglob("*") if file.is_file())
    return Exported(target, form, dtype, size, parity)


def _form(loaded: LoadedRun, *, adapter: bool, dense: bool, flag: str) -> Form:
    """Decide which form an export takes.

    Raises:
        GraftError: A dense one is demanded and there is none.
    """
    reason = obstacle(loaded.model, loaded.recipe.method)
    if dense and (adapter or reason):
        said = f"{flag} and --adapter exclude each other" if adapter else f"there is no dense form: {reason}"
        raise GraftError(
            f"{said}; leave {flag} out to export an adapter, or train with a method that merges "
            "(`graft methods`) and `--model.pooling native`"
        )
    if reason is None and not adapter:
        return "merged"
    return "peft" if (loaded.folder / "adapter" / "adapter_config.json").is_file() else "graft"


def _refuse_private_base(loaded: LoadedRun) -> None:
    """Refuse to publish an adapter whose base model lies on this machine alone."""
    base, _ = saved_checkpoint(loaded.folder / "adapter")
    if Path(base).is_absolute():
        raise GraftError(
            f"{loaded.folder}: was trained from the local folder {base}, so that nobody else could load its adapter; "
            "publish it merged where it can be (--merged), or publish the base and train from its Hub name"
        )


def _fill(building: Path, loaded: LoadedRun, form: Form, dtype: Dtype) -> None:
    """Write weights, config and tokenizer."""
    with quiet():
        if form == "merged":
            whole = merge(loaded.model, loaded.recipe.method).to(_DTYPES[dtype])  # type: ignore[arg-type]
            whole.config._attn_implementation = None  # ours is known to this process alone
            whole.save_pretrained(building)
        elif form == "peft":
            shutil.copytree(loaded.folder / "adapter", building, dirs_exist_ok=True)
        else:
            shutil.copytree(loaded.folder / "adapter", building / "adapter")
        loaded.tokenizer.save_pretrained(building)


def _parity(loaded: LoadedRun, building: Path, form: Form, prover: Solitary | None) -> dict[str, Parity]:
    """Ask a fresh process what the folder says."""
    folder = str(loaded.folder.absolute())
    with prover or Solitary(PROVER) as process:
        found = process.ask(loaded.recipe, str(building.absolute()), folder, form)
    return {name: Parity(**figures) for name, figures in found.items()}


def _check(parity: dict[str, Parity], tolerance: float, target: Path) -> None:
    for name, found in parity.items():
        if not found.largest_difference <= tolerance:  # also where it is not a number
            raise GraftError(
                f"{target}: on {name} a logit differs by {found.largest_difference:.2g} from the run's, more than "
                f"{tolerance:g}; nothing was exported. Do the run and the checkpoint belong together?"
            )
