"""Fold what a method learned into the backbone, so that nothing of the method is left: no cost, no dependency."""

from peft import PeftModel
from transformers import PreTrainedModel

from graft.adapters.config import MethodSettings
from graft.adapters.loading import to_transformers
from graft.adapters.methods import METHODS
from graft.adapters.model import AdaptedModel
from graft.errors import GraftError


def obstacle(model: AdaptedModel, config: MethodSettings) -> str | None:
    """Say why a model has no dense form in transformers' own class, or none if it has one.

    Args:
        model: The trained model.
        config: Its method's settings.

    Returns:
        A clause such as "prefix has no dense form".
    """
    if not METHODS[config.name].abilities.mergeable:
        return f"{config.name} computes something that no weight of the backbone can express"
    if model.kind == "classification" and model.pooling != "native":
        return f"transformers' {model.origin.hf_class.__name__} cannot pool by {model.pooling!r}"
    if list(model.heads) != ["default"]:
        return f"it has {len(model.heads)} heads, and transformers' class has one"
    return None


def merge(model: AdaptedModel, config: MethodSettings) -> PreTrainedModel:
    """Merge in fp32 and put the model back into transformers' own class.

    The model given is used up: its backbone is merged in place, without a second copy of the weights.

    Args:
        model: In fp32. A backbone in 4 or 8 bits must be dequantised before the method is attached.
        config: The method's settings.

    Returns:
        A model whose modules are those of the checkpoint's class, and no others.

    Raises:
        GraftError: The model has no dense form, or a merged weight is not finite.
    """
    reason = obstacle(model, config)
    if reason is not None:
        raise GraftError(f"{reason}; export it as an adapter (--adapter) instead")
    _fold(model)
    return to_transformers(model)


def fold(model: AdaptedModel, config: MethodSettings) -> None:
    """Merge in place where the method can, so that predictions cost what the base's cost; else leave it as it is.

    Whatever the head, the pooling and the number of heads: the model stays one of ours. A backbone in 4 or 8 bits is
    left alone, as merging into it would change what it says.

    Args:
        model: In fp32.
        config: The method's settings.

    Raises:
        GraftError: A merged weight is not finite.
    """
    whole = all(parameter.is_floating_point() for parameter in model.backbone.parameters())
    if METHODS[config.name].abilities.mergeable and whole:
        _fold(model)


def _fold(model: AdaptedModel) -> None:
    """Merge a backbone that peft wraps."""
    if not isinstance(model.backbone, PeftModel):
        return
    try:
        merged = model.backbone.merge_and_unload(safe_merge=True)
    except ValueError as error:  # peft refuses weights that are not finite
        raise GraftError(f"merging: {error}; the run's weights cannot be used") from error
    assert isinstance(merged, PreTrainedModel)
    model.backbone = merged
