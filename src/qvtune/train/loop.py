"""`RunTrainer`: the trainer of a run, which evaluates by task, stops when it diverges and survives a kill."""

import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader, Sampler
from transformers import TrainerCallback, TrainerState

from qvtune.errors import DivergedError, Interrupted
from qvtune.fast.batches import LengthBatches, TokenBatches, longest_first, token_lengths
from qvtune.fast.cpu.memory import few_walks, kept_memory
from qvtune.fast.precision import widen
from qvtune.tasks.load import TUNING
from qvtune.tasks.metrics import combine_splits, standard_error
from qvtune.tasks.task import Task
from qvtune.train.folder import RunFolder, writing
from qvtune.train.seeds import kept_random_state
from qvtune.train.supplies import epochs_between_evaluations
from qvtune.train.telemetry import RoleTelemetry
from qvtune.train.trainer import Trainer

# Metrics of two checkpoints that are no further apart, in standard errors of one, count as equal. The same examples
# measure both, so that half of it is much already.
NOISE = 0.5


@dataclass(frozen=True)
class Measured:
    """An evaluation.

    Attributes:
        step: after which it was made.
        metrics: as the run reports them.
        scores: the model's outputs by split, (examples, classes) or (examples, 1), in the order of the data.
        labels: class ids or numbers by split, (examples,).
    """

    step: int
    metrics: dict[str, float]
    scores: dict[str, NDArray]
    labels: dict[str, NDArray]

    @property
    def reported(self) -> tuple[NDArray, NDArray]:
        """Outputs and labels of the splits that are reported, one after the other."""
        splits = [split for split in self.scores if split != TUNING]
        scores, labels = ([part[split] for split in splits] for part in (self.scores, self.labels))
        return np.concatenate(scores), np.concatenate(labels)


