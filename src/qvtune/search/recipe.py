"""`Recipe`: how a run trains, apart from its rates and length."""

from dataclasses import dataclass, fields

from qvtune.errors import ConfigError
from qvtune.options import parse_options
from qvtune.training.config import OptimizationOptions

PRECISIONS = ("fp32", "bf16", "fp16")


@dataclass(frozen=True)
class Recipe:
    """How a run trains, apart from its rates and length: AdamW's numbers, the schedule, clipping.

    Attributes:
        schedule: "linear", "constant" or "cosine", after the warmup.
        warmup: fraction of the steps over which the rates rise from zero.
        weight_decay: AdamW's; it does not apply to biases and norms.
        adam_beta1: AdamW's β₁.
        adam_beta2: AdamW's β₂.
        adam_epsilon: AdamW's ε.
        max_grad_norm: the gradient's norm is clipped to this; 0 does not clip.
        accumulation: batches per step.
        b_lr_ratio: η_B / η_A of LoRA's factors; the method's own when None.
        precision: "fp32", or "bf16" or "fp16" for autocast.
        seed: seed of dropout and of the order of batches.

    Raises:
        ConfigError: for a value that a run would refuse.
    """

    schedule: str = "linear"
    warmup: float = 0.0
    weight_decay: float = 0.0
    adam_beta1: float = 0.9
    adam_beta2: float = 0.999
    adam_epsilon: float = 1e-8
    max_grad_norm: float = 1.0
    accumulation: int = 1
    b_lr_ratio: float | None = None
    precision: str = "fp32"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise ConfigError(f"precision is {self.precision!r}; it should be one of {', '.join(PRECISIONS)}.")
        shared = {field.name for field in fields(self)} & OptimizationOptions.model_fields.keys()
        parse_options(OptimizationOptions, {name: getattr(self, name) for name in shared})
