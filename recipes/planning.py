"""`graft plan`: print what a run will take, from the flags of `graft train`, before anything is trained."""

from collections.abc import Sequence
from dataclasses import asdict

from graft.recipes import flags, launch
from graft.recipes.inventory import print_json, print_table
from graft.recipes.plan import Plan, plan

PURPOSE = "Say what a run will take before it is made: memory by kind, steps, minutes, disk; --json for programs."

_KINDS = {
    "runtime": "Python, libraries, data",
    "weights": "weights",
    "gradients": "gradients of what learns",
    "optimiser": "optimiser's moments",
    "activations": "activations of the largest micro-batch",
    "reference": "frozen reference",
    "best": "copy of the best weights",
    "scoring": "scoring a split, after steps",
    "saving": "copies for a checkpoint, after steps",
    "workspace": "kernels and allocator, as tried",
}


def main(argv: Sequence[str]) -> int:
    """Plan what the flags describe.

    Args:
        argv: Flags of `graft train`, and `--json` for programs.

    Returns:
        The exit code, as `graft.recipes.launch.main`.
    """

    def action() -> None:
        as_json = "--json" in argv
        given = [flag for flag in argv if flag != "--json"]
        command = flags.parse(given, "graft plan", purpose=PURPOSE, example="--task mrpc --method lora --data DATA")
        launch.check_given(command.recipe, "graft plan")
        launch.log_to_stderr(quiet=True)
        found = plan(command.recipe)
        if as_json:
            print_json(asdict(found) | {"fits": found.fits})
        else:
            _show(found)

    return launch.guarded(action, after_interruption="nothing was trained")


def _show(found: Plan) -> None:
    """Print for a person."""
    parameters, memory = found.parameters, found.memory
    cut = sum(found.truncated.values())
    examples = ", ".join(f"{count:,} {name}" for name, count in found.examples.items())
    rows = [
        ("examples", examples + (f"; {cut:,} are cut at task.max_length" if cut else "")),
        (
            "parameters",
            (
                f"{parameters['trainable']:,} learn ({parameters['trainable_without_head']:,} without the head) "
                f"of {parameters['total']:,}"
            ),
        ),
        ("steps", f"{found.steps:,}, each of at most {found.micro_batches} micro-batch(es)"),
        ("time", _time(found)),
        ("disk", f"{_size(found.artefact_bytes)} in the end, {_size(found.checkpoint_bytes)} for a checkpoint"),
    ]
    print_table(("run", f"{found.method} on {found.task}, {found.device}"), rows)
    print_table(("speed", "why"), list(found.speed.items()))
    sizes = [(said, _size(getattr(memory, kind))) for kind, said in _KINDS.items() if getattr(memory, kind)]
    verdict = "It fits." if found.fits else "It does not fit: lower budget.tokens, or --budget.gradient-checkpointing."
    sizes += [("together, at the peak", _size(memory.total)), ("free now", _size(memory.available))]
    note = f"{verdict} Steps, scoring and saving take turns, so that the peak is below the sum."
    print_table(("memory", "size"), sizes, note=note)


def _time(found: Plan) -> str:
    if found.minutes is None or found.seconds_per_step is None:
        return "not known: nothing was tried, since it does not fit"
    return f"{found.minutes:.1f} minutes, {found.seconds_per_step:.3f} seconds a step"


def _size(count: int) -> str:
    """Bytes for a person."""
    return f"{count / 2**30:,.2f} GiB" if count >= 2**30 else f"{count / 2**20:,.1f} MiB"
