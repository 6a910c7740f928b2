"""An export loads without graft, says what the run said, and stands only if it does."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import ModelCard
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

from graft import load, train
from graft.errors import GraftError, RunError
from graft.eval.records import read_predictions
from graft.recipes.export import export
from graft.recipes.exporting import Request, main
from graft.recipes.options import RunOptions


@pytest.fixture
def make(tiny_recipe: Any, tmp_path: Path) -> Any:
    """Make `make(method, family, kind, **sections)`: a run of three steps."""

    def run(method: Any, family: str = "bert", kind: str = "final", **sections: Any) -> Path:
        recipe = tiny_recipe(method, family, schedule={"steps": 3}, **sections)
        return train(recipe, options=RunOptions(out=tmp_path / "runs", quiet=True, kind=kind)).folder

    return run


@pytest.mark.usefixtures("fresh_prover")
@pytest.mark.parametrize(("method", "family"), [("lora", "bert"), ("full", "gpt2")])
def test_a_merged_export_is_a_plain_checkpoint_with_the_runs_logits(
    method: str, family: str, make: Any, tmp_path: Path, word_task: Path
) -> None:
    folder = make(method, family)
    exported = export(folder, tmp_path / "plain")
    assert exported.form == "merged"
    assert exported.parity["validation"].examples == 37
    assert exported.parity["validation"].largest_difference <= 1e-5
    assert exported.parity["validation"].before == pytest.approx(exported.parity["validation"].after)
    tokenizer = AutoTokenizer.from_pretrained(exported.folder)
    model = AutoModelForSequenceClassification.from_pretrained(exported.folder).eval()
    assert not [name for name in model.state_dict() if "lora" in name]
    texts = [json.loads(line)["text"] for line in (word_task / "validation.jsonl").read_text().splitlines()]
    with torch.no_grad():
        logits = model(**tokenizer(texts, padding=True, truncation=True, max_length=24, return_tensors="pt")).logits
    torch.testing.assert_close(logits, torch.tensor(read_predictions(folder)["validation"].scores), atol=1e-5, rtol=0)
    torch.testing.assert_close(load(exported.folder).logits(texts), logits, atol=1e-6, rtol=0)
    said = pipeline("text-classification", str(exported.folder), device="cpu")(texts[0])
    assert said[0]["label"] == load(folder).predict(texts[:1])[0].value


def test_the_card_holds_the_records_values(make: Any, tmp_path: Path) -> None:
    folder = make("lora")
    exported = export(folder, tmp_path / "plain")
    card = ModelCard.load(exported.folder / "README.md")
    record = json.loads((folder / "record.json").read_text())
    found = {result.metric_type: result.metric_value for result in card.data.eval_results}
    assert found == pytest.approx(record["scores"]["validation"])
    assert str(tmp_path) not in card.content  # of this machine nothing but names


@pytest.mark.usefixtures("fresh_prover")
def test_the_lines_of_an_adapters_card_load_it(make: Any, tmp_path: Path, word_task: Path) -> None:
    folder = make("bottleneck")
    exported = export(folder, tmp_path / "adapter")
    assert exported.form == "peft"
    text = json.loads((word_task / "validation.jsonl").read_text().splitlines()[0])["text"]
    card = (exported.folder / "README.md").read_text()
    lines = card.split("```python\n")[1].split("```")[0].replace("FOLDER", str(exported.folder))
    lines = lines.replace('from_pretrained("tiny"', f'from_pretrained("{load(folder).recipe.model.name}"')
    said = f"model(**tokenizer({text!r}, return_tensors='pt')).logits.tolist()"
    program = f"{lines}\nimport json\nprint(json.dumps({said}))"
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    logits = torch.tensor(json.loads(done.stdout.splitlines()[-1]))
    torch.testing.assert_close(logits, load(folder).logits([text]), atol=1e-5, rtol=0)
    assert torch.equal(load(exported.folder).logits([text]), load(folder).logits([text]))


def test_what_graft_alone_can_express_is_exported_for_graft(make: Any, tmp_path: Path) -> None:
    folder = make("lora", model={"pooling": "mean"})
    exported = export(folder, tmp_path / "own")
    assert exported.form == "graft"
    assert torch.equal(load(exported.folder).logits(["w1 w2 w3"]), load(folder).logits(["w1 w2 w3"]))


@pytest.mark.usefixtures("fresh_prover")
def test_an_export_that_says_something_else_is_not_left(make: Any, tmp_path: Path) -> None:
    folder = make("full")
    weights = folder / "adapter" / "model.safetensors"
    tensors = load_file(weights)
    tensors["classifier.bias"] += 0.01
    save_file(tensors, weights, metadata={"format": "pt"})
    with pytest.raises(GraftError, match=r"validation a logit differs by 0\.01"):
        export(folder, tmp_path / "plain")
    assert not [path for path in tmp_path.iterdir() if "plain" in path.name]


def test_half_precision_is_measured_and_reported(make: Any, tmp_path: Path) -> None:
    exported = export(make("lora"), tmp_path / "half", dtype="bf16")
    assert 0 < exported.parity["validation"].largest_difference < 1
    weights = load_file(exported.folder / "model.safetensors")
    assert {tensor.dtype for tensor in weights.values() if tensor.is_floating_point()} == {torch.bfloat16}


def test_an_earlier_export_is_replaced_and_nothing_else_is(make: Any, tmp_path: Path) -> None:
    folder, target = make("lora"), tmp_path / "plain"
    export(folder, target, adapter=True)
    assert export(folder, target).form == "merged"
    assert not (target / "adapter_config.json").exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(GraftError, match="no earlier export"):
        export(folder, tmp_path / "mine")
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years of work"


def test_what_cannot_be_exported_is_said(make: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prefix = make({"name": "prefix", "tokens": 4})
    assert main(Request((prefix,), tmp_path / "x", dense=True)) == 2
    assert "no dense form" in capsys.readouterr().err
    assert main(Request((prefix,), tmp_path / "x", dtype="bf16")) == 2
    assert "only a merged checkpoint can be cast" in capsys.readouterr().err
    with pytest.raises(RunError, match="is a trial"):
        export(make("lora", kind="trial"), tmp_path / "x")
    run = make("lora", seed=2)
    shutil.rmtree(run.parent / ".examples")
    with pytest.raises(RunError, match="the table of texts is not there"):
        export(run, tmp_path / "x")
    assert not (tmp_path / "x").exists()
