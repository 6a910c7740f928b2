"""Run folders that are half written, of another recipe or in use: one message, and nothing in them is touched."""

import json
import shutil
import subprocess
import sys

import pytest
from safetensors.torch import load_file, save_file

from graft import cli
from graft.recipes import checkpoints
from graft.recipes import loop as loop_module
from graft.recipes.recipe import to_yaml


class Killed(BaseException):
    """Stands in for a kill: nothing of ours catches it."""


@pytest.fixture
def command(tmp_path, tiny_recipe):
    """Make `command(*flags)`: a command line of a run of 4 steps with a checkpoint after each."""
    file = tmp_path / "recipe.yaml"
    file.write_text(to_yaml(tiny_recipe("lora", schedule={"steps": 4})))
    fixed = ["train", "--recipe", str(file), "--checkpoint-steps", "1", "--out", str(tmp_path / "runs"), "--quiet"]
    return lambda *flags: [*fixed, *flags]


@pytest.fixture
def unfinished(command, tmp_path, monkeypatch):
    """The folder of a run that was killed after two steps."""
    real = loop_module.train_step

    def deadly(states, accelerator):
        if states[0].step == 2:
            raise Killed
        real(states, accelerator)

    with monkeypatch.context() as patched:
        patched.setattr(loop_module, "train_step", deadly)
        with pytest.raises(Killed):
            cli.main(command())
    (folder,) = (tmp_path / "runs").glob("custom-*")
    assert checkpoints.newest(folder).name == "step-00000002"
    return folder


@pytest.fixture
def finished(command, tmp_path):
    """The folder of a run that is done."""
    assert cli.main(command()) == 0
    (folder,) = (tmp_path / "runs").glob("custom-*")
    return folder


def content(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def refused(capsys, tmp_path):
    """Make `refused(line)`: what a command line is refused with, after making sure that nothing was touched."""

    def attempt(line):
        capsys.readouterr()
        before = content(tmp_path / "runs")
        assert cli.main(line) == 2
        assert content(tmp_path / "runs") == before
        captured = capsys.readouterr()
        assert captured.out == ""
        (message,) = captured.err.splitlines()
        return message

    return attempt


def test_an_unfinished_run_is_not_overwritten_unasked(command, unfinished, refused):
    message = refused(command())
    assert message == (
        f"error: {unfinished}: holds an unfinished run (step-00000002); add --resume to go on, or delete it"
    )


@pytest.mark.parametrize("part", ["state.json", "learned.safetensors", "optimizer.safetensors", "rest.safetensors"])
@pytest.mark.parametrize("damage", ["cut", "gone"])
def test_a_damaged_checkpoint_is_refused(command, unfinished, refused, part, damage):
    path = checkpoints.newest(unfinished)
    if damage == "cut":
        (path / part).write_bytes((path / part).read_bytes()[:10])
    else:
        (path / part).unlink()
    message = refused(command("--resume"))
    assert message.startswith(f"error: {path}: the checkpoint is damaged (")
    assert message.endswith("); delete it and train again")


def test_a_checkpoint_without_some_of_its_numbers_or_weights_is_refused(command, unfinished, refused):
    path = checkpoints.newest(unfinished)
    page = json.loads((path / "state.json").read_text())
    for key in sorted(page):
        (path / "state.json").write_text(json.dumps({name: value for name, value in page.items() if name != key}))
        assert f"error: {path}: the checkpoint is damaged (" in refused(command("--resume")), key
    (path / "state.json").write_text("[]")
    assert f"error: {path}: the checkpoint is damaged (" in refused(command("--resume"))
    (path / "state.json").write_text(json.dumps(page))
    learned = load_file(path / "learned.safetensors")
    name, weight = next(iter(learned.items()))
    for less in ({}, {key: learned[key] for key in learned if key != name}, learned | {name: weight[:1].clone()}):
        save_file(less, path / "learned.safetensors")
        assert f"error: {path}: the checkpoint is damaged (it lacks weights)" in refused(command("--resume"))
    save_file(learned, path / "learned.safetensors")
    assert cli.main(command("--resume")) == 0


def test_a_checkpoint_of_another_recipe_is_refused(command, unfinished, refused):
    path = checkpoints.newest(unfinished)
    page = json.loads((path / "state.json").read_text())
    (path / "state.json").write_text(json.dumps(page | {"digest": "0" * 64}))
    message = refused(command("--resume"))
    assert message == f"error: {path}: the checkpoint belongs to another run; choose another --out or delete it"


def test_a_run_of_another_recipe_in_this_ones_folder_is_not_taken_for_it(command, finished, refused):
    record = json.loads((finished / "record.json").read_text())
    (finished / "record.json").write_text(json.dumps(record | {"digest": "0" * 64}))
    for flags in ((), ("--resume",)):
        message = refused(command(*flags))
        assert message == f"error: {finished}: holds the run of another recipe; move it away or choose another --out"


@pytest.mark.parametrize("damage", ["cut", "[]", "{}", ""])
def test_a_damaged_record_is_refused(command, finished, refused, damage):
    file = finished / "record.json"
    file.write_text(file.read_text()[:200] if damage == "cut" else damage)
    assert refused(command()).startswith(f"error: {file}: ")


def test_results_without_their_record_count_as_none_and_are_made_again(command, finished, capsys):
    whole = content(finished)
    (finished / "record.json").unlink()
    (finished / "predictions.parquet").write_bytes(b"half")
    shutil.rmtree(finished / "adapter")
    assert cli.main(command()) == 0
    again = content(finished)
    assert set(again) == set(whole)
    same = [path for path in whole if path.name != "record.json"]  # which has the seconds
    assert [again[path] for path in same] == [whole[path] for path in same]


def test_a_run_that_a_live_process_is_making_is_refused(command, unfinished, refused):
    (lock,) = (unfinished.parent / ".locks").iterdir()
    take = "import sys; from filelock import FileLock; lock = FileLock(sys.argv[1]); lock.acquire()"
    program = f"{take}; print(flush=True); input()"
    process = subprocess.Popen([sys.executable, "-c", program, lock], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        process.stdout.readline()
        message = refused(command("--resume"))
    finally:
        process.communicate()
    assert message.startswith(f"error: {unfinished}: another process is training this very run; wait for it")
    assert cli.main(command("--resume")) == 0  # the process is gone, and with it its claim
