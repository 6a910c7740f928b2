"""README.md tells the truth: its examples are followed to the letter, its commands are understood."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import pytest
import yaml

import graft
from graft import cli
from graft.recipes import comparison_options, flags
from graft.recipes.options import RunOptions, SweepOptions
from graft.recipes.recipe import from_mapping

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
COPIED = ("adapters", "recipes", "eval", "src", "tests")


def section(title: str) -> str:
    """The text below a heading, up to the next one."""
    (text,) = re.findall(rf"^## {title}\n(.*?)(?=^## |\Z)", README, flags=re.MULTILINE | re.DOTALL)
    return text


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)


def commands() -> list[list[str]]:
    """Every `graft ...` and its like that is shown, in blocks or within a line, as words; comments are left out."""
    lines = [line for block in blocks(README, "bash") for line in block.splitlines()]
    lines = [
        re.sub(r"^(accelerate launch recipes/\w+\.py|python -m graft\.recipes\.\w+)", "graft train", x) for x in lines
    ]
    lines += re.findall(r"`(graft [^`]+)`", re.sub(r"```.*?```", "", README, flags=re.DOTALL))
    return [shlex.split(line, comments=True) for line in lines if line.startswith("graft ")]


def apply(diff: str, file: Path) -> None:
    """Do to a file what a diff without line numbers says; `...` stands between its parts."""
    text = file.read_text()
    for part in diff.split("...\n"):
        lines = part.splitlines()
        before, after = ("".join(f"{line[1:]}\n" for line in lines if line[0] in signs) for signs in (" -", " +"))
        assert text.count(before) == 1, f"{file.name} does not hold, once:\n{before}"
        text = text.replace(before, after)
    file.write_text(text)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The source tree, links kept."""
    folder = tmp_path / "copy"
    folder.mkdir()
    shutil.copy(ROOT / "pyproject.toml", folder)
    for name in COPIED:
        ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
        shutil.copytree(ROOT / name, folder / name, symlinks=True, ignore=ignored)
    return folder


