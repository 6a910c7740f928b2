import numpy as np
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from graft.eval.kinds import KINDS
from graft.eval.splits import Split
from graft.eval.tasks import TASKS


def make(texts, labels=None):
    return Split("train", "train", np.arange(len(texts)), tuple(texts), labels)


def batch_of(kind, tokenizer, labels, *, texts=(("a b c",), ("a",), ("b c",))):
    encoded = KINDS[kind].encode(make(texts, labels), tokenizer, 16)
    return KINDS[kind].collate(encoded, range(len(encoded)))


def test_heads_have_as_many_outputs_as_the_task_needs():
    outputs = {name: KINDS[task.kind].outputs(task) for name, task in TASKS.items()}
    assert (
        outputs.items()
        >= {
            **dict.fromkeys(("cola", "sst2", "mrpc", "qqp", "qnli", "rte", "wnli"), 2),
            "mnli": 3,
            "stsb": 1,
            "text": 0,
            "pocket/entailment": 3,
            "pocket/similarity": 1,
        }.items()
    )
    assert KINDS["causal_lm"].head == "language_model"
    assert KINDS["regression"].head == KINDS["classification"].head == "classification"


def test_cross_entropy_comes_one_value_per_example_in_full_precision(tokenizer):
    batch = batch_of("classification", tokenizer, np.array([0, 2, 1]))
    logits = torch.tensor([[1.0, 2.0, 3.0], [0.0, 0.0, 0.0], [-1.0, 4.0, 2.0]])
    values = logits.double().numpy()
    expected = np.log(np.exp(values).sum(axis=1)) - values[[0, 1, 2], [0, 2, 1]]
    loss = KINDS["classification"].loss(logits, batch)
    assert loss.shape == (3,)
    np.testing.assert_allclose(loss.numpy(), expected, rtol=1e-6)
    assert KINDS["classification"].loss(logits.bfloat16(), batch).dtype == torch.float32


def test_regression_is_the_squared_difference_to_the_raw_score(tokenizer):
    batch = batch_of("regression", tokenizer, np.array([0.0, 2.5, 5.0], dtype=np.float32))
    loss = KINDS["regression"].loss(torch.tensor([[1.0], [2.0], [5.0]], dtype=torch.bfloat16), batch)
    assert loss.dtype == torch.float32
    assert loss.tolist() == [1.0, 0.25, 0.0]


def test_a_language_models_loss_is_the_sum_over_predicted_tokens_and_ignores_padding(decoder_tokenizer):
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(vocab_size=11, n_positions=64, n_embd=8, n_layer=1, n_head=2)).eval()
    kind = KINDS["causal_lm"]
    encoded = kind.encode(make([("a b c d e",), ("f a",)]), decoder_tokenizer, 6)
    batch = kind.collate(encoded, [0, 1])
    with torch.no_grad():
        loss = kind.loss(model(**batch.inputs).logits, batch)
        for row, tokens in enumerate(encoded.input_ids):
            alone = torch.tensor(tokens[None].astype(np.int64))
            theirs = model(alone, labels=alone).loss * (len(tokens) - 1)  # Hugging Face's own mean over tokens
            torch.testing.assert_close(loss[row], theirs)
    assert batch.units.tolist() == [5, 2]


def test_scores_are_what_metrics_need(tokenizer, decoder_tokenizer):
    logits = torch.tensor([[1.0, 2.0], [3.0, 0.0], [0.0, 1.0]])
    labels = np.array([1, 0, 0])
    kind = KINDS["classification"]
    rows = kind.scores(logits, batch_of("classification", tokenizer, labels))
    assert rows == logits.tolist()
    assert kind.metrics(TASKS["rte"], np.array(rows), labels) == pytest.approx({"accuracy": 200 / 3})

    kind = KINDS["regression"]
    scores = np.array([[1.0], [2.0], [3.0]], dtype=np.float32)
    assert kind.metrics(TASKS["stsb"], scores, np.array([2, 4, 6])) == pytest.approx({"pearson": 100, "spearman": 100})

    kind = KINDS["causal_lm"]
    batch = batch_of("causal_lm", decoder_tokenizer, None)
    uniform = torch.zeros(*batch.inputs["input_ids"].shape, 11)
    found = kind.metrics(TASKS["text"], np.array(kind.scores(uniform, batch)), None)
    assert found == pytest.approx({"loss": np.log(11), "perplexity": 11}, rel=1e-6)


def test_the_selecting_metric_comes_first():
    scores, labels = np.eye(2)[[0, 1, 1]], np.array([0, 1, 0])
    assert list(KINDS["classification"].metrics(TASKS["mrpc"], scores, labels)) == ["f1", "accuracy"]


def test_predictions_without_labels_are_refused(tokenizer):
    with pytest.raises(ValueError, match="no labels"):
        KINDS["classification"].metrics(TASKS["rte"], np.eye(2), None)
    with pytest.raises(ValueError, match="no labels"):
        KINDS["classification"].loss(torch.zeros(3, 2), batch_of("classification", tokenizer, None))
