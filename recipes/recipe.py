"""The recipe: one frozen object that says everything about a run, whichever way it was written.

YAML, flags and Python build the same `Recipe`. `resolved` fills in what was left open, and `digest` names the result,
so that a run that was made already can be found again. Nothing here imports torch until a recipe is resolved.
"""

from collections.abc import Callable, Hashable, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self, get_origin

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    PositiveInt,
    ValidationError,
    model_validator,
)
from pydantic.fields import FieldInfo

from graft.adapters.checkpoint import located
from graft.adapters.config import ModelConfig
from graft.adapters.lora import LoraConfig
from graft.adapters.methods import METHODS, MethodConfig
from graft.errors import RecipeError
from graft.eval.config import TaskConfig
from graft.files import fingerprint
from graft.recipes import hardware
from graft.recipes.refusal import explain
from graft.recipes.strategies import Constant, StrategyConfig
from graft.recipes.terms import TermConfig

SCHEMA = 4
"""Version of the recipe's form. Raise it whenever a default changes, or what one computes: digests leave out what
equals its default. 2: layers are lean, and dropout compares 15 bits. 3: dropout compares 8 bits with a threshold of the
example's, pools are at most an eighth of an epoch, and the last layer is computed for what is read. 4: pools are a
quarter of an epoch of 60 steps or more."""

_STANDS_FOR_CONTENT = {
    "task": ("data", "text", "label", "kind", "group", "train_size", "holdout", "split_seed"),
    "model": ("name", "revision"),
}
"""Fields that only say which content is meant; the digest has that content's own fingerprint instead."""

_CHANGES_NOTHING = {"speed": ("cache",)}
"""Fields that leave the result alone, to the last bit."""


def _named(value: object) -> object:
    """Expand the short form: a bare name stands for the object that has this name and is otherwise default."""
    return {"name": value} if isinstance(value, str) else value


def _one_of(default: str) -> Callable[[object], object]:
    """Expand the short forms of one object out of several kinds: a bare name, or settings of the default kind alone."""

    def expand(value: object) -> object:
        value = _named(value)
        return {"name": default, **value} if isinstance(value, Mapping) else value

    return expand


def _listed(value: object) -> object:
    """Expand the short forms of a list of named objects: `a,b`, one object, or a list with bare names in it."""
    if isinstance(value, str):
        value = [name.strip() for name in value.split(",") if name.strip()]
    elif isinstance(value, Mapping | BaseModel):
        value = [value]
    return [_named(item) for item in value] if isinstance(value, list | tuple) else value


def _distinct(terms: tuple[TermConfig, ...]) -> tuple[TermConfig, ...]:
    names = [term.name for term in terms]
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"{', '.join(repeated)} is named more than once; give each term once")
    return terms


class _Section(BaseModel):
    """What all parts of a recipe have in common: they are frozen, and refuse keys that they do not know."""

    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class ObjectiveConfig(_Section):
    """What is minimised: the task's loss plus the losses of any number of terms."""

    terms: Annotated[
        tuple[TermConfig, ...],
        BeforeValidator(_listed, json_schema_input_type=str | list[str | TermConfig]),
        AfterValidator(_distinct),
    ] = ()
    """Terms added to the task's loss, each at most once. `l2sp`, or `[{name: l2sp, strength: 0.1}]`."""


class OptimConfig(_Section):
    """AdamW, and how its gradients are clipped."""

    lr: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """Peak learning rate. Left out: the method's own default."""
    weight_decay: float = Field(default=0.01, ge=0, allow_inf_nan=False)
    """Decoupled weight decay, per unit of learning rate. Biases and normalisation weights have none."""
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (0.9, 0.999)
    """Decay rates of Adam's two moments, per step."""
    eps: float = Field(default=1e-8, gt=0, allow_inf_nan=False)
    """Added to Adam's denominator."""
    clip: float | None = Field(default=1.0, gt=0, allow_inf_nan=False)
    """Largest global norm of the gradient; `null` leaves gradients as they are."""


class ScheduleConfig(_Section):
    """How long training lasts, how the learning rate moves, and when the holdout is scored."""

    epochs: float = Field(default=3.0, gt=0, allow_inf_nan=False)
    """Passes over the training examples; a fraction is allowed. Not used when `steps` is given."""
    steps: PositiveInt | None = None
    """Optimiser steps in all, instead of epochs."""
    examples: PositiveInt = 32
    """Examples per optimiser step, over all processes and micro-batches."""
    warmup: float = Field(default=0.06, ge=0, lt=1)
    """Fraction of all steps over which the learning rate rises from zero to its peak."""
    decay: Literal["linear", "constant", "cosine"] = "linear"
    """How the learning rate goes after the warm-up: to zero in a line or a half cosine, or not at all."""
    evaluate: PositiveInt | None = None
    """Optimiser steps between two evaluations on the holdout. Left out: at the end of every epoch."""
    patience: PositiveInt | None = None
    """Stop after this many evaluations without a better holdout score. Left out: never stop early."""
    keep: Literal["best", "last"] = "best"
    """Which weights the run ends with: those of the best holdout score, or those of the last step."""


