"""Make the parts of a training from its configuration: batches, selection, and the step with its optimizer."""

from collections.abc import Callable, Iterable
from typing import Any

from accelerate import Accelerator
from torch import nn

from qvtune.data.tokens import token_lengths
from qvtune.errors import ConfigError
from qvtune.groups import group_parameters
from qvtune.methods.table import METHODS
from qvtune.tasks.examples import TUNING
from qvtune.tasks.load import limit
from qvtune.training.batches import TrainingBatches, training_order
from qvtune.training.config import TrainConfig
from qvtune.training.objective import TaskObjective
from qvtune.training.prepare import Prepared
from qvtune.training.schedule import make_schedule
from qvtune.training.seeds import stream_seed
from qvtune.training.selection import Selection
from qvtune.training.step import Step

# From this many examples on, the best of several checkpoints can be distinguished from the luckiest.
FEWEST_TO_CHOOSE = 50


def make_batches(config: TrainConfig, prepared: Prepared, accelerator: Accelerator) -> TrainingBatches:
    """Return the training batches of a run: the share of this process.

    Raises:
        ConfigError: if batches are made by tokens and there are several processes.
    """
    processes = accelerator.num_processes
    if config.batch_tokens and processes > 1:
        raise ConfigError(f"--batch-tokens is for one process, and here are {processes}. Give --batch-size.")
    order = training_order(token_lengths(prepared.train), config, stream_seed(config.seed, "order"), processes)
    return TrainingBatches(
        prepared.train,
        prepared.train_collate,
        order,
        accumulation=config.accumulation,
        process=accelerator.process_index,
        processes=processes,
        workers=config.num_workers,
        pin_memory=accelerator.device.type == "cuda",
    )


def make_selection(config: TrainConfig, prepared: Prepared) -> Selection:
    """Return how a run chooses its checkpoint."""
    # The tuning set chooses if there is one, or else the first set.
    examples = len(prepared.splits.get(TUNING, next(iter(prepared.splits.values()))))
    prefix = f"{TUNING}_" if TUNING in prepared.splits else ""
    return Selection(
        metric=f"eval_{prefix}{prepared.data.task.main_metric}",
        keeps_best=examples >= FEWEST_TO_CHOOSE if config.keep_best is None else config.keep_best,
        choosing=0 if config.keep_best else examples,
        patience=config.early_stopping,
    )


def make_writer(
    config: TrainConfig, prepared: Prepared, shown: Callable[[Iterable[Any], int], Iterable[Any]]
) -> Callable[[nn.Module], dict[str, float]] | None:
    """Return what lets the model write answers to a seeded sample of the validation set, if the run asks for it."""
    if config.generate_samples is None:
        return None
    task, data = prepared.data.task, prepared.data
    name = next(split for split in data.evaluation if split != TUNING)
    examples, _ = limit(data.evaluation[name], task, config.generate_samples, stream_seed(config.seed, "answers"), name)

    def write(model: nn.Module) -> dict[str, float]:
        return task.write_answers(model, prepared.tokenizer, examples, config.eval_batch_size, shown)

    return write


def make_step(config: TrainConfig, prepared: Prepared, accelerator: Accelerator, steps: int) -> Step:
    """Return the step of a run of `steps` steps, with its optimizer, rates and schedule."""
    model, method = prepared.model, METHODS[config.method]
    groups = group_parameters(model, config.rates, weight_decay=config.weight_decay)
    optimizer = method.make_optimizer(groups, betas=(config.adam_beta1, config.adam_beta2), eps=config.adam_epsilon)
    schedule = make_schedule(optimizer, config.schedule, warmup=config.warmup, steps=steps)
    method.begin(model, steps)
    return Step(
        accelerator.prepare_model(model) if accelerator.num_processes > 1 else model,
        TaskObjective(prepared.data.task, prepared.class_weights),
        optimizer,
        schedule,
        method=method,
        accelerator=accelerator,
        max_grad_norm=config.max_grad_norm,
    )
