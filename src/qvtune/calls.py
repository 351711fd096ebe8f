"""`train` and `plan` as Python calls: `train({"model": ..., "data": ..., "out": ..., "lr": 4e-4})`."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from qvtune.arguments import as_options

if TYPE_CHECKING:  # these take seconds to import
    from rich.console import Console

    from qvtune.interrupts import Stop
    from qvtune.training.callbacks import Callback
    from qvtune.training.inference import TrainedRun
    from qvtune.training.plan import Plan


def train(
    options: Mapping[str, Any],
    *,
    console: "Console | None" = None,
    callbacks: "Sequence[Callback]" = (),
    stop: "Stop | None" = None,
) -> "TrainedRun":
    """Train as `qvtune train` does, and return the finished run.

    A stopped run goes on from its last checkpoint, and a finished one is returned. Signals are left to the caller.

    Args:
        options: options of `qvtune train`, with `out` among them.
        console: where progress goes; standard error when None.
        callbacks: watch the training; an exception from one ends the run.
        stop: saves and stops the run after the current step, once `stop.requested` is true.

    Returns:
        The run: `run.result` has the contents of `result.json`; model and tokenizer are loaded when they are first
            used.

    Raises:
        QVTuneError: for anything wrong with options, data, model or folder; DivergedError if the loss stops being
            finite; Interrupted after `stop` was asked for.
    """
    from qvtune.report.drawn import draw_run
    from qvtune.training.config import make_config
    from qvtune.training.inference import load_run
    from qvtune.training.run import run

    config = make_config(as_options(options))
    run(config, console, callbacks=callbacks, stop=stop, draw=draw_run)
    return load_run(config.out, device=config.device)


def plan(options: Mapping[str, Any]) -> "Plan":
    """Return the plan of `qvtune plan`: what would train, and what a step costs. No weights are loaded.

    Args:
        options: options of `qvtune train`; `data` and `out` may be left out.

    Raises:
        QVTuneError: for anything wrong with options, data or model.
    """
    from qvtune.training.config import make_config
    from qvtune.training.plan import UNNAMED, plan_without_weights

    return plan_without_weights(make_config(UNNAMED | as_options(options)), with_data="data" in options)
