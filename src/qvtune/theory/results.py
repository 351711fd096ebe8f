"""The results of the scaling experiment: measured sizes, fitted exponents, and both as plain values."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qvtune.theory.fit import Exponent
from qvtune.theory.options import ScalingOptions
from qvtune.theory.toy import QUANTITIES, Attention, Value

Sizes = NDArray[np.float64]


@dataclass(frozen=True)
class ToyResult:
    """A toy layer with one pair of rates.

    Attributes:
        attention: "linear" or "softmax".
        value: "factor" (contracts over a fixed number of features) or "full" (over the width).
        query_key_rate: name of η_QK in `SCALINGS`.
        value_rate: name of η_V.
        sizes: array of shape (widths, seeds, steps, `QUANTITIES`).
        exponents: for every step, by quantity; None if there is no power law.
        predicted: the theory's exponents in the same form.
        verdict: what "query_key" and "value" do as the width grows.
        entropy: with softmax, the attention's entropy in nats after the last step at the largest width, mean over
            seeds.
    """

    attention: Attention
    value: Value
    query_key_rate: str
    value_rate: str
    sizes: Sizes
    exponents: tuple[dict[str, Exponent | None], ...]
    predicted: tuple[dict[str, float | None], ...]
    verdict: dict[str, str]
    entropy: float | None

    @property
    def shown_step(self) -> int:
        """Index of the step to show: the last or, with softmax, the first, since later ones may have no power law."""
        return 0 if self.attention == "softmax" else len(self.exponents) - 1

    def to_dict(self) -> dict[str, Any]:
        """Return plain values that JSON can hold, without the sizes."""
        return {
            "attention": self.attention,
            "value": self.value,
            "query_key_rate": self.query_key_rate,
            "value_rate": self.value_rate,
            "verdict": self.verdict,
            "entropy": self.entropy,
            "steps": [
                {"exponents": _plain(fitted), "predicted": predicted}
                for fitted, predicted in zip(self.exponents, self.predicted, strict=True)
            ],
        }


@dataclass(frozen=True)
class BlockResult:
    """A family of real blocks trained by one method.

    Attributes:
        family: a name in `FAMILIES`.
        method: "full" or "lora".
        rate: the rate of both sides at every width.
        sizes: by side, root mean square changes per coordinate, of shape (widths, seeds, steps).
        exponents: for every step, the exponents of both sides, and "lambda": the exponent of the ratio of rates at
            which both sides change the output equally at every width.
        ratio: how many times as much a first step of the value changes the output as one of query and key at equal
            rates, by width, as a geometric mean over seeds.
    """

    family: str
    method: str
    rate: float
    sizes: dict[str, Sizes]
    exponents: tuple[dict[str, Exponent | None], ...]
    ratio: dict[int, float]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values that JSON can hold, without the sizes."""
        return {
            "family": self.family,
            "method": self.method,
            "rate": self.rate,
            "steps": [_plain(fitted) for fitted in self.exponents],
            "value_to_query_key": {str(width): ratio for width, ratio in self.ratio.items()},
        }


@dataclass(frozen=True)
class ScalingResult:
    """The results of the experiment.

    `assumed` is λ's exponent in the first step, by family, with the query/key side trained in full and the value by
    LoRA. The theorem's reduction assumes this pair of methods.
    """

    options: ScalingOptions
    toys: tuple[ToyResult, ...]
    blocks: tuple[BlockResult, ...]
    assumed: dict[str, Exponent | None]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values that JSON can hold, without the measured sizes."""
        return {
            "options": self.options.model_dump(),
            "toy": [toy.to_dict() for toy in self.toys],
            "blocks": [block.to_dict() for block in self.blocks],
            "full_query_key_with_lora_value": _plain(self.assumed),
        }

    def records(self) -> Iterator[dict[str, Any]]:
        """Yield the changes in every step of every layer and block, as rows of a table."""
        for toy in self.toys:
            what = {
                "kind": f"{toy.attention} attention, {toy.value} value",
                "query_key_rate": toy.query_key_rate,
                "value_rate": toy.value_rate,
            }
            sizes = dict(zip(QUANTITIES, np.moveaxis(toy.sizes, -1, 0), strict=True))
            yield from _rows(what, self.options.widths, sizes)
        for block in self.blocks:
            what = {"kind": f"{block.family}, {block.method}"}
            what |= {"query_key_rate": f"{block.rate:g}", "value_rate": f"{block.rate:g}"}
            yield from _rows(what, self.options.block_widths, block.sizes)


def _rows(what: dict[str, str], widths: list[int], sizes: Mapping[str, Sizes]) -> Iterator[dict[str, Any]]:
    for w, member, step in np.ndindex(next(iter(sizes.values())).shape):
        found = {name: float(of[w, member, step]) for name, of in sizes.items()}
        yield {**what, "width": widths[w], "seed": member, "step": step + 1, **found}


def _plain(exponents: Mapping[str, Exponent | None]) -> dict[str, Any]:
    return {name: None if fitted is None else asdict(fitted) for name, fitted in exponents.items()}
