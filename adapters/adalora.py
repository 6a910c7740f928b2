"""AdaLoRA: rank is moved to the layers that need it (Zhang et al. 2023, arXiv:2303.10512), by peft.

Each update is P Λ Q with a diagonal Λ. An orthogonality penalty on P and Q (eq. 4) goes with the loss, and after
each optimiser step the least important diagonal entries (eq. 8 to 10) are set to zero, down to a budget that
shrinks by a cubic schedule (eq. 12). peft adds the penalty only inside a forward pass with labels, which our loop
does not use: here it is computed apart.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, model_validator

from graft.adapters.config import MethodSettings, Targets
from graft.adapters.contract import Abilities, AttachContext, Attached, Method, Plain, release
from graft.adapters.lora import wrap
from graft.errors import RecipeError

if TYPE_CHECKING:
    import peft
    from torch import Tensor, nn

    from graft.adapters.model import AdaptedModel


class AdaLoraConfig(MethodSettings):
    """Settings of AdaLoRA."""

    name: Literal["adalora"] = "adalora"
    """The method."""

    r: int = Field(default=8, ge=1)
    """Average rank per layer at the end."""

    initial_r: int = Field(default=12, ge=2)
    """Rank of every layer at the start; above `r`."""

    alpha: float = Field(default=16.0, gt=0)
    """Numerator of the scale alpha / initial_r."""

    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Probability of dropping inputs."""

    targets: Targets = ("all-linear",)
    """Which linear layers: `all-linear`, roles such as `query,value`, or names within a layer such as `c_attn`."""

    warmup: float = Field(default=0.1, ge=0, lt=1)
    """Fraction of the steps before the budget begins to shrink."""

    final: float = Field(default=0.3, ge=0, lt=1)
    """Fraction of the steps at the end with the final budget and fixed ranks."""

    interval: int = Field(default=1, ge=1)
    """Steps between two allocations."""

    orthogonality: float = Field(default=0.5, ge=0)
    """Weight of the penalty, in units of task loss."""

    beta1: float = Field(default=0.85, gt=0, lt=1)
    """Smoothing of the sensitivity."""

    beta2: float = Field(default=0.85, gt=0, lt=1)
    """Smoothing of its uncertainty."""

    @model_validator(mode="after")
    def _shrinks(self) -> AdaLoraConfig:
        """Refuse a budget that cannot shrink."""
        if self.initial_r <= self.r:
            raise ValueError(f"initial_r ({self.initial_r}) must be above r ({self.r})")
        if self.warmup + self.final >= 1:
            raise ValueError(f"warmup ({self.warmup}) and final ({self.final}) leave no steps to shrink the budget in")
        return self