class BudgetConfig(_Section):
    """What training may use of the machine; none of it changes how many examples make a step."""

    tokens: PositiveInt = 8192
    """Largest number of tokens in a micro-batch, padding included."""
    gradient_checkpointing: bool = False
    """Compute activations twice instead of keeping them: less memory, more time."""


class SpeedConfig(_Section):
    """What makes training fast: all of it is on, and each part can be switched off by itself."""

    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Arithmetic of the forward pass. `auto`: bf16 where the hardware computes it natively, else fp32."""
    buckets: bool = True
    """Put examples of like length into the same step, so that less padding is computed."""
    lengths: Literal["rounded", "exact"] = "rounded"
    """Where a processor compiles matrix products for every length: steps of few lengths; or of their longest text's."""
    dropout: Literal["counted", "stock"] = "counted"
    """Masks by a hash of seed, step, place and example; or torch's own, which depend on how a step is cut."""
    attention: Literal["matmul", "sdpa"] = "matmul"
    """Plain matrix products, the fastest for short texts on a processor; or torch's scaled dot product attention."""
    layers: Literal["lean", "stock"] = "lean"
    """Normalisation and LoRA in fewer passes over memory; or as torch and peft compute them."""
    last_layer: Literal["read", "all"] = "read"
    """Compute the last layer for the token that the head reads, where it reads one; or for all tokens."""
    cache: bool = True
    """Keep on disk what the layers below all that learns say of each example, instead of computing it every epoch."""


class Recipe(_Section):
    """One run, in full: what is adapted, to what, how, for how long, and with which seed.

    Attributes may be given in their short forms: `Recipe(task="mrpc", method="lora")`.
    """

    task: Annotated[TaskConfig, BeforeValidator(_named, json_schema_input_type=str | TaskConfig)] = TaskConfig()
    """The task to adapt to: a name such as `mrpc`, or an object that describes data of your own."""
    model: Annotated[ModelConfig, BeforeValidator(_named, json_schema_input_type=str | ModelConfig)] = ModelConfig()
    """The checkpoint to start from: `minilm`, a Hub id, or a local folder."""
    method: Annotated[
        MethodConfig, BeforeValidator(_one_of(LoraConfig().name), json_schema_input_type=str | MethodConfig)
    ] = LoraConfig()
    """How the checkpoint is adapted, such as `full` or `lora`."""
    objective: ObjectiveConfig = ObjectiveConfig()
    """What is minimised beside the task's loss."""
    strategy: Annotated[
        StrategyConfig, BeforeValidator(_one_of(Constant().name), json_schema_input_type=str | StrategyConfig)
    ] = Constant()
    """Which part of the method's weights learns at which step."""
    optim: OptimConfig = OptimConfig()
    """The optimiser."""
    schedule: ScheduleConfig = ScheduleConfig()
    """Length, learning rate over time, evaluations."""
    budget: BudgetConfig = BudgetConfig()
    """Limits of memory."""
    speed: SpeedConfig = SpeedConfig()
    """What makes training fast."""
    seed: int = Field(default=0, ge=0, lt=2**32)
    """Seed of the head, the method's fresh weights, the order of examples and dropout. Splits have their own."""
    device: Literal["auto", "cpu", "cuda", "mps", "xpu"] = "auto"
    """Where to train. `auto`: the machine's accelerator, or else its processor."""
    threads: PositiveInt | None = None
    """Threads of each process. Left out: the machine's cores, shared among its processes."""

    @model_validator(mode="wrap")
    @classmethod
    def _refuse(cls, value: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        """Turn pydantic's report into ours, so that Python, YAML and flags refuse a recipe in the same words."""
        try:
            return handler(value)
        except ValidationError as error:
            raise RecipeError(explain(error, cls)) from None

    def _repr_html_(self) -> str:
        from graft.recipes.rich_html import recipe_html

        return recipe_html(self)


def from_mapping(mapping: Mapping[str, Any]) -> Recipe:
    """Build a recipe from nested keys and values, in short or full form.

    Raises:
        RecipeError: A key is unknown, or a value has the wrong type; the message has its dotted path and the
            nearest valid name.
    """
    return Recipe.model_validate(dict(mapping))


def read_yaml(path: Path) -> dict[str, Any]:
    """Read the nested keys and values of a recipe file, without checking what they are.

    Raises:
        RecipeError: The file is missing, is not YAML, gives a key twice, or is not a mapping.
    """
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=_UniqueKeys)  # noqa: S506 (a SafeLoader)
    except OSError as error:
        raise RecipeError(f"{path}: cannot read the recipe file ({error.strerror})") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path}: not a readable YAML file: {error}") from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise RecipeError(f"{path}: a recipe file holds keys with values, such as `method: lora`; found {content!r}")
    return content


