"""A backbone whose attention also reads a learned prefix: peft's prefix tuning, with token types kept.

Loaded by plain peft for classification, a model is given its token types; peft's class for features drops them, and
pairs of sentences would be read differently in training.
"""

from typing import Any

from peft import PeftConfig, PeftModelForFeatureExtraction

from graft.errors import GraftError


class PrefixedBackbone(PeftModelForFeatureExtraction):
    """peft's wrapper for prefix tuning around a backbone without a head."""

    @property
    def projects(self) -> bool:
        """Whether a network makes the prefix."""
        settings: Any = self.peft_config["default"]
        return bool(settings.prefix_projection)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the backbone behind its prefix.

        Raises:
            GraftError: Activations are computed twice: layers then forget the prefix, without an error of their own.
        """
        body = self.get_base_model()
        if self.training and any(getattr(module, "gradient_checkpointing", False) for module in body.modules()):
            raise GraftError("budget.gradient_checkpointing: drops the prefix of prefix tuning; switch it off")
        return super().forward(*args, **kwargs)  # type: ignore[no-untyped-call]  # peft has no annotation here

    def _adjust_prompt_learning_kwargs(
        self, peft_config: PeftConfig, *, kwargs: dict[str, Any], remove_token_type_ids: bool = False
    ) -> None:
        """Keep the token types, whatever the caller asks."""
        super()._adjust_prompt_learning_kwargs(peft_config, kwargs=kwargs, remove_token_type_ids=False)
