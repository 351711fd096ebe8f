"""`Task`: what is learned from texts. A kind of task is a subclass in its own file, which `table.py` lists."""

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from qvtune.errors import ConfigError, ModelError
from qvtune.options import option_name
from qvtune.tasks.optional import Optional

if TYPE_CHECKING:  # these take seconds to import, and the command line only lists the kinds of task
    from datasets import Dataset
    from torch import Tensor, nn
    from transformers import PreTrainedTokenizerBase
    from typing_extensions import Self

    from qvtune.data.records import Records
    from qvtune.data.tables import Table
    from qvtune.tasks.options import DataOptions

# How many labels a message names.
LISTED = 6
# Options about texts that a model writes, which kinds of task refuse where it writes none.
WRITING = ("train_on", "chat_template", "answer_pattern", "generate_samples", "max_new_tokens")


@dataclass(frozen=True)
class Task(Optional):
    """What is learned from one or two texts, and everything that depends on it.

    A kind of task is a subclass. It defines what is abstract here, and overrides what differs for it. `Optional` has
    the hooks that few kinds need. Below, n is a
    number of examples and k is `num_outputs`. Scores are what `scores` returns, (n, k) float32 unless a kind says
    otherwise. Labels are what `label_of` returns for cells, (n,) as an array unless `label_array` says otherwise.

    Attributes:
        kind: its name for `--task-type`.
        noun: the same in a sentence, such as "a regression".
        head: the ending of transformers' classes with the head, as in `BertForSequenceClassification`.
        problem_type: its name in a model's configuration, which a merged model stores for others.
        loss_name: the loss of `losses`, in words.
        mistake_size: the entry of a mistake by which mistakes are sorted, the largest first.
        has_class_weights: whether `loss` weighs examples by class.
        needs_tuning: whether `fitted` needs examples that neither train nor are reported.
        cuts_texts: whether a text of too many tokens is cut.
        beside: columns of `encode` that the model is not given, beside `labels`; a batch holds them.
        has_new_head: whether a model may come without the head, which then starts at random and trains.
        writes: whether a model writes texts, which `predict` gives.
        most_tokens: most tokens of an example if the user does not say.
        name: name of the data.
        labels: names of the classes in the order of their ids; empty if labels are not classes.
        metric_set: names a row of `metrics.METRICS`; files store it as `metrics`.
        main_metric: the metric that chooses a checkpoint: higher is better.
        text_columns, label_column: names in the source, used again on new data.
    """

    kind: ClassVar[str]
    noun: ClassVar[str]
    head: ClassVar[str] = "ForSequenceClassification"
    problem_type: ClassVar[str | None] = None
    loss_name: ClassVar[str] = "loss"
    mistake_size: ClassVar[str] = "loss"
    has_class_weights: ClassVar[bool] = False
    needs_tuning: ClassVar[bool] = False
    beside: ClassVar[tuple[str, ...]] = ()
    cuts_texts: ClassVar[bool] = True
    has_new_head: ClassVar[bool] = True
    writes: ClassVar[bool] = False
    most_tokens: ClassVar[int] = 512

    name: str
    labels: tuple[str, ...]
    metric_set: str
    main_metric: str
    text_columns: tuple[str, ...]
    label_column: str

    # From a table to examples.

    @classmethod
    def recognises(cls, table: "Table") -> bool:
        """Return whether the columns of a table, and its first cells, can only be for this kind of task."""
        return False

    @classmethod
    def read(
        cls, table: "Table", text_columns: Sequence[str] | None = None, label_columns: Sequence[str] | None = None
    ) -> tuple["Records", str | None]:
        """Pick the columns of this kind of task from a table, and check their cells.

        Args:
            table: rows of any source.
            text_columns: names of the columns with the texts; guessed when None.
            label_columns: names of the columns with the labels; guessed when None.

        Returns:
            The records, and a sentence about the guess, or None.

        Raises:
            DataError: if the columns cannot be guessed, or a cell is not what the kind needs.
        """
        from qvtune.data.records import check_single_labels, take_columns

        records, note = take_columns(table, text_columns, label_columns)
        check_single_labels(records)
        return records, note

    @classmethod
    @abstractmethod
    def from_records(cls, name: str, records: "Records") -> "Self":
        """Make the task for a user's own data, from its training rows.

        Raises:
            DataError: if there is nothing to learn from them.
        """

    @abstractmethod
    def label_of(self, value: Any, place: str) -> Any:
        """Return the label for a cell of the label column: a class id or a number.

        Args:
            value: the cell, as in its source.
            place: where it is, for messages.

        Raises:
            DataError: if it is not a label of this task.
        """

    def configured(self, options: "DataOptions") -> "Self":
        """Return the task with what the options say about it.

        Raises:
            ConfigError: for an option of another kind of task.
        """
        for name in WRITING:
            if getattr(options, name) is not None:
                raise ConfigError(
                    f"{option_name(name)} is for conversations and completions, and {self.name} is {self.noun}. Leave "
                    "it out."
                )
        return self

    def examples(self, records: "Records") -> "Dataset":
        """Return the examples of records: `text`, `text_pair` if there are two texts, and `label`.

        Raises:
            DataError: if a label is not one of this task.
        """
        from qvtune.data.records import text_dataset

        labels = [self.label_of(v, place) for v, place in zip(records.labels, records.places, strict=True)]
        return text_dataset(records.texts, labels)

    def unlabelled(self, table: "Table", text_columns: Sequence[str]) -> "Dataset":
        """Return the texts of a table as `examples` does, without labels, for predictions.

        Raises:
            DataError: if one is missing or is not a text.
        """
        from qvtune.data.records import take_texts, text_dataset

        return text_dataset(take_texts(table.column, text_columns, table.places))

    def explain_guess(self, values: Sequence[Any], places: Sequence[str]) -> str | None:
        """Say why labels were taken for this kind of task, if that needs a sentence.

        Args:
            values: cells of the label column.
            places: where each of them is.
        """
        return None

    def describe_examples(self, labels: Sequence[Any]) -> str:
        """Describe in a sentence what is learned, from the labels of the training examples."""
        return f"{self.kind.capitalize()}, {len(labels):,} training examples."

    def renumbered(self, label: Any, labels: Sequence[str]) -> Any:
        """Return a label of this task as that of the same task with `labels`, which are its own in another order."""
        return labels.index(self.labels[label])

    def balanced_weights(self, labels: Sequence[Any]) -> list[float]:
        """Return the class weights of "balanced", from the labels of the training examples; see `class_weights`."""
        raise NotImplementedError(f"{type(self).__name__} has no class weights, and has_class_weights says so")

    def strata(self, labels: Sequence[Any]) -> Sequence[int] | None:
        """Return an integer for every label, whose shares samples keep, or None if labels have no shares."""
        return None

    # The model.

    @property
    def label_columns(self) -> tuple[str, ...]:
        """The names of the label columns in the source; most kinds have one."""
        return (self.label_column,)

    @property
    @abstractmethod
    def num_outputs(self) -> int:
        """The number of outputs of the head for a text."""

    @property
    def auto_class(self) -> Any:
        """The class of transformers that loads a model with the head."""
        import transformers

        return getattr(transformers, f"AutoModel{self.head}")

    @property
    def loading_arguments(self) -> str:
        """The arguments about the head for `from_pretrained` of that class, as Python code."""
        return f"num_labels={self.num_outputs}"

    def configure(self, config: Any) -> None:
        """Write the head into the configuration of a model."""
        config.num_labels = self.num_outputs
        config.problem_type = self.problem_type

    def match_head(self, known: Sequence[str], source: str) -> tuple["Self", str | None]:
        """Use the head of a checkpoint that was trained before.

        Args:
            known: the names of its outputs, in their order.
            source: what the user called the checkpoint.

        Returns:
            The task, with the labels in the order of the head, and a note about it.

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
            max_length: most tokens per example.

        Returns:
            The inputs of the model, such as `input_ids`, and `labels` if there is a `label`.
        """
        from qvtune.data.tokens import tokenize

        return tokenize(dataset, tokenizer, max_length)

    def collator(self, tokenizer: "PreTrainedTokenizerBase") -> Callable[[list[dict[str, Any]]], Any]:
        """Return a function that makes a batch from rows of `encode`, with or without labels.

        Returns:
            A function of rows. It returns a mapping of tensors that has a method `to`: ids (n, s) int64, padded on the
            right, and `labels` (n,), int64 or float32.
        """
        from transformers import DataCollatorWithPadding

        return DataCollatorWithPadding(tokenizer)

    def forward(self, model: "nn.Module", batch: Mapping[str, Any]) -> Any:
        """Run a model on a batch, and return the outputs for `loss`."""
        return model(**self.model_inputs(batch))

    @abstractmethod
    def loss(self, outputs: Any, batch: Mapping[str, Any], class_weights: Sequence[float] | None = None) -> "Tensor":
        """Return the loss of a batch, summed over its examples; `count` divides it, so parts of a step add up exactly.

        Args:
            outputs: what `forward` returned for the batch.
            batch: what the model was given, with its `labels`.
            class_weights: weights of the examples by class, if the kind has them; all equal when None.

        Returns:
            Σ w l: () float32 on the device of the outputs, with a gradient.
        """

    def count(self, batch: Mapping[str, Any], class_weights: Sequence[float] | None = None) -> "Tensor":
        """Return the divisor of a batch's summed loss, before any forward pass.

        Args:
            batch: with its `labels`.
            class_weights: as for `loss`.

        Returns:
            Σ w: () float32 on the device of the labels; the number of examples if all weights are 1.
        """
        import torch

        return torch.tensor(float(len(batch["labels"])), device=batch["labels"].device)

    def model_inputs(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """Return the part of a batch that the model is given."""
        return {name: value for name, value in batch.items() if name not in ("labels", *self.beside)}

    def scores(self, outputs: Any, batch: Mapping[str, Any]) -> NDArray[Any]:
        """Return the scores from a forward pass: float32, with the rows of the batch as the first dimension."""
        return logits_of(outputs).cpu().numpy()

    def by_label(self, values: "Tensor", batch: Mapping[str, Any]) -> NDArray[Any] | None:
        """Return values (n, s, d) of tokens where the labels are, or None if a row has one label.

        Returns:
            (n,) arrays of (labels, d).
        """
        return None

    # Results, in NumPy.

    def label_array(self, labels: Sequence[Any]) -> NDArray[Any]:
        """Return the labels of rows, as `encode` or `examples` gives them, as an array of as many."""
        return np.asarray(labels)

    def joined(self, values: NDArray[Any], tokens: "Dataset") -> NDArray[Any]:
        """Return scores or labels by example, where `encode` made several rows of one; `tokens` are the rows."""
        return values

    def fitted(self, scores: NDArray[Any], labels: NDArray[Any]) -> "Self":
        """Return the task with what is fitted on the scores of a tuning set, such as thresholds; most fit nothing."""
        return self

    def is_finite(self, scores: NDArray[Any]) -> bool:
        """Return whether all scores are finite."""
        return bool(np.isfinite(scores).all())

    def are_equal(self, labels: NDArray[Any]) -> bool:
        """Return whether all examples have the same label, so that predictions cannot show what was learned."""
        return bool(np.ptp(labels) == 0)

    def mean_loss(self, scores: NDArray[Any], labels: NDArray[Any]) -> float:
        """Return the unweighted mean loss of a set."""
        return float(self.losses(scores, labels).mean())

    @abstractmethod
    def predicted(self, scores: NDArray[Any]) -> NDArray[Any]:
        """Return what the model predicts, (n,): class ids, or numbers."""

    def metrics(self, scores: NDArray[Any], labels: NDArray[Any]) -> dict[str, float]:
        """Compare a model's outputs with the labels.

        Returns:
            The metrics of `metric_set`, each as a fraction or a correlation, not as a percentage.
        """
        from qvtune.tasks.metrics import METRICS

        predictions = self.predicted(scores)
        return {name: float(metric(labels, predictions)) for name, metric in METRICS[self.metric_set].items()}

    def shown(self, value: Any) -> Any:
        """Return a label or a prediction for people: the name of a class, or a float."""
        return self.labels[int(value)] if self.labels else float(value)

    def predictions(self, scores: NDArray[Any], examples: "Dataset") -> list[dict[str, Any]]:
        """Return the output of `predict` for every example, by column; `probabilities` may map names to numbers.

        Args:
            scores: the model's outputs.
            examples: the texts, as `unlabelled` returned them.
        """
        return [{"prediction": self.shown(value)} for value in self.predicted(scores)]

    def mistakes(self, scores: NDArray[Any], labels: NDArray[Any], most: int) -> list[tuple[int, dict[str, Any]]]:
        """Return at most `most` of the worst mistakes, the worst first.

        Returns:
            The index of each example, and its `label`, its `prediction` and numbers, with `mistake_size` among them.
        """
        losses, predicted = self.losses(scores, labels), self.predicted(scores)
        return [
            (i, {"label": self.shown(labels[i]), "prediction": self.shown(predicted[i]), "loss": float(losses[i])})
            for i in largest_first(losses, np.flatnonzero(losses > 0), most)
        ]

    def class_table(self, scores: NDArray[Any], labels: NDArray[Any]) -> dict[str, Any]:
        """Return the results of each class, as `classes.describe_classes` does; nothing if there are no classes."""
        return {}

    def judge(self, predicted: NDArray[Any], labels: NDArray[Any], where: str) -> dict[str, str]:
        """Return the warnings about predictions, by subject: see `judging.py`.

        Args:
            predicted: what `predicted` returned; numbers are float64.
            labels: labels of the same examples, not all equal.
            where: the examples in words.
        """
        return {}

    def is_unequal(self, labels: NDArray[Any]) -> bool:
        """Return whether the classes' numbers of examples are so unequal that class weights are worth a try."""
        return False

    # On disk.

    def to_dict(self) -> dict[str, Any]:
        """Return plain lists and dictionaries that JSON can hold; only `settings` differs between kinds."""
        values = asdict(self)
        stored = {"name": values["name"], "kind": self.kind, "labels": values["labels"], "metrics": self.metric_set}
        stored |= {name: values[name] for name in ("main_metric", "text_columns", "label_column")}
        own = {name: value for name, value in values.items() if name not in {field.name for field in fields(Task)}}
        return stored | ({"settings": own} if own else {})

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> "Self":
        """Read what `to_dict` of this kind returned."""
        return cls(
            name=stored["name"],
            labels=tuple(stored["labels"]),
            metric_set=stored["metrics"],
            main_metric=stored["main_metric"],
            text_columns=tuple(stored["text_columns"]),
            label_column=stored["label_column"],
            **{k: tuple(v) if isinstance(v, list) else v for k, v in stored.get("settings", {}).items()},
        )


def logits_of(outputs: Any) -> "Tensor":
    """Return the logits of a model's output, a mapping or an object, in float32."""
    return (outputs["logits"] if isinstance(outputs, Mapping) else outputs.logits).float()


def largest_first(sizes: NDArray[Any], chosen: NDArray[Any], most: int) -> list[int]:
    """Return at most `most` of the chosen indices of `sizes`, the largest sizes first."""
    return chosen[np.argsort(-sizes[chosen], kind="stable")][:most].tolist()


def list_names(names: Sequence[str]) -> str:
    """Return the first names of a list as one text."""
    return ", ".join(names[:LISTED]) + (", ..." if len(names) > LISTED else "")
