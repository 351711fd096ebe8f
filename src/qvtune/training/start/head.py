"""`start_head`: the head that a run starts with, and how good it is before the first step."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from numpy.typing import ArrayLike, NDArray
from rich.console import Console
from torch import nn
from transformers import PreTrainedTokenizerBase

from qvtune.data.samples import stratified_sample
from qvtune.methods.adapted import adaptation_of
from qvtune.methods.method import Adaptation
from qvtune.tasks.ragged import by_row, flat
from qvtune.tasks.task import Task
from qvtune.training.evaluate import labels_of, measure
from qvtune.training.start.even import attend_evenly, take_back
from qvtune.training.start.features import HeadLayers, Reader, head_layers
from qvtune.training.start.probe import Probe, fit_probe, root_mean_square

# "plain" takes the features as they are, "even" those of a first token that attends evenly; "probe" is the better one.
PROBE, PLAIN, EVEN, RANDOM = "probe", "plain", "even", "random"

# A probe is fitted on at most this many examples. More cost as much again and hardly make it better.
MOST_EXAMPLES = 3_000
# Where examples have several labels each, on examples with so many labels.
MOST_LABELS = 20_000
# Kinds of start are compared on this many examples.
COMPARED = 1_000
# A fitted head starts with the probe's logits times this factor, or for numbers with their distance from the mean times
# this factor. It predicts the same classes or order, but less surely. Otherwise training examples would be nearly
# solved before the body has learned anything from them.
SHRINK = 0.2
# Features of a new layer start this far above zero if the activation after it cuts off below zero.
ABOVE_ZERO = 2.0
CUTS_BELOW = -0.3
CUT_TRIED = 64


@dataclass(frozen=True)
class HeadStart:
    """How a head started.

    Attributes:
        kind: "plain", "even" or "random".
        reason: why the head is random although a probe was asked for; None otherwise.
        metrics: metrics of the probe alone, before any step, under the names of the run's metrics; empty for a random
            head.
        strength: strength of the probe's regularisation, as in `probe.STRENGTHS`.
        held_out_loss: for every kind that was tried, the probe's loss on training examples that it was not fitted on.
        examples: how many examples it was fitted on.
    """

    kind: str
    reason: str | None = None
    metrics: Mapping[str, float] | None = None
    strength: float | None = None
    held_out_loss: Mapping[str, float] | None = None
    examples: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Return plain values that JSON can hold."""
        return asdict(self)


def start_head(
    model: nn.Module,
    task: Task,
    train: Dataset,
    splits: Mapping[str, Dataset],
    tokenizer: PreTrainedTokenizerBase,
    *,
    kind: str,
    new: set[str],
    batch_size: int,
    seed: int,
    precision: str = "fp32",
    class_weights: ArrayLike | None = None,
    console: Console | None = None,
) -> HeadStart:
    """Fit the head of an adapted model on the features that it has before the first step.

    This is linear probing, then fine-tuning (Kumar et al. 2022). New square layers in front of the head's last layer
    start by scaling each feature to unit size, which their activation leaves nearly linear. The last layer becomes the
    probe, with logits shrunk to `SHRINK`. With "probe", one probe is fitted on the features as they are and one on
    those of a first token that attends evenly. The one with the lower loss on held-out training examples stays.

    Args:
        model: what `adapt` returned, changed in place.
        task: what is learned.
        train: tokenised training examples with `labels`; of more than `MOST_EXAMPLES` a seeded sample is used.
        splits: tokenised evaluation sets by name, to measure the probe alone.
        tokenizer: pads.
        kind: "probe", or "plain" or "even" to try only one of the two, or "random" to change nothing.
        new: names of the parameters that are not in the model's checkpoint.
        batch_size: examples per forward pass.
        seed: seed of the sample and of the held-out part.
        precision: precision of the forward passes, "fp32", "bf16" or "fp16".
        class_weights: weight of every class in the probe's loss.
        console: where progress goes; standard error when None.
    """
    adaptation = adaptation_of(model)
    assert adaptation is not None, "start_head takes what adapt returned"
    if kind == RANDOM:
        return HeadStart(RANDOM)
    layers = head_layers(model, adaptation, new, task.num_outputs)
    if layers is None:
        return HeadStart(RANDOM, "the head came with the model, or does not end in a linear layer")
    console = console or Console(stderr=True)
    reader = Reader(model, task, tokenizer, batch_size, precision, console)
    sample = _sample(task, train, seed)
    labels = flat(task.label_array(sample["labels"][:]))
    if problem := task.probe_problem(labels):
        return HeadStart(RANDOM, problem)

    def probe(tokens: Dataset) -> Probe:
        features, found = _features(layers, reader, tokens), flat(task.label_array(tokens["labels"][:]))
        return fit_probe(features, found, task, seed, class_weights, has_bias=layers.output.bias is not None)

    chosen, found, losses = _choose(model, adaptation, reader, sample, kind, probe)
    metrics = _measure(found, task, layers, reader, splits)
    rest = task.resting_output(labels) * (1 - SHRINK)
    _set(layers.output, found.weight * SHRINK, found.bias * SHRINK + rest)
    return HeadStart(chosen, None, metrics, found.strength, losses, len(sample))


