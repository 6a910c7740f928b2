"""The command line: exit codes, one message for a mistake, a stack trace for a bug, and help without waiting."""

import contextlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import pytest
import yaml
from hub_double import HubDouble, serving

from graft import cli
from graft.errors import DataError
from graft.recipes import launch, train
from graft.recipes.export import export
from graft.recipes.options import RunOptions
from graft.recipes.recipe import Recipe, from_mapping

ROOT = Path(__file__).parents[1]


def replace_training(monkeypatch: pytest.MonkeyPatch, outcome: Any) -> list[tuple[Any, Any]]:
    """Put something quick in the place of training; remember what it was asked for."""
    asked: list[tuple[Any, Any]] = []

    def instead(recipe: Any, *, options: Any) -> Any:
        asked.append((recipe, options))
        if isinstance(outcome, BaseException):
            raise outcome
        return SimpleNamespace(folder=outcome)

    monkeypatch.setattr(train, "train", instead)
    return asked


def test_the_last_line_on_stdout_is_the_run_folder(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = replace_training(monkeypatch, Path("runs/one"))
    assert cli.main(["train", "--task", "mrpc", "--out", "there"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "run: runs/one"
    ((recipe, options),) = asked
    assert recipe == Recipe(task="mrpc")
    assert options.out == Path("there")


def test_of_several_processes_only_the_first_prints(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    replace_training(monkeypatch, Path("runs/one"))
    monkeypatch.setenv("RANK", "1")
    assert cli.main(["train", "--task", "mrpc"]) == 0
    assert capsys.readouterr().out == ""


def test_a_users_mistake_is_one_message_and_exit_code_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    replace_training(monkeypatch, DataError("mrpc: no such folder"))
    assert cli.main(["train", "--task", "mrpc"]) == 2
    assert capsys.readouterr().err == "error: mrpc: no such folder\n"


def test_a_bug_keeps_its_stack_trace_and_is_exit_code_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    replace_training(monkeypatch, ZeroDivisionError("by design"))
    assert cli.main(["train", "--task", "mrpc"]) == 1
    assert "Traceback" in (error := capsys.readouterr().err)
    assert "ZeroDivisionError: by design" in error


def test_an_interruption_is_exit_code_130_and_says_how_to_go_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    replace_training(monkeypatch, KeyboardInterrupt())
    assert cli.main(["train", "--task", "mrpc"]) == 130
    assert "--resume" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["train", "--metod", "lora"], ["recipe", "show", "--seed", "x"], ["trian"]])
def test_a_mistyped_command_line_is_exit_code_2_without_a_stack_trace(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(arguments) == 2
    assert "Traceback" not in (error := capsys.readouterr().err)
    assert error


def test_show_prints_a_recipe_that_reads_back_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["recipe", "show", "--task", "rte", "--method", "lora", "--method.r", "3"]) == 0
    shown = from_mapping(yaml.safe_load(capsys.readouterr().out))
    assert shown == Recipe(task="rte", method={"name": "lora", "r": 3})


def test_schema_prints_json_schema(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["recipe", "schema"]) == 0
    assert set(json.loads(capsys.readouterr().out)["properties"]) == set(Recipe.model_fields)


def test_a_script_refuses_a_task_of_another_kind_and_names_the_right_script(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert launch.main(["--task", "text"], kinds=("classification", "regression")) == 2
    assert "recipes/language_model.py" in capsys.readouterr().err


@pytest.mark.parametrize(
    "command",
    [
        [str(ROOT / "recipes" / "classify.py")],
        [str(ROOT / "recipes" / "language_model.py")],
        ["-m", "graft.recipes.classify"],
        ["-m", "graft.recipes.language_model"],
        ["-m", "graft.cli", "train"],
        ["-m", "graft", "train"],
    ],
    ids=lambda command: " ".join(Path(part).name for part in command),
)
def test_every_way_to_start_training_understands_the_same_flags(command: list[str], tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, *command, "--seed", "x"], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: seed: expected an integer, found 'x'\n"


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["train", "--help"],
        ["predict", "--help"],
        ["train"],
        ["recipe", "show"],
        ["recipe", "schema"],
        ["methods"],
        ["models"],
    ],
)
def test_commands_that_train_nothing_import_nothing_heavy(arguments: list[str]) -> None:
    program = (
        "import sys; from graft import cli\n"
        "try: cli.main(sys.argv[1:])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'transformers', 'peft', 'accelerate', 'datasets', 'evaluate', 'sklearn', 'pandas'}\n"
        "sys.exit(','.join(sorted(heavy & set(sys.modules))) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [["--help"], ["train", "--help"]])
def test_help_comes_in_a_fraction_of_what_importing_torch_takes(arguments: list[str]) -> None:
    def seconds(*program: str) -> float:
        # Processor time of the child, not the clock's: other work on the machine must not fail this.
        import resource

        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, *program], capture_output=True, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    pairs = [(seconds("-m", "graft", *arguments), seconds("-c", "import torch")) for _ in range(2)]
    assert min(ours / torchs for ours, torchs in pairs) < 1 / 3


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ([], "task: nothing to train on is named; give --task NAME, as in `graft train --task mrpc --data FOLDER`"),
        (["--method.r", "16"], "task: nothing to train on is named"),
        (["--method.r", "16"], "`graft tasks`"),
        (["--data", "mine.csv"], "task.text: which columns of mine.csv to read is not said; give --task.text COLUMN"),
        (["--task", "mrpc", "--model", ""], "--model: is empty"),
        (["--task", "mrpc", "--model.name", " "], "is empty"),
        (
            ["--task", "mrpc", "--model", "{name: ''}"],
            "model.name: is empty; `graft models` lists what there is",
        ),
    ],
)
def test_what_is_left_out_is_asked_for_before_anything_is_read(
    arguments: list[str],
    complaint: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert replace_training(monkeypatch, Path("runs/one")) == []
    assert cli.main(["train", *arguments]) == 2
    assert complaint in (error := capsys.readouterr().err)
    assert len(error.splitlines()) == 1


def test_a_method_that_is_not_named_is_the_default_one(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = replace_training(monkeypatch, Path("runs/one"))
    assert cli.main(["train", "--task", "mrpc", "--method.r", "16"]) == 0
    assert asked[0][0] == Recipe(task="mrpc", method={"name": "lora", "r": 16})


def commands(group: click.Group = cli.graft, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Every command and group, as what is typed."""
    yield path
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))
        else:
            yield (*path, name)


def examples(path: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> list[str]:
    """The examples at the end of a command's help."""
    with contextlib.suppress(SystemExit):
        cli.main([*path, "--help"])
    _, *end = re.split(r"\n\s*example:\n", capsys.readouterr().out, flags=re.IGNORECASE)
    assert len(end) == 1, f"graft {' '.join(path)} --help shows no example"
    lines = textwrap.dedent(end[0]).rstrip().splitlines()
    assert all(line.startswith("graft ") for line in lines), "the examples are not the end of the help"
    return lines


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with examples named as MRPC's."""
    folder = tmp_path_factory.mktemp("data") / "mrpc"
    folder.mkdir()
    rows = [{"sentence1": f"w{n % 40} w2", "sentence2": f"w{n % 7} w3", "label": n % 2} for n in range(60)]
    for split in ("train", "validation"):
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder.parent


@pytest.fixture(scope="module")
def roomy_bert(tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny BERT with a tokenizer that does not refuse the default length; the examples are short."""
    folder = shutil.copytree(tiny_bert, tmp_path_factory.mktemp("roomy") / "tiny")
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | {"model_max_length": 128}))
    return folder


@pytest.fixture(scope="module")
def pair_run(pairs: Path, roomy_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    recipe = from_mapping(
        {"task": {"name": "mrpc", "data": str(pairs)}, "model": str(roomy_bert), "schedule": {"steps": 1}}
    )
    return train.train(recipe, options=RunOptions(out=tmp_path_factory.mktemp("runs"), quiet=True)).folder


@pytest.fixture
def other_pair_run(pair_run: Path, tmp_path: Path) -> Path:
    """A run of the same recipe with another seed."""
    recipe = json.loads((pair_run / "record.json").read_text())["recipe"] | {"seed": 2}
    return train.train(from_mapping(recipe), options=RunOptions(out=tmp_path / "others", quiet=True)).folder


@pytest.fixture(scope="module")
def pair_runs(pair_run: Path) -> Path:
    """A folder with runs of two methods on the same data."""
    recipe = json.loads((pair_run / "record.json").read_text())["recipe"] | {"method": "full"}
    train.train(from_mapping(recipe), options=RunOptions(out=pair_run.parent, quiet=True))
    return pair_run.parent


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[HubDouble]:
    with serving(monkeypatch, tmp_path / "home" / "cache") as double:
        yield double


@pytest.mark.parametrize("path", list(commands()), ids=" ".join)
def test_every_commands_help_ends_with_examples_that_work(
    path: tuple[str, ...],
    pairs: Path,
    pair_run: Path,
    pair_runs: Path,
    roomy_bert: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    request: pytest.FixtureRequest,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pairs.csv").write_text("sentence1,sentence2\nw1,w2\n")
    stand_ins = {"DATA": str(pairs), "RUN": str(pair_run), "RUNS": str(pair_runs), "minilm": str(roomy_bert)}
    if path == ("export",):
        stand_ins |= {"RUN_A": str(pair_run), "RUN_B": str(request.getfixturevalue("other_pair_run"))}
    if path == ("pull",):
        hub = request.getfixturevalue("hub")
        hub.put("me/name", export(pair_run, tmp_path / "exported").folder)
    for example in examples(path, capsys):
        assert example.startswith(" ".join(["graft", *path]))
        words = [stand_ins.get(word, word) for word in shlex.split(example.partition(" > ")[0])]
        assert cli.main(words[1:]) == 0, f"{example}: {capsys.readouterr().err}"
        assert capsys.readouterr().out


def completed(*words: str) -> list[str]:
    """What the shell is told when Tab is pressed after the last word."""
    environment = {
        **os.environ,
        "_GRAFT_COMPLETE": "bash_complete",
        "COMP_WORDS": shlex.join(["graft", *words]),
        "COMP_CWORD": str(len(words)),
    }
    done = subprocess.run([sys.executable, "-m", "graft"], capture_output=True, text=True, env=environment, check=False)
    assert done.stderr == ""
    return done.stdout.split()


def test_the_shell_completes_commands_flags_and_values() -> None:
    assert set(completed("")) == {f"plain,{name}" for name in cli.graft.commands}
    assert completed("tr") == ["plain,train"]
    assert completed("recipe", "sh") == ["plain,show"]
    assert completed("train", "--optim.l") == ["plain,--optim.lr"]
    assert completed("recipe", "show", "--seed", "1", "--method", "lo") == ["plain,lora"]
    assert completed("train", "--method", "=", "lo") == ["plain,lora"]
    assert "plain,--text-pair" in completed("predict", "RUN", "--text")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_gets_a_script_that_completes(shell: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "graft"],
        capture_output=True,
        text=True,
        env={**os.environ, "_GRAFT_COMPLETE": f"{shell}_source"},
        check=False,
    )
    assert done.returncode == 0
    assert f"_GRAFT_COMPLETE={shell}_complete" in done.stdout
