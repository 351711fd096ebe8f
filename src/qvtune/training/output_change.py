"""`OutputMeter`: how much a change of weights changes the outputs of attention and feed-forward layers, by role."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from qvtune.fast.cpu.pooled import all_positions, computing_with
from qvtune.fast.precision import in_full
from qvtune.methods.adapted import adaptation_of
from qvtune.roles.attention import AttentionLayer, AttentionMap, Layer
from qvtune.roles.calls import Call
from qvtune.roles.layouts import ROLES
from qvtune.roles.modes import evaluating
from qvtune.roles.unwrap import unwrap

# How many attention layers and how many feed-forward layers, spread over the model, and how many sequences of a batch
# are measured.
SAMPLED_LAYERS = 2
SEQUENCES = 2
# The name for the change by query and key together.
QUERY_KEY = "query_key"
# A few sequences alone count as giving the same outputs up to this difference, relative to the largest output.
SAME = 1e-3

# Values of trained parameters, by name in the transformers model.
Weights = Mapping[str, Tensor]


class OutputMeter:
    """Measures ‖f(W + ΔW_r) - f(W)‖ / ‖f(W)‖, where ΔW_r changes the weights of one role r alone.

    f is the output of an attention layer, or for the roles g, u and d that of a feed-forward layer, for its inputs in a
        forward pass: the output of its last projection before any residual, without dropout and in float32. The norms
        are Frobenius norms over a few sequences, without padding. The ratio is averaged over a few layers. With query
        and key changed together it is the relative size of δ¹ of Theorem 2 (Yao et al., IJCAI 2025), and with the value
        that of δ². The training and the random state stay as they are.

    Args:
        model: what `adapt` returned, accelerated or not.
        layers: how many of the adapted layers of each of the two kinds are measured, spread over the model.
        sequences: how many sequences of a batch are measured.

    Examples:
        >>> from transformers import BertConfig, BertForSequenceClassification
        >>> import qvtune
        >>> model = qvtune.adapt(BertForSequenceClassification(BertConfig(hidden_size=32, num_hidden_layers=2,
        ...     num_attention_heads=4, intermediate_size=64, vocab_size=100)), roles="qv", rank=4)
        >>> optimizer = torch.optim.AdamW(qvtune.param_groups(model, lr=1e-3))
        >>> meter = OutputMeter(model)
        >>> with meter.watching():
        ...     loss = model(input_ids=torch.arange(16).view(2, 8), labels=torch.tensor([0, 1])).loss
        >>> loss.backward()
        >>> before = meter.weights()
        >>> optimizer.step()
        >>> sorted(meter.measure(before))
        ['query', 'value']
    """

    def __init__(self, model: nn.Module, *, layers: int = SAMPLED_LAYERS, sequences: int = SEQUENCES) -> None:
        self._inner = unwrap(model)
        self._sequences = sequences
        adaptation = adaptation_of(model)
        assert adaptation is not None, "a meter takes what adapt returned"
        attention, chosen = adaptation.attention, adaptation.layers
        kinds: tuple[Sequence[Layer], ...] = (attention.chosen(chosen), attention.chosen_feed_forward(chosen))
        self._layers: list[_Watched] = []
        for kind in kinds:
            trained = [layer for layer in kind if any(p.role in adaptation.roles for p in layer.projections)]
            # Divide the model into equal parts and take the middle layer of each, every layer at most once.
            places = dict.fromkeys(
                int((part + 0.5) * len(trained) / layers) for part in range(layers if trained else 0)
            )
            self._layers += [_Watched(self._inner, trained[place], attention) for place in places]
        self.parts = _parts({role for watched in self._layers for role in watched.roles.values()})

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Capture the sampled layers' inputs in the first forward pass inside the block, replacing earlier ones."""
        masks: list[Tensor] = []

        def keep_mask(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            mask = kwargs.get("attention_mask")
            masks[:] = [mask] if isinstance(mask, Tensor) and mask.dim() == 2 else []

        for watched in self._layers:
            watched.captured = None
        with ExitStack() as hooks:
            hooks.callback(self._inner.register_forward_pre_hook(keep_mask, with_kwargs=True).remove)
            for watched in self._layers:

                def keep(module: nn.Module, args: Any, kwargs: Any, watched: _Watched = watched) -> None:
                    watched.capture(args, kwargs, masks, self._sequences)

                hooks.callback(watched.module.register_forward_pre_hook(keep, with_kwargs=True).remove)
            yield

    def weights(self) -> dict[str, Tensor]:
        """Return a copy of what trains in the sampled layers."""
        return {name: value.clone() for name, value in self._current().items()}

    @torch.no_grad()
    def measure(
        self, before: Weights, after: Weights | None = None, parts: Mapping[str, str] | None = None
    ) -> dict[str, float]:
        """Return the relative change of the output by part, for the captured inputs; empty if there are none.

        Args:
            before: what `weights` returned.
            after: what `weights` returned later; the model's present weights when None.
            parts: roles that change together, by name, such as {"both sides": "qv"}. When None, each trained role under
                its own name, and "query_key" for both if both train.
        """
        after = self._current() if after is None else after
        parts = self.parts if parts is None else parts
        found: dict[str, list[Tensor]] = {}
        for watched in list(self._layers):
            if watched.captured is None:
                continue
            with watched.replaying():
                if not watched.settle(self._sequences):
                    self._layers.remove(watched)
                    continue
                for name, change in watched.changes(before, after, parts).items():
                    found.setdefault(name, []).append(change)
        return {name: float(torch.stack(found[name]).mean()) for name in parts if name in found}

    def _current(self) -> dict[str, Tensor]:
        parameters = {watched.layer.name: dict(watched.module.named_parameters()) for watched in self._layers}
        return {
            f"{watched.layer.name}.{name}": parameters[watched.layer.name][name].detach()
            for watched in self._layers
            for name in watched.roles
        }


@dataclass(frozen=True)
class _Captured:
    """Inputs of a layer: those of its call, those of a shortened last layer, and the mask of real positions, (b, s).

    `rows` has an entry per tensor: how many rows of its first dimension belong to one sequence, or 0 if that dimension
    holds no sequences.
    `is_few` says that only the first few sequences are there.
    """

    call: Call
    hidden: Tensor | None
    mask: Tensor | None
    rows: tuple[int, ...] = ()
    is_few: bool = False

    def first(self, sequences: int) -> "_Captured":
        rows = iter(self.rows)
        cut = self._map(lambda tensor: tensor[: sequences * count] if (count := next(rows)) else tensor)
        return _Captured(cut.call, cut.hidden, cut.mask, self.rows, True)

    def copied(self) -> "_Captured":
        return self._map(lambda tensor: tensor.detach().clone())

    def full(self) -> "_Captured":
        return self._map(lambda tensor: tensor.float() if tensor.is_floating_point() else tensor)

    def with_rows(self, heads: int) -> "_Captured":
        sizes: list[tuple[int, ...]] = []

        def note(tensor: Tensor) -> Tensor:
            sizes.append(tuple(tensor.shape) if tensor.dim() > 1 else (0,))
            return tensor

        self._map(note)
        batch = next((size[0] for size in sizes if size[0]), 0)
        counts = {batch * heads: heads, batch: 1, 0: 0}  # BLOOM has a bias for every head of every sequence
        rows = tuple(counts.get(size[0], 0) for size in sizes)
        return _Captured(self.call, self.hidden, self.mask, rows, batch == 0)

    def _map(self, change: Any) -> "_Captured":
        call = self.call.map(change)
        hidden, mask = (None if tensor is None else change(tensor) for tensor in (self.hidden, self.mask))
        return _Captured(call, hidden, mask, self.rows, self.is_few)


class _Watched:
    """A sampled layer: its module, and the role of each trained parameter by its name in that module.

    `fits` says, for each value of a call's `rows`, whether the first few sequences can be computed alone.
    """

    def __init__(self, inner: nn.Module, layer: Layer, attention: AttentionMap) -> None:
        self.layer = layer
        self.module = inner.get_submodule(layer.name)
        self.heads = layer.heads if isinstance(layer, AttentionLayer) else 1
        last = "o" if isinstance(layer, AttentionLayer) else "d"
        outputs = [projection for projection in layer.projections if projection.role == last]
        self.output = inner.get_submodule(outputs[0].trained) if outputs else None
        names = [name for name, parameter in self.module.named_parameters() if parameter.requires_grad]
        roles = {name: attention.role_of_module(f"{layer.name}.{name}") for name in names}
        # A feed-forward network may be computed in a module that holds the attention too, as in BERT.
        own = {projection.role for projection in layer.projections}
        self.roles = {name: role for name, role in roles.items() if role is not None and role in own}
        self.captured: _Captured | None = None
        self.fits: dict[tuple[int, ...], bool] = {}
        self._seen: list[Tensor] = []

    @torch.no_grad()
    def capture(self, args: tuple[Any, ...], kwargs: dict[str, Any], masks: list[Tensor], sequences: int) -> None:
        if self.captured is not None:
            return  # a later micro-batch, another use of the layer, or a second pass of gradient checkpointing
        call = Call.of(args, kwargs)
        captured = _Captured(call, all_positions(self.module), masks[0] if masks else None).with_rows(self.heads)
        # Cut before copying, once the cut is known to be right.
        self.captured = (captured.first(sequences) if self.fits.get(captured.rows) else captured).copied()

    @contextmanager
    def replaying(self) -> Iterator[None]:
        """Let the layer compute without dropout and in float32, and capture its output."""
        assert self.captured is not None
        self.captured = self.captured.full()
        device = next(self.module.parameters()).device.type
        with ExitStack() as stack:
            stack.enter_context(evaluating(self.module))
            stack.enter_context(torch.autocast(device, enabled=False))
            stack.enter_context(_holding(self.module, in_full(self.module)))
            if self.output is not None:
                hook = self.output.register_forward_hook(lambda module, args, out: self._seen.append(out))
                stack.callback(hook.remove)
            yield

    def settle(self, sequences: int) -> bool:
        """Cut the captured inputs to a few sequences, if those give the same outputs alone as among the others.

        Returns:
            Whether the layer can be called again.
        """
        assert self.captured is not None
        captured = self.captured
        if captured.is_few or self.fits.get(captured.rows) is False:
            return True
        try:
            whole = self._compute(captured)
        except Exception:
            return False  # a layer that cannot run alone or in float32 may raise anything; training goes on
        try:
            few = captured.first(sequences)
            part = self._compute(few)
            first = whole[: len(part)]
            self.fits[captured.rows] = bool((part - first).abs().max() <= SAME * first.abs().max())
        except Exception:  # for example if the first dimension is not the sequences
            self.fits[captured.rows] = False
        if self.fits[captured.rows]:
            self.captured = few
        return True

    def changes(self, before: Weights, after: Weights, parts: Mapping[str, str]) -> dict[str, Tensor]:
        """Return the relative change of the output by part."""
        with _holding(self.module, self._given(before, "".join(ROLES))):
            reference = self._kept()
            size = reference.norm().clamp(min=torch.finfo(torch.float32).tiny)
            changes = {}
            for part, roles in parts.items():
                if new := self._given(after, roles):
                    with _holding(self.module, new):
                        changes[part] = (self._kept() - reference).norm() / size
        return changes

    def _given(self, weights: Weights, roles: str) -> dict[str, Tensor]:
        chosen = (name for name, role in self.roles.items() if role in roles)
        return {name: weights[f"{self.layer.name}.{name}"].float() for name in chosen}

    def _kept(self) -> Tensor:
        """Return the output, without padding if it has the positions of the model's input."""
        assert self.captured is not None
        output, mask = self._compute(self.captured), self.captured.mask
        return output[mask.bool()] if mask is not None and output.shape[:2] == mask.shape else output

    def _compute(self, captured: _Captured) -> Tensor:
        """Return the layer's output, (b, s, outputs) as a rule."""
        self._seen.clear()
        with computing_with(self.module, captured.hidden):
            result = captured.call.repeat(self.module)
        seen = self._seen or [result[0] if isinstance(result, tuple) else result]
        return seen[0] if len(seen) == 1 else torch.cat([out.flatten(end_dim=-2) for out in seen])


@contextmanager
def _holding(module: nn.Module, values: Mapping[str, Tensor]) -> Iterator[None]:
    """Give a module other parameters and buffers inside the block, as `torch.func.functional_call` does for one call.

    The parameters themselves are taken out and restored, and never written to.
    """
    places = [(module.get_submodule(path), leaf) for path, _, leaf in (name.rpartition(".") for name in values)]
    tables: list[dict[str, Any]] = [m._parameters if leaf in m._parameters else m._buffers for m, leaf in places]
    before = [table[leaf] for table, (_, leaf) in zip(tables, places, strict=True)]
    try:
        for table, (_, leaf), value in zip(tables, places, values.values(), strict=True):
            table[leaf] = value
        yield
    finally:
        for table, (_, leaf), value in zip(tables, places, before, strict=True):
            table[leaf] = value


def _parts(roles: set[str]) -> dict[str, str]:
    parts = {name: role for role, name in ROLES.items() if role in roles}
    return parts | ({QUERY_KEY: "qk"} if {"q", "k"} <= roles else {})
