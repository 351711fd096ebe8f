"""`fit`: the loop over the steps of a run, from its start or its last checkpoint to its end."""

import time
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn
from transformers import set_seed

from qvtune.errors import DivergedError, Interrupted
from qvtune.fast.cpu.memory import kept_memory
from qvtune.fast.precision import widen
from qvtune.methods.state import load_trained
from qvtune.training.callbacks import Progress, Watchers
from qvtune.training.checkpoint import Checkpoint, Checkpoints
from qvtune.training.config import TrainConfig
from qvtune.training.evaluate import Evaluation, Evaluator
from qvtune.training.finite import NotFinite, check_training
from qvtune.training.folder import RunFolder
from qvtune.training.log import RunLog
from qvtune.training.prepare import Prepared
from qvtune.training.processes import accelerator_for
from qvtune.training.seeds import stream_seed
from qvtune.training.selection import Selection
from qvtune.training.setup import make_batches, make_selection, make_step, make_writer
from qvtune.training.shown import ProgressReport
from qvtune.training.state import load_state, rates_by_group, save_state
from qvtune.training.step import StepResult
from qvtune.training.telemetry import RoleTelemetry
from qvtune.training.timetable import Timetable


@dataclass(frozen=True)
class Fitted:
    """The outcome of a run. Its model holds the weights of the chosen checkpoint.

    Attributes:
        progress: the progress at the end.
        selection: how the checkpoint was chosen.
        best_step: the step of the best checkpoint, if the run ends with it; None if it ends with the last.
        evaluation: the evaluation of the final weights, in float32.
        seconds: training time in all sessions.
        samples_per_second: the speed of this session's steps, without evaluations and checkpoints; None without a step.
    """

    progress: Progress
    selection: Selection
    best_step: int | None
    evaluation: Evaluation
    seconds: float
    samples_per_second: float | None


def fit(config: TrainConfig, prepared: Prepared, folder: RunFolder, watchers: Watchers) -> Fitted:
    """Train a prepared run from its last checkpoint, or from the start, to its end.

    Args:
        config: the run's.
        prepared: its model, adapted and on its device, and its data.
        folder: where checkpoints and the log go.
        watchers: what gets to know its progress, and may stop it.

    Raises:
        DivergedError: if the loss, an output or a parameter stops being finite.
        Interrupted: after `stop` was asked for, when the state has been saved.
        RunError: if no checkpoint of the run is whole, or the last has other groups or rates.
    """
    machine = accelerator_for(
        prepared.device,
        prepared.precision,
        # Data parallel cannot search for unused parameters while activations are computed twice.
        find_unused=not config.gradient_checkpointing,
        trackers=config.report_to,
        log_folder=folder.path / "trackers",
    )
    with machine as accelerator, kept_memory() if config.fast else nullcontext():
        loop = Loop(config, prepared, folder, accelerator, watchers)
        loop.resume()
        try:
            loop.train()
            return loop.end()
        except NotFinite as error:
            raise loop.diverged(error) from None
        finally:
            loop.close()


