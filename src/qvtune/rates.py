"""`Rates`: the learning rate of every role and of the head, resolved once from the options."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from qvtune.arguments import check_number
from qvtune.errors import RateError, RoleError
from qvtune.roles.attention import find_role
from qvtune.roles.layouts import ROLES

if TYPE_CHECKING:
    from qvtune.methods.method import Method

HEAD = "head"
NO_DECAY = "_no_decay"
# The suffix, after the role, in the name of a group of factors B with their own rate.
B_FACTORS = "_b"


@dataclass(frozen=True)
class Rates:
    """The learning rates of a training. Plan, groups, logs, cards and the search read them from here.

    The rate of value is η_V = λ η_QK, and that of every other role and of the head is η_QK, unless one has its own rate
    (Yao et al., IJCAI 2025).

    Attributes:
        lr: η_QK, the rate of everything without its own rate.
        query, key, value, output, gate, up, down, head: rates.
        b_lr_ratio: η_B / η_A of LoRA's factors (LoRA+, Hayou et al. 2024); 1 if there are none.
    """

    lr: float
    query: float
    key: float
    value: float
    output: float
    gate: float
    up: float
    down: float
    head: float
    b_lr_ratio: float = 1.0

    @classmethod
    def resolve(
        cls,
        method: "Method | None" = None,
        *,
        lr: float | None = None,
        lr_ratio: float | None = None,
        b_lr_ratio: float | None = None,
        head_lr: float | None = None,
        query_lr: float | None = None,
        key_lr: float | None = None,
        value_lr: float | None = None,
        output_lr: float | None = None,
        rates: Mapping[str, float | str] | Iterable[str] = (),
    ) -> "Rates":
        """Resolve the rates: the given ones, and the method's defaults for the others.

        Args:
            method: has default rates; λ and η_B / η_A are 1 without a method.
            lr: η_QK; the method's when None.
            lr_ratio: λ; the method's when None and `value_lr` is not given.
            b_lr_ratio: η_B / η_A; the method's when None.
            head_lr: rate of the head.
            query_lr: rate of the query.
            key_lr: rate of the key.
            value_lr: rate of the value, instead of λ.
            output_lr: rate of the output projection.
            rates: rates by role, as `parse_rates` reads them; a multiple such as "4x" is of η_QK.

        Raises:
            RateError: for a rate that is not a finite number above 0, for two rates of one role, for a rate of the
                value and a λ other than 1, for a ratio that the method does not use, and as from `parse_rates`.
        """
        given = {
            "lr": lr, "lr_ratio": lr_ratio, "b_lr_ratio": b_lr_ratio, "head_lr": head_lr, "query_lr": query_lr,
            "key_lr": key_lr, "value_lr": value_lr, "output_lr": output_lr,
        }  # fmt: skip
        for name, rate in given.items():
            if rate is not None:
                check_rate(name, rate)
        if value_lr is not None and lr_ratio not in (None, 1.0):
            raise RateError(f"value_lr {value_lr} and lr_ratio {lr_ratio} both set the value's rate. Give one of them.")
        named = parse_rates(rates)
        for role, text in named.items():
            if given.get(f"{role}_lr") is not None or (role == "value" and lr_ratio not in (None, 1.0)):
                other = f"{role}_lr" if given.get(f"{role}_lr") is not None else "lr_ratio"
                raise RateError(f"rate {role}={text} and {other} both set the {role}'s rate. Give one of them.")
        if method is not None:
            _check_ratios(method, lr_ratio, b_lr_ratio)
        if lr is None:
            if method is None:
                raise RateError("lr is not given. Give the learning rate of query and key.")
            lr = method.lr
        if lr_ratio is None:
            lr_ratio = (method.lr_ratio if method is not None else None) or 1.0
        if b_lr_ratio is None:
            b_lr_ratio = (method.b_lr_ratio if method is not None else None) or 1.0
        own = {role: rate for role in ROLES.values() if (rate := given.get(f"{role}_lr")) is not None}
        own |= {role: _number(text, lr) for role, text in named.items()}
        usual = dict.fromkeys(ROLES.values(), lr) | {"value": lr * lr_ratio}
        return cls(lr=lr, **usual | own, head=lr if head_lr is None else head_lr, b_lr_ratio=b_lr_ratio)

    @property
    def lr_ratio(self) -> float:
        """λ = η_V / η_QK."""
        return self.value / self.lr

    def of(self, owner: str, *, is_b: bool = False) -> float:
        """Return the rate of a role or of the head, or of the factors B of the role."""
        rate: float = getattr(self, owner)
        return rate * self.b_lr_ratio if is_b else rate

    def by_group(self, owners: Iterable[str]) -> dict[str, float]:
        """Return the rates of roles and head by the name of their group; "value_b" is for factors B with their own."""
        rates = {owner: self.of(owner) for owner in owners}
        if self.b_lr_ratio != 1.0:
            rates |= {f"{owner}{B_FACTORS}": self.of(owner, is_b=True) for owner in rates if owner != HEAD}
        return rates


# Names of groups in their order.
GROUPS = tuple(
    owner + b + spared for owner in (*ROLES.values(), HEAD) for b in ("", B_FACTORS) for spared in ("", NO_DECAY)
)


def owner_of(group: str) -> str:
    """Return the role, or "head", of a group: "value" for "value", "value_b" and "value_no_decay"."""
    return group.removesuffix(NO_DECAY).removesuffix(B_FACTORS)


def ratio_of(rates: Mapping[str, float]) -> float | None:
    """Return λ from a plan's rates by group; None if no value trains, or nothing beside it."""
    others = rates.get("query", rates.get("key"))
    return rates["value"] / others if others and "value" in rates else None


