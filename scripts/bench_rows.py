"""The rows that `bench.py` measures, and what is kept of them."""

import json
import platform
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from contestants import EXAMPLES, LONGEST, PEER_RATE

from graft.recipes import hardware
from graft.recipes.recording import versions

METHODS = {
    "LoRA, query and value": {"method": "lora", "method.targets": "query,value"},
    "LoRA, all linear layers": {"method": "lora"},
    "full": {"method": "full"},
    "probe": {"method": "probe"},
    "bitfit": {"method": "bitfit"},
    "ia3": {"method": "ia3"},
}
TASKS: dict[str, int | None] = {"mrpc": None, "sst2": 10_000, "rte": None}
"""Task to the training examples that epochs are of, where it is not replaced; none for all."""

POCKET = {"mrpc": "pocket/paraphrase", "sst2": "pocket/sentiment", "rte": "pocket/entailment"}
"""What stands in for a task whose data are not there."""

PROTOCOL = 5
"""Raised when rows are measured otherwise than before: what was measured by another one is not shown beside them."""

FLAGS = {"avx512_bf16": "AVX-512 with bf16", "amx_bf16": "AMX with bf16"}
"""What of a processor matters here, by its name in /proc/cpuinfo."""


@dataclass(frozen=True)
class Row:
    """What is measured at once.

    Attributes:
        task: As graft names it.
        method: A key of `METHODS`.
        settings: The recipe, by dotted name.
    """

    task: str
    method: str
    settings: dict[str, str]

    @property
    def name(self) -> str:
        """What `--only` looks into, and the stem of the row's file."""
        return f"{self.task.replace('/', '-')} {self.method}"


def rows(data: Path | None) -> Iterator[Row]:
    """Name each row, of GLUE's tasks or else of the pocket tasks that stand in for them."""
    for task, size in TASKS.items():
        where = {"task": task, "data": str(data)} if data is not None else {"task": POCKET[task]}
        for method, chosen in METHODS.items():
            if task != "mrpc" and method in ("bitfit", "ia3"):
                continue
            settings = where | chosen
            settings |= {
                "model": "minilm",
                "task.max_length": str(LONGEST),
                "task.holdout": "0",
                "schedule.examples": str(EXAMPLES),
                "schedule.epochs": "100",
                "optim.lr": str(PEER_RATE),
                "seed": "1",
            }
            if data is not None and size is not None:  # pocket tasks are smaller
                settings["task.train_size"] = str(size)
            yield Row(where["task"], method, settings)


def measured(file: Path) -> dict[str, Any]:
    """Read what a row measured; nothing where it was not, or by another protocol.

    Raises:
        SystemExit: The file cannot be read.
    """
    try:
        found: dict[str, Any] = json.loads(file.read_text())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise SystemExit(f"error: {file}: unreadable ({error}); delete it to measure the row again") from error
    return found if found.get("protocol") == PROTOCOL else {}


def as_asked(found: Mapping[str, Any], row: Row, rounds: int, pools: int) -> bool:
    """Whether a row was measured here, with these settings, segments so long, and rounds enough."""
    if not found or found["where"] != where():
        return False
    return bool(found["settings"] == row.settings and found["pools"] == pools and found["rounds"] >= rounds)


def where() -> str:
    """The machine and the versions of libraries."""
    return f"{_machine()}; {', '.join(f'{name} {version}' for name, version in versions().items())}"


def _machine() -> str:
    """The processor and what of it may be used."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())
    flags = next((line for line in lines if line.startswith("flags")), "")
    wide = "".join(f", {told}" for flag, told in FLAGS.items() if flag in flags)
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return f"{model}, {hardware.threads()} cores{wide}{gpu}"
