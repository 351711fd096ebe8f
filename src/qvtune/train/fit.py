"""`fit`: the loop over the steps of a run, from its start or its last checkpoint to its end."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from rich.console import Console
from torch import nn
from transformers import set_seed

from qvtune.errors import DivergedError, Interrupted
from qvtune.fast.cpu.memory import kept_memory
from qvtune.fast.precision import widen
from qvtune.groups import NO_DECAY
from qvtune.interrupts import Stop
from qvtune.methods.state import load_trained, trained_state
from qvtune.train.batches import EvaluationBatches
from qvtune.train.callbacks import Callback, Progress
from qvtune.train.checkpoint import Checkpoint, Checkpoints
from qvtune.train.config import TrainConfig
from qvtune.train.evaluate import Evaluation, evaluate_share, measure
from qvtune.train.folder import RunFolder
from qvtune.train.log import RunLog
from qvtune.train.prepare import Prepared
from qvtune.train.processes import accelerator_for
from qvtune.train.progress import ProgressReport
from qvtune.train.seeds import kept_random_state, stream_seed
from qvtune.train.selection import Selection
from qvtune.train.setup import make_batches, make_selection, make_step
from qvtune.train.state import load_state, save_state
from qvtune.train.step import StepResult
from qvtune.train.telemetry import RoleTelemetry
from qvtune.train.timetable import Timetable


@dataclass(frozen=True)
class Fitted:
    """What came of a run, whose model holds the weights of the chosen checkpoint.

    Attributes:
        progress: at its end.
        selection: how the checkpoint was chosen.
        best_step: of the best checkpoint, where the run ends with it; else None, and it ends with the last.
        evaluation: of the weights that it ends with, in float32.
        seconds: of training, in all sessions.
        samples_per_second: of this session's steps, evaluations and checkpoints not counted; None without a step.
    """

    progress: Progress
    selection: Selection
    best_step: int | None
    evaluation: Evaluation
    seconds: float
    samples_per_second: float | None


def fit(
    config: TrainConfig,
    prepared: Prepared,
    folder: RunFolder,
    console: Console,
    callbacks: Sequence[Callback] = (),
    stop: Stop | None = None,
) -> Fitted:
    """Train a prepared run from its last checkpoint, or from the start, to its end.

    Args:
        config: of the run.
        prepared: its model on its device, adapted, and its data.
        folder: where checkpoints and the log go.
        console: where progress goes.
        callbacks: watch the training; what they raise ends it.
        stop: asks it to save and stop.

    Raises:
        DivergedError: if the loss, an output or a parameter stops being finite.
        Interrupted: after `stop` was asked for, when the state has been saved.
        RunError: if no checkpoint of the run is whole, or the last is of other groups or rates.
    """
    machine = accelerator_for(
        prepared.device,
        prepared.precision,
        # Activations that are computed twice are found by the first pass alone.
        find_unused=not config.gradient_checkpointing,
        trackers=config.report_to,
        log_folder=folder.checkpoints,
    )
    with machine as accelerator, kept_memory() if config.fast else nullcontext():
        loop = Loop(config, prepared, folder, accelerator, console, callbacks, stop or Stop())
        loop.resume()
        try:
            loop.train()
        finally:
            loop.close()
        return loop.end()


class Loop:
    """The parts of a training and the order in which they act: `resume`, `train`, `close`, `end`."""

    def __init__(
        self,
        config: TrainConfig,
        prepared: Prepared,
        folder: RunFolder,
        accelerator: Accelerator,
        console: Console,
        callbacks: Sequence[Callback],
        stop: Stop,
    ) -> None:
        set_seed(stream_seed(config.seed, "dropout"))
        self.config, self.prepared, self.accelerator = config, prepared, accelerator
        self.console, self.callbacks, self.stop = console, callbacks, stop
        self.model: nn.Module = prepared.model
        self.batches = make_batches(config, prepared, accelerator)
        self.timetable = Timetable.of(config, len(prepared.train), self.batches.steps_per_epoch)
        self.selection = make_selection(config, prepared)
        self.progress = Progress(self.timetable.steps, self.timetable.epochs, self.selection.metric)
        self.telemetry = RoleTelemetry(self.model) if config.log_updates else None
        self.step = make_step(config, prepared, accelerator, self.timetable.steps)
        self.checkpoints = Checkpoints(folder.checkpoints)
        self.log = RunLog(folder, self.progress, config, prepared.data.task, console, accelerator)
        self.shown = ProgressReport(console, len(prepared.train) / self.batches.steps_per_epoch)
        self.evaluations = {
            split: EvaluationBatches(tokens, prepared.collate, config.eval_batch_size)
            for split, tokens in prepared.splits.items()
        }
        # The step of the best checkpoint so far, and the evaluations of that and of the last step, where made here.
        self.best_step: int | None = None
        self.saved: Checkpoint | None = None
        self.made: dict[int, Evaluation] = {}
        # The loss since it was last logged: it stays on the device, since reading it waits for the step.
        self.loss = torch.zeros((), device=accelerator.device)
        self.logged_step = 0
        self.aside_seconds = self.steps_seconds = self.first_epoch = 0.0

    def resume(self) -> None:
        """Take up the newest whole checkpoint, if there is one."""
        checkpoint, damaged = self.checkpoints.newest()
        for sentence in damaged:
            self.console.out(sentence, highlight=False)
        if checkpoint is None:
            return
        self.console.out(f"Going on from {checkpoint.path}.", highlight=False)
        self.saved = checkpoint
        kept = load_state(checkpoint, self.model, self.step, self.accelerator)
        self.progress.step, self.progress.epoch, self.progress.records = kept["step"], kept["epoch"], kept["records"]
        self.best_step, self.logged_step = kept["best_step"], kept["step"]

    def train(self) -> None:
        """Take the steps that are left; log, evaluate, save and stop where that is due."""
        progress = self.progress
        self.log.begin()
        self.first_epoch = progress.epoch
        for callback in self.callbacks:
            callback.on_train_begin(progress)
        if self.is_over:
            return  # killed after its last step and before its result
        self.shown.begin(progress)
        self.model.train()
        for epoch, shares in self.batches.after(progress.step):
            with self._watching(progress.step + 1):
                result = self.step(shares, progress.step + 1)
            progress.step, progress.epoch = progress.step + 1, epoch
            self.loss += result.loss
            self.shown.step(progress)
            for callback in self.callbacks:
                callback.on_step_end(progress)
            due = self.timetable.due(progress.step, is_stopping=self.stop.requested)
            if due.log:
                self._log(result)
            if due.evaluate:
                self._evaluate()
            if due.save:
                self._save()
            if self.stop.requested:
                raise Interrupted(
                    f"stopped at step {progress.step} of {progress.steps}; the state is saved. "
                    "Give the same command again to go on."
                )
            if self.is_over:
                return

    @property
    def is_over(self) -> bool:
        """Whether no further step is to be taken."""
        return self.progress.step >= self.progress.steps or self.selection.is_over(self.progress.records)

    def close(self) -> None:
        """Take the bar off the screen and close the trackers, also after an error."""
        self.steps_seconds = self.log.session_seconds - self.aside_seconds
        self.shown.close()
        self.log.end()

    def end(self) -> Fitted:
        """Give the model the weights of the chosen checkpoint, and measure them as whoever loads them does."""
        for callback in self.callbacks:
            callback.on_train_end(self.progress)
        best_step = self.best_step if self.selection.keeps_best else None
        if best_step is not None and best_step != self.progress.step:
            assert self.saved is not None, "the best checkpoint was saved"
            self.saved.check()
            load_trained(self.model, self.saved.tensors("best"), self.saved.path)
        seconds = self.log.seconds
        evaluation = self._final_evaluation(self.progress.step if best_step is None else best_step)
        samples = (self.progress.epoch - self.first_epoch) * len(self.prepared.train)
        speed = samples / self.steps_seconds if samples and self.steps_seconds > 0 else None
        return Fitted(self.progress, self.selection, best_step, evaluation, seconds, speed)

    def _final_evaluation(self, step: int) -> Evaluation:
        if self.prepared.precision != "fp32":
            self.accelerator.native_amp = False  # no step comes after this
            widen(self.model)
            return self._measure(step)
        return self.made[step] if step in self.made else self._measure(step)

    @contextmanager
    def _watching(self, step: int) -> Iterator[None]:
        is_logged = self.telemetry is not None and step % self.config.logging_steps == 0
        with self.telemetry.watching() if is_logged and self.telemetry is not None else nullcontext():
            yield

    def _log(self, result: StepResult) -> None:
        """Log the mean loss since the last time, the rates of this step, and what each role did."""
        self._check_finite()
        groups = self.step.optimizer.param_groups
        rates: dict[str, float] = {}
        for group, rate in zip(groups, result.rates, strict=True):
            rates.setdefault(f"lr/{group['name'].removesuffix(NO_DECAY)}", rate)
        values: dict[str, Any] = {
            "loss": float(self.loss) / (self.progress.step - self.logged_step),
            "grad_norm": float(result.gradient_norm),
            "learning_rate": result.rates[0],
            **rates,
        }
        if self.telemetry is not None:
            values |= self.telemetry.measure(has_stepped=result.has_stepped)
        self.loss.zero_()
        self.logged_step = self.progress.step
        self.log.add(values)
        self.shown.logged(values["loss"])

    def _evaluate(self) -> None:
        """Evaluate every split, log the metrics under `eval_...`, and compare them with the best so far."""
        started = time.perf_counter()
        progress = self.progress
        evaluation = self._measure(progress.step)
        metrics = {f"eval_{name}": value for name, value in evaluation.metrics.items()}
        record = self.log.add(metrics, evaluation)
        self.shown.evaluated(progress, evaluation.metrics)
        best = next((r for r in progress.records if r["step"] == self.best_step and self.selection.metric in r), None)
        if self.selection.keeps_best and self.selection.prefers(record, best):
            self.best_step = progress.step
        self.made = {step: made for step, made in self.made.items() if step == self.best_step}
        self.made[progress.step] = evaluation
        self.aside_seconds += time.perf_counter() - started
        for callback in self.callbacks:
            callback.on_evaluate(progress, metrics)

    def _measure(self, step: int) -> Evaluation:
        scores, labels = {}, {}
        # How often a run evaluates must not change its training.
        with kept_random_state(self.accelerator.device), self.accelerator.autocast():
            for split, batches in self.evaluations.items():
                process, processes = self.accelerator.process_index, self.accelerator.num_processes
                shown = self.shown.evaluating(batches.share(process, processes), len(batches))
                task = self.prepared.data.task
                scores[split] = evaluate_share(self.model, task, batches, self.accelerator, shown)
                labels[split] = np.asarray(self.prepared.splits[split]["labels"])
                if not np.isfinite(scores[split]).all():
                    raise self._diverged(f"an output on the {split} set")
        return measure(self.prepared.data.task, scores, labels, step)

    def _save(self) -> None:
        started = time.perf_counter()
        best = None  # what trains is the best, or there is none
        if self.best_step != self.progress.step and self.saved is not None:
            best = self.saved, "trained" if self.saved.step == self.best_step else "best"
        state = {
            "step": self.progress.step,
            "epoch": self.progress.epoch,
            "records": self.progress.records,
            "best_step": self.best_step,
        }
        self.saved = save_state(self.checkpoints, state, self.model, self.step, self.accelerator, best)
        self.aside_seconds += time.perf_counter() - started

    def _check_finite(self) -> None:
        if not torch.isfinite(self.loss):
            raise self._diverged("the loss")
        for name, value in trained_state(self.model).items():
            if not torch.isfinite(value).all():
                raise self._diverged(f"the parameter {name}")

    def _diverged(self, what: str) -> DivergedError:
        kept = f"The last good checkpoint is {self.saved.path}." if self.saved else "No checkpoint was saved before."
        return DivergedError(
            f"diverged: {what} is no longer finite at step {self.progress.step} of {self.progress.steps}. {kept} "
            "Try a lower --lr or --lr-ratio in another --out."
        )
