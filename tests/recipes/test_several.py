"""Runs that are loaded together hold one base, and say what each says when it is loaded alone."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from graft import load, train
from graft.errors import DataError, RunError
from graft.recipes.options import RunOptions
from graft.recipes.several import LoadedRuns

TEXTS = ["w1 w2 w3", "w0", "w7 w8 w9 w10 w11 w12", "w39 w0 w1 w2", "w5 w5", "w21 w30 w22 w1 w2 w3 w4"]
ROUNDING = 1e-5  # other rows in a batch change the order of sums inside matrix products


@pytest.fixture(scope="module")
def scores_task(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A task of pairs and scores: how many words two texts share."""
    folder = tmp_path_factory.mktemp("scores") / "overlap"
    folder.mkdir()
    for split, size in (("train", 40), ("validation", 11)):
        rows = [
            {"one": f"w{number % 7} w{number % 5}", "two": f"w{number % 5} w{number % 3}", "score": number % 4 / 3}
            for number in range(size)
        ]
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture
def make(tiny_recipe: Any, tmp_path: Path) -> Any:
    """Make `make(method, **sections)`: a run of three steps."""

    def run(method: Any, family: str = "bert", **sections: Any) -> Path:
        recipe = tiny_recipe(method, family, schedule={"steps": 3}, **sections)
        return train(recipe, options=RunOptions(out=tmp_path / "runs", quiet=True, kind="final")).folder

    return run


def base_bytes(folder: Path) -> int:
    """Bytes of the checkpoint that a run was trained from."""
    return int((Path(load(folder).recipe.model.name) / "model.safetensors").stat().st_size)


def test_lora_runs_of_different_tasks_answer_in_one_batch_as_each_does_alone(make: Any, scores_task: Path) -> None:
    words = make({"name": "lora", "r": 4})
    other = make({"name": "lora", "r": 2, "targets": ["query", "value"], "rslora": True}, seed=2)
    pairs = {"data": str(scores_task), "kind": "regression", "text": "one,two", "label": "score", "max_length": 24}
    scores = make("lora", task=pairs)
    both = load({"words": words, "other": other, "scores": scores})
    assert isinstance(both, LoadedRuns)
    assert [set(mixture.adapters) for mixture in both.mixtures] == [{"words", "other", "scores"}]
    names = ["words", "scores", "other", "words", "other", "scores"]
    texts: list[Any] = [text if name != "scores" else (text, "w1 w2") for text, name in zip(TEXTS, names, strict=True)]
    found = both.logits(texts, names, mixed=True)
    assert [len(row) for row in found] == [2, 1, 2, 2, 2, 1]
    for text, name, row in zip(texts, names, found, strict=True):
        alone = load({"words": words, "other": other, "scores": scores}[name])
        torch.testing.assert_close(row, alone.logits([text])[0], atol=ROUNDING, rtol=0)
        said = both.predict([text], [name])[0]
        assert said.value == pytest.approx(alone.predict([text])[0].value, abs=ROUNDING)
    apart = [load(words).logits([text])[0] for text in TEXTS]
    assert max(float((one - two).abs().max()) for one, two in zip(apart[1:3], found[1:3], strict=True)) > 0.01


def test_one_pass_serves_all_that_mix(make: Any) -> None:
    both = load([make("lora"), make("lora", seed=2)])
    one, two = both.runs
    passes: list[int] = []
    for run in both.runs.values():
        run.model.body.register_forward_hook(lambda _module, _inputs, output: passes.append(len(output[0])))
    both.logits(TEXTS, [one, two] * 3, mixed=True)
    assert passes == [6]
    passes.clear()
    both.logits(TEXTS, [one, two] * 3)  # on a processor
    assert passes == [3, 3]


def test_runs_of_any_method_share_the_base_and_say_to_the_bit_what_they_say_alone(make: Any) -> None:
    methods: list[Any] = [
        {"name": "lora", "dora": True},
        "adalora",
        "bottleneck",
        {"name": "prefix", "tokens": 4},
        "ia3",
        "bitfit",
        "probe",
    ]
    folders = {str(number): make(method) for number, method in enumerate(methods)}
    both = load(folders)
    assert both.mixtures == ()
    names = [*folders, *folders]
    texts = [TEXTS[number % len(TEXTS)] for number in range(len(names))]
    found = both.logits(texts, names)
    learned = 0
    for number, (name, folder) in enumerate(folders.items()):
        alone = load(folder)
        expected = alone.score(alone.encode([texts[number], texts[number + len(folders)]]))
        assert torch.equal(torch.stack([found[number], found[number + len(folders)]]), torch.from_numpy(expected))
        parameters = both.runs[name].model.body.parameters()
        host = {id(parameter) for parameter in both.runs["0"].model.body.parameters()}
        assert any(id(parameter) in host for parameter in parameters)
        learned += alone.record.parameters.trainable * 4
    buffers = 8 * 2 * 40 * len(folders)  # position ids and token types of each
    assert both.held_bytes <= base_bytes(folders["0"]) + learned + buffers


def test_what_cannot_share_a_base_is_said(make: Any, tmp_path: Path) -> None:
    lora, full = make("lora"), make("full")
    with pytest.raises(RunError, match=r"full changed the base itself .* load it alone"):
        load([lora, full])
    with pytest.raises(RunError, match=r"gpt2-lora.*was trained from .* share one base"):
        load({"here": lora, "gpt2-lora": make("lora", "gpt2")})
    with pytest.raises(RunError, match="another run is called"):
        load([lora, lora])
    with pytest.raises(RunError, match="no runs"):
        load([])
    both = load({"one": lora, "two": make("ia3")})
    with pytest.raises(RunError, match=r"no run 'tow' .did you mean 'two'"):
        both.predict(["w1"], ["tow"])
    with pytest.raises(RunError, match="1 names for 2 texts"):
        both.predict(["w1", "w2"], ["one"])
    with pytest.raises(DataError, match="expected one text"):
        both.predict([("w1", "w2")], ["one"])


def test_another_pooling_is_served_apart(make: Any) -> None:
    native, mean = make("lora"), make("lora", model={"pooling": "mean"})
    both = load({"native": native, "mean": mean, "too": make("lora", seed=3)})
    assert [set(mixture.adapters) for mixture in both.mixtures] == [{"native", "too"}]
    found = both.logits(TEXTS[:3], ["native", "mean", "too"], mixed=True)
    torch.testing.assert_close(found[1], load(mean).logits(TEXTS[1:2])[0], atol=0, rtol=0)
    torch.testing.assert_close(found[0], load(native).logits(TEXTS[:1])[0], atol=ROUNDING, rtol=0)
