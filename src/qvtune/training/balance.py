"""Warnings where one side of attention, query and key or the value, starves or blows up in training."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from qvtune.amounts import join_words
from qvtune.methods.table import METHODS
from qvtune.options import option_name
from qvtune.roles.layouts import ATTENTION
from qvtune.training.config import TrainConfig
from qvtune.training.output_change import QUERY_KEY
from qvtune.training.telemetry import OUTPUT, UPDATE

VALUE, ALL = "value", "all"
# By side: its name, the ending of its verb, and its pronoun as subject and as object.
SIDES = {QUERY_KEY: ("query and key", "", "they", "them"), VALUE: ("the value", "s", "it", "it")}

# The roles of each side; their updates and steps count as the side's.
ROLES_OF = {QUERY_KEY: ("query", "key"), VALUE: ("value",)}

# The limits below come from runs of MiniLM (docs/rates.md). At rates that train, most steps change the output by less
# than 0.03 of its norm, and all by less than 0.12. At λ = 8 the value changes it up to 280 times as much as query and
# key.
# This many logged steps in a row have to show that a side starves, or that nothing moves.
WINDOW = 3
# A side starves if it changes the output by less than this fraction of what the other side does.
STARVED = 1 / 300
# At this fraction it no longer starves.
FED = 1 / 30
# A side blows up if it changes the output by this fraction of its norm in one step,
BLOWN = 0.2
# or if its weights have moved by this many times their size (no single step changes much after that),
MOVED = 1.0
# or if its change grows by this factor at every logged step of the window, at the same rate, up to this fraction of the
# norm.
GROWTH, GROWN = 1.5, 0.03
# Rates that train mostly stay below these: the output's change in one step, and the weights' change in total.
USUAL, USUAL_MOVED = 0.03, 0.1
# Nothing moves if all steps together change the output by less than this fraction.
STILL = 0.002


def list_warnings(records: Sequence[Mapping[str, Any]], *, ended: bool = False) -> list[str]:
    """Return the warnings of a run's log.

    Args:
        records: lines of `metrics.jsonl`.
        ended: whether the run has ended. Its final predictions are then judged by themselves, since the problem that an
            earlier evaluation warned of may be gone.
    """
    found = [(about, text) for record in records for about, text in record.get("warnings", {}).items()]
    return [text for about, text in found if not (ended and about not in (*SIDES, ALL))]


def side_warnings(
    records: Sequence[Mapping[str, Any]], config: TrainConfig, steps: int, told: set[str]
) -> dict[str, str]:
    """Return the warnings after the last record, by side: "query_key", "value", or "all" where nothing moves.

    A record without measured changes gives nothing.

    Args:
        records: logged steps, as in `metrics.jsonl`.
        config: the run's; the warnings name its rates.
        steps: number of steps of the whole run.
        told: sides that already have a warning; they are skipped.
    """
    if not _changes(records[-1]):
        return {}
    measured = [record for record in records if _changes(record)][-WINDOW - 1 :]
    found = {}
    for side in _sides(measured[-1]):
        if side not in told and (reasons := _blown_by(measured, side)):
            found[side] = _blown(measured[-1], side, config, reasons)
    window = measured[-WINDOW:]
    method = METHODS[config.method]
    if found or len(window) < WINDOW or method.is_unseen(config.roles):  # which no rate changes
        return found
    total = steps * sum(max(_changes(record).values()) for record in window) / WINDOW
    if ALL not in told and total < STILL:
        return {ALL: _still(total, steps, window[-1], config)}
    if method.shares_out:
        return {}  # it takes from the side that it finds less important
    for side, other in ((QUERY_KEY, VALUE), (VALUE, QUERY_KEY)):
        # If a side blows up, the other one looks too small beside it.
        if not {side, other, ALL} & told and all(_is_starved(_sides(record), side, other) for record in window):
            found[side] = _starved(window, side, other, config)
    return found


def _changes(record: Mapping[str, Any]) -> dict[str, float]:
    return {name.removeprefix(OUTPUT): value for name, value in record.items() if name.startswith(OUTPUT)}


def _sides(record: Mapping[str, Any]) -> dict[str, float]:
    """Return the change through each side that trains."""
    changes = _changes(record)
    ours = next((changes[part] for part in (QUERY_KEY, "query", "key") if part in changes), None)
    sides = {QUERY_KEY: ours, VALUE: changes.get("value")}
    return {side: change for side, change in sides.items() if change is not None}


def _is_starved(sides: Mapping[str, float], side: str, other: str) -> bool:
    return {side, other} <= sides.keys() and sides[side] < STARVED * sides[other]


def _blown_by(measured: Sequence[Mapping[str, Any]], side: str) -> list[str]:
    """Return each limit that a side is beyond, in words."""
    changes = [_sides(record).get(side, 0.0) for record in measured]
    moved = _largest(measured[-1], UPDATE, side)
    it, their = SIDES[side][-1], "its" if side == VALUE else "their"
    through = f"the output of attention layers by {changes[-1]:.0%} of its norm through {it}, where up to {USUAL:.0%}"
    reasons = []
    if changes[-1] > BLOWN:
        reasons.append(f"step {measured[-1]['step']:,} changed {through} is usual")
    elif _grows(measured, changes, side):
        reasons.append(
            f"steps changed the output ever more, over {GROWTH:g} times as much from each logged step to the next by "
            f"the same rate, and step {measured[-1]['step']:,} changed {through} is usual"
        )
    if moved > MOVED:
        reasons.append(
            f"up to step {measured[-1]['step']:,} {their} weights have moved by {moved:.0%} of their norm, where up to "
            f"{USUAL_MOVED:.0%} is usual"
        )
    return reasons


def _grows(measured: Sequence[Mapping[str, Any]], changes: Sequence[float], side: str) -> bool:
    rates = [_largest(record, "lr/", side) for record in measured]
    if len(changes) <= WINDOW or changes[-1] < GROWN or 0 in rates:
        return False
    by_rate = [change / rate for change, rate in zip(changes, rates, strict=True)]
    return all(later > GROWTH * earlier for earlier, later in pairwise(by_rate))


def _largest(record: Mapping[str, Any], prefix: str, side: str) -> float:
    return max(record.get(f"{prefix}{role}", 0.0) for role in ROLES_OF[side])


def _blown(record: Mapping[str, Any], side: str, config: TrainConfig, reasons: Sequence[str]) -> str:
    # This factor brings both sizes down to the usual ones, also a size that is still below its limit.
    factor = max(_sides(record)[side] / USUAL, _largest(record, UPDATE, side) / USUAL_MOVED)
    name, ending, *_ = SIDES[side]
    return (
        f"Warning: {name} blow{ending} up: {'; and '.join(reasons)}. "
        f"Lower {_knob(side, config, lower_by=factor)} by a factor of {_round(factor)}."
    )


def _starved(window: Sequence[Mapping[str, Any]], side: str, other: str, config: TrainConfig) -> str:
    shares = [_sides(record)[side] / _sides(record)[other] for record in window]
    less = 1 / max(max(shares), 1e-9)
    name, ending, it, _ = SIDES[side]
    # λ moves the value alone. If each side has its own rate, the other side's rate is to blame where that side changes
    # too much.
    is_other_high = max(_sides(record)[other] for record in window) > USUAL
    if "value" not in config.own_rates:
        advice = f"{'Lower' if side == QUERY_KEY else 'Raise'} {_knob(VALUE, config)}"
    else:
        advice = f"Lower {_knob(other, config)}" if is_other_high else f"Raise {_knob(side, config)}"
    return (
        f"Warning: {name} starve{ending}. In {WINDOW} logged steps up to step {window[-1]['step']:,} "
        f"{it} changed the output of attention layers less than 1/{_round(less)} as much as {SIDES[other][0]} did. "
        f"{advice} by a factor of {_round(less * FED)} or more."
    )


def _still(total: float, steps: int, record: Mapping[str, Any], config: TrainConfig) -> str:
    own = list(config.own_rates.values())
    knobs = own if len(own) == len(config.roles) else [f"--lr (now {config.lr:g})", *own]
    kind = "attention" if set(config.roles) & set(ATTENTION) else "feed-forward"
    return (
        f"Warning: nothing moves. At the pace of the logged steps up to step {record['step']:,}, all {steps:,} steps "
        f"together change the output of {kind} layers by {total:.1g} of its norm at most. "
        f"Raise {join_words(knobs)} by a factor of {_round(10 * STILL / max(total, 1e-9))} or more."
    )


def _knob(side: str, config: TrainConfig, lower_by: float = 0.0) -> str:
    """Name the option that sets a side's rate, with its value. Prefer λ, unless λ would fall below 1."""
    role = "value" if side == VALUE else "query" if "query" in config.own_rates else "key"
    if role in config.own_rates:
        return config.own_rates[role]
    name = "lr_ratio" if side == VALUE and lower_by <= config.lr_ratio else "lr"
    return f"{option_name(name)} (now {getattr(config, name):g})"


def _round(factor: float) -> str:
    """Return a factor rounded to one significant digit, such as "800", and at least 2."""
    return f"{float(f'{max(factor, 2.0):.1g}'):,.0f}"
