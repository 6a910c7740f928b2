"""Flags: the canonical form, files with overrides, and mistakes that are answered with the nearest flag."""

from pathlib import Path
from typing import Any

import pytest

from graft.adapters.methods import METHODS
from graft.errors import RecipeError
from graft.eval.tasks import TASKS
from graft.recipes.completion import complete
from graft.recipes.flags import Command, merge, parse
from graft.recipes.options import RunOptions
from graft.recipes.recipe import Recipe


def read(line: str, **defaults: Any) -> Command:
    return parse(line.split(), "graft train", defaults)


def test_the_canonical_form_is_understood() -> None:
    command = read(
        "--task mrpc --model minilm --method lora --method.r 16 --method.targets query,value --optim.lr 1e-3 "
        "--schedule.epochs=2 --seed 1 --data some/where --train-size 100"
    )
    assert command.recipe == Recipe(
        task={"name": "mrpc", "data": "some/where", "train_size": 100},
        method={"name": "lora", "r": 16, "targets": ["query", "value"]},
        optim={"lr": 0.001},
        schedule={"epochs": 2.0},
        seed=1,
    )
    assert command.options == RunOptions()


def test_the_order_of_flags_does_not_matter() -> None:
    assert read("--method.r 4 --method lora") == read("--method lora --method.r 4")


def test_long_and_short_and_dashed_names_are_the_same_flag() -> None:
    long = read("--task.name mrpc --method.name lora --task.train_size 9 --task.data x")
    assert long == read("--task mrpc --method lora --task.train-size 9 --task.data x")
    assert long == read("--task=mrpc --method=lora --train-size=9 --data=x")


def test_options_of_the_run_are_not_part_of_the_recipe() -> None:
    line = "--out there --resume --kind trial --measure-cost --checkpoint-steps 5 --track tensorboard,wandb --quiet"
    command = read(line)
    assert command.recipe == Recipe()
    assert command.options == RunOptions(
        out=Path("there"),
        resume=True,
        kind="trial",
        measure_cost=True,
        checkpoint_steps=5,
        track=("tensorboard", "wandb"),
        quiet=True,
    )


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("--speed.buckets false", {"speed": {"buckets": False}}),
        ("--budget.gradient_checkpointing", {"budget": {"gradient_checkpointing": True}}),
        ("--optim.clip null", {"optim": {"clip": None}}),
        ("--optim.betas 0.9,0.98", {"optim": {"betas": (0.9, 0.98)}}),
        ("--objective.terms l2sp", {"objective": {"terms": [{"name": "l2sp"}]}}),
        ("--task.text a,b --task.label c", {"task": {"text": ("a", "b"), "label": "c"}}),
    ],
)
def test_values_get_the_type_of_their_field(line: str, expected: dict[str, Any]) -> None:
    assert read(line).recipe == Recipe(**expected)


def test_yaml_in_brackets_says_what_commas_cannot() -> None:
    terms = parse(["--objective.terms", "[{name: l2sp, strength: 0.5}]"], "x").recipe.objective.terms
    assert terms[0].strength == 0.5
    assert parse(["--method", "{name: lora, r: 2}"], "x").recipe == Recipe(method={"name": "lora", "r": 2})
    assert parse(["--task.text", '["a,b"]'], "x").recipe.task.text == ("a,b",)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text("task: {name: mrpc, train_size: 50}\nmethod: {name: lora, r: 32}\noptim: {lr: 1e-3, clip: 2}\n")
    return path


def test_flags_override_the_file_and_leave_the_rest_of_it(file: Path) -> None:
    recipe = read(f"--recipe {file} --method.alpha 4 --optim.lr 5e-4 --task rte").recipe
    assert recipe == Recipe(
        task={"name": "rte", "train_size": 50},
        method={"name": "lora", "r": 32, "alpha": 4},
        optim={"lr": 5e-4, "clip": 2.0},
    )


def test_naming_the_files_own_method_keeps_its_settings(file: Path) -> None:
    assert read(f"--recipe {file} --method lora").recipe.method == Recipe(method={"name": "lora", "r": 32}).method


def test_naming_another_method_drops_the_settings_of_the_files_method(file: Path) -> None:
    assert read(f"--recipe {file} --method full").recipe.method == Recipe(method="full").method
    adalora = read(f"--recipe {file} --method adalora --method.initial_r 20").recipe.method
    assert adalora == Recipe(method={"name": "adalora", "initial_r": 20}).method


