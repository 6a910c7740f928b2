"""A stand-in for the Hugging Face Hub on loopback, for the real client: repositories in memory, failures on demand.

It answers what the client asks for when it makes repositories and branches, uploads files (regular and LFS), commits,
lists and downloads; anything else is a 404 that names the missing route. Large files go through LFS's basic transfer,
so the client must be kept from Xet (`HF_HUB_DISABLE_XET=1`).
"""

import base64
import contextlib
import hashlib
import json
import re
import socket
import threading
import urllib.parse
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

TOKEN = "doubleSecretThatNobodyMaySee"
DATE = "2026-01-01T00:00:00.000Z"
_NAME = r"(?P<name>[^/]+/[^/]+)"


@dataclass(frozen=True)
class File:
    """Content of a repository; `oid` is LFS's SHA-256, or none for a regular file."""

    content: bytes
    oid: str | None = None

    @property
    def blob(self) -> str:
        """What git calls it."""
        return hashlib.sha1(b"blob %d\0" % len(self.content) + self.content).hexdigest()


@dataclass(frozen=True)
class Commit:
    sha: str
    message: str
    files: dict[str, File]


@dataclass
class Repository:
    private: bool
    branches: dict[str, list[Commit]]

    def at(self, revision: str) -> Commit | None:
        """The commit of a branch or a hash."""
        if revision in self.branches:
            return self.branches[revision][-1]
        every = (commit for commits in self.branches.values() for commit in commits)
        return next((commit for commit in every if commit.sha == revision), None)


@dataclass
class Fault:
    """A failure to come.

    Attributes:
        method: Of the requests that fail.
        path: Regular expression that is found in their path.
        status: The answer; none breaks the connection.
        times: How many fail.
        said: What the answer says.
        headers: Of the answer.
        late: The request does its work, and only its answer is lost.
        skip: How many succeed first.
    """

    method: str
    path: str
    status: int | None = None
    times: int = 1
    said: str = "injected"
    headers: dict[str, str] = field(default_factory=dict)
    late: bool = False
    skip: int = 0


