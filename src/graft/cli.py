"""The `graft` command: every subcommand calls one function and passes on its exit code."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem

from graft import __version__

_PASS_ON = {"ignore_unknown_options": True, "help_option_names": []}
"""For commands whose flags are made from the recipe's fields, `--help` included."""


def _example(*lines: str) -> str:
    """The end of a command's help; the mark keeps click from joining the lines."""
    return "\n".join(["\b", "Example:", *(f"  {line}" for line in lines)])


def _suggest(ctx: click.Context, incomplete: str) -> list[CompletionItem[str]]:
    from graft.recipes import completion

    found = completion.complete(ctx.params.get("flags") or (), incomplete, command=ctx.command.name or "")
    return [CompletionItem(item.text, item.kind, item.help or None) for item in found]


class _Flagged(click.Command):
    """A command whose flags click does not know, since they are made from the recipe's fields."""

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem[str]]:
        """Suggest flags."""
        return _suggest(ctx, incomplete)


def _flags(command: Any) -> Any:
    """Take all arguments as they are, and let the shell complete them."""

    def complete(ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
        return _suggest(ctx, incomplete)

    return click.argument("flags", nargs=-1, type=click.UNPROCESSED, shell_complete=complete)(command)


_COUNT = click.IntRange(min=1)
_AS_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")


@click.group(
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=_example("graft train --task mrpc --model minilm --method lora --data DATA"),
)
@click.version_option(__version__, prog_name="graft")
def graft() -> None:
    """Find the cheap adaptation that is as good as full fine-tuning, and take it home.

    \b
    For completion, put this into ~/.bashrc (zsh: zsh_source; fish: fish_source):
      eval "$(_GRAFT_COMPLETE=bash_source graft)"
    """


@graft.command(cls=_Flagged, context_settings=_PASS_ON, add_help_option=False)
@_flags
def train(flags: tuple[str, ...]) -> int:
    """Adapt a checkpoint to a task. See `graft train --help`."""
    from graft.recipes import launch

    return launch.main(flags)


@graft.command(cls=_Flagged, context_settings=_PASS_ON, add_help_option=False)
@_flags
def sweep(flags: tuple[str, ...]) -> int:
    """Train one recipe with several seeds or rates at once. See `graft sweep --help`."""
    from graft.recipes import launch

    return launch.sweep(flags)


@graft.command(cls=_Flagged, context_settings=_PASS_ON, add_help_option=False)
@_flags
def plan(flags: tuple[str, ...]) -> int:
    """Say what a run will take before it is made. See `graft plan --help`."""
    from graft.recipes import planning

    return planning.main(flags)


@graft.command(
    epilog=_example(
        'graft predict RUN --text "The first sentence." --text-pair "The second one."',
        "graft predict RUN --file pairs.csv --out predicted.jsonl",
    )
)
@click.argument("run", type=click.Path(file_okay=False))
@click.option("--text", "texts", multiple=True, metavar="TEXT", help="A text; may be given again.")
@click.option("--text-pair", "pairs", multiple=True, metavar="TEXT", help="The second text of a pair, one per --text.")
@click.option("--file", type=click.Path(path_type=Path), help="Examples, in columns named as in the run's task.")
@click.option("--out", type=click.Path(path_type=Path), help="Where they go with their predictions: its suffix counts.")
@click.option("--batch-tokens", type=_COUNT, help="Tokens of a batch.  [default: by the device]")
@click.option("--quiet", is_flag=True, help="No progress display.")
@_AS_JSON
def predict(**asked: Any) -> int:
    """Predict texts or a file with a finished run.

    RUN is a run folder, or what graft push published: user/name. Files are jsonl, csv, tsv or parquet of any size;
    every column and the order of rows are kept. A row that cannot be read gets no prediction, and says why under
    "error".
    """
    from graft.recipes import prediction

    return prediction.main(prediction.Request(**asked))


@graft.command(epilog=_example("graft serve RUN --port 8000 --max-batch 64 --check"))
@click.argument("run", type=click.Path(file_okay=False))
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen at.")
@click.option("--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="0 takes a free one.")
@click.option("--max-batch", type=_COUNT, default=256, show_default=True, help="Examples of a request, at most.")
@click.option("--max-bytes", type=_COUNT, default=2**20, show_default=True, help="Bytes of a request, at most.")
@click.option("--max-waiting", type=_COUNT, default=1024, show_default=True, help="Examples that may wait, at most.")
@click.option("--wait-ms", type=click.FloatRange(0, 10_000), default=2.0, show_default=True, help="To fill a batch.")
@click.option("--check", is_flag=True, help="Answer one example without listening, and stop.")
def serve(**asked: Any) -> int:
    """Serve a run over HTTP: /predict, /health, /metrics and, for people, /docs.

    RUN is a run folder, or what graft push published: user/name. It answers until Ctrl-C or SIGTERM, and finishes what
    is under way then. There is no authentication: put it behind a proxy that has one before others can reach it.
    """
    from graft.recipes import serving

    return serving.main(serving.Request(**asked))


@graft.command(cls=_Flagged, context_settings=_PASS_ON, add_help_option=False)
@_flags
def compare(flags: tuple[str, ...]) -> int:
    """Compare methods fairly, and say what the evidence supports. See `graft compare --help`."""
    from graft.recipes import compare

    return compare.main(flags, "graft compare")


@graft.command(epilog=_example("graft verdict RUNS --margin 1.0"))
@click.argument("folders", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="DIR...")
@click.option("--margin", type=float, help="Differences within ± this count as none, in points.  [default: none]")
@click.option("--alpha", type=float, default=0.05, show_default=True, help="Probability of any wrong claim on a task.")
@click.option("--reference", default="full", show_default=True, help="The method that the others are compared with.")
@click.option("--metric", help="What to score by.  [default: each task's own]")
@click.option("--out", type=click.Path(path_type=Path), help="Where the results go.  [default: the first DIR]")
@click.option("--figures", type=click.Path(path_type=Path), help="Where static pictures go.  [default: nowhere]")
@_AS_JSON
def verdict(**asked: Any) -> int:
    """Say what finished runs support, wherever they were made.

    DIR holds run folders, or folders with run folders. Writes comparison.json and tables.
    """
    from graft.recipes import verdict

    return verdict.main(verdict.Request(**asked))


@graft.command(
    epilog=_example(
        "graft export RUN --out exported",
        "graft export RUN --out exported-adapter --adapter",
        "graft export RUN_A RUN_B --combine ties --density 0.5 --out combined",
    )
)
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path, file_okay=False), metavar="RUN...")
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), required=True, help="The folder to make.")
@click.option("--dtype", type=click.Choice(["fp32", "bf16", "fp16"]), default="fp32", help="Of merged weights.")
@click.option("--adapter", is_flag=True, help="Export the adapter although it could be merged.")
@click.option("--dense", is_flag=True, help="Refuse anything but a plain merged checkpoint.")
@click.option("--tolerance", type=float, help="Largest difference of a logit that is accepted in fp32.")
@click.option("--combine", metavar="HOW", help="Make one model of several runs: average, ties, dare_linear, svd, ...")
@click.option("--weights", metavar="NUMBERS", help="How much each run counts, such as 0.7,0.3.  [default: equally]")
@click.option("--density", type=float, help="Fraction of the numbers that is kept: for ties, dare_... and the like.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of what dare_... drops.")
def export(**asked: Any) -> int:
    """Export a run: merged into a plain checkpoint where possible, else as an adapter.

    RUN is a run folder; several are combined into one model. The export is loaded again in a fresh process, without
    graft's own classes, and its logits on the evaluation split are compared with the run's before it stands.
    """
    from graft.recipes import exporting

    return exporting.main(exporting.Request(**asked))