def test_naming_a_method_drops_the_settings_of_a_default_that_the_file_left_unsaid(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("method: {r: 32}\n")
    assert read(f"--recipe {path} --method.alpha 4").recipe == Recipe(method={"name": "lora", "r": 32, "alpha": 4})
    assert read(f"--recipe {path} --method adalora").recipe.method == Recipe(method="adalora").method


def test_class_weights_are_written_as_a_term() -> None:
    assert read("--objective.terms class_weights").recipe == Recipe(objective={"terms": "class_weights"})
    given = ["--objective.terms", "[{name: class_weights, weights: {positive: 2.0, negative: 1}}]"]
    (term,) = parse(given, "x").recipe.objective.terms
    assert term.weights == {"positive": 2.0, "negative": 1.0}


def test_the_file_overrides_what_the_program_starts_from(file: Path) -> None:
    assert read("", task={"name": "text"}).recipe.task.name == "text"
    assert read(f"--recipe {file}", task={"name": "text"}, seed=4).recipe.task.name == "mrpc"
    assert read(f"--recipe {file}", task={"name": "text"}, seed=4).recipe.seed == 4


def test_merging_changes_neither_side() -> None:
    under, over = {"optim": {"lr": 1.0}}, {"optim": {"clip": None}}
    assert merge(under, over) == {"optim": {"lr": 1.0, "clip": None}}
    assert under == {"optim": {"lr": 1.0}}
    assert over == {"optim": {"clip": None}}


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("--metod lora", "--metod: unknown flag (did you mean 'method'?)"),
        ("--optim.lrr 1", "--optim.lrr: unknown flag (did you mean 'optim.lr'?)"),
        ("--lr 1", "--lr: unknown flag (did you mean --optim.lr?)"),
        ("--xyzzy 1", "--xyzzy: unknown flag; see graft train --help"),
        ("--task.text a b", "'b' belongs to no flag"),
        ("--task.text a,,b", "--task.text: 'a,,b' has an empty part between its commas"),
        ("--optim.lr -1,2", "optim.lr: expected a number, found '-1,2'"),
        ("--optim.lr -1", "optim.lr: expected greater than 0"),
        ("--optim.lr", "--optim.lr: expected one argument"),
        ("--optim.lr fast", "optim.lr: expected a number, found 'fast'"),
        ("--optim 3", "--optim: is a section; set one of its fields: --optim.betas, --optim.clip"),
        ("--model=", "--model: is empty; give it a value"),
        ("--task= --seed 1", "--task: is empty; give it a value"),
        (
            "--method.initial_r 4",
            "method.initial_r: unknown key for lora; it is a setting of adalora (--method adalora)",
        ),
        ("--strategy.share 0.5", "strategy.share: unknown key for constant; it is a setting of"),
        ("--method lorra", "method.name: 'lorra' is unknown (did you mean 'lora'?)"),
        ("--method full --method.r 8", "method.r: unknown key"),
        ("--kind finale", "kind: 'finale' is not valid (did you mean 'final'?)"),
        ("--checkpoint-steps 0", "checkpoint_steps: expected greater than or equal to 1"),
        ("--objective.terms [{name:", "begins like YAML"),
        ("--recipe nowhere.yaml", "nowhere.yaml: cannot read the recipe file"),
    ],
)
def test_a_mistake_is_answered_with_what_would_be_right(line: str, complaint: str) -> None:
    with pytest.raises(RecipeError) as refusal:
        read(line)
    assert complaint in str(refusal.value)


def test_a_mistake_in_the_file_names_the_file(file: Path) -> None:
    file.write_text("optim: {lr: -1}\n")
    with pytest.raises(RecipeError, match=r"recipe\.yaml"):
        read(f"--recipe {file} --seed 1")


def test_help_tells_every_flag_and_whose_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as leaving:
        read("--help")
    text = " ".join(capsys.readouterr().out.split())
    assert leaving.value.code == 0
    for flag in ("--method.r INT", "--data PATH", "--optim.lr FLOAT", "--resume [BOOL]", "--strategy.share FLOAT"):
        assert flag in text
    assert "{" + ",".join(METHODS) + "}" in text
    assert "[lora] Rank of each update. Default: 8." in text


