"""Send a folder to the Hub in one commit, so that a repository holds all of it or nothing.

Requests that fail for a reason that may pass are made again. Large files that have arrived are not sent again: the Hub
is asked first which of them it has.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from graft.errors import GraftError
from graft.hub import CLIENT_ERRORS, Failure, failure, is_repository, one_line, patiently, unreachable
from graft.recipes.exported import EXPORT, wanted

if TYPE_CHECKING:
    from huggingface_hub.hf_api import ModelInfo

Found = TypeVar("Found")

log = logging.getLogger(__name__)

_HARMLESS = (".gitattributes", ".gitignore", "README.md", "LICENSE", "LICENSE.md", "LICENSE.txt")
"""What a repository may hold that graft did not publish."""


@dataclass(frozen=True)
class Uploaded:
    """A folder that is on the Hub.

    Attributes:
        name: The repository.
        url: Of the commit.
        commit: Its hash.
        private: Whether the repository can be seen by its owner alone.
        created: Whether the repository was made.
        changed: Whether there was anything to commit.
    """

    name: str
    url: str
    commit: str
    private: bool
    created: bool
    changed: bool


@dataclass
class _Standing:
    """How far an upload has come, for whoever must be told that it went no further.

    Attributes:
        created: The repository was made.
        branched: The branch was made.
        parent: Commit that ours goes on from, once it is tried.
    """

    created: bool = False
    branched: bool = False
    parent: str | None = None


class Repository:
    """A repository on the Hub, or a name for one that is to be made.

    Args:
        name: `user/name`.
        private: Make it private, or refuse one that is not.
        revision: The branch to publish on, made if it is missing; none means the main one.
    """

    def __init__(self, name: str, *, private: bool = False, revision: str | None = None) -> None:
        """Ask nothing yet."""
        from huggingface_hub import HfApi

        self.name, self.private, self.revision = name, private, revision
        self._api = HfApi(library_name="graft")
        self._standing = _Standing()

    def check(self) -> None:
        """Refuse, before anything is made or sent, what could not be published here.

        Raises:
            GraftError: There is no token, the Hub does not answer or refuses, or the repository there holds something
                that graft did not publish, or is public where a private one is asked for.
        """
        from huggingface_hub import get_token

        if get_token() is None:
            raise GraftError(
                f"{self.name}: nobody is logged in; run `hf auth login`, or set HF_TOKEN to a token that may write; "
                "nothing was published"
            )
        silent = unreachable()
        if silent is not None:
            raise GraftError(f"{self.name}: {silent}; go online and give the same command again; nothing was published")
        info = self._ask(self._look)
        if info is None:
            return
        if self.private and not info.private:
            raise GraftError(
                f"{self.name}: is public, and --private does not change that; make it private on its page, or name "
                "another repository; nothing was published"
            )
        self._refuse_foreign(info)

    def upload(self, folder: Path, message: str) -> Uploaded:
        """Publish a folder's files, in the place of those of an earlier export.

        Args:
            folder: Every file in it is sent, under its path in the folder.
            message: Of the commit.

        Returns:
            Where it is.

        Raises:
            GraftError: As `check`, or it did not work; the message says what is there then.
        """
        self.check()
        made = self._ask(self._look, branch=False) is None
        if made:
            self._ask(lambda: self._api.create_repo(self.name, private=self.private or None, exist_ok=True))
            self._standing.created = True
        if self.revision is not None and self._ask(self._branch) is None:
            branch = self.revision
            self._ask(lambda: self._api.create_branch(self.name, branch=branch, exist_ok=True))
            self._standing.branched = True
        return self._ask(lambda: self._commit(folder, message, made=made))

    def _look(self, *, branch: bool = True) -> "ModelInfo | None":
        """What is there, on our branch or else on the main one; none if there is no such repository."""
        from huggingface_hub.errors import RepositoryNotFoundError

        found = self._branch() if branch and self.revision is not None else None
        try:
            return found or self._api.model_info(self.name)
        except RepositoryNotFoundError:
            return None

    def _branch(self) -> "ModelInfo | None":
        """What is on our branch; none if it is not there."""
        from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

        try:
            return self._api.model_info(self.name, revision=self.revision)
        except (RepositoryNotFoundError, RevisionNotFoundError):
            return None

    def _commit(self, folder: Path, message: str, *, made: bool) -> Uploaded:
        """Commit once. Made again, it finds what has arrived, and commits nothing where all of it has."""
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete

        info = self._api.model_info(self.name, revision=self.revision)
        self._refuse_foreign(info)
        paths = {file.relative_to(folder).as_posix(): file for file in folder.rglob("*") if file.is_file()}
        stale = [path for path in _files(info) if wanted(path) and path not in paths]
        self._standing.parent = info.sha
        done = self._api.create_commit(
            self.name,
            [
                *(CommitOperationAdd(path, file) for path, file in sorted(paths.items())),
                *(CommitOperationDelete(path, is_folder=False) for path in stale),
            ],
            commit_message=message,
            revision=self.revision,
            parent_commit=info.sha,
        )
        changed = done.oid != info.sha
        return Uploaded(self.name, str(done.commit_url), str(done.oid), bool(info.private), made, changed)

    def _refuse_foreign(self, info: "ModelInfo") -> None:
        """Refuse to replace what graft did not publish."""
        files = _files(info)
        strange = sorted(path for path in files if path not in _HARMLESS)
        if strange and EXPORT not in files:
            raise GraftError(
                f"{self.name}: holds files that graft did not publish ({strange[0]}, ...); name another repository; "
                f"{self._so_far()}"
            )

    def _ask(self, request: Callable[..., Found], **arguments: Any) -> Found:
        """Make a request patiently, and say of a failure what it means and what is there."""
        try:
            return patiently(lambda: request(**arguments))
        except GraftError:
            raise
        except Exception as error:  # the client's many kinds: HTTP statuses, broken connections, odd answers
            found = failure(error)
            if found is not None:
                raise GraftError(f"{self.name}: {self._meaning(found)}; {self._so_far(found)}") from error
            if not isinstance(error, CLIENT_ERRORS):
                raise
            said = one_line(str(error))
            raise GraftError(f"{self.name}: cannot be published ({said}); {self._so_far()}") from error

    def _meaning(self, found: Failure) -> str:
        """What the Hub means, and what to do."""
        user = self.name.partition("/")[0]
        known = {
            401: "the Hub does not accept the token; run `hf auth login` again, or set HF_TOKEN to one that is valid",
            403: f"the token may not write there; use one with write access to {user}, or a name of your own",
            404: f"the Hub does not know it; check that there is a user or organisation {user} that you belong to",
            409: "somebody else changed it at the same time; give the same command again",
            412: "somebody else changed it at the same time; give the same command again",
            413: "the Hub finds it too large",
            429: "the Hub wants fewer requests; give the same command again"
            + (f" in {found.wait:g} seconds" if found.wait else " later"),
        }
        if found.status is None:
            return f"the connection broke ({found.said}); give the same command again, which sends what is missing"
        if found.status in known:
            return f"{known[found.status]} ({found.status}: {found.said})"
        again = "; give the same command again later, which sends what is missing" if found.may_pass else ""
        return f"the Hub answers {found.status} ({found.said}){again}"

    def _so_far(self, found: Failure | None = None) -> str:
        """What is there after a failure."""
        parent = self._standing.parent
        if parent is not None and found is not None and found.may_pass and self._now() != parent:
            return (
                "whether the commit arrived is not known (it is whole or not there); the same command again finds out"
            )
        if self._standing.created:
            return "the repository was made and is empty, and nothing was published in it"
        if self._standing.branched:
            return f"the branch {self.revision} was made, and nothing was published on it"
        return "nothing was published"

    def _now(self) -> str | None:
        """The commit that the branch is at; none where the Hub does not say."""
        try:
            return self._api.model_info(self.name, revision=self.revision).sha
        except Exception as error:
            if failure(error) is None:
                raise
            return None


def refuse_name(name: str) -> None:
    """Refuse what is no repository's name.

    Raises:
        GraftError: As the name says.
    """
    if not is_repository(name):
        raise GraftError(f"--to {name!r}: is no repository's name; give it as user/name")


def _files(info: "ModelInfo") -> list[str]:
    return [str(file.rfilename) for file in info.siblings or ()]
