"""Successive halving: a run is stopped early if it is not among the best of the runs that got as far."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from qvtune.errors import QVTuneError
from qvtune.lab.outcome import STOPPED
from qvtune.training.callbacks import Callback, Progress
from qvtune.training.config import TrainConfig

# One in this many runs at a rung goes on to the next rung, which is this many times as far. Li et al. 2020 ("A System
# for Massively Parallel Hyperparameter Tuning") use 4; runs here have few evaluations.
REDUCTION = 3

JOURNAL = "halving.log"


class StoppedEarly(QVTuneError):
    """A run was stopped by successive halving. `status` and `known` go into its outcome."""

    status = STOPPED

    def __init__(self, message: str, known: dict[str, Any]) -> None:
        super().__init__(message)
        self.known = known


class Halving(Callback):
    """Reports each evaluation of a run to optuna's asynchronous successive halving, and stops the run early if told so.

    The rungs are evaluations 1, 3, 9 and so on. Runs on the same data compete. Their reports are stored in the store,
    so that runs in any process, now or later, see them.

    Args:
        store: folder of the store.
        name: name of the run.
        config: its configuration.
    """

    def __init__(self, store: Path, name: str, config: TrainConfig) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        data = f"{config.data} {config.data_config} {config.max_train_samples} {config.max_eval_samples}"
        study = optuna.create_study(
            storage=JournalStorage(JournalFileBackend(str(store / JOURNAL))),
            study_name=hashlib.sha256(data.encode()).hexdigest()[:16],
            direction="maximize",
            load_if_exists=True,
            pruner=optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=REDUCTION),
        )
        before = [trial for trial in study.get_trials(deepcopy=False) if trial.user_attrs.get("run") == name]
        self.trial = optuna.trial.Trial(study, before[0]._trial_id) if before else study.ask()
        self.trial.set_user_attr("run", name)

    def on_evaluate(self, progress: Progress, metrics: Mapping[str, float]) -> None:
        """Report the metric, and stop the run early if it is not among the best.

        Raises:
            StoppedEarly: if it is not; it holds what is known of the run so far.
        """
        number = sum(progress.metric in record for record in progress.records)
        self.trial.report(metrics[progress.metric], step=number)
        if progress.step >= progress.steps or not self.trial.should_prune():
            return
        name = progress.metric.removeprefix("eval_")
        done = progress.step / progress.steps
        raise StoppedEarly(
            f"stopped early after evaluation {number}, at {done:.0%} of its steps: its {name} of "
            f"{metrics[progress.metric]:.4f} was not among the best third of the runs that came as far.",
            {
                "seconds": progress.records[-1]["seconds"],
                "steps": progress.step,
                "part": done,
                "main_metric": name.removeprefix("tuning_"),
                "metrics": {key.removeprefix("eval_"): value for key, value in metrics.items()},
            },
        )
