"""What the machine offers, where a recipe leaves it open: device, arithmetic and threads."""

import os
import resource
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import psutil

from graft.errors import RecipeError

if TYPE_CHECKING:
    from accelerate import Accelerator

Device = Literal["cpu", "cuda", "mps", "xpu"]


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
    if device == "cuda":
        import torch

        return torch.cuda.max_memory_allocated()
    status = Path("/proc/self/status")
    if status.exists():  # getrusage's figure is no smaller than what the parent had when it started this process
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


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
    try:
        made = Accelerator(mixed_precision="no", cpu=name == "cpu", **settings)
    except ValueError as error:
        raise RecipeError(f"device: {name} cannot be used in this process any more ({error}); start another") from error
    if made.device.type != name:
        raise RecipeError(
            f"device: this process computes on {made.device.type} already and cannot change to {name}; start another"
        )
    return made
