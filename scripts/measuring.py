"""Make one run of a measurement in a process of its own; the scripts that measure many runs share it."""

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from graft.eval.records import RunRecord, read_record


def as_flags(settings: Mapping[str, str]) -> list[str]:
    """Spell settings by dotted name as a command line."""
    return [part for name, value in settings.items() for part in (f"--{name}", value)]


def train_apart(flags: Sequence[str], kind: str, out: Path) -> RunRecord:
    """Make a run in a process of its own, go on with one that was begun, or read the one that is there.

    Args:
        flags: A recipe, as `graft train` takes it.
        kind: `trial` or `final`.
        out: The folder of the run folders.

    Returns:
        Its record.

    Raises:
        SystemExit: Training failed; with the command and what it said.
    """
    command = [sys.executable, "-m", "graft.recipes.classify", *flags]
    command += ["--out", str(out), "--kind", kind, "--resume", "--quiet"]
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stderr}")
    record = read_record(Path(done.stdout.strip().splitlines()[-1].removeprefix("run: ")))
    sys.stderr.write(f"{kind} {' '.join(flags)}: {record.scores}\n")
    return record