def _choose(
    model: nn.Module,
    adaptation: Adaptation,
    reader: Reader,
    sample: Dataset,
    kind: str,
    probe: Callable[[Dataset], Probe],
) -> tuple[str, Probe, dict[str, float]]:
    """Fit a probe on the features as they are and on those of a first token that attends evenly; the better one stays.

    Returns:
        The kind that stays, its probe, and the loss on held-out examples of each kind that was tried.
    """
    few = sample.select(range(min(COMPARED, len(sample))))
    tried = {PLAIN: probe(few)} if kind != EVEN else {}
    changes = attend_evenly(model, adaptation, reader, sample) if kind != PLAIN else None
    if changes is not None:
        tried[EVEN] = probe(few)
    chosen = min(tried, key=lambda name: tried[name].held_out_loss, default=PLAIN)
    if changes is not None and chosen != EVEN:
        take_back(changes)
    is_done = len(few) == len(sample) and [chosen] == list(tried)[-1:]
    losses = {name: value.held_out_loss for name, value in tried.items()}
    return chosen, tried[chosen] if is_done else probe(sample), losses


def _features(layers: HeadLayers, reader: Reader, tokens: Dataset) -> NDArray[np.float32]:
    """Return what the last layer of the head reads, once the new layers before it are scaled: (labels, features)."""
    for place, layer in enumerate(layers.before):
        _scale(layer, (*layers.before, layers.output)[place + 1], layers.output, reader, tokens)
    return flat(reader.inputs_of(layers.output, layers.output, tokens))


def _sample(task: Task, train: Dataset, seed: int) -> Dataset:
    """Return the examples for fitting a probe. They are shuffled, so that the first ones are a sample too."""
    strata = task.strata(train["labels"][:])
    chosen = stratified_sample(strata, len(train), min(MOST_EXAMPLES, len(train)), seed)
    shuffled = train.select(np.random.default_rng(seed).permutation(chosen))
    labels = task.label_array(shuffled["labels"][:])
    if labels.dtype != object:
        return shuffled
    return shuffled.select(range(max(1, int(np.sum(np.cumsum([len(row) for row in labels]) <= MOST_LABELS)))))


def _scale(layer: nn.Linear, following: nn.Linear, output: nn.Linear, reader: Reader, tokens: Dataset) -> None:
    """Let a new square layer centre and scale each feature, and raise it above zero if the next function cuts there."""
    features = flat(reader.inputs_of(layer, output, tokens))
    size = root_mean_square(features)
    weight, bias = np.diag(1 / size), -features.mean(axis=0) / size
    _set(layer, weight, bias)
    few = tokens.select(range(min(CUT_TRIED, len(tokens))))
    if flat(reader.inputs_of(following, output, few)).min() > CUTS_BELOW:
        _set(layer, weight, bias + ABOVE_ZERO)


def _set(layer: nn.Linear, weight: NDArray[Any], bias: NDArray[Any]) -> None:
    layer.weight.data.copy_(torch.from_numpy(np.ascontiguousarray(weight)))
    if layer.bias is not None:
        layer.bias.data.copy_(torch.from_numpy(np.ascontiguousarray(bias)))


def _measure(
    probe: Probe, task: Task, layers: HeadLayers, reader: Reader, splits: Mapping[str, Dataset]
) -> dict[str, float]:
    """Return the metrics of a run with this head and no steps."""
    scores = {
        split: task.joined(by_row(probe.scores, reader.inputs_of(layers.output, layers.output, tokens)), tokens)
        for split, tokens in splits.items()
    }
    labels = {split: labels_of(task, tokens) for split, tokens in splits.items()}
    return measure(task, scores, labels).task_metrics
