"""Real processes: two of them agree with one, and one that is killed with SIGKILL goes on bit for bit."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from domain_term import DomainTerm

from graft import train
from graft.adapters.methods import METHODS
from graft.eval.records import read_predictions, read_record
from graft.recipes.options import RunOptions
from graft.recipes.recipe import canonical

SCRIPT = Path(__file__).with_name("processes.py")
# `--cpu --num_processes 2` silently runs one process; this form runs two (accelerate 1.15).
LAUNCH = [
    *(sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"),
    *("--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"),
]
ENVIRONMENT = os.environ | {"HF_HUB_OFFLINE": "1", "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}


def cases(tiny_recipe):
    strategy = {"strategy": "gradual_unfreezing"}
    return [
        (tiny_recipe("full", objective={"terms": "l2sp"}), False),
        (tiny_recipe("lora", **strategy), False),
        (tiny_recipe("lora", budget={"tokens": 40}), True),
        (tiny_recipe({"name": "adalora", "r": 2, "initial_r": 4}), False),
        *((tiny_recipe(name, family), False) for name in METHODS for family in ("bert", "gpt2") if name != "adalora"),
        (
            tiny_recipe("lora", "gpt2", task={"text": "text", "kind": "causal_lm", "label": None, "max_length": 16}),
            False,
        ),
    ]


def write_page(path, cases):
    path.write_text(json.dumps([[canonical(recipe), with_term] for recipe, with_term in cases]))
    return path


def runs(folder):
    """Runs by everything in their names but the digest, which knows the number of processes."""
    return sorted(folder.glob("*/record.json"), key=lambda path: path.stat().st_mtime)


@pytest.mark.slow
def test_two_processes_train_and_score_as_one_does(tmp_path, tiny_recipe):
    made = cases(tiny_recipe)
    page = write_page(tmp_path / "recipes.json", made)
    one = subprocess.run([sys.executable, SCRIPT, page, tmp_path / "one", "1"], env=ENVIRONMENT, check=False)
    two = subprocess.run([*LAUNCH, SCRIPT, page, tmp_path / "two", "2"], env=ENVIRONMENT, check=False)
    assert one.returncode == two.returncode == 0
    pairs = list(zip(runs(tmp_path / "one"), runs(tmp_path / "two"), strict=True))
    assert len(pairs) == len(made)
    for single, double in pairs:
        a, b = read_record(single.parent), read_record(double.parent)
        assert (a.hardware["processes"], b.hardware["processes"]) == (1, 2)
        np.testing.assert_allclose(b.losses, a.losses, rtol=1e-4, err_msg=str(a.recipe["method"]))
        left, right = read_predictions(single.parent), read_predictions(double.parent)
        for split, scored in left.items():
            assert scored.ids.tolist() == right[split].ids.tolist()
            assert len(set(right[split].ids.tolist())) == len(right[split].ids)
            np.testing.assert_allclose(right[split].scores, scored.scores, rtol=5e-3, atol=5e-3)


@pytest.mark.slow
def test_a_run_killed_by_the_system_resumes_bit_for_bit(tmp_path, tiny_recipe):
    recipe = tiny_recipe("lora", strategy="gradual_unfreezing", schedule={"epochs": 12})
    page = write_page(tmp_path / "recipes.json", [(recipe, True)])

    command = [sys.executable, SCRIPT, page, tmp_path / "cut", "1", "--resume"]
    for _ in range(2):
        process = subprocess.Popen(command, env=ENVIRONMENT)
        deadline = time.monotonic() + 120
        start = newest_step(tmp_path / "cut")
        while newest_step(tmp_path / "cut") < start + 5 and time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL, "finished before it could be killed: nothing was shown"
    for out, resume in (("whole", False), ("cut", True)):
        options = RunOptions(out=tmp_path / out, quiet=True, resume=resume, checkpoint_steps=1)
        train(recipe, options=options, terms=[DomainTerm()])
    (whole,), (cut,) = runs(tmp_path / "whole"), runs(tmp_path / "cut")
    assert read_record(whole.parent).losses == read_record(cut.parent).losses
    for name in ("adapter/adapter_model.safetensors", "predictions.parquet"):
        assert (whole.parent / name).read_bytes() == (cut.parent / name).read_bytes()


def newest_step(folder):
    return max((int(path.name.removeprefix("step-")) for path in folder.glob("*/checkpoints/step-*")), default=0)
