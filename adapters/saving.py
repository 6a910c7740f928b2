"""Write what a run learned, in a form that others read where there is one, and read it back exactly.

Three forms, told apart by `graft.json`:

- `peft`: `adapter_config.json` and `adapter_model.safetensors`, as peft saves an adapter on transformers' class with
  the head. Plain `PeftModel.from_pretrained` loads it; a pooler that the checkpoint did not bring is in it, which
  peft alone would leave out.
- `transformers`: `config.json`, `model.safetensors` and the tokenizer, when the whole model learned.
- `graft`: our own names, for what neither of them can express: another pooling, several heads, or a part of the
  backbone that learned by itself, whose whole would be many times larger.
"""

import copy
import json
import shutil
from pathlib import Path
from typing import Any, Literal

import torch
from peft import PeftModel
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from graft.adapters.checkpoint import TOKENIZER_FILES, Checkpoint
from graft.adapters.config import MethodSettings
from graft.adapters.contract import Attached
from graft.adapters.loading import quiet, to_transformers
from graft.adapters.methods import METHODS
from graft.adapters.model import AdaptedModel
from graft.adapters.prefixed import PrefixedBackbone
from graft.errors import CheckpointError
from graft.files import write_json

Form = Literal["peft", "transformers", "graft"]

CARD = "graft.json"
SCHEMA = 1
FILES: dict[Form, str] = {
    "peft": "adapter_model.safetensors",
    "transformers": "model.safetensors",
    "graft": "graft.safetensors",
}
PROMPT = "prompt_embeddings"  # peft's key for a prefix
PREFIX_ENCODER = "backbone.prompt_encoder.default."
NOTES: dict[Form, str] = {
    "peft": "Load with peft's PeftModel.from_pretrained, or with graft.",
    "transformers": "Load with transformers' from_pretrained, or with graft.",
    "graft": "Only graft loads this: the pooling, the number of heads or the part that learned has no other form.",
}


def learned_state(model: AdaptedModel, attached: Attached) -> dict[str, Tensor]:
    """Everything that may have learned, and the heads' buffers: what a checkpoint of a run must hold.

    Returns:
        Name, as in `model.state_dict()`, to a detached tensor that shares memory with the model.
    """
    names = {*attached.learning, *(f"heads.{name}" for name in model.heads.state_dict())}
    if model.kind == "language_model":  # its head comes with the checkpoint, unless it is named as learning
        names = set(attached.learning)
    return {name: tensor for name, tensor in _tensors(model).items() if name in names}


def save_adapter(
    folder: Path, model: AdaptedModel, attached: Attached, config: MethodSettings, checkpoint: Checkpoint
) -> None:
    """Write what was learned to a folder.

    Args:
        folder: Made if it is missing; wrap it in `graft.files.atomic_folder` to replace one safely.
        model: The trained model.
        attached: Its method.
        config: The method's settings.
        checkpoint: What the model was loaded from.
    """
    folder.mkdir(parents=True, exist_ok=True)
    form = _form(model, attached)
    if form == "transformers":
        with quiet():
            to_transformers(model).save_pretrained(folder)
        for name in TOKENIZER_FILES:
            if (checkpoint.path / name).is_file():
                shutil.copyfile(checkpoint.path / name, folder / name)
    else:
        learned = learned_state(model, attached)
        tensors = {_key(name, model, form): tensor.cpu().contiguous() for name, tensor in learned.items()}
        if form == "peft" and isinstance(model.backbone, PrefixedBackbone) and model.backbone.projects:
            tensors[PROMPT] = model.backbone.get_prompt_embedding_to_save("default")
        save_file(tensors, folder / FILES[form], metadata={"format": "pt"})
    if form == "peft":
        _peft_config(model, checkpoint).save_pretrained(str(folder))
    write_json(
        folder / CARD,
        {
            "schema": SCHEMA,
            "form": form,
            "note": _note(form, METHODS[config.name].imports),
            "kind": model.kind,
            "pooling": model.pooling,
            "heads": {name: head.outputs for name, head in model.heads.items()},
            "method": config.model_dump(mode="json"),
            "checkpoint": {
                "name": checkpoint.reference,
                "revision": checkpoint.revision,
                "digest": checkpoint.digest,
            },
        },
    )


def add_saved_heads(folder: Path, model: AdaptedModel) -> None:
    """Put the heads that were saved beside the default one on a freshly loaded model, before a method is attached.

    Args:
        folder: What `save_adapter` wrote.
        model: Loaded from the same checkpoint; the heads' weights are then `load_adapter`'s matter.

    Raises:
        CheckpointError: The folder is no whole one.
    """
    for name, outputs in _card(folder)["heads"].items():
        if name not in model.heads:
            model.add_head(name, outputs, seed=0)