class RunTrainer(Trainer):
    """Trains one run in one folder.

    Args:
        task: says the loss and the metrics.
        class_weights: of the training loss, by class; all weigh alike when None. Evaluation does not weigh.
        eval_dataset: tokenised evaluation sets by name.
        folder: where checkpoints go.
        batch_tokens: tokens of a batch, in place of a number of examples.
        choosing: number of examples that choose the best checkpoint: metrics within half a standard error of each other
            then count as equal, and the loss decides; 0 takes metrics as they are.
        log_updates: log what each role does; a model that is sharded over processes cannot be measured.
        **kwargs: the arguments of `Trainer`.
    """

    def __init__(
        self,
        *,
        task: Task,
        class_weights: Sequence[float] | None = None,
        eval_dataset: Mapping[str, Dataset],
        folder: RunFolder,
        batch_tokens: int | None = None,
        log_updates: bool = True,
        choosing: int = 0,
        **kwargs: Any,
    ) -> None:
        self._training_loss, self._evaluation_loss = task_loss(task, class_weights), task_loss(task)
        super().__init__(
            compute_loss_func=self._training_loss,
            # Encoder-decoders return their encoder's states beside the logits.
            preprocess_logits_for_metrics=lambda outputs, labels: outputs[0] if isinstance(outputs, tuple) else outputs,
            eval_dataset=dict(eval_dataset),
            **kwargs,
        )
        self._orders: dict[str, NDArray] = {}
        if self.args.fast:
            by_length = {split: longest_first(dataset) for split, dataset in eval_dataset.items()}
            self.eval_dataset = {split: dataset for split, (dataset, _) in by_length.items()}
            self._orders = {split: order for split, (_, order) in by_length.items()}
        self.task = task
        self.choosing = choosing
        self.class_weights = class_weights
        # The last evaluation, and the one of the best checkpoint so far.
        self.measured: Measured | None = None
        self._best: Measured | None = None
        self.folder = folder
        self.batch_tokens = batch_tokens
        is_whole = not (self.is_fsdp_enabled or self.is_deepspeed_enabled)
        self.telemetry = RoleTelemetry(self.model) if log_updates and is_whole else None
        if self.telemetry is not None:
            self.add_callback(self.telemetry)
        self.stop_requested = False
        # Seconds spent on anything but training steps, to be taken off the speed.
        self.aside_seconds = 0.0

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """Train as transformers does."""
        with ExitStack() as stack:
            if self.args.fast:
                stack.enter_context(few_walks(self.model))
                stack.enter_context(kept_memory())
            if self.telemetry is not None:
                stack.callback(self.telemetry.close)
            return super().train(*args, **kwargs)

    def floating_point_ops(self, inputs: Any) -> int:
        """Count nothing: transformers walks through the model for it in every step, and `plan.json` has the count."""
        return 0

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: torch.device) -> tuple[list, Any]:
        """Return the batches of a step, and what their loss is divided by: with weights, what all examples weigh."""
        batches, count = super().get_batch_samples(epoch_iterator, num_batches, device)
        if self.class_weights is None or not batches:
            return batches, count
        weights = torch.tensor(self.class_weights, device=device)
        total = torch.stack([weights[batch["labels"].to(device)].sum() for batch in batches]).sum()
        if self.args.world_size > 1:
            total = self.accelerator.gather(total).sum()
        return batches, total

    def compute_loss(self, model: nn.Module, *args: Any, **kwargs: Any) -> Any:
        """Return the loss, weighted in training alone."""
        self.compute_loss_func = self._training_loss if model.training else self._evaluation_loss
        return super().compute_loss(model, *args, **kwargs)

    def get_train_dataloader(self) -> DataLoader:
        """Return the batches of an epoch."""
        if self.batch_tokens is None:
            return super().get_train_dataloader()
        batches = TokenBatches(token_lengths(self.train_dataset), self.batch_tokens, self.args.data_seed or 0)
        loader = DataLoader(
            self._remove_unused_columns(self.train_dataset, description="Training"),
            batch_sampler=batches,
            collate_fn=self.data_collator,
            num_workers=self.args.dataloader_num_workers,
            pin_memory=self.args.dataloader_pin_memory,
        )
        return self.accelerator.prepare(loader)

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> Sampler | None:
        if not self.args.fast:
            return super()._get_train_sampler(train_dataset)
        lengths = token_lengths(train_dataset or self.train_dataset)
        return LengthBatches(lengths, self.args.train_batch_size * self.args.world_size, self.args.data_seed or 0)

    def evaluate(self, *args: Any, metric_key_prefix: str = "eval", **kwargs: Any) -> dict[str, float]:
        """Evaluate every split, log the task's metrics under `eval_...` and return them."""
        start = time.perf_counter()
        self.measured = self._measure()
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in self.measured.metrics.items()}
        self.log(dict(metrics))
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        self.aside_seconds += time.perf_counter() - start
        return metrics

    def measure_in_full(self) -> Measured:
        """Measure in float32, as whoever loads what was saved does. No step comes after this."""
        self.accelerator.unwrap_model(self.model, keep_fp32_wrapper=False)
        self.accelerator.native_amp = False
        widen(self.model)
        return self._measure()

    def measure_final(self) -> Measured:
        """Return the evaluation of the weights that the training has ended with: kept from when it was made, or made.

        It is made where the arithmetic of the training was not float32, where the run went on from a checkpoint that
        comes after it, and where the last step had none.
        """
        if self.args.bf16 or self.args.fp16:
            return self.measure_in_full()
        is_best = self.args.load_best_model_at_end and self.state.best_global_step
        step = self.state.best_global_step if is_best else self.state.global_step
        kept = next((m for m in (self._best, self.measured) if m is not None and m.step == step), None)
        if kept is not None:
            return kept
        if not any(record["step"] == step and "eval_loss" in record for record in self.state.log_history):
            self.evaluate()
            assert self.measured is not None
            return self.measured
        return self._measure()

    def _measure(self) -> Measured:
        # A data loader draws from the global random state; how often a run evaluates must not change its training.
        with kept_random_state(self.args.device):
            outputs: dict[str, Any] = {split: self.predict(part) for split, part in self.eval_dataset.items()}
        by_split = {}
        for split, output in outputs.items():
            if not np.isfinite(output.predictions).all():
                raise self._diverged(f"an output on the {split} set")
            by_split[split] = self.task.metrics(output.predictions, output.label_ids)
            # Of the examples themselves: over several processes the trainer's counts those that fill up a batch twice.
            by_split[split]["loss"] = float(self.task.losses(output.predictions, output.label_ids).mean())
        tuning = by_split.pop(TUNING, {})
        metrics = combine_splits(self.task, by_split) | {f"{TUNING}_{name}": value for name, value in tuning.items()}
        scores = {split: self._as_given(split, output.predictions) for split, output in outputs.items()}
        labels = {split: self._as_given(split, output.label_ids) for split, output in outputs.items()}
        return Measured(self.state.global_step, metrics, scores, labels)

    def _as_given(self, split: str, values: NDArray) -> NDArray:
        """Put what was computed by length back into the order of the data."""
        if split not in self._orders:
            return values
        result = np.empty_like(values)
        result[self._orders[split]] = values
        return result

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log with what each role does, but for transformers' summary, whose speed counts evaluations as training."""
        if "train_runtime" not in logs:
            if "learning_rate" in logs and self.telemetry is not None:
                logs |= self.telemetry.measure(has_stepped=not self.accelerator.optimizer_step_was_skipped)
            super().log(logs, start_time)

    def resume_stopped(self, checkpoint: Path, state: TrainerState) -> None:
        """Take up a run that had come to its end at `checkpoint`, without a further step."""
        self.state = state
        self._load_from_checkpoint(str(checkpoint))
        if self.args.load_best_model_at_end and state.best_model_checkpoint is not None:
            self._load_best_model()

    def _maybe_log_save_evaluate(
        self, tr_loss: Tensor, grad_norm: Any, model: nn.Module, *args: Any, **kwargs: Any
    ) -> None:
        # A checkpoint restores no half-summed loss, so the sum is logged before each one.
        self.control.should_save |= self.stop_requested
        self.control.should_log |= self.control.should_save
        if self.control.should_log or self.control.should_evaluate:
            self._check_finite(tr_loss)
        super()._maybe_log_save_evaluate(tr_loss, grad_norm, model, *args, **kwargs)
        if self.stop_requested:
            raise Interrupted(
                f"stopped at step {self.state.global_step} of {self.state.max_steps}; the state is saved. "
                "Give the same command again to go on."
            )

    def _determine_best_metric(self, metrics: dict[str, float], trial: Any) -> bool:
        is_best = self._is_best(metrics)
        if is_best:
            self._best = self.measured
        return is_best

    def _is_best(self, metrics: dict[str, float]) -> bool:
        # A metric over few examples ties often; of two equal checkpoints the one with the lower loss is better.
        name = str(self.args.metric_for_best_model)
        loss = f"eval_{TUNING}_loss" if name.startswith(f"eval_{TUNING}_") else "eval_loss"
        step = self.state.best_global_step
        best = next((r for r in self.state.log_history if r["step"] == step and name in r), None)
        if best is not None:
            noise = NOISE * standard_error(name, best[name], self.choosing) if self.choosing else 0.0
            apart = metrics[name] - best[name]
            if apart < -noise or (apart <= noise and metrics[loss] >= best[loss]):
                return False
        self.state.best_metric, self.state.best_global_step = metrics[name], self.state.global_step
        return True

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        start = time.perf_counter()
        with writing(self.folder.checkpoints):
            super()._save_checkpoint(model, trial)
        self.aside_seconds += time.perf_counter() - start

    def _check_finite(self, tr_loss: Tensor) -> None:
        if not torch.isfinite(tr_loss):
            raise self._diverged("the loss")
        for name, parameter in self.model.named_parameters():
            if parameter.requires_grad and not torch.isfinite(parameter).all():
                raise self._diverged(f"the parameter {name}")

    def _diverged(self, what: str) -> DivergedError:
        checkpoint = self.folder.last_checkpoint()
        kept = f"The last good checkpoint is {checkpoint}." if checkpoint else "No checkpoint was saved before."
        return DivergedError(
            f"diverged: {what} is no longer finite at step {self.state.global_step} of {self.state.max_steps}. {kept} "
            "Try a lower --lr or --lr-ratio in another --out."
        )


