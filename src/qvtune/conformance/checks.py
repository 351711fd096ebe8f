"""The checks: each trains by a way and in one process, and compares. `CHECKS` lists them with what they look at."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from qvtune.conformance.compare import DECAY_TOLERANCE, RATE_TOLERANCE, Both, Failed, check_each
from qvtune.conformance.group import total
from qvtune.conformance.material import (
    HEAD_LR,
    LR_RATIO,
    WEIGHT_DECAY,
    Batch,
    expected_decay,
    expected_rate,
    make_batch,
    part,
)
from qvtune.conformance.session import ROWS, Session, Share
from qvtune.conformance.ways import Wrap

STEPS, SAVED_AT = 6, 3
SCHEDULE = 0.9
# Below the gradient's norm, so that every step is clipped.
CLIP = 0.05
# Factors of the loss: Adam forgets the size of equal gradients, so only unequal ones show whether they are clipped.
FACTORS = (1.0, 100.0, 0.01)
# Factor of the loss of the step that shows the rates, so that beside its gradients Adam's epsilon is nothing.
LOUD = 1000.0
LEFT_OVER = 3


@dataclass
class Trial:
    """One way in this group of processes, and the trainings that several checks look at.

    Attributes:
        wrap: the way.
        share: this process's part.
        folder: for files, the same in all processes.
    """

    wrap: Wrap
    share: Share
    folder: Path
    saved: list[object] = field(default_factory=list)

    def session(self, **options: object) -> Session:
        """Return a new training by the way."""
        return Session(self.wrap, self.share, **options)  # type: ignore[arg-type]

    @property
    def rows(self) -> int:
        """Examples of a batch of all processes."""
        return ROWS * self.share.world

    def batch(self, index: int) -> Batch:
        """Return a batch of all processes."""
        return make_batch(index, self.rows)

    @cached_property
    def first(self) -> tuple[Session, dict[str, Tensor], dict[str, Tensor], float]:
        """A training after one step without decay: itself, the parameters before and after, the gradient's norm."""
        session = self.session(weight_decay=0.0)
        before = session.values()
        norm = session.step([self.share.of(self.batch(0))], self.rows, factor=LOUD)[1]
        return session, before, session.values(), norm

    @cached_property
    def rates(self) -> dict[str, float]:
        """The rate of every trained parameter, by its first update, which in Adam is the rate itself."""
        _, before, after, _ = self.first
        return {name: float((after[name] - before[name]).abs().max()) for name in before}

    @cached_property
    def straight(self) -> tuple[Session, list[float]]:
        """A training of `STEPS` steps, and their losses; its state half-way is in `saved`."""
        session = self.session(max_grad_norm=CLIP)
        losses = follow(session, self.share, 0, SAVED_AT, self.rows)
        self.saved.append(session.state(self.folder))
        return session, losses + follow(session, self.share, SAVED_AT, STEPS, self.rows)

    @cached_property
    def alone(self) -> dict[torch.dtype, tuple[Session, list[float]]]:
        """The same training in one process without a wrapper, in both precisions."""
        found = {}
        for dtype in (torch.float64, torch.float32):
            session = Session.alone(dtype, max_grad_norm=CLIP)
            found[dtype] = session, follow(session, session.share, 0, STEPS, self.rows)
        return found

    def losses(self, own: list[float]) -> list[float]:
        """Return the losses of all processes."""
        return total(own, self.share)


def follow(session: Session, share: Share, start: int, end: int, rows: int) -> list[float]:
    """Train from one step to another under a schedule, and return this process's parts of the losses."""
    losses = []
    for index in range(start, end):
        losses.append(session.step([share.of(make_batch(index, rows))], rows)[0])
        session.decay(SCHEDULE)
    return losses


def rate_of_every_parameter(trial: Trial) -> str:
    """The first update of every trained parameter is its role's rate."""
    return check_each(trial.rates, {name: expected_rate(name) for name in trial.rates}, RATE_TOLERANCE)


