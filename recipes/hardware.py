"""What the machine offers, where a recipe leaves it open: device, arithmetic and threads; and how much memory."""

import os
import resource
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import psutil

from graft.errors import RecipeError
from graft.recipes import heap

if TYPE_CHECKING:
    import torch
    from accelerate import Accelerator

Device = Literal["cpu", "cuda", "mps", "xpu"]


_QUEUEING = ("cuda",)
"""Kinds of device whose work is queued: to read a number from one is to wait until it has done all before."""

_IN_CACHE = 512
"""Tokens of a scored batch for each thread of a processor.

Measured with MiniLM in fp32 on one thread: processor time of a sentence at 512, 1024, 2048, 4096 and 8192 tokens is as
1 : 1.1 : 1.2 : 1.4 : 1.8.
"""


def device() -> Device:
    """Choose where to compute: the machine's accelerator, or else its processor.

    Accelerate's own switch, ACCELERATE_USE_CPU, tells a machine with an accelerator to use its processor.
    """
    import torch

    if _kept_on_processor():
        return "cpu"
    found = torch.accelerator.current_accelerator(check_available=True)
    kind: Any = "cpu" if found is None else found.type
    return kind if kind in ("cuda", "mps", "xpu") else "cpu"


def _kept_on_processor() -> bool:
    """Whether Accelerate's own switch says so."""
    return os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("true", "1", "yes")


def check_device(name: str) -> None:
    """Refuse a device that this machine does not have, or that Accelerate's own switch forbids.

    Raises:
        RecipeError: As the name says.
    """
    import torch

    if name != "cpu" and _kept_on_processor():
        raise RecipeError(f"device: {name} is asked for, and ACCELERATE_USE_CPU forbids it; unset one of the two")

    found = torch.accelerator.current_accelerator(check_available=True)
    there = ["cpu"] if found is None else ["cpu", found.type]
    if name not in there:
        raise RecipeError(f"device: {name} is not available here; there is {' and '.join(there)}")


def compiles_lengths(device: "torch.device", precision: str) -> bool:
    """Tell whether matrix products are compiled anew for every length of a batch, at a price.

    oneDNN does so for bf16 on a processor. With tiles (AMX) that takes 1 to 4 ms for each of the some thirty products
    of a step that differ, with LoRA on MiniLM 34 ms of 250, where what it keeps is bounded (see `heap`).
    """
    import torch

    return device.type == "cpu" and precision == "bf16" and bool(torch.cpu.get_capabilities().get("amx_bf16"))


def queues(device: "torch.device") -> bool:
    """Tell whether a device queues its work, so that the host had better ask it for nothing in the middle of a step."""
    return device.type in _QUEUEING


def seed(device: "torch.device", number: int) -> None:
    """Seed the generators that a device's operations draw from unless they are given another.

    `torch.manual_seed` seeds those of all kinds of devices, and notes for each kind that nothing has used so far who
    asked for that: with three of them a millisecond, which is a hundredth of a step of short sentences.

    Args:
        device: Where operations run.
        number: The seed.
    """
    import torch

    torch.default_generator.manual_seed(number)
    if device.type != "cpu":
        torch.get_device_module(device).manual_seed(number)


def precision(device: str) -> Literal["fp32", "bf16"]:
    """Choose the arithmetic of the forward pass: bf16 where the hardware computes it natively, else fp32.

    Emulated bf16 is slower than fp32 and no smaller, so it is never chosen.

    Args:
        device: Where the forward pass runs.
    """
    import torch

    if device == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    if device != "cpu":
        return "fp32"
    capabilities = torch.cpu.get_capabilities()
    return "bf16" if capabilities.get("avx512_bf16") or capabilities.get("amx_bf16") else "fp32"


def threads() -> int:
    """Share the cores that this process may use among the processes that run on this machine.

    Not torch's own default, which launchers change through `OMP_NUM_THREADS`: the same recipe would then get another
    digest from `accelerate launch` than from `python`.

    Returns:
        Threads for each process, at least one.
    """
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    physical = psutil.cpu_count(logical=False) or allowed
    return max(1, min(allowed, physical) // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def scoring_tokens(budget: int, device: str, threads: int | None) -> int:
    """Tokens of a batch, padding included, that scoring is fastest with; a processor's caches hold its activations.

    Args:
        budget: What memory has room for.
        device: Where it is scored.
        threads: How many score together; none counts as one.
    """
    return min(budget, _IN_CACHE * (threads or 1)) if device == "cpu" else budget


def peak_memory(device: str) -> int:
    """Tell the peak memory of this process in bytes: allocated on the GPU, or resident elsewhere."""
    if device == "cuda":
        import torch

        return torch.cuda.max_memory_allocated()
    status = Path("/proc/self/status")
    if status.exists():  # getrusage's figure is no smaller than what the parent had when it started this process
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def free_memory(control: Path = Path("/sys/fs/cgroup"), process: Path = Path("/proc/self/cgroup")) -> int:
    """Tell how many bytes of main memory this process may still take, for the machine's sake and its container's.

    A container is killed at its own limit, however much the machine has left. Limits of all control groups that the
    process is in count. File pages that nobody uses just now are given back before anyone is killed, so they are free.

    Args:
        control: Where the control groups are mounted, version 2 or 1.
        process: The page that names this process's groups.
    """
    return min([int(psutil.virtual_memory().available), *_left_in_groups(control, process)])


def _left_in_groups(control: Path, process: Path) -> Iterator[int]:
    """Bytes left in each control group with a limit that the process is in, the innermost first."""
    try:
        groups = [line.split(":", 2) for line in process.read_text().splitlines()]
    except OSError:  # no Linux
        return
    for _, controllers, path in groups:
        if controllers == "":
            root, names = control, ("memory.max", "memory.current", "inactive_file ")
        elif "memory" in controllers.split(","):
            root, names = control / "memory", ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file ")
        else:
            continue
        inner = root / path.lstrip("/")
        for folder in (inner, *inner.parents):
            left = _left(folder, *names)
            if left is not None:
                yield left
            if folder == root:
                break


def _left(folder: Path, limit: str, used: str, unused_files: str) -> int | None:
    """Bytes left in one control group; none where it sets no limit or, seen from within a container, is not there."""
    try:
        most, taken = (folder / limit).read_text().strip(), int((folder / used).read_text())
    except OSError:
        return None
    if most == "max":
        return None
    statistics = folder / "memory.stat"
    lines = statistics.read_text().splitlines() if statistics.exists() else []
    files = next((int(line.split()[1]) for line in lines if line.startswith(unused_files)), 0)
    return max(0, int(most) - taken + files)


def accelerator(name: str, **settings: Any) -> "Accelerator":
    """Make an accelerator for one device; precision stays the recipe's, whatever the launcher says.

    Args:
        name: The device.
        settings: What else Accelerate is told.

    Raises:
        RecipeError: The device is not there, or this process computes on another one already: Accelerate keeps to the
            first.
    """
    from accelerate import Accelerator

    check_device(name)
    heap.bound_caches()
    try:
        made = Accelerator(mixed_precision="no", cpu=name == "cpu", **settings)
    except ValueError as error:
        raise RecipeError(f"device: {name} cannot be used in this process any more ({error}); start another") from error
    if made.device.type != name:
        raise RecipeError(
            f"device: this process computes on {made.device.type} already and cannot change to {name}; start another"
        )
    return made
