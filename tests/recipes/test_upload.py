"""A folder reaches the Hub whole or not at all, whatever the Hub answers, and the user is told which."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hub_double import TOKEN, HubDouble, serving

from graft.errors import GraftError
from graft.recipes.upload import Repository, Uploaded

NAME = "me/words"
COMMIT = f"/api/models/{NAME}/commit/"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[HubDouble]:
    with serving(monkeypatch, tmp_path / "home" / "cache") as double:
        yield double


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds that were waited for, in name only."""
    waited: list[float] = []
    monkeypatch.setattr(time, "sleep", waited.append)
    return waited


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Something that looks like an export: two large files and three small ones."""
    made = tmp_path / "export"
    (made / "adapter").mkdir(parents=True)
    (made / "README.md").write_text("---\nlicense: mit\n---\n# Words\n")
    for name in ("export.json", "record.json"):
        (made / name).write_text(f'{{"name": "{name}"}}')
    (made / "model.safetensors").write_bytes(b"weights" * 40_000)
    (made / "adapter" / "graft.safetensors").write_bytes(b"more" * 50_000)
    return made


def content(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def publish(folder: Path, **settings: object) -> Uploaded:
    return Repository(NAME, **settings).upload(folder, "Publish words")  # type: ignore[arg-type]


def refused(folder: Path, **settings: object) -> str:
    with pytest.raises(GraftError) as caught:
        publish(folder, **settings)
    said = str(caught.value)
    assert NAME in said
    assert TOKEN not in said
    return said


def test_a_folder_is_published_in_one_commit_and_the_same_again_is_none(hub: HubDouble, folder: Path) -> None:
    done = publish(folder)
    assert hub.files(NAME) == content(folder)
    assert [commit.message for commit in hub.repositories[NAME].branches["main"]] == ["initial commit", "Publish words"]
    assert (done.created, done.changed, done.private) == (True, True, False)
    assert done.url == f"{hub.address}/{NAME}/commit/{done.commit}"
    again = publish(folder)
    assert (again.created, again.changed, again.commit) == (False, False, done.commit)


def test_files_of_an_earlier_export_go_and_a_users_own_stay(hub: HubDouble, folder: Path) -> None:
    publish(folder)
    hub.add(NAME, "LICENSE", b"mine")
    hub.add(NAME, "pictures/scores.png", b"mine too")
    (folder / "model.safetensors").rename(folder / "adapter_model.safetensors")
    publish(folder)
    assert hub.files(NAME) == content(folder) | {"LICENSE": b"mine", "pictures/scores.png": b"mine too"}
    assert len(hub.repositories[NAME].branches["main"]) == 5


def test_what_graft_did_not_publish_is_not_replaced(hub: HubDouble, folder: Path) -> None:
    hub.make(NAME)
    hub.add(NAME, "README.md", b"# A page that was made beforehand")
    assert publish(folder).changed
    hub.make(NAME)
    hub.add(NAME, "thesis.bin", b"years of work")
    assert "thesis.bin" in (said := refused(folder))
    assert said.endswith("nothing was published")
    assert hub.files(NAME) == {"thesis.bin": b"years of work"}


def test_a_branch_is_made_and_the_main_one_left_alone(hub: HubDouble, folder: Path) -> None:
    publish(folder, revision="seed-2")
    assert hub.files(NAME) == {}
    assert hub.files(NAME, "seed-2") == content(folder)
    (folder / "README.md").write_text("# Again\n")
    publish(folder, revision="seed-2")
    assert hub.files(NAME, "seed-2")["README.md"] == b"# Again\n"
    assert hub.asked("POST", "/branch/") == 1


def test_a_private_repository_is_made_private_and_a_public_one_refused(hub: HubDouble, folder: Path) -> None:
    assert publish(folder, private=True).private
    assert hub.repositories[NAME].private
    assert publish(folder).private  # what is private stays so
    hub.make(NAME)
    before = len(hub.requests)
    assert "is public, and --private does not change that" in refused(folder, private=True)
    assert not [request for request in hub.requests[before:] if not request.startswith("GET")]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", f"/api/models/{NAME}$"),
        ("POST", "/api/repos/create"),
        ("POST", "/branch/"),
        ("POST", "/preupload/"),
        ("POST", "objects/batch"),
        ("PUT", "/lfs/"),
        ("POST", "/lfs-verify"),
        ("POST", COMMIT),
    ],
)
@pytest.mark.parametrize("status", [500, 503, None])
def test_what_may_pass_is_tried_again(
    method: str, path: str, status: int | None, hub: HubDouble, folder: Path, waits: list[float]
) -> None:
    hub.fail(method, path, status, times=2)
    publish(folder, revision="trial")
    assert hub.files(NAME, "trial") == content(folder)
    assert len(hub.repositories[NAME].branches["trial"]) == 2
    assert waits


def test_the_hub_is_given_the_time_that_it_asks_for(hub: HubDouble, folder: Path, waits: list[float]) -> None:
    hub.fail("POST", COMMIT, 429, headers={"Retry-After": "37"})
    hub.fail("POST", "/api/repos/create", 429, headers={"ratelimit": '"api";r=0;t=21'})
    publish(folder)
    assert waits == [21, 37]


def test_too_long_a_wait_and_too_many_failures_end(hub: HubDouble, folder: Path, waits: list[float]) -> None:
    hub.fail("POST", "/api/repos/create", 429, headers={"Retry-After": "3600"})
    assert "in 3600 seconds (429: injected); nothing was published" in refused(folder)
    assert waits == []
    hub.fail("POST", "/api/repos/create", 502, times=99)
    assert "the Hub answers 502" in refused(folder)
    assert waits == [1, 2, 4]
    assert not hub.repositories


def test_a_commit_whose_answer_is_lost_is_not_made_twice(hub: HubDouble, folder: Path, waits: list[float]) -> None:
    hub.fail("POST", COMMIT, late=True)
    done = publish(folder)
    commits = hub.repositories[NAME].branches["main"]
    assert len(commits) == 2
    assert done.commit == commits[-1].sha
    assert waits == [1]


def test_after_a_broken_upload_only_what_is_missing_is_sent(hub: HubDouble, folder: Path, waits: list[float]) -> None:
    hub.fail("PUT", "/lfs/", times=999, skip=1)
    said = refused(folder)
    assert "the connection broke" in said
    assert "the repository was made and is empty, and nothing was published in it" in said
    assert hub.files(NAME) == {}
    (arrived,) = hub.stored
    hub.faults.clear()
    before = len(hub.requests)
    assert publish(folder).changed
    sent = [request for request in hub.requests[before:] if request.startswith("PUT")]
    assert len(sent) == 1
    assert arrived not in sent[0]
    assert hub.files(NAME) == content(folder)


@pytest.mark.parametrize(
    ("status", "advice"),
    [
        (401, "does not accept the token; run `hf auth login` again"),
        (403, "may not write there; use one with write access to me"),
        (404, "check that there is a user or organisation me"),
        (409, "somebody else changed it at the same time"),
        (412, "somebody else changed it at the same time"),
        (400, "the Hub answers 400"),
    ],
)
def test_a_refusal_is_one_message_that_says_what_is_there(
    status: int, advice: str, hub: HubDouble, folder: Path, waits: list[float]
) -> None:
    echo = f"no: Bearer {TOKEN}\nand hf_anotherToken12345"  # a server that repeats what it must not
    hub.fail("POST", COMMIT, status, said=echo)
    said = refused(folder)
    assert advice in said
    assert f"{status}" in said
    assert said.endswith("the repository was made and is empty, and nothing was published in it")
    assert "\n" not in said
    assert "hf_anotherToken12345" not in said
    hub.fail("POST", COMMIT, status)
    assert refused(folder).endswith("; nothing was published")
    assert waits == []
    assert hub.files(NAME) == {}


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_repository_that_may_not_be_made_is_not_there(status: int, hub: HubDouble, folder: Path) -> None:
    hub.fail("POST", "/api/repos/create", status)
    assert refused(folder).endswith("; nothing was published")
    assert not hub.repositories


def test_a_commit_that_may_have_arrived_is_said_to(hub: HubDouble, folder: Path, waits: list[float]) -> None:
    publish(folder)
    (folder / "README.md").write_text("# Changed\n")
    hub.fail("POST", COMMIT, 503, times=99)
    assert refused(folder).endswith("; nothing was published")  # the Hub still answers, and has the old commit
    hub.faults.clear()
    hub.fail("POST", COMMIT, 503, times=4)
    hub.fail("GET", f"/api/models/{NAME}$", 503, times=99, skip=2 + 4)
    assert "whether the commit arrived is not known" in refused(folder)


def test_a_commit_in_between_is_not_mixed_with_ours(
    hub: HubDouble, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(folder)
    (folder / "README.md").write_text("# Ours\n")
    real = hub.fault

    def meanwhile(method: str, path: str) -> None:
        if path.startswith(f"/api/models/{NAME}/preupload/"):
            hub.add(NAME, "README.md", b"# Theirs\n")
        return real(method, path)

    monkeypatch.setattr(hub, "fault", meanwhile)
    assert "somebody else changed it at the same time" in refused(folder)
    assert hub.files(NAME)["README.md"] == b"# Theirs\n"


def test_a_wrong_token_no_token_and_no_network_are_said_before_anything_is_sent(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch, serving(patch, tmp_path / "one", token=None) as hub:
        assert "run `hf auth login`, or set HF_TOKEN" in refused(folder)
        assert hub.requests == []
    with monkeypatch.context() as patch, serving(patch, tmp_path / "two", token="hf_wrongToken12345") as hub:
        assert "does not accept the token" in (said := refused(folder))
        assert "hf_wrongToken12345" not in said
        assert not hub.repositories
    with monkeypatch.context() as patch, serving(patch, tmp_path / "three") as hub:
        hub.__exit__()
        assert "cannot be reached" in refused(folder)