def parse_rates(given: Mapping[str, float | str] | Iterable[str]) -> dict[str, str]:
    """Return rates by the role's name in the order of `ROLES`, as text: "0.0002", or "4x" for a multiple of η_QK.

    Args:
        given: texts such as "gate=2e-4" or "u=4x", or a mapping from role to rate. A role is its name or its letter.

    Raises:
        RateError: for an unknown role, a role that is named twice, or what is neither a rate nor a multiple.

    Examples:
        >>> parse_rates(["down=4X", "v=2e-3"])
        {'value': '0.002', 'down': '4x'}
    """
    if isinstance(given, Mapping):
        pairs = [(str(role), str(value)) for role, value in given.items()]
    else:
        pairs = [(role, value) for role, _, value in (str(text).partition("=") for text in given)]
    found: dict[str, str] = {}
    for word, text in pairs:
        try:
            role = ROLES[find_role(word.strip())]
        except RoleError as error:
            raise RateError(f"rate '{word}={text}': {error}") from None
        if role in found:
            raise RateError(f"the {role}'s rate is given twice, as {found[role]} and as {text}. Give it once.")
        number, times = text.strip(), ""
        if number[-1:] in ("x", "X"):
            number, times = number[:-1], "x"
        try:
            rate = float(number)
        except ValueError:
            rate = math.nan
        if not (math.isfinite(rate) and rate > 0):
            raise RateError(
                f"rate '{word}={text}': it must be a finite number above 0, as in {role}=2e-4, or a multiple of lr, as "
                f"in {role}=4x."
            )
        found[role] = f"{rate:.12g}{times}"
    return {role: found[role] for role in ROLES.values() if role in found}


def _number(text: str, lr: float) -> float:
    return lr * float(text[:-1]) if text.endswith("x") else float(text)


def check_rate(name: str, rate: Any) -> None:
    """Check a rate or a ratio of rates.

    Raises:
        RateError: if it is not a finite number above 0.
    """
    check_number(name, rate, RateError)
    if not (math.isfinite(rate) and rate > 0):
        raise RateError(f"{name} is {rate}; it must be a finite number above 0.")


def _check_ratios(method: "Method", lr_ratio: float | None, b_lr_ratio: float | None) -> None:
    """Check that the method uses a ratio."""
    if not method.has_roles and lr_ratio not in (None, 1.0):
        raise RateError(f"lr_ratio is {lr_ratio}, and method '{method.name}' trains no role. Leave it out.")
    if method.b_lr_ratio is None and b_lr_ratio not in (None, 1.0):
        raise RateError(f"b_lr_ratio is {b_lr_ratio}, and method '{method.name}' has no factors A and B. Leave it out.")
