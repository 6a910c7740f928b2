"""A disk that fills up during a run: one message, the last good checkpoint, and a resume to the same bytes."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from safetensors.torch import load_file

from graft import cli
from graft.recipes import checkpoints, making
from graft.recipes import loop as loop_module
from graft.recipes.recipe import to_yaml

SPACE = 2 * 2**20
HALF_A_CHECKPOINT = 40_000  # bytes: enough for what the tiny model has learned, too few for the moments as well


@pytest.fixture
def small_disk(tmp_path):
    """A file system of its own, of 2 MiB."""
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("only root can mount a small disk")
    folder = tmp_path / "small"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={SPACE}", "tmpfs", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"cannot mount a small disk: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def fill(disk, left):
    """Leave so many bytes, to a page."""
    (disk / "others").write_bytes(bytes(shutil.disk_usage(disk).free - left))


def fill_before_step(disk, left, monkeypatch, number):
    real = loop_module.train_step

    def step(states, accelerator):
        if states[0].step == number - 1:
            fill(disk, left)
        real(states, accelerator)

    monkeypatch.setattr(loop_module, "train_step", step)


def fill_before_scoring(disk, left, monkeypatch):
    real = making.score_splits

    def score(state, materials, names, accelerator):
        if "validation" in names:
            fill(disk, left)
        return real(state, materials, names, accelerator)

    monkeypatch.setattr(making, "score_splits", score)


def weights(out):
    (file,) = out.glob("*/adapter/*.safetensors")
    return file.read_bytes()


@pytest.mark.parametrize("left", [0, HALF_A_CHECKPOINT])
@pytest.mark.parametrize("filled_before", ["a checkpoint", "the results"])
def test_a_full_disk_costs_no_more_than_the_steps_since_the_last_checkpoint(
    small_disk, tmp_path, tiny_recipe, monkeypatch, capsys, filled_before, left
):
    file = tmp_path / "recipe.yaml"
    file.write_text(to_yaml(tiny_recipe("full", schedule={"steps": 7})))
    command = ["train", "--recipe", str(file), "--checkpoint-steps", "2", "--quiet", "--out"]
    assert cli.main([*command, str(tmp_path / "undisturbed")]) == 0
    out = small_disk / "runs"
    with monkeypatch.context() as patched:
        if filled_before == "a checkpoint":
            fill_before_step(small_disk, left, patched, number=4)
        else:
            fill_before_scoring(small_disk, min(left, 20_000), patched)  # the adapter alone would fit into 40,000
        capsys.readouterr()
        assert cli.main([*command, str(out)]) == 2
    (folder,) = out.glob("custom-*")
    captured = capsys.readouterr()
    what = "checkpoints/step-00000004" if filled_before == "a checkpoint" else r"(adapter|\.examples/\w+\.parquet)"
    pattern = rf"error: ({folder}|{out})/{what}: cannot write \(No space left on device\); free some space or .*\n"
    assert re.fullmatch(pattern, captured.err)
    assert captured.out == ""
    newest = checkpoints.newest(folder)
    assert newest.name == ("step-00000002" if filled_before == "a checkpoint" else "step-00000006")
    assert all(load_file(part) for part in newest.glob("[lo]*.safetensors"))
    assert {path.name for path in out.rglob(".*")} <= {".locks", ".examples"}
    assert not list(out.rglob("record.json"))
    Path(small_disk / "others").unlink()
    assert cli.main([*command, str(out), "--resume"]) == 0
    assert weights(out) == weights(tmp_path / "undisturbed")
