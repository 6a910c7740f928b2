"""What the machine offers, where a recipe leaves it open: device, arithmetic and threads."""

import os
import resource
import sys
from typing import Any, Literal

import psutil

from graft.errors import RecipeError

Device = Literal["cpu", "cuda", "mps", "xpu"]


def device() -> Device:
    """Choose where to compute: the machine's accelerator, or else its processor.

    Accelerate's own switch, ACCELERATE_USE_CPU, tells a machine with an accelerator to use its processor.
    """
    import torch

    if os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("true", "1", "yes"):
        return "cpu"
    found = torch.accelerator.current_accelerator(check_available=True)
    kind: Any = "cpu" if found is None else found.type
    return kind if kind in ("cuda", "mps", "xpu") else "cpu"


def check_device(name: str) -> None:
    """Refuse a device that this machine does not have.

    Raises:
        RecipeError: As the name says.
    """
    import torch

    found = torch.accelerator.current_accelerator(check_available=True)
    there = ["cpu"] if found is None else ["cpu", found.type]
    if name not in there:
        raise RecipeError(f"device: {name} is not available here; there is {' and '.join(there)}")


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


def peak_memory(device: str) -> int:
    """Tell the peak memory of this process in bytes: allocated on the GPU, or resident elsewhere."""
    import torch

    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