def test_help_is_no_wider_than_the_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit):
        read("--help")
    # The list of methods is one word to argparse.
    assert [line for line in capsys.readouterr().out.splitlines() if len(line) > 80 and "{" not in line] == []


def test_a_setting_alone_is_the_default_methods() -> None:
    assert read("--method.r 16").recipe == Recipe(method={"name": "lora", "r": 16})


def test_a_setting_alone_in_a_file_is_the_default_methods_and_one_as_a_flag_the_files_own(file: Path) -> None:
    file.write_text("method: {r: 16}\n")
    assert read(f"--recipe {file}").recipe == Recipe(method={"name": "lora", "r": 16})
    file.write_text("method: adalora\n")
    assert read(f"--recipe {file} --method.initial_r 20").recipe == Recipe(method={"name": "adalora", "initial_r": 20})


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("optim: 3", "optim: expected keys with values (lr, weight_decay, betas, eps, clip), found 3"),
        ("objective: l2sp", "objective: expected keys with values (terms), found 'l2sp'"),
        ("task: [mrpc]", "task: expected a name, or keys with values (name, data, text"),
        ("method: [lora]", "method: expected keys with values, or a name alone (full, "),
        ("method: {name: lora, targets: 3}", "method.targets: expected a list such as `[a, b]`, found 3"),
        ("method: {name: lora, initial_r: 3}", "method.initial_r: unknown key for lora; it is a setting of adalora"),
        (
            "objective: {terms: [3]}",
            "objective.terms.0: expected keys with values, or a name alone (l2sp, class_weights), found 3",
        ),
        ("objective: {terms: [{nam: l2sp}]}", "objective.terms.0.name: missing; say which one is meant"),
        ("objective: {terms: [{name: l2sp, strenth: 1}]}", "objective.terms.0.strenth: unknown key (did you mean"),
        ("optim: {betas: [0.1, 0.2, 0.3]}", "optim.betas: expected at most 2 items, found [0.1, 0.2, 0.3]"),
        ("budget: {tokens: many}", "budget.tokens: expected an integer, found 'many'"),
        ("speed: {buckets: maybe}", "speed.buckets: expected true or false, found 'maybe'"),
        ("task: {data: 3}", "task.data: expected a path, found 3"),
        ("method: {name: adalora, initial_r: 6}", "method: initial_r (6) must be above r (8)"),
        ("optim: {3: 4}", "optim.3: a key must be a name, such as betas, clip, eps, lr, weight_decay; found 3"),
    ],
)
def test_a_value_of_the_wrong_type_is_told_what_belongs_there(text: str, complaint: str, file: Path) -> None:
    file.write_text(text)
    with pytest.raises(RecipeError) as refusal:
        read(f"--recipe {file}")
    assert str(refusal.value).startswith(f"{file}: {complaint}")


def texts(given: str, incomplete: str) -> list[str]:
    return [suggestion.text for suggestion in complete(given.split(), incomplete)]


def test_flags_are_completed() -> None:
    assert texts("", "--optim.l") == ["--optim.lr"]
    assert {"--recipe", "--help", "--data", "--method.r", "--out", "--task"} <= set(texts("", "--"))
    assert texts("--method lora", "--method.rs") == ["--method.rslora"]
    assert "--seed" in texts("--task mrpc", "")
    assert "--method.name" not in texts("", "--method.n")  # the short form says it
    assert next(item.help for item in complete([], "--seed")).startswith("Seed of the head")


def test_values_that_a_table_has_are_completed() -> None:
    assert texts("--seed 1 --method", "") == list(METHODS)
    assert texts("--method", "lo") == ["lora"]
    assert texts("--method =", "lo") == ["lora"]
    assert texts("--method.name", "ada") == ["adalora"]
    assert texts("--schedule.decay", "") == ["linear", "constant", "cosine"]
    assert texts("--kind", "t") == ["trial"]
    assert texts("--task", "m") == [name for name in TASKS if name.startswith("m")]
    assert "minilm" in texts("--model", "mini")
    assert texts("--seed", "") == []
    assert "--task" in texts("--resume", "--t")


@pytest.mark.parametrize(
    ("flag", "kind"), [("--recipe", "file"), ("--data", "file"), ("--out", "dir"), ("--model", "dir")]
)
def test_paths_are_left_to_the_shell(flag: str, kind: str) -> None:
    assert kind in {suggestion.kind for suggestion in complete([flag], "some/where")}
