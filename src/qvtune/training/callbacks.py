"""`Callback`: code that watches a run while it trains."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console

from qvtune.errors import ConfigError, nearest
from qvtune.interrupts import Stop

# Draws a run: its records and the name of its main metric become PNG files by name.
Draw = Callable[[Sequence[dict[str, Any]], str], Mapping[str, bytes]]


@dataclass
class Progress:
    """How far a run has come.

    Attributes:
        step: steps taken.
        steps: steps of the whole run.
        epoch: passes through the training examples, with fractions.
        epochs: epochs of the whole run.
        metric: the metric that chooses the best checkpoint, as records name it.
        records: the log: each is a line of `metrics.jsonl`.
    """

    steps: int
    epochs: float
    metric: str
    step: int = 0
    epoch: float = 0.0
    records: list[dict[str, Any]] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Return the part that a checkpoint saves."""
        return {"step": self.step, "epoch": self.epoch, "records": self.records}

    def go_on(self, kept: Mapping[str, Any]) -> None:
        """Go on from what `to_dict` returned."""
        self.step, self.epoch, self.records = kept["step"], kept["epoch"], kept["records"]


class Callback:
    """Watches a run. Every method is optional; an exception from one ends the run as it stands."""

    def on_train_begin(self, progress: Progress) -> None:
        """Before the first step of this session."""

    def on_step_end(self, progress: Progress) -> None:
        """After every step, before it is logged, evaluated or saved."""

    def on_evaluate(self, progress: Progress, metrics: Mapping[str, float]) -> None:
        """After every evaluation, with what it logged under `eval_...`."""

    def on_train_end(self, progress: Progress) -> None:
        """After the last step of this session, before the final measurement."""


@dataclass(frozen=True)
class Watchers:
    """What is around a run: it gets to know how far the run is, and may end it.

    Attributes:
        console: where progress goes.
        callbacks: watch the training; an exception from one ends it.
        stop: asks the training to save and stop.
        draw: draws the run at its end, for trackers that take pictures; they get none when None.
    """

    console: Console
    callbacks: Sequence[Callback] = ()
    stop: Stop = field(default_factory=Stop)
    draw: Draw | None = None


def check_callbacks(callbacks: Any) -> None:
    """Check that callbacks are a list of objects of `Callback`, and that their events exist.

    Raises:
        ConfigError: naming what is none, or an event that never comes.
    """
    if not isinstance(callbacks, Sequence):
        raise ConfigError(f"callbacks is {callbacks!r}; it should be a list of qvtune.Callback objects.")
    events = [name for name in vars(Callback) if name.startswith("on_")]
    for callback in callbacks:
        if not isinstance(callback, Callback):
            raise ConfigError(f"callbacks holds {callback!r}; make an object of a class of qvtune.Callback.")
        for name in dir(callback):
            if name.startswith("on_") and name not in events:
                kind = type(callback).__name__
                raise ConfigError(f"{kind}.{name}: no such event.{nearest(name, events)} Known: {', '.join(events)}.")