class Loop:
    """The parts of a training. They are called in this order: `resume`, `train`, `end`, `close`."""

    def __init__(
        self,
        config: TrainConfig,
        prepared: Prepared,
        folder: RunFolder,
        accelerator: Accelerator,
        watchers: Watchers,
    ) -> None:
        set_seed(stream_seed(config.seed, "dropout"))
        self.config, self.prepared, self.accelerator = config, prepared, accelerator
        self.watchers, self.console = watchers, watchers.console
        task, examples = prepared.data.task, len(prepared.train)
        self.model: nn.Module = prepared.model
        self.batches = make_batches(config, prepared, accelerator)
        self.timetable = Timetable.of(config, examples, self.batches.steps_per_epoch)
        self.selection = make_selection(config, prepared)
        self.progress = Progress(self.timetable.steps, self.timetable.epochs, self.selection.metric)
        self.telemetry = RoleTelemetry(self.model, every=config.logging_steps if config.log_updates else 0)
        self.step = make_step(config, prepared, accelerator, self.timetable.steps)
        self.checkpoints = Checkpoints(folder.checkpoints)
        self.log = RunLog(folder, self.progress, config, watchers, accelerator)
        self.shown = ProgressReport(self.console, examples / self.batches.steps_per_epoch)
        self.evaluate = Evaluator(
            task,
            prepared.splits,
            prepared.collate,
            config.eval_batch_size,
            accelerator,
            self.shown.evaluating,
            make_writer(config, prepared, self.shown.evaluating),
        )
        self.best_step: int | None = None  # stays None if the run ends with its last checkpoint
        self.saved: Checkpoint | None = None
        # The best and the last evaluation, if this session made them.
        self.evaluations: dict[int, Evaluation] = {}
        # The sum since the last record. It stays on the device, since reading it waits for the step.
        self.loss = torch.zeros((), device=accelerator.device)
        self.logged_step = 0
        self.aside_seconds = self.first_epoch = 0.0

    def resume(self) -> None:
        """Load the newest whole checkpoint, if there is one."""
        self.saved, damaged = self.checkpoints.newest()
        for sentence in damaged:
            self.console.out(sentence, highlight=False)
        if self.saved is None:
            return
        self.console.out(f"Going on from {self.saved.path}.", highlight=False)
        state = load_state(self.saved, self.model, self.step, self.accelerator)
        self.progress.go_on(state)
        self.best_step, self.logged_step = state["best_step"], state["step"]

    def train(self) -> None:
        """Take the steps that are left; log, evaluate, save and stop when the timetable says so."""
        progress = self.progress
        self.log.begin()
        self.first_epoch = progress.epoch
        self._tell("on_train_begin")
        if self.is_over:
            return  # killed after its last step and before its result
        self.shown.begin(progress)
        self.model.train()
        for epoch, shares in self.batches.after(progress.step):
            with self.telemetry.watching(progress.step + 1):
                result = self.step(shares, progress.step + 1)
            progress.step, progress.epoch = progress.step + 1, epoch
            self.loss += result.loss
            self.shown.step(progress)
            self._tell("on_step_end")
            is_stopping = self._is_stopping()  # once: a request that comes from here on waits for the next step
            due = self.timetable.due(progress.step, is_stopping=is_stopping)
            if due.log:
                self._log(result)
            if due.evaluate:
                self._evaluate()
            if due.save:
                self._save()
            if is_stopping:
                raise Interrupted(
                    f"stopped at step {progress.step} of {progress.steps}; the state is saved. "
                    "Give the same command again to go on."
                )
            if self.is_over:
                return

    @property
    def is_over(self) -> bool:
        """Whether there are no further steps to take."""
        return self.progress.step >= self.progress.steps or self.selection.is_over(self.progress.records)

    def close(self) -> None:
        """Remove the progress bar and close the trackers, also after an error."""
        self.shown.close()
        self.log.end()

    def end(self) -> Fitted:
        """Give the model the weights of the chosen checkpoint, and evaluate them in float32, as a loaded run does."""
        self.shown.close()
        self._tell("on_train_end")
        seconds, own_seconds = self.log.seconds, self.log.session_seconds - self.aside_seconds
        step = self.progress.step if self.best_step is None else self.best_step
        if step != self.progress.step:
            assert self.saved is not None, "the best checkpoint was saved"
            self.saved.check()
            load_trained(self.model, self.saved.tensors("best"), self.saved.path)
        evaluation = self.evaluations.get(step)
        if self.prepared.precision != "fp32":
            self.accelerator.native_amp, evaluation = False, None  # no step comes after this
            widen(self.model)
        evaluation = evaluation or self.evaluate(self.model, step)
        self.log.conclude(evaluation)
        samples = (self.progress.epoch - self.first_epoch) * len(self.prepared.train)
        speed = samples / own_seconds if samples and own_seconds > 0 else None
        return Fitted(self.progress, self.selection, self.best_step, evaluation, seconds, speed)

    def _is_stopping(self) -> bool:
        """Whether to stop after this step: where there are several processes, all of them or none."""
        if self.accelerator.num_processes == 1:
            return self.watchers.stop.requested
        if self.watchers.stop.requested:
            self.accelerator.set_trigger()
        return self.accelerator.check_trigger()

    def _tell(self, event: str, *values: Any) -> None:
        for callback in self.watchers.callbacks:
            getattr(callback, event)(self.progress, *values)

    def _log(self, result: StepResult) -> None:
        """Log the mean loss since the last record, the rates of this step, and what each role did."""
        check_training(self.loss, self.model)
        values = {
            "loss": float(self.loss) / (self.progress.step - self.logged_step),
            "grad_norm": float(result.gradient_norm),
            "learning_rate": result.rates[0],
            **rates_by_group(self.step.optimizer.param_groups, result.rates),
            **self.telemetry.measure(has_stepped=result.has_stepped),
        }
        self.loss.zero_()
        self.logged_step = self.progress.step
        self.log.add(values)
        self.shown.logged(values["loss"])

    def _evaluate(self) -> None:
        """Evaluate every split, log the metrics under `eval_...`, and compare them with the best so far."""
        started = time.perf_counter()
        step = self.progress.step
        evaluation = self.evaluate(self.model, step)
        metrics = {f"eval_{name}": value for name, value in evaluation.metrics.items()}
        self.log.add(metrics, evaluation)
        self.shown.evaluated(self.progress, evaluation.metrics)
        if self.selection.keeps_best and self.selection.prefers(metrics, self.log.evaluation_of(self.best_step)):
            self.best_step = step
        self.evaluations = {at: made for at, made in self.evaluations.items() if at == self.best_step}
        self.evaluations[step] = evaluation
        self.aside_seconds += time.perf_counter() - started
        self._tell("on_evaluate", metrics)

    def _save(self) -> None:
        """Write a checkpoint, with the best weights if they come from an earlier step."""
        started = time.perf_counter()
        best = None
        if self.best_step not in (None, self.progress.step) and self.saved is not None:
            best = self.saved, "trained" if self.saved.step == self.best_step else "best"
        state = self.progress.to_dict() | {"best_step": self.best_step}
        self.saved = save_state(self.checkpoints, state, self.model, self.step, self.accelerator, best)
        self.aside_seconds += time.perf_counter() - started

    def diverged(self, what: NotFinite) -> DivergedError:
        """Return the error for a run in which a value is not finite."""
        kept = f"The last good checkpoint is {self.saved.path}." if self.saved else "No checkpoint was saved before."
        return DivergedError(
            f"diverged: {what} is no longer finite at step {self.progress.step} of {self.progress.steps}. {kept} "
            "Try a lower --lr or --lr-ratio in another --out."
        )
