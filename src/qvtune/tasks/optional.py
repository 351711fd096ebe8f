"""`Optional`: the hooks of a task that most kinds leave as they are, for models that write and for linear probes."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

if TYPE_CHECKING:  # these take seconds to import, and the command line only lists the kinds of task
    from datasets import Dataset
    from torch import nn
    from transformers import PreTrainedTokenizerBase


class Optional(ABC):
    """Hooks with what suits most kinds of task; `Task` has the others."""

    noun: ClassVar[str]

    # A model and a tokenizer of its own, and texts that a model writes.

    def model_problem(self, model: "nn.Module") -> str | None:
        """Return why a loaded model cannot learn the task, or None if it can."""
        return None

    def fit_tokenizer(self, tokenizer: "PreTrainedTokenizerBase") -> list[str]:
        """Give a tokenizer what the task needs of it, and return sentences about that."""
        return []

    def learnable(self, tokens: "Dataset", max_length: int) -> tuple["Dataset", list[str]]:
        """Return the tokenised training examples that can be learned from, and sentences about the others.

        Raises:
            DataError: if there is none.
        """
        return tokens, []

    def show_tokens(self, row: Mapping[str, Any], tokenizer: "PreTrainedTokenizerBase") -> str:
        """Return the tokens of a training example, a row of `encode`, as text for people."""
        return str(tokenizer.decode(row["input_ids"]))

    def describe_tokens(self, tokens: "Dataset", tokenizer: "PreTrainedTokenizerBase") -> list[str]:
        """Return sentences about the tokens of the training examples, for a user to read before training."""
        return []

    def packer(self, tokenizer: "PreTrainedTokenizerBase") -> Callable[[list[dict[str, Any]]], Any] | None:
        """Return a collator that puts several examples into a row, or None if the kind has none."""
        return None

    def packing_problem(self, model: "nn.Module") -> str | None:
        """Return why a model does not compute the same for packed examples, or None if it does."""
        return None

    def finish(self, model: Any, tokenizer: "PreTrainedTokenizerBase") -> None:  # noqa: B027
        """Change what a model needs for others to use it, before it is saved whole; most need nothing."""

    def written(
        self,
        model: "nn.Module",
        tokenizer: "PreTrainedTokenizerBase",
        examples: "Dataset",
        batch_size: int,
        shown: Any = None,
    ) -> list[str]:
        """Return what a model writes for examples, for a kind that `writes`; arguments as for `write_answers`."""
        raise NotImplementedError(f"{type(self).__name__} writes no texts, and writes says so")

    def reply(
        self,
        model: "nn.Module",
        tokenizer: "PreTrainedTokenizerBase",
        messages: Sequence[Mapping[str, Any]],
        max_new_tokens: int | None = None,
    ) -> str:
        """Return what a model says to messages with `role` and `content`, for a kind that `writes`.

        Raises:
            DataError: if the messages are not what the kind knows.
        """
        raise NotImplementedError(f"{type(self).__name__} writes no texts, and writes says so")

    def write_answers(
        self,
        model: "nn.Module",
        tokenizer: "PreTrainedTokenizerBase",
        examples: "Dataset",
        batch_size: int,
        shown: Any = None,
    ) -> dict[str, float]:
        """Let a model write answers to a set's questions, and return the metrics of these; nothing if it writes none.

        Args:
            model: on its device.
            tokenizer: the model's.
            examples: with the columns of `examples`.
            batch_size: examples at a time.
            shown: takes batches and their number, yields the batches and shows the progress.
        """
        return {}

    # Its linear models, from scikit-learn.

    @abstractmethod
    def losses(self, scores: NDArray[Any], labels: NDArray[Any]) -> NDArray[np.float64]:
        """Return the unweighted loss of every example, (n,) float64."""

    def probe_problem(self, labels: ArrayLike) -> str | None:
        """Return why `fit_linear` cannot be used for these labels, or None if it can."""
        return f"no linear probe is known for {self.noun}"

    def example_weights(self, labels: NDArray[Any], class_weights: NDArray[Any]) -> NDArray[Any]:
        """Return the weight of every example in a mean of `losses`, (n,)."""
        return np.ones(len(labels))

    def fit_linear(
        self,
        features: NDArray[Any],
        labels: NDArray[Any],
        strengths: Sequence[float],
        class_weights: NDArray[Any] | None,
        has_bias: bool,
    ) -> list[tuple[NDArray[Any], NDArray[Any]]]:
        """Fit linear heads that minimise mean loss + ‖w‖² / (2 strength).

        Args:
            features: (n, d) float64.
            labels: (n,).
            strengths: one fit for each of them.
            class_weights: (classes,), weights in the loss.
            has_bias: whether the heads have a bias, which is not regularised.

        Returns:
            Weight (k, d) and bias (k,) for every strength.
        """
        raise NotImplementedError(f"{type(self).__name__} fits no linear head, and probe_problem says so")

    def resting_output(self, labels: NDArray[Any]) -> float:
        """Return the output of a head that knows nothing about a text; a probe's outputs shrink towards it."""
        return 0.0

    def fitted_losses(self, scores: ArrayLike, labels: ArrayLike) -> NDArray[np.float64]:
        """Return the loss of every example, (n,) float64, after the best affine map of the outputs.

        In the first steps of a run most of the loss comes from the wrong scale of the head, which every rate corrects.
        Without that part, the loss shows what the outputs say about the labels. A kind without such a map takes the
        outputs as they are.

        Args:
            scores: (n, k), finite.
            labels: (n,).
        """
        return self.losses(np.asarray(scores), np.asarray(labels))
