"""From a run to a repository on the Hub: exported and proved as `graft export` does it, then sent in one commit."""

import contextlib
import logging
import tempfile
from dataclasses import dataclass
from pathlib import Path

from graft.errors import GraftError
from graft.hub import failure, offline
from graft.recipes.card import Destination
from graft.recipes.card_verdict import find_verdict
from graft.recipes.export import Exported, export
from graft.recipes.exported import CARD
from graft.recipes.upload import Repository, Uploaded, refuse_name

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Pushed:
    """What was published, or would be.

    Attributes:
        exported: The export; its folder is gone.
        files: Path in the repository → bytes.
        card: The model card.
        uploaded: Where it is; none where nothing was sent.
    """

    exported: Exported
    files: dict[str, int]
    card: str
    uploaded: Uploaded | None


def push(
    run: str | Path,
    to: str,
    *,
    merged: bool = False,
    adapter: bool = False,
    private: bool = False,
    revision: str | None = None,
    verdict: str | Path | None = None,
    dry_run: bool = False,
) -> Pushed:
    """Publish a run on the Hub.

    The token is the Hub client's own business: `hf auth login`, or HF_TOKEN. graft neither asks for it nor keeps it.

    Args:
        run: A finished run's folder.
        to: The repository, `user/name`; made if it is missing.
        merged: Refuse anything but a plain merged checkpoint.
        adapter: Publish the adapter although the method could be merged.
        private: Make the repository private; else a new one is what the account's settings say, which is public unless
            they were changed.
        revision: The branch to publish on, made if it is missing; none means the main one.
        verdict: Folder of the comparison that the card tells of; none means one that lies where the run lies.
        dry_run: Send nothing and ask nothing of the network.

    Returns:
        What was published, or would be.

    Raises:
        GraftError: As `graft.recipes.export.export`, or it cannot be published; the message says what is there then.
    """
    refuse_name(to)
    folder = Path(run)
    found = find_verdict(folder, None if verdict is None else Path(verdict))
    repository = None if dry_run else Repository(to, private=private, revision=revision)
    if repository is not None:
        repository.check()
    with offline() if dry_run else contextlib.nullcontext(), tempfile.TemporaryDirectory() as temporary:
        if not dry_run:
            _fetch_base_card(folder)
        exported = export(
            folder,
            Path(temporary) / "export",
            adapter=adapter,
            dense=merged,
            destination=Destination(to, revision, found),
        )
        made = sorted(path for path in exported.folder.rglob("*") if path.is_file())
        files = {path.relative_to(exported.folder).as_posix(): path.stat().st_size for path in made}
        card = (exported.folder / CARD).read_text(encoding="utf-8")
        message = f"Publish {folder.absolute().name} ({exported.form})"
        uploaded = repository.upload(exported.folder, message) if repository is not None else None
    return Pushed(exported, files, card, uploaded)


def _fetch_base_card(run: Path) -> None:
    """Bring the card of a base model from the Hub beside its weights, for its licence; it may well have none."""
    from huggingface_hub import hf_hub_download

    from graft.adapters.saving import saved_checkpoint

    try:
        base, commit = saved_checkpoint(run / "adapter")
    except GraftError:  # what is wrong with the run is said where it is loaded
        return
    if commit is None:
        return
    try:
        hf_hub_download(base, CARD, revision=commit)
    except Exception as error:
        if failure(error) is None and not isinstance(error, OSError):
            raise
        log.info("the card of %s cannot be read, so that its licence is not known", base)
