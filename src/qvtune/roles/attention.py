"""`AttentionMap`: every attention and feed-forward layer of a model, and the module behind each of their roles."""

import difflib
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from pydantic import TypeAdapter

from qvtune.errors import RoleError
from qvtune.roles.layouts import FEED_FORWARD, ROLES, SETS, Rows

BY_HAND = "adapt(attention=qvtune.declare_attention(...)), or --attention FILE on the command line"
# A word with fewer letters is roles, and no misspelled name of a set.
LETTERS = 2


@dataclass(frozen=True)
class Projection:
    """One role of one layer: a module and the rows of its output that belong to the role.

    In XLNet, which has parameters instead of modules, `module` names the parameter.
    `shape` is (rows, inputs) of the role's part of the weight; `module_rows` counts all rows of the module. `extra`
    names parameters outside the module that belong to the role too, such as DeBERTa's `q_bias`. `bias` says whether the
    role has a bias in the module: in BLIP-2, query and value have one, but the key has none.
    """

    role: str
    module: str
    rows: Rows
    shape: tuple[int, int]
    bias: bool
    module_rows: int
    extra: tuple[str, ...] = ()

    @property
    def is_fused(self) -> bool:
        """Whether the module holds other roles too."""
        return len(self.rows) != self.module_rows

    @property
    def trained(self) -> str:
        """Name of the role's own module; for a fused module, the one that `split.py` makes from the role's rows."""
        return f"{self.module}.{ROLES[self.role]}" if self.is_fused else self.module

    @property
    def parameters(self) -> int:
        """Number of weights and biases."""
        return self.shape[0] * self.shape[1] + (self.shape[0] if self.bias else 0)


class ByRole:
    """What has projections, taken by their roles."""

    projections: tuple[Projection, ...]

    def __getitem__(self, role: str) -> Projection:
        for projection in self.projections:
            if projection.role == role:
                return projection
        raise KeyError(role)


@dataclass(frozen=True)
class AttentionLayer(ByRole):
    """One attention layer.

    `name` is the smallest module that holds all projections; `layout` names how they are stored: "separate",
    "blocks", "grouped", "codegen", "key_value_halves", "latent", "multihead" (torch's own module), "relative"
    (XLNet's) or "declared". An output projection may be missing. After its first projection a role may have further
    ones for some of the tokens, as in Longformer for those with global attention. `index` counts layers of one `kind`
    ("self", "cross") within one `stack`: the side of an encoder-decoder, or the path of one of several towers. `uses`
    is how often a forward pass calls the module (ALBERT calls one for all its layers; 0 if the model was not run).
    `verified` says that the probe measured the first projection of each role on this model.
    """

    name: str
    index: int
    stack: str
    kind: str
    layout: str
    heads: int
    kv_heads: int
    head_dim: int
    projections: tuple[Projection, ...]
    uses: int = 0
    verified: bool = False


@dataclass(frozen=True)
class FeedForwardLayer(ByRole):
    """One feed-forward network: down(f(up x)), or down(f(gate x) * up x), where f is an activation.

    `name` is the module in which it is computed. `layout` is "plain" (no gate), "separate" (a module each for gate and
    up), or how one module holds both: "gate_up" and "up_gate" in halves, "gate_up_rows" and "up_gate_rows" row by row.
    `kind` is "dense", or "shared" for an expert that every token passes. `index` and `stack` are those of the attention
    layer in the same block. In a model with blocks without attention, `index` counts the blocks that have a
    feed-forward network, within one `stack`. `uses` and `verified` are as in `AttentionLayer`; a layer that the probe's
    input does not reach is not verified.
    """

    name: str
    index: int
    stack: str
    kind: str
    layout: str
    projections: tuple[Projection, ...]
    uses: int = 0
    verified: bool = False


Layer = AttentionLayer | FeedForwardLayer


@dataclass(frozen=True)
class WithoutRoles:
    """A module without roles to adapt, with the reason: it mixes positions, or is part of a feed-forward network."""

    module: str
    class_name: str
    reason: str


