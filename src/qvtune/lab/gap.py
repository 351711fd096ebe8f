"""The measured generalisation gap of a finished run, beside Theorem 1's bound on it."""

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from datasets import Dataset
from numpy.typing import NDArray
from pydantic import ValidationError
from safetensors import safe_open

from qvtune.errors import RunError
from qvtune.methods.table import METHODS
from qvtune.roles.attention import AttentionMap
from qvtune.stored import first_problem
from qvtune.tasks.examples import TUNING
from qvtune.tasks.load import limit
from qvtune.theory.bound import Bound, generalization_bound
from qvtune.training.evaluate import labels_of
from qvtune.training.folder import AGAIN, RunFolder
from qvtune.training.inference import TrainedRun, own_data, score_texts

# Half the width of a gap's 95 % confidence interval in standard errors, by a normal distribution: there are many
# losses.
INTERVAL = 1.96
# A mean over this many losses has a standard error of about a hundredth of their spread.
MOST_EXAMPLES = 10_000


@dataclass(frozen=True)
class Gap:
    """Mean losses of a trained model in evaluation mode, on new examples and on its training examples.

    Attributes:
        gap: `new_loss` minus `train_loss`, in the loss's unit.
        standard_error: standard error of the gap, from the spread of the losses over the examples.
        loss: the measured loss: "cross entropy", in nats, "squared error", or another loss of the kind of task.
        split: the evaluation set that gives the new examples: the first, if there are two.
        train_examples, new_examples: how many were measured, at most `MOST_EXAMPLES` of each.
        lowest, highest: the smallest and the largest loss.
    """

    gap: float
    standard_error: float
    loss: str
    split: str
    train_loss: float
    new_loss: float
    train_examples: int
    new_examples: int
    lowest: float
    highest: float
    notes: tuple[str, ...]


@dataclass(frozen=True)
class MeasuredBound:
    """A run's bound and its gap.

    Attributes:
        other_numbers: how many numbers trained that are not part of the theorem: the head and biases.
        bound_with_others: the bound if these are counted like those of the adapted matrices.
    """

    run: str
    model: str
    bound: Bound
    gap: Gap
    other_numbers: int
    bound_with_others: float

    @property
    def looseness(self) -> float | None:
        """The bound divided by the size of the gap; None if the gap's 95 % interval contains 0."""
        is_told = abs(self.gap.gap) > INTERVAL * self.gap.standard_error
        return self.bound.bound / abs(self.gap.gap) if is_told else None

    @property
    def least_looseness(self) -> float | None:
        """The bound divided by the largest size of a gap in that interval; None if all losses are equal."""
        largest = abs(self.gap.gap) + INTERVAL * self.gap.standard_error
        return self.bound.bound / largest if largest else None

    def to_dict(self) -> dict[str, Any]:
        """Return plain lists and dictionaries that JSON can hold."""
        return {
            "run": self.run,
            "model": self.model,
            **self.bound.to_dict(),
            "measured": asdict(self.gap) | {"looseness": self.looseness, "least_looseness": self.least_looseness},
            "other_numbers": self.other_numbers,
            "bound_with_others": self.bound_with_others,
        }


def measure_bound(run: TrainedRun, *, sub_gaussian: float = 1.0) -> MeasuredBound:
    """Compute the bound of a finished run, and measure its generalisation gap.

    Roles, method, rank, layers, number of training examples and bits per stored number come from the run.

    Args:
        run: the run.
        sub_gaussian: R of its loss.

    Raises:
        AdaptError: if the theorem does not cover the run's method.
        ConfigError: if `sub_gaussian` makes no sense.
        DataError: if the run's data have changed or are gone.
        RunError: if files of the run are damaged.
    """
    config, folder = run.config, run.folder
    plan, result = folder.read_plan(), folder.read_result()
    bound = generalization_bound(
        attention_of_run(run),
        **{name: config.method_options[name] for name in ("roles", "rank", "layers")},
        method=config.method,
        examples=result["train_examples"],
        bits=stored_bits(folder, config.method),
        sub_gaussian=sub_gaussian,
    )
    gap = measure_gap(run)
    others = plan["parameters_trainable"] - bound.numbers
    return MeasuredBound(
        run=str(folder.path),
        model=config.model,
        bound=bound,
        gap=gap,
        other_numbers=others,
        bound_with_others=bound.bound * math.sqrt(1 + others / bound.numbers),
    )


def measure_gap(run: TrainedRun) -> Gap:
    """Measure the loss of a run's model on its training and its evaluation examples.

    From more than `MOST_EXAMPLES` examples a sample is drawn, with the run's seed and stratified by class.

    Raises:
        DataError: if the run's data have changed or are gone.
        RunError: if files of the run are damaged.
    """
    data = own_data(run)
    split = next(name for name in data.evaluation if name != TUNING)
    notes: list[str] = []
    losses = []
    for dataset, what in ((data.train, "training"), (data.evaluation[split], split)):
        sample, note = limit(dataset, run.task, MOST_EXAMPLES, run.config.seed, what)
        losses.append(_losses(run, sample))
        notes += note
    train, new = losses
    chosen_on = run.folder.read_result()["checkpoint"]["chosen_on"]
    if chosen_on == "validation":
        notes.append("The checkpoint was chosen on the evaluation set, which can make the gap a little smaller.")
    both = np.concatenate(losses)
    return Gap(
        gap=float(new.mean() - train.mean()),
        standard_error=math.sqrt(sum(float(part.var()) / len(part) for part in losses)),
        loss=run.task.loss_name,
        split=split,
        train_loss=float(train.mean()),
        new_loss=float(new.mean()),
        train_examples=len(train),
        new_examples=len(new),
        lowest=float(both.min()),
        highest=float(both.max()),
        notes=tuple(notes),
    )


def attention_of_run(run: TrainedRun) -> AttentionMap:
    """Return the attention map of a run's model.

    Raises:
        RunError: if its plan is damaged.
    """
    try:
        return AttentionMap.from_dict(run.folder.read_plan()["attention"])
    except ValidationError as error:
        raise RunError(f"{run.folder.plan}: is damaged, or was edited: {first_problem(error)}. {AGAIN}") from None


def stored_bits(folder: RunFolder, method: str) -> int:
    """Return the number of bits in which a run stored each trained number."""
    saved = folder.adapter if METHODS[method].saves == "adapter" else folder.model
    kinds = set()
    for path in saved.glob("*.safetensors"):
        with safe_open(path, "pt") as file:
            kinds |= {file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118 (no mapping)
    return max(int("".join(filter(str.isdigit, kind))) for kind in kinds)  # from "F32" or "BF16"


def _losses(run: TrainedRun, dataset: Dataset) -> NDArray[np.float64]:
    """Return the loss of every example."""
    tokens = run.task.encode(dataset, run.tokenizer, run.max_length)
    return run.task.losses(score_texts(run, tokens), labels_of(run.task, tokens))
