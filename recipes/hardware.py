"""What the machine offers, where a recipe leaves it open: arithmetic and threads."""

import os
from typing import Literal

import psutil


def precision() -> Literal["fp32", "bf16"]:
    """Choose the arithmetic of the forward pass: bf16 where the hardware computes it natively, else fp32.

    Emulated bf16 is slower than fp32 and no smaller, so it is never chosen.
    """
    import torch

    # Accelerate's own switch: a machine with an accelerator may be told to use its processor.
    if torch.cuda.is_available() and os.environ.get("ACCELERATE_USE_CPU", "").lower() not in ("true", "1", "yes"):
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
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
