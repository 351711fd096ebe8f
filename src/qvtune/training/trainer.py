"""`Trainer` and `TrainingArguments`: transformers' own, with roles, rates per role and whole checkpoints built in."""

import os
import shutil
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file
from torch import nn
from transformers import TrainerCallback
from transformers.trainer import TRAINER_STATE_NAME, TRAINING_ARGS_NAME
from transformers.trainer_callback import ExportableState
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, rotate_checkpoints, set_seed
from transformers.training_args import OptimizerNames

from qvtune.adaptation import adapt
from qvtune.adapters import save_adapter
from qvtune.device import place
from qvtune.errors import ConfigError
from qvtune.fast.fast_path import make_fast
from qvtune.fast.precision import full_precision
from qvtune.files import STAGING
from qvtune.groups import group_parameters
from qvtune.methods.adapted import adaptation_of, method_of
from qvtune.methods.files import TRAINED_FILE
from qvtune.methods.method import Method
from qvtune.methods.state import load_trained, save_trained_file
from qvtune.methods.table import METHODS
from qvtune.rates import Rates
from qvtune.roles.attention import AttentionMap
from qvtune.roles.unwrap import unwrap
from qvtune.shards import is_sharded
from qvtune.training.config import TrainConfig
from qvtune.training.processes import check_sharding
from qvtune.training.state import check_groups, group_summaries, rates_by_group


def _option(name: str, default: Any = None) -> Any:
    """Make a dataclass field from the option of the same name in `TrainConfig`."""
    option = TrainConfig.model_fields[name]
    return field(default=option.default if default is None else default, metadata={"help": option.description})


def _method_option(name: str) -> Any:
    """Make a field for an option; None means the method's own default."""
    return field(default=None, metadata={"help": TrainConfig.model_fields[name].description})


@dataclass
class TrainingArguments(transformers.TrainingArguments):
    """transformers' TrainingArguments, with what to adapt and the rates by role. `learning_rate` is η_QK."""

    roles: str = _option("roles")
    method: str = _option("method")
    rank: int | None = _method_option("rank")
    alpha: float | None = _method_option("alpha")
    dropout: float | None = _method_option("dropout")
    density: float | None = _method_option("density")
    layers: list[int] | None = _option("layers")
    lr_ratio: float | None = _method_option("lr_ratio")
    b_lr_ratio: float | None = _method_option("b_lr_ratio")
    head_lr: float | None = _option("head_lr")
    query_lr: float | None = _option("query_lr")
    key_lr: float | None = _option("key_lr")
    value_lr: float | None = _option("value_lr")
    output_lr: float | None = _option("output_lr")
    rate: list[str] | None = _method_option("rate")
    fast: bool = _option("fast")


