"""Checkpoints that cannot be used: one message on the command line that names the culprit and says what to do."""

import json
import re
import shutil
import socket
import time

import huggingface_hub
import pytest
from huggingface_hub import constants
from huggingface_hub.errors import HfHubHTTPError

from graft import cli, hub
from graft.adapters import checkpoint as module
from graft.adapters.checkpoint import MODELS, Alias, resolve
from graft.adapters.config import ModelConfig
from graft.errors import CheckpointError
from graft.files import sha256_file
from graft.recipes.recipe import to_yaml


@pytest.fixture
def refused(tiny_recipe, tmp_path, capsys):
    """Make `refused(model, *flags)`: what training on it is refused with; no run folder may be made."""
    file = tmp_path / "recipe.yaml"
    file.write_text(to_yaml(tiny_recipe("lora")))

    def attempt(model, *flags):
        capsys.readouterr()
        out = ["--out", str(tmp_path / "runs"), "--quiet"]
        assert cli.main(["train", "--recipe", str(file), "--model", str(model), *flags, *out]) == 2
        assert not list(tmp_path.glob("runs/[!.]*"))  # there may be locks
        captured = capsys.readouterr()
        assert captured.out == ""
        (message,) = captured.err.splitlines()
        return message.removeprefix("error: ")

    return attempt


@pytest.fixture
def folder(tiny_bert, tmp_path):
    """A copy of the tiny checkpoint, to be damaged."""
    return shutil.copytree(tiny_bert, tmp_path / "damaged")


def test_a_folder_that_is_not_there(refused, tmp_path):
    assert refused(tmp_path / "none") == f"model.name: there is no folder {tmp_path / 'none'}; check the path"


def test_pickled_weights_alone(refused, folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    message = refused(folder)
    assert message.startswith(f"{folder}: the weights are pickled (pytorch_model.bin), which can run code when read; ")
    assert "convert them to safetensors" in message


def test_no_tokenizer(refused, folder):
    for file in folder.glob("tokenizer*"):
        file.unlink()
    assert refused(folder) == f"{folder}: no tokenizer; put tokenizer.json there"


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("model.safetensors", "{folder}: cannot be loaded (.*); fetch it again"),
        ("config.json", "{folder}/config.json: not a JSON object (.*); fetch it again"),
        ("tokenizer.json", "{folder}: the tokenizer cannot be loaded (.*); fetch its files again"),
    ],
)
def test_a_file_that_was_cut(refused, folder, name, complaint):
    (folder / name).write_bytes((folder / name).read_bytes()[:20])
    assert re.fullmatch(complaint.format(folder=folder), refused(folder))


def test_settings_that_transformers_does_not_take(refused, folder):
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(settings | {"hidden_size": "wide"}))
    assert re.fullmatch(rf"{folder}: config.json cannot be used \(.*\); fetch it again", refused(folder))
    (folder / "config.json").write_text("[]")
    assert refused(folder).startswith(f"{folder}/config.json: not a JSON object")


def test_an_architecture_without_a_row_is_said_to_be_that(refused, folder):
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(settings | {"model_type": "t5"}))
    assert refused(folder).startswith(f"{folder}: architecture 't5' is not supported; use one of albert, bert, ")


def test_an_alias_whose_hash_is_wrong(refused, folder, monkeypatch):
    names = ("model.safetensors", "config.json")
    alias = Alias("org/tiny", "a-package", "folder", {name: sha256_file(folder / name) for name in names})
    monkeypatch.setitem(MODELS, "tiny-bert", alias)
    monkeypatch.setattr(module, "embedded", lambda alias: folder)
    with (folder / "model.safetensors").open("r+b") as stream:
        stream.seek(-1, 2)
        stream.write(b"\x07")
    message = refused("tiny-bert")
    assert message.startswith(f"{folder}/model.safetensors: SHA-256 is ")
    assert message.endswith("the file was changed or damaged: install or fetch it again")


