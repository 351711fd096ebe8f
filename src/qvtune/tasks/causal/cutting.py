"""Examples that are longer than a model reads, or than the user wants."""

from qvtune.tasks.causal.tokens import UNTRAINED, Encoded


def cut(found: Encoded, max_length: int) -> Encoded:
    """Return the first tokens of an example; the prompt stays whole, and the end of the completion goes.

    If the prompt alone is as long, no trained token is left: `is_learnable` says so.
    """
    return Encoded(found.input_ids[:max_length], found.labels[:max_length])


def is_learnable(labels: list[int]) -> bool:
    """Return whether an example has a trained token."""
    return any(label != UNTRAINED for label in labels)