@graft.command(
    epilog=_example("graft push RUN --to me/name --dry-run", "graft push RUN --to me/name --merged --private --dry-run")
)
@click.argument("run", type=click.Path(path_type=Path, file_okay=False))
@click.option("--to", required=True, metavar="USER/NAME", help="The repository; made if it is missing.")
@click.option("--merged", is_flag=True, help="Refuse anything but a plain merged checkpoint.")
@click.option("--adapter", is_flag=True, help="Publish the adapter although it could be merged.")
@click.option("--private", is_flag=True, help="Make it private.  [default: as the account's settings have it]")
@click.option("--revision", help="The branch; made if it is missing.  [default: the main one]")
@click.option("--verdict", type=click.Path(path_type=Path), help="Folder of the comparison to tell of, if not RUN's.")
@click.option("--dry-run", is_flag=True, help="Show all files and the card; send nothing, ask no network.")
def push(**asked: Any) -> int:
    """Publish a run on the Hugging Face Hub, with a card that says what it is worth.

    RUN is a run folder. It is exported and proved as `graft export` does it, and sent in one commit. Log in with
    `hf auth login`, or set HF_TOKEN.
    """
    from graft.recipes import pushing

    return pushing.main(pushing.Request(**asked))


@graft.command(epilog=_example("graft pull me/name --out pulled"))
@click.argument("name", metavar="USER/NAME")
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), help="The folder to make.  [default: NAME]")
@click.option("--revision", help="Branch, tag or commit.  [default: the main branch]")
def pull(**asked: Any) -> int:
    """Fetch what `graft push` published; `graft predict` and `graft.load` take the folder.

    Only safetensors, JSON and text are fetched, and no code.
    """
    from graft.recipes import pulling

    return pulling.main(pulling.Request(**asked))