@dataclass(frozen=True)
class AttachedAdaLora:
    """AdaLoRA on a model.

    Attributes:
        plain: The hooks that it does not change.
        backbone: peft's wrapper.
        orthogonality: Weight of the penalty.
    """

    plain: Plain
    backbone: peft.PeftModel
    orthogonality: float

    @property
    def learning(self) -> tuple[str, ...]:
        """All triplets and the head."""
        return self.plain.learning

    def rate(self, name: str) -> float:
        """One for every parameter."""
        return self.plain.rate(name)

    def decays(self, name: str) -> bool:
        """Whether the parameter is a matrix of the head; the penalty keeps P and Q, and pruning keeps Λ, in bounds."""
        return self.plain.decays(name) and ".lora_" not in name

    def prepare(self, batches: Any) -> None:
        """Nothing to calibrate."""

    def penalty(self) -> Tensor:
        """The weight times the mean over all P and Q of the Frobenius norm of their Gram matrix minus the identity."""
        import torch

        distances = []
        for name, matrix in self._triplets():
            if "lora_E" in name:
                continue
            gram = matrix @ matrix.T if "lora_A" in name else matrix.T @ matrix  # (r, r)
            distances.append(torch.linalg.matrix_norm(gram - torch.eye(len(gram), out=torch.empty_like(gram))))
        return self.orthogonality * torch.stack(distances).mean()

    def after_update(self, step: int) -> None:
        """Update the importance of every triplet and set those beyond the budget to zero.

        A triplet that a strategy keeps from learning has no gradient, and counts as one with a gradient of zero.
        """
        import torch

        idle = [matrix for _, matrix in self._triplets() if matrix.grad is None]
        for matrix in idle:
            matrix.grad = torch.zeros_like(matrix)
        self._tuner().update_and_allocate(step)
        for matrix in idle:
            matrix.grad = None

    def settled(self, step: int) -> bool:
        """Whether the ranks are down to the budget: before that, the model is larger than the recipe says."""
        settings = self._settings()
        return bool(step >= settings.total_step - settings.tfinal)

    def figures(self) -> dict[str, float]:
        """The effective ranks: how many triplets have a diagonal entry that is not zero, in all and per layer."""
        ranks = [int(matrix.count_nonzero()) for name, matrix in self._triplets() if ".lora_E" in name]
        return {"total_rank": float(sum(ranks)), "mean_rank": sum(ranks) / len(ranks)}

    def state(self) -> dict[str, Any]:
        """Smoothed sensitivity and uncertainty of every weight, and the ranks allocated last."""
        allocator = self._tuner().rankallocator
        state: dict[str, Any] = {"rank_pattern": self._settings().rank_pattern}
        state |= {f"sensitivity/{name}": value.clone() for name, value in allocator.exp_avg_ipt.items()}
        state |= {f"uncertainty/{name}": value.clone() for name, value in allocator.exp_avg_unc.items()}
        return state

    def load_state(self, state: dict[str, Any]) -> None:
        """Put back what `state` gave."""
        import torch

        allocator = self._tuner().rankallocator
        self._settings().rank_pattern = state["rank_pattern"]
        devices = {name: matrix.device for name, matrix in self._tuner().model.named_parameters()}
        averages: dict[str, dict[str, Tensor]] = {"sensitivity": {}, "uncertainty": {}}
        for key, value in state.items():
            average, _, name = key.partition("/")
            if average in averages:
                averages[average][name] = value.to(devices[name], copy=True)
        allocator.exp_avg_ipt, allocator.exp_avg_unc = averages["sensitivity"], averages["uncertainty"]
        # peft starts the averages anew for every name that is missing here; the values themselves are overwritten.
        allocator.ipt = {name: torch.zeros_like(value) for name, value in allocator.exp_avg_ipt.items()}

    def _tuner(self) -> Any:
        """The tuner, peft's AdaLoraModel."""
        return self.backbone.base_model

    def _settings(self) -> Any:
        """The config in which peft keeps the allocated ranks."""
        return self.backbone.peft_config["default"]

    def _triplets(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Names and values of all P, Λ and Q."""
        return ((name, value) for name, value in self.backbone.named_parameters() if ".lora_" in name)


def attach(model: AdaptedModel, config: AdaLoraConfig, context: AttachContext) -> Attached:
    """Freeze the backbone and put triplets beside the target layers.

    Raises:
        RecipeError: A target is no linear layer of the family, or the run is too short to shrink the budget in.
    """
    from peft import AdaLoraConfig as PeftAdaLoraConfig
    from peft import PeftModel

    first, last = int(config.warmup * context.total_steps), int(config.final * context.total_steps)
    if context.total_steps - last < 2:  # the first step measures importance, the next may use it
        raise RecipeError(
            f"method: AdaLoRA cannot shrink its ranks in a run of {context.total_steps} step(s) with "
            f"method.final {config.final}; train for more, or use lora"
        )
    settings = PeftAdaLoraConfig(
        task_type="FEATURE_EXTRACTION",
        target_r=config.r,
        init_r=config.initial_r,
        lora_alpha=config.alpha,  # type: ignore[arg-type]  # peft's annotation says int; it only multiplies by it
        lora_dropout=config.dropout,
        target_modules=model.target_pattern(config.targets),
        fan_in_fan_out=model.family.transposed,
        tinit=first,
        tfinal=last,
        deltaT=config.interval,
        total_step=context.total_steps,
        beta1=config.beta1,
        beta2=config.beta2,
        orth_reg_weight=config.orthogonality,
    )
    own = wrap(model, settings, context)
    assert isinstance(model.backbone, PeftModel)
    return AttachedAdaLora(release(model, own), model.backbone, config.orthogonality)


ADALORA = Method(
    name="adalora",
    config=AdaLoraConfig,
    paper="Zhang et al. 2023, arXiv:2303.10512",
    version=1,
    abilities=Abilities(mergeable=True, quantised_base=True),
    learning_rate=1e-3,
    learning_rates=(5e-4, 1e-3, 2e-3, 4e-3),
    attach=attach,
)
