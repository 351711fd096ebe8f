"""Batches of tokens: padded on the right, or several examples in a row that do not see each other."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import BatchEncoding

from qvtune.tasks.causal.tokens import UNTRAINED


class Collator:
    """Makes a batch from rows of `input_ids`, and `labels` if there are any.

    Args:
        pad: the id that fills up rows.
        packs: put short examples together, in rows as long as the longest example. Their positions start anew, and
            there is no attention mask: that is how transformers knows that they are separate.
    """

    def __init__(self, pad: int, *, packs: bool = False) -> None:
        self.pad, self.packs = pad, packs

    def __call__(self, rows: list[dict[str, Any]]) -> BatchEncoding:
        """Return `input_ids` (b, s), `labels` (b, s), and `attention_mask` or, if packed, `position_ids` (b, s)."""
        packed = pack([len(row["input_ids"]) for row in rows]) if self.packs else None
        if packed is None or len(packed) == len(rows):
            found = {"input_ids": self._fill(rows, "input_ids", self.pad)}
            found["attention_mask"] = self._mask(rows)
            if "labels" in rows[0]:
                found["labels"] = self._fill(rows, "labels", UNTRAINED)
            return BatchEncoding(found)
        joined = [self._join([rows[i] for i in chosen]) for chosen in packed]
        return BatchEncoding(
            {
                name: self._fill(joined, name, filler)
                for name, filler in (("input_ids", self.pad), ("labels", UNTRAINED), ("position_ids", 0))
                if name in joined[0]
            }
        )

    @staticmethod
    def _join(rows: list[dict[str, Any]]) -> dict[str, list[int]]:
        found: dict[str, list[int]] = {"input_ids": [], "labels": [], "position_ids": []}
        for row in rows:
            size = len(row["input_ids"])
            found["input_ids"] += row["input_ids"]
            found["labels"] += [UNTRAINED, *row["labels"][1:]]  # the example before does not predict its start
            found["position_ids"] += range(size)
        return found

    @staticmethod
    def _mask(rows: list[dict[str, Any]]) -> Tensor:
        longest = max(len(row["input_ids"]) for row in rows)
        lengths = torch.tensor([len(row["input_ids"]) for row in rows])
        return (torch.arange(longest) < lengths[:, None]).long()

    @staticmethod
    def _fill(rows: list[dict[str, Any]], name: str, filler: int) -> Tensor:
        longest = max(len(row[name]) for row in rows)
        return torch.tensor([[*row[name], *[filler] * (longest - len(row[name]))] for row in rows])


def pack(lengths: Sequence[int]) -> list[list[int]]:
    """Divide examples into rows no longer than the longest example: each goes where it fits most closely.

    Returns:
        The examples of every row.
    """
    most = max(lengths)
    rows: list[list[int]] = []
    free: list[int] = []
    for example in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        fitting = [row for row in range(len(rows)) if free[row] >= lengths[example]]
        if fitting:
            row = min(fitting, key=lambda i: free[i])
            rows[row].append(example)
            free[row] -= lengths[example]
        else:
            rows.append([example])
            free.append(most - lengths[example])
    return rows
