"""`adapt`: decide which parameters of a model train, by role and method, and make it so."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from numbers import Real
from typing import Any

import torch
from torch import Tensor, nn

from qvtune.errors import AdaptError, nearest
from qvtune.roles.attention import AttentionMap, Projection, parse_roles
from qvtune.roles.find import find_attention
from qvtune.roles.fused import join, misfit, split, split_modules
from qvtune.roles.layouts import ROLES
from qvtune.roles.unwrap import unwrap, unwrap_once

METHODS = ("lora", "full")

# The attribute under which an adapted model carries its Adaptation.
_MARK = "qvtune_adaptation"
# The attribute under which what changed the model further leaves a function that undoes it, which `restore` calls.
UNDO = "qvtune_undo"


@dataclass(frozen=True)
class Adaptation:
    """What `adapt` did to a model. `head` holds the names of the modules that train in full beside the roles."""

    roles: str
    method: str
    rank: int
    alpha: float
    dropout: float
    layers: tuple[int, ...] | None
    head: tuple[str, ...]
    attention: AttentionMap = field(repr=False)

    @property
    def targets(self) -> list[str]:
        """Names of the modules that train, relative to the transformers model; parts of fused ones once split."""
        return [projection.trained for projection in self.projections]

    @property
    def projections(self) -> list[Projection]:
        """The adapted projections."""
        return self.attention.projections(self.roles, self.layers)

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


def adapt(
    model: nn.Module,
    *,
    roles: str = "qv",
    method: str = "lora",
    rank: int = 8,
    alpha: float = 8,
    dropout: float = 0.1,
    layers: Sequence[int] | None = None,
    head: Sequence[str] | None = None,
    attention: AttentionMap | None = None,
) -> nn.Module:
    """Make the chosen roles of `model`'s attention trainable, and freeze the rest but for its head.

    "lora" adds low-rank factors through PEFT, W + (alpha / rank) B A with A of shape (rank, inputs), B of shape
    (outputs, rank) and B zero at the start; "full" trains the projections themselves, biases included. A matrix that
    holds several roles is split into a linear layer for each, which `restore` makes one again. Everything is checked
    before anything is touched: a call that raises leaves the model as it was.

    Args:
        model: a transformers model with its weights loaded, changed in place.
        roles: which of q (query), k (key), v (value), o (output) to train.
        method: "lora" or "full".
        rank: rank of the LoRA factors.
        alpha: LoRA's scale is alpha / rank.
        dropout: probability of dropping an input of the LoRA factors, in [0, 1).
        layers: indices of the layers to adapt, negative ones from the end; all when None.
        head: names of modules to train in full beside the roles. When None, the parameters that were newly
            initialised on loading, and for models without a language-model head everything outside the base model.
        attention: a map found earlier or declared by hand; found and verified here when None.

    Returns:
        The adapted model: a `peft.PeftModel` for "lora", the same object for "full".

    Raises:
        RoleError: if the projections cannot be found or a role or layer does not exist.
        AdaptError: for an unknown method, a bad number, a rank above a projection's own, a model adapted already, or
            a head that cannot be trained.

    Example:
        >>> from transformers import BertConfig, BertForSequenceClassification
        >>> model = BertForSequenceClassification(BertConfig(hidden_size=32, num_hidden_layers=2,
        ...     num_attention_heads=4, intermediate_size=64, vocab_size=100))
        >>> counts = count_parameters(adapt(model, roles="qv", rank=4))
        >>> counts.by_role, counts.head
        ({'query': 512, 'value': 512}, 66)
    """
    if not isinstance(model, nn.Module):
        raise AdaptError(f"model is a {type(model).__name__}; load it first, as with AutoModel.from_pretrained.")
    roles = parse_roles(roles)
    _check_numbers(method, rank, alpha, dropout)
    _check_layers(layers)
    check_fresh(model)
    inner = unwrap(model)
    if isinstance(head, str):
        raise AdaptError(f"head is '{head}'; it must be a list of names, as in ['{head}'].")
    if attention is not None and (problem := misfit(inner, attention)) is not None:
        raise AdaptError(f"the attention map is of another model: this one {problem}.")
    attention = attention or find_attention(model)
    head_names = tuple(head) if head is not None else _head_modules(inner)
    resolved = None if layers is None else tuple(layers)
    adaptation = Adaptation(roles, method, rank, alpha, dropout, resolved, head_names, attention)
    targets = list(dict.fromkeys(adaptation.targets))
    _check_present(adaptation)
    if method == "lora":
        _check_rank(adaptation)
    _check_modules(inner, adaptation)
    split(inner, attention, adaptation.projections)
    try:
        adapted = _apply_lora(inner, adaptation, targets) if method == "lora" else _apply_full(inner, adaptation)
    except BaseException:
        join(inner)
        raise
    setattr(adapted, _MARK, adaptation)
    return adapted


def restore(model: nn.Module, *, merge: bool = True) -> nn.Module:
    """Undo `adapt` and return the transformers model.

    Args:
        model: what `adapt` returned, trained or not.
        merge: with LoRA, add what was trained to the weights; without, take the adapters off and leave the
            projections as they were. Under "full" the weights are what they are. A trained head stays either way,
            in the precision that the model was loaded in.

    Raises:
        AdaptError: if the model was not adapted.
    """
    undo = unwrap(model).__dict__.get(UNDO)
    if undo is not None:
        undo(model)
    holder: Any = _holder(model)
    if holder is None and join(unwrap(model)):
        return unwrap(model).requires_grad_(True)  # adapters were taken off by PEFT alone
    if holder is None:
        raise AdaptError("this model was not adapted by qvtune, so there is nothing to restore.")
    adaptation = holder.__dict__.pop(_MARK)
    if adaptation.method == "full":
        join(holder)
        return holder.requires_grad_(True)
    dtypes = _head_dtypes(unwrap(holder), adaptation.head)
    restored = holder.merge_and_unload() if merge else holder.unload()
    for name, dtype in dtypes.items():
        restored.get_submodule(name).to(dtype)
    join(restored)
    return restored.requires_grad_(True)


def adaptation_of(model: nn.Module) -> Adaptation | None:
    """Return what `adapt` did to `model` (also below data parallel wrappers and compile), or None."""
    holder = _holder(model)
    return None if holder is None else holder.__dict__[_MARK]


def _holder(model: nn.Module) -> nn.Module | None:
    current: nn.Module | None = model
    while current is not None and _MARK not in current.__dict__:
        current = unwrap_once(current)
    return current


def count_parameters(model: nn.Module) -> ParameterCounts:
    """Count the parameters that take part in the forward pass, trainable ones by role.

    The copy of the head that PEFT keeps beside the trained one is not counted.

    Raises:
        AdaptError: if the model was not adapted.
    """
    adaptation = adaptation_of(model)
    if adaptation is None:
        raise AdaptError("this model was not adapted: call qvtune.adapt first.")
    inner = unwrap(model)
    dead = dead_copies(inner)
    by_role = {ROLES[role]: 0 for role in adaptation.roles}
    head = total = 0
    for name, parameter in inner.named_parameters():
        if id(parameter) in dead:
            continue
        total += parameter.numel()
        if not parameter.requires_grad:
            continue
        role = adaptation.attention.role_of_module(name)
        if role is None:
            head += parameter.numel()
        else:
            by_role[ROLES[role]] += parameter.numel()
    return ParameterCounts(by_role, head, head + sum(by_role.values()), total)


def dead_copies(inner: Any) -> set[int]:
    """Return the ids of parameters that PEFT keeps as the untrained original of a module trained in full."""
    return {
        id(parameter)
        for module in inner.modules()
        if hasattr(module, "modules_to_save") and hasattr(module, "original_module")
        for parameter in module.original_module.parameters()
    }


def _check_numbers(method: str, rank: int, alpha: float, dropout: float) -> None:
    if method not in METHODS:
        raise AdaptError(f"unknown method '{method}'.{nearest(method, METHODS)} Methods are {', '.join(METHODS)}.")
    for name, value in (("rank", rank), ("alpha", alpha), ("dropout", dropout)):
        if isinstance(value, bool) or not isinstance(value, Real):
            raise AdaptError(f"{name} is {value!r}, a {type(value).__name__}; it must be a number.")
    if rank < 1 or rank != int(rank):
        raise AdaptError(f"rank is {rank}; it must be at least 1, and whole.")
    if not 0 < alpha < math.inf:
        raise AdaptError(f"alpha is {alpha}; it must be above 0, and finite.")
    if not 0 <= dropout < 1:
        raise AdaptError(f"dropout is {dropout}; it must be at least 0 and below 1.")


def _check_rank(adaptation: Adaptation) -> None:
    for projection in adaptation.projections:
        if adaptation.rank > min(projection.shape):
            rows, columns = projection.shape
            raise AdaptError(
                f"rank is {adaptation.rank}, and '{projection.module}' is {rows} x {columns}: factors of rank "
                f"{min(projection.shape)} reach every change of it. Lower the rank, or use method='full'."
            )


def _check_layers(layers: Sequence[int] | None) -> None:
    if layers is not None and (not isinstance(layers, Sequence) or not all(isinstance(index, int) for index in layers)):
        raise AdaptError(f"layers is {layers!r}; it must be a list of layer numbers, as in [0, 1, -1].")


def check_fresh(model: nn.Module) -> None:
    """Check that a model was not adapted before.

    Raises:
        AdaptError: if it was, by qvtune or by PEFT.
    """
    if adaptation_of(model) is not None or any(True for _ in split_modules(unwrap(model))):
        raise AdaptError("this model is adapted already. Call qvtune.restore(model) first.")
    if hasattr(model, "peft_config"):
        raise AdaptError("this model has PEFT adapters already. Call model.unload() or merge_and_unload() first.")


def _head_modules(inner: Any) -> tuple[str, ...]:
    """Name the modules that hold the head: top-level ones outside the base model, owners of new ones inside."""
    base = getattr(inner, "base_model", inner)
    base_parameters = {id(p) for p in base.parameters()}
    new = _newly_initialised(inner)
    is_language_model = hasattr(inner, "get_output_embeddings") and inner.get_output_embeddings() is not None
    names: dict[str, None] = {}
    for name, parameter in inner.named_parameters():
        outside = base is not inner and id(parameter) not in base_parameters
        if name in new or (outside and not is_language_model):
            owner = name.split(".")[0] if outside else name.rpartition(".")[0]
            names[owner] = None
    return tuple(names)


def _newly_initialised(inner: nn.Module) -> set[str]:
    """Name the parameters that the checkpoint did not hold; empty for a model that was never loaded.

    transformers marks each parameter that it reads from a checkpoint and leaves fresh ones unmarked.
    """
    loaded = {name for name, p in inner.named_parameters() if getattr(p, "_is_hf_initialized", False)}
    return {name for name, _ in inner.named_parameters()} - loaded if loaded else set()


def _check_present(adaptation: Adaptation) -> None:
    found = {projection.role for projection in adaptation.projections}
    for role in adaptation.roles:
        if role not in found:
            raise AdaptError(f"role '{role}' was asked for, and this model has no {ROLES[role]} projection of its own.")


def _check_modules(inner: nn.Module, adaptation: Adaptation) -> None:
    modules = dict(inner.named_modules())
    targets, head, method = [p.module for p in adaptation.projections], adaptation.head, adaptation.method
    for name in head:
        if name not in modules or name == "":
            raise AdaptError(
                f"head '{name}' is not a module of this model.{nearest(name, modules)} Name modules to train in full."
            )
        if any(target == name or target.startswith(name + ".") for target in targets):
            raise AdaptError(f"head '{name}' holds projections that are adapted too. Name a module outside attention.")
        others = [other for other in modules if other.endswith(name) and other not in head]
        if method == "lora" and others:  # PEFT compares the ends of names
            raise AdaptError(
                f"head '{name}' cannot be told from '{others[0]}' by PEFT. Name both in the head, or use method='full'."
            )
    for name in (*targets, *head) if method == "full" else ():
        for path, parameter in inner.named_parameters():
            is_its_own = path == name or path.startswith(f"{name}.")
            if is_its_own and parameter.dtype not in (torch.float32, torch.float64):
                raise AdaptError(
                    f"'{name}' is {str(parameter.dtype).removeprefix('torch.')}; full training in so few bits loses "
                    "small updates. Load the model with dtype=torch.float32 and train under bf16 autocast."
                )


def _apply_lora(inner: Any, adaptation: Adaptation, targets: list[str]) -> nn.Module:
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        task_type=_task_type(inner, adaptation.head),
        r=adaptation.rank,
        lora_alpha=adaptation.alpha,  # type: ignore[arg-type]  # PEFT divides it; a fraction is fine
        lora_dropout=adaptation.dropout,
        target_modules=targets,
        modules_to_save=list(adaptation.head) or None,
    )
    adapted = get_peft_model(inner, config)
    _keep_head_in_float32(unwrap(adapted), adaptation.head)
    return adapted


def _apply_full(inner: nn.Module, adaptation: Adaptation) -> nn.Module:
    inner.requires_grad_(False)
    for name in (*adaptation.targets, *adaptation.head):
        inner.get_submodule(name).requires_grad_(True)
    for projection in adaptation.projections:
        bias = getattr(inner.get_submodule(projection.trained), "bias", None)
        if bias is not None and not projection.bias:  # zeros in a fused bias, where the key has none
            bias.requires_grad_(False)
    for name in (name for projection in adaptation.projections for name in projection.extra):
        inner.get_parameter(name).requires_grad_(True)
    return inner


def _keep_head_in_float32(inner: nn.Module, head: Sequence[str]) -> None:
    """Give a head that was loaded in half precision float32 weights, and its inputs the same type."""
    for name in head:
        module = inner.get_submodule(name)
        trained = [p for p in module.parameters() if p.requires_grad]
        if any(p.dtype in (torch.float16, torch.bfloat16) for p in trained):
            for parameter in trained:
                parameter.data = parameter.data.float()
            module.register_forward_pre_hook(_float_inputs)


def _head_dtypes(inner: nn.Module, head: Sequence[str]) -> dict[str, torch.dtype]:
    originals: dict[str, Any] = {name: inner.get_submodule(name) for name in head}
    return {name: p.dtype for name, wrapper in originals.items() for p in wrapper.original_module.parameters()}


def _float_inputs(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
    if getattr(module, "disable_adapters", False):
        return args  # the original in half precision is running
    return tuple(a.float() if isinstance(a, Tensor) and a.is_floating_point() else a for a in args)


def _task_type(inner: nn.Module, head: Sequence[str]) -> str | None:
    """Return PEFT's name of the task, or None where PEFT would then train a module that `head` leaves out."""
    added = {name for name, _ in inner.named_modules() if name.endswith(("classifier", "score"))}
    for suffix, task in (("ForSequenceClassification", "SEQ_CLS"), ("ForTokenClassification", "TOKEN_CLS")):
        if type(inner).__name__.endswith(suffix) and added <= set(head):
            return task
    return None
