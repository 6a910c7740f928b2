"""What a finished run says about itself: the record that evaluation reads."""

import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from graft.eval.predict import Predictions
from graft.eval.records import RunRecord, describe_data, diagnose
from graft.recipes.building import Materials
from graft.recipes.recipe import canonical
from graft.recipes.scoring import metrics_of
from graft.recipes.state import RunState

_PACKAGES = ("graft-nlp", "torch", "transformers", "peft", "accelerate", "datasets", "tokenizers", "numpy")


def make_record(
    state: RunState,
    materials: Materials,
    predictions: dict[str, Predictions],
    run_kind: str,
    accelerator: Accelerator,
    peak_memory_bytes: int,
) -> RunRecord:
    """Write down a run.

    Args:
        state: After its last step, with the weights that it keeps.
        materials: What it was made of.
        predictions: Split → scores of every example.
        run_kind: `trial` or `final`.
        accelerator: Where it was trained.
        peak_memory_bytes: Of this process.

    Returns:
        The record, without cost figures.
    """
    data = describe_data(materials.data)
    return RunRecord.model_validate(
        {
            "digest": materials.digest,
            "kind": run_kind,
            "recipe": canonical(materials.recipe),
            "scores": metrics_of(materials, predictions),
            "primary_metric": materials.data.task.metrics[0],
            "diagnostics": diagnose(data, predictions),
            "parameters": count_parameters(state),
            "method_figures": state.attached.figures(),
            "train_seconds": state.seconds,
            "samples_per_second": state.examples_seen / state.seconds if state.seconds else 0.0,
            "peak_memory_bytes": peak_memory_bytes,
            "losses": state.losses,
            "steps": state.step,
            "planned_steps": state.total_steps,
            "kept_step": state.best_step if state.best is not None else state.step,
            "evaluations": [{"step": e.step, "scores": {"holdout": e.scores}} for e in state.evaluations],
            "truncated": {name: encoded.truncated for name, encoded in materials.encoded.items()},
            "holdout_trained_on": not len(materials.data.holdout),
            "data": data,
            "checkpoint": materials.checkpoint.digest,
            "micro_batch_tokens": state.tokens,
            "versions": versions(),
            "commit": _commit(),
            "hardware": _hardware(accelerator) | ({"together": len(state.sweep.states)} if state.sweep else {}),
        }
    )


def count_parameters(state: RunState) -> dict[str, int]:
    """Count parameters: all, those that learn, and those that learn outside the head (a fresh pooler is head)."""
    head = {id(weight) for weight in state.model.head_parameters().values()}
    learning = [learner.weight for learner in state.learners if learner.name.startswith("model.")]
    return {
        "trainable": sum(weight.numel() for weight in learning),
        "trainable_without_head": sum(weight.numel() for weight in learning if id(weight) not in head),
        "total": sum(weight.numel() for weight in state.model.parameters()),
    }


def versions() -> dict[str, str]:
    """Name the versions of everything that computes."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _commit() -> str | None:
    """Name graft's own commit where it runs from a checkout."""
    source = Path(__file__).resolve().parent.parent
    if not (source / ".git").exists():
        return None
    asked = subprocess.run(["git", "-C", str(source), "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    return asked.stdout.strip() or None


def arithmetic_of(device: torch.device) -> dict[str, Any]:
    """Name what, beside versions, decides the last bits of a matrix product.

    Args:
        device: Where it is computed.
    """
    if device.type == "cuda":
        processor, settings = torch.cuda.get_device_name(device), str(torch.backends.cuda.matmul.allow_tf32)
    else:
        processor, settings = _processor(), torch.backends.cpu.get_cpu_capability()
    return {
        "device": device.type,
        "processor": processor,
        "settings": [settings, torch.get_float32_matmul_precision(), torch.are_deterministic_algorithms_enabled()],
    }


def _processor() -> str:
    """The processor's model, as far as the system tells."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    named = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "")
    return named or platform.processor() or platform.machine()


def _hardware(accelerator: Accelerator) -> dict[str, Any]:
    device = accelerator.device
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else None
    return {
        "device": device.type,
        "gpu": gpu,
        "processes": accelerator.num_processes,
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "cpu": platform.processor() or platform.machine(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
    }
