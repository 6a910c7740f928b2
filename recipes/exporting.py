"""`graft export`: what the command line asks of an export, and what it prints of one."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from graft.recipes import launch
from graft.recipes.inventory import write_out

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
        run: A finished run's folder.
        out: The folder to make.
        dtype: Of merged weights.
        adapter: Export the adapter although it could be merged.
        dense: Refuse anything but a merged checkpoint.
        tolerance: Largest difference of a logit that is accepted in fp32; none means the default.
    """

    run: Path
    out: Path
    dtype: "Dtype" = "fp32"
    adapter: bool = False
    dense: bool = False
    tolerance: float | None = None


def main(request: Request) -> int:
    """Export, and say what was made; the last line on stdout is `export: <folder>`.

    Returns:
        The exit code, as `graft.recipes.launch.main`.
    """

    def action() -> None:
        launch.log_to_stderr(quiet=False)
        from graft.recipes.export import TOLERANCE, export  # torch, so only once it is needed

        exported = export(
            request.run,
            request.out,
            dtype=request.dtype,
            adapter=request.adapter,
            dense=request.dense,
            tolerance=TOLERANCE if request.tolerance is None else request.tolerance,
        )
        lines = [*told(exported), f"how to load it: {exported.folder / 'README.md'}", f"export: {exported.folder}"]
        write_out("\n".join(lines) + "\n")

    return launch.guarded(action, after_interruption="nothing was exported")


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