def run(copy: Path, *arguments: str) -> str:
    """Run Python on the copy; return what it printed."""
    environment = {**os.environ, "PYTHONPATH": str(copy / "src"), "HF_HUB_OFFLINE": "1", "COLUMNS": "200"}
    command = [sys.executable, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=copy, env=environment, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_method_that_the_readme_adds_passes_the_contract_tests(
    copy: Path, tiny_bert: Path, word_task: Path
) -> None:
    text = section("Add a method")
    (file,) = re.findall(r"`(adapters/\w+\.py)`:\n\n```python", text)
    (source,), (row,) = blocks(text, "python"), blocks(text, "diff")
    (copy / file).write_text(source)
    apply(row, copy / "adapters" / "methods.py")
    where = run(copy, "-c", "import graft.adapters.layernorm as module; print(module.__file__)")
    assert Path(where.strip()).is_relative_to(copy)
    (suite,) = re.findall(r"`pytest (tests/\S+ -k \w+)`", text)
    report = run(copy, "-m", "pytest", "-p", "no:cacheprovider", "-q", *suite.split())
    found = re.search(r"^(\d+) passed, \d+ deselected", report, flags=re.MULTILINE)
    assert found, report
    assert int(found[1]) > 10
    run(copy, "-m", "pytest", "-p", "no:cacheprovider", "-q", suite.split()[0], "-k", "rows_are_consistent")
    assert "layernorm" in run(copy, "-m", "graft", "methods")
    assert "name: layernorm" in run(copy, "-m", "graft", "recipe", "show", "--task", "mrpc", "--method", "layernorm")
    flags = ["--data", str(word_task), "--task.text", "text", "--task.label", "label", "--task.max_length", "24"]
    flags += ["--model", str(tiny_bert), "--schedule.steps", "1", "--threads", "1", "--quiet"]
    printed = run(copy, "-m", "graft", "train", "--method", "layernorm", *flags)
    record = json.loads((copy / printed.strip().removeprefix("run: ") / "record.json").read_text())
    norms, width = 1 + 2 * 2, 16  # of the embeddings, and two in each layer; a scale and a shift each
    assert record["parameters"]["trainable_without_head"] == norms * 2 * width
    for check in (["check"], ["format", "--check"]):
        run(copy, "-m", "ruff", *check, "--no-cache", file, "adapters/methods.py")


@pytest.mark.slow
def test_the_task_that_the_readme_adds_is_listed_and_trains(copy: Path, tiny_bert: Path) -> None:
    text = section("Add a task")
    (row,) = blocks(text, "diff")
    apply(row, copy / "eval" / "tasks.py")
    (name,) = re.findall(r"`graft train --task (\w+)`", text)
    assert name in run(copy, "-m", "graft", "tasks")
    (file, second) = re.findall(rf"`(?:FOLDER/{name}/)?(\w+\.jsonl)`", text)
    columns = re.findall(r"`(\w+)`", text[text.index("with the columns") :])
    folder = copy / "data" / name
    folder.mkdir(parents=True)
    for path in (folder / file, folder / second):
        rows = [dict(zip(columns, (f"w{number} w{number % 7}", number % 2), strict=True)) for number in range(40)]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = ["train", "--task", name, "--data", "data", "--model", str(tiny_bert), "--task.max_length", "24"]
    printed = run(copy, "-m", "graft", *command, "--schedule.steps", "1", "--threads", "1", "--quiet")
    record = json.loads((copy / printed.strip().removeprefix("run: ") / "record.json").read_text())
    assert record["data"]["label_names"] == ["neg", "pos"]
    assert set(record["scores"]["validation"]) == {"accuracy"}
    run(copy, "-m", "ruff", "format", "--check", "--no-cache", "eval/tasks.py")


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_every_command_that_the_readme_shows_is_understood(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)  # recipe files are named from there
    command: click.Command = cli.graft
    context = click.Context(command, info_name="graft")
    rest = words[1:]
    while isinstance(command, click.Group) and rest:
        name, found, rest = command.resolve_command(context, rest)
        assert found is not None, name
        command = found
        context = click.Context(command, info_name=name, parent=context)
    if command.name == "compare":
        comparison_options.parse(rest, "graft compare")
    elif {"flags"} == {parameter.name for parameter in command.params}:  # those of `graft train`
        options = SweepOptions if command.name == "sweep" else RunOptions
        flags.parse([word for word in rest if word != "FLAGS"], "graft train", options=options)
    else:
        command.parse_args(context, rest)


def test_every_recipe_that_the_readme_shows_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    found = blocks(README, "yaml")
    assert found
    for text in found:
        from_mapping(yaml.safe_load(text))
    trained: list[Any] = []
    monkeypatch.setattr(graft, "train", lambda recipe: trained.append(recipe) or SimpleNamespace(folder="run"))
    monkeypatch.setattr(graft, "load", lambda folder: None)
    (program,) = blocks(section("One run"), "python")
    exec(program, {})
    assert isinstance(trained[0], graft.Recipe)


def test_every_file_and_link_that_the_readme_names_is_there() -> None:
    links = re.findall(r"\]\(([^)#]+)\)", README)
    paths = re.findall(r"`((?:adapters|recipes|eval|src|tests|scripts|docs|recipes/configs)/[\w./-]*)`", README)
    new = set(re.findall(r"this, in `(adapters/\w+\.py)`:\n\n```python", section("Add a method")))
    assert links
    assert paths
    missing = [name for name in {*links, *paths} - new if "://" not in name and not (ROOT / name).exists()]
    assert missing == []
    house = section("The house")
    folders = {path.name for path in ROOT.iterdir() if path.is_dir() and list(path.glob("*.py"))}
    assert {name for name in folders if not name.startswith(".")} <= set(re.findall(r"`(\w+)/`", house))
