"""`Method`: one fine-tuning method as data; `Adaptation`: what a method did to a model."""

import importlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from qvtune.roles.attention import AttentionMap, Projection

if TYPE_CHECKING:  # the command line lists the methods, and torch takes seconds to import
    from torch import Tensor

# Options of which a method takes some. Such a field holds the method's default, and None where it has no such option.
OPTIONS = ("rank", "alpha", "dropout", "density", "b_lr_ratio")

Batches = Iterable[Mapping[str, "Tensor"]]


@dataclass(frozen=True)
class Adaptation:
    """What `adapt` did to a model. `head` holds the names of the modules that train in full beside the roles.

    Options that the method does not take are None.
    """

    roles: str
    method: str
    rank: int | None
    alpha: float | None
    dropout: float | None
    layers: tuple[int, ...] | None
    head: tuple[str, ...]
    attention: AttentionMap = field(repr=False)
    density: float | None = None

    @property
    def targets(self) -> list[str]:
        """Names of the modules that train, relative to the transformers model; parts of fused ones once split."""
        return list(dict.fromkeys(projection.trained for projection in self.projections))

    @property
    def projections(self) -> list[Projection]:
        """The adapted projections."""
        return self.attention.projections(self.roles, self.layers) if self.roles else []

    def to_dict(self) -> dict[str, Any]:
        """Return plain lists and dictionaries that JSON can hold."""
        return asdict(self)


@dataclass(frozen=True)
class Method:
    """A fine-tuning method.

    Args:
        name: what `--method` calls it.
        summary: what it trains, for `--help`.
        lr: default learning rate of query and key.
        lr_ratio: default λ; None where no role trains, so that neither roles nor λ mean anything.
        rank, alpha, dropout, density, b_lr_ratio: default of the option, None where the method has no such option.
        config: makes PEFT's configuration of an adaptation, from its arguments for every method, the adaptation and the
            number of steps; None for a method that PEFT does not have.
        train: names the function of this package that makes the parameters of a method without `config` trainable in
            a model that is frozen, given the model and the adaptation.
        start: names the function that changes adapters and weights before the first step, given also the batches that
            the method asked for.
        saves: the adapter, or the whole model.
        checkpoint: who writes the weights of a checkpoint: PEFT, transformers (the whole model), or qvtune, which
            writes what trains, with the method's own state.
        steps: whether it has to know the number of steps.
        batches: how many batches it looks at before the first step.
        rank_is_bound: whether a rank above a projection's own makes no sense.
        saves_twice: whether an adapter on disk holds as much again as trains: factors that it started with, or places.
        decays: whether weight decay applies to its matrices; not to factors that mean "no change" at another value
            than 0.
    """

    name: str
    summary: str
    lr: float
    lr_ratio: float | None
    rank: int | None = None
    alpha: float | None = None
    dropout: float | None = None
    density: float | None = None
    b_lr_ratio: float | None = None
    config: Callable[[dict[str, Any], Adaptation, int | None], Any] | None = None
    train: str | None = None
    start: str | None = None
    saves: Literal["adapter", "model"] = "adapter"
    checkpoint: Literal["peft", "model", "trained"] = "peft"
    steps: bool = False
    batches: int = 0
    decays: bool = True
    rank_is_bound: bool = True
    saves_twice: bool = False

    @property
    def defaults(self) -> dict[str, Any]:
        """The options that the method takes, with their defaults."""
        return {name: value for name in OPTIONS if (value := getattr(self, name)) is not None}

    @property
    def has_roles(self) -> bool:
        """Whether roles, layers and λ mean something."""
        return self.lr_ratio is not None

    @property
    def has_lora(self) -> bool:
        """Whether it trains PEFT's LoRA layers, with factors A and B and one scale."""
        return self.config is not None and self.b_lr_ratio is not None and not self.steps

    def make_optimizer(self, groups: Any, *, betas: Any, eps: float) -> Any:
        import torch

        if self.name == "galore":
            from qvtune.methods.galore import galore_adamw

            return galore_adamw(groups, betas=betas, eps=eps)
        return torch.optim.AdamW(groups, betas=betas, eps=eps, fused=True)

    def begin(self, model: Any, total_steps: int) -> None:
        if self.steps:
            from qvtune.methods.ranks import plan_steps

            plan_steps(model, total_steps)

    def penalty(self, model: Any) -> Any:
        if not self.steps:
            return None
        from qvtune.methods.ranks import orthogonality

        return orthogonality(model)

    def after_step(self, model: Any, step: int) -> None:
        if self.steps:
            from qvtune.methods.ranks import allocate

            allocate(model, step)

    @staticmethod
    def function(name: str) -> Callable[..., None]:
        """Return the function that `train` or `start` names, as in "sparse.train_sift"."""
        module, _, function = name.partition(".")
        return getattr(importlib.import_module(f"qvtune.methods.{module}"), function)
