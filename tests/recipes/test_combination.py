"""Several runs become one model, exported as a run's own is, with a card that says what was combined."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from graft import export_combined, load, train
from graft.cli import main
from graft.errors import GraftError, RunError
from graft.recipes.combined import read_combination
from graft.recipes.options import RunOptions

TEXTS = ["w1 w2 w3", "w0", "w7 w8 w9 w10 w11 w12"]


@pytest.fixture
def make(tiny_recipe: Any, tmp_path: Path) -> Any:
    """Make `make(method, **sections)`: a run of four steps."""

    def run(method: Any, family: str = "bert", kind: str = "final", **sections: Any) -> Path:
        recipe = tiny_recipe(method, family, schedule={"steps": 4}, **sections)
        return train(recipe, options=RunOptions(out=tmp_path / "runs", quiet=True, kind=kind)).folder

    return run


def write_words(folder: Path, labels: list[Any], size: int = 23) -> Path:
    """A task of single texts with these labels."""
    folder.mkdir()
    for split in ("train", "validation"):
        rows = [{"text": f"w{row % 30} w{row % 7}", "label": labels[row % len(labels)]} for row in range(size)]
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def accuracy(export: Path, task: Path) -> float:
    """Of plain transformers, over a validation split, counted here."""
    rows = [json.loads(line) for line in (task / "validation.jsonl").read_text().splitlines()]
    tokenizer = AutoTokenizer.from_pretrained(export)
    model = AutoModelForSequenceClassification.from_pretrained(export).eval()
    texts = [row["text"] for row in rows]
    with torch.no_grad():
        logits = model(**tokenizer(texts, padding=True, truncation=True, max_length=24, return_tensors="pt")).logits
    return 100 * float(np.mean(logits.argmax(1).numpy() == np.array([row["label"] for row in rows])))


def test_a_combination_is_a_plain_checkpoint_with_every_runs_scores_in_its_card(
    make: Any, tmp_path: Path, word_task: Path
) -> None:
    one, two = make("lora"), make("lora", seed=2)
    exported = export_combined([one, two], tmp_path / "out", how="ties", density=0.5, weights=[1.0, 0.5])
    assert exported.form == "merged"
    assert exported.parity["validation"].examples == 37
    assert exported.parity["validation"].largest_difference <= 1e-5
    assert not [name for name in load_file(exported.folder / "model.safetensors") if "lora" in name]
    found = accuracy(exported.folder, word_task)
    page = read_combination(exported.folder)
    assert page is not None
    assert [(parent.name, parent.weight) for parent in page.parents] == [(one.name, 1.0), (two.name, 0.5)]
    assert [parent.scores["validation"]["accuracy"] for parent in page.parents] == [
        load(folder).record.scores["validation"]["accuracy"] for folder in (one, two)
    ]
    assert [parent.combination["validation"]["accuracy"] for parent in page.parents] == pytest.approx([found, found])
    card = ModelCard.load(exported.folder / "README.md")
    assert card.data.eval_results[0].metric_value == pytest.approx(found)
    assert {"lora", "merge"} <= set(card.data.tags)
    own = load(two).record.scores["validation"]["accuracy"]
    assert f"| {two.name} | validation | accuracy | {own:.2f} | {found:.2f} |" in card.content
    assert "`ties`, density 0.5" in card.content
    assert "averaged with the weights above, scaled to sum to one" in card.content
    assert str(tmp_path) not in card.content
    model = AutoModelForSequenceClassification.from_pretrained(exported.folder).eval()
    tokens = AutoTokenizer.from_pretrained(exported.folder)(TEXTS, padding=True, return_tensors="pt")
    with torch.no_grad():
        torch.testing.assert_close(load(exported.folder).logits(TEXTS), model(**tokens).logits, atol=1e-6, rtol=0)


def test_combined_adapters_stay_an_adapter_where_that_is_asked(make: Any, tmp_path: Path) -> None:
    runs = [make({"name": "lora", "r": 4}), make({"name": "lora", "r": 2, "rslora": True}, seed=2)]
    adapter = export_combined(runs, tmp_path / "adapter", how="average", adapter=True)
    merged = export_combined(runs, tmp_path / "merged", how="average")
    assert (adapter.form, merged.form) == ("peft", "merged")
    assert json.loads((adapter.folder / "adapter_config.json").read_text())["r"] == 6
    torch.testing.assert_close(load(adapter.folder).logits(TEXTS), load(merged.folder).logits(TEXTS), atol=1e-5, rtol=0)
    parts = [load(run) for run in runs]
    bias = sum(part.model.heads["default"].classifier.bias for part in parts) / 2
    torch.testing.assert_close(load_file(merged.folder / "model.safetensors")["classifier.bias"], bias.detach())


@pytest.mark.parametrize("pooling", ["native", "mean"])
def test_full_fine_tunings_are_averaged(pooling: str, make: Any, tmp_path: Path) -> None:
    sections = {"model": {"pooling": pooling}}
    runs = [
        make("full", **sections),
        make("full", seed=2, **sections),
        make({"name": "lora", "dora": True}, **sections),
    ]
    exported = export_combined(runs, tmp_path / "soup", how="average", weights=[2, 1, 1])
    assert exported.form == ("merged" if pooling == "native" else "graft")
    name = "encoder.layer.0.output.LayerNorm.weight"
    values = [load(run).model.body.get_parameter(name) for run in runs]
    mean = (2 * values[0] + values[1] + values[2]) / 4
    torch.testing.assert_close(load(exported.folder).model.body.get_parameter(name), mean)


def test_runs_on_other_examples_of_the_same_classes_are_scored_on_each(
    make: Any, tmp_path: Path, word_task: Path
) -> None:
    other = write_words(tmp_path / "other", [0, 1, 1])
    runs = [make("lora"), make("lora", task={"data": str(other)})]
    exported = export_combined(runs, tmp_path / "out", how="cat")
    page = read_combination(exported.folder)
    assert page is not None
    found = [parent.combination["validation"]["accuracy"] for parent in page.parents]
    assert found == pytest.approx([accuracy(exported.folder, word_task), accuracy(exported.folder, other)])


def test_runs_that_do_not_fit_are_refused_by_run_and_key(make: Any, tmp_path: Path) -> None:
    lora, out = make("lora"), tmp_path / "out"

    def refused(other: Path, match: str, how: str = "average", **settings: Any) -> None:
        with pytest.raises(GraftError, match=match):
            export_combined([lora, other], out, how=how, **settings)

    classes = make("lora", task={"data": str(write_words(tmp_path / "classes", ["bad", "good"]))})
    refused(classes, rf"{classes.name}: data\.label_names is \['bad', 'good'\], and {lora.name}'s is .*graft\.load")
    three = make("lora", task={"data": str(write_words(tmp_path / "three", [0, 1, 2]))})
    refused(three, rf"{three.name}: data\.outputs is 3, and {lora.name}'s is 2")
    refused(make("lora", "gpt2"), "checkpoint is .* only runs from one checkpoint")
    refused(make("lora", model={"pooling": "mean"}), "model.pooling is mean, and .* is native")
    refused(make("bottleneck"), "method is bottleneck, which cannot be merged")
    refused(make("full"), "method is full, and ties combines plain LoRA", how="ties", density=0.5)
    dora = make({"name": "lora", "dora": True})
    refused(dora, "lora with method.dora, and svd combines plain LoRA adapters; use --combine average", how="svd")
    small = make({"name": "lora", "r": 2})
    refused(small, rf"method\.r: is 8 in {lora.name}, 2 in {small.name}, and linear needs equal ranks", how="linear")
    refused(small, "needs --density", how="ties")
    refused(small, "svd keeps all numbers", how="svd", density=0.5)
    refused(small, "above 0 and at most 1", how="ties_svd", density=0.0)
    refused(small, "is no way to combine .did you mean 'ties'", how="tie")
    refused(small, "3 for 2 runs", weights=[1, 2, 3])
    refused(small, "a weight is above 0 and finite", weights=[1, -1])
    refused(lora, "is named twice")
    with pytest.raises(RunError, match="is a trial"):
        export_combined([lora, make("lora", kind="trial", seed=5)], out, how="average")
    assert not out.exists()


@pytest.mark.usefixtures("fresh_prover")
def test_the_command_line_combines(make: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    runs = [str(make("lora")), str(make("lora", seed=2))]
    out = str(tmp_path / "out")
    assert main(["export", *runs, "--out", out]) == 2
    assert "2 runs: say how they become one model" in capfd.readouterr().err
    assert main(["export", runs[0], "--out", out, "--weights", "1"]) == 2
    assert "belong to --combine" in capfd.readouterr().err
    assert main(["export", *runs, "--combine", "average", "--weights", "a,b", "--out", out]) == 2
    assert "expected numbers with commas" in capfd.readouterr().err
    asked = ["--combine", "dare_linear", "--density", "0.5", "--weights", "0.7,0.3", "--seed", "3"]
    assert main(["export", *runs, *asked, "--out", out]) == 0
    assert capfd.readouterr().out.splitlines()[-1] == f"export: {out}"
    page = read_combination(Path(out))
    assert page is not None
    assert (page.how, page.density, page.seed, [parent.weight for parent in page.parents]) == (
        "dare_linear",
        0.5,
        3,
        [0.7, 0.3],
    )