def ratio(trial: Trial) -> str:
    """The value's rate divided by the query's, as measured."""
    found = {name.split(".lora_")[0]: [0.0, 0.0] for name in trial.rates if ".query." in name}
    for name, rate in trial.rates.items():
        for role, place in ((".query.", 0), (".value.", 1)):
            if role in name:
                key = name.replace(".value.", ".query.").split(".lora_")[0]
                found[key][place] = max(found[key][place], rate)
    measured = {name: value / query if query else float("inf") for name, (query, value) in found.items()}
    return check_each(measured, dict.fromkeys(measured, LR_RATIO), RATE_TOLERANCE)


def rate_of_the_head(trial: Trial) -> str:
    """The head's rate, as measured."""
    head = {name: rate for name, rate in trial.rates.items() if "classifier" in name}
    return check_each(head, dict.fromkeys(head, HEAD_LR), RATE_TOLERANCE)


def weight_decay(trial: Trial) -> str:
    """A step without a gradient shrinks every parameter by its rate times its weight decay, and no bias."""
    session = trial.session()
    before = session.values()
    session.step([trial.share.of(trial.batch(0))], trial.rows, factor=0.0)
    after = session.values()
    shrunk = {
        name: float(1 - (after[name] * old).sum() / (old * old).sum()) / (trial.rates[name] or float("nan"))
        for name, old in before.items()
    }
    wanted = {name: expected_decay(name) for name in shrunk}
    return check_each(shrunk, wanted, DECAY_TOLERANCE, scale=WEIGHT_DECAY)


def no_empty_group(trial: Trial) -> str:
    """Every group of the optimizer has a parameter; DeepSpeed from 0.18 breaks on one without."""
    optimizer: Any = trial.first[0].optimizer
    groups = optimizer.param_groups
    # ZeRO 3 takes the parameters out of the groups between steps, and keeps them here.
    members = getattr(optimizer, "fp16_groups", None) or [group["params"] for group in groups]
    empty = [str(group.get("name", number)) for number, group in enumerate(groups) if not members[number]]
    if empty:
        raise Failed(f"empty: {', '.join(empty)}")
    return f"{len(groups)} groups"


def gradient_norm(trial: Trial) -> str:
    """The norm of the whole gradient, over all shards."""

    def norm(dtype: torch.dtype) -> list[float]:
        return [Session.alone(dtype, weight_decay=0.0).step([trial.batch(0)], trial.rows, factor=LOUD)[1]]

    return Both.of(norm, list).check([trial.first[3]])


def clipping(trial: Trial) -> str:
    """Parameters after clipped steps of losses of very different size."""

    def train(session: Session, share: Share) -> dict[str, Tensor]:
        for index, factor in enumerate(FACTORS):
            session.step([share.of(trial.batch(index))], trial.rows, factor=factor)
        return session.values()

    def alone(dtype: torch.dtype) -> dict[str, Tensor]:
        session = Session.alone(dtype, max_grad_norm=CLIP)
        return train(session, session.share)

    return Both.of(alone, dict).check(train(trial.session(max_grad_norm=CLIP), trial.share))


def losses(trial: Trial) -> str:
    """The losses of several steps with clipping and a schedule."""
    return Both.of(lambda dtype: trial.alone[dtype][1], list).check(trial.losses(trial.straight[1]))


def parameters(trial: Trial) -> str:
    """The parameters after these steps."""
    return Both.of(lambda dtype: trial.alone[dtype][0].values(), dict).check(trial.straight[0].values())


def resuming(trial: Trial) -> str:
    """A new training that loads the state from half-way goes on with the same losses, at the rates of the schedule."""
    straight = trial.straight[1]
    again = trial.session(seed=1, max_grad_norm=CLIP)
    again.load(trial.saved[0], trial.folder)
    found = trial.losses(follow(again, trial.share, SAVED_AT, STEPS, trial.rows))
    wanted = trial.losses(straight)[SAVED_AT:]
    rounding = Both.of(lambda dtype: trial.alone[dtype][1][SAVED_AT:], list)
    rounding.check(found)
    return f"off by {max(abs(a - b) for a, b in zip(found, wanted, strict=True)):.1e} from those without"


