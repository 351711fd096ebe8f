"""Locate the feed-forward networks of a model by structure: children, their names and sizes, and a table of layouts."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from torch import nn

from qvtune.roles.attention import AttentionLayer, AttentionMap, FeedForwardLayer, Projection, WithoutRoles
from qvtune.roles.layouts import WRAPPED, Rows
from qvtune.roles.linear import is_linear, linear_size
from qvtune.roles.locate import beside, child_name, projection_of, whole_projection


@dataclass(frozen=True)
class Network:
    """Where up, down and gate are, as names relative to a module; "../" is its parent.

    `up` holds the gate too if it has twice as many outputs as `down` has inputs. `classes` is a pattern for the classes
    of the module, where the names alone are too common.
    """

    up: str
    down: str
    gate: str | None = None
    classes: str = ""


_FEED_FORWARD = r"MLP|Mlp|FeedForward|FFN"
# Hints, as the layouts of attention are. Networks with a gate come first, since some others have a part of their names.
NETWORKS = (
    Network("up_proj", "down_proj", "gate_proj"),  # Llama, Mistral, Qwen, Gemma, and most newer models
    Network("w3", "w2", "w1"),  # LFM2
    Network("wi_1", "wo", "wi_0"),  # mT5, Kosmos-2.5
    Network("w_in.w_1", "w_out", "w_in.w_0"),  # CPM-Ant
    Network("proj_up", "proj_down", "proj_up_gate"),  # xLSTM
    Network("gate_up_proj", "down_proj"),  # Phi-3, GLM, Dia
    Network("Wi", "Wo"),  # ModernBERT
    Network("weights_in", "weights_out"),  # DINOv2's SwiGLU
    Network("input_linear", "output_linear", classes=_FEED_FORWARD),  # Granite's shared part
    Network("fc1.proj", "fc2"),  # CLVP
    Network("fc1", "fc2"),  # BART, OPT, Whisper, CLIP, ViT-like models
    Network("up_proj", "down_proj"),  # MPT, Nemotron, Arcee
    Network("gate_proj", "down_proj"),  # TimesFM
    Network("c_fc", "c_proj"),  # GPT-2 and similar models
    Network("fc_in", "fc_out"),  # GPT-J, CodeGen
    Network("dense_h_to_4h", "dense_4h_to_h"),  # GPT-NeoX, BLOOM, Falcon
    Network("wi", "wo"),  # T5
    Network("lin1", "lin2"),  # DistilBERT, XLM, SAM
    Network("linear1", "linear2"),  # conformers, and torch's Transformer layers
    Network("linear_1", "linear_2", classes=_FEED_FORWARD),  # Funnel
    Network("linear_fc1", "linear_fc2"),  # vision towers of Qwen-VL
    Network("layer_1", "layer_2", classes=_FEED_FORWARD),  # XLNet
    Network("ffw_layer_1", "ffw_layer_2"),  # Gemma's audio tower
    Network("intermediate_dense", "output_dense"),  # Wav2Vec2 and similar models
    Network("intermediate", "output", classes=_FEED_FORWARD),  # ProphetNet
    Network("dense1", "dense2"),  # Perceiver, SegFormer, PVT
    Network("proj_in", "proj_out", classes=_FEED_FORWARD),  # SAM 2
    Network("in_proj", "out_proj", classes=_FEED_FORWARD),  # Bark
    Network("ffn", "ffn_output"),  # ALBERT
    Network("intermediate.dense", "output.dense"),  # BERT and similar models
    Network("intermediate_query.dense", "output_query.dense"),  # Q-Formers
    Network("dense.dense", "output.dense", classes=_FEED_FORWARD),  # Reformer
    Network("layout_intermediate.dense", "layout_output.dense"),  # LiLT
    Network("lang_inter.dense", "lang_output.dense"),  # LXMERT
    Network("visn_inter.dense", "visn_output.dense"),
    Network("0", "2", classes="Sequential"),  # CTRL
    Network("0", "3", classes="Sequential"),  # PatchTST
    Network("layers.0", "layers.1", classes=r"^(DFine|Deimv2)MLP$"),
)  # fmt: skip

# A part of a path that numbers a block.
NUMBERED = r"(^|\.)(\w*_)?\d+(\.|$)"
# Parts of a path, and classes, that mean an expert that a router chooses, and not one that every token passes.
EXPERTS = r"(^|\.)\w*experts\.\w*\d+(\.|$)"
SHARED = r"shared|residual_mlp"
EXPERT_CLASSES = r"Experts?$"
ROUTED = "routed experts, which only some tokens reach"
TOGETHER = "experts in parameters of three dimensions, to which no role can be attached"

# Classes that look like a feed-forward network.
LOOKS_LIKE = r"(MLP|Mlp|FeedForward|FFN|Intermediate|MultiLayeredConv1d|DenseActDense|DenseGatedAct\w*)(Block|Layer)?$"
# Classes whose name looks so and that are something else: routers, heads, positions, projections between towers.
NO_NETWORK = (
    r"Router|Gating|Position|Merger|Projector|Projection|Predict|Head|Embed|Downsample|Adapter|BN$|Mixer|TimeStep|"
    r"Attention.*MLP|Memory|Residual|Pooler|Stem|Lqe|LQE|Gate(MLP|Mlp)$"
)


def with_feed_forward(inner: nn.Module, attention: AttentionMap) -> AttentionMap:
    """Return a map with the feed-forward layers of the model, and with those that stay frozen or are not understood."""
    modules = dict(inner.named_modules())
    taken = {p.module for layer in attention for p in layer.projections}
    experts = {name: reason for name, module in modules.items() if (reason := _routed(name, module)) is not None}
    found: list[FeedForwardLayer] = []
    for name, module in modules.items():
        if any(_is_in(name, expert) for expert in experts) or isinstance(module, (nn.ModuleList, nn.ModuleDict)):
            continue
        for network in NETWORKS:
            layer = _layer(name, modules, network, taken)
            if layer is not None and _is_in_block(name, attention):
                found.append(layer)
                taken |= {p.module for p in layer.projections}
    unknown = _unknown(modules, attention, found, experts, taken)
    return replace(
        attention,
        feed_forward=tuple(numbered_networks(attention, found)),
        experts=tuple(_named(modules, _outermost(experts))),
        unknown=tuple(_named(modules, unknown)),
    )


def _layer(name: str, modules: dict[str, nn.Module], network: Network, taken: set[str]) -> FeedForwardLayer | None:
    """Return the network whose parts are at these names relative to a module, or None."""
    if network.classes and not re.search(network.classes, type(modules[name]).__name__):
        return None
    paths = [_linear_at(name, modules, path, taken) for path in (network.up, network.down, network.gate) if path]
    if None in paths or (network.gate and len(paths) < 3):
        return None
    up, down, *gate = (path for path in paths if path is not None)
    (rows, width), (outputs, inner) = linear_size(modules[up]), linear_size(modules[down])
    if outputs != width and not re.search(r"(mlp|ffn|feed_forward)\d*$", name):
        return None  # a projection from one width to another, and no part of a residual stream
    last = whole_projection("d", down, modules[down])
    projections: tuple[Projection, ...]
    if gate and linear_size(modules[gate[0]]) == (rows, width) and rows == inner:
        layout = "separate"
        projections = (whole_projection("g", gate[0], modules[gate[0]]), whole_projection("u", up, modules[up]), last)
    elif not gate and rows == 2 * inner:
        layout, projections = "gate_up", (*halves("gate_up", up, modules[up]), last)
    elif not gate and rows == inner:
        layout, projections = "plain", (whole_projection("u", up, modules[up]), last)
    else:
        return None
    return FeedForwardLayer(name, 0, "", "shared" if re.search(SHARED, name) else "dense", layout, projections)


# How one module can hold gate and up: which of them comes first, in halves or row by row.
FUSED = ("gate_up", "up_gate", "gate_up_rows", "up_gate_rows")


def halves(layout: str, path: str, module: nn.Module) -> tuple[Projection, Projection]:
    """Return gate and up of a module that holds both in one of the layouts `FUSED`."""
    half = linear_size(module)[0] // 2
    parts = (Rows(0, 1, 2, half), Rows(1, 1, 2, half)) if layout.endswith("rows") else (Rows(0, half), Rows(half, half))
    gate, up = parts if layout.startswith("gate") else reversed(parts)
    return projection_of("g", path, module, gate), projection_of("u", path, module, up)


def _linear_at(name: str, modules: dict[str, nn.Module], path: str, taken: set[str]) -> str | None:
    """Return the name of the linear layer at a path from a module, also inside a module that wraps it, or None."""
    whole = beside(name, path)
    for candidate in (whole, child_name(whole, WRAPPED)):
        if candidate not in taken and is_linear(modules.get(candidate)):
            return candidate
    return None


def _is_in_block(name: str, attention: AttentionMap) -> bool:
    """Whether a module is in a block that is repeated, or beside an attention layer."""
    if re.search(NUMBERED, name):
        return True
    parents = {layer.name.rpartition(".")[0] for layer in attention}
    return name.rpartition(".")[0] in parents


def _routed(name: str, module: nn.Module) -> str | None:
    """Return why a module with experts stays frozen, or None for any other module."""
    if re.search(EXPERTS, name) and not re.search(SHARED, name):
        return ROUTED
    if not re.search(EXPERT_CLASSES, type(module).__name__):
        return None
    has_own = any(p.dim() >= 3 for p in module._parameters.values() if p is not None)
    return TOGETHER if has_own else None


def numbered_networks(attention: AttentionMap, found: Iterable[FeedForwardLayer]) -> Iterator[FeedForwardLayer]:
    """Give each layer the index and stack of the attention in its block, or else its number among such blocks."""
    layers = list(found)
    partners = [_partner(layer.name, attention.layers) for layer in layers]
    alone = {_stack(layer.name) for layer, partner in zip(layers, partners, strict=True) if partner is None}
    counts: Counter[str] = Counter()
    blocks: dict[str, int] = {}
    for layer, partner in zip(layers, partners, strict=True):
        stack, block = _stack(layer.name), _block(layer.name)
        if partner is not None and stack not in alone:
            yield replace(layer, index=partner.index, stack=partner.stack)
            continue
        if block not in blocks:
            blocks[block] = counts[stack]
            counts[stack] += 1
        yield replace(layer, index=blocks[block], stack=stack if len(alone) > 1 else "")


def _partner(name: str, layers: tuple[AttentionLayer, ...]) -> AttentionLayer | None:
    """Return the attention layer in the block of a feed-forward network, or None if the block has none."""
    path = name
    while re.search(NUMBERED, path):
        inside = [layer for layer in layers if _is_in(layer.name, path)]
        if inside:
            own = [layer for layer in inside if layer.kind == "self"] or inside
            return own[0] if len({layer.index for layer in own}) == 1 else None
        path = path.rpartition(".")[0]
    return None


def _stack(name: str) -> str:
    """Return the name of what holds the block of a module."""
    return re.split(r"\.\d+(?:\.|$)", name)[0]


def _block(name: str) -> str:
    """Return the name of the outermost numbered module around another; the module itself if none is."""
    numbers = re.match(r"(.*?\.)?\d+(?=\.|$)", name)
    return numbers[0] if numbers else name


def _unknown(
    modules: dict[str, nn.Module],
    attention: AttentionMap,
    found: list[FeedForwardLayer],
    experts: dict[str, str],
    taken: set[str],
) -> dict[str, str]:
    """Return the modules that look like a feed-forward network and were not found, with the reason."""
    known = [*taken, *experts, *(other.module for other in attention.others)]
    inside = {layer.name for layer in found}
    unknown = {}
    for name, module in modules.items():
        kind = type(module).__name__
        if not re.search(LOOKS_LIKE, kind) or re.search(NO_NETWORK, kind) or not _is_in_block(name, attention):
            continue
        if "hypernetworks" in name:  # SAM's, which make the weights of a mask
            continue
        if name in inside or any(_is_in(name, k) or _is_in(k, name) for k in known):
            continue
        matrices = [part for part in module.modules() if _has_matrix(part)]
        if not matrices or not _keeps_width(matrices):
            continue
        convolved = any(isinstance(part, nn.modules.conv._ConvNd) for part in matrices)
        unknown[name] = "it is made of convolutions" if convolved else "its parts have none of the known names"
    return _outermost(unknown)


def _keeps_width(matrices: list[nn.Module]) -> bool:
    """Whether the last layer leads back to the width that the first one reads; heads and gates lead elsewhere."""
    if not all(is_linear(part) for part in matrices):
        return True
    return linear_size(matrices[-1])[0] == linear_size(matrices[0])[1]


def _outermost(names: dict[str, str]) -> dict[str, str]:
    """Leave out modules inside others."""
    return {name: reason for name, reason in names.items() if not any(_is_in(name, o) and name != o for o in names)}


def _named(modules: dict[str, nn.Module], reasons: dict[str, str]) -> Iterator[WithoutRoles]:
    for name, reason in reasons.items():
        yield WithoutRoles(name, type(modules[name]).__name__, reason)


def _is_in(name: str, outer: str) -> bool:
    return name == outer or name.startswith(f"{outer}.")


def _has_matrix(module: nn.Module) -> bool:
    weight = module._parameters.get("weight")
    return weight is not None and weight.dim() >= 2
