"""`graft export`: what the command line asks of an export, and what it prints of one."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graft.errors import GraftError
from graft.recipes import launch
from graft.recipes.inventory import write_out
from graft.recipes.solitary import PROVER, Solitary

if TYPE_CHECKING:
    from graft.recipes.export import Exported
    from graft.recipes.exported import Dtype

KINDS = {
    "merged": "a plain checkpoint: transformers loads it without graft",
    "peft": "an adapter: peft loads it onto the base model",
    "graft": "an adapter that graft alone loads",
}
"""Form of an export → what it is."""


@dataclass(frozen=True)
class Request:
    """What to export.

    Attributes:
        runs: A finished run's folder, or several to combine.
        out: The folder to make.
        dtype: Of merged weights.
        adapter: Export the adapter although it could be merged.
        dense: Refuse anything but a merged checkpoint.
        tolerance: Largest difference of a logit that is accepted in fp32; none means the default.
        combine: How several runs become one model.
        weights: How much each counts, separated by commas; none means equally.
        density: Fraction of the numbers that is kept, for a way to combine that drops some.
        seed: Of what such a way drops at random.
    """

    runs: tuple[Path, ...]
    out: Path
    dtype: "Dtype" = "fp32"
    adapter: bool = False
    dense: bool = False
    tolerance: float | None = None
    combine: str | None = None
    weights: str | None = None
    density: float | None = None
    seed: int = 0


def main(request: Request) -> int:
    """Export, and say what was made; the last line on stdout is `export: <folder>`.

    Returns:
        The exit code, as `graft.recipes.launch.main`.
    """

    def action() -> None:
        launch.log_to_stderr(quiet=False)
        with Solitary(PROVER) as prover:  # imports its libraries while this process does
            exported = _export(request, prover)
        lines = [*told(exported), f"how to load it: {exported.folder / 'README.md'}", f"export: {exported.folder}"]
        write_out("\n".join(lines) + "\n")

    return launch.guarded(action, after_interruption="nothing was exported")


def _export(request: Request, prover: Solitary) -> "Exported":
    """Export a run, or several combined.

    Raises:
        GraftError: What is asked for does not fit together; or as the two ways to export.
    """
    from graft.recipes.export import TOLERANCE, export  # torch, so only once it is needed

    tolerance = TOLERANCE if request.tolerance is None else request.tolerance
    form: dict[str, Any] = {
        "dtype": request.dtype,
        "adapter": request.adapter,
        "dense": request.dense,
        "prover": prover,
    }
    if request.combine is not None:
        from graft.recipes.combination import export_combined

        return export_combined(
            request.runs,
            request.out,
            how=request.combine,
            weights=_numbers(request.weights),
            density=request.density,
            seed=request.seed,
            tolerance=tolerance,
            **form,
        )
    if len(request.runs) != 1:
        raise GraftError(f"{len(request.runs)} runs: say how they become one model, such as --combine average")
    if request.weights is not None or request.density is not None:
        raise GraftError("--weights, --density: belong to --combine; add it, or leave them out")
    return export(request.runs[0], request.out, tolerance=tolerance, **form)


def _numbers(given: str | None) -> list[float] | None:
    """Read numbers that commas separate.

    Raises:
        GraftError: One is no number.
    """
    try:
        return None if given is None else [float(part) for part in given.split(",")]
    except ValueError as error:
        raise GraftError(f"--weights {given}: expected numbers with commas between, such as 0.5,0.5") from error


def told(exported: "Exported") -> list[str]:
    """What a person wants to know of an export, in lines."""
    lines = [f"{KINDS[exported.form]} ({exported.dtype}, {exported.size / 2**20:.1f} MiB)"]
    for split, found in exported.parity.items():
        scores = ", ".join(f"{name} {found.before[name]:.2f} -> {value:.2f}" for name, value in found.after.items())
        lines.append(
            f"{split}, {found.examples} examples: largest difference of a logit {found.largest_difference:.2g}, "
            f"{100 * found.decided_alike:.2f} % decided alike; {scores}"
        )
    return lines