class Trainer(transformers.Trainer):
    """transformers' Trainer that adapts the model by role and trains each role at its own rate.

    A model that is already adapted by `qvtune.adapt` is used as it is. Any other is adapted as `args` say, after
    seeding. Every logged step has `lr/query`, `lr/value`, `lr/head` and so on. Checkpoints appear whole or not at all
    and hold no pickled arguments. On resuming they are refused if their parameter groups differ.

    Args:
        model: as for transformers.
        args: `qvtune.TrainingArguments`.
        **kwargs: transformers.Trainer's other arguments.

    Raises:
        ConfigError: if `args` are not qvtune's, or ask for both the fast path and torch.compile on a CPU, or if a given
            optimizer holds parameters that do not train in this model, or if FSDP or DeepSpeed is asked for and would
            not be done here.
        RoleError, AdaptError: if the model cannot be adapted.
        RunError: on resuming from a checkpoint with other groups or rates.
    """

    args: TrainingArguments
    # transformers declares these as possibly None, but while a run trains they are not.
    model: Any
    optimizer: Any
    state: Any
    eval_dataset: Any

    def __init__(self, model: nn.Module | None = None, args: TrainingArguments | None = None, **kwargs: Any) -> None:
        args = args or TrainingArguments(output_dir="tmp_trainer")
        if not isinstance(args, TrainingArguments):
            raise ConfigError("args are transformers' TrainingArguments. Make qvtune.TrainingArguments of them.")
        if args.fast and args.torch_compile and not torch.accelerator.is_available():
            raise ConfigError(
                "torch_compile is given, and on a CPU the fast path is compiled already, in another way. Give "
                "fast=False for it, or leave torch_compile out."
            )
        check_sharding(args)
        if model is not None:
            model = _prepared(model, args)
        super().__init__(model=model, args=args, **kwargs)
        _check_optimizer(self.optimizer, self.model)
        if self._method is not None:
            self.add_callback(MethodHooks(self._method))
        self._role_rates: dict[str, float] = {}
        self.add_callback(RoleRates(self._role_rates))
        # transformers assumes that every model with **kwargs divides its loss by the accumulated number of examples.
        # But heads for sequence classification average over their own batch. `compute_loss` divides in their place.
        self._averages = type(unwrap(self.model)).__name__.endswith("ForSequenceClassification")
        if self._averages and self.compute_loss_func is None:
            self.model_accepts_loss_kwargs = True  # so that the examples are counted

    def call_model_init(self, trial: Any = None) -> nn.Module:
        """Make the model and adapt it."""
        return _prepared(super().call_model_init(trial), self.args)

    @property
    def _method(self) -> Method | None:
        """The method by which the model was adapted."""
        return method_of(self.model)

    def compute_loss(self, model: nn.Module, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """Return the loss, in training with the method's penalty; PEFT adds that to the model's own loss."""
        result = self._loss(model, inputs, *args, **kwargs)
        if self._method is None or not model.training:
            return result
        if self._method.penalised_by_forward and not self.compute_loss_func:
            return result
        penalty = self._method.penalty(self.model)
        if penalty is None:
            return result
        penalty = penalty / self.current_gradient_accumulation_steps
        return (result[0] + penalty, result[1]) if isinstance(result, tuple) else result + penalty

    def _loss(
        self,
        model: nn.Module,
        inputs: Any,
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        """Return transformers' loss; of a head that averages over its batch, that batch's part of the step's mean."""
        if not (self._averages and self.compute_loss_func is None):
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        labels, counts = inputs.get("labels"), self.model_accepts_loss_kwargs
        self.model_accepts_loss_kwargs = False  # the head takes no number of examples
        try:
            result = super().compute_loss(model, inputs, return_outputs)
        finally:
            self.model_accepts_loss_kwargs = counts
        if not model.training or num_items_in_batch is None or labels is None:
            return result
        part = labels.ne(-100).sum() / num_items_in_batch
        if self.args.average_tokens_across_devices:
            part = part * self.accelerator.num_processes  # whose gradients are averaged
        return (result[0] * part, result[1]) if return_outputs else result * part

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """Make the optimizer that `args.optim` names over qvtune's parameter groups."""
        if self.optimizer is None:
            source: Any = self.model if model is None else model
            cls, kwargs = self.optimizer_cls_and_kwargs or self.get_optimizer_cls_and_kwargs(self.args, source)
            if {"params", "model", "optimizer_dict"} & set(kwargs):
                raise ConfigError(f"optimizer '{self.args.optim}' makes its own parameter groups. Choose another one.")
            if self._method is not None and self._method.has_own_optimizer:
                if cls is not torch.optim.AdamW:
                    raise ConfigError(
                        f"{self._method.optimizer or self._method.name} is AdamW's here, and optim is "
                        f"'{OptimizerNames(self.args.optim).value}'. Leave it out."
                    )
                groups = self._groups(source)
                self.optimizer = self._method.make_optimizer(groups, betas=kwargs["betas"], eps=kwargs["eps"])
            else:
                self.optimizer = cls(self._groups(source), **kwargs)
        return self.optimizer

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log, with the rate of every role whenever the rate of a step is logged."""
        if "learning_rate" in logs:
            logs.update(self._role_rates)
        super().log(logs, start_time)

    def _groups(self, model: nn.Module) -> list[dict[str, Any]]:
        args = self.args
        rates = Rates.resolve(
            self._method or METHODS[args.method],
            lr=args.learning_rate,
            lr_ratio=args.lr_ratio,
            b_lr_ratio=args.b_lr_ratio,
            head_lr=args.head_lr,
            query_lr=args.query_lr,
            key_lr=args.key_lr,
            value_lr=args.value_lr,
            output_lr=args.output_lr,
            rates=args.rate or (),
        )
        attention = None if adaptation_of(model) else _attention_of(self.model)
        return group_parameters(model, rates, weight_decay=args.weight_decay, attention=attention)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save the model; if it has an adapter, save what `save_adapter` saves."""
        super().save_model(output_dir, _internal_call)
        has_adapter = self._method is not None and self._method.saves == "adapter"
        # Of a sharded model every process gathers, and the first writes.
        takes_part = self.args.should_save or is_sharded(self.model)
        if not _internal_call and takes_part and has_adapter:
            save_adapter(self.model, output_dir or str(self.args.output_dir))

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Write a checkpoint beside its place and rename it when it is whole.

        Private to transformers: its public event, `on_save`, comes when the files already have their final name.
        """
        self.store_flos()
        folder = self._get_output_dir(trial=trial)
        step = self.state.global_step
        final = os.path.join(folder, f"{PREFIX_CHECKPOINT_DIR}-{step}")
        staging = os.path.join(folder, f"{STAGING}{PREFIX_CHECKPOINT_DIR}-{step}")
        if self.args.should_save:
            shutil.rmtree(staging, ignore_errors=True)
        self.save_model(staging, _internal_call=True)
        if self.state.best_global_step:
            best = os.path.join(folder, f"{PREFIX_CHECKPOINT_DIR}-{self.state.best_global_step}")
            if self.state.best_global_step == step or os.path.isdir(best):
                self.state.best_model_checkpoint = best
        if not self.args.save_only_model:
            self._save_optimizer_and_scheduler(staging)
            self._save_scaler(staging)
            self._save_rng_state(staging)
        if self.args.should_save:
            self._store_callback_states()
            self.state.save_to_json(os.path.join(staging, TRAINER_STATE_NAME))
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            _replace_folder(staging, final)
            rotate_checkpoints(folder, self.args.save_total_limit, self.state.best_model_checkpoint)
        if self.args.push_to_hub:
            self._push_from_checkpoint(final)

    def _store_callback_states(self) -> None:
        stateful = [cb for cb in (*self.callback_handler.callbacks, self.control) if isinstance(cb, ExportableState)]
        for callback in stateful:
            name, state = type(callback).__name__, callback.state()
            if isinstance(self.state.stateful_callbacks.get(name), list):
                self.state.stateful_callbacks[name].append(state)
            else:
                self.state.stateful_callbacks[name] = state

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        # Private to transformers: the public save_model gathers what is sharded first, and calls this for the files.
        if self._method is not None and self._method.checkpoint == "trained":
            self._save_trained(output_dir or str(self.args.output_dir))
            return
        is_whole = self._method is not None and self._method.saves == "model"  # an adapter holds no frozen weights
        with full_precision(self.model) if is_whole else nullcontext():
            super()._save(output_dir, state_dict)
        # transformers pickles the arguments beside the weights, but nothing reads them.
        pickled = os.path.join(output_dir or str(self.args.output_dir), TRAINING_ARGS_NAME)
        if self.args.should_save and os.path.exists(pickled):
            os.remove(pickled)

    def _save_trained(self, folder: str) -> None:
        """Save what trains, with the method's own state, which neither PEFT nor transformers saves."""
        if not self.args.should_save:
            return
        save_trained_file(self.model, Path(folder))
        if self.processing_class is not None:
            self.processing_class.save_pretrained(folder)

    # Both are private to transformers, which has no public place where a checkpoint's weights are read.

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        if not self._load_trained(resume_from_checkpoint):
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _load_best_model(self) -> None:
        if not self._load_trained(str(self.state.best_model_checkpoint)):
            super()._load_best_model()

    def _load_trained(self, checkpoint: str) -> bool:
        file = os.path.join(checkpoint, TRAINED_FILE)
        if self._method is None or self._method.checkpoint != "trained" or not os.path.exists(file):
            return False
        load_trained(self.model, load_file(file), Path(checkpoint))
        return True

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        # Private to transformers: no event comes between the state of the optimizer and the first step with it.
        wanted = group_summaries(self.optimizer)
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is not None:
            check_groups(group_summaries(self.optimizer), wanted, checkpoint)


class RoleRates(TrainerCallback):
    """Records the rate of every role between the update and the schedule's step, when it still is the update's rate."""

    def __init__(self, rates: dict[str, float]) -> None:
        self.rates = rates

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Record them."""
        groups = kwargs["optimizer"].param_groups
        self.rates.clear()
        self.rates.update(rates_by_group(groups, [float(group["lr"]) for group in groups]))


class MethodHooks(TrainerCallback):
    """Calls a method's hooks at the right moments."""

    def __init__(self, method: Method) -> None:
        self._method = method

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Tell the method how many steps there are."""
        self._method.begin(kwargs["model"], state.max_steps)

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Call the hook while the gradients of the step are there."""
        self._method.after_step(kwargs["model"], state.global_step + 1)


def _prepared(model: nn.Module, args: TrainingArguments) -> nn.Module:
    """Move a model to the device that transformers will use, then adapt and accelerate it there."""
    if _places(model, args):
        model = place(model, args.device)
    if adaptation_of(model) is None:
        set_seed(args.seed)
        method = METHODS.get(args.method)
        given = {name: getattr(args, name) for name in ("rank", "alpha", "dropout", "density", "layers")}
        model = adapt(
            model,
            method=args.method,
            roles=None if method is not None and not method.has_roles else args.roles,
            # A placeholder until the trainer knows how many steps there are.
            total_steps=max(2, args.max_steps),
            **given,
        )
    return make_fast(model, precision="bf16" if args.bf16 else "fp32") if args.fast else model


def _places(model: nn.Module, args: TrainingArguments) -> bool:
    """Whether transformers moves the model to the device unchanged; otherwise DeepSpeed, FSDP or the user places it."""
    if args.place_model_on_device is not None:
        return args.place_model_on_device
    by_others = args.deepspeed or args.fsdp or args.fp16_full_eval or args.bf16_full_eval
    is_theirs = getattr(model, "is_distributed_loading_by_transformers", False)
    return not by_others and not is_theirs and getattr(model, "quantization_method", None) is None


def _attention_of(model: nn.Module) -> AttentionMap | None:
    adaptation = adaptation_of(model)
    return adaptation.attention if adaptation else None


def _check_optimizer(optimizer: torch.optim.Optimizer | None, model: nn.Module) -> None:
    """Check that every parameter of an optimizer trains in this model; the training would not change any other."""
    if optimizer is None:
        return
    trained = {id(parameter) for parameter in model.parameters() if parameter.requires_grad}
    others = [p for group in optimizer.param_groups for p in group["params"] if id(p) not in trained]
    if others:
        raise ConfigError(
            f"optimizers: {len(others)} of the optimizer's parameters do not train in this model: they are another "
            "model's, or frozen. Adapt the model first, and make the optimizer of qvtune.param_groups(model, ...)."
        )


def _replace_folder(source: str, target: str) -> None:
    """Rename `source` to `target`, replacing what this run left there before."""
    if os.path.isdir(target):
        old = f"{source}.old"
        os.rename(target, old)
        os.rename(source, target)
        shutil.rmtree(old)
    else:
        os.rename(source, target)
