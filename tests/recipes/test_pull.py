"""What was published comes back whole, nothing else is fetched, and every refusal is one message."""

import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hub_double import TOKEN, HubDouble, serving
from huggingface_hub import constants

from graft import load, train
from graft.errors import GraftError, RunError
from graft.recipes import prediction
from graft.recipes.export import export
from graft.recipes.options import RunOptions
from graft.recipes.pull import pull
from graft.recipes.pulling import Request, main

NAME = "me/words"
TEXTS = ["w1 w2 w3", "w30"]


@pytest.fixture(autouse=True)
def _here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "home" / "cache"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, cache: Path) -> Iterator[HubDouble]:
    with serving(monkeypatch, cache) as double:
        yield double


@pytest.fixture
def exported(hub: HubDouble, tiny_bert: Path, tiny_recipe: Any, tmp_path: Path) -> Path:
    """An export that graft alone loads, on a base that the Hub has; it is published as me/words."""
    hub.put("me/tiny", tiny_bert)
    recipe = tiny_recipe("lora", model={"name": "me/tiny", "pooling": "mean"}, schedule={"steps": 2})
    run = train(recipe, options=RunOptions(out=tmp_path / "runs", quiet=True)).folder
    folder = export(run, tmp_path / "exported").folder
    hub.put(NAME, folder)
    return folder


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    waited: list[float] = []
    monkeypatch.setattr(time, "sleep", waited.append)
    return waited


