"""From a checkpoint to an `AdaptedModel`, and back to transformers' own classes."""

import contextlib
import logging
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as transformers_logging

from graft.adapters.checkpoint import Checkpoint
from graft.adapters.config import ModelConfig, Pooling
from graft.adapters.families import FAMILIES, Family, family_of
from graft.adapters.heads import Head
from graft.adapters.model import AdaptedModel, HeadKind, Origin
from graft.errors import CheckpointError, GraftError, RecipeError


def load_model(
    checkpoint: Checkpoint,
    head: HeadKind,
    outputs: int,
    config: ModelConfig,
    label_names: Sequence[str] | None,
    *,
    seed: int,
    attention: str = "eager",
) -> AdaptedModel:
    """Load a checkpoint in fp32 on the CPU, in evaluation mode.

    Weights that the checkpoint does not bring depend on `seed` alone, whatever ran before.

    Args:
        checkpoint: A verified checkpoint.
        head: What the model is for.
        outputs: Logits per example (1 for regression); ignored for a language model.
        config: Pooling and dropout.
        label_names: One for each output, written into the config; none keeps transformers' placeholders.
        seed: Of the weights that the checkpoint does not bring.
        attention: Name of an attention implementation that transformers knows.

    Returns:
        The model; `fresh` names what the checkpoint did not bring.

    Raises:
        CheckpointError: The architecture is not supported, or the weights are damaged or incomplete.
        RecipeError: transformers has no such attention for the architecture.
        GraftError: The checkpoint cannot do what the task needs.
    """
    settings = _config(checkpoint, head, outputs, config, label_names)
    family = family_of(settings.model_type, str(checkpoint.path))
    if head == "language_model" and not family.decoder:
        decoders = ", ".join(name for name, row in FAMILIES.items() if row.decoder)
        raise GraftError(
            f"{checkpoint.name}: {family.name} is an encoder and cannot model language causally; use one of {decoders}"
        )
    loader: Any = AutoModelForCausalLM if head == "language_model" else AutoModelForSequenceClassification
    if attention == "sdpa" and not loader._model_mapping[type(settings)]._supports_sdpa:
        raise RecipeError(f"speed.attention: transformers has no sdpa for {family.name}; leave it at matmul")
    with quiet(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            loaded, report = loader.from_pretrained(
                checkpoint.path,
                config=settings,
                attn_implementation=attention,
                dtype=torch.float32,
                use_safetensors=True,
                local_files_only=True,
                trust_remote_code=False,
                ignore_mismatched_sizes=True,
                output_loading_info=True,
            )
        except (OSError, ValueError, SafetensorError) as error:
            raise CheckpointError(f"{checkpoint.path}: cannot be loaded ({error}); fetch it again") from error
    loaded.eval()
    return _take_apart(loaded, report, checkpoint, family, kind=head, pooling=config.pooling)


def load_tokenizer(checkpoint: Checkpoint) -> PreTrainedTokenizerBase:
    """Load a checkpoint's tokenizer, padding on the right, with a padding token.

    Where the tokenizer has no padding token it takes the config's, else the end-of-text token.

    Raises:
        CheckpointError: There is no tokenizer, it is damaged, or it has neither token.
    """
    if not checkpoint.has_tokenizer():
        raise CheckpointError(f"{checkpoint.path}: no tokenizer; put tokenizer.json there")
    with quiet():
        known = _read_config(checkpoint)  # first: transformers reads it for the tokenizer too, and would blame that
        try:
            tokenizer = AutoTokenizer.from_pretrained(checkpoint.path, local_files_only=True, trust_remote_code=False)
        except Exception as error:  # the tokenizers library raises bare Exception for a damaged file
            reason = " ".join(str(error).split())
            raise CheckpointError(
                f"{checkpoint.path}: the tokenizer cannot be loaded ({reason}); fetch its files again"
            ) from error
    assert isinstance(tokenizer, PreTrainedTokenizerBase)
    tokenizer.padding_side = "right"
    if tokenizer.pad_token_id is None:
        identifier = known.get_text_config().pad_token_id
        token = tokenizer.convert_ids_to_tokens(identifier) if identifier is not None else tokenizer.eos_token
        if token is None:
            raise CheckpointError(f"{checkpoint.path}: the tokenizer has no padding and no end-of-text token")
        tokenizer.pad_token = token
    return tokenizer


def to_sequence_classification(model: AdaptedModel, head: str = "default") -> PreTrainedModel:
    """Put backbone and head back into transformers' own class, sharing their weights.

    Adapters that peft put inside the backbone stay there.

    Args:
        model: What was loaded, trained or not.
        head: Which of its heads.

    Returns:
        transformers' model, whose logits equal the model's.

    Raises:
        GraftError: The model is no classifier, or pools in a way that transformers' class does not.
    """
    if model.kind != "classification":
        raise GraftError("a language model has no sequence classification form; export it as a causal LM")
    return to_transformers(model, head)


def to_transformers(model: AdaptedModel, head: str = "default") -> PreTrainedModel:
    """Put backbone and head back into the class that they came from; see `to_sequence_classification`.

    Raises:
        GraftError: The model pools in a way that transformers' class does not.
    """
    if model.kind == "classification" and model.pooling != "native":
        raise GraftError(
            f"model.pooling: {model.pooling!r} does not exist in transformers' {model.origin.hf_class.__name__}; "
            "train with pooling native to export"
        )
    with torch.device("meta"):  # a skeleton without memory: all its weighty parts are replaced
        whole: PreTrainedModel = model.origin.hf_class(model.origin.config)
    setattr(whole, model.origin.prefix, model.body)
    for name, module in model.heads[head].named_children():
        setattr(whole, name, module)
    whole.training = model.training  # not train(), which would reach into the parts that the caller has in eval mode
    return whole


def _config(
    checkpoint: Checkpoint, head: HeadKind, outputs: int, config: ModelConfig, label_names: Sequence[str] | None
) -> Any:
    """The config, with labels, dropout and a padding token filled in."""
    settings = _read_config(checkpoint)
    family = family_of(settings.model_type, str(checkpoint.path))
    if head == "classification":
        names = list(label_names) if label_names else [f"LABEL_{index}" for index in range(outputs)]
        if len(names) != outputs:
            raise GraftError(f"{len(names)} label names for {outputs} outputs; give one for each")
        settings.id2label = dict(enumerate(names))
        settings.label2id = {name: index for index, name in enumerate(names)}
        settings.problem_type = "regression" if outputs == 1 else "single_label_classification"
    if config.dropout is not None:
        known = settings.to_dict()
        for key in family.dropouts:
            if key in known:
                setattr(settings, key, config.dropout)
    if settings.pad_token_id is None:
        settings.pad_token_id = _pad_token(checkpoint, settings)
    return settings


def _read_config(checkpoint: Checkpoint) -> Any:
    """transformers' config of a checkpoint."""
    try:
        return AutoConfig.from_pretrained(checkpoint.path, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # transformers validates each field with errors of its own
        reason = " ".join(str(error).split())
        raise CheckpointError(f"{checkpoint.path}: config.json cannot be used ({reason}); fetch it again") from error


def _pad_token(checkpoint: Checkpoint, settings: Any) -> int:
    """The padding token that the tokenizer will use, or the end-of-text token where there is no tokenizer."""
    if checkpoint.has_tokenizer():
        identifier = load_tokenizer(checkpoint).pad_token_id
        assert isinstance(identifier, int)
        return identifier
    end = settings.eos_token_id
    first = end[0] if isinstance(end, list) else end
    if first is None:
        raise CheckpointError(f"{checkpoint.path}: config.json has no pad_token_id and no eos_token_id; add one")
    return int(first)


def _take_apart(
    loaded: PreTrainedModel, report: Any, checkpoint: Checkpoint, family: Family, *, kind: HeadKind, pooling: Pooling
) -> AdaptedModel:
    """Separate backbone and head, keeping account of what the checkpoint did not bring."""
    prefix = loaded.base_model_prefix
    backbone = loaded.get_submodule(prefix)
    assert isinstance(backbone, PreTrainedModel)
    missing = {str(key) for key in report["missing_keys"]}
    resized = {str(entry[0] if isinstance(entry, tuple) else entry) for entry in report["mismatched_keys"]}
    if kind == "classification":
        head = Head(((name, loaded.get_submodule(name)) for name in family.head), family, pooled=True)
    else:
        lone = ((name, module) for name, module in loaded.named_children() if name != prefix)
        head = Head(lone, family, pooled=False)
    fresh = frozenset(_here(key, prefix) for key in missing | resized)
    if pooling != "native" and kind == "classification" and family.pooler is not None:
        setattr(backbone, family.pooler, None)  # unused; it must neither be counted nor learn
        fresh = frozenset(name for name in fresh if not name.startswith(f"backbone.{family.pooler}."))
    _refuse_holes(fresh, {_here(key, prefix) for key in resized}, family, checkpoint)
    origin = Origin(type(loaded), prefix, loaded.config)
    model = AdaptedModel(backbone, head, family=family, kind=kind, pooling=pooling, fresh=fresh, origin=origin)
    return model.eval()


def _here(key: str, prefix: str) -> str:
    """Our name for a parameter of transformers' class."""
    return f"backbone.{key.removeprefix(f'{prefix}.')}" if key.startswith(f"{prefix}.") else f"heads.default.{key}"


def _refuse_holes(fresh: frozenset[str], resized: set[str], family: Family, checkpoint: Checkpoint) -> None:
    """Only a head and a pooler may be fresh: anything else means that the checkpoint is not whole."""
    pooler = f"backbone.{family.pooler}." if family.pooler else None
    holes = sorted(
        name
        for name in fresh
        if name.startswith("backbone.") and not (pooler and name.startswith(pooler) and name not in resized)
    )
    if holes:
        raise CheckpointError(
            f"{checkpoint.path}: {len(holes)} weights of the backbone are missing or of another size "
            f"({holes[0].removeprefix('backbone.')}, ...); the files do not belong together: fetch them again"
        )


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence transformers' load report and progress bars: what is fresh is said by `AdaptedModel.fresh`."""
    verbosity = transformers_logging.get_verbosity()
    bar = transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity(logging.ERROR)
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]  # transformers has no annotation here
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bar:
            transformers_logging.enable_progress_bar()  # type: ignore[no-untyped-call]  # nor here