@dataclass(frozen=True)
class AttentionMap:
    """Where the roles of attention and of the feed-forward networks live in a model, as found by `find_attention`.

    The map iterates over its attention layers, `layers`. `others` are the modules that mix positions without these
    roles. `experts` are the feed-forward modules that stay frozen since a router chooses among them, and `unknown` are
    those that are not understood; a role of the feed-forward is refused while there are any.
    """

    model_type: str
    layers: tuple[AttentionLayer, ...]
    others: tuple[WithoutRoles, ...] = ()
    feed_forward: tuple[FeedForwardLayer, ...] = ()
    experts: tuple[WithoutRoles, ...] = ()
    unknown: tuple[WithoutRoles, ...] = ()

    def __iter__(self) -> Iterator[AttentionLayer]:
        return iter(self.layers)

    def __len__(self) -> int:
        return len(self.layers)

    @property
    def verified(self) -> bool:
        """Whether every attention layer was measured on the model."""
        return all(layer.verified for layer in self.layers)

    @property
    def every(self) -> tuple[Layer, ...]:
        """The attention layers, then the feed-forward layers."""
        return (*self.layers, *self.feed_forward)

    def projections(self, roles: str, layers: Sequence[int] | None = None) -> list[Projection]:
        """List the projections of `roles` ("qv") in layers with these indices (all when None), in model order.

        Those of the feed-forward ("gud") follow those of attention.

        Raises:
            RoleError: for an unknown role, or an index that no layer has.
        """
        roles = parse_roles(roles)
        chosen: tuple[Layer, ...] = (*self.chosen(layers), *self.chosen_feed_forward(layers))
        return [p for layer in chosen for p in layer.projections if p.role in roles]

    def chosen(self, layers: Sequence[int] | None) -> list[AttentionLayer]:
        """List the attention layers with these indices (all when None), in model order.

        Raises:
            RoleError: for an index that no layer has.
        """
        wanted = self._resolve(layers, self.layers)
        return [layer for layer in self.layers if wanted is None or layer.index in wanted]

    def chosen_feed_forward(self, layers: Sequence[int] | None) -> list[FeedForwardLayer]:
        """List the feed-forward layers with these indices (all when None), in model order.

        Raises:
            RoleError: for an index that no layer has.
        """
        wanted = self._resolve(layers, self.feed_forward)
        return [layer for layer in self.feed_forward if wanted is None or layer.index in wanted]

    def present(self, roles: str) -> str:
        """Return the roles that train where `roles` are asked for: without the gate where no layer has one.

        A feed-forward without a gate is all of up and down, so "gud" means these two. A gate without up and down is
        not left out.

        Raises:
            RoleError: for a role of the feed-forward, if a part of it is not understood, or all of it is experts.
        """
        if not set(roles) & set(FEED_FORWARD):
            return roles
        self._check_feed_forward(roles)
        has_gate = any(p.role == "g" for layer in self.feed_forward for p in layer.projections)
        return roles if has_gate or not {"u", "d"} <= set(roles) else roles.replace("g", "")

    def role_of_module(self, name: str) -> str | None:
        """Return the role of the module called `name`, or of the module that contains it, or None.

        Parts of a fused module have a role only after it is split.
        """
        for layer in self.every:
            for projection in layer.projections:
                if name in (projection.trained, *projection.extra) or name.startswith(projection.trained + "."):
                    return projection.role
        return None

    def to_dict(self) -> dict[str, Any]:
        """Return plain lists and dictionaries that JSON can hold."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "AttentionMap":
        """Read what `to_dict` returned, also after it was written to JSON and read again.

        Raises:
            ValidationError: pydantic's, if something is missing or has another type.
        """
        return TypeAdapter(cls).validate_python(data)

    def _check_feed_forward(self, roles: str) -> None:
        asked = f"roles '{roles}' name the feed-forward, and in model type '{self.model_type}'"
        if self.unknown:
            more = f" and {len(self.unknown) - 1} more" if len(self.unknown) > 1 else ""
            part = self.unknown[0]
            raise RoleError(
                f"{asked} '{part.module}' ({part.class_name}){more} is not understood: {part.reason}. State the roles "
                f"by hand: {BY_HAND} with u and d, and g where there is a gate. Or leave these roles out."
            )
        if self.feed_forward:
            return
        if self.experts:
            more = f" and {len(self.experts) - 1} more" if len(self.experts) > 1 else ""
            part = self.experts[0]
            raise RoleError(
                f"{asked} all of it stays frozen: '{part.module}' ({part.class_name}){more} holds {part.reason}, and "
                "there is no shared or dense part. Name roles of attention, as in 'qv'."
            )
        raise RoleError(f"{asked} there is none. Name roles of attention, as in 'qv'.")

    def _resolve(self, layers: Sequence[int] | None, of: Sequence[Layer]) -> set[int] | None:
        """Return the indices that are meant in one of the two kinds of layers; None for all."""
        if layers is None:
            return None
        counts = {kind: _count(found) for kind, found in (("attention", self.layers), ("", self.feed_forward))}
        most = max(counts.values())
        kind = "attention layers" if most == counts["attention"] else "feed-forward layers"
        for index in layers:
            if not -most <= index < most:
                raise RoleError(
                    f"layer {index} does not exist: this model has {most} {kind}, "
                    f"numbered 0 to {most - 1}. Name layers in that range."
                )
        if not layers:
            raise RoleError("no layer was named: give at least one layer index, or leave the option out for all.")
        count = _count(of)
        return {index % count for index in layers if -count <= index < count}


def _count(layers: Sequence[Layer]) -> int:
    return max((layer.index for layer in layers), default=-1) + 1


def parse_roles(roles: str | Iterable[str]) -> str:
    """Return `roles` in the order q, k, v, o, g, u, d, each once.

    Args:
        roles: letters, and names of sets: "attention" for qkvo, "mlp" for gud, "all" for both. Commas or spaces are
            between a set and what else is named, and are ignored between letters.

    Raises:
        RoleError: for what is neither a letter of a role nor a set, a role named twice, or none at all.
    """
    if not isinstance(roles, Iterable):
        raise RoleError(f"roles is {roles!r}; it must be letters, as in 'qv'.")
    parts = re.split(r"[,\s]+", roles) if isinstance(roles, str) else [str(part) for part in roles]
    letters: list[str] = []
    for part in parts:
        word = part.strip(", ")
        if word in SETS:
            letters += SETS[word]
        elif not isinstance(roles, str):
            letters += [word] if word else []
        elif len(word) > LETTERS and (close := difflib.get_close_matches(word.lower(), SETS, n=1)):
            raise RoleError(f"unknown roles '{word}'. Did you mean '{close[0]}'? Sets of roles are {', '.join(SETS)}.")
        else:
            letters += word
    for letter in letters:
        if letter not in ROLES:
            hint = _nearest_role(letter)
            known = ", ".join(f"{short} ({long})" for short, long in ROLES.items())
            raise RoleError(
                f"unknown role '{letter}' in roles '{''.join(letters)}'.{hint} Roles are {known}. Sets of roles are "
                f"{', '.join(f'{name} ({members})' for name, members in SETS.items())}."
            )
    if len(set(letters)) != len(letters):
        raise RoleError(f"roles '{''.join(letters)}' name a role twice. Name each once, as in 'qv'.")
    if not letters:
        raise RoleError(f"no role was named. Name at least one of {', '.join(ROLES)}, as in 'qv'.")
    return "".join(role for role in ROLES if role in letters)


def find_role(name: str) -> str:
    """Return the letter of a role that is named by its letter or its name, such as "v" or "value".

    Raises:
        RoleError: if there is no such role.
    """
    letters = {known: letter for letter, full in ROLES.items() for known in (letter, full)}
    if name not in letters:
        known = ", ".join(f"{short} ({long})" for short, long in ROLES.items())
        raise RoleError(f"unknown role '{name}'.{_nearest_role(name)} Roles are {known}.")
    return letters[name]


def _nearest_role(word: str) -> str:
    """Return a hint with the letter of the role that `word` resembles, by its letter or its name."""
    letters = {name: letter for letter, full in ROLES.items() for name in (letter, full)}
    close = difflib.get_close_matches(word.lower(), letters, n=1)
    return f" Did you mean '{letters[close[0]]}'?" if close else ""
