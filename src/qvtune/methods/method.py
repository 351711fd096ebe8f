"""`Method`: a fine-tuning method, as facts and hooks; `Adaptation`: what a method did to a model."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from qvtune.methods.fitting import check_float32, check_rank
from qvtune.roles.attention import AttentionMap, Projection

if TYPE_CHECKING:  # the command line lists the methods, and torch takes seconds to import
    from torch import Tensor, nn
    from torch.optim import Optimizer

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
class ParameterCounts:
    """Numbers of parameters. `by_role` has an entry per role that trains; `total` counts the whole model once."""

    by_role: dict[str, int]
    head: int
    trainable: int
    total: int

    @property
    def adapter(self) -> int:
        """Trainable parameters outside the head."""
        return sum(self.by_role.values())


@dataclass(frozen=True)
class Method:
    """A fine-tuning method: the facts below, and hooks that a family of methods overrides.

    `adapt`, a training loop, `save_adapter` and `load_adapter` call the hooks; nothing else knows a method. In a hook,
    `inner` is the transformers model, with its fused projections split, and `adapted` is what `adapt` returned, in
    which other libraries may have wrapped the transformers model. The hooks as they are here are those of a method that
    trains parameters of the model itself or of modules that it put there: it has to say in `train` which, and in
    `undo` how to take such modules off. A method of PEFT's derives from `PeftMethod`.

    A file that is read to list the methods must not import torch; hooks do.

    Args:
        name: what `--method` calls it.
        summary: what it trains, for `--help`.
        lr: default learning rate of query and key.
        lr_ratio: default λ; None where no role trains, so that neither roles nor λ mean anything.
        rank, alpha, dropout, density, b_lr_ratio: default of the option, None where the method has no such option.
        saves: the adapter, or the whole model.
        checkpoint: who writes the weights of a checkpoint: PEFT, transformers (the whole model), or qvtune, which
            writes what trains, with the method's own state.
        steps: whether it has to know the number of steps.
        batches: how many batches it looks at before the first step.
        rank_is_bound: whether a rank above a projection's own makes no sense.
        decays: whether weight decay applies to its matrices; not to factors that mean "no change" at another value
            than 0.
        shares_out: whether it moves what trains from role to role itself, so that one that falls behind is no mistake.
        penalised_by_forward: whether the forward pass adds `penalty` to a loss that the model computes itself.
        optimizer: what messages call an optimizer of its own; its name when None.
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
    saves: Literal["adapter", "model"] = "adapter"
    checkpoint: Literal["peft", "model", "trained"] = "trained"
    steps: bool = False
    batches: int = 0
    rank_is_bound: bool = True
    decays: bool = True
    shares_out: bool = False
    penalised_by_forward: bool = False
    optimizer: str | None = None

    # Makes PEFT's configuration, of a method that PEFT has.
    config: ClassVar[Callable[..., Any] | None] = None

    @property
    def defaults(self) -> dict[str, Any]:
        """The options that the method takes, with their defaults."""
        return {name: value for name in OPTIONS if (value := getattr(self, name)) is not None}

    @property
    def has_roles(self) -> bool:
        """Whether roles, layers and λ mean something."""
        return self.lr_ratio is not None

    @property
    def has_own_optimizer(self) -> bool:
        """Whether no other optimizer will do than the one that it makes."""
        return type(self).make_optimizer is not Method.make_optimizer

    # Putting it on a model, and taking it off

    def check_installed(self) -> None:
        """Check that the libraries are here that it needs beside qvtune's own.

        Raises:
            AdaptError: naming what to install.
        """

    def check(self, adaptation: Adaptation, inner: "nn.Module") -> None:
        """Check what it needs of the model, before anything is touched.

        Raises:
            AdaptError: saying what the model lacks.
        """
        self.check_rank(adaptation)
        check_float32(inner, [*(projection.module for projection in adaptation.projections), *adaptation.head])

    def check_rank(self, adaptation: Adaptation) -> None:
        """Check that its factors, if it has any, are smaller than what they change.

        Raises:
            AdaptError: naming the projection whose own rank is below theirs.
        """
        if adaptation.rank is not None and self.rank_is_bound:
            check_rank(adaptation.rank, adaptation.projections)

    def snapshot(self, inner: "nn.Module", adaptation: Adaptation) -> "dict[str, Tensor]":
        """Return copies of the parameters that training changes in place and `restore(merge=False)` puts back."""
        return {}

    def apply(self, inner: "nn.Module", adaptation: Adaptation, total_steps: int | None) -> "nn.Module":
        """Make what the method trains, and the head, the only parameters of a model that train.

        Args:
            inner: the model, changed in place.
            adaptation: what to do.
            total_steps: how many steps training will take, for a method with `steps`.

        Returns:
            The adapted model: the same object, or one around it.
        """
        inner.requires_grad_(False)
        self.train(inner, adaptation)
        for name in adaptation.head:
            inner.get_submodule(name).requires_grad_(True)
        return inner

    def train(self, inner: "nn.Module", adaptation: Adaptation) -> None:
        """Make its parameters trainable in a model that is frozen; called by `apply`."""

    def start(self, adapted: "nn.Module", adaptation: Adaptation, batches: Batches) -> None:
        """Change adapters and weights before the first step.

        It is not called where weights of a trained adapter follow, nor for a model without weights.

        Args:
            adapted: the adapted model.
            adaptation: what was done to it.
            batches: arguments of forward passes, as many as `batches` asks for.
        """

    def undo(self, adapted: "nn.Module", adaptation: Adaptation, merge: bool) -> "nn.Module":
        """Take off what `apply` put on a model, whole or in part, and return the transformers model.

        Args:
            adapted: the adapted model, or the transformers model where `apply` failed.
            adaptation: what was done to it.
            merge: whether what was trained is added to the weights.
        """
        from qvtune.roles.unwrap import unwrap

        return unwrap(adapted)

    # Training it

    def group_settings(self, adaptation: Adaptation) -> dict[str, Any]:
        """Return what its optimizer reads of a group of matrices that belong to a role, beside rate and decay."""
        return {}

    def make_optimizer(self, groups: list[dict[str, Any]], *, betas: tuple[float, float], eps: float) -> "Optimizer":
        """Return the optimizer of groups that `param_groups` made: AdamW, or one of its kin."""
        import torch

        return torch.optim.AdamW(groups, betas=betas, eps=eps, fused=True)

    def begin(self, model: "nn.Module", total_steps: int) -> None:
        """Do what there is to do before the first step, or the first after a checkpoint, of so many in all."""

    def penalty(self, model: "nn.Module") -> "Tensor | None":
        """Return what is added to the loss of a step once, or None."""
        return None

    def after_step(self, model: "nn.Module", step: int) -> None:
        """Do what follows the optimizer's step, counted from 1; the step's gradients are still there."""

    def state(self, model: "nn.Module") -> "dict[str, Tensor]":
        """Return its own part of a checkpoint: tensors by names that no trained parameter has."""
        return {}

    def load_state(self, model: "nn.Module", state: "Mapping[str, Tensor]") -> None:
        """Give a model, adapted in the same way, what `state` returned.

        Raises:
            ModelError: naming a tensor that is missing, of another shape, or nothing of this method's.
        """
        from qvtune.methods.state import fill

        fill(self.state(model), state)

    def sizes(self, adapted: "nn.Module") -> dict[str, int]:
        """Return how many numbers of a parameter take part, by its name, where these are not all."""
        return {}

    def is_unseen(self, roles: str) -> bool:
        """Whether the outputs cannot change, by how a model computes, though these roles train."""
        return False

    # Its adapter on disk

    def loads_in_peft(self, adapted: "nn.Module", adaptation: Adaptation) -> bool:
        """Whether plain PEFT loads what `save` writes, on the model in its original shape."""
        return False

    def save(self, adapted: "nn.Module", adaptation: Adaptation, folder: Path) -> None:
        """Write its adapter, head included, into a folder, which is made if it is not there.

        Raises:
            AdaptError: if it cannot be saved; nothing is written then.
        """
        from qvtune.methods.state import save_trained_file

        save_trained_file(adapted, folder)

    def read(self, folder: Path) -> "dict[str, Tensor]":
        """Return the tensors that `save` wrote, by name; those of the head end as in the model.

        Raises:
            ModelError: if they cannot be read, or are not finite.
        """
        from qvtune.methods.files import TRAINED_FILE, read_weights

        return read_weights(folder / TRAINED_FILE)

    def load(self, adapted: "nn.Module", adaptation: Adaptation, weights: "dict[str, Tensor]", folder: Path) -> None:
        """Give a model, adapted without `start`, what `read` returned. Whoever calls it checks that nothing is missing.

        Raises:
            ModelError: if the weights are of another adaptation.
        """
        from qvtune.methods.state import load_trained

        load_trained(adapted, weights, folder)

    def count_beside(self, adaptation: Adaptation, trained: int) -> int:
        """Return how many numbers `save` writes beside what trains, which are `trained` outside the head."""
        return 0

    def count_saved(self, adaptation: Adaptation, counts: ParameterCounts) -> int:
        """Return how many numbers are saved of a model with so many parameters."""
        if self.saves == "model":
            return counts.total
        return counts.trainable + self.count_beside(adaptation, counts.adapter)
