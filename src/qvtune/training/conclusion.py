"""What the final predictions of a run say: results by class, the worst mistakes and warnings."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from datasets import Dataset
from numpy.typing import NDArray

from qvtune.tasks.examples import TUNING, TextData
from qvtune.tasks.judging import NOTHING_LEARNED
from qvtune.tasks.mistakes import KEPT, sort_mistakes, worst_mistakes
from qvtune.tasks.task import Task
from qvtune.training.balance import list_warnings
from qvtune.training.config import TrainConfig
from qvtune.training.evaluate import Evaluation
from qvtune.training.verdict import Predictions, judge_run

# Fewer predictions than this cannot show that something was learned, though they may show that nothing was.
FEWEST_TO_JUDGE = 10


@dataclass(frozen=True)
class Conclusion:
    """What a run saves about its final predictions on the sets that it reports; for MNLI, both sets together.

    Attributes:
        classes: the task's `class_table`.
        mistakes: the worst ones, see `worst_mistakes`; each with its `split` where there are several.
        verdict: warnings by subject.
        warnings: the warnings of the log, and the verdict.
        examples: number of predictions.
    """

    classes: dict[str, Any]
    mistakes: list[dict[str, Any]]
    verdict: dict[str, str]
    warnings: list[str]
    examples: int

    def to_result(self) -> dict[str, Any]:
        """Return the parts of `result.json`; very few examples cannot show whether anything was learned."""
        nothing = bool(NOTHING_LEARNED & self.verdict.keys())
        learned = False if nothing else True if self.examples >= FEWEST_TO_JUDGE else None
        return {"warnings": self.warnings, "learned": learned, **self.classes}


def conclude(
    config: TrainConfig,
    data: TextData,
    measured: Evaluation,
    records: Sequence[Mapping[str, Any]],
    head_start: Mapping[str, Any] | None = None,
) -> Conclusion:
    """Return a run's conclusion from the evaluation of its final weights.

    Args:
        config: the run's.
        data: its examples.
        measured: the evaluation.
        records: the log.
        head_start: the head before the first step, as `judge_run` takes it.
    """
    scores, labels = measured.reported
    where = f"the validation set{'s' if len(measured.scores.keys() - {TUNING}) > 1 else ''}"
    task = measured.task
    found = Predictions(task, scores, labels, where)
    verdict = judge_run(found, config, records, measured.metrics, head_start)
    return Conclusion(
        classes=task.class_table(scores, labels),
        mistakes=mistakes_by_split(task, measured.scores, data.evaluation),
        verdict=verdict,
        warnings=[*list_warnings(records, ended=True), *verdict.values()],
        examples=len(labels),
    )


def mistakes_by_split(
    task: Task, scores: Mapping[str, NDArray[Any]], examples: Mapping[str, Dataset], most: int = KEPT
) -> list[dict[str, Any]]:
    """Return the worst mistakes over all splits but the tuning set, with the name of the split where there are several.

    Args:
        task: the run's.
        scores: the model's outputs by split, in the order of `examples`.
        examples: texts and labels by split.
        most: the largest number to return.
    """
    splits = [split for split in scores if split != TUNING]
    found = [
        ({"split": split} if len(splits) > 1 else {}) | mistake
        for split in splits
        for mistake in worst_mistakes(task, scores[split], examples[split], most)
    ]
    return sort_mistakes(task, found, most)