def adapter(trial: Trial) -> str:
    """`save_adapter`'s file loads in plain PEFT, on the untouched model, and gives one process's outputs."""
    from qvtune.adapters import save_adapter
    from qvtune.conformance.plain import load_in_peft, outputs
    from qvtune.shards import is_sharded

    session, folder = trial.straight[0], trial.folder / "adapter"
    if trial.share.rank == 0 or is_sharded(session.adapted):
        save_adapter(session.model, folder)
    torch.distributed.barrier()
    batch = make_batch(100, 2 * ROWS)

    def alone(dtype: torch.dtype) -> Tensor:
        model = trial.alone[dtype][0].model
        return outputs(model, batch)

    if trial.share.rank != 0:
        return "loaded by the first process"
    return Both(alone(torch.float64).flatten(), alone(torch.float32).double().flatten()).check(
        {"logits": outputs(load_in_peft(folder), batch)}
    )


def metrics(trial: Trial) -> str:
    """Loss and accuracy over a set that the processes do not divide evenly: every example counts once."""
    share, size = trial.share, trial.rows + LEFT_OVER
    batch = make_batch(200, size)
    own = share.of(batch)
    rows = len(own["labels"])
    longest = -(-size // share.world)
    index = torch.arange(longest).clamp(max=rows - 1)  # the last example again, to be in step; it does not count
    padded = {name: tensor[index] for name, tensor in own.items()}
    loss, correct, count = (0.0, 0.0, 0)
    for start in range(0, longest, ROWS):
        counted = max(0, min(ROWS, rows - start))
        got = trial.straight[0].evaluate(part(padded, slice(start, start + ROWS)), counted)
        loss, correct, count = loss + got[0], correct + got[1], count + got[2]
    loss, correct, counted_by_all = total([loss, correct, count], share)
    if counted_by_all != size:
        raise Failed(f"{counted_by_all:.0f} examples counted, of {size}")

    def alone(dtype: torch.dtype) -> list[float]:
        found = trial.alone[dtype][0].evaluate(batch, size)
        return [found[0] / size, found[1] / size]

    return Both.of(alone, list).check([loss / size, correct / size])


def accumulation(trial: Trial) -> str:
    """A step of two passes of different sizes has the gradient of one batch of all their examples."""
    sizes = (ROWS, 1)
    rows = [size * trial.share.world for size in sizes]
    every = make_batch(300, sum(rows))
    parts = [part(every, slice(0, rows[0])), part(every, slice(rows[0], None))]
    session = trial.session(accumulation=2)
    norm = session.step([trial.share.of(batch) for batch in parts], sum(rows))[1]

    def alone(dtype: torch.dtype) -> list[float]:
        return [Session.alone(dtype).step([every], sum(rows))[1]]

    return Both.of(alone, list).check([norm])


CHECKS: dict[str, Callable[[Trial], str]] = {
    "rate of every parameter": rate_of_every_parameter,
    "λ": ratio,
    "rate of the head": rate_of_the_head,
    "weight decay by parameter": weight_decay,
    "no empty group": no_empty_group,
    "gradient norm": gradient_norm,
    "clipping": clipping,
    "losses": losses,
    "parameters after training": parameters,
    "checkpoint and resume": resuming,
    "adapter saved whole": adapter,
    "metrics, uneven set": metrics,
    "uneven accumulation": accumulation,
}


def run_checks(trial: Trial) -> Iterator[tuple[str, str | None, str]]:
    """Yield name, what failed or None, and the numbers of every check."""
    for name, check in CHECKS.items():
        try:
            detail = check(trial)
        except Failed as error:
            yield name, str(error), ""
        except Exception as error:  # a wrapper that breaks is what the check is for
            yield name, f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else ''}", ""
        else:
            yield name, None, detail
