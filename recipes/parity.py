"""Whether an exported folder says what the run said: loaded in a fresh process, by plain transformers or peft alone."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from graft.adapters.checkpoint import resolve
from graft.adapters.methods import METHODS
from graft.errors import RunError
from graft.eval.encoding import Batch
from graft.eval.examples import read_examples
from graft.eval.kinds import KINDS
from graft.eval.metrics import METRICS
from graft.eval.predict import predict
from graft.eval.records import RunRecord, read_predictions, read_record
from graft.recipes import hardware
from graft.recipes.recipe import Recipe
from graft.recipes.solitary import answer

Form = Literal["merged", "peft"]


def prove(recipe: Recipe, export: str, run: str, form: Form) -> dict[str, Any]:
    """Score the run's evaluation splits with the exported folder.

    Args:
        recipe: The run's.
        export: The exported folder.
        run: The run's folder.
        form: What was exported.

    Returns:
        Split → `examples`, `largest_difference` of the scores in predictions.parquet, share that is decided alike, and
        the metrics `before` and `after`.
    """
    record, folder = read_record(Path(run)), Path(export)
    kind, said = KINDS[record.data.kind], read_predictions(Path(run))
    torch.set_num_threads(recipe.threads or torch.get_num_threads())  # as the scores were made
    names = [name for name in record.scores if name != "holdout"]
    if not names:
        raise RunError(f"{run}: is a trial, which was scored on no evaluation split; train it as a final run first")
    examples = read_examples(Path(run), record)
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    forward = _forward(_model(recipe, record, folder, form), tokenizer.model_input_names)
    found = {}
    for name in names:
        encoded = kind.encode(examples[name], tokenizer, recipe.task.max_length)
        after = predict(
            forward,
            kind,
            encoded,
            tokens=hardware.scoring_tokens(recipe.budget.tokens, "cpu", recipe.threads),
            gather=list,
            rank=0,
            world=1,
            device=torch.device("cpu"),
        )
        before = said[name]
        ours, _ = kind.decide(before.scores, before.labels)
        theirs, truth = kind.decide(after.scores, after.labels)
        found[name] = {
            "examples": len(after),
            "largest_difference": float(np.abs(after.scores - before.scores).max()),
            "decided_alike": float(np.mean(ours == theirs)),
            "before": record.scores[name],
            "after": {metric: METRICS[metric].value(theirs, truth) for metric in record.scores[name]},
        }
    return found


def _model(recipe: Recipe, record: RunRecord, export: Path, form: Form) -> Any:
    """Load the folder as the card tells others to."""
    language_model = record.data.kind == "causal_lm"
    loader: Any = AutoModelForCausalLM if language_model else AutoModelForSequenceClassification
    plain = {"local_files_only": True, "trust_remote_code": False, "use_safetensors": True}
    if form == "merged":
        return loader.from_pretrained(export, dtype="auto", **plain).eval()
    from peft import PeftModel

    imports = METHODS[recipe.method.name].imports
    if imports is not None:
        __import__(imports)
    labels = {} if language_model else {"num_labels": record.data.outputs}
    tokenizer = AutoTokenizer.from_pretrained(export, local_files_only=True, trust_remote_code=False)
    checkpoint = resolve(recipe.model)
    base = loader.from_pretrained(
        checkpoint.path, dtype=torch.float32, pad_token_id=tokenizer.pad_token_id, **labels, **plain
    )
    return PeftModel.from_pretrained(base, str(export)).eval()


def _forward(model: Any, takes: list[str]) -> Callable[[Batch], Tensor]:
    """Call a model of transformers or peft with what its tokenizer says it takes."""

    def forward(batch: Batch) -> Tensor:
        logits: Tensor = model(**{name: tensor for name, tensor in batch.inputs.items() if name in takes}).logits
        return logits

    return forward


if __name__ == "__main__":
    answer(prove)
