"""From the Hub to a folder that graft and others load: a fixed list of files is fetched, none of them code."""

import logging
import shutil
from dataclasses import dataclass
from pathlib import Path

from graft.adapters.checkpoint import MODELS
from graft.errors import GraftError, RunError
from graft.eval.records import RECORD, read_record
from graft.files import atomic_folder
from graft.hub import CLIENT_ERRORS, OFFLINE, failure, is_repository, one_line, patiently, unreachable
from graft.recipes.exported import EXPORT, WANTED, Form, read_manifest, refuse_foreign, wanted

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Pulled:
    """What was fetched.

    Attributes:
        folder: Where it is.
        form: `merged`, `peft` or `graft`, as `graft.recipes.export.Exported`.
        size: Bytes of all files.
        left: Files of the repository that are none of an export's and were not fetched.
    """

    folder: Path
    form: Form
    size: int
    left: tuple[str, ...]


def pull(name: str, out: str | Path | None = None, *, revision: str | None = None) -> Pulled:
    """Fetch what `graft push` published.

    Args:
        name: The repository, `user/name`.
        out: The folder to make; none means one of the repository's name, here. An earlier export or pull there is
            replaced, anything else is refused.
        revision: Branch, tag or commit; none means the main branch.

    Returns:
        What was fetched.

    Raises:
        GraftError: The repository is not there, cannot be reached, or was not made by graft.
    """
    if not is_repository(name):
        raise GraftError(f"{name!r}: is no repository's name; give it as user/name")
    target = Path(name.partition("/")[2] if out is None else out)
    refuse_foreign(target)
    snapshot, left = _fetch(name, revision)
    with atomic_folder(target) as building:
        for file in sorted(snapshot.rglob("*")):
            inner = file.relative_to(snapshot).as_posix()
            if file.is_file() and wanted(inner):
                (building / inner).parent.mkdir(exist_ok=True)
                shutil.copyfile(file, building / inner)
        size = sum(file.stat().st_size for file in building.rglob("*") if file.is_file())
    manifest = read_manifest(target)
    assert manifest is not None
    return Pulled(target, manifest.form, size, left)


def find(run: str | Path, revision: str | None = None) -> Path:
    """Find the folder that is meant: one here, or else what a repository on the Hub holds.

    Args:
        run: A folder, or `user/name`. A folder of that name comes first, and a `Path` is always a folder.
        revision: Of the repository.

    Returns:
        The folder, which for a repository lies in the Hub's cache.

    Raises:
        GraftError: As `pull`, or a revision is given for a folder.
    """
    folder = Path(run)
    if folder.exists() or not is_repository(run):
        if revision is not None:
            raise GraftError(f"revision: {run} is a local folder without revisions; leave it out")
        return folder
    return _fetch(str(run), revision)[0]


def _fetch(name: str, revision: str | None) -> tuple[Path, tuple[str, ...]]:
    """Fetch an export into the Hub's cache, or take it from there where the Hub cannot be reached.

    Returns:
        The folder in the cache, and the repository's files that are not wanted.
    """
    from huggingface_hub import HfApi, snapshot_download

    at = f"{name} at revision {revision!r}" if revision else name
    silent = unreachable()  # asked first, as the Hub's client would retry for a while before it says so
    left: tuple[str, ...] = ()
    try:
        if silent is None:
            info = patiently(lambda: HfApi().model_info(name, revision=revision))
            files = [str(file.rfilename) for file in info.siblings or ()]
            _refuse_strange(at, files)
            left = tuple(path for path in files if not wanted(path) and path != ".gitattributes")
        else:
            log.info("%s: taken from the Hub's cache, since %s", at, silent)
        snapshot = patiently(
            lambda: snapshot_download(
                name, revision=revision, allow_patterns=list(WANTED), local_files_only=silent is not None
            )
        )
    except GraftError:
        raise
    except Exception as error:  # the client's many kinds: HTTP statuses, broken connections, a full disk
        refusal = _refusal(at, error, silent)
        if refusal is None:
            raise
        raise refusal from error
    if left:
        log.warning("%s: %d files are none of an export's and are not fetched (%s, ...)", at, len(left), left[0])
    folder = Path(snapshot)
    _refuse_strange(at, [path.name for path in folder.iterdir()])
    _check_base(at, folder)
    return folder, left


def _refuse_strange(at: str, files: list[str]) -> None:
    if EXPORT not in files or RECORD not in files:
        raise GraftError(
            f"{at}: was not published by graft (it has no {EXPORT} and {RECORD}); load it with transformers or peft, "
            "or train from it: --model takes its name"
        )


def _check_base(at: str, folder: Path) -> None:
    """Refuse an adapter that names a folder as its base: a repository must not choose among this machine's files."""
    manifest = read_manifest(folder)
    base = read_record(folder).recipe["model"]["name"]
    if manifest is None or manifest.form == "merged" or base in MODELS:
        return
    if not isinstance(base, str) or not is_repository(base if "/" in base else f"user/{base}"):
        raise RunError(f"{at}: names {base!r} as its base model, which is no name on the Hub; ask whoever published it")


def _refusal(at: str, error: Exception, silent: str | None) -> GraftError | None:
    """One message for whatever the client raised, or none for what is a bug."""
    from huggingface_hub.errors import RevisionNotFoundError

    if silent is not None:
        advice = "unset it" if silent == OFFLINE else "go online"
        return GraftError(
            f"{at}: is no folder here and not in the Hub's cache, and {silent}; name a folder or {advice}"
        )
    found = failure(error)
    if found is None and not isinstance(error, CLIENT_ERRORS):
        return None
    if found is None:
        return GraftError(f"{at}: cannot be fetched ({one_line(str(error))})")
    said: dict[int, str] = {
        401: "the Hub does not accept the token, or wants one; log in with `hf auth login` or set HF_TOKEN",
        403: "the token may not read it; ask its owner, or accept its terms on its page",
        404: "is no folder here and not on the Hub, or is private and the token may not see it; check the name",
    }
    if isinstance(error, RevisionNotFoundError):
        return GraftError(f"{at}: there is no such revision (404); name a branch, a tag or a commit")
    if found.status in said:
        return GraftError(f"{at}: {said[found.status]} ({found.status}: {found.said})")
    answer = f"the Hub answers {found.status}: {found.said}" if found.status else f"no answer: {found.said}"
    return GraftError(f"{at}: cannot be fetched ({answer}); give the same command again later")
