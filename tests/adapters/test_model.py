"""The model's contract: fresh weights by seed alone, pooling as asked, heads, and no torch for reading a recipe."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from graft.adapters.config import ModelConfig
from graft.adapters.families import FAMILIES
from graft.adapters.loading import load_model, to_sequence_classification
from graft.errors import GraftError


def _load(checkpoint: Any, seed: int = 3, outputs: int = 2, **config: Any) -> Any:
    return load_model(checkpoint, "classification", outputs, ModelConfig(**config), None, seed=seed)


def _without_pooler(checkpoint: Any) -> Any:
    """Take the pooler out of a BERT's weights."""
    file = checkpoint.path / "model.safetensors"
    kept = {name: value for name, value in load_file(file).items() if "pooler" not in name}
    save_file(kept, file, metadata={"format": "pt"})
    return checkpoint


def test_fresh_weights_depend_on_the_seed_alone_and_leave_the_global_generator_be(tiny: Any) -> None:
    checkpoint = _without_pooler(tiny("bert"))
    torch.manual_seed(1)
    first = _load(checkpoint).state_dict()
    torch.manual_seed(2)
    before = torch.get_rng_state()
    again = _load(checkpoint).state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(first[name], again[name]) for name in first)
    other = _load(checkpoint, seed=4)
    differing = {name for name, value in other.state_dict().items() if not torch.equal(value, first[name])}
    assert differing == {"backbone.pooler.dense.weight", "heads.default.classifier.weight"}  # biases begin at zero


def test_what_the_checkpoint_did_not_bring_is_fresh_and_belongs_to_the_head(tiny: Any) -> None:
    classifier = {"heads.default.classifier.weight", "heads.default.classifier.bias"}
    pooler = {"backbone.pooler.dense.weight", "backbone.pooler.dense.bias"}
    brought = _load(tiny("bert", folder="with"))
    assert brought.fresh == classifier
    assert set(brought.head_parameters()) == classifier
    assert brought.stages()[-2].name == "pooler"
    missing = _load(_without_pooler(tiny("bert", folder="without")))
    assert missing.fresh == classifier | pooler
    assert set(missing.head_parameters()) == classifier | pooler
    head = missing.stages()[-1]
    assert head.name == "head"
    assert missing.body.pooler in head.modules
    assert "pooler" not in [stage.name for stage in missing.stages()]
    trained = _load(tiny("bert", "classification"))
    assert not trained.fresh
    assert set(trained.head_parameters()) == classifier  # a head that was brought still learns
    resized = _load(tiny("bert", "classification", folder="three"), outputs=3)
    assert resized.fresh == classifier


@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert", "gpt2"])
@pytest.mark.parametrize("pooling", ["mean", "cls", "last"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_pooling_is_over_the_real_tokens(family: str, pooling: str, side: str, tiny: Any, batch: Any) -> None:
    model = _load(tiny(family), pooling=pooling)
    inputs = batch if side == "right" else {key: value.flip(1) for key, value in batch.items()}
    outputs = model(inputs, need=frozenset({"hidden"}))
    assert not any("pooler" in name for name, _ in model.named_parameters())  # nothing unused is left to learn
    rows = []
    for hidden, mask in zip(model.body(**inputs).last_hidden_state, inputs["attention_mask"], strict=True):
        real = hidden[mask.bool()]
        rows.append({"mean": real.mean(0), "cls": real[0], "last": real[-1]}[pooling])
    torch.testing.assert_close(outputs.features, torch.stack(rows))
    with pytest.raises(GraftError, match="pooling"):
        to_sequence_classification(model)


def test_several_heads_share_one_backbone(tiny: Any, batch: Any) -> None:
    for family in sorted(FAMILIES):
        model = _load(tiny(family))
        default = model(batch).logits
        model.add_head("ranks", 5, seed=8)
        outputs = model(batch, head="ranks")
        assert outputs.logits.shape == (3, 5)
        assert torch.equal(model(batch).logits, default)
        ours = {name for name in model.head_parameters() if name.startswith("heads.ranks.")}
        assert ours
        assert ours <= model.fresh
        apart = {p.data_ptr() for p in model.heads["ranks"].parameters()}
        assert not apart & {p.data_ptr() for p in model.heads["default"].parameters()}
    with pytest.raises(GraftError, match="exists already"):
        model.add_head("ranks", 5, seed=8)


def test_labels_and_problem_type_reach_the_config(tiny: Any) -> None:
    model = load_model(tiny("bert"), "classification", 3, ModelConfig(), ["no", "maybe", "yes"], seed=1)
    assert model.origin.config.id2label == {0: "no", 1: "maybe", 2: "yes"}
    assert _load(tiny("bert"), outputs=1).origin.config.problem_type == "regression"
    with pytest.raises(GraftError, match="2 label names for 3 outputs"):
        load_model(tiny("bert"), "classification", 3, ModelConfig(), ["no", "yes"], seed=1)


def test_token_types_are_read_where_the_family_has_them(tiny: Any, batch: Any) -> None:
    marked = batch | {"token_type_ids": torch.ones_like(batch["input_ids"])}
    bert, distilbert = _load(tiny("bert")), _load(tiny("distilbert"))
    assert not torch.equal(bert(marked).logits, bert(batch).logits)
    assert torch.equal(distilbert(marked).logits, distilbert(batch).logits)


def test_loading_says_nothing(tiny: Any, capfd: pytest.CaptureFixture[str]) -> None:
    checkpoint = tiny("bert")
    capfd.readouterr()
    _load(checkpoint)
    captured = capfd.readouterr()
    assert captured.out + captured.err == ""


def test_reading_a_recipe_needs_neither_torch_nor_transformers_nor_peft(tmp_path: Path) -> None:
    code = (
        "import sys; import graft.adapters.methods, graft.adapters.config, graft.adapters.families, "
        "graft.adapters.checkpoint; print([m for m in ('torch', 'transformers', 'peft') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
