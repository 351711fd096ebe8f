"""`Budget`: how many steps of training may be spent, and on what."""

import math
from dataclasses import dataclass

from qvtune.errors import ConfigError

# The default budget: this fraction of a full run, and at least this many steps.
DEFAULT_PART, DEFAULT_STEPS = 0.25, 600
# Fractions of the budget: for range tests, for range tests if the budget is small, and for evaluations of trials.
# Trials take the rest.
RANGE_PART, MOST_RANGE_PART, VALIDATION_PART = 0.2, 0.35, 0.2
# The fewest points of a useful curve over rates, the fewest steps in which a trial learns, and the fewest trials to
# compare.
FEWEST_POINTS, FEWEST_TRIAL_STEPS, FEWEST_COMPARED = 20, 8, 2


@dataclass(frozen=True)
class Budget:
    """What may be spent, in steps of training; a forward pass alone counts as a third of one.

    Attributes:
        steps: the whole budget.
        full_steps: steps of the run that the rates are for.
    """

    steps: float
    full_steps: int

    @property
    def part(self) -> float:
        """The budget as a part of a full run."""
        return self.steps / self.full_steps

    def __str__(self) -> str:
        return f"{self.steps:.0f} steps ({self.part:.0%} of a full run of {self.full_steps:,})"


def parse_budget(value: str | float | None, full_steps: int) -> Budget:
    """Read "25%" of a full run, or a number of steps.

    Args:
        value: the budget that was given; a quarter of a full run, and at least 600 steps, when None.
        full_steps: steps of the run that the rates are for.

    Raises:
        ConfigError: if it is neither, or not above 0.
    """
    if value is None:
        return Budget(max(DEFAULT_PART * full_steps, float(DEFAULT_STEPS)), full_steps)
    text = str(value).strip()
    try:
        steps = float(text.removesuffix("%")) * (full_steps / 100 if text.endswith("%") else 1)
    except ValueError:
        steps = math.nan
    if not (math.isfinite(steps) and steps > 0):
        raise ConfigError(
            f"the budget is '{value}'; it should be a number of steps, as in 500, or a part of a full run, as in 25%."
        )
    return Budget(steps, full_steps)