class EveryFewEpochs(TrainerCallback):
    """Lets a run of many epochs evaluate and save after every few and the last, so about ten times in all."""

    def __init__(self, epochs: float) -> None:
        self.every = epochs_between_evaluations(epochs)

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        # transformers, whose own callback comes first, has asked for both.
        is_last = state.global_step >= state.max_steps
        if not is_last and round(state.epoch) % self.every:
            control.should_evaluate = control.should_save = False


class EarlyStopping(TrainerCallback):
    """Stops after `patience` evaluations without a better metric.

    The count comes from the logged evaluations, so a resumed run stops where the straight one would.
    """

    def __init__(self, metric: str, patience: int, greater_is_better: bool = True) -> None:
        self.metric, self.patience, self.sign = metric, patience, 1 if greater_is_better else -1

    def is_due(self, history: list[dict[str, float]]) -> bool:
        """Whether the logged evaluations say to stop."""
        values = [self.sign * record[self.metric] for record in history if self.metric in record]
        return bool(values) and len(values) - 1 - int(np.argmax(values)) >= self.patience

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        control.should_training_stop |= self.is_due(state.log_history)


def task_loss(task: Task, class_weights: Sequence[float] | None = None) -> Any:
    """Return the loss of a task as the trainer asks for it: the mean over all examples of an accumulated batch.

    Args:
        task: says which.
        class_weights: by class; all weigh alike when None.

    Returns:
        A function of the model's outputs, the labels, and what to divide by; of these labels when None.
    """

    def loss(outputs: Any, labels: Tensor, num_items_in_batch: Any = None) -> Tensor:
        total, count = task.loss(outputs, {"labels": labels}, class_weights)
        return total / (count if num_items_in_batch is None else num_items_in_batch)

    return loss
