"""What a comparison may say: flags, YAML and Python are the same, and what cannot go together is refused."""

from pathlib import Path

import pytest

from graft.errors import RecipeError
from graft.recipes.comparison_config import ComparisonConfig, from_mapping, from_yaml
from graft.recipes.comparison_options import CompareOptions, comparison_flags, parse
from graft.recipes.completion import complete

CONFIGS = sorted((Path(__file__).parents[2] / "recipes" / "configs").glob("compare-*.yaml"))
LEAST = {"task": "mrpc", "methods": "full,lora"}


def flags(*argv):
    return parse(argv, "graft compare")


def test_flags_yaml_and_python_make_the_same_comparison(tmp_path):
    file = tmp_path / "compare.yaml"
    file.write_text(
        "task: {name: [mrpc, rte], data: glue, max_length: 64}\n"
        "methods: [full, {name: lora, r: 16}, bitfit]\nseeds: 3\nmargin: 1\nschedule: {epochs: 5}\n"
    )
    python = ComparisonConfig(
        task=[{"name": name, "data": "glue", "max_length": 64} for name in ("mrpc", "rte")],
        methods=["full", {"name": "lora", "r": 16}, "bitfit"],
        seeds=[1, 2, 3],
        margin=1.0,
        schedule={"epochs": 5},
    )
    given = flags(
        *("--task", "mrpc,rte", "--data", "glue", "--task.max-length", "64", "--seeds", "3", "--margin", "1"),
        *("--methods", "[full, {name: lora, r: 16}, bitfit]", "--schedule.epochs", "5", "--out", "there"),
    )
    assert from_yaml(file) == python == given.config
    assert from_yaml(file).digest == python.digest
    assert given.options == CompareOptions(out=Path("there"))


def test_data_beside_several_tasks_is_for_each_of_them():
    config = from_mapping(
        {**LEAST, "task": ["mrpc", {"name": "rte", "data": "mine"}], "data": "glue", "train_size": 90}
    )
    assert [(task.name, str(task.data), task.train_size) for task in config.task] == [
        ("mrpc", "glue", 90),
        ("rte", "glue", 90),
    ]


def test_flags_win_over_the_file_and_other_tasks_keep_its_settings(tmp_path):
    file = tmp_path / "compare.yaml"
    file.write_text("task: {name: [mrpc, rte], data: glue}\nmethods: full,lora\ntrials: 2\nmodel: {pooling: mean}\n")
    config = flags("--recipe", str(file), "--task", "cola", "--trials", "3", "--model.dropout", "0").config
    assert [(task.name, str(task.data)) for task in config.task] == [("cola", "glue")]
    assert config.trials == 3
    assert config.methods == from_yaml(file).methods
    assert [(model.name, model.pooling, model.dropout) for model in config.model] == [("minilm", "mean", 0.0)]


def test_a_number_of_seeds_counts_from_one_and_a_list_is_taken_as_it_is():
    assert (
        from_mapping({**LEAST, "seeds": 3}).seeds
        == flags("--task", "mrpc", "--methods", "full,lora", "--seeds", "3").config.seeds
        == (1, 2, 3)
    )
    assert from_mapping({**LEAST, "seeds": "4,9"}).seeds == from_mapping({**LEAST, "seeds": [4, 9]}).seeds == (4, 9)
    assert from_mapping({**LEAST, "seeds": "7,"}).seeds == (7,)


def test_labels_tell_methods_of_one_name_apart():
    methods = ["full", {"name": "lora", "r": 4}, {"name": "lora", "r": 16}, "bitfit"]
    assert from_mapping({**LEAST, "methods": methods}).labels == ("full", "lora, r=4", "lora, r=16", "bitfit")