class HubDouble:
    """The server; use it as a context manager."""

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.stored: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.faults: list[Fault] = []
        self.lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        self._server.daemon_threads = True
        self._server.double = self  # type: ignore[attr-defined]
        self.address = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> "HubDouble":
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def fail(self, method: str, path: str, status: int | None = None, **more: Any) -> None:
        """Let requests fail."""
        self.faults.append(Fault(method, path, status, **more))

    def fault(self, method: str, path: str) -> Fault | None:
        """The failure that is due for a request, if any."""
        with self.lock:
            for fault in self.faults:
                if fault.method == method and re.search(fault.path, path):
                    if fault.skip:
                        fault.skip -= 1
                    elif fault.times:
                        fault.times -= 1
                        return fault
        return None

    def asked(self, method: str, path: str) -> int:
        """How many requests came so far."""
        return sum(bool(re.match(f"{method} .*{path}", request)) for request in self.requests)

    def make(self, name: str, *, private: bool = False) -> Repository:
        """Make a repository with nothing of a user's in it."""
        first = {".gitattributes": File(b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n")}
        commit = Commit(hashlib.sha1(name.encode()).hexdigest(), "initial commit", first)
        self.repositories[name] = Repository(private, {"main": [commit]})
        return self.repositories[name]

    def put(self, name: str, folder: Path, **made: Any) -> Repository:
        """Make a repository of a folder's files, in one commit."""
        repository = self.make(name, **made)
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                self.add(name, path.relative_to(folder).as_posix(), path.read_bytes())
        return repository

    def add(self, name: str, path: str, content: bytes) -> None:
        """Commit one file to the main branch."""
        repository = self.repositories[name]
        lfs = hashlib.sha256(content).hexdigest() if _is_large(path) else None
        if lfs:
            self.stored[lfs] = content
        files = repository.branches["main"][-1].files | {path: File(content, lfs)}
        self.commit(repository, "main", files, f"Add {path}")

    def commit(self, repository: Repository, branch: str, files: dict[str, File], message: str) -> Commit:
        """Go on from a branch's commit."""
        commits = repository.branches[branch]
        named = repr((commits[-1].sha, message, sorted((path, file.blob) for path, file in files.items())))
        commits.append(Commit(hashlib.sha1(named.encode()).hexdigest(), message, files))
        return commits[-1]

    def files(self, name: str, branch: str = "main") -> dict[str, bytes]:
        """What a user published on a branch."""
        tree = self.repositories[name].branches[branch][-1].files
        return {path: file.content for path, file in tree.items() if path != ".gitattributes"}


def _is_large(path: str) -> bool:
    return path.endswith((".safetensors", ".bin"))


class _Refused(Exception):
    def __init__(self, status: int, said: str, code: str | None = None) -> None:
        super().__init__(said)
        self.status, self.said, self.code = status, said, code


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # an answer in one piece: in two, the kernel holds the second back for 40 ms

    @property
    def double(self) -> HubDouble:
        double: HubDouble = self.server.double  # type: ignore[attr-defined]
        return double

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def handle(self) -> None:
        with contextlib.suppress(ConnectionError):
            super().handle()

    def answer(self) -> None:
        """Answer any request."""
        path = urllib.parse.unquote(urllib.parse.urlsplit(self.path).path)
        with self.double.lock:
            self.double.requests.append(f"{self.command} {path}")
        fault = self.double.fault(self.command, path)
        if fault is not None and fault.status is None and not fault.late:
            self.rfile.read(min(100, int(self.headers.get("Content-Length") or 0)))
            self._break()
            return
        body = self._body()
        if fault is not None and not fault.late:
            self._send(fault.status or 500, {"error": fault.said}, fault.headers)
            return
        try:
            with self.double.lock:
                status, value, headers = self._route(path, body)
        except _Refused as refused:
            code = {"X-Error-Code": refused.code} if refused.code else {}
            status, value, headers = refused.status, {"error": refused.said}, code
        if fault is not None:
            self._break()
            return
        self._send(status, value, headers)

    do_GET = do_HEAD = do_POST = do_PUT = answer

    def _break(self) -> None:
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _send(self, status: int, value: Any, headers: dict[str, str]) -> None:
        content = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response(status)
        for name, said in ({"Content-Length": str(len(content))} | headers).items():
            self.send_header(name, said)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _route(self, path: str, body: bytes) -> tuple[int, Any, dict[str, str]]:
        for pattern, method in _ROUTES:
            if found := re.fullmatch(pattern, f"{self.command} {path}"):
                return getattr(self, method)(body, **found.groupdict())
        raise _Refused(404, f"the double has no route for {self.command} {path}")

    def _signed_in(self) -> bool:
        said = self.headers.get("Authorization")
        if said is not None and said != f"Bearer {TOKEN}":
            raise _Refused(401, "Invalid credentials in Authorization header")
        return said is not None

    def _writer(self) -> None:
        if not self._signed_in():
            raise _Refused(401, "Invalid username or password.")

    def _repository(self, name: str) -> Repository:
        found, signed_in = self.double.repositories.get(name), self._signed_in()
        if found is None or (found.private and not signed_in):
            raise _Refused(404 if signed_in else 401, "Repository not found", "RepoNotFound")
        return found

    def _commit_at(self, name: str, revision: str | None) -> Commit:
        found = self._repository(name).at(revision or "main")
        if found is None:
            raise _Refused(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return found

    def home(self, _body: bytes) -> Any:
        return 200, {}, {}

    def create(self, body: bytes) -> Any:
        self._writer()
        asked = json.loads(body)
        name = f"{asked.get('organization') or 'me'}/{asked['name']}"
        url = f"{self.double.address}/{name}"
        if name in self.double.repositories:
            return 409, {"error": "You already created this model repo", "url": url}, {}
        self.double.make(name, private=asked.get("visibility") == "private" or bool(asked.get("private")))
        return 200, {"url": url, "name": name}, {}

    def branch(self, _body: bytes, name: str, branch: str) -> Any:
        self._writer()
        repository = self._repository(name)
        if branch in repository.branches:
            return 409, {"error": f"Reference already exists: refs/heads/{branch}"}, {}
        repository.branches[branch] = list(repository.branches["main"])
        return 200, {}, {}

    def validate(self, _body: bytes) -> Any:
        return 200, {"errors": [], "warnings": []}, {}

    def preupload(self, body: bytes, name: str, revision: str) -> Any:
        there = self._commit_at(name, revision).files
        files = [
            {
                "path": file["path"],
                "shouldIgnore": False,
                "uploadMode": "lfs" if _is_large(file["path"]) else "regular",
                "oid": (there[file["path"]].oid or there[file["path"]].blob) if file["path"] in there else None,
            }
            for file in json.loads(body)["files"]
        ]
        return 200, {"files": files}, {}

    def lfs_batch(self, body: bytes, name: str) -> Any:
        self._writer()
        address, objects = self.double.address, []
        for asked in json.loads(body)["objects"]:
            entry = {"oid": asked["oid"], "size": asked["size"]}
            if asked["oid"] not in self.double.stored:
                upload = {"href": f"{address}/lfs/{asked['oid']}"}
                entry["actions"] = {"upload": upload, "verify": {"href": f"{address}/lfs-verify"}}
            objects.append(entry)
        return 200, {"transfer": "basic", "objects": objects}, {}

    def lfs_put(self, body: bytes, oid: str) -> Any:
        if self.headers.get("Authorization"):
            raise _Refused(400, "only one authentication mechanism is allowed: the token was sent to the storage")
        if hashlib.sha256(body).hexdigest() != oid:
            raise _Refused(400, "the content has another hash")
        self.double.stored[oid] = body
        return 200, {}, {}

    def lfs_verify(self, body: bytes) -> Any:
        if json.loads(body)["oid"] not in self.double.stored:
            raise _Refused(404, "object not found")
        return 200, {}, {}

    def publish(self, body: bytes, name: str, revision: str) -> Any:
        self._writer()
        repository, parent = self._repository(name), self._commit_at(name, revision)
        if revision not in repository.branches:
            raise _Refused(400, f"{revision} is no branch")
        files, message = dict(parent.files), ""
        for line in body.splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "header":
                message = value["summary"]
                if value.get("parentCommit") not in (None, parent.sha):
                    raise _Refused(412, "A commit has happened since. Please refresh and try again.")
            elif entry["key"] == "file":
                files[value["path"]] = File(base64.b64decode(value["content"]))
            elif entry["key"] == "lfsFile":
                files[value["path"]] = File(self.double.stored[value["oid"]], value["oid"])
            elif entry["key"] == "deletedFile":
                del files[value["path"]]
            else:
                raise _Refused(400, f"unknown operation {entry['key']}")
        commit = self.double.commit(repository, revision, files, message)
        url = f"{self.double.address}/{name}/commit/{commit.sha}"
        return 200, {"success": True, "commitOid": commit.sha, "commitUrl": url, "hookOutput": ""}, {}

    def describe(self, _body: bytes, name: str, revision: str | None = None) -> Any:
        commit = self._commit_at(name, revision)
        return (
            200,
            {
                "_id": "0",
                "id": name,
                "sha": commit.sha,
                "private": self.double.repositories[name].private,
                "siblings": [{"rfilename": path} for path in commit.files],
                "tags": [],
                "downloads": 0,
                "likes": 0,
                "createdAt": DATE,
                "lastModified": DATE,
            },
            {},
        )

    def tree(self, _body: bytes, name: str, revision: str) -> Any:
        entries = []
        for path, file in self._commit_at(name, revision).files.items():
            entry: dict[str, Any] = {"type": "file", "path": path, "size": len(file.content), "oid": file.blob}
            if file.oid:
                entry["lfs"] = {"oid": file.oid, "size": len(file.content), "pointerSize": 134}
            entries.append(entry)
        return 200, entries, {}

    def resolve(self, _body: bytes, name: str, revision: str, path: str) -> Any:
        commit = self._commit_at(name, revision)
        if path not in commit.files:
            raise _Refused(404, "Entry not found", "EntryNotFound")
        file = commit.files[path]
        headers = {"X-Repo-Commit": commit.sha, "ETag": f'"{file.oid or file.blob}"', "Accept-Ranges": "bytes"}
        if file.oid:
            headers |= {"X-Linked-Etag": f'"{file.oid}"', "X-Linked-Size": str(len(file.content))}
        wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "")
        if wanted and self.command == "GET":
            start, size = int(wanted[1]), len(file.content)
            return 206, file.content[start:], headers | {"Content-Range": f"bytes {start}-{size - 1}/{size}"}
        return 200, file.content, headers


_ROUTES = (
    (r"(?:GET|HEAD) /", "home"),
    (r"POST /api/repos/create", "create"),
    (r"POST /api/validate-yaml", "validate"),
    (rf"POST /api/models/{_NAME}/branch/(?P<branch>.+)", "branch"),
    (rf"POST /api/models/{_NAME}/preupload/(?P<revision>.+)", "preupload"),
    (rf"POST /api/models/{_NAME}/commit/(?P<revision>.+)", "publish"),
    (rf"POST /{_NAME}\.git/info/lfs/objects/batch", "lfs_batch"),
    (r"PUT /lfs/(?P<oid>[0-9a-f]{64})", "lfs_put"),
    (r"POST /lfs-verify", "lfs_verify"),
    (rf"GET /api/models/{_NAME}", "describe"),
    (rf"GET /api/models/{_NAME}/revision/(?P<revision>.+)", "describe"),
    (rf"GET /api/models/{_NAME}/tree/(?P<revision>[^/]+)", "tree"),
    (rf"(?:GET|HEAD) /{_NAME}/resolve/(?P<revision>[^/]+)/(?P<path>.+)", "resolve"),
)


@contextlib.contextmanager
def serving(patch: Any, cache: Path, *, token: str | None = TOKEN) -> Iterator[HubDouble]:
    """Point the Hub's client, of this process and of those that it starts, at a fresh double with an empty cache.

    Args:
        patch: A `pytest.MonkeyPatch`, which puts everything back.
        cache: The folder of the client's cache.
        token: What HF_TOKEN says; none logs nobody in.
    """
    from huggingface_hub import constants

    with HubDouble() as double:
        settings = {"HF_ENDPOINT": double.address, "HF_HUB_CACHE": str(cache), "HF_HUB_OFFLINE": "0"}
        settings |= {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HOME": str(cache.parent)}
        for name, value in settings.items():
            patch.setenv(name, value)
        patch.delenv("HF_TOKEN", raising=False)
        if token is not None:
            patch.setenv("HF_TOKEN", token)
        patch.setattr(constants, "ENDPOINT", double.address)
        template = double.address + "/{repo_id}/resolve/{revision}/{filename}"
        patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        patch.setattr(constants, "HF_HUB_CACHE", str(cache))
        patch.setattr(constants, "HF_TOKEN_PATH", str(cache / "token"))
        patch.setattr(constants, "HF_HUB_OFFLINE", False)
        patch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        yield double
