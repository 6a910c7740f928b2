"""Recipes: one object from every way of writing it, refused with its path, and a digest that tells results apart."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from graft.errors import RecipeError
from graft.recipes.flags import parse
from graft.recipes.recipe import (
    Recipe,
    canonical,
    digest,
    from_mapping,
    from_yaml,
    identity,
    resolved,
    to_yaml,
)

CONTENT = {"data_fingerprint": "d" * 64, "checkpoint_digest": "c" * 64, "versions": {"method.lora": 1}}

CLOSED = {"optim": {"lr": 1e-3}, "device": "cpu", "speed": {"precision": "fp32"}, "threads": 2}
"""What leaves nothing open, so that no test depends on the machine."""


def named(mapping: dict[str, Any]) -> str:
    return digest(resolved(from_mapping(mapping)), **CONTENT)


# Every field that changes a result, with a value that is not its default, per method or strategy that it belongs to.
CHANGES = [
    {"task": "mrpc"},
    {"task": {"metrics": "f1"}},
    {"task": {"max_length": 64}},
    {"model": {"pooling": "mean"}},
    {"model": {"dropout": 0.2}},
    {"method": "full"},
    {"method": "adalora"},
    {"method": {"name": "lora", "r": 4}},
    {"method": {"name": "lora", "alpha": 8}},
    {"method": {"name": "lora", "dropout": 0.1}},
    {"method": {"name": "lora", "targets": "query,value"}},
    {"method": {"name": "lora", "rslora": True}},
    {"method": {"name": "lora", "dora": True}},
    {"objective": {"terms": "l2sp"}},
    {"objective": {"terms": [{"name": "l2sp", "strength": 0.5}]}},
    {"objective": {"terms": "class_weights"}},
    {"objective": {"terms": [{"name": "class_weights", "weights": {"a": 2, "b": 1}}]}},
    {"objective": {"terms": [{"name": "class_weights", "weights": {"a": 1, "b": 2}}]}},
    {"strategy": "gradual_unfreezing"},
    {"strategy": {"name": "gradual_unfreezing", "share": 0.25}},
    {"optim": {"lr": 2e-3}},
    {"optim": {"weight_decay": 0.0}},
    {"optim": {"betas": [0.9, 0.98]}},
    {"optim": {"eps": 1e-6}},
    {"optim": {"clip": None}},
    {"schedule": {"epochs": 2}},
    {"schedule": {"steps": 7}},
    {"schedule": {"examples": 16}},
    {"schedule": {"warmup": 0.1}},
    {"schedule": {"decay": "constant"}},
    {"schedule": {"evaluate": 5}},
    {"schedule": {"patience": 2}},
    {"schedule": {"keep": "last"}},
    {"budget": {"tokens": 4096}},
    {"budget": {"gradient_checkpointing": True}},
    {"speed": {"buckets": False}},
    {"seed": 1},
    {"speed": {"precision": "bf16"}},
    {"speed": {"dropout": "stock"}},
    {"speed": {"attention": "sdpa"}},
    {"speed": {"layers": "stock"}},
    {"speed": {"last_layer": "all"}},
    {"speed": {"lengths": "exact"}},
    {"device": "cuda"},
    {"threads": 1},
]


CLASSES = {"name": "class_weights"}


def with_change(change: dict[str, Any]) -> dict[str, Any]:
    mapping: dict[str, Any] = {**CLOSED, "method": "lora"}
    for key, value in change.items():
        old = mapping.get(key)
        mapping[key] = {**old, **value} if isinstance(old, dict) and isinstance(value, dict) else value
    return mapping


def test_every_change_of_what_is_computed_gives_a_digest_of_its_own() -> None:
    digests = [named(with_change(change)) for change in [{}, *CHANGES]]
    assert len(set(digests)) == len(CHANGES) + 1


def test_the_list_of_changes_covers_every_field_of_the_recipe() -> None:
    # A field that is added must be added above too, or to what the content's fingerprint stands for.
    content = {"task.data", "task.text", "task.label", "task.kind", "task.group", "task.train_size", "task.holdout"}
    content |= {"task.split_seed", "model.name", "model.revision", "speed.cache"}  # which changes no bit
    changed = set()
    for change in CHANGES:
        for key, value in change.items():
            changed |= {f"{key}.{name}" for name in value} if isinstance(value, dict) else {key, f"{key}.name"}
    fields = set()
    for key, value in canonical(from_mapping({"method": "lora", "strategy": "gradual_unfreezing"})).items():
        fields |= {f"{key}.{name}" for name in value} if isinstance(value, dict) else {key}
    assert fields - changed == content


@pytest.mark.parametrize("argument", ["data_fingerprint", "checkpoint_digest", "versions"])
def test_content_and_row_versions_are_part_of_the_digest(argument: str) -> None:
    recipe = resolved(from_mapping(CLOSED))
    other = {**CONTENT, argument: {"method.lora": 2} if argument == "versions" else "other"}
    assert digest(recipe, **other) != digest(recipe, **CONTENT)


@pytest.mark.parametrize(
    "elsewhere",
    [
        {"task": {"data": "/somewhere/else"}},
        {"task": {"text": "a,b", "label": "c"}},
        {"task": {"train_size": 100, "split_seed": 3}},
        {"speed": {"precision": "fp32", "cache": False}},
        {"model": {"name": "a-copy", "revision": "main"}},
    ],
)
def test_where_content_lies_and_how_it_is_selected_is_left_to_the_contents_fingerprint(elsewhere: Any) -> None:
    assert named({**CLOSED, **elsewhere}) == named(CLOSED)


def test_the_order_of_targets_does_not_count() -> None:
    one, other = ({"method": {"name": "lora", "targets": targets}} for targets in ("query,value", "value,query,value"))
    assert named({**CLOSED, **one}) == named({**CLOSED, **other})


def test_local_paths_become_absolute_once_resolved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "checkpoint").mkdir()
    monkeypatch.chdir(tmp_path)
    recipe = resolved(from_mapping({**CLOSED, "model": "checkpoint", "task": {"name": "mrpc", "data": "glue"}}))
    assert recipe.model.name == str(tmp_path / "checkpoint")
    assert recipe.task.data == tmp_path / "glue"
    assert resolved(from_mapping({**CLOSED, "model": "no-folder"})).model.name == "no-folder"


def test_epochs_do_not_count_where_steps_do() -> None:
    assert named({**CLOSED, "schedule": {"steps": 5, "epochs": 9}}) == named({**CLOSED, "schedule": {"steps": 5}})


def test_an_open_field_and_the_value_it_resolves_to_have_the_same_digest() -> None:
    recipe = resolved(Recipe(method="lora"))
    spelled = {
        "optim": {"lr": recipe.optim.lr},
        "device": recipe.device,
        "speed": {"precision": recipe.speed.precision},
        "threads": recipe.threads,
    }
    assert named({"method": "lora"}) == named({"method": "lora", **spelled})
    assert resolved(recipe) == recipe


def test_a_recipe_that_leaves_something_open_has_no_digest() -> None:
    with pytest.raises(RecipeError, match="resolved"):
        digest(Recipe(), **CONTENT)


def test_fields_at_their_defaults_are_left_out_of_the_identity_but_names_of_choices_are_not() -> None:
    kept = identity(resolved(from_mapping(CLOSED)), **CONTENT)["recipe"]
    assert kept == {
        "method": {"name": "lora"},
        "strategy": {"name": "constant"},
        "optim": {"lr": 1e-3},
        "device": "cpu",
        "speed": {"precision": "fp32"},
        "threads": 2,
    }


partial = st.fixed_dictionaries(
    {
        "optim": st.fixed_dictionaries({"lr": st.floats(1e-8, 1.0)}),
        "device": st.just("cpu"),
        "speed": st.just({"precision": "fp32"}),
        "threads": st.just(1),
    },
    optional={
        "task": st.fixed_dictionaries({"name": st.sampled_from(["mrpc", "custom"])}, optional={"text": st.just(["a"])}),
        "method": st.one_of(
            st.just({"name": "full"}),
            st.fixed_dictionaries(
                {"name": st.just("lora")},
                optional={
                    "r": st.integers(1, 512),
                    "targets": st.lists(st.sampled_from(["query", "value", "key"]), min_size=1, unique=True),
                    "dora": st.booleans(),
                },
            ),
        ),
        "objective": st.just({"terms": [{"name": "l2sp", "strength": 0.25}]}),
        "strategy": st.fixed_dictionaries({"name": st.just("gradual_unfreezing"), "share": st.floats(0.125, 1.0)}),
        "schedule": st.fixed_dictionaries(
            {},
            optional={
                "epochs": st.floats(0.01, 100.0),
                "steps": st.one_of(st.none(), st.integers(1, 10**6)),
                "decay": st.sampled_from(["linear", "constant", "cosine"]),
            },
        ),
        "seed": st.integers(0, 2**32 - 1),
    },
)


def as_flags(mapping: dict[str, Any], prefix: str = "") -> list[str]:
    flags: list[str] = []
    for key, value in mapping.items():
        path = f"{prefix}{key}"
        if isinstance(value, dict):
            flags += as_flags(value, f"{path}.")
        elif path == "objective.terms":
            flags += [f"--{path}", json.dumps(value)]
        else:
            text = ",".join(value) if isinstance(value, list) else "null" if value is None else str(value)
            flags += [f"--{path}", text]
    return flags


@settings(deadline=None, max_examples=60)
@given(partial, st.randoms(use_true_random=False))
def test_yaml_flags_and_python_in_any_order_with_defaults_spelled_out_are_the_same_run(
    mapping: dict[str, Any], random: Any
) -> None:
    recipe = from_mapping(mapping)
    shuffled = dict(random.sample(list(mapping.items()), len(mapping)))
    flags = [tuple(pair) for pair in zip(*[iter(as_flags(mapping))] * 2, strict=True)]
    random.shuffle(flags)
    same = [
        Recipe(**shuffled),
        from_mapping(yaml.safe_load(yaml.safe_dump(shuffled))),
        from_mapping(yaml.safe_load(to_yaml(recipe))),
        from_mapping(json.loads(json.dumps(canonical(recipe)))),
        parse([part for pair in flags for part in pair], "test").recipe,
    ]
    assert all(other == recipe for other in same)
    assert {digest(resolved(other), **CONTENT) for other in same} == {digest(resolved(recipe), **CONTENT)}


@settings(deadline=None, max_examples=60)
@given(partial, partial)
def test_recipes_have_the_same_digest_exactly_when_they_compute_the_same(one: Any, other: Any) -> None:
    def what_counts(mapping: dict[str, Any]) -> dict[str, Any]:
        full = canonical(resolved(from_mapping(mapping)))
        full["task"] = {key: full["task"][key] for key in ("name", "metrics", "max_length")}
        return full

    assert (named(one) == named(other)) == (what_counts(one) == what_counts(other))


def test_short_forms_stand_for_objects_with_a_name() -> None:
    short = Recipe(task="mrpc", model="minilm", method="lora", objective={"terms": "l2sp"}, strategy="layerwise_decay")
    full = canonical(short)
    assert full["task"]["name"] == "mrpc"
    assert full["method"]["name"] == "lora"
    assert full["objective"]["terms"][0]["name"] == "l2sp"
    assert from_mapping(full) == short


@pytest.mark.parametrize("settings", [{"r": 16}, {}])
def test_settings_without_a_name_are_those_of_the_default_method(settings: dict[str, Any], tmp_path: Path) -> None:
    meant = Recipe(method={"name": "lora", **settings})
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump({"method": settings}))
    assert from_yaml(file) == Recipe(method=settings) == meant
    assert Recipe(strategy={}).strategy == Recipe().strategy


@pytest.mark.parametrize(
    ("text", "weights"),
    [("{0: 1, 1: 1e-1}", {"0": 1.0, "1": 0.1}), ("{false: 1, true: 2.5}", {"false": 1.0, "true": 2.5})],
)
def test_names_of_classes_that_yaml_reads_as_something_else_are_names_again(
    text: str, weights: dict[str, float], tmp_path: Path
) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text(f"objective: {{terms: [{{name: class_weights, weights: {text}}}]}}")
    (term,) = from_yaml(file).objective.terms
    assert term.model_dump() == {"name": "class_weights", "weights": weights}


def test_a_recipe_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Recipe().seed = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    ("mapping", "path", "suggestion"),
    [
        ({"mehtod": "lora"}, "mehtod", "'method'"),
        ({"method": "lorra"}, "method.name", "'lora'"),
        ({"method": {"name": "lora", "target": "query"}}, "method.target", "'targets'"),
        ({"method": {"initial_r": 8}}, "method.initial_r", "unknown key for lora; it is a setting of adalora"),
        ({"method": {}, "strategy": {"share": 0.5}}, "strategy.share", "a setting of gradual_unfreezing"),
        ({"objective": {"terms": [{"strength": 1}]}}, "objective.terms.0.name", "missing"),
        ({"method": {"name": "lora", "r": "eight"}}, "method.r", "integer"),
        ({"optim": {"lrr": 1}}, "optim.lrr", "'lr'"),
        ({"optim": {"lr": float("nan")}}, "optim.lr", "expected"),
        ({"optim": {"lr": 0}}, "optim.lr", "greater than 0"),
        ({"optim": 3}, "optim", "expected keys with values"),
        ({"schedule": {"decay": "liner"}}, "schedule.decay", "'linear'"),
        ({"objective": {"terms": [{"name": "l2sp", "strenght": 1}]}}, "objective.terms.0.strenght", "'strength'"),
        ({"objective": {"terms": "l2sp,l2sp"}}, "objective.terms", "more than once"),
        ({"objective": {"terms": [CLASSES | {"weights": "balancd"}]}}, "objective.terms.0.weights", "'balanced'"),
        ({"objective": {"terms": [CLASSES | {"weights": 2}]}}, "objective.terms.0.weights", "`{positive: 2.0,"),
        ({"objective": {"terms": [CLASSES | {"weights": {"a": 0}}]}}, "objective.terms.0.weights", "'a'"),
        ({"objective": {"terms": [CLASSES | {"weights": {"a": -1}}]}}, "objective.terms.0.weights", "above 0"),
        ({"objective": {"terms": [CLASSES | {"weights": {"a": float("nan")}}]}}, "objective.terms.0.weights", "nan"),
        ({"objective": {"terms": [CLASSES | {"weights": {"a": float("inf")}}]}}, "objective.terms.0.weights", "inf"),
        ({"objective": {"terms": [CLASSES | {"weights": {"a": "two"}}]}}, "objective.terms.0.weights", "'two'"),
        ({"objective": {"terms": [CLASSES | {"weights": {"a": True}}]}}, "objective.terms.0.weights", "True"),
        ({"strategy": "gradual"}, "strategy.name", "'gradual_unfreezing'"),
        ({"seed": -1}, "seed", "greater than or equal to 0"),
    ],
)
def test_a_wrong_recipe_is_refused_with_its_path_and_what_would_be_right(
    mapping: dict[str, Any], path: str, suggestion: str
) -> None:
    with pytest.raises(RecipeError) as refusal:
        from_mapping(mapping)
    message = str(refusal.value)
    assert message.startswith(f"{path}: ")
    assert suggestion in message


def test_every_mistake_is_reported_at_once() -> None:
    with pytest.raises(RecipeError) as refusal:
        from_mapping({"optim": {"lr": -1}, "sed": 1})
    assert len(str(refusal.value).splitlines()) == 2


def test_python_is_refused_in_the_same_words_as_yaml() -> None:
    with pytest.raises(RecipeError, match=r"method\.name: 'lorra' is unknown \(did you mean 'lora'\?\)"):
        Recipe(method="lorra")


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("seed: 1\nseed: 2\n", "'seed' is given twice"),
        ("method: {name: lora, r: 8, r: 16}\n", "'r' is given twice"),
        ("- lora\n", "keys with values"),
        ("method: [lora\n", "not a readable YAML file"),
        ("seed: !!python/object/apply:os.getcwd []\n", "not a readable YAML file"),
        ("sed: 1\n", "did you mean 'seed'"),
    ],
)
def test_a_recipe_file_that_cannot_be_meant_is_refused_by_name(tmp_path: Path, text: str, complaint: str) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text(text)
    with pytest.raises(RecipeError) as refusal:
        from_yaml(file)
    assert str(refusal.value).startswith(str(file))
    assert complaint in str(refusal.value)


def test_a_missing_recipe_file_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"nowhere\.yaml"):
        from_yaml(tmp_path / "nowhere.yaml")


def test_numbers_in_scientific_notation_without_a_point_are_numbers(tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text("optim: {lr: 1e-3}\nschedule: {epochs: 2}\n")
    assert from_yaml(file).optim.lr == 1e-3


FILES = sorted((Path(__file__).parents[2] / "recipes" / "configs").glob("*.yaml"))
CONFIGS = [file for file in FILES if not file.stem.startswith("compare-")]


def test_recipe_files_are_shipped() -> None:
    assert CONFIGS


@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: file.stem)
def test_every_shipped_recipe_file_is_valid_and_names_what_its_file_name_says(file: Path) -> None:
    recipe = from_yaml(file)
    assert file.stem.startswith(f"{recipe.task.name}-{recipe.method.name}")


def test_the_schema_knows_every_field_method_and_short_form() -> None:
    schema = Recipe.model_json_schema()
    assert set(schema["properties"]) == set(Recipe.model_fields)
    assert {"FullConfig", "LoraConfig", "AdaLoraConfig"} <= set(schema["$defs"])
    assert {"type": "string"} in schema["properties"]["method"]["anyOf"]
    assert all(part["additionalProperties"] is False for part in schema["$defs"].values())
