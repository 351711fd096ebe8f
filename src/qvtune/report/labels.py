"""Labels that distinguish runs, groups of runs that differ only in the seed, and words for both."""

import json
import math
from collections.abc import Collection, Iterable, Sequence
from typing import Any

from qvtune.amounts import count
from qvtune.lab.outcome import FINISHED, Outcome
from qvtune.rates import ratio_of

SEED = "seed"
LR, VALUE_LR, LR_RATIO = "lr", "value_lr", "lr_ratio"
RATES = (LR, VALUE_LR, LR_RATIO, "head_lr", "query_lr", "key_lr", "output_lr", "rate")

# The symbols of the rates, for places without room for a name.
SYMBOLS = {LR: "η_QK", VALUE_LR: "η_V", LR_RATIO: "λ"}
AXIS_TITLES = {
    LR: "η_QK, rate of query and key",
    VALUE_LR: "η_V, rate of the value",
    LR_RATIO: "λ = η_V / η_QK",
}
# The name of the only series, if runs differ only in the seed.
ALL_RUNS = "all runs"


def varied(outcomes: Sequence[Outcome]) -> dict[str, list[Any]]:
    """Return the values of every label that has more than one, in the order of occurrence."""
    values: dict[str, dict[str, Any]] = {}
    for outcome in outcomes:
        for name, value in outcome.labels.items():
            values.setdefault(name, {}).setdefault(json.dumps(value), value)
    return {name: list(found.values()) for name, found in values.items() if len(found) > 1}


def grouped(outcomes: Iterable[Outcome], names: Collection[str]) -> list[tuple[dict[str, Any], list[Outcome]]]:
    """Group the runs by the labels `names`; return each group with these labels, in order of their first run."""
    groups: dict[str, tuple[dict[str, Any], list[Outcome]]] = {}
    for outcome in outcomes:
        labels = {name: outcome.labels.get(name) for name in names}
        groups.setdefault(json.dumps(labels), (labels, []))[1].append(outcome)
    return list(groups.values())


def finished(outcomes: Iterable[Outcome]) -> list[Outcome]:
    """Return the finished runs that have a metric."""
    return [outcome for outcome in outcomes if outcome.status == FINISHED and outcome.metric is not None]


def mean_sd(values: Sequence[float]) -> tuple[float, float | None]:
    """Return the mean, and the standard deviation with n - 1; None for a single value."""
    mean = math.fsum(values) / len(values)
    if len(values) < 2:
        return mean, None
    return mean, math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1))


def value_ratio(outcome: Outcome) -> float | None:
    """Return λ = η_V / η_QK of a run, from its labels or else from its plan; None if unknown."""
    labels = outcome.labels
    if labels.get(VALUE_LR) and labels.get(LR):
        return labels[VALUE_LR] / labels[LR]
    if labels.get(LR_RATIO):
        return labels[LR_RATIO]
    try:
        rates = json.loads(outcome.folder.plan.read_text(encoding="utf-8"))["learning_rates"]
    except (OSError, ValueError, KeyError):
        return None
    return ratio_of(rates)


def is_number(value: Any) -> bool:
    """Whether a label is a number; yes and no are not."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def label_text(value: Any) -> str:
    """Return a label's value for people: 4e-4 instead of 0.0004, yes instead of True."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if not isinstance(value, float):
        return ", ".join(map(label_text, value)) if isinstance(value, list) else str(value)
    if value == 0 or not math.isfinite(value) or 1e-2 <= abs(value) < 1e5:
        return f"{value:.6g}"
    mantissa, _, exponent = f"{value:.3e}".partition("e")
    return f"{float(mantissa):g}e{int(exponent)}"


def describe(labels: dict[str, Any]) -> str:
    """Return labels as one line: "lora, rank 8, λ 4". Text values have no name."""
    parts = []
    for name, value in labels.items():
        symbol = SYMBOLS.get(name, name.replace("_", " "))
        parts.append(value if isinstance(value, str) else f"{symbol} {label_text(value)}")
    return ", ".join(parts)


def axis_title(name: str) -> str:
    """Return the title of a label's axis."""
    return AXIS_TITLES.get(name, name.replace("_", " "))


def mean_text(values: Sequence[float]) -> str:
    """Return "0.7123 ± 0.0100 (3 seeds)", or without the deviation if there is one value."""
    mean, sd = mean_sd(values)
    return f"{mean:.4f}" + ("" if sd is None else f" ± {sd:.4f}") + f" ({count(len(values), 'seed')})"
