"""Find the modules of a model that are its head."""

from collections.abc import Sequence
from typing import Any

from torch import nn

from qvtune.errors import AdaptError
from qvtune.roles.attention import AttentionMap

# Endings of transformers' names for models with a head: for texts, tokens, images, audio, video.
CLASSIFIER = "Classification"


def head_modules(inner: Any, attention: AttentionMap) -> tuple[str, ...]:
    """Return the names of the head's modules: top-level ones outside the base model, owners of new ones inside.

    In a classifier that is its own base model, such as CLIP's, the head is in the modules after attention. timm's
    models name their head themselves.

    Raises:
        AdaptError: if a classifier has no such modules.
    """
    base = getattr(inner, "base_model", inner)
    base_parameters = {id(p) for p in base.parameters()}
    new = newly_initialised(inner)
    is_language_model = hasattr(inner, "get_output_embeddings") and inner.get_output_embeddings() is not None
    names: dict[str, None] = {}
    if base is inner and type(inner).__name__.endswith(CLASSIFIER):
        names = dict.fromkeys(_after_attention(inner, attention))
    for name, parameter in inner.named_parameters():
        outside = base is not inner and id(parameter) not in base_parameters
        owner = name.split(".")[0] if outside else name.rpartition(".")[0]
        within = any(owner == known or owner.startswith(f"{known}.") for known in names)
        if not within and (name in new or (outside and not is_language_model)):
            names[owner] = None
    return tuple(names)


def callable_parts(inner: nn.Module, names: Sequence[str]) -> tuple[str, ...]:
    """Replace a list or dictionary of modules, which nothing calls and PEFT refuses, by its contents."""
    modules = dict(inner.named_modules())
    found: list[str] = []
    for name in names:
        module = modules.get(name)
        if isinstance(module, (nn.ModuleList, nn.ModuleDict)):
            inside = [
                f"{name}.{child}" for child, part in module.named_children() if any(True for _ in part.parameters())
            ]
            found += callable_parts(inner, inside)
        else:
            found.append(name)
    return tuple(found)


def _after_attention(inner: nn.Module, attention: AttentionMap) -> list[str]:
    told = [getattr(module, "get_classifier", None) for module in inner.modules()]
    heads = [told_by() for told_by in told if told_by is not None]  # timm's models name it
    attending = {layer.name.split(".")[0] for layer in attention}
    children = [name for name, module in inner.named_children() if any(True for _ in module.parameters())]
    last = max(children.index(name) for name in attending)
    named = [name for name, module in inner.named_modules() if any(module is head for head in heads)]
    if not (found := named or children[last + 1 :]):
        raise AdaptError(
            f"{type(inner).__name__} is a classifier, and which of its modules is the head cannot be told. Name it: "
            "adapt(model, head=['...']), or head=[] to train none."
        )
    return found


def newly_initialised(inner: nn.Module) -> set[str]:
    """Return the names of parameters that the checkpoint lacked; empty for a model that was never loaded.

    transformers marks each parameter that it reads from a checkpoint and leaves new ones unmarked.
    """
    loaded = {name for name, p in inner.named_parameters() if getattr(p, "_is_hf_initialized", False)}
    return {name for name, _ in inner.named_parameters()} - loaded if loaded else set()
