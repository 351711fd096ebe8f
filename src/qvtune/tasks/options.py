"""The options that say which data to use."""

from pathlib import Path
from typing import Annotated

from pydantic import Field

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
    label_column: str | None = Field(None, description="Column with the label. Guessed and printed when left out.")
    task_type: Annotated[str | None, OneOf(TASKS)] = Field(
        None,
        description="What the labels are. When left out: floats make a regression, all else a classification.",
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
        "is not chosen on. With 0, the validation set chooses and is reported.",
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
        "reads where that is less.",
    )
