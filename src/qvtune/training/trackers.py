"""Trackers: programs that show the log of runs. They are Accelerate's."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from qvtune.training.callbacks import Draw
from qvtune.training.config import TrainConfig
from qvtune.training.evaluate import Evaluation
from qvtune.training.pictures import SENDERS, takes_pictures

PROJECT = "qvtune"
TENSORBOARD, MLFLOW = "tensorboard", "mlflow"


class Trackers:
    """The trackers of a run, if it has any: they get its options, every record, its final metrics, and pictures.

    Args:
        accelerator: holds them; its main process alone writes.
        config: the run's.
        draw: draws the run at its end, for trackers that take pictures; nothing is drawn when None.
    """

    def __init__(self, accelerator: Accelerator, config: TrainConfig, draw: Draw | None) -> None:
        self.accelerator, self.config, self.draw = accelerator, config, draw

    def begin(self) -> None:
        """Start them, named after the run's folder, and give them the configuration."""
        if not self.config.report_to:
            return
        name, folder = self.config.out.name, Path(self.accelerator.logging_dir or ".")
        if MLFLOW in self.config.report_to:
            _keep_mlflow_in(folder / MLFLOW)
        named = {"wandb": {"name": name, "dir": str(folder)}, MLFLOW: {"run_name": name}, "trackio": {"name": name}}
        self.accelerator.init_trackers(PROJECT, init_kwargs=named)
        for tracker in self.accelerator.trackers:
            if tracker.name == TENSORBOARD:  # its table of hyperparameters would be a second file of events
                tracker.tracker.add_text("config", f"```yaml\n{self.config.to_yaml()}```")
            else:
                tracker.store_init_configuration(self.config.model_dump(mode="json"))

    def log(self, values: Mapping[str, Any], step: int) -> None:
        """Give them the numbers of a record."""
        if self.accelerator.trackers:
            self.accelerator.log({_grouped(name): value for name, value in values.items()}, step=step)

    def conclude(self, evaluation: Evaluation, records: Sequence[dict[str, Any]], step: int) -> None:
        """Give them the metrics of the weights that the run keeps, and its pictures."""
        if self.accelerator.trackers:
            self.accelerator.log({f"final/{name}": value for name, value in evaluation.metrics.items()}, step=step)
        takers = [tracker for tracker in self.accelerator.trackers if takes_pictures(tracker.name)]
        if self.draw is not None and takers and self.accelerator.is_main_process:
            pictures = self.draw(records, evaluation.task.main_metric)
            for tracker in takers:
                SENDERS[tracker.name](tracker.tracker, pictures, step)

    def end(self) -> None:
        """Close them."""
        for tracker in self.accelerator.trackers:
            tracker.finish()
        self.accelerator.trackers = []


def _keep_mlflow_in(folder: Path) -> None:
    """Let MLflow write below the run's folder unless it has been told where, and send nothing about its use."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    import mlflow

    if "MLFLOW_TRACKING_URI" not in os.environ and not mlflow.is_tracking_uri_set():
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")  # files need no database
        folder.mkdir(parents=True, exist_ok=True)
        mlflow.set_tracking_uri(folder.absolute().as_uri())


def _grouped(name: str) -> str:
    """Return a value's name in the form by which trackers group values."""
    return f"eval/{name.removeprefix('eval_')}" if name.startswith("eval_") else f"train/{name}"
