"""`graft pull`: what the command line asks of the Hub, and what it prints of what came."""

from dataclasses import dataclass
from pathlib import Path

from graft.recipes import launch
from graft.recipes.exporting import KINDS
from graft.recipes.inventory import write_out


@dataclass(frozen=True)
class Request:
    """What to fetch.

    Attributes:
        name: The repository, `user/name`.
        out: The folder to make; none means one of the repository's name.
        revision: Branch, tag or commit; none means the main branch.
    """

    name: str
    out: Path | None = None
    revision: str | None = None


def main(request: Request) -> int:
    """Fetch, and say what came; the last line on stdout is `pull: <folder>`.

    Returns:
        The exit code, as `graft.recipes.launch.main`.
    """

    def action() -> None:
        launch.log_to_stderr(quiet=False)
        from graft.recipes.pull import pull

        pulled = pull(request.name, request.out, revision=request.revision)
        write_out(
            f"{KINDS[pulled.form]} ({pulled.size / 2**20:.1f} MiB)\n"
            f"how to load it: {pulled.folder / 'README.md'}\n"
            f"pull: {pulled.folder}\n"
        )

    return launch.guarded(action, after_interruption="nothing was left half made; the same command again goes on")
