"""`AttentionMap`: every attention layer of a model and the module behind each of its roles."""

import difflib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from pydantic import TypeAdapter

from qvtune.errors import RoleError
from qvtune.roles.layouts import ROLES, Rows


@dataclass(frozen=True)
class Projection:
    """One role of one attention layer: a module and the rows of its output that belong to the role.

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


@dataclass(frozen=True)
class AttentionLayer:
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

    def __getitem__(self, role: str) -> Projection:
        for projection in self.projections:
            if projection.role == role:
                return projection
        raise KeyError(role)


@dataclass(frozen=True)
class WithoutRoles:
    """A module that mixes positions but has no query, key and value to adapt, with the reason."""

    module: str
    class_name: str
    reason: str


@dataclass(frozen=True)
class AttentionMap:
    """Where query, key, value and output live in a model, as found by `find_attention`.

    `others` are the modules that mix positions without these roles.
    """

    model_type: str
    layers: tuple[AttentionLayer, ...]
    others: tuple[WithoutRoles, ...] = ()

    def __iter__(self) -> Iterator[AttentionLayer]:
        return iter(self.layers)

    def __len__(self) -> int:
        return len(self.layers)

    @property
    def verified(self) -> bool:
        """Whether every layer was measured on the model."""
        return all(layer.verified for layer in self.layers)

    def projections(self, roles: str, layers: Sequence[int] | None = None) -> list[Projection]:
        """List the projections of `roles` ("qv") in layers with these indices (all when None), in model order.

        Raises:
            RoleError: for an unknown role, or an index that no layer has.
        """
        roles = parse_roles(roles)
        return [p for layer in self.chosen(layers) for p in layer.projections if p.role in roles]

    def chosen(self, layers: Sequence[int] | None) -> list[AttentionLayer]:
        """List the layers with these indices (all when None), in model order.

        Raises:
            RoleError: for an index that no layer has.
        """
        wanted = None if layers is None else self._resolve(layers)
        return [layer for layer in self.layers if wanted is None or layer.index in wanted]

    def role_of_module(self, name: str) -> str | None:
        """Return the role of the module called `name`, or of the module that contains it, or None.

        Parts of a fused module have a role only after it is split.
        """
        for layer in self.layers:
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

    def _resolve(self, layers: Sequence[int]) -> set[int]:
        count = max(layer.index for layer in self.layers) + 1
        resolved = set()
        for index in layers:
            if not -count <= index < count:
                raise RoleError(
                    f"layer {index} does not exist: this model has {count} attention layers, "
                    f"numbered 0 to {count - 1}. Name layers in that range."
                )
            resolved.add(index % count)
        if not resolved:
            raise RoleError("no layer was named: give at least one layer index, or leave the option out for all.")
        return resolved


def parse_roles(roles: str | Iterable[str]) -> str:
    """Return `roles` in the order q, k, v, o, each once; commas between them are ignored.

    Raises:
        RoleError: for a letter that is not a role, a repeated letter, or none at all.
    """
    if not isinstance(roles, Iterable):
        raise RoleError(f"roles is {roles!r}; it must be letters, as in 'qv'.")
    letters = [str(letter) for letter in roles if str(letter) not in ", "]
    for letter in letters:
        if letter not in ROLES:
            hint = _nearest_role(letter)
            known = ", ".join(f"{short} ({long})" for short, long in ROLES.items())
            raise RoleError(f"unknown role '{letter}' in roles '{''.join(letters)}'.{hint} Roles are {known}.")
    if len(set(letters)) != len(letters):
        raise RoleError(f"roles '{''.join(letters)}' name a role twice. Name each once, as in 'qv'.")
    if not letters:
        raise RoleError("no role was named. Name at least one of q, k, v, o, as in 'qv'.")
    return "".join(role for role in ROLES if role in letters)


def _nearest_role(word: str) -> str:
    """Return a hint with the letter of the role that `word` resembles, by its letter or its name."""
    letters = {name: letter for letter, full in ROLES.items() for name in (letter, full)}
    close = difflib.get_close_matches(word.lower(), letters, n=1)
    return f" Did you mean '{letters[close[0]]}'?" if close else ""
