"""`RunLog`: writes the records of a run to `metrics.jsonl`, to trackers and to the screen."""

import json
import time
from typing import Any

from accelerate import Accelerator

from qvtune.files import write_text, writing
from qvtune.training.balance import side_warnings
from qvtune.training.callbacks import Progress, Watchers
from qvtune.training.config import TrainConfig
from qvtune.training.evaluate import Evaluation
from qvtune.training.folder import RunFolder
from qvtune.training.trackers import Trackers
from qvtune.training.verdict import Predictions, early_warning


class RunLog:
    """Adds records to a run's log, each with its time and its warnings.

    Args:
        folder: the run's.
        progress: holds the records.
        config: the run's.
        watchers: their console gets the warnings, and trackers get what they draw.
        accelerator: says which process writes, and holds the trackers.
    """

    def __init__(
        self,
        folder: RunFolder,
        progress: Progress,
        config: TrainConfig,
        watchers: Watchers,
        accelerator: Accelerator,
    ) -> None:
        self.folder, self.progress, self.config = folder, progress, config
        self.console, self.accelerator = watchers.console, accelerator
        self.trackers = Trackers(accelerator, config, watchers.draw)
        self._started = time.perf_counter()
        self._before = 0.0

    def begin(self) -> None:
        """Start a session: the clock goes on from the last record, and the file holds the records and nothing else.

        A killed run may have written lines after its last checkpoint; left there, they would come twice.
        """
        self._started = time.perf_counter()
        self._before = max((record.get("seconds", 0.0) for record in self.progress.records), default=0.0)
        if self.accelerator.is_main_process:
            lines = (json.dumps(record) + "\n" for record in self.progress.records)
            write_text(self.folder.metrics, "".join(lines))
        self.trackers.begin()

    def conclude(self, evaluation: Evaluation) -> None:
        """Give the trackers the evaluation of the weights that the run keeps."""
        self.trackers.conclude(evaluation, self.progress.records, self.progress.step)

    def end(self) -> None:
        """Close the trackers."""
        self.trackers.end()

    @property
    def seconds(self) -> float:
        """Seconds of training, in all sessions so far."""
        return self._before + self.session_seconds

    @property
    def session_seconds(self) -> float:
        """Seconds of training since this session began."""
        return time.perf_counter() - self._started

    def evaluation_of(self, step: int | None) -> dict[str, Any] | None:
        """Return the record of the evaluation after a step, if there is one."""
        records = self.progress.records
        return next((r for r in records if r["step"] == step and self.progress.metric in r), None)

    def add(self, values: dict[str, Any], evaluation: Evaluation | None = None) -> dict[str, Any]:
        """Add a record of the values and return it.

        Args:
            values: what is logged.
            evaluation: the evaluation that the values come from, if any.
        """
        progress = self.progress
        record = values | {"epoch": progress.epoch, "step": progress.step, "seconds": round(self.seconds, 3)}
        progress.records.append(record)
        warnings = self._warnings(evaluation)
        if warnings:
            record["warnings"] = warnings
        if self.accelerator.is_main_process:
            for text in warnings.values():
                self.console.out(text, highlight=False)
            with writing(self.folder.metrics), open(self.folder.metrics, "a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")
        self.trackers.log(values, progress.step)
        return record

    def _warnings(self, evaluation: Evaluation | None) -> dict[str, str]:
        """Return the new warnings that the last record gives."""
        records = self.progress.records
        told = {about for record in records for about in record.get("warnings", {})}
        if evaluation is not None:
            if self.progress.step >= self.progress.steps:
                return {}  # the full verdict comes at the end
            where = f"the validation set at step {self.progress.step:,}"
            return early_warning(Predictions(evaluation.task, *evaluation.reported, where), self.config, records, told)
        return side_warnings(records, self.config, self.progress.steps, told)