def load_adapter(folder: Path, model: AdaptedModel, attached: Attached) -> None:
    """Put back what `save_adapter` wrote, bit for bit, into a model with the same method attached.

    Args:
        folder: What was written.
        model: Loaded from the same checkpoint, with any seed.
        attached: The same method with the same settings.

    Raises:
        CheckpointError: The folder is incomplete, or holds other weights than this model learns.
    """
    form: Form = _card(folder)["form"]
    file = folder / FILES[form]
    try:
        saved = load_file(file)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{file}: cannot be read ({error}); train again, or bring the file back") from error
    tensors = _tensors(model)
    keys = {_key(name, model, form): name for name in tensors}
    wanted = {_key(name, model, form) for name in learned_state(model, attached)}
    if isinstance(model.backbone, PrefixedBackbone) and model.backbone.projects:
        saved.pop(PROMPT, None)  # it follows from the others
    # transformers' form holds all of the model, tied weights and buffers that do not learn included.
    allowed = set(keys) if form == "transformers" else wanted
    missing, unexpected = sorted(wanted - set(saved)), sorted(set(saved) - allowed)
    if missing or unexpected:
        said = [f"lacks {len(missing)} weights ({missing[0]}, ...)"] if missing else []
        said += [f"has {len(unexpected)} that the model does not learn ({unexpected[0]}, ...)"] if unexpected else []
        raise CheckpointError(f"{file}: {' and '.join(said)}; attach the method with the settings in {CARD}")
    with torch.no_grad():
        for key, value in saved.items():
            target = tensors[keys[key]]
            if target.shape != value.shape:
                raise CheckpointError(
                    f"{file}: {key} is {tuple(value.shape)} and the model's is {tuple(target.shape)}; "
                    f"attach the method with the settings in {CARD}"
                )
            target.copy_(value)


def saved_checkpoint(folder: Path) -> tuple[str, str | None]:
    """What a folder's weights were learned on: a Hub id, or the path of a local folder, and the revision.

    Raises:
        CheckpointError: The folder is no whole one.
    """
    checkpoint = _card(folder)["checkpoint"]
    return str(checkpoint["name"]), checkpoint["revision"]


def _tensors(model: AdaptedModel) -> dict[str, Tensor]:
    """Parameters (each tied one once, under its first name) and persistent buffers, sharing the model's memory."""
    first_names = {name for name, _ in model.named_parameters()}
    parameters = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    return {
        name: tensor.detach()
        for name, tensor in model.state_dict().items()
        if name in first_names or name not in parameters
    }


def _form(model: AdaptedModel, attached: Attached) -> Form:
    """Which form can express what was learned."""
    single = list(model.heads) == ["default"]
    plain = model.kind == "language_model" or model.pooling == "native"
    if not (single and plain):
        return "graft"
    if isinstance(model.backbone, PeftModel):
        return "peft"
    everything = {name for name, _ in model.named_parameters()} == set(attached.learning)
    return "transformers" if everything else "graft"


def _note(form: Form, imports: str | None) -> str:
    """Who loads the folder, and what peft must be told first."""
    first = f"First `import {imports}`, which adds its type to peft. " if imports and form == "peft" else ""
    return first + NOTES[form]


def _card(folder: Path) -> dict[str, Any]:
    """What a folder says of itself."""
    card = folder / CARD
    try:
        content = json.loads(card.read_text(encoding="utf-8"))
        schema, form, _ = int(content["schema"]), content["form"], content["heads"].items()
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{card}: missing or damaged; this is no folder that graft wrote whole") from error
    if schema > SCHEMA or form not in FILES:
        raise CheckpointError(f"{card}: written by a newer graft (schema {schema}, form {form!r}); upgrade graft")
    known: dict[str, Any] = content
    return known


def _key(name: str, model: AdaptedModel, form: Form) -> str:
    """What a tensor of ours is called in a form."""
    if form == "graft":
        return name
    body = model.body_prefix
    prefix = f"{model.origin.prefix}."
    key = prefix + name.removeprefix(body) if name.startswith(body) else name.removeprefix("heads.default.")
    if form == "transformers":
        return key
    if name not in model.fresh:
        key = _without_adapter_name(key)
    if not isinstance(model.backbone, PrefixedBackbone):
        return f"base_model.model.{key}"
    if not name.startswith(PREFIX_ENCODER):
        return f"base_model.{key}"  # peft wraps the model without a tuner in between
    # peft keeps the result of a network only; the network itself goes under names that peft passes over.
    return f"prompt_encoder.{name.removeprefix(PREFIX_ENCODER)}" if model.backbone.projects else PROMPT


def _without_adapter_name(key: str) -> str:
    """Leave out, as peft does, the adapter's name, last or second to last, and the suffix of DoRA's magnitudes."""
    parts = key.split(".")
    for position in (-1, -2):
        if len(parts) > 1 and parts[position] == "default":
            del parts[position]
            break
    return ".".join(parts).removesuffix(".weight") if parts[-2] == "lora_magnitude_vector" else ".".join(parts)


def _peft_config(model: AdaptedModel, checkpoint: Checkpoint) -> Any:
    """The adapter's config, as peft has it for transformers' class with the head."""
    assert isinstance(model.backbone, PeftModel)
    config: Any = copy.deepcopy(model.backbone.peft_config["default"])
    learning = {name.split(".")[2] for name in model.head_parameters() if name.startswith("heads.default.")}
    modules = [name for name, _ in model.heads["default"].named_children() if name in learning]
    if model.fresh and model.family.pooler and not model.has_pretrained_pooler():
        modules.append(model.family.pooler)
    config.task_type = "SEQ_CLS" if model.kind == "classification" else "CAUSAL_LM"
    config.modules_to_save = modules or None
    config.base_model_name_or_path = checkpoint.reference
    config.revision = checkpoint.revision if checkpoint.source == "hub" else None
    config.inference_mode = True
    if config.peft_type == "ADALORA":
        # All triplets are saved, the pruned ones with a zero: dropping them would change the order of the sums.
        config.rank_pattern = None
    return config
