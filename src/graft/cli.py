"""The `graft` command: every subcommand calls one function and passes on its exit code."""

import json
import sys
from collections.abc import Sequence

import click

from graft import __version__

_PASS_ON = {"ignore_unknown_options": True, "help_option_names": []}
"""For commands whose flags are made from the recipe's fields, `--help` included."""


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="graft")
def graft() -> None:
    """Find the cheap adaptation that is as good as full fine-tuning, and take it home."""


@graft.command(context_settings=_PASS_ON, add_help_option=False)
@click.argument("flags", nargs=-1, type=click.UNPROCESSED)
def train(flags: tuple[str, ...]) -> int:
    """Adapt a checkpoint to a task. See `graft train --help`."""
    from graft.recipes import launch

    return launch.main(flags)


@graft.group()
def recipe() -> None:
    """Look at recipes without running them."""


@recipe.command(context_settings=_PASS_ON, add_help_option=False)
@click.argument("flags", nargs=-1, type=click.UNPROCESSED)
def show(flags: tuple[str, ...]) -> int:
    """Print a recipe in full, from the flags of `graft train`."""
    from graft.recipes import launch
    from graft.recipes.flags import parse
    from graft.recipes.recipe import to_yaml

    return launch.guarded(lambda: click.echo(to_yaml(parse(flags, "graft recipe show").recipe), nl=False))


@recipe.command()
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
