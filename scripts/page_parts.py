"""Parts of a page that a script writes, between comments that mark them; and what they were measured on."""

import os
import platform
import re
from pathlib import Path

import psutil

from graft.recipes.recording import versions


def replace_part(page: Path, name: str, lines: list[str]) -> None:
    """Put lines between `<!-- name -->` and `<!-- end of name -->`.

    Raises:
        SystemExit: The page has no such part, or several.
    """
    pattern = rf"(<!-- {name} -->\n).*?(<!-- end of {name} -->)"
    text, found = re.subn(
        pattern, lambda part: part[1] + "\n".join([*lines, ""]) + part[2], page.read_text(), flags=re.DOTALL
    )
    if found != 1:
        raise SystemExit(f"{page}: has {found} parts named {name}, not one")
    page.write_text(text)


def machine(threads: int) -> str:
    """Say what something was measured on, without the machine's name, and how busy it was in the last five minutes."""
    used = versions()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    memory = psutil.virtual_memory().total / 2**30
    return (
        f"{platform.machine()}, {cores} cores of which {threads} used, {memory:.0f} GiB, "
        f"Python {platform.python_version()}, torch {used['torch']}, transformers {used['transformers']}, "
        f"load average {os.getloadavg()[1]:.0f}"
    )
