"""`Tagging`: a tag for every word of a text, such as the begin and the inside of entities."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qvtune.data.places import place_of_word
from qvtune.errors import DataError, nearest
from qvtune.tasks import linear, tagged_words
from qvtune.tasks.classes import describe_classes
from qvtune.tasks.entities import OUTSIDE, PLAIN, check_sequence, entities_of, scheme_of, split_tag
from qvtune.tasks.judging import judge_tags
from qvtune.tasks.named import NamedOutputs
from qvtune.tasks.ragged import by_row, flat, ragged
from qvtune.tasks.task import largest_first, list_names, logits_of

if TYPE_CHECKING:
    from datasets import Dataset
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

    from qvtune.data.records import Records
    from qvtune.data.tables import Table

# A tag without a place in a batch, and a position without one.
PADDING = -100, -1
LISTED = 8


@dataclass(frozen=True)
class Tagging(NamedOutputs):
    """A logit for each tag at the first token of a word, and the cross entropy of every word in nats.

    Scores are (n,) arrays of (words, k) float32, labels (n,) arrays of (words,) tag ids. Losses, linear models and
    metrics also take words of several texts, one after the other: (words, k) and (words,).

    Attributes:
        scheme: "IOB2" or "IOBES" if tags mark entities, else "plain".
    """

    kind: ClassVar[str] = "tagging"
    noun: ClassVar[str] = "a task with a tag for every word"
    head: ClassVar[str] = "ForTokenClassification"
    loss_name: ClassVar[str] = "cross entropy of a word"
    has_class_weights: ClassVar[bool] = True
    beside: ClassVar[tuple[str, ...]] = ("example", "words", "positions")
    cuts_texts: ClassVar[bool] = False

    scheme: str = PLAIN

    @classmethod
    def recognises(cls, table: "Table") -> bool:
        """Return whether a column holds lists of words, and another as many tags for them."""
        return all(tagged_words.find_columns(table))

    @classmethod
    def read(
        cls, table: "Table", text_columns: Sequence[str] | None = None, label_columns: Sequence[str] | None = None
    ) -> tuple["Records", str | None]:
        """Pick the columns of words and tags, and check that every word has a tag.

        Raises:
            DataError: if there are no such columns, or a row has other numbers of words and tags, or no words.
        """
        return tagged_words.read_columns(table, text_columns, label_columns)

    @classmethod
    def from_records(cls, name: str, records: "Records") -> "Tagging":
        """Make the task for a user's own data: its tags come from the training rows, with O first.

        Raises:
            DataError: if there is only one tag, or an entity goes on that has not begun.
        """
        found = {tag for tags in records.labels for tag in tags}
        if len(found) < 2:
            raise DataError(
                f"{records.source}: every word has the tag '{found.pop()}'; there is nothing to tell apart."
            )
        scheme = scheme_of(sorted(found))
        for tags, place in zip(records.labels, records.places, strict=True):
            check_sequence(tags, scheme, place)
        tags = tuple(sorted(found, key=lambda tag: (tag != OUTSIDE, *reversed(split_tag(tag)))))
        metric_set, main = ("tags", "f1_macro") if scheme == PLAIN else ("entities", "f1")
        return cls(name, tags, metric_set, main, records.text_columns, records.label_column, scheme)

    def label_of(self, value: Sequence[str], place: str) -> list[int]:
        """Return the ids of the tags of a text.

        Raises:
            DataError: if the training rows lack a tag, or an entity goes on that has not begun.
        """
        for number, tag in enumerate(value, 1):
            if tag not in self.labels:
                raise DataError(
                    f"{place_of_word(place, number)}: the tag '{tag}' does not occur in the training data, which has "
                    f"{list_names(self.labels)}.{nearest(tag, self.labels)}"
                )
        check_sequence(value, self.scheme, place)
        return [self.labels.index(tag) for tag in value]

    def examples(self, records: "Records") -> "Dataset":
        """Return `text`, the `spans` of its words in characters, and `label`, the ids of their tags."""
        labels = [self.label_of(v, place) for v, place in zip(records.labels, records.places, strict=True)]
        return tagged_words.text_dataset(records.texts[0]).add_column("label", labels)

    def unlabelled(self, table: "Table", text_columns: Sequence[str]) -> "Dataset":
        """Return the texts of a table; one that is not a list of words is divided into words and signs.

        Raises:
            DataError: if a cell is neither a text nor a list of words.
        """
        return tagged_words.text_dataset(tagged_words.read_texts(table, text_columns[0]))

    def explain_guess(self, values: Sequence[Any], places: Sequence[str]) -> str:
        """Say that words have tags."""
        return "Guessed from the columns: every word has a tag."

    def describe_examples(self, labels: Sequence[Sequence[int]]) -> str:
        """Say how many training examples there are, and how many entities or words of each type."""
        counts = Counter(kind for tags in labels for kind in self._kinds(tags))
        words = [f"{kind} ({n:,})" for kind, n in sorted(counts.items())]
        more = f", and {len(words) - LISTED} more" if len(words) > LISTED else ""
        what = "Tags" if self.scheme == PLAIN else f"Entities ({self.scheme})"
        return (
            f"{what} of {sum(map(len, labels)):,} words in {len(labels):,} training examples: "
            f"{', '.join(words[:LISTED])}{more}."
        )

    def _kinds(self, tags: Sequence[int]) -> list[str]:
        names = self.shown(tags)
        return names if self.scheme == PLAIN else [entity.type for entity in entities_of(names)]

    def renumbered(self, label: Sequence[int], labels: Sequence[str]) -> list[int]:
        """Return tag ids in the order of `labels`."""
        return [labels.index(self.labels[tag]) for tag in label]

    def strata(self, labels: Sequence[Any]) -> Sequence[int] | None:
        """Return, for every text, 1 + the number of the rarest tag in it; for words one after the other, their tags."""
        if np.ndim(labels[0]) == 0:
            return [int(tag) for tag in labels]
        counts = Counter(tag for tags in labels for tag in tags)
        return [min(tags, key=lambda tag: (counts[tag], tag), default=-1) + 1 for tags in labels]

    def balanced_weights(self, labels: Sequence[Sequence[int]]) -> list[float]:
        """Return n / (k n_t) for a tag that n_t of n words have, of k tags, and 1 for a tag without words."""
        counts = np.bincount(np.concatenate([np.asarray(tags, int) for tags in labels]), minlength=self.num_outputs)
        present = int((counts > 0).sum())
        return [int(counts.sum()) / (present * int(count)) if count else 1.0 for count in counts]

    # Batches and the loss.

    def encode(self, dataset: "Dataset", tokenizer: "PreTrainedTokenizerBase", max_length: int) -> "Dataset":
        """Return the windows of texts, as `windows.window_rows` does."""
        from qvtune.tasks.windows import window_rows, windows_of

        spans = [[(start, end) for start, end in found] for found in dataset["spans"][:]]
        windows = windows_of(dataset["text"][:], spans, tokenizer, max_length)
        return window_rows(windows, dataset["label"][:] if "label" in dataset.column_names else None)

    def describe_tokens(self, tokens: "Dataset", tokenizer: "PreTrainedTokenizerBase") -> list[str]:
        """Say how many training texts are read in several windows."""
        windows = Counter(tokens["example"][:])
        if not (several := sum(number > 1 for number in windows.values())):
            return []
        return [
            f"{several:,} of {len(windows):,} training texts have more tokens than are read at once, and are read in "
            "windows that overlap (--max-length)."
        ]

    def collator(self, tokenizer: "PreTrainedTokenizerBase") -> Callable[[list[dict[str, Any]]], Any]:
        """Return a function that pads `positions` and `labels` of words (n, w) beside the tokens (n, s)."""
        import torch

        def pad(rows: list[list[int]], value: int) -> "Tensor":
            width = max(map(len, rows))
            return torch.tensor([[*row, *[value] * (width - len(row))] for row in rows], dtype=torch.int64)

        def collate(rows: list[dict[str, Any]]) -> Any:
            own = (*self.beside, "labels")
            batch = tokenizer.pad([{k: v for k, v in row.items() if k not in own} for row in rows], return_tensors="pt")
            batch["positions"] = pad([row["positions"] for row in rows], PADDING[1])
            if "labels" in rows[0]:
                batch["labels"] = pad([row["labels"] for row in rows], PADDING[0])
            return batch

        return collate

    def loss(self, outputs: Any, batch: Mapping[str, Any], class_weights: Sequence[float] | None = None) -> "Tensor":
        """Return Σ w l over the words of the batch."""
        import torch

        logits = _at_words(logits_of(outputs), batch)
        weights = None if class_weights is None else torch.tensor(class_weights, device=logits.device)
        return torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), batch["labels"].flatten(), weight=weights, ignore_index=PADDING[0], reduction="sum"
        )

    def count(self, batch: Mapping[str, Any], class_weights: Sequence[float] | None = None) -> "Tensor":
        """Return Σ w over the words of the batch."""
        import torch

        labels = batch["labels"][batch["labels"] != PADDING[0]]
        if class_weights is None:
            return torch.tensor(float(len(labels)), device=labels.device)
        return torch.tensor(class_weights, device=labels.device)[labels].sum()

    def scores(self, outputs: Any, batch: Mapping[str, Any]) -> NDArray[Any]:
        """Return the logits of the words of every row: (n,) arrays of (words, k)."""
        return self.by_label(logits_of(outputs), batch)

    def by_label(self, values: "Tensor", batch: Mapping[str, Any]) -> NDArray[Any]:
        """Return values (n, s, d) of tokens at the words of every row: (n,) arrays of (words, d) float32."""
        there = (batch["positions"] != PADDING[1]).cpu().numpy()
        found = _at_words(values, batch).float().cpu().numpy()
        return ragged([row[mask] for row, mask in zip(found, there, strict=True)])

    # Results, in NumPy.

    def label_array(self, labels: Sequence[Any]) -> NDArray[Any]:
        """Return (n,) arrays of the tag ids of words."""
        rows = [np.asarray(row, dtype=np.int64) for row in labels]
        return ragged([row[row != PADDING[0]] for row in rows])

    def joined(self, values: NDArray[Any], tokens: "Dataset") -> NDArray[Any]:
        """Put the words of the windows of a text together, in their order."""
        examples, words = tokens["example"][:], tokens["words"][:]
        rows_of: dict[int, list[int]] = {}
        for row, example in enumerate(examples):
            rows_of.setdefault(example, []).append(row)
        return ragged(
            [
                np.concatenate([values[row] for row in rows])[np.argsort(np.concatenate([words[row] for row in rows]))]
                if len(rows) > 1
                else values[rows[0]]
                for rows in rows_of.values()
            ]
        )

    def is_finite(self, scores: NDArray[Any]) -> bool:
        """Return whether all scores are finite."""
        return all(np.isfinite(row).all() for row in scores)

    def are_equal(self, labels: NDArray[Any]) -> bool:
        """Return whether all words have the same tag."""
        return len(np.unique(flat(labels))) < 2

    def losses(self, scores: NDArray[Any], labels: NDArray[Any]) -> NDArray[np.float64]:
        """Return the loss of every text, (n,): that of its words, scaled so that the mean over texts is that of words.

        Of words one after the other, it is the cross entropy of each.
        """
        from scipy.special import log_softmax

        of_words = -log_softmax(flat(scores).astype(np.float64), axis=1)
        of_words = of_words[np.arange(len(of_words)), flat(labels)]
        if scores.dtype != object:
            return of_words
        ends = np.cumsum([len(row) for row in labels])
        sums = np.array([part.sum() for part in np.split(of_words, ends[:-1])])
        return sums * len(sums) / len(of_words)

    def predicted(self, scores: NDArray[Any]) -> NDArray[Any]:
        """Return the tag with the largest logit of every word: (n,) arrays of (words,)."""
        return by_row(lambda row: row.argmax(axis=-1), scores)

    def metrics(self, scores: NDArray[Any], labels: NDArray[Any]) -> dict[str, float]:
        """Return precision, recall and F1 of entities by seqeval, and the share of right tags.

        For plain tags: the share of right tags, and macro F1.
        """
        from qvtune.tasks.metrics import METRICS

        chosen, found = METRICS[self.metric_set], self.predicted(scores)
        if self.scheme == PLAIN:
            return {name: float(metric(flat(labels), flat(found))) for name, metric in chosen.items()}
        wanted, called = ([self.shown(row) for row in rows] for rows in (labels, found))
        return {name: float(metric(wanted, called)) for name, metric in chosen.items()}

    def shown(self, value: Any) -> list[str]:
        """Return the names of tag ids."""
        return [self.labels[int(tag)] for tag in value]

    def predictions(self, scores: NDArray[Any], examples: "Dataset") -> list[dict[str, Any]]:
        """Return the `words` of every text, their `tags`, and its `entities` with their place in characters.

        Of a text that was given as a list of words, `text` is those with a space between.
        """
        rows = []
        for tags, text, spans in zip(self.predicted(scores), examples["text"][:], examples["spans"][:], strict=True):
            words = [text[start:end] for start, end in spans]
            row: dict[str, Any] = {"text": text, "words": words, "tags": self.shown(tags)}
            if self.scheme != PLAIN:
                row["entities"] = [
                    {"type": e.type, "start": spans[e.first][0], "end": spans[e.last][1]}
                    | {"text": text[spans[e.first][0] : spans[e.last][1]]}
                    for e in entities_of(row["tags"])
                ]
            rows.append(row)
        return rows

    def mistakes(self, scores: NDArray[Any], labels: NDArray[Any], most: int) -> list[tuple[int, dict[str, Any]]]:
        """Return the texts with a wrong tag whose loss is the largest, with the tags that are wrong."""
        predicted, losses = self.predicted(scores), self.losses(scores, labels)
        wrong = [np.flatnonzero(p != y) for p, y in zip(predicted, labels, strict=True)]
        chosen = largest_first(losses, np.flatnonzero([len(places) > 0 for places in wrong]), most)
        return [
            (
                i,
                {
                    "label": _numbered(self.shown(labels[i]), wrong[i]),
                    "prediction": _numbered(self.shown(predicted[i]), wrong[i]),
                    "loss": float(losses[i]),
                },
            )
            for i in chosen
        ]

    def class_table(self, scores: NDArray[Any], labels: NDArray[Any]) -> dict[str, Any]:
        """Return precision, recall, F1 and support of every type of entity, or of every plain tag."""
        predicted = self.predicted(scores)
        if self.scheme == PLAIN:
            return describe_classes(self.labels, flat(predicted), flat(labels))
        from seqeval.metrics.sequence_labeling import precision_recall_fscore_support

        names = [[self.shown(row) for row in rows] for rows in (labels, predicted)]
        called, wanted = (Counter(e.type for tags in rows for e in entities_of(tags)) for rows in reversed(names))
        columns = precision_recall_fscore_support(*names, average=None, zero_division=0)
        return {
            "classes": [
                {
                    "label": kind,
                    "precision": float(precision),
                    "recall": float(recall),
                    "f1": float(f1),
                    "support": int(support),
                    "predicted": called[kind],
                }
                for kind, precision, recall, f1, support in zip(sorted({*called, *wanted}), *columns, strict=True)
            ]
        }

    def judge(self, predicted: NDArray[Any], labels: NDArray[Any], where: str) -> dict[str, str]:
        """Warn of predictions that find nothing, or never an entity of some type."""
        found, wanted = ([self._kinds(tags) for tags in rows] for rows in (predicted, labels))
        return judge_tags(found, wanted, where)

    def is_unequal(self, labels: NDArray[Any]) -> bool:
        """Return False: most words have the tag O, and that is no reason to weigh them less."""
        return False

    # Linear models, of words one after the other.

    def probe_problem(self, labels: ArrayLike) -> str | None:
        """Say so if there is only one tag."""
        return "the training words are of one tag" if len(np.unique(flat(np.asarray(labels)))) < 2 else None

    def example_weights(self, labels: NDArray[Any], class_weights: NDArray[Any]) -> NDArray[Any]:
        """Return the weight of the tag of every word."""
        return class_weights[labels]

    def fit_linear(
        self,
        features: NDArray[Any],
        labels: NDArray[Any],
        strengths: Sequence[float],
        class_weights: NDArray[Any] | None,
        has_bias: bool,
    ) -> list[tuple[NDArray[Any], NDArray[Any]]]:
        """Fit multinomial logistic regressions of words; a tag that does not occur is never predicted."""
        return linear.fit_logistic(features, labels, strengths, class_weights, has_bias, self.num_outputs)


def _at_words(values: "Tensor", batch: Mapping[str, Any]) -> "Tensor":
    """Return values (n, s, d) at the positions of words: (n, w, d); at places without a word, those of the first."""
    import torch

    positions = batch["positions"].clamp(min=0)
    return values[torch.arange(len(values), device=values.device)[:, None], positions]


def _numbered(tags: Sequence[str], places: NDArray[Any]) -> str:
    return ", ".join(f"{place + 1} {tags[place]}" for place in places[:LISTED]) + (
        " ..." if len(places) > LISTED else ""
    )
