"""A run goes to the Hub and comes back with equal logits, beside a card that holds what its record holds."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hub_double import TOKEN, HubDouble, serving
from huggingface_hub import ModelCard
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from graft import load, train
from graft.errors import GraftError, RunError
from graft.eval.comparison import Comparison, Protocol, Result, write_comparison
from graft.eval.records import read_record
from graft.recipes.export import export
from graft.recipes.options import RunOptions
from graft.recipes.pull import pull
from graft.recipes.push import Pushed, push
from graft.recipes.pushing import Request, main
from graft.recipes.recipe import Recipe

TEXTS = ["w1 w2 w3 w0", "w21 w35 w1", "w7"]


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory, tiny_bert: Path) -> Iterator[HubDouble]:
    """A Hub that has the tiny checkpoint, with a card, as me/tiny."""
    with (
        pytest.MonkeyPatch.context() as patch,
        serving(patch, tmp_path_factory.mktemp("hub") / "home" / "cache") as hub,
    ):
        hub.put("me/tiny", tiny_bert)
        hub.add("me/tiny", "README.md", b"---\nlicense: cc-by-4.0\n---\n# Tiny\n")
        yield hub


def run_of(method: Any, model: str, data: Path, out: Path, **sections: Any) -> Path:
    """Train three steps."""
    recipe = Recipe.model_validate(
        {
            "task": {"data": str(data), "text": "text", "label": "label", "max_length": 24},
            "model": {"name": model} | sections,
            "method": method,
            "optim": {"lr": 1e-2},
            "schedule": {"steps": 3, "examples": 8},
            "speed": {"precision": "fp32"},
            "threads": 1,
            "seed": 1,
        }
    )
    return train(recipe, options=RunOptions(out=out, quiet=True)).folder


@pytest.fixture(scope="module")
def run(hub: HubDouble, word_task: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LoRA run on me/tiny."""
    return run_of("lora", "me/tiny", word_task, tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def merged(hub: HubDouble, run: Path) -> Pushed:
    """The run, published merged as me/merged, by a comparison that knows it."""
    compared = {
        "task": "custom", "model": "tiny", "metric": "accuracy", "seeds": (1,), "examples": 37, "scores": (50.0,),
        "mean": 50.0, "difference": 0.0, "low": None, "high": None, "standard_error": None,
        "degrees_of_freedom": None, "direction": "not shown", "size": "not shown",
    }  # fmt: skip
    other = Result(**compared, method="full", runs=("elsewhere/custom-tiny-full",), sentence="full is the reference.")
    ours = Result(**compared, method="lora", runs=(f"elsewhere/{run.name}",), sentence="lora is not shown to differ.")
    protocol = Protocol(
        alpha=0.05, margin=None, reference="full", interval="By hand.", conditional_on="Nothing.", fingerprints={}
    )
    write_comparison(run.parent, Comparison(protocol=protocol, results=(other, ours)))
    return push(run, "me/merged")


@pytest.fixture(scope="module")
def adapter(hub: HubDouble, run: Path) -> Pushed:
    """The run, published as an adapter, as me/adapter."""
    return push(run, "me/adapter", adapter=True, private=True)


def elsewhere(program: str, cache: Path, **settings: str) -> Any:
    """What another process, with a cache of its own, prints as JSON."""
    environment = os.environ | {"HF_HUB_CACHE": str(cache), "HF_HOME": str(cache.parent)} | settings
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert TOKEN not in done.stdout + done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.parametrize("form", ["merged", "adapter"])
def test_a_fresh_cache_brings_equal_logits_back(
    form: str, hub: HubDouble, run: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    request.getfixturevalue(form)
    lines = hub.files(f"me/{form}")["README.md"].decode().split("```python\n")[1].split("```")[0]
    said = elsewhere(
        "import json, torch\n"
        f"{lines}\n"
        "import graft\n"
        "from graft.recipes.pull import pull\n"
        f"texts = {TEXTS!r}\n"
        "with torch.no_grad():\n"
        "    theirs = model(**tokenizer(texts, padding=True, return_tensors='pt')).logits.tolist()\n"
        f"named = graft.load('me/{form}').logits(texts).tolist()\n"
        f"pulled = graft.load(pull('me/{form}', {str(tmp_path / 'pulled')!r}).folder).logits(texts).tolist()\n"
        "print(json.dumps([named, pulled, theirs]))",
        tmp_path / "fresh" / "cache",
    )
    named, pulled, theirs = map(torch.tensor, said)
    ours = load(run).logits(TEXTS)
    if form == "adapter":
        assert torch.equal(named, ours)
    torch.testing.assert_close(named, ours, atol=1e-6, rtol=0)
    torch.testing.assert_close(theirs, ours, atol=1e-5, rtol=0)
    assert torch.equal(named, pulled)


def test_the_card_holds_the_records_values(hub: HubDouble, run: Path, merged: Pushed, adapter: Pushed) -> None:
    record = read_record(run)
    commit = hub.repositories["me/tiny"].branches["main"][-1].sha
    for pushed, relation, library in ((merged, "finetune", "transformers"), (adapter, "adapter", "peft")):
        card = ModelCard(pushed.card)
        found = {result.metric_type: result.metric_value for result in card.data.eval_results}
        assert found == pytest.approx(record.scores["validation"])
        (result, *_) = card.data.eval_results
        shown = (result.task_type, result.dataset_name, result.dataset_split)
        assert shown == ("text-classification", "custom", "validation")
        assert (card.data.base_model, card.data.base_model_relation) == ("me/tiny", relation)
        assert (card.data.library_name, card.data.license) == (library, "cc-by-4.0")
        assert set(card.data.tags) == {"graft", library, "lora"}
        assert commit in card.content
        assert "lora is not shown to differ." in card.content
        assert "data: not known to graft" in card.content
        assert f"torch {record.versions['torch']}" in card.content
        trained = card.content.split("```yaml\n")[1].split("```")[0]
        assert "lr: 0.01" in trained
    assert merged.card.encode() == hub.files("me/merged")["README.md"]


def test_nothing_published_names_this_machine_or_its_token(
    hub: HubDouble, run: Path, merged: Pushed, adapter: Pushed
) -> None:
    for name in ("me/merged", "me/adapter"):
        for path, content in hub.files(name).items():
            assert TOKEN.encode() not in content, path
            assert str(run.parents[1]).encode() not in content, path
            assert b"/tmp/" not in content, path
    written = (run.parent, Path(os.environ["HF_HOME"]), Path(os.environ["GRAFT_CACHE"]))
    every = [file for folder in written for file in folder.rglob("*") if file.is_file()]
    assert every
    assert not [file for file in every if TOKEN.encode() in file.read_bytes()]
    assert (hub.repositories["me/merged"].private, hub.repositories["me/adapter"].private) == (False, True)
    assert len(hub.repositories["me/merged"].branches["main"]) == 2


@pytest.mark.usefixtures("fresh_prover")
@pytest.mark.slow
def test_the_command_says_what_was_published_and_never_the_token(
    hub: HubDouble, run: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    assert main(Request(run, "me/again", merged=True, revision="trial")) == 0
    out = capfd.readouterr()
    address = f"push: {hub.address}/me/again/commit/{hub.repositories['me/again'].branches['trial'][-1].sha}"
    assert out.out.splitlines()[-1] == address
    assert "published in one commit on branch trial; the repository is public (made)" in out.out
    assert "model.safetensors" in out.out
    hub.fail("POST", "/commit/", 403, said=f"Bearer {TOKEN}")
    assert main(Request(run, "me/again")) == 2
    error = capfd.readouterr()
    assert "error: me/again: the token may not write there" in error.err
    assert "Traceback" not in error.err
    assert TOKEN not in out.out + out.err + error.out + error.err + caplog.text


@pytest.mark.slow
def test_a_dry_run_shows_everything_and_asks_nothing(
    hub: HubDouble, run: Path, adapter: Pushed, capsys: pytest.CaptureFixture[str]
) -> None:
    before = list(hub.requests)
    assert main(Request(run, "me/dry", adapter=True, private=True, dry_run=True)) == 0
    assert hub.requests == before
    shown = capsys.readouterr().out
    text = adapter.card.partition("\n---\n")[2]
    assert text.replace("me/adapter", "me/dry").replace("# adapter\n", "# dry\n") in shown
    for path, size in adapter.files.items():
        if path != "README.md":
            assert any(line.split() == [path, f"{size:,}", "bytes"] for line in shown.splitlines()), path
    assert "would go to me/dry; a new repository would be private" in shown
    assert shown.splitlines()[-1] == "push: nothing was sent (--dry-run)"
    assert "me/dry" not in hub.repositories


def test_what_cannot_be_published_is_refused_before_anything_is_asked(
    hub: HubDouble, tiny_bert: Path, word_task: Path, run: Path, tmp_path: Path
) -> None:
    before = len(hub.requests)
    with pytest.raises(GraftError, match="is no repository's name; give it as user/name"):
        push(run, "words")
    with pytest.raises(RunError, match=r"comparison\.json: not there"):
        push(run, "me/x", verdict=tmp_path)
    assert len(hub.requests) == before
    with pytest.raises(GraftError, match="--merged and --adapter exclude each other"):
        push(run, "me/x", merged=True, adapter=True)
    local = run_of("lora", str(tiny_bert), word_task, tmp_path / "runs")
    with pytest.raises(GraftError, match="nobody else could load its adapter"):
        push(local, "me/x", adapter=True)
    assert "me/x" not in hub.repositories
    exported = export(local, tmp_path / "exported", adapter=True).folder
    assert torch.equal(load(exported).logits(TEXTS), load(local).logits(TEXTS))
    with pytest.raises(RunError, match="is an export already"):
        push(exported, "me/x")


def test_what_graft_alone_can_express_comes_back_too(hub: HubDouble, word_task: Path, tmp_path: Path) -> None:
    folder = run_of("lora", "me/tiny", word_task, tmp_path / "runs", pooling="mean")
    assert push(folder, "me/mean").exported.form == "graft"
    assert torch.equal(load("me/mean").logits(TEXTS), load(folder).logits(TEXTS))


def test_a_base_that_moved_on_is_still_found(hub: HubDouble, run: Path, adapter: Pushed, tmp_path: Path) -> None:
    ours = load(run).logits(TEXTS)
    config = json.loads(hub.files("me/tiny")["config.json"])
    hub.add("me/tiny", "config.json", json.dumps(config | {"hidden_act": "relu"}).encode())
    try:
        assert torch.equal(load("me/adapter").logits(TEXTS), ours)
    finally:
        hub.repositories["me/tiny"].branches["main"].pop()
    page = json.loads((pull("me/adapter", tmp_path / "pulled").folder / "adapter_config.json").read_text())
    assert page["revision"] == hub.repositories["me/tiny"].branches["main"][-1].sha


def test_plain_transformers_loads_a_merged_branch(hub: HubDouble, run: Path, merged: Pushed) -> None:
    push(run, "me/merged", revision="branch")
    card = hub.files("me/merged", "branch")["README.md"].decode()
    assert 'graft.load("me/merged", revision="branch")' in card
    tokenizer = AutoTokenizer.from_pretrained("me/merged", revision="branch")
    model = AutoModelForSequenceClassification.from_pretrained("me/merged", revision="branch").eval()
    with torch.no_grad():
        logits = model(**tokenizer(TEXTS, padding=True, return_tensors="pt")).logits
    torch.testing.assert_close(logits, load("me/merged", revision="branch").logits(TEXTS), atol=1e-6, rtol=0)
