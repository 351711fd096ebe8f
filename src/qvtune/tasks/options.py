"""The options that say which data to use."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_serializer

from qvtune.options import OneOf, Options
from qvtune.tasks.table import TASKS

# The value that --class-weights may have instead of a file.
BALANCED = "balanced"


class DataOptions(Options):
    """Where the examples come from, how they are divided, and what they weigh."""

    data: str = Field(
        description="What to learn from: glue/TASK, a .csv, .tsv, .jsonl or .parquet file, a folder saved by the "
        "datasets library, pkg:rotten_tomatoes, pkg:imdb, or the name of a data set on the Hugging Face hub."
    )
    glue_dir: Path | None = Field(
        None,
        description="Folder with GLUE in the benchmark's own layout (RTE/train.tsv, ...), or saved by the datasets "
        "library. Without it, glue/TASK comes from the hub.",
    )
    data_config: str | None = Field(None, description="Configuration of a hub data set that has several.")
    text_column: list[str] | None = Field(
        None, description="Column with the text; give it twice for two texts. Guessed and printed when left out."
    )
    label_column: list[str] | None = Field(
        None,
        description="Column with the label, or with several labels of a text; give it several times for columns that "
        "hold 0 and 1, one for each label. Guessed and printed when left out.",
    )
    task_type: Annotated[str | None, OneOf(TASKS)] = Field(
        None,
        description="What the labels are. When left out: floats make a regression, lists or names with separators "
        "several labels for a text, all else a classification.",
    )
    validation: Path | None = Field(None, description="File with the validation examples, in any of the file formats.")
    validation_fraction: float = Field(
        0.1, gt=0, lt=1, description="Part of the examples held out, seeded and stratified, where none are given."
    )
    tune_fraction: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Part of the training examples held out to choose the best checkpoint, so that the reported set "
        "is not chosen on. With 0, the validation set chooses and is reported; several labels for a text hold out a "
        "tenth all the same, for their thresholds.",
    )
    max_train_samples: int | None = Field(
        None, ge=2, description="Train on this many examples at most: a seeded, stratified sample."
    )
    max_eval_samples: int | None = Field(
        None, ge=1, description="Evaluate on this many examples at most: a seeded, stratified sample."
    )
    class_weights: str | None = Field(
        None,
        description="What the examples of each class weigh in the training loss: balanced, so that all classes weigh "
        "the same, or a YAML or JSON file with a weight by label. All examples weigh the same when left out.",
    )
    max_length: int | None = Field(
        None,
        ge=2,
        description="Tokens per example at most; longer texts are cut. When left out: 512, or as many as the model "
        "reads where that is less; for conversations and completions 2,048.",
    )
    train_on: Literal["completion", "all"] | None = Field(
        None,
        description="What of conversations and completions is trained: the completions, which are the assistant's "
        "turns, or all. Completions alone when left out.",
    )
    chat_template: Path | None = Field(
        None,
        description="File with the Jinja template that writes conversations. The tokenizer's own when left out, or a "
        "plain one where it has none.",
    )
    answer_pattern: str | None = Field(
        None,
        description="Regular expression that finds the answer in what a model writes, where it fits last: its first "
        "group, or all of it. Answers are compared whole when left out.",
    )
    generate_samples: int | None = Field(
        None,
        ge=1,
        description="In each evaluation, let the model answer this many examples, a seeded sample, and report the "
        "share of right answers. None when left out.",
    )
    max_new_tokens: int | None = Field(
        None, ge=1, description="Most tokens of an answer that the model writes. 256 when left out."
    )

    @field_serializer("label_column")
    def _one_by_name(self, names: list[str] | None) -> str | list[str] | None:
        """Write a single column as its name, from which the names of runs in stores are made."""
        return names[0] if names is not None and len(names) == 1 else names
