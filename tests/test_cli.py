"""The command line: exit codes, one message for a mistake, a stack trace for a bug, and help without waiting."""

import json
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from graft import cli
from graft.errors import DataError
from graft.recipes import launch, train
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
    assert cli.main(["train"]) == 0
    assert capsys.readouterr().out == ""


def test_a_users_mistake_is_one_message_and_exit_code_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    replace_training(monkeypatch, DataError("mrpc: no such folder"))
    assert cli.main(["train"]) == 2
    assert capsys.readouterr().err == "error: mrpc: no such folder\n"


def test_a_bug_keeps_its_stack_trace_and_is_exit_code_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    replace_training(monkeypatch, ZeroDivisionError("by design"))
    assert cli.main(["train"]) == 1
    assert "Traceback" in (error := capsys.readouterr().err)
    assert "ZeroDivisionError: by design" in error


def test_an_interruption_is_exit_code_130_and_says_how_to_go_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    replace_training(monkeypatch, KeyboardInterrupt())
    assert cli.main(["train"]) == 130
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
    ],
    ids=lambda command: " ".join(Path(part).name for part in command),
)
def test_every_way_to_start_training_understands_the_same_flags(command: list[str], tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, *command, "--seed", "x"], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: seed: expected integer, unable to parse string as an integer, found 'x'\n"


@pytest.mark.parametrize("arguments", [["--help"], ["train", "--help"], ["recipe", "show"], ["recipe", "schema"]])
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
def test_help_comes_within_half_a_second_of_processor_time() -> None:
    def seconds() -> float:
        # Processor time of the child, not the clock's: other work on the machine must not fail this.
        import resource

        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-m", "graft.cli", "train", "--help"], capture_output=True, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    started = time.monotonic()
    assert min(seconds() for _ in range(3)) < 0.5
    assert time.monotonic() - started < 60
