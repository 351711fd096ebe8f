"""`Task`: what is learned of texts. A kind of task is a subclass in a file of its own, which `table.py` lists."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qvtune.errors import ModelError

if TYPE_CHECKING:  # the command line lists the kinds of task, and these take seconds to import
    from datasets import Dataset
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase
    from typing_extensions import Self

    from qvtune.data.records import Records

# Names of labels in a message.
LISTED = 6


@dataclass(frozen=True)
class Task(ABC):
    """What is learned of one or two texts, and all that depends on it.

    A kind of task is a subclass. It says what is abstract here, and whatever else of this is not so for it. In what
    follows n is a number of examples and k is `num_outputs`; scores are what `outputs` keeps of a model, (n, k) float32
    unless a kind says something else, and labels are what `label_of` makes of cells, (n,) as an array.

    Attributes:
        kind: what `--task-type` calls it.
        noun: the same in a sentence, as "a regression".
        head: how the classes of transformers end that have the head, as in `BertForSequenceClassification`.
        problem_type: what a model's configuration calls it, which a merged model keeps for others.
        loss_name: of `losses`, in words.
        mistake_size: the entry of a mistake by which mistakes are sorted, the largest first.
        has_class_weights: whether `loss` weighs examples by class.
        name: of the data.
        labels: names of the classes in the order of their ids; empty where labels are none.
        metric_set: names a row of `metrics.METRICS`, and is called `metrics` where it is stored.
        main_metric: the one that chooses a checkpoint: the higher, the better.
        text_columns, label_column: names in the source, used again on new data.
    """

    kind: ClassVar[str]
    noun: ClassVar[str]
    head: ClassVar[str] = "ForSequenceClassification"
    problem_type: ClassVar[str | None] = None
    loss_name: ClassVar[str] = "loss"
    mistake_size: ClassVar[str] = "loss"
    has_class_weights: ClassVar[bool] = False

    name: str
    labels: tuple[str, ...]
    metric_set: str
    main_metric: str
    text_columns: tuple[str, ...]
    label_column: str

    # From records to examples.

    @classmethod
    @abstractmethod
    def from_records(cls, name: str, records: "Records") -> "Self":
        """Make the task of one's own data, from its training rows.

        Raises:
            DataError: if they are nothing to learn from.
        """

    @abstractmethod
    def label_of(self, value: Any, place: str) -> Any:
        """Return what is learned for a cell of the label column: a class id or a number.

        Args:
            value: the cell, as its source has it.
            place: where it stands, for messages.

        Raises:
            DataError: if it is no label of this task.
        """

    def examples(self, records: "Records") -> "Dataset":
        """Return the examples of records: `text`, `text_pair` where there are two, and `label`.

        Raises:
            DataError: if a label is none of this task.
        """
        from qvtune.data.records import text_dataset

        labels = [self.label_of(v, place) for v, place in zip(records.labels, records.places, strict=True)]
        return text_dataset(records.texts, labels)

    def explain_guess(self, values: Sequence[Any], places: Sequence[str]) -> str | None:
        """Say why labels were taken for this kind of task, where that is worth a sentence.

        Args:
            values: cells of the label column.
            places: where each of them stands.
        """
        return None

    def describe_examples(self, labels: Sequence[Any]) -> str:
        """Say in a sentence what is learned from the labels of the training examples."""
        return f"{self.kind.capitalize()}, {len(labels):,} training examples."

    def strata(self, labels: Sequence[Any]) -> Sequence[int] | None:
        """Return an integer for every label, of which samples keep the shares, or None where labels have no shares."""
        return None

    # The model.

    @property
    @abstractmethod
    def num_outputs(self) -> int:
        """Outputs of the head for a text."""

    @property
    def auto_class(self) -> Any:
        """The class of transformers that loads a model with the head."""
        import transformers

        return getattr(transformers, f"AutoModel{self.head}")

    @property
    def loading_arguments(self) -> str:
        """What `from_pretrained` of that class is to be told of the head, as it is written in Python."""
        return f"num_labels={self.num_outputs}"

    def configure(self, config: Any) -> None:
        """Write the head into the configuration of a model."""
        config.num_labels = self.num_outputs
        config.problem_type = self.problem_type

    def match_head(self, known: Sequence[str], source: str) -> tuple["Self", str | None]:
        """Take over the head of a checkpoint that was trained before.

        Args:
            known: the names of its outputs, in their order.
            source: what the user called the checkpoint.

        Returns:
            The task, with the labels in the order of the head, and what is to be said about it.

        Raises:
            ModelError: if the head is for something else.
        """
        if len(known) == self.num_outputs:
            outputs = "one output" if len(known) == 1 else f"{len(known)} outputs"
            return self, (
                f"{source} brings a head of {outputs}, and training goes on from it. If it predicts something "
                "else than this data's label, give --new-head to start it anew."
            )
        raise ModelError(
            f"{source}: its head is for {len(known)} classes ({list_names(known)}), and the task is {self.noun}. "
            "Give --new-head to start the head anew."
        )

    # Batches and the loss.

    def encode(self, dataset: "Dataset", tokenizer: "PreTrainedTokenizerBase", max_length: int) -> "Dataset":
        """Return the tokens of examples.

        Args:
            dataset: with the columns of `examples`; `label` may be absent.
            tokenizer: adds its own special tokens; no padding here.
            max_length: tokens per example at most.

        Returns:
            What the model reads, as `input_ids`, and `labels` where there is a `label`.
        """
        from qvtune.data.tokens import tokenize

        return tokenize(dataset, tokenizer, max_length)

    def collator(self, tokenizer: "PreTrainedTokenizerBase") -> Callable[[list[dict[str, Any]]], Any]:
        """Return what makes a batch of rows that `encode` gave, with or without their labels.

        Returns:
            A function of rows. It returns a mapping of tensors with a method `to`: ids (n, s) int64, padded on the
            right, and `labels` (n,), int64 or float32.
        """
        from transformers import DataCollatorWithPadding

        return DataCollatorWithPadding(tokenizer)

    @abstractmethod
    def loss(self, outputs: Any, batch: Mapping[str, Any], class_weights: Sequence[float] | None = None) -> "Tensor":
        """Return the loss of a batch as a sum over its examples, which `count` divides: parts of a step add up exactly.

        Args:
            outputs: what the model returned for the batch.
            batch: what the model was given, with its `labels`.
            class_weights: of the examples by class, where the kind has such; all weigh alike when None.

        Returns:
            Σ w l: () float32 on the device of the outputs, with a gradient.
        """

    def count(self, batch: Mapping[str, Any], class_weights: Sequence[float] | None = None) -> "Tensor":
        """Return what the summed loss of a batch is divided by, before any forward pass.

        Args:
            batch: with its `labels`.
            class_weights: as for `loss`.

        Returns:
            Σ w: () float32 on the device of the labels; the number of examples, where all weigh 1.
        """
        import torch

        return torch.tensor(float(len(batch["labels"])), device=batch["labels"].device)

    def outputs(self, outputs: Any) -> "Tensor":
        """Return what is kept of a forward pass: float32, the first dimension being the examples."""
        return logits_of(outputs)

    # What came of it, in NumPy.

    @abstractmethod
    def losses(self, scores: NDArray, labels: NDArray) -> NDArray[np.float64]:
        """Return the loss of every example, (n,) float64; none weighs more."""

    @abstractmethod
    def predicted(self, scores: NDArray) -> NDArray:
        """Return what the model predicts, (n,): class ids, or numbers."""

    def metrics(self, scores: NDArray, labels: NDArray) -> dict[str, float]:
        """Compare a model's outputs with the labels.

        Returns:
            The metrics of `metric_set`, each as a fraction or a correlation, not as a percentage.
        """
        from qvtune.tasks.metrics import METRICS

        predictions = self.predicted(scores)
        return {name: float(metric(labels, predictions)) for name, metric in METRICS[self.metric_set].items()}

    def shown(self, value: Any) -> Any:
        """Return a label or a prediction as people read it: the name of a class, or a float."""
        return self.labels[int(value)] if self.labels else float(value)

    def predictions(self, scores: NDArray) -> list[dict[str, Any]]:
        """Return what `predict` writes for every example, by column; `probabilities` may map names to numbers."""
        return [{"prediction": self.shown(value)} for value in self.predicted(scores)]

    def mistakes(self, scores: NDArray, labels: NDArray, most: int) -> list[tuple[int, dict[str, Any]]]:
        """Return the worst mistakes, at most so many, the worst first.

        Returns:
            The number of each example, and its `label`, its `prediction` and numbers, `mistake_size` among them.
        """
        losses, predicted = self.losses(scores, labels), self.predicted(scores)
        return [
            (i, {"label": self.shown(labels[i]), "prediction": self.shown(predicted[i]), "loss": float(losses[i])})
            for i in largest_first(losses, np.flatnonzero(losses > 0), most)
        ]

    def class_table(self, scores: NDArray, labels: NDArray) -> dict[str, Any]:
        """Return how each class does, as `classes.describe_classes` has it; nothing where there are no classes."""
        return {}

    def judge(self, predicted: NDArray, labels: NDArray, where: str) -> dict[str, str]:
        """Return what to warn of in predictions, by what it is about: see `judging.py`.

        Args:
            predicted: what `predicted` gave; numbers are float64.
            labels: of the same examples, not all of them equal.
            where: the examples in words.
        """
        return {}

    def is_unequal(self, labels: NDArray) -> bool:
        """Return whether classes have so unequal numbers of examples that weights for them are worth a try."""
        return False

    # Linear models of it, by scikit-learn.

    def probe_problem(self, labels: ArrayLike) -> str | None:
        """Return why `fit_linear` cannot be asked for these labels, or None where it can."""
        return f"no linear probe is known for {self.noun}"

    def fit_linear(
        self,
        features: NDArray,
        labels: NDArray,
        strengths: Sequence[float],
        class_weights: NDArray | None,
        has_bias: bool,
    ) -> list[tuple[NDArray, NDArray]]:
        """Fit linear heads that minimise mean loss + ‖w‖² / (2 strength).

        Args:
            features: (n, d) float64.
            labels: (n,).
            strengths: one fit for each of them.
            class_weights: (classes,), in the loss.
            has_bias: whether the heads have one, which is not regularised.

        Returns:
            Weight (k, d) and bias (k,) for every strength.
        """
        raise NotImplementedError(f"{type(self).__name__} fits no linear head, and probe_problem says so")

    def resting_output(self, labels: NDArray) -> float:
        """Return the output of a head that knows nothing of a text, towards which a probe's outputs shrink."""
        return 0.0

    def fitted_losses(self, scores: ArrayLike, labels: ArrayLike) -> NDArray[np.float64]:
        """Return the loss of every example, (n,) float64, after the best affine map of the outputs.

        In the first steps of a run most of the loss is a head that is out of scale, which every rate mends; what the
        outputs tell about the labels shows once that is taken away. A kind that knows no such map takes them as they
        are.

        Args:
            scores: (n, k), finite.
            labels: (n,).
        """
        return self.losses(np.asarray(scores), np.asarray(labels))

    # On disk.

    def to_dict(self) -> dict[str, Any]:
        """Return plain lists and dictionaries that JSON can hold, the same for all kinds but for `settings`."""
        values = asdict(self)
        stored = {"name": values["name"], "kind": self.kind, "labels": values["labels"], "metrics": self.metric_set}
        stored |= {name: values[name] for name in ("main_metric", "text_columns", "label_column")}
        own = {name: value for name, value in values.items() if name not in {field.name for field in fields(Task)}}
        return stored | ({"settings": own} if own else {})

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> "Self":
        """Read what `to_dict` of this kind gave."""
        return cls(
            name=stored["name"],
            labels=tuple(stored["labels"]),
            metric_set=stored["metrics"],
            main_metric=stored["main_metric"],
            text_columns=tuple(stored["text_columns"]),
            label_column=stored["label_column"],
            **stored.get("settings", {}),
        )


def logits_of(outputs: Any) -> "Tensor":
    """Return the logits of a model's output, a mapping or an object, in float32."""
    return (outputs["logits"] if isinstance(outputs, Mapping) else outputs.logits).float()


def largest_first(sizes: NDArray, chosen: NDArray, most: int) -> list[int]:
    """Return at most so many of the chosen places of `sizes`, those of the largest first."""
    return chosen[np.argsort(-sizes[chosen], kind="stable")][:most].tolist()


def list_names(names: Sequence[str]) -> str:
    """Return the first names of a list in a row."""
    return ", ".join(names[:LISTED]) + (", ..." if len(names) > LISTED else "")
