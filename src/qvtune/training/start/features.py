"""The features that a probe is fitted on: the inputs of the last linear layer of a model's head, by example."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from numpy.typing import NDArray
from rich.console import Console
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from qvtune.device import device_of
from qvtune.fast.batches import longest_first
from qvtune.methods.method import Adaptation
from qvtune.progress import track
from qvtune.roles.unwrap import unwrap
from qvtune.tasks.ragged import ragged
from qvtune.tasks.task import Task
from qvtune.training.batches import read_columns


@dataclass(frozen=True)
class HeadLayers:
    """Linear layers of a head.

    Attributes:
        output: the layer that gives the model's outputs.
        before: square layers in front of it that have no weights in the checkpoint, in the order of computation.
    """

    output: nn.Linear
    before: tuple[nn.Linear, ...]


def head_layers(model: nn.Module, adaptation: Adaptation, new: set[str], outputs: int) -> HeadLayers | None:
    """Find the layers of a head that a checkpoint did not bring.

    Args:
        model: what `adapt` returned.
        adaptation: the record of what it did; says which modules are the head.
        new: names that the head's new parameters had before the model was adapted.
        outputs: number of outputs of the model.

    Returns:
        The layers, or None if the last layer of the head has weights in the checkpoint or is not a linear layer.
    """
    inner = unwrap(model)
    linear: dict[str, nn.Linear] = {}
    for name, module in inner.named_modules():
        trains = isinstance(module, nn.Linear) and module.weight.requires_grad
        owner = next((head for head in adaptation.head if name == head or name.startswith(f"{head}.")), None)
        if trains and owner is not None and adaptation.attention.role_of_module(f"{name}.weight") is None:
            # PEFT trains a copy of the head, under its own name.
            linear[name.replace(".modules_to_save.default", "")] = module
    last = next((name for name in reversed(linear) if linear[name].out_features == outputs), None)
    if last is None or f"{last}.weight" not in new:
        return None
    square = [
        module
        for name, module in linear.items()
        if name != last and f"{name}.weight" in new and module.in_features == module.out_features
    ]
    return HeadLayers(linear[last], tuple(square))


class Reader:
    """Runs a model in evaluation mode over tokenised texts.

    Args:
        model: what `adapt` returned, on its device, accelerated or not.
        tokenizer: pads.
        batch_size: examples per forward pass.
        precision: precision of the forward passes, "fp32", "bf16" or "fp16".
        console: where progress goes.
        task: says which part of a batch the model is given, and where labels are.
    """

    def __init__(
        self,
        model: nn.Module,
        task: Task,
        tokenizer: PreTrainedTokenizerBase,
        batch_size: int,
        precision: str,
        console: Console,
    ) -> None:
        self.model, self.tokenizer, self.batch_size = model, tokenizer, batch_size
        self.console, self.task, self.collate = console, task, task.collator(tokenizer)
        self.device = device_of(model)
        self._dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision)

    def batches(self, tokens: Dataset) -> Iterator[tuple[NDArray[Any], dict[str, Tensor], Any]]:
        """Yield the indices of a batch's examples, the batch, and the model's output for it; longest texts first."""
        by_length, order = longest_first(read_columns(tokens, self.task, self.tokenizer.model_input_names))
        rows = by_length.to_list()
        was_training = self.model.training
        self.model.eval()
        try:
            with torch.no_grad(), self._autocast():
                starts = range(0, len(rows), self.batch_size)
                for start in track(
                    starts, len(rows), "reading features", self.console, size=self.batch_size, unit="examples"
                ):
                    batch = dict(self.collate(rows[start : start + self.batch_size]).to(self.device))
                    outputs = self.model(**self.task.model_inputs(batch))
                    yield order[start : start + self.batch_size], batch, outputs
        finally:
            self.model.train(was_training)

    def inputs_of(self, layer: nn.Linear, output: nn.Linear, tokens: Dataset) -> NDArray[Any]:
        """Return the inputs of a head's layer for every text, at the position that the head uses: (texts, features).

        Heads of decoders map every position and use one of them. The outputs of the last layer show which one. Where a
        text has several labels, they are at the positions of these: (texts,) arrays of (labels, features).

        Args:
            layer: the layer whose inputs are returned.
            output: the last layer of the head.
            tokens: tokenised texts.
        """
        found: dict[int, NDArray[Any]] = {}
        seen: dict[str, Tensor] = {}
        with (
            watching(layer, lambda inputs, _: seen.update(inputs=inputs)),
            watching(output, lambda _, own: seen.update(own=own)),
        ):
            for places, batch, outputs in self.batches(tokens):
                rows = self.task.by_label(seen["inputs"], batch)
                if rows is None:
                    rows = _at_taken_position(seen["inputs"], seen["own"], outputs.logits).float().cpu().numpy()
                found |= zip(places, rows, strict=True)
        values = [found[place] for place in range(len(tokens))]
        return np.stack(values) if values[0].ndim == 1 else ragged(values)

    def _autocast(self) -> AbstractContextManager[Any]:
        return nullcontext() if self._dtype is None else torch.autocast(self.device.type, dtype=self._dtype)


@contextmanager
def watching(module: nn.Module, see: Any) -> Iterator[None]:
    """Call `see(input, output)` in every forward pass of a module; a result that is not None replaces the output."""
    hook = module.register_forward_hook(lambda _, args, output: see(args[0], output))
    try:
        yield
    finally:
        hook.remove()


def _at_taken_position(inputs: Tensor, own: Tensor, logits: Tensor) -> Tensor:
    """Return (b, d): inputs (b, d) or (b, s, d) at the position where own outputs (b, s, k) are the model's (b, k)."""
    if inputs.ndim == 2:
        return inputs
    apart = (own.float() - logits.float()[:, None]).abs().sum(dim=-1)  # (b, s)
    return inputs[torch.arange(len(inputs), device=inputs.device), apart.argmin(dim=1)]