def test_further_seeds_are_fixed_before():
    config = from_mapping({**LEAST, "seeds": [5, 2], "until_decided": True, "max_seeds": 5})
    assert config.most_seeds == (5, 2, 1, 3, 4)
    assert from_mapping({**LEAST, "seeds": 3, "until_decided": True}).most_seeds == tuple(range(1, 13))
    assert from_mapping({**LEAST, "seeds": 3}).most_seeds == (1, 2, 3)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"methods": "full,lorra"}, "methods.1.name: 'lorra' is unknown (did you mean 'lora'?)"),
        ({"margin": 0}, "margin: expected greater than 0, found 0"),
        ({"margin": -1}, "margin: expected greater than 0, found -1"),
        ({"alpha": 0.7}, "alpha: expected less than 0.5"),
        (
            {"methods": "lora,bitfit"},
            "full fine-tuning is not among the methods: add full, or name another with --reference",
        ),
        ({"reference": "loraa"}, "no method 'loraa' is compared (did you mean 'lora'?)"),
        ({"methods": "full"}, "full alone has nothing to be compared with"),
        ({"methods": ""}, "methods"),
        ({"methods": "full,lora,full"}, "full is there twice"),
        ({"task": "mrpc,mrpc"}, "mrpc is named more than once"),
        ({"task": None}, "task"),
        ({"trials": 0}, "trials"),
        ({"trails": 2}, "trails: unknown key (did you mean 'trials'?)"),
        ({"seeds": 0}, "seeds: 0 seeds are not possible"),
        ({"seeds": [1, 1]}, "1 is there twice"),
        ({"seeds": "x"}, "seeds"),
        ({"optim": {"lr": 1e-4}}, "optim.lr: one learning rate for all methods is no fair comparison"),
        ({"learning_rates": {"lora": [1e-4]}}, "learning_rates.lora: 1 values for 4 trials"),
        ({"learning_rates": {"loar": [1e-4]}}, "did you mean 'lora'"),
        ({"max_seeds": 9}, "max_seeds: counts only with until_decided"),
        ({"until_decided": True, "max_seeds": 2}, "max_seeds: 2 is less than the 5 seeds"),
        ({"until_decided": True, "seeds": 1}, "until_decided: needs two seeds"),
        ({"task": {"name": "mrpc", "holdout": 0}}, "task.holdout: 0 leaves nothing to choose by"),
    ],
)
def test_what_cannot_be_compared_is_refused_with_its_place(changes, complaint):
    with pytest.raises(RecipeError) as refusal:
        from_mapping({**LEAST, **changes})
    assert complaint in str(refusal.value)


def test_a_single_seed_and_a_reference_of_ones_own_are_allowed():
    assert from_mapping({**LEAST, "seeds": 1}).seeds == (1,)
    assert from_mapping({"task": "mrpc", "methods": "lora,bitfit", "reference": "lora"}).reference == "lora"


@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: file.stem)
def test_every_shipped_comparison_is_valid_and_its_tasks_exist(file):
    from graft.eval.tasks import TASKS

    assert {task.name for task in from_yaml(file).task} <= set(TASKS)


def test_comparisons_are_shipped():
    assert CONFIGS


def test_a_mistake_in_a_file_is_told_with_its_name(tmp_path):
    file = tmp_path / "compare.yaml"
    file.write_text("task: mrpc\nmethods: full,lora\nmargim: 1\n")
    with pytest.raises(RecipeError, match=r"compare.yaml: margim: unknown key \(did you mean 'margin'"):
        from_yaml(file)
    with pytest.raises(RecipeError, match=r"compare.yaml, with the flags: margim"):
        flags("--recipe", str(file), "--seeds", "2")


def test_help_shows_every_flag_with_words(capsys):
    with pytest.raises(SystemExit):
        flags("--help")
    shown = capsys.readouterr().out
    assert all(f"--{name}" in shown for name, flag in comparison_flags().items() if flag.help)
    assert all(f"--{name}" in shown for name in ("workers", "executor", "plan", "out"))
    assert "Undefined" not in shown


def test_the_shell_completes_flags_of_a_comparison():
    assert "--until-decided" in [found.text for found in complete([], "--until", command="compare")]
    assert complete(["--executor"], "r", command="compare")[0].text == "ray"
