"""`Session`: one training of the suite's model, wrapped by some way, or in one process without a wrapper."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from qvtune.conformance.material import WEIGHT_DECAY, Batch, make_groups, make_model, part
from qvtune.conformance.ways import Setup, Wrap, wrap_nothing
from qvtune.roles.unwrap import unwrap
from qvtune.shards import whole, whole_parameters

# Examples of a process in a pass.
ROWS = 4
NO_CLIPPING = 1e9


@dataclass(frozen=True)
class Share:
    """Which part of every batch this process computes, and where."""

    rank: int = 0
    world: int = 1
    device: torch.device = torch.device("cpu")

    def of(self, batch: Batch) -> Batch:
        """Return this process's rows."""
        return part(batch, slice(self.rank, None, self.world))


ALONE = Share()


class Session:
    """A training: the model, its optimizer, and steps of a batch that all processes share."""

    def __init__(
        self,
        wrap: Wrap,
        share: Share,
        *,
        seed: int = 0,
        weight_decay: float = WEIGHT_DECAY,
        max_grad_norm: float = NO_CLIPPING,
        accumulation: int = 1,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.share, self.max_grad_norm, self.accumulation = share, max_grad_norm, accumulation
        self.adapted = make_model(seed).to(dtype)
        setup = Setup(lambda model: make_groups(model, weight_decay), share.device, ROWS, accumulation, max_grad_norm)
        self.model: Any
        self.model, self.optimizer = wrap(self.adapted, setup)
        self.is_engine = hasattr(self.model, "backward") and hasattr(self.model, "step")

    @classmethod
    def alone(cls, dtype: torch.dtype, **options: Any) -> "Session":
        """Return a training of the same model in this process, without a wrapper."""
        return cls(wrap_nothing, ALONE, dtype=dtype, **options)

    def step(self, batches: Sequence[Batch], total: int, *, factor: float = 1.0) -> tuple[float, float]:
        """Take a step of `accumulation` passes over this process's rows.

        Args:
            batches: the rows of each pass, on the CPU.
            total: examples of the step in all processes and passes; the loss is the mean over them.
            factor: of the loss.

        Returns:
            This process's part of the loss, and the norm of the gradient of all before clipping.
        """
        self.model.train()
        lost = 0.0
        for batch in batches:
            loss = self._sum(batch) / total
            lost += float(loss.detach())
            # Gradients of the processes are averaged.
            loss = loss * factor * self.share.world
            if self.is_engine:
                self.model.backward(loss * self.accumulation)  # which divides by it
                self.model.step()
            else:
                loss.backward()
        return lost, self._finish()

    def _finish(self) -> float:
        if self.is_engine:
            return float(self.model.get_global_grad_norm() or 0.0)
        trained = [p for p in self.adapted.parameters() if p.requires_grad]
        norm = float(whole(nn.utils.clip_grad_norm_(trained, self.max_grad_norm)))
        self.optimizer.step()
        self.optimizer.zero_grad()
        return norm

    def decay(self, factor: float) -> None:
        """Multiply every rate, as a schedule does."""
        for group in self.optimizer.param_groups:
            group["lr"] *= factor

    def evaluate(self, batch: Batch, rows: int) -> tuple[float, float, int]:
        """Return the summed loss, the correct answers and the number of this process's rows that count.

        Args:
            batch: rows that this process computes.
            rows: how many of them count; the rest keep the processes in step.
        """
        self.model.eval()
        with torch.no_grad():
            logits, labels = self._logits(batch)[:rows], batch["labels"][:rows].to(self.share.device)
        correct = float((logits.argmax(-1) == labels).sum())
        return float(cross_entropy(logits, labels, reduction="sum")), correct, len(labels)

    def values(self) -> dict[str, Tensor]:
        """Return every trained parameter, whole, by its name in the transformers model."""
        with whole_parameters(self.adapted):
            return {
                name: parameter.detach().to("cpu", torch.float64, copy=True)
                for name, parameter in unwrap(self.adapted).named_parameters()
                if parameter.requires_grad
            }

    def state(self, folder: Path) -> Any:
        """Return what `load` needs to go on; an engine writes it into the folder."""
        if self.is_engine:
            self.model.save_checkpoint(str(folder), tag="state")
            return None
        from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict

        state = get_state_dict(self.model, self.optimizer, options=StateDictOptions(full_state_dict=True))
        return copy.deepcopy(state)  # else the next steps would change it

    def load(self, state: Any, folder: Path) -> None:
        """Load what `state` returned or wrote."""
        if self.is_engine:
            self.model.load_checkpoint(str(folder), tag="state")
            return
        from torch.distributed.checkpoint.state_dict import StateDictOptions, set_state_dict

        options = StateDictOptions(full_state_dict=True)
        model, optimizer = state
        set_state_dict(self.model, self.optimizer, model_state_dict=model, optim_state_dict=optimizer, options=options)

    def _sum(self, batch: Batch) -> Tensor:
        logits = self._logits(batch)
        return cross_entropy(logits, batch["labels"].to(logits.device), reduction="sum")

    def _logits(self, batch: Batch) -> Tensor:
        inputs = {name: tensor.to(self.share.device) for name, tensor in batch.items() if name != "labels"}
        return self.model(**inputs).logits
