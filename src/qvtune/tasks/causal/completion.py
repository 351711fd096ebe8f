"""`Completion`: a causal language model learns to go on from prompts, or to answer in conversations."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from qvtune.data.columns import LABELS, check_named
from qvtune.data.records import Records
from qvtune.errors import DataError
from qvtune.tasks.causal.answers import check_pattern, wanted_answer
from qvtune.tasks.causal.choices import COMPLETION
from qvtune.tasks.causal.conversation import Conversation
from qvtune.tasks.causal.forms import KNOWN, Form, find_form, named_form, read_form, read_questions
from qvtune.tasks.causal.messages import read_turns
from qvtune.tasks.task import Task, largest_first

if TYPE_CHECKING:
    from datasets import Dataset
    from torch import Tensor, nn
    from transformers import PreTrainedTokenizerBase

    from qvtune.data.tables import Table
    from qvtune.tasks.options import DataOptions

# How many characters of an example are shown at the start of a run.
SHOWN = 2_000


@dataclass(frozen=True)
class Completion(Task):
    """What an assistant says after what was said before, token by token, by cross entropy in nats.

    Scores are (n, 2): the loss of an example, summed over its trained tokens, and the number of these.
    """

    kind: ClassVar[str] = "completion"
    noun: ClassVar[str] = "a completion of texts"
    head: ClassVar[str] = "ForCausalLM"
    has_new_head: ClassVar[bool] = False
    writes: ClassVar[bool] = True
    most_tokens: ClassVar[int] = 2048
    loss_name: ClassVar[str] = "cross entropy per token"

    train_on: str = COMPLETION
    chat_template: str | None = None
    answer_pattern: str | None = None
    generate_samples: int = 0
    max_new_tokens: int = 256
    is_raw: bool = False
    final_column: str | None = None

    # From records to examples.

    @classmethod
    def recognises(cls, table: "Table") -> bool:
        """Return whether the columns are those of conversations, instructions, or prompts with completions."""
        return find_form(table.columns) is not None and not any(name.lower() in LABELS for name in table.columns)

    @classmethod
    def read(
        cls, table: "Table", text_columns: Sequence[str] | None = None, label_columns: Sequence[str] | None = None
    ) -> tuple[Records, str | None]:
        """Read conversations, or prompts with completions.

        Raises:
            DataError: if the columns have none of the forms, or a cell is not what its form says.
        """
        check_named(table.source, table.columns, [*(text_columns or ()), *(label_columns or ())])
        form = named_form(table.columns, text_columns, label_columns, lambda name: table.column(name)[0])
        if form is None:
            raise DataError(
                f"{table.source}: which columns hold the conversations, or prompts and completions? The columns are "
                f"{', '.join(table.columns)}. Name yours by --text-column and --label-column. Known are: {KNOWN}."
            )
        found = read_form(form, table.column, table.places)
        texts = [conversation.to_text() for conversation in found.conversations]
        answers = tuple(name for name in (form.answer or form.question, form.final) if name is not None)
        note = f"{form.describe()[:1].upper()}{form.describe()[1:]}.{f' {found.note}' if found.note else ''}"
        return Records(table.source, form.columns, answers, (texts,), found.finals, table.places), note

    @classmethod
    def from_records(cls, name: str, records: Records) -> "Completion":
        """Make the task for a user's own data."""
        is_raw = all(Conversation.from_text(text).is_raw for text in records.texts[0])
        answer, final = (*records.label_columns, None)[:2]
        assert answer is not None, "read names it"
        return cls(
            name, (), "completion", "log_likelihood", records.text_columns, answer, is_raw=is_raw, final_column=final
        )

    @property
    def label_columns(self) -> tuple[str, ...]:
        """The column of the answers, and that of the short answers if there is one."""
        return (self.label_column, *([self.final_column] if self.final_column else []))

    def explain_guess(self, values: Sequence[Any], places: Sequence[str]) -> str:
        """Say that the columns showed it."""
        return (
            "Recognised by its columns: texts for a model that writes. If one of them holds labels, name it: "
            "--label-column NAME."
        )

    def configured(self, options: "DataOptions") -> "Completion":
        """Return the task with what the options say about it.

        Raises:
            ConfigError: if the pattern is no regular expression.
            DataError: if the template cannot be read.
        """
        from qvtune.data.tables import read_text

        return replace(
            self,
            train_on=options.train_on or COMPLETION,
            chat_template=None if options.chat_template is None else read_text(options.chat_template),
            answer_pattern=None if options.answer_pattern is None else check_pattern(options.answer_pattern),
            generate_samples=options.generate_samples or 0,
            max_new_tokens=options.max_new_tokens or self.max_new_tokens,
        )

    def label_of(self, value: Any, place: str) -> str:
        """Return what an answer comes to in short, as text; empty where the file does not say it."""
        return "" if value is None else str(value)

    def examples(self, records: Records) -> "Dataset":
        """Return the examples.

        `text` has what was said before the last answer, `label` what is wanted of an answer, `conversation` all of it,
        `place` where it is.
        """
        from datasets import Dataset

        found = [Conversation.from_text(text) for text in records.texts[0]]
        wanted = [
            wanted_answer(conversation.answer, final, self.answer_pattern, place)
            for conversation, final, place in zip(found, records.labels, records.places, strict=True)
        ]
        return Dataset.from_dict(
            {
                "text": [conversation.shown() for conversation in found],
                "label": wanted,
                "conversation": list(records.texts[0]),
                "place": list(records.places),
            }
        )

    def unlabelled(self, table: "Table", text_columns: Sequence[str]) -> "Dataset":
        """Return what the model is to answer: `text`, `conversation` and `place`.

        Raises:
            DataError: if a cell is neither text nor a list of messages.
        """
        from datasets import Dataset

        form = Form(text_columns[0], more=(*text_columns, None)[1], is_raw=self.is_raw)
        found = read_questions(form, table.column, table.places)
        return Dataset.from_dict(
            {
                "text": [conversation.shown() for conversation in found],
                "conversation": [conversation.to_text() for conversation in found],
                "place": list(table.places),
            }
        )

    def describe_examples(self, labels: Sequence[Any]) -> str:
        """Say how many examples there are, and what of them is trained."""
        what = "whole texts are" if self.train_on != COMPLETION else "completions alone are"
        return f"Completion, {len(labels):,} training examples; {what} trained (--train-on {self.train_on})."

    # The model.

    @property
    def num_outputs(self) -> int:
        """None of its own: the model brings the head that gives a logit for every token."""
        return 0

    @property
    def loading_arguments(self) -> str:
        """Nothing about the head."""
        return ""

    def configure(self, config: Any) -> None:
        """Leave the configuration as it is."""

    def model_problem(self, model: "nn.Module") -> str | None:
        """Say so if a model sees later words."""
        from qvtune.tasks.causal.exact import sees_later_words

        if not sees_later_words(model):
            return None
        return (
            "this model reads a text in both directions, so it cannot learn to write one. Give a decoder, such as "
            "pkg:smollm2."
        )

    # Batches and the loss.

    def fit_tokenizer(self, tokenizer: "PreTrainedTokenizerBase") -> list[str]:
        """Give the tokenizer the chat template, unless all texts are raw, and say so if it is a plain one."""
        from qvtune.tasks.causal.template import fit_template

        notes = fit_template(tokenizer, self.chat_template)
        return [] if self.is_raw else notes

    def encode(self, dataset: "Dataset", tokenizer: "PreTrainedTokenizerBase", max_length: int) -> "Dataset":
        """Return `input_ids`, and `labels` with -100 where nothing is trained.

        Raises:
            DataError: if the chat template refuses a conversation, or does not show where answers are.
        """
        from datasets import Dataset

        from qvtune.tasks.causal.cutting import cut
        from qvtune.tasks.causal.tokens import encode

        rows = zip(dataset["conversation"][:], dataset["place"][:], strict=True)
        found = [
            cut(encode(tokenizer, Conversation.from_text(text), place, self.train_on), max_length)
            for text, place in rows
        ]
        return Dataset.from_dict({"input_ids": [row[0] for row in found], "labels": [row[1] for row in found]})

    def learnable(self, tokens: "Dataset", max_length: int) -> "tuple[Dataset, list[str]]":
        """Leave out the examples whose prompts alone fill `max_length`, and say how many there were.

        Raises:
            DataError: if none is left.
        """
        from qvtune.tasks.causal.cutting import is_learnable

        kept = [row for row, labels in enumerate(tokens["labels"][:]) if is_learnable(labels)]
        if len(kept) == len(tokens):
            return tokens, []
        if not kept:
            raise DataError(
                f"the prompts of all {len(tokens):,} training examples have {max_length} tokens or more, so nothing of "
                "an answer is left. Give a higher --max-length."
            )
        return tokens.select(kept), [
            f"Left out {len(tokens) - len(kept):,} of {len(tokens):,} training examples: their prompts alone have "
            f"{max_length} tokens or more (--max-length)."
        ]

    def show_tokens(self, row: Mapping[str, Any], tokenizer: "PreTrainedTokenizerBase") -> str:
        """Return an example as text, with what is trained of it in ⟦ ⟧, and how much that is."""
        from qvtune.tasks.causal.tokens import UNTRAINED, show

        trained = sum(label != UNTRAINED for label in row["labels"])
        text = show(tokenizer, row["input_ids"], row["labels"])
        return f"{trained:,} of {len(row['labels']):,} tokens, those in ⟦ ⟧, are trained:\n{text}"

    def describe_tokens(self, tokens: "Dataset", tokenizer: "PreTrainedTokenizerBase") -> list[str]:
        """Show the first example with what is trained of it."""
        text = self.show_tokens(tokens[0], tokenizer)
        if len(text) > SHOWN:
            text = f"{text[: SHOWN // 2]} [...] {text[-SHOWN // 2 :]}"
        return [f"A training example: {text}"]

    def collator(self, tokenizer: "PreTrainedTokenizerBase") -> Callable[[list[dict[str, Any]]], Any]:
        """Return a function that makes a batch, padded on the right."""
        from qvtune.tasks.causal.batches import Collator

        return Collator(int(tokenizer.pad_token_id))

    def packer(self, tokenizer: "PreTrainedTokenizerBase") -> Callable[[list[dict[str, Any]]], Any]:
        """Return a function that makes a batch with several examples in a row."""
        from qvtune.tasks.causal.batches import Collator

        return Collator(int(tokenizer.pad_token_id), packs=True)

    def packing_problem(self, model: "nn.Module") -> str | None:
        """Say so if packed examples do not stay apart in a trial."""
        from qvtune.tasks.causal.exact import keeps_apart

        if keeps_apart(model):
            return None
        return (
            "examples in one row do not stay apart in this model, so --packing would change what it learns. Leave it "
            "out."
        )

    def forward(self, model: "nn.Module", batch: Mapping[str, Any]) -> Any:
        """Return the losses of the trained tokens."""
        from qvtune.tasks.causal.loss import token_losses

        return token_losses(model, batch)

    def loss(self, outputs: Any, batch: Mapping[str, Any], class_weights: Sequence[float] | None = None) -> "Tensor":
        """Return the sum of the cross entropies of all trained tokens."""
        return outputs.losses.sum()

    def count(self, batch: Mapping[str, Any], class_weights: Sequence[float] | None = None) -> "Tensor":
        """Return the number of trained tokens."""
        from qvtune.tasks.causal.tokens import UNTRAINED

        return (batch["labels"][:, 1:] != UNTRAINED).sum().float()

    def scores(self, outputs: Any, batch: Mapping[str, Any]) -> NDArray[np.float32]:
        """Return the summed loss of every example and its number of trained tokens: (b, 2)."""
        import torch

        sums = torch.zeros(len(batch["labels"]), 2, device=outputs.losses.device)
        values = torch.stack([outputs.losses.float(), torch.ones_like(outputs.losses, dtype=torch.float32)], dim=1)
        return sums.index_add_(0, outputs.rows, values).cpu().numpy()

    def finish(self, model: Any, tokenizer: "PreTrainedTokenizerBase") -> None:
        """Let a model that is saved whole stop where answers end, also by itself."""
        from qvtune.tasks.causal.tokens import stop_tokens

        if model.generation_config is not None:
            model.generation_config.eos_token_id = stop_tokens(tokenizer)

    # Results, in NumPy.

    def label_array(self, labels: Sequence[Any]) -> NDArray[Any]:
        """Return the number of trained tokens of every row of `encode`, or the answers of `examples`: (n,)."""
        from qvtune.tasks.causal.tokens import UNTRAINED

        if labels and isinstance(labels[0], str):
            return np.array(labels, dtype=object)
        return np.array([sum(label != UNTRAINED for label in row) for row in labels])

    def are_equal(self, labels: NDArray[Any]) -> bool:
        """Return false: an answer is no class."""
        return False

    def losses(self, scores: NDArray[Any], labels: NDArray[Any]) -> NDArray[np.float64]:
        """Return the mean loss of an example's trained tokens, (n,)."""
        totals = np.asarray(scores, dtype=np.float64)
        return totals[:, 0] / np.maximum(totals[:, 1], 1)

    def mean_loss(self, scores: NDArray[Any], labels: NDArray[Any]) -> float:
        """Return the mean loss of all trained tokens, whichever examples they are in."""
        loss, tokens = np.asarray(scores, dtype=np.float64).sum(axis=0)
        return float(loss / max(tokens, 1))

    def predicted(self, scores: NDArray[Any]) -> NDArray[np.float64]:
        """Return the mean log-likelihood of an example's trained tokens, (n,)."""
        return -self.losses(scores, scores)

    def metrics(self, scores: NDArray[Any], labels: NDArray[Any]) -> dict[str, float]:
        """Return the mean log-likelihood of a trained token in nats, and the perplexity."""
        loss = self.mean_loss(scores, labels)
        return {"log_likelihood": -loss, "perplexity": float(np.exp(min(loss, 700.0)))}

    def write_answers(
        self,
        model: "nn.Module",
        tokenizer: "PreTrainedTokenizerBase",
        examples: "Dataset",
        batch_size: int,
        shown: Any = None,
    ) -> dict[str, float]:
        """Return the share of answers that are right, by `answer_pattern` or whole: `answer_accuracy`."""
        from qvtune.tasks.causal.answers import share_right

        written = self.written(model, tokenizer, examples, batch_size, shown)
        return {"answer_accuracy": share_right(written, examples["label"][:], self.answer_pattern)}

    def written(
        self,
        model: "nn.Module",
        tokenizer: "PreTrainedTokenizerBase",
        examples: "Dataset",
        batch_size: int,
        shown: Any = None,
    ) -> list[str]:
        """Return what a model writes for examples, with or without answers."""
        rows = zip(examples["conversation"][:], examples["place"][:], strict=True)
        asked = [(Conversation.from_text(text), place) for text, place in rows]
        return self.answers(model, tokenizer, asked, batch_size, shown)

    def reply(
        self,
        model: "nn.Module",
        tokenizer: "PreTrainedTokenizerBase",
        messages: Sequence[Mapping[str, Any]],
        max_new_tokens: int | None = None,
    ) -> str:
        """Return what a model says to messages; raw text goes on from the last one alone.

        Raises:
            DataError: if the messages, or their roles, are not what the task knows.
        """
        turns = read_turns(list(messages), "messages", "the conversation")
        asked = Conversation(prompt=turns[-1].content) if self.is_raw else Conversation(turns)
        return self.answers(model, tokenizer, [(asked, "the conversation")], 1, None, max_new_tokens)[0]

    def answers(
        self,
        model: "nn.Module",
        tokenizer: "PreTrainedTokenizerBase",
        asked: "Sequence[tuple[Conversation, str]]",
        batch_size: int,
        shown: Any = None,
        max_new_tokens: int | None = None,
    ) -> list[str]:
        """Return what a model answers.

        Args:
            model: on its device.
            tokenizer: has the chat template.
            asked: conversations whose last answer, if there is one, is left out, and where each is.
            batch_size: how many at a time.
            shown: takes batches and their number, yields the batches and shows the progress.
            max_new_tokens: most tokens of an answer; the task's own when None.

        Raises:
            DataError: if the chat template refuses a conversation.
        """
        from qvtune.tasks.causal.generate import complete, cut_prompts, positions_of
        from qvtune.tasks.causal.tokens import encode_question

        most = max_new_tokens or self.max_new_tokens
        prompts = [encode_question(tokenizer, conversation, place) for conversation, place in asked]
        prompts, _ = cut_prompts(prompts, positions_of(model), most)
        written = complete(model, tokenizer, prompts, max_new_tokens=most, batch_size=batch_size, shown=shown)
        return [str(tokenizer.decode(tokens, skip_special_tokens=True)).strip() for tokens in written]

    def shown(self, value: Any) -> str:
        """Return text as it is."""
        return str(value)

    def mistakes(self, scores: NDArray[Any], labels: NDArray[Any], most: int) -> list[tuple[int, dict[str, Any]]]:
        """Return the examples whose answers the model finds least likely: the mean `loss` of a token of each."""
        losses = self.losses(scores, labels)
        return [
            (i, {"label": str(labels[i]), "prediction": "", "loss": float(losses[i])})
            for i in largest_first(losses, np.flatnonzero(losses > 0), most)
        ]

    def probe_problem(self, labels: Any) -> str:
        """Say that there is no head to start."""
        return "the head came with the model"