def content(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def refused(name: str = NAME, out: Path | None = None, **settings: Any) -> str:
    with pytest.raises(GraftError) as caught:
        pull(name, out or Path("never"), **settings)
    assert not Path("never").exists()
    said = str(caught.value)
    assert TOKEN not in said
    return said


def test_what_was_published_comes_back_and_code_and_pickles_do_not(
    hub: HubDouble,
    exported: Path,
    cache: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    strange = ("modeling_words.py", "pytorch_model.bin", "adapter/training_args.bin", "deeper/model.safetensors")
    for path in strange:
        hub.add(NAME, path, b"import os")
    assert main(Request(NAME, tmp_path / "pulled")) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"pull: {tmp_path / 'pulled'}"
    assert "4 files are none of an export's and are not fetched (modeling_words.py, ...)" in caplog.text
    assert content(tmp_path / "pulled") == content(exported)
    for path in strange:
        assert hub.asked("(GET|HEAD)", f"resolve/.*{path}") == 0
        assert not list(cache.rglob(Path(path).name)) or path == "deeper/model.safetensors"
    torch.testing.assert_close(load(tmp_path / "pulled").logits(TEXTS), load(NAME).logits(TEXTS), atol=0, rtol=0)


def test_every_file_of_an_export_is_wanted(exported: Path) -> None:
    from graft.recipes.exported import wanted

    assert {path for path in content(exported) if not wanted(path)} == set()
    assert not [path for path in ("x.py", "../model.safetensors", "a/../config.json", "model.bin") if wanted(path)]


def test_a_revision_is_a_branch_or_a_commit(hub: HubDouble, exported: Path, tmp_path: Path) -> None:
    commit = hub.repositories[NAME].branches["main"][-1].sha
    hub.add(NAME, "README.md", b"# Later")
    assert content(pull(NAME, tmp_path / "one", revision=commit).folder) == content(exported)
    assert (pull(NAME, tmp_path / "two", revision="main").folder / "README.md").read_text() == "# Later"
    assert "there is no such revision (404)" in refused(revision="nowhere")


def test_a_local_folder_comes_first(hub: HubDouble, exported: Path, tmp_path: Path) -> None:
    shutil.copytree(exported, tmp_path / NAME)
    before = len(hub.requests)
    assert load(NAME).folder == Path(NAME)
    assert not [request for request in hub.requests[before:] if NAME in request]
    with pytest.raises(GraftError, match="is a local folder without revisions"):
        load(NAME, revision="main")
    with pytest.raises(RunError, match="no such run folder"):  # a path is never a name on the Hub
        load(Path("me/other"))


def test_without_the_hub_its_cache_is_used_or_said_to_be_empty(
    hub: HubDouble, exported: Path, monkeypatch: pytest.MonkeyPatch, waits: list[float]
) -> None:
    ours = load(NAME).logits(TEXTS)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    before = len(hub.requests)
    assert torch.equal(load(NAME).logits(TEXTS), ours)
    said = refused("me/other")
    assert "me/other: is no folder here and not in the Hub's cache, and HF_HUB_OFFLINE is set" in said
    assert len(hub.requests) == before
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    hub.__exit__()
    assert "cannot be reached" in refused("me/other")
    assert waits == []


def test_what_may_pass_is_tried_again(hub: HubDouble, exported: Path, tmp_path: Path, waits: list[float]) -> None:
    hub.fail("GET", f"/api/models/{NAME}", 503, headers={"Retry-After": "7"})
    hub.fail("GET", "resolve/.*graft.safetensors", None)
    hub.fail("GET", "/tree/", 500)
    assert content(pull(NAME, tmp_path / "pulled").folder) == content(exported)
    assert waits[0] == 7
    hub.fail("GET", f"/api/models/{NAME}", 500, times=99)
    assert "cannot be fetched (the Hub answers 500: injected); give the same command again later" in refused()


@pytest.mark.parametrize(
    ("status", "advice"),
    [
        (401, "log in with `hf auth login` or set HF_TOKEN (401"),
        (403, "the token may not read it"),
        (404, "is no folder here and not on the Hub, or is private"),
    ],
)
def test_a_refusal_is_one_message(status: int, advice: str, hub: HubDouble, waits: list[float]) -> None:
    hub.fail("GET", "/api/models/", status, said=f"Bearer {TOKEN}")
    assert advice in refused()
    assert waits == []
    assert main(Request("words")) == 2


def test_what_graft_did_not_publish_is_not_loaded(hub: HubDouble, tiny_bert: Path, tmp_path: Path) -> None:
    hub.put("me/tiny", tiny_bert)
    assert "was not published by graft (it has no export.json and record.json)" in refused("me/tiny")
    assert hub.asked("GET", "safetensors") == 0
    assert "is no folder here and not on the Hub" in refused("me/none")


@pytest.mark.parametrize("base", ["/etc", "../../secrets", "~/models/mine", 3])
def test_a_repository_does_not_choose_among_local_folders(base: Any, hub: HubDouble, exported: Path) -> None:
    record = json.loads((exported / "record.json").read_text())
    record["recipe"]["model"]["name"] = base
    hub.add(NAME, "record.json", json.dumps(record).encode())
    assert "which is no name on the Hub" in refused()


def test_a_damaged_page_and_a_missing_file_are_named(hub: HubDouble, exported: Path, tmp_path: Path) -> None:
    hub.add(NAME, "export.json", b'{"schema": 1, "form": "pickle"}')
    assert "export.json: not an export's page: form" in refused()
    hub.put(NAME, exported)
    del hub.repositories[NAME].branches["main"][-1].files["adapter/graft.safetensors"]
    with pytest.raises(GraftError, match=r"graft\.safetensors: cannot be read"):
        load(NAME)


def test_what_is_no_export_is_not_replaced(hub: HubDouble, exported: Path, tmp_path: Path) -> None:
    assert pull(NAME, tmp_path / "pulled") == pull(NAME, tmp_path / "pulled")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    assert "no earlier export" in refused(out=tmp_path / "mine")
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years of work"


def test_predictions_of_a_published_run_need_its_name_alone(
    hub: HubDouble, exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = []
    for run in (str(exported), NAME):
        assert prediction.main(prediction.Request(run, texts=("w1 w2 w3",), as_json=True)) == 0
        said.append(json.loads(capsys.readouterr().out))
    assert said[0] == said[1]
    rows = tmp_path / "rows.jsonl"
    rows.write_text(json.dumps({"text": "w1 w2 w3"}) + "\n")
    asked = prediction.Request(NAME, file=rows, out=tmp_path / "out.jsonl", quiet=True)
    assert prediction.main(asked) == 0
    assert json.loads((tmp_path / "out.jsonl").read_text())["prediction"] == said[0][0]["prediction"]
    assert prediction.main(prediction.Request("me/nothing", texts=("w1",))) == 2
    assert "me/nothing" in capsys.readouterr().err