@graft.command(epilog=_example("graft methods"))
@_AS_JSON
def methods(as_json: bool) -> int:
    """List the methods, what each can do, and its paper."""
    from graft.recipes import inventory

    return inventory.main("methods", as_json=as_json)


@graft.command(epilog=_example("graft tasks --json"))
@_AS_JSON
def tasks(as_json: bool) -> int:
    """List the tasks that have a name."""
    from graft.recipes import inventory

    return inventory.main("tasks", as_json=as_json)


@graft.command(epilog=_example("graft models"))
@_AS_JSON
def models(as_json: bool) -> int:
    """List checkpoints with a short name, and architectures."""
    from graft.recipes import inventory

    return inventory.main("models", as_json=as_json)


@graft.command(epilog=_example("graft doctor"))
@_AS_JSON
def doctor(as_json: bool) -> int:
    """Say whether graft can train here, and what is missing.

    The exit code is 0 if it can, 2 if something necessary is missing.
    """
    from graft.recipes import doctor

    return doctor.main(as_json=as_json)


@graft.group(epilog=_example("graft recipe show --task mrpc --method lora"))
def recipe() -> None:
    """Look at recipes without running them."""


@recipe.command(cls=_Flagged, context_settings=_PASS_ON, add_help_option=False)
@_flags
def show(flags: tuple[str, ...]) -> int:
    """Print a recipe in full, from the flags of `graft train`."""
    from graft.recipes import launch

    return launch.show(flags)


@recipe.command(epilog=_example("graft recipe schema > recipe.schema.json"))
def schema() -> int:
    """Print the JSON Schema of recipe files, for editors."""
    from graft.recipes.recipe import Recipe

    click.echo(json.dumps(Recipe.model_json_schema(), indent=2))
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line.

    Args:
        argv: Arguments, without the program's name; none means those of this process.

    Returns:
        The exit code: 0 done, 2 the user's mistake, 1 a bug of ours, 130 interrupted.
    """
    try:
        return int(graft.main(args=None if argv is None else list(argv), prog_name="graft", standalone_mode=False) or 0)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        return 130


if __name__ == "__main__":
    sys.exit(main())
