"""The exponents that follow from Theorem 2 and its reduction, and words for fitted ones."""

from collections.abc import Mapping

from qvtune.theory.fit import Exponent
from qvtune.theory.toy import Setting

UNDECIDED = "undecided"


def predicted_exponents(setting: Setting, step: int) -> dict[str, float | None]:
    """Return the exponents of the changes in a step as the width goes to infinity.

    A step of size η_QK moves queries and keys by Θ(η_QK n) each, and so scores by Θ(η_QK n + (η_QK n)²). A step of size
    η_V moves values by Θ(η_V), or by Θ(η_V n) if they contract over the n inputs.

    Args:
        setting: the layer, with η_QK of n^-1 or larger.
        step: counted from 1. From the second step on, scores and values are as large as earlier steps have made them.

    Returns:
        The exponent of each of `QUANTITIES`; None if there is no power law: once scores have blown up, softmax is flat.
    """
    scores = 2 * (1 - setting.query_key)
    values = (1.0 if setting.value == "full" else 0.0) - setting.value_rate
    score_size, value_size = (max(0.0, scores), max(0.0, values)) if step > 1 else (0.0, 0.0)
    mixed: float | None = scores
    if setting.attention == "softmax":
        # Weights lie in [0, 1], and so do their changes.
        mixed, score_size = (0.0 if step == 1 or scores == 0 else None), 0.0
    return {
        "scores": scores if mixed is not None else None,
        "values": values,
        "d1": None if mixed is None else mixed + value_size,
        "d2": score_size + values,
        "d3": None if mixed is None else mixed + values,
    }


def verdict(exponents: Mapping[str, Exponent | None]) -> dict[str, str]:
    """Return what each side does as the width grows: "learns", "blows up", "starves", "stops" or "undecided".

    The scores decide for the query/key side and the values for the value side, since these are what the sides learn.
    The terms d1 and d2 also depend on the size of the other side. If the interval reaches from 0 to the theory's next
    exponent, the side is undecided.
    """
    return {"query_key": _word(exponents["scores"]), "value": _word(exponents["values"])}


def _word(exponent: Exponent | None) -> str:
    if exponent is None:
        return "stops"
    return {0: "learns", 1: "blows up", -1: "starves", None: UNDECIDED}[exponent.sign]