def test_examples_that_are_cut_are_counted(tiny_recipe, tmp_path, caplog, capsys):
    file = tmp_path / "recipe.yaml"
    file.write_text(to_yaml(tiny_recipe("lora", task={"max_length": 8}, schedule={"steps": 1})))
    assert cli.main(["train", "--recipe", str(file), "--out", str(tmp_path / "runs"), "--quiet"]) == 0
    (said,) = [record.getMessage() for record in caplog.records if "are cut" in record.getMessage()]
    (file,) = tmp_path.glob("runs/*/record.json")
    cut = json.loads(file.read_text())["truncated"]
    assert set(cut) == {"train", "holdout", "validation"}
    assert min(cut.values()) > 0
    assert said.startswith("task.max_length: examples of more than 8 tokens are cut (")
    assert {name: int(number) for number, name in re.findall(r"(\d+) of \d+ in (\w+)", said)} == cut
    caplog.clear()
    assert cli.main(["train", "--recipe", str(file.parents[2] / "recipe.yaml"), "--task.max_length", "40"]) in (0, 2)
    assert "are cut" not in caplog.text


def test_a_maximum_length_beyond_the_models(refused, folder):
    message = refused(folder, "--task.max_length", "41")
    assert message == "task.max_length: 41 tokens; the checkpoint takes 40: set it to that or less"


OFFLINE_ADVICE = "name a folder or an alias such as minilm, or"


def test_a_hub_name_with_the_hub_switched_off(refused, monkeypatch, tmp_path):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(hub, "silence", lambda *_: pytest.fail("the Hub was asked"))
    message = refused("org/no-such-model")
    assert message == (
        "model.name: 'org/no-such-model' is no local folder and not in the Hub's cache, and HF_HUB_OFFLINE is set; "
        f"{OFFLINE_ADVICE} unset it"
    )
    assert refused("minilmm").endswith("HF_HUB_OFFLINE is set (did you mean 'minilm'?)")


def test_a_hub_name_without_a_network_is_given_up_at_once(refused, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub, "PATIENCE", 0.05)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        monkeypatch.setattr(constants, "ENDPOINT", address)
        begin = f"model.name: 'org/no-such-model' is no local folder and not in the Hub's cache, and {address} cannot "
        started = time.process_time()
        message = refused("org/no-such-model")
        assert message.startswith(f"{begin}be reached (")
        assert message.endswith(f"; {OFFLINE_ADVICE} go online")
        silent.listen()  # takes the call and says nothing
        assert refused("org/no-such-model").startswith(f"{begin}be reached (")
    assert time.process_time() - started < 10


def test_a_cached_hub_checkpoint_is_used_without_a_network(folder, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")

    def cached(name, *, local_files_only, **_):
        assert local_files_only, "the Hub's client would retry"
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", cached)
    assert resolve(ModelConfig(name="org/tiny")).source == "hub"
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"'?org/tiny'? brings no model\.safetensors, and pickled .* name a rev"):
        resolve(ModelConfig(name="org/tiny"))


def test_a_prefix_on_an_architecture_that_refuses_it(tiny, put_tokenizer, refused):
    path = tiny("distilbert").path
    put_tokenizer(path, pad_token="[PAD]", eos_token="<end>")
    message = refused(path, "--method", "prefix")
    assert message == (
        "method: prefix does not work on distilbert, which takes no past keys and values; use bottleneck or lora"
    )


class Silence(HfHubHTTPError.__bases__[0]):
    """An error of the HTTP library that the Hub's client uses, whichever that is."""

    def __init__(self):
        Exception.__init__(self, "timed out")


@pytest.mark.parametrize("named", [OSError("[Errno 28] No space left on device"), Silence()], ids=["disk", "HTTP"])
def test_whatever_fails_while_a_checkpoint_is_fetched_is_one_message(monkeypatch, named):
    def fails(*_, **__):
        raise named

    monkeypatch.setattr(module, "unreachable", lambda: None)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", fails)
    with pytest.raises(CheckpointError, match=r"model\.name: cannot fetch 'me/words' \(.*(No space|timed out)"):
        resolve(ModelConfig(name="me/words"))


def test_a_bug_while_a_checkpoint_is_fetched_is_no_failure_of_the_hub(monkeypatch):
    def fails(*_, **__):
        raise ZeroDivisionError

    monkeypatch.setattr(module, "unreachable", lambda: None)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", fails)
    with pytest.raises(ZeroDivisionError):
        resolve(ModelConfig(name="me/words"))
