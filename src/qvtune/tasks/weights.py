"""The weights of each class's examples in training."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from qvtune.data.columns import as_number
from qvtune.documents import compose_yaml, read_document
from qvtune.errors import ConfigError, DataError, nearest
from qvtune.tasks.options import BALANCED
from qvtune.tasks.task import Task

OPTION = "--class-weights"
LISTED = 8


def class_weights(option: str | None, task: Task, labels: Sequence[Any]) -> list[float] | None:
    """Return the weight of every class, in the order of the task's labels, or None if all are equal.

    "balanced" is scikit-learn's: n / (k n_c) for a class with n_c of n training examples in k classes. So all classes
    have the same total weight, and the mean weight of an example is 1. A class without training examples has weight 1,
    which is never used. For several labels it is (n - n_k) / n_k, and weighs the loss where label k is present.

    Args:
        option: None, "balanced", or the path of a YAML or JSON file with a weight above 0 by the name of every class.
        task: names the classes.
        labels: labels of the training examples.

    Raises:
        ConfigError: for a task without classes; if the file cannot be read or is not such a mapping; for a class that
            is unknown, missing or named twice, or a weight that is not a number above 0. The text names the file and
            the label.
    """
    if option is None:
        return None
    if not task.has_class_weights:
        raise ConfigError(f"{OPTION} is {option}, and {task.name} is {task.noun}, which has no classes. Leave it out.")
    if option == BALANCED:
        return task.balanced_weights(labels)
    return _of_file(Path(option), task)


def describe_weights(task: Task, weights: Sequence[float]) -> str:
    """Return the weights in a sentence; of many classes, only some are named."""
    words = [f"{name} {weight:.3g}" for name, weight in zip(task.labels, weights, strict=True)]
    more = f", and {len(words) - LISTED} more from {min(weights):.3g} to {max(weights):.3g}" if words[LISTED:] else ""
    return f"The training loss weighs the classes: {', '.join(words[:LISTED])}{more}."


def _of_file(path: Path, task: Task) -> list[float]:
    found: dict[str, float] = {}
    for name, text in _read(path):
        if name not in task.labels:
            raise ConfigError(
                f"{OPTION} {path}: label '{name}' does not occur in the training data, which has "
                f"{', '.join(task.labels)}.{nearest(name, task.labels)}"
            )
        if name in found:
            raise ConfigError(f"{OPTION} {path}: label '{name}' occurs twice. Give every class one weight.")
        found[name] = _weight(path, name, text)
    missing = [f"'{name}'" for name in task.labels if name not in found]
    if missing:
        raise ConfigError(
            f"{OPTION} {path}: has no weight for the label {', '.join(missing)}. Give every class one; 1 is neutral."
        )
    return [found[name] for name in task.labels]


def _read(path: Path) -> list[tuple[str, Any]]:
    """Return names and values as they are in the file: YAML would take a class called no for a boolean."""
    try:
        text = read_document(path)
        if path.suffix.lower() == ".json":
            pairs = json.loads(text, object_pairs_hook=tuple)  # lists are not pairs
            is_mapping = isinstance(pairs, tuple)
            found = list(pairs) if is_mapping else []
        else:
            node = compose_yaml(text)
            is_mapping = isinstance(node, yaml.MappingNode)
            found = [(str(k.value), v.value) for k, v in node.value] if isinstance(node, yaml.MappingNode) else []
    except OSError as error:
        raise ConfigError(
            f"{OPTION} {path}: cannot be read: {error.strerror}. Name a YAML or JSON file, or give {BALANCED}."
        ) from None
    except RecursionError:  # JSON's
        raise ConfigError(f"{OPTION} {path}: is nested too deeply. Give a weight by the name of every class.") from None
    except (ValueError, yaml.YAMLError) as error:
        kind = "JSON" if path.suffix.lower() == ".json" else "YAML"
        raise ConfigError(f"{OPTION} {path}: not {kind}: {' '.join(str(error).split())}") from None
    if not is_mapping or not found:
        raise ConfigError(f"{OPTION} {path}: must hold a weight by the name of every class, as in 'refund: 2.5'.")
    return found


def _weight(path: Path, name: str, text: Any) -> float:
    try:
        weight = as_number(text, OPTION) if not isinstance(text, bool) else math.nan
    except DataError:
        weight = math.nan
    if not weight > 0:
        raise ConfigError(f"{OPTION} {path}: the weight of label '{name}' is {text!r}; it must be a number above 0.")
    return weight
