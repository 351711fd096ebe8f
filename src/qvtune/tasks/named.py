"""`NamedOutputs`: the part that kinds of task share whose head has an output for each named label."""

from abc import ABC
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from qvtune.errors import ModelError
from qvtune.tasks.task import Task, list_names

if TYPE_CHECKING:
    from typing_extensions import Self


@dataclass(frozen=True)
class NamedOutputs(Task, ABC):
    """A kind of task with a logit for each label, in the order of `labels`."""

    @property
    def num_outputs(self) -> int:
        """One logit for each label."""
        return len(self.labels)

    @property
    def loading_arguments(self) -> str:
        """The number of labels, and their names."""
        return f"num_labels={self.num_outputs}, id2label={dict(enumerate(self.labels))!r}"

    def configure(self, config: Any) -> None:
        """Write the labels into the configuration of a model."""
        super().configure(config)
        config.id2label = dict(enumerate(self.labels))
        config.label2id = {name: i for i, name in enumerate(self.labels)}

    def match_head(self, known: Sequence[str], source: str) -> tuple["Self", str | None]:
        """Put the labels in the order of a head's labels, by name, or by number if the head has no names.

        Raises:
            ModelError: if the head is for other labels.
        """
        wanted = self.labels
        if all(name == f"LABEL_{i}" for i, name in enumerate(known)) and len(known) == len(wanted):
            pairs = list_names([f"{mute} is '{name}'" for mute, name in zip(known, wanted, strict=True)])
            return self, (
                f"{source} brings a head whose labels have no names, and training goes on from it: {pairs}. If they "
                "mean something else, give --new-head to start it anew."
            )
        by_name = {name.casefold(): name for name in wanted}
        if len(by_name) == len(wanted) and sorted(name.casefold() for name in known) == sorted(by_name):
            return replace(self, labels=tuple(by_name[name.casefold()] for name in known)), None
        raise ModelError(
            f"{source}: its head is for {len(known)} labels ({list_names(known)}), and the data has {len(wanted)} "
            f"({list_names(wanted)}). Rename the labels of the data, or give --new-head to start the head anew."
        )
