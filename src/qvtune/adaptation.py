"""`adapt`: decide which parameters of a model train, by role and method, and make it so."""

import warnings
from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from qvtune.arguments import check_model, check_names
from qvtune.errors import AdaptError, nearest
from qvtune.methods.heads import PEFT_PARTS, callable_parts, head_modules
from qvtune.methods.method import Adaptation, Batches
from qvtune.methods.options import check_layers, check_present, check_rank, check_supplies, resolve_options
from qvtune.methods.parts import check_biases
from qvtune.methods.ranks import kept_ranks
from qvtune.methods.sparse import remove_increments
from qvtune.methods.start import START, put_back, start_of
from qvtune.methods.table import METHODS
from qvtune.roles.attention import AttentionMap, parse_roles
from qvtune.roles.find import find_attention
from qvtune.roles.fused import join, misfit, split, split_modules
from qvtune.roles.layouts import ROLES
from qvtune.roles.unwrap import unwrap, unwrap_once

# The attribute under which an adapted model carries its Adaptation.
_MARK = "qvtune_adaptation"
# The attribute under which what changed the model further leaves a function that undoes it, which `restore` calls.
UNDO = "qvtune_undo"


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
    roles: str | None = None,
    method: str = "lora",
    rank: int | None = None,
    alpha: float | None = None,
    dropout: float | None = None,
    density: float | None = None,
    layers: Sequence[int] | None = None,
    head: Sequence[str] | None = None,
    attention: AttentionMap | None = None,
    total_steps: int | None = None,
    batches: Batches | None = None,
) -> nn.Module:
    """Make the chosen roles of `model`'s attention trainable, and freeze the rest but for its head.

    "lora" adds low-rank factors through PEFT, W + (alpha / rank) B A with A of shape (rank, inputs), B of shape
    (outputs, rank) and B zero at the start; "full" trains the projections themselves, biases included; the page
    on methods lists the others. A matrix that holds several roles is split into a linear layer for each, which
    `restore` makes one again. Everything is checked before anything is touched: a call that raises leaves the model
    as it was.

    Args:
        model: a transformers model with its weights loaded, changed in place.
        roles: which of q (query), k (key), v (value), o (output) to train; "qv" when None.
        method: a name in `qvtune.methods.table.METHODS`.
        rank: rank of the factors. This and the next three are the method's own default when None.
        alpha: LoRA's scale is alpha / rank, GaLore's is alpha.
        dropout: probability of dropping an input of the factors, in [0, 1).
        density: fraction of a projection's entries that "sift" trains, in (0, 1].
        layers: indices of the layers to adapt, negative ones from the end; all when None.
        head: names of modules to train in full beside the roles. When None, the parameters that were newly
            initialised on loading, and for models without a language-model head everything outside the base model.
        attention: a map found earlier or declared by hand; found and verified here when None.
        total_steps: how many steps training will take, for "adalora".
        batches: keyword arguments of forward passes, for "eva" and "sift", which needs labels among them.

    Returns:
        The adapted model: a `peft.PeftModel` for PEFT's methods, the same object for the others.

    Raises:
        RoleError: if the projections cannot be found or a role or layer does not exist.
        AdaptError: for an unknown method, an option that it does not take or lacks, a bad number, a rank above a
            projection's own, a model adapted already, or a head that cannot be trained.

    Example:
        >>> from transformers import BertConfig, BertForSequenceClassification
        >>> model = BertForSequenceClassification(BertConfig(hidden_size=32, num_hidden_layers=2,
        ...     num_attention_heads=4, intermediate_size=64, vocab_size=100))
        >>> counts = count_parameters(adapt(model, roles="qv", rank=4))
        >>> counts.by_role, counts.head
        ({'query': 512, 'value': 512}, 66)
    """
    check_model(model)
    options = resolve_options(
        method, roles=roles, layers=layers, rank=rank, alpha=alpha, dropout=dropout, density=density
    )
    check_supplies(method, total_steps, batches)
    roles = parse_roles("qv" if roles is None else roles) if METHODS[method].has_roles else ""
    check_layers(layers)
    check_fresh(model)
    inner = unwrap(model)
    if head is not None:
        check_names("head", head)
    if attention is not None and (problem := misfit(inner, attention)) is not None:
        raise AdaptError(f"the attention map is of another model: this one {problem}.")
    attention = attention or find_attention(model)
    head_names = callable_parts(inner, head_modules(inner, attention) if head is None else head)
    resolved = None if layers is None else tuple(layers)
    adaptation = Adaptation(roles, method, **options, layers=resolved, head=head_names, attention=attention)
    is_loaded = not any(parameter.is_meta for parameter in inner.parameters())
    return apply(model, adaptation, total_steps=total_steps, batches=batches, start=is_loaded)


