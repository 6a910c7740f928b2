"""`graft push`: what the command line asks of a publication, and what it prints of one."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from graft.recipes import launch
from graft.recipes.exporting import told
from graft.recipes.inventory import write_out

if TYPE_CHECKING:
    from graft.recipes.push import Pushed


@dataclass(frozen=True)
class Request:
    """What to publish, and where.

    Attributes:
        run: A finished run's folder.
        to: The repository, `user/name`.
        merged: Refuse anything but a merged checkpoint.
        adapter: Publish the adapter although it could be merged.
        private: Make the repository private.
        revision: The branch; none means the main one.
        verdict: Folder of a comparison; none means one that lies where the run lies.
        dry_run: Send nothing.
    """

    run: Path
    to: str
    merged: bool = False
    adapter: bool = False
    private: bool = False
    revision: str | None = None
    verdict: Path | None = None
    dry_run: bool = False


def main(request: Request) -> int:
    """Publish, and say what was; the last line on stdout is `push: <address>`.

    Returns:
        The exit code, as `graft.recipes.launch.main`.
    """

    def action() -> None:
        launch.log_to_stderr(quiet=False)
        from graft.recipes.push import push  # torch, so only once it is needed

        pushed = push(
            request.run,
            request.to,
            merged=request.merged,
            adapter=request.adapter,
            private=request.private,
            revision=request.revision,
            verdict=request.verdict,
            dry_run=request.dry_run,
        )
        write_out("\n".join([*told(pushed.exported), *_told(request, pushed)]) + "\n")

    return launch.guarded(
        action, after_interruption="files are published in one commit or not at all; the same command again goes on"
    )


def _told(request: Request, pushed: "Pushed") -> list[str]:
    """What a person wants to know of a publication."""
    width = max(map(len, pushed.files))
    files = [f"  {path:<{width}}  {size:>13,} bytes" for path, size in pushed.files.items()]
    total = f"{len(files)} files, {sum(pushed.files.values()) / 2**20:.1f} MiB"
    branch = f" on branch {request.revision}" if request.revision else ""
    if pushed.uploaded is None:
        seen = "private" if request.private else "as the account's settings have it: public, unless they were changed"
        return [
            *files,
            "",
            pushed.card,
            f"{total} would go to {request.to}{branch}; a new repository would be {seen}",
            "push: nothing was sent (--dry-run)",
        ]
    uploaded = pushed.uploaded
    made = "made" if uploaded.created else "there already"
    seen = "private" if uploaded.private else "public"
    done = "published in one commit" if uploaded.changed else "were there already, unchanged"
    return [*files, f"{total} {done}{branch}; the repository is {seen} ({made})", f"push: {uploaded.url}"]
