"""`Method`: a fine-tuning method, as facts and hooks; `Adaptation`: what a method did to a model."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from qvtune.methods.fitting import check_float32, check_rank
from qvtune.roles.attention import AttentionMap, Projection

if TYPE_CHECKING:  # torch takes seconds to import, and the command line only lists the methods
    from torch import Tensor, nn
    from torch.optim import Optimizer

# Options that some methods take. Such a field holds the method's default, or None if the method has no such option.
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
        """Names of the modules that train, relative to the transformers model; for fused ones, of the split parts."""
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

    `adapt`, a training loop, `save_adapter` and `load_adapter` call the hooks; nothing else knows about methods. In a
    hook, `inner` is the transformers model with its fused projections split. `adapted` is what `adapt` returned, in
    which other libraries may have wrapped the transformers model. The default hooks here are for a method that trains
    parameters of the model, or of modules that it adds: it has to say in `train` which parameters, and in `undo` how to
    remove such modules. PEFT's methods derive from `PeftMethod`.

    A file that is imported to list the methods must not import torch. Hooks may import it.

    Args:
        name: its name for `--method`.
        summary: what it trains, for `--help`.
        lr: default learning rate of query and key.
        lr_ratio: default λ; None if no role trains, so that neither roles nor λ mean anything.
        rank: default of the option; None if the method has no such option, here and below.
        alpha: default of the option.
        dropout: default of the option.
        density: default of the option.
        b_lr_ratio: default of the option.
        saves: the adapter, or the whole model.
        checkpoint: who writes the weights of a checkpoint: PEFT, transformers (the whole model), or qvtune, which
            writes what trains, with the method's own state.
        steps: whether it has to know the number of steps.
        batches: how many batches it needs before the first step.
        rank_is_bound: whether a rank above a projection's own makes no sense.
        decays: whether weight decay applies to its matrices. It must not, if factors mean "no change" at another value
            than 0.
        shares_out: whether it moves ranks from role to role itself, so that a role that falls behind is no mistake.
        penalised_by_forward: whether the forward pass adds `penalty` to a loss that the model computes itself.
        optimizer: the name of its own optimizer in messages; the method's name when None.
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

    # Makes PEFT's configuration, if PEFT has the method.
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
        """Whether it needs the optimizer that it makes."""
        return type(self).make_optimizer is not Method.make_optimizer

    # Applying it to a model, and removing it

    def check_installed(self) -> None:
        """Check that the further libraries that it needs are installed.

        Raises:
            AdaptError: if one is not; the text says what to install.
        """

    def check(self, adaptation: Adaptation, inner: "nn.Module") -> None:
        """Check that the model has what it needs, before anything is changed.

        Raises:
            AdaptError: if the model lacks something; the text says what.
        """
        self.check_rank(adaptation)
        check_float32(inner, [*(projection.module for projection in adaptation.projections), *adaptation.head])

    def check_rank(self, adaptation: Adaptation) -> None:
        """Check that its factors, if it has any, are smaller than the projections that they change.

        Raises:
            AdaptError: if a projection's own rank is lower; the text names the projection.
        """
        if adaptation.rank is not None and self.rank_is_bound:
            check_rank(adaptation.rank, adaptation.projections)

    def snapshot(self, inner: "nn.Module", adaptation: Adaptation) -> "dict[str, Tensor]":
        """Return copies of the parameters that training changes in place and `restore(merge=False)` restores."""
        return {}

    def apply(self, inner: "nn.Module", adaptation: Adaptation, total_steps: int | None) -> "nn.Module":
        """Make the method's parameters and the head trainable, and no other parameters of a model.

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
        """Make its parameters trainable in a frozen model; `apply` calls this."""

    def start(self, adapted: "nn.Module", adaptation: Adaptation, batches: Batches) -> None:
        """Change adapters and weights before the first step.

        It is not called before the weights of a trained adapter are loaded, nor for a model without weights.

        Args:
            adapted: the adapted model.
            adaptation: what was done to it.
            batches: arguments of forward passes, as many as `batches` asks for.
        """

    def undo(self, adapted: "nn.Module", adaptation: Adaptation, merge: bool) -> "nn.Module":
        """Remove what `apply` added to a model, fully or in part, and return the transformers model.

        Args:
            adapted: the adapted model, or the transformers model if `apply` failed.
            adaptation: what was done to it.
            merge: whether the trained change is added to the weights.
        """
        from qvtune.roles.unwrap import unwrap

        return unwrap(adapted)

    # Training it

    def group_settings(self, adaptation: Adaptation) -> dict[str, Any]:
        """Return further settings, beside rate and decay, that its optimizer reads for a role's group of matrices."""
        return {}

    def make_optimizer(self, groups: list[dict[str, Any]], *, betas: tuple[float, float], eps: float) -> "Optimizer":
        """Return the optimizer for groups from `param_groups`: AdamW, or a variant of it."""
        import torch

        return torch.optim.AdamW(groups, betas=betas, eps=eps, fused=True)

    def begin(self, model: "nn.Module", total_steps: int) -> None:
        """Prepare for the first step, or the first one after a checkpoint, of `total_steps` in all."""

    def penalty(self, model: "nn.Module") -> "Tensor | None":
        """Return the penalty that is added once to the loss of a step, or None."""
        return None

    def after_step(self, model: "nn.Module", step: int) -> None:
        """Act after the optimizer's step, counted from 1; the step's gradients are still there."""

    def state(self, model: "nn.Module") -> "dict[str, Tensor]":
        """Return its own part of a checkpoint: tensors under names that no trained parameter has."""
        return {}

    def load_state(self, model: "nn.Module", state: "Mapping[str, Tensor]") -> None:
        """Restore in a model, adapted in the same way, what `state` returned.

        Raises:
            ModelError: if a tensor is missing, has another shape or does not belong to this method; the text names it.
        """
        from qvtune.methods.state import fill

        fill(self.state(model), state)

    def sizes(self, adapted: "nn.Module") -> dict[str, int]:
        """Return how many numbers of a parameter are used, by its name, for parameters that are not used fully."""
        return {}

    def is_unseen(self, roles: str) -> bool:
        """Whether training these roles cannot change the outputs, by the way a model computes."""
        return False

    # Its adapter on disk

    def loads_in_peft(self, adapted: "nn.Module", adaptation: Adaptation) -> bool:
        """Whether plain PEFT loads what `save` writes, on the model in its original shape."""
        return False

    def save(self, adapted: "nn.Module", adaptation: Adaptation, folder: Path) -> None:
        """Write its adapter, head included, into a folder, which is created if it does not exist.

        Raises:
            AdaptError: if it cannot be saved; then nothing is written.
        """
        from qvtune.methods.state import save_trained_file

        save_trained_file(adapted, folder)

    def read(self, folder: Path) -> "dict[str, Tensor]":
        """Return the tensors that `save` wrote, by name; names of the head's tensors end as in the model.

        Raises:
            ModelError: if they cannot be read, or are not finite.
        """
        from qvtune.methods.files import TRAINED_FILE, read_weights

        return read_weights(folder / TRAINED_FILE)

    def load(self, adapted: "nn.Module", adaptation: Adaptation, weights: "dict[str, Tensor]", folder: Path) -> None:
        """Load what `read` returned into a model adapted without `start`. The caller checks that nothing is missing.

        Raises:
            ModelError: if the weights belong to another adaptation.
        """
        from qvtune.methods.state import load_trained

        load_trained(adapted, weights, folder)

    def count_beside(self, adaptation: Adaptation, trained: int) -> int:
        """Return how many numbers `save` writes beside the trained ones, of which `trained` are outside the head."""
        return 0

    def count_saved(self, adaptation: Adaptation, counts: ParameterCounts) -> int:
        """Return how many numbers are saved for a model with these counts of parameters."""
        if self.saves == "model":
            return counts.total
        return counts.trainable + self.count_beside(adaptation, counts.adapter)