def apply(
    model: nn.Module,
    adaptation: Adaptation,
    *,
    total_steps: int | None = None,
    batches: Batches | None = None,
    start: bool = True,
) -> nn.Module:
    """Do to a model what an adaptation says; `start=False` leaves what a method does before the first step undone.

    Raises:
        RoleError, AdaptError: as `adapt` does, with the model as it was.
    """
    inner, method = unwrap(model), METHODS[adaptation.method]
    check_present(adaptation.roles, adaptation.projections)
    _check_method(adaptation)
    _check_modules(inner, adaptation)
    trainable = {name for name, parameter in inner.named_parameters() if parameter.requires_grad}
    split(inner, adaptation.attention, adaptation.projections)
    adapted = inner
    try:
        if method.config is not None:
            adapted = _apply_peft(inner, adaptation, total_steps)
        else:
            inner.requires_grad_(False)
            method.function(str(method.train))(inner, adaptation)
        if start and method.start is not None:
            method.function(method.start)(adapted, adaptation, batches or ())
    except BaseException:
        _undo(adapted, adaptation, merge=False)
        for name, parameter in inner.named_parameters():
            parameter.requires_grad_(name in trainable)
        raise
    setattr(adapted, _MARK, adaptation)
    return adapted


def restore(model: nn.Module, *, merge: bool = True) -> nn.Module:
    """Undo `adapt` and return the transformers model.

    Args:
        model: what `adapt` returned, trained or not.
        merge: add what was trained to the weights; without, take the adapters off and leave the projections as they
            were before `adapt`. Where the weights themselves trained ("full", "galore") they are what they are. A
            trained head stays either way, in the precision that the model was loaded in.

    Raises:
        AdaptError: if the model was not adapted.
    """
    check_model(model)
    undo = unwrap(model).__dict__.get(UNDO)
    if undo is not None:
        undo(model)
    holder: Any = _holder(model)
    if holder is None and join(unwrap(model)):
        return unwrap(model).requires_grad_(True)  # adapters were taken off by PEFT alone
    if holder is None:
        raise AdaptError("this model was not adapted by qvtune, so there is nothing to restore.")
    adaptation = holder.__dict__.pop(_MARK)
    return _undo(holder, adaptation, merge=merge).requires_grad_(True)


def _undo(adapted: Any, adaptation: Adaptation, *, merge: bool) -> nn.Module:
    """Take off what a method put on a model, whole or in part, and return the transformers model."""
    inner, start = unwrap(adapted), start_of(adapted)
    if hasattr(adapted, "peft_config"):
        dtypes = _head_dtypes(inner, adaptation.head)
        _unwrap_head(inner, adaptation.head)
        inner = adapted.merge_and_unload() if merge else adapted.unload()
        for name, dtype in dtypes.items():
            inner.get_submodule(name).to(dtype)
    elif adaptation.density is not None:
        remove_increments(inner, adaptation, merge=merge)
    adapted.__dict__.pop(START, None)
    if start is not None and not merge:
        put_back(inner, start)
    join(inner)
    return inner


def adaptation_of(model: nn.Module) -> Adaptation | None:
    """Return what `adapt` did to `model` (also below data parallel wrappers and compile), or None.

    Raises:
        AdaptError: if it is no model.
    """
    check_model(model)
    holder = _holder(model)
    return None if holder is None else holder.__dict__[_MARK]


def _holder(model: nn.Module) -> nn.Module | None:
    current: nn.Module | None = model
    while current is not None and _MARK not in current.__dict__:
        current = unwrap_once(current)
    return current


def count_parameters(model: nn.Module) -> ParameterCounts:
    """Count the parameters that take part in the forward pass, trainable ones by role.

    The copy of the head that PEFT keeps beside the trained one is not counted, nor what AdaLoRA has pruned.

    Raises:
        AdaptError: if the model was not adapted.
    """
    adaptation = adaptation_of(model)
    if adaptation is None:
        raise AdaptError("this model was not adapted: call qvtune.adapt first.")
    inner = unwrap(model)
    dead = dead_copies(inner)
    kept = kept_ranks(model) if METHODS[adaptation.method].steps else {}
    by_role = {ROLES[role]: 0 for role in adaptation.roles}
    head = total = 0
    for name, parameter in inner.named_parameters():
        if id(parameter) in dead:
            continue
        size = parameter.numel()
        if (triplets := kept.get(name.partition(".lora_")[0])) is not None and parameter.requires_grad:
            size = size // len(triplets) * sum(triplets)
        total += size
        if not parameter.requires_grad:
            continue
        role = adaptation.attention.role_of_module(name)
        if role is None:
            head += size
        else:
            by_role[ROLES[role]] += size
    return ParameterCounts(by_role, head, head + sum(by_role.values()), total)


