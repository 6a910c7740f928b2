"""A recipe is the same run however it is started: same digest, same losses, same scores."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import graft
from graft import train
from graft.eval.records import RunRecord, read_record
from graft.recipes.options import RunOptions
from graft.recipes.recipe import Recipe, to_yaml

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent

# What `graft train` and `python -m` share with the scripts is shown in test_cli.py, without training.
WAYS = {
    "by path": [sys.executable, str(ROOT / "recipes" / "classify.py")],
    "accelerate launch": [
        *(str(BIN / "accelerate"), "launch", "--num_processes", "1", "--num_machines", "1"),
        *("--mixed_precision", "no", "--dynamo_backend", "no", str(ROOT / "recipes" / "classify.py")),
    ],
}


@pytest.fixture
def recipe(tiny_recipe: Callable[..., Recipe]) -> Recipe:
    return tiny_recipe("lora", schedule={"steps": 3}, threads=None)


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_a_launched_script_makes_the_same_run_as_python(way: str, recipe: Recipe, tmp_path: Path) -> None:
    here: RunRecord = train(recipe, options=RunOptions(out=tmp_path / "here", quiet=True)).record
    file = tmp_path / "recipe.yaml"
    file.write_text(to_yaml(recipe))
    # The seed comes by flag, over the file: both are read.
    file.write_text(file.read_text().replace("seed: 1\n", "seed: 5\n"))
    command = [*WAYS[way], "--recipe", str(file), "--seed", "1", "--out", "there"]
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    folder = done.stdout.splitlines()[-1].removeprefix("run: ")
    there = read_record(tmp_path / folder)
    assert there.digest == here.digest
    assert there.losses == here.losses
    assert there.scores == here.scores


def test_the_package_offers_its_three_names_and_refuses_others() -> None:
    assert {"Recipe", "load", "train"} <= set(dir(graft))
    assert graft.Recipe is Recipe
    with pytest.raises(AttributeError, match="compair"):
        graft.compair  # noqa: B018


@pytest.mark.parametrize(
    ("given", "expected"),
    [({}, {"1000", "4000"}), ({"GOMP_SPINCOUNT": "7"}, {"7"}), ({"OMP_WAIT_POLICY": "active"}, {"None"})],
    ids=["by itself", "count", "policy"],
)
def test_how_threads_wait_is_set_unless_the_user_says_otherwise(given, expected):
    bare = {key: value for key, value in os.environ.items() if key not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    code = "import graft, os, sys; print(os.environ.get('GOMP_SPINCOUNT'), 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], env=bare | given, capture_output=True, text=True, check=True)
    found, torch_came = done.stdout.split()
    assert found in expected
    assert torch_came == "False"


@pytest.mark.parametrize(
    ("load", "cores", "spins"),
    [
        ("0.20 0.18 0.12 1/80 4060\n", 2, 4_000),
        ("0.20 0.18 0.12 2/80 4060\n", 2, 1_000),
        ("9.20 5.18 3.12 8/999 4060\n", 16, 4_000),
        ("9.20 5.18 3.12 9/999 4060\n", 16, 1_000),
        ("", 2, 1_000),
        (None, 2, 1_000),
    ],
)
def test_threads_that_wait_leave_the_processor_where_others_need_it(load, cores, spins, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    if load is not None:
        (tmp_path / "loadavg").write_text(load)
    assert graft._spins(tmp_path / "loadavg") == spins