def from_yaml(path: Path) -> Recipe:
    """Build a recipe from a file.

    Raises:
        RecipeError: As `read_yaml` and `from_mapping`; the message begins with the file's name.
    """
    mapping = read_yaml(path)
    try:
        return from_mapping(mapping)
    except RecipeError as error:
        raise RecipeError("\n".join(f"{path}: {line}" for line in str(error).splitlines())) from None


def canonical(recipe: Recipe) -> dict[str, Any]:
    """Spell a recipe out in JSON types: every field, short forms expanded. `from_mapping` reads it back."""
    return recipe.model_dump(mode="json")


def to_yaml(recipe: Recipe) -> str:
    """Spell a recipe out as a file that `from_yaml` reads back."""
    return yaml.safe_dump(canonical(recipe), sort_keys=False, allow_unicode=True)


def resolved(recipe: Recipe) -> Recipe:
    """Decide what a recipe leaves open: the method's learning rate, the machine's device, arithmetic and threads.

    Local files and folders get their absolute paths, so that a run is found again from another folder. Resolving twice
    changes nothing.
    """
    schedule, optim = recipe.schedule, recipe.optim
    if schedule.steps is not None:  # then epochs are not used, and must not tell two equal runs apart
        schedule = schedule.model_copy(update={"epochs": ScheduleConfig().epochs})
    if optim.lr is None:
        optim = optim.model_copy(update={"lr": METHODS[recipe.method.name].learning_rate})
    device = hardware.device() if recipe.device == "auto" else recipe.device
    speed = recipe.speed
    if speed.precision == "auto":
        speed = speed.model_copy(update={"precision": hardware.precision(device)})
    return recipe.model_copy(
        update={
            "task": _absolute(recipe.task),
            "model": located(recipe.model),
            "schedule": schedule,
            "optim": optim,
            "device": device,
            "speed": speed,
            "threads": recipe.threads or hardware.threads(),
        }
    )


def _absolute(task: TaskConfig) -> TaskConfig:
    return task if task.data is None else task.model_copy(update={"data": task.data.expanduser().absolute()})


def identity(
    recipe: Recipe, data_fingerprint: str, checkpoint_digest: str, versions: Mapping[str, int]
) -> dict[str, Any]:
    """Collect what a run's result depends on, and nothing else.

    Fields that equal their defaults are left out, so that a new optional field renames no run. What only says which
    examples and which checkpoint are meant is left out too: their content counts.

    Args:
        recipe: A resolved recipe.
        data_fingerprint: The content of all splits, in order, and the kind of task.
        checkpoint_digest: The content of weights, config and tokenizer.
        versions: Versions of the rows that the recipe names, such as `{"method.lora": 1, "task.mrpc": 1}`.

    Returns:
        A mapping of JSON types.

    Raises:
        RecipeError: The recipe is not resolved.
    """
    if recipe.optim.lr is None or "auto" in (recipe.device, recipe.speed.precision) or recipe.threads is None:
        raise RecipeError("a recipe has a digest only once nothing in it is left open; pass it through resolved()")
    fields = _told_apart(recipe)
    for section, names in (*_STANDS_FOR_CONTENT.items(), *_CHANGES_NOTHING.items()):
        fields[section] = {key: value for key, value in fields.get(section, {}).items() if key not in names}
    return {
        "schema": SCHEMA,
        "recipe": {key: value for key, value in fields.items() if value != {}},
        "data": data_fingerprint,
        "checkpoint": checkpoint_digest,
        "versions": dict(versions),
    }


def digest(recipe: Recipe, data_fingerprint: str, checkpoint_digest: str, versions: Mapping[str, int]) -> str:
    """Name a run by what its result depends on; arguments and errors as for `identity`.

    Returns:
        64 lower-case hexadecimal digits.
    """
    return fingerprint(identity(recipe, data_fingerprint, checkpoint_digest, versions))


def _told_apart(model: BaseModel) -> dict[str, Any]:
    """Keep the fields that differ from their defaults, and the names that tell the members of a union apart."""
    kept: dict[str, Any] = {}
    dumped = model.model_dump(mode="json")
    for key, field in type(model).model_fields.items():
        value = getattr(model, key)
        if isinstance(value, BaseModel):
            if inner := _told_apart(value):
                kept[key] = inner
        elif isinstance(value, tuple) and any(isinstance(item, BaseModel) for item in value):
            kept[key] = [_told_apart(item) if isinstance(item, BaseModel) else item for item in value]
        elif _is_tag(key, field) or value != field.get_default(call_default_factory=True):
            kept[key] = dumped[key]
    return kept


def _is_tag(key: str, field: FieldInfo) -> bool:
    return key == "name" and get_origin(field.annotation) is Literal


class _UniqueKeys(yaml.SafeLoader):
    """YAML's safe loader, except that a key that is given twice is an error instead of silently the last one."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for key, (key_node, _) in zip(keys, node.value, strict=True):
            if keys.count(key) > 1:
                raise yaml.constructor.ConstructorError(None, None, f"{key!r} is given twice", key_node.start_mark)
        return super().construct_mapping(node, deep)
