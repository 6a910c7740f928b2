"""The model that everything else sees: a backbone, heads, and which of its weights the checkpoint did not bring.

transformers' sequence classification and causal language models are taken apart on import (`graft.adapters.loading`)
and put together again on export. In between, the loop and its terms need features, logits and stages, and several
heads may share one backbone.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from peft import PeftModel
from torch import Tensor, nn
from transformers import PreTrainedModel

from graft.adapters.config import Pooling
from graft.adapters.families import Family, target_pattern
from graft.adapters.heads import Head
from graft.adapters.pooling import pool
from graft.errors import GraftError

HeadKind = Literal["classification", "language_model"]

_POSITION_TABLES = ("embeddings.position_embeddings", "wpe")  # in the backbone; rotary and relative families have none


class Outputs(NamedTuple):
    """What a forward pass gives.

    Attributes:
        features: (B, H) pooled, or (B, T, H) for a language model.
        logits: (B, outputs), or (B, T, V); in the precision in which they were computed.
        hidden: All hidden states, (B, T, H) each, when `"hidden"` was needed.
    """

    features: Tensor
    logits: Tensor
    hidden: tuple[Tensor, ...] | None


class Stage(NamedTuple):
    """A part of the model, in the order of the forward pass.

    Attributes:
        name: `embeddings`, `layer.0`, ..., `norm`, `pooler`, `head`.
        modules: Together they hold all the stage's parameters and dropouts, adapters included.
    """

    name: str
    modules: tuple[nn.Module, ...]


@dataclass(frozen=True)
class Origin:
    """Where the parts came from, so that they can go back.

    Attributes:
        hf_class: transformers' class with the head.
        prefix: The attribute of that class that holds the backbone.
        config: transformers' config, shared with the backbone.
    """

    hf_class: type[PreTrainedModel]
    prefix: str
    config: Any


class AdaptedModel(nn.Module):
    """A pretrained backbone with one or more heads; a method may have wrapped the backbone.

    Args:
        backbone: transformers' model without a head.
        head: The head that the checkpoint's class brings, which becomes `heads["default"]`.
        family: The architecture's row.
        kind: What the heads do.
        pooling: How features are pooled; a language model has none.
        fresh: Names, here, of parameters that the checkpoint did not bring.
        origin: How to put it together again.
    """

    def __init__(
        self,
        backbone: PreTrainedModel,
        head: Head,
        *,
        family: Family,
        kind: HeadKind,
        pooling: Pooling,
        fresh: frozenset[str],
        origin: Origin,
    ) -> None:
        super().__init__()
        self.backbone: nn.Module = backbone
        self.heads = nn.ModuleDict({"default": head})
        self.family = family
        self.kind: HeadKind = kind
        self.pooling: Pooling = pooling
        self.origin = origin
        self.positions = _positions(backbone)
        """Tokens that an example may have, less what a method takes of them; none where there is no limit."""
        self._fresh = fresh

    def forward(self, inputs: dict[str, Tensor], head: str = "default", need: frozenset[str] = frozenset()) -> Outputs:
        """Run the backbone and one head.

        Args:
            inputs: `input_ids`, `attention_mask` and, where the family has them, `token_type_ids`; (B, T) int64.
            head: Which head.
            need: Extra outputs: `"hidden"` for all hidden states.

        Returns:
            Features, logits and what was needed.

        Raises:
            GraftError: The sequences are longer than the checkpoint takes.
        """
        features, hidden = self._run(inputs, hidden="hidden" in need)
        return Outputs(features, self.logits(features, head), hidden)

    def features(self, inputs: dict[str, Tensor], adapters: Sequence[str] | None = None) -> Tensor:
        """The backbone's pooled output.

        Args:
            inputs: As for a forward pass.
            adapters: peft's name of the adapter for each example, where the backbone has several that can be mixed;
                none means the active one for all.

        Returns:
            (B, H); for a language model every token's, (B, T, H).
        """
        return self._run(inputs, hidden=False, adapters=adapters)[0]

    def logits(self, features: Tensor, head: str = "default") -> Tensor:
        """What one head makes of features, (B, outputs) or (B, T, V)."""
        logits: Tensor = self.heads[head](features)
        return logits

    def add_head(self, name: str, outputs: int, seed: int) -> None:
        """Put another head of the same make on the backbone; call it before a method is attached.

        Args:
            name: Its name; not one that exists.
            outputs: Logits per example.
            seed: Of its initial weights.

        Raises:
            GraftError: The name is taken, or the model is a language model.
        """
        if self.kind == "language_model":
            raise GraftError(f"head {name!r}: a language model has one head, tied to its vocabulary")
        if name in self.heads:
            raise GraftError(f"head {name!r} exists already; choose another name")
        default = self.heads["default"]
        assert isinstance(default, Head)
        spread = float(getattr(self.origin.config, "initializer_range", 0.02))
        head = default.resized(outputs, seed, spread)
        self.heads[name] = head
        self._fresh |= {f"heads.{name}.{key}" for key, _ in head.named_parameters()}

    @property
    def body(self) -> PreTrainedModel:
        """The backbone of transformers' own class, whatever wraps it now."""
        body = self.backbone.get_base_model() if isinstance(self.backbone, PeftModel) else self.backbone
        assert isinstance(body, PreTrainedModel)
        return body

    @property
    def body_prefix(self) -> str:
        """What the body's parameter names begin with: `backbone.`, or more under a wrapper of peft's."""
        body = self.body
        return next(f"{name}." for name, module in self.named_modules() if module is body)

    @property
    def fresh(self) -> frozenset[str]:
        """Names, as they are now, of the parameters that the checkpoint did not bring, a fresh pooler included."""
        prefix = self.body_prefix
        return frozenset(
            prefix + name.removeprefix("backbone.") if name.startswith("backbone.") else name for name in self._fresh
        )

    def head_parameters(self) -> dict[str, nn.Parameter]:
        """What learns under every method: the classification heads and whatever else is fresh.

        A language model's head comes with the checkpoint and counts only where it is fresh.

        Returns:
            Name, as in `named_parameters`, to parameter.
        """
        fresh = self.fresh
        heads = self.kind == "classification"
        return {
            name: parameter
            for name, parameter in self.named_parameters()
            if name in fresh or (heads and name.startswith("heads."))
        }

    def stages(self) -> list[Stage]:
        """The model's parts in the order of the forward pass; the last is the head, with a fresh pooler.

        Every parameter belongs to one stage; weights that a language model's head ties to its embeddings are in both.

        Returns:
            Embeddings, each layer, the final norm and the pretrained pooler where there are any, and the head.
        """
        body, family = self.body, self.family
        stages = [Stage("embeddings", tuple(_present(body, family.embeddings)))]
        layers = body.get_submodule(family.layers)
        stages += [Stage(f"layer.{index}", (layer,)) for index, layer in enumerate(layers.children())]
        if family.norm is not None:
            stages.append(Stage("norm", (body.get_submodule(family.norm),)))
        pooler = tuple(_present(body, (family.pooler,) if family.pooler else ()))
        if pooler and not self.has_pretrained_pooler():
            return [*stages, Stage("head", (*pooler, *self.heads.values()))]
        if pooler:
            stages.append(Stage("pooler", pooler))
        return [*stages, Stage("head", tuple(self.heads.values()))]

    def has_pretrained_pooler(self) -> bool:
        """Whether the backbone has a pooler in use that the checkpoint brought."""
        path = self.family.pooler
        if path is None or not list(_present(self.body, (path,))):
            return False
        return not any(name.startswith(f"backbone.{path}.") for name in self._fresh)

    def target_pattern(self, targets: tuple[str, ...]) -> str:
        """The regular expression, for peft, of the linear layers that a recipe names.

        Raises:
            RecipeError: A name is no linear layer of this family.
        """
        return target_pattern(self.family, targets, pooler=self.has_pretrained_pooler())

    def _run(
        self, inputs: dict[str, Tensor], *, hidden: bool, adapters: Sequence[str] | None = None
    ) -> tuple[Tensor, tuple[Tensor, ...] | None]:
        """Features and, if wanted, all hidden states."""
        width = inputs["input_ids"].shape[1]
        if self.positions is not None and width > self.positions:
            raise GraftError(
                f"a sequence of {width} tokens: this {self.family.name} takes {self.positions}; shorten it, or set "
                f"task.max_length to {self.positions} or less"
            )
        arguments: dict[str, Any] = {key: inputs[key] for key in ("input_ids", "attention_mask")}
        if self.family.token_types and "token_type_ids" in inputs:
            arguments["token_type_ids"] = inputs["token_type_ids"]
        if self.family.decoder:
            arguments["use_cache"] = False  # training and scoring read each token once
        if hidden:
            arguments["output_hidden_states"] = True
        if adapters is not None:
            arguments["adapter_names"] = list(adapters)
        output = self.backbone(**arguments)
        states = tuple(output.hidden_states) if hidden else None
        if self.kind == "language_model":
            return output.last_hidden_state, states
        return pool(output, inputs, self.pooling, self.family, self.origin.config), states


def _present(body: nn.Module, paths: tuple[str, ...]) -> Iterator[nn.Module]:
    """The modules among `paths` that this configuration of the family has."""
    modules = dict(body.named_modules())
    return (modules[path] for path in paths if path in modules)


def _positions(backbone: nn.Module) -> int | None:
    """How many tokens a learned table of positions is for, where there is one.

    With a padding index, as in RoBERTa and MPNet, the first token's position is the one after it.
    """
    for table in _present(backbone, _POSITION_TABLES):
        if isinstance(table, nn.Embedding):
            return table.num_embeddings - (0 if table.padding_idx is None else table.padding_idx + 1)
    return None
