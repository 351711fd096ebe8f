"""What a model makes of tokenised texts, by the function that every command asks."""

from typing import Any

import numpy as np
from datasets import Dataset

from qvtune.tasks.classification import Classification
from qvtune.training.batches import EvaluationBatches, read_columns
from qvtune.training.evaluate import evaluate_set

TASK = Classification("t", ("a", "b"), "classes", "accuracy", ("text",), "label")


def scores_of(model: Any, tokenizer: Any, tokens: Dataset, batch_size: int) -> np.ndarray:
    """Return the logits of every text, in the order given."""
    read = read_columns(tokens, TASK, tokenizer.model_input_names)
    return evaluate_set(model, TASK, EvaluationBatches(read, TASK.collator(tokenizer), batch_size))