def dead_copies(inner: Any) -> set[int]:
    """Return the ids of parameters that PEFT keeps as the untrained original of a module trained in full."""
    return {
        id(parameter)
        for module in inner.modules()
        if hasattr(module, "modules_to_save") and hasattr(module, "original_module")
        for parameter in module.original_module.parameters()
    }


def _check_method(adaptation: Adaptation) -> None:
    """Check what a method needs of the model."""
    if adaptation.method == "bitfit":
        check_biases(adaptation)
    if adaptation.method == "head" and not adaptation.head:
        raise AdaptError("method head trains the head alone, and this model has none. Name modules with head=[...].")
    if adaptation.rank is not None and METHODS[adaptation.method].rank_is_bound:
        check_rank(adaptation.rank, adaptation.projections)


def check_fresh(model: nn.Module) -> None:
    """Check that a model was not adapted before.

    Raises:
        AdaptError: if it was, by qvtune or by PEFT.
    """
    if adaptation_of(model) is not None or any(True for _ in split_modules(unwrap(model))):
        raise AdaptError("this model is adapted already. Call qvtune.restore(model) first.")
    if hasattr(model, "peft_config"):
        raise AdaptError("this model has PEFT adapters already. Call model.unload() or merge_and_unload() first.")


def _check_modules(inner: nn.Module, adaptation: Adaptation) -> None:
    modules = dict(inner.named_modules())
    targets, head = [p.module for p in adaptation.projections], adaptation.head
    by_peft = METHODS[adaptation.method].config is not None
    for name in head:
        if name not in modules or name == "":
            raise AdaptError(
                f"head '{name}' is not a module of this model.{nearest(name, modules)} Name modules to train in full."
            )
        if any(target == name or target.startswith(name + ".") for target in targets):
            raise AdaptError(f"head '{name}' holds projections that are adapted too. Name a module outside attention.")
        others = [other for other in (*(m for m in modules if m not in head), *PEFT_PARTS) if other.endswith(name)]
        if by_peft and others:
            other = modules.get(others[0]) if others[0] != name else None  # else a part of PEFT's, or without weights
            both = other is not None and any(True for _ in other.parameters())
            advice = "Name both in the head" if both else "Give its module another name"
            raise AdaptError(
                f"head '{name}' cannot be told from '{others[0]}' by PEFT, which compares the ends of names. {advice}, "
                "or use method='full'."
            )
    for name in () if by_peft else (*targets, *head):
        for path, parameter in inner.named_parameters():
            is_its_own = path == name or path.startswith(f"{name}.")
            if is_its_own and parameter.dtype not in (torch.float32, torch.float64):
                raise AdaptError(
                    f"'{name}' is {str(parameter.dtype).removeprefix('torch.')}; full training in so few bits loses "
                    "small updates. Load the model with dtype=torch.float32 and train under bf16 autocast."
                )


def _apply_peft(inner: Any, adaptation: Adaptation, total_steps: int | None) -> nn.Module:
    from peft import get_peft_model

    common = {
        "task_type": _task_type(inner, adaptation.head),
        "target_modules": adaptation.targets,
        "modules_to_save": list(adaptation.head) or None,
    }
    make_config = METHODS[adaptation.method].config
    assert make_config is not None
    structure = [(module, _copied(module.__dict__)) for module in inner.modules()]
    try:
        with warnings.catch_warnings():
            # PEFT asks transformers' models by the name that this had before.
            warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
            adapted = get_peft_model(inner, make_config(common, adaptation, total_steps))
    except BaseException:  # PEFT has no way back from the middle
        for module, attributes in structure:
            module.__dict__.clear()
            module.__dict__.update(attributes)
        raise
    _keep_head_in_float32(unwrap(adapted), adaptation.head)
    return adapted


def _copied(attributes: dict[str, Any]) -> dict[str, Any]:
    """Copy a module's attributes, with its dictionaries of children, parameters, buffers and hooks."""
    return {name: copy(value) if isinstance(value, dict) else value for name, value in attributes.items()}


def _keep_head_in_float32(inner: nn.Module, head: Sequence[str]) -> None:
    """Give a head that was loaded in half precision float32 weights, and its inputs the same type."""
    for name in head:
        module = inner.get_submodule(name)
        trained = [p for p in module.parameters() if p.requires_grad]
        if any(p.dtype in (torch.float16, torch.bfloat16) for p in trained):
            for parameter in trained:
                parameter.data = parameter.data.float()
            module.register_forward_pre_hook(_float_inputs)


def _unwrap_head(inner: nn.Module, head: Sequence[str]) -> None:
    """Put the trained head in its place; PEFT does that too, but for (IA)³ and VeRA of a single layer alone."""
    for name in head:
        parent, _, child = name.rpartition(".")
        wrapper: Any = inner.get_submodule(name)
        setattr(inner.get_submodule(parent), child, wrapper.modules_to_save[wrapper.active_adapters[0]])


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
