"""A comparison in full: which methods on which tasks, from which checkpoints, under one protocol.

YAML, flags and Python build the same `ComparisonConfig`, out of the sections of a recipe and what is compared.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

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

from graft.adapters.config import ModelConfig
from graft.adapters.methods import MethodConfig
from graft.errors import RecipeError, nearest
from graft.eval.config import TaskConfig
from graft.files import fingerprint
from graft.recipes.recipe import (
    BudgetConfig,
    ObjectiveConfig,
    OptimConfig,
    Recipe,
    ScheduleConfig,
    SpeedConfig,
    read_yaml,
)
from graft.recipes.refusal import explain
from graft.recipes.strategies import Constant, StrategyConfig

LEAST_HALVED = 4
"""Trials from which on successive halving saves something."""
MOST_GRID = 12
"""Trials up to which a fixed grid is searched; a sampler pays only beyond."""


def _listed(value: object) -> object:
    """Expand the short forms of a list of named objects: `a,b`, one object, or a list with bare names in it.

    An object whose name is several stands for one of each, with the same settings.
    """
    if isinstance(value, str | Mapping | BaseModel):
        value = [value]
    return [named for item in value for named in _each(item)] if isinstance(value, list | tuple) else value


def _each(item: object) -> list[object]:
    """One object for every name of an item."""
    if isinstance(item, str):
        item = {"name": item}
    if not isinstance(item, Mapping) or "name" not in item:
        return [item]
    names = item["name"]
    if isinstance(names, str):
        names = [name.strip() for name in names.split(",") if name.strip()] or [names]
    return [{**item, "name": name} for name in names] if isinstance(names, list | tuple) else [item]


def _counted(value: object) -> object:
    """Let a number say how many seeds: 1, 2, ...; a list says which."""
    if isinstance(value, str):
        parts = [part.strip() for part in value.split(",") if part.strip()]
        value = parts if len(parts) != 1 or "," in value else parts[0]
        if isinstance(value, str) and value.isdecimal():
            value = int(value)
    if isinstance(value, int) and not isinstance(value, bool):
        if not 1 <= value <= 1000:
            raise ValueError(f"{value} seeds are not possible; give 1 to 1000, or list them: 1,2,3")
        return tuple(range(1, value + 1))
    return value


def _names_once(items: tuple[Any, ...]) -> tuple[Any, ...]:
    names = [item.name for item in items]
    if not names:
        raise ValueError("is empty; name at least one")
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"{', '.join(repeated)} is named more than once; give each a name of its own")
    return items


def _all_different(items: tuple[Any, ...]) -> tuple[Any, ...]:
    if not items:
        raise ValueError("is empty; name at least one")
    for number, item in enumerate(items):
        if item in items[:number]:
            raise ValueError(f"{getattr(item, 'name', item)} is there twice; give each once")
    return items


class ComparisonConfig(BaseModel):
    """What is compared, and how: all that decides the runs and what is said of them."""

    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    task: Annotated[
        tuple[TaskConfig, ...],
        BeforeValidator(_listed, json_schema_input_type=str | list[str | TaskConfig]),
        AfterValidator(_names_once),
    ]
    """The tasks: `mrpc,rte`, or objects. Settings beside several names are shared."""
    model: Annotated[
        tuple[ModelConfig, ...],
        BeforeValidator(_listed, json_schema_input_type=str | list[str | ModelConfig]),
        AfterValidator(_names_once),
    ] = (ModelConfig(),)
    """The checkpoints to start from."""
    methods: Annotated[
        tuple[MethodConfig, ...],
        BeforeValidator(_listed, json_schema_input_type=str | list[str | MethodConfig]),
        AfterValidator(_all_different),
    ]
    """The methods: `full,lora`, or `[full, {name: lora, r: 16}]`."""
    seeds: Annotated[
        tuple[Annotated[int, Field(ge=0, lt=2**32)], ...],
        BeforeValidator(_counted, json_schema_input_type=int | list[int]),
        AfterValidator(_all_different),
    ] = (1, 2, 3, 4, 5)
    """How many seeds (5 means 1 to 5), or which; the same for every method. Trials have the first."""
    trials: PositiveInt = 4
    """Learning rates that each method may try, judged on the holdout: a fixed grid of its own up to 12, a sampler
    (Optuna) beyond."""
    minutes: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """Instead of `trials`: minutes of training that each method may search for, on each task from each checkpoint.
    Cheap methods then try more learning rates."""
    halving: bool = False
    """Search by successive halving: all learning rates for a quarter of the run, the better half of them for half of
    it, and the better half of those for all of it."""
    learning_rates: dict[str, tuple[Annotated[float, Field(gt=0, allow_inf_nan=False)], ...]] = {}
    """Grids other than the methods' own, by method: `{lora: [1e-4, 1e-3]}`; as many values as there are trials."""
    margin: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """Differences within ± this, in points, count as none. Left out: no size is judged."""
    alpha: float = Field(default=0.05, gt=0, lt=0.5)
    """Probability of any wrong claim among the methods of a task."""
    reference: str = "full"
    """The method that the others are compared with."""
    metric: str | None = None
    """What to score final runs by. Left out: each task's own."""
    until_decided: bool = False
    """Add seeds, to undecided methods and the reference alike, until all is decided or `max_seeds` is reached."""
    max_seeds: PositiveInt | None = None
    """The most seeds that `until_decided` may use. Left out: four times `seeds`."""
    objective: ObjectiveConfig = ObjectiveConfig()
    """What is minimised beside the task's loss."""
    strategy: Annotated[
        StrategyConfig,
        BeforeValidator(lambda value: {"name": value} if isinstance(value, str) else value),
    ] = Constant()
    """Which part of a method's weights learns at which step."""
    optim: OptimConfig = OptimConfig()
    """The optimiser, without the learning rate: that is searched for."""
    schedule: ScheduleConfig = ScheduleConfig()
    """Length, learning rate over time, evaluations."""
    budget: BudgetConfig = BudgetConfig()
    """Limits of memory."""
    speed: SpeedConfig = SpeedConfig()
    """What makes training fast."""
    device: Literal["auto", "cpu", "cuda", "mps", "xpu"] = "auto"
    """Where to train."""
    threads: PositiveInt = 1
    """Threads of every run, whatever carries it out: results depend on it."""

    @model_validator(mode="wrap")
    @classmethod
    def _refuse(cls, value: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        """Turn pydantic's report into ours, and refuse what cannot go together."""
        try:
            made = handler(_without_shorts(value))
        except ValidationError as error:
            raise RecipeError(explain(error, cls)) from None
        _check(made)
        return made

    @property
    def labels(self) -> tuple[str, ...]:
        """What results call each method: its name, with what sets it apart where the name stands more than once."""
        from graft.eval.grouping import Group, flattened, labels

        settings = [flattened({"method": method.model_dump(mode="json")}) for method in self.methods]
        groups = [Group("", "", own["method.name"], own, ()) for own in settings]
        return tuple(labels(groups))

    @property
    def most_seeds(self) -> tuple[int, ...]:
        """All seeds that may ever be used, in the order of their use: fixed before anything is trained."""
        if not self.until_decided:
            return self.seeds
        most = self.max_seeds or 4 * len(self.seeds)
        seeds, following = list(self.seeds), 1
        while len(seeds) < most:
            if following not in seeds:
                seeds.append(following)
            following += 1
        return tuple(seeds)

    @property
    def digest(self) -> str:
        """Names the comparison: 64 hexadecimal digits."""
        return fingerprint(self.model_dump(mode="json"))

    def recipe(self, task: TaskConfig, model: ModelConfig, method: MethodConfig) -> Recipe:
        """The recipe of a run with the first seed and the method's default learning rate."""
        return Recipe(
            task=task,
            model=model,
            method=method,
            objective=self.objective,
            strategy=self.strategy,
            optim=self.optim,
            schedule=self.schedule,
            budget=self.budget,
            speed=self.speed,
            seed=self.seeds[0],
            device=self.device,
            threads=self.threads,
        )


def from_mapping(mapping: Mapping[str, Any]) -> ComparisonConfig:
    """Build a comparison from nested keys and values, in short or full form.

    Raises:
        RecipeError: As `graft.recipes.recipe.from_mapping`, and where the parts of a comparison cannot go together.
    """
    return ComparisonConfig.model_validate(dict(mapping))


def from_yaml(path: Path) -> ComparisonConfig:
    """Build a comparison from a file.

    Raises:
        RecipeError: As `graft.recipes.recipe.from_yaml`.
    """
    mapping = read_yaml(path)
    try:
        return from_mapping(mapping)
    except RecipeError as error:
        raise RecipeError("\n".join(f"{path}: {line}" for line in str(error).splitlines())) from None


def overlay(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Lay what flags say over a file's comparison; settings of tasks and models go to each of them.

    Args:
        under: Nested keys and values of a comparison.
        over: The same; it wins.
    """
    from graft.recipes.flags import merge

    under, over = (_without_shorts(dict(side)) for side in (under, over))
    plain = {key: value for key, value in over.items() if key not in ("task", "model")}
    merged = merge({key: value for key, value in under.items() if key != "methods"}, plain)
    if "methods" in under:
        merged.setdefault("methods", under["methods"])
    for key in ("task", "model"):
        if key in over:
            merged[key] = _spread(under.get(key), over[key])
    return merged


def _spread(under: Any, over: Any) -> list[Any]:
    """Give settings to each of several named objects, or replace the objects, whose settings stay with their names."""
    below = _plain(under)
    settings = {"name": over} if isinstance(over, str) else dict(over) if isinstance(over, Mapping) else None
    if settings is None:
        return _plain(over)
    if "name" not in settings:
        return [{**item, **settings} for item in below] or [settings]
    shared = {key: value for key, value in (below[0] if below else {}).items() if key != "name"}
    if any({key: value for key, value in item.items() if key != "name"} != shared for item in below):
        shared = {}
    own = {item.get("name"): item for item in below}
    return [{**own.get(item["name"], shared), **item} for item in _plain(settings)]


def _plain(value: Any) -> list[Any]:
    """Named objects as mappings."""
    found = _listed(value) if value is not None else []
    items: Sequence[Any] = found if isinstance(found, list) else []
    return [item.model_dump(exclude_unset=True) if isinstance(item, BaseModel) else item for item in items]


def _without_shorts(value: Any) -> Any:
    """Put `data` and `train_size`, which may stand alone, to the tasks."""
    if not isinstance(value, Mapping) or not {"data", "train_size"} & value.keys():
        return value
    short = {key: value[key] for key in ("data", "train_size") if key in value}
    rest = {key: part for key, part in value.items() if key not in short}
    return {**rest, "task": _spread(rest["task"], short)} if "task" in rest else {**rest, "task": short}


def _check(config: ComparisonConfig) -> None:
    """Refuse what cannot go together.

    Raises:
        RecipeError: As the name says.
    """
    if config.optim.lr is not None:
        raise RecipeError(
            "optim.lr: one learning rate for all methods is no fair comparison; leave it out (trials: 1 takes each "
            "method's default), or give grids by method in learning_rates"
        )
    if config.minutes is not None and ("trials" in config.model_fields_set or config.learning_rates):
        other = "trials" if "trials" in config.model_fields_set else "learning_rates"
        raise RecipeError(f"minutes: say how many learning rates are tried, as {other} does; give one of the two")
    labels = config.labels
    _check_reference(config.reference, labels)
    for name, rates in config.learning_rates.items():
        if name not in labels:
            raise RecipeError(f"learning_rates.{name}: is no method of this comparison{nearest(name, labels)}")
        if len(set(rates)) != config.trials:
            raise RecipeError(
                f"learning_rates.{name}: {len(set(rates))} values for {config.trials} trials; every method gets as many"
            )
    _check_seeds(config)
    if config.halving and config.minutes is None and config.trials < LEAST_HALVED:
        raise RecipeError(
            f"halving: {config.trials} learning rates gain nothing by it; give {LEAST_HALVED} trials or more"
        )
    if (config.trials > 1 or config.minutes is not None) and any(task.holdout == 0 for task in config.task):
        raise RecipeError("task.holdout: 0 leaves nothing to choose by; keep a part, such as 0.1, or set trials to 1")


def _check_reference(reference: str, labels: Sequence[str]) -> None:
    """Refuse a comparison without a reference, or with nothing beside it."""
    if reference not in labels:
        others = f"name another with --reference: {'; '.join(labels)}"
        if reference == "full":
            raise RecipeError(f"reference: full fine-tuning is not among the methods: add full, or {others}")
        raise RecipeError(f"reference: no method {reference!r} is compared{nearest(reference, labels)}; {others}")
    if len(labels) == 1:
        raise RecipeError(f"methods: {labels[0]} alone has nothing to be compared with; name another")


def _check_seeds(config: ComparisonConfig) -> None:
    """Refuse numbers of further seeds that mean nothing."""
    if config.max_seeds is not None and not config.until_decided:
        raise RecipeError("max_seeds: counts only with until_decided; give both or neither")
    if config.max_seeds is not None and config.max_seeds < len(config.seeds):
        raise RecipeError(f"max_seeds: {config.max_seeds} is less than the {len(config.seeds)} seeds to begin with")
    if config.until_decided and len(config.seeds) < 2:
        raise RecipeError("until_decided: needs two seeds or more to begin with, to tell what seeds make; raise seeds")
