"""`adapt`: choose the parameters of a model that train, by role and method, and make them trainable."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from torch import nn

from qvtune.arguments import check_model, check_names
from qvtune.errors import AdaptError, nearest
from qvtune.methods.adapted import Adapted, adaptation_of, detach, holder_of
from qvtune.methods.fitting import check_present
from qvtune.methods.heads import callable_parts, head_modules
from qvtune.methods.method import Adaptation, Batches, ParameterCounts
from qvtune.methods.resolve import check_layers, check_supplies, resolve_options
from qvtune.methods.table import METHODS
from qvtune.roles.attention import AttentionMap, parse_roles
from qvtune.roles.find import find_attention
from qvtune.roles.fused import join, misfit, split, split_modules
from qvtune.roles.layouts import ROLES
from qvtune.roles.unwrap import unwrap

# Other code that changes the model leaves a function to undo it in this attribute; `restore` calls it.
UNDO = "qvtune_undo"


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
    """Make the chosen roles of `model`'s attention and feed-forward and its head trainable, and freeze the rest.

    "lora" adds low-rank factors through PEFT, W + (alpha / rank) B A with A of shape (rank, inputs), B of shape
    (outputs, rank) and B zero at the start; "full" trains the projections themselves, biases included; the page on
    methods lists the others. A matrix that holds several roles is split into a linear layer for each role; `restore`
    joins them again. Everything is checked before anything is changed: a call that raises leaves the model as it was.

    Args:
        model: a transformers model with its weights loaded, changed in place.
        roles: which of q (query), k (key), v (value), o (output) of attention, and g (gate), u (up), d (down) of the
            feed-forward, to train; "qv" when None. "attention" is qkvo, "mlp" is gud, "all" is both. Of a feed-forward
            without a gate, "gud" trains u and d.
        method: a name in `qvtune.methods.table.METHODS`.
        rank: rank of the factors. This and the next three are the method's own default when None.
        alpha: LoRA's scale is alpha / rank, GaLore's is alpha.
        dropout: probability of dropping an input of the factors, in [0, 1).
        density: fraction of a projection's entries that "sift" trains, in (0, 1].
        layers: indices of the layers to adapt, negative ones from the end; all when None.
        head: names of modules to train in full beside the roles. When None, the parameters that were newly initialised
            on loading and, for models without a language-model head, everything outside the base model.
        attention: an attention map that was found earlier or declared by hand; found and verified here when None.
        total_steps: how many steps training will take, for "adalora".
        batches: keyword arguments of forward passes, for "eva" and "sift"; "sift" needs labels among them.

    Returns:
        The adapted model: a `peft.PeftModel` for PEFT's methods, the same object for the others.

    Raises:
        RoleError: for a role or layer that is not there or not understood, or is in experts behind a router alone.
        AdaptError: for an unknown method, an option that it does not take or lacks, a bad number, a rank above a
            projection's own, a model adapted already, or a head that cannot be trained.

    Examples:
        >>> from transformers import BertConfig, BertForSequenceClassification
        >>> model = BertForSequenceClassification(BertConfig(hidden_size=24, num_hidden_layers=2))
        >>> counts = count_parameters(adapt(model, roles="qv", rank=4))
        >>> counts.by_role, counts.head
        ({'query': 384, 'value': 384}, 50)
    """
    check_model(model)
    given = {"rank": rank, "alpha": alpha, "dropout": dropout, "density": density}
    options = resolve_options(method, roles=roles, layers=layers, **given)
    check_supplies(method, total_steps, batches)
    adaptation = _adaptation(model, method, options, roles, layers, head, attention)
    return apply(model, adaptation, total_steps=total_steps, batches=batches)


def _adaptation(
    model: nn.Module,
    method: str,
    options: Mapping[str, Any],
    roles: str | None,
    layers: Sequence[int] | None,
    head: Sequence[str] | None,
    attention: AttentionMap | None,
) -> Adaptation:
    """Return what is asked of a model, with its own attention map and head where none is given."""
    letters = parse_roles("qv" if roles is None else roles) if METHODS[method].has_roles else ""
    check_layers(layers)
    check_fresh(model)
    attention, parts = _find_parts(model, attention, head)
    chosen = None if layers is None else tuple(layers)
    return Adaptation(attention.present(letters), method, **options, layers=chosen, head=parts, attention=attention)


def _find_parts(
    model: nn.Module, attention: AttentionMap | None, head: Sequence[str] | None
) -> tuple[AttentionMap, tuple[str, ...]]:
    """Return the attention map, and the names of the modules that train as the head."""
    inner = unwrap(model)
    if head is not None:
        check_names("head", head)
    if attention is not None and (problem := misfit(inner, attention)) is not None:
        raise AdaptError(f"the attention map is of another model: this one {problem}.")
    attention = attention or find_attention(model)
    return attention, callable_parts(inner, head_modules(inner, attention) if head is None else head)


def apply(
    model: nn.Module,
    adaptation: Adaptation,
    *,
    total_steps: int | None = None,
    batches: Batches | None = None,
    start: bool = True,
) -> nn.Module:
    """Apply an adaptation to a model.

    `start=False` skips what a method does before the first step, and so do weights that are not loaded.

    Raises:
        RoleError, AdaptError: as from `adapt`; the model is unchanged.
    """
    inner, method = unwrap(model), METHODS[adaptation.method]
    check_present(adaptation.roles, adaptation.projections)
    _check_head(inner, adaptation)
    method.check(adaptation, inner)
    trainable = {name for name, parameter in inner.named_parameters() if parameter.requires_grad}
    split(inner, adaptation.attention, adaptation.projections)
    record, adapted = Adapted(adaptation), inner
    try:
        record.weights = method.snapshot(inner, adaptation)
        adapted = method.apply(inner, adaptation, total_steps)
        record.attach(adapted)
        if start and not any(parameter.is_meta for parameter in inner.parameters()):
            method.start(adapted, adaptation, batches or ())
    except BaseException:
        take_off(adapted, record, trainable)
        raise
    return adapted


def take_off(adapted: nn.Module, record: Adapted, trainable: Collection[str]) -> None:
    """Restore a transformers model to its state before `apply`, also if that did only a part of its work.

    Args:
        adapted: the model as the method has changed it so far.
        record: qvtune's record of it.
        trainable: names of the parameters that required gradients.
    """
    if holder_of(adapted) is adapted:
        detach(adapted)
    inner = _undo(adapted, record, merge=False)
    for name, parameter in inner.named_parameters():
        parameter.requires_grad_(name in trainable)


def restore(model: nn.Module, *, merge: bool = True) -> nn.Module:
    """Undo `adapt` and return the transformers model.

    Args:
        model: what `adapt` returned, trained or not.
        merge: add the trained change to the weights. Without it, remove the adapters and leave the projections as they
            were before `adapt`. If the weights themselves trained ("full", "galore"), they stay as trained. A trained
            head stays in both cases, in the precision in which the model was loaded.

    Raises:
        AdaptError: if the model was not adapted.
    """
    check_model(model)
    undo = unwrap(model).__dict__.get(UNDO)
    if undo is not None:
        undo(model)
    holder = holder_of(model)
    if holder is None and join(unwrap(model)):
        return unwrap(model).requires_grad_(True)  # only PEFT removed the adapters
    if holder is None:
        raise AdaptError("this model was not adapted by qvtune, so there is nothing to restore.")
    return _undo(holder, detach(holder), merge=merge).requires_grad_(True)


def _undo(adapted: nn.Module, record: Adapted, *, merge: bool) -> nn.Module:
    """Remove what a method added to a model, fully or in part, and return the transformers model."""
    adaptation = record.adaptation
    inner = METHODS[adaptation.method].undo(adapted, adaptation, merge)
    if not merge:
        record.restore(inner)
    join(inner)
    return inner


def count_parameters(model: nn.Module) -> ParameterCounts:
    """Count the parameters that the forward pass uses, and the trainable ones by role.

    PEFT's untrained copy of the head is not counted, nor what AdaLoRA has pruned.

    Raises:
        AdaptError: if the model was not adapted.
    """
    adaptation = adaptation_of(model)
    if adaptation is None:
        raise AdaptError("this model was not adapted: call qvtune.adapt first.")
    inner = unwrap(model)
    dead = dead_copies(inner)
    sizes = METHODS[adaptation.method].sizes(model)
    by_role = {ROLES[role]: 0 for role in adaptation.roles}
    head = total = 0
    for name, parameter in inner.named_parameters():
        if id(parameter) in dead:
            continue
        size = sizes.get(name, parameter.numel())
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
    """Return the ids of parameters in PEFT's untrained copies of modules that are trained in full."""
    return {
        id(parameter)
        for module in inner.modules()
        if hasattr(module, "modules_to_save") and hasattr(module, "original_module")
        for parameter in module.original_module.parameters()
    }


def check_fresh(model: nn.Module) -> None:
    """Check that a model was not adapted before.

    Raises:
        AdaptError: if it was, by qvtune or by PEFT.
    """
    if adaptation_of(model) is not None or any(True for _ in split_modules(unwrap(model))):
        raise AdaptError("this model is adapted already. Call qvtune.restore(model) first.")
    if hasattr(model, "peft_config"):
        raise AdaptError("this model has PEFT adapters already. Call model.unload() or merge_and_unload() first.")


def _check_head(inner: nn.Module, adaptation: Adaptation) -> None:
    modules = dict(inner.named_modules())
    targets = [projection.module for projection in adaptation.projections]
    for name in adaptation.head:
        if name not in modules or name == "":
            raise AdaptError(
                f"head '{name}' is not a module of this model.{nearest(name, modules)} Name modules to train in full."
            )
        if any(target == name or target.startswith(name + ".") for target in targets):
            raise AdaptError(f"head '{name}' holds projections that are adapted too. Name a module without roles.")
