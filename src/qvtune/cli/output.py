"""Output that several commands share."""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from rich.console import Console
from rich.table import Table

from qvtune.amounts import count, format_bytes, format_seconds, join_words
from qvtune.interrupts import stopping_on_signals
from qvtune.roles.attention import AttentionLayer, AttentionMap, FeedForwardLayer, Projection
from qvtune.roles.layouts import ATTENTION, FEED_FORWARD
from qvtune.training.config import TrainConfig
from qvtune.training.environment import is_main_process
from qvtune.training.folder import RunFolder
from qvtune.training.hardware import hardware_sentence
from qvtune.training.plan import Plan

if TYPE_CHECKING:
    from qvtune.training.start.head import HeadStart


def train_and_show(config: TrainConfig) -> dict[str, Any]:
    """Train; print what trains, the progress and the result; make the report; return the result."""
    from qvtune.report.drawn import draw_run
    from qvtune.report.page import write_report
    from qvtune.training.prepare import Prepared
    from qvtune.training.run import run

    main = is_main_process()
    console, progress = Console(quiet=not main), Console(stderr=True, quiet=not main)

    def show(prepared: Prepared) -> None:
        for note in prepared.notes:
            console.out(note, highlight=False)
        print_plan(console, prepared.plan)
        if prepared.data.task.has_new_head:
            print_head_start(console, prepared.head_start, prepared.data.task.main_metric)

    with stopping_on_signals(progress) as stop:
        result = run(config, progress, show, stop=stop, draw=draw_run)
    folder = RunFolder(config.out)
    if main:
        write_report(folder.path)
    show_result(console, result, folder)
    return result


def print_plan(console: Console, plan: Plan) -> None:
    """Print what trains: parameters and learning rate by role."""
    status = "measured on the model" if plan.verified else "by structure, not measured"
    how = f"{plan.method}, {plan.roles}, {_layers_of(plan)}, roles {status}" if plan.roles else plan.method
    console.out(
        f"{plan.model} ({plan.model_type}): {how}",
        highlight=False,
    )
    for note in _notes_of(plan):
        console.out(note, highlight=False)
    table = Table()
    table.add_column("trains")
    table.add_column("parameters", justify="right")
    table.add_column("learning rate", justify="right")
    for role, trained in plan.parameters_by_role.items():
        of_b = plan.learning_rates.get(f"{role}_b")
        rate = f"{plan.learning_rates[role]:g}" + ("" if of_b is None else f", B {of_b:g}")
        table.add_row(role, f"{trained:,}", rate)
    if plan.parameters_head:
        table.add_row("head", f"{plan.parameters_head:,}", f"{plan.learning_rates['head']:g}")
    share = plan.parameters_trainable / plan.parameters_total
    table.add_section()
    table.add_row("all", f"{plan.parameters_trainable:,}", f"{share:.2%} of {plan.parameters_total:,}")
    console.print(table)


def _layers_of(plan: Plan) -> str:
    """Say how many layers have the roles that train."""
    kinds = ((ATTENTION, "attention", plan.attention_layers), (FEED_FORWARD, "feed-forward", plan.feed_forward_layers))
    return join_words([count(number, f"{kind} layer") for roles, kind, number in kinds if set(roles) & set(plan.roles)])


def _notes_of(plan: Plan) -> list[str]:
    """Return what is left out of the feed-forward, if a part of it trains."""
    if not set(FEED_FORWARD) & set(plan.roles):
        return []
    has_gate = any(p.role == "g" for layer in plan.attention.feed_forward for p in layer.projections)
    notes = [] if has_gate else ["The feed-forward of this model has no gate: it is up and down."]
    frozen = {(_generic(part.module), part.class_name): part.reason for part in plan.attention.experts}
    return notes + [f"Frozen: {name} ({kind}), {reason}." for (name, kind), reason in frozen.items()]


def print_head_start(console: Console, start: "HeadStart", metric: str) -> None:
    """Print how the head starts, and its metric before any step."""
    if start.metrics is None:
        reason = f": {start.reason}" if start.reason else ""
        console.out(f"The head starts as it is{reason}.", highlight=False)
        return
    first = ", with a first token that attends evenly" if start.kind == "even" else ""
    console.out(
        f"The head starts as a linear probe of the frozen features of {start.examples:,} training examples{first}: "
        f"{metric} {start.metrics[metric]:.4f} before any step.",
        highlight=False,
    )


def print_attention(console: Console, attention: AttentionMap) -> None:
    """Print where the roles are, with similar layers together."""
    for layers in _alike(attention.layers):
        first = layers[0]
        heads = f"{first.heads} heads of {first.head_dim}"
        heads += f", {first.kv_heads} of keys and values" if first.kv_heads != first.heads else ""
        console.out(f"{first.stack} {_numbers(layers)}: {first.kind}-attention, {heads}".strip(), highlight=False)
        for projection in first.projections:
            console.out(f"    {projection.role}  {_generic(projection.module)}{_rows(projection)}", highlight=False)
    for networks in _alike(attention.feed_forward):
        gate = "" if any(p.role == "g" for p in networks[0].projections) else ", no gate"
        kind = " of shared experts" if networks[0].kind == "shared" else ""
        numbers = _numbers(networks)
        console.out(f"{networks[0].stack} {numbers}: feed-forward{kind}{gate}".strip(), highlight=False)
        for projection in networks[0].projections:
            console.out(f"    {projection.role}  {_generic(projection.module)}{_rows(projection)}", highlight=False)
    for name, reason in dict.fromkeys((o.class_name, o.reason) for o in (*attention.others, *attention.experts)):
        console.out(f"Not adapted: {name}, {reason}.", highlight=False)
    for name, reason in dict.fromkeys((other.class_name, other.reason) for other in attention.unknown):
        console.out(f"Feed-forward not understood: {name}, {reason}.", highlight=False)


L = TypeVar("L", AttentionLayer, FeedForwardLayer)


def _alike(layers: Sequence[L]) -> list[list[L]]:
    """Group layers that differ in their number alone."""
    alike: dict[Any, list[L]] = {}
    for layer in layers:
        shapes = tuple((p.role, _generic(p.module), p.rows, p.shape) for p in layer.projections)
        heads = (layer.heads, layer.kv_heads) if isinstance(layer, AttentionLayer) else ()
        alike.setdefault((layer.stack, layer.kind, heads, shapes), []).append(layer)
    return list(alike.values())


def _numbers(layers: Sequence[AttentionLayer | FeedForwardLayer]) -> str:
    numbers = [layer.index for layer in layers]
    if numbers == list(range(numbers[0], numbers[-1] + 1)):
        return f"layers {numbers[0]} to {numbers[-1]}" if len(numbers) > 1 else f"layer {numbers[0]}"
    return f"layers {', '.join(map(str, numbers))}"


def _rows(projection: Projection) -> str:
    rows = projection.rows
    if not projection.is_fused:
        return ""
    more = f", and so on every {rows.period}" if rows.repeats > 1 else ""
    return f", rows {rows.start} to {rows.start + rows.size - 1}{more}"


def _generic(name: str) -> str:
    return re.sub(r"\.\d+(?=\.|$)", ".*", name)


def print_cost(console: Console, plan: Plan, config: TrainConfig) -> None:
    """Print what a step costs."""
    passes = f"{config.accumulation} x " if config.accumulation > 1 else ""
    length = plan.text_tokens
    batch = f"{config.batch_size} x {length}" if config.batch_tokens is None else f"{config.pass_tokens(length):,}"
    console.out(f"Estimated for a step of {passes}{batch} tokens", highlight=False)
    table = Table()
    table.add_column("what")
    table.add_column("amount", justify="right")
    for name, size in plan.memory_bytes.items():
        table.add_row(f"memory, {name}", format_bytes(size))
    table.add_row("memory, all", format_bytes(sum(plan.memory_bytes.values())))
    table.add_row("operations", f"{plan.step_operations / 1e9:,.1f} GFLOP")
    table.add_row("saved on disk", format_bytes(plan.adapter_bytes))
    console.print(table)


def print_metrics(
    console: Console, metrics: dict[str, float], title: str, alone: dict[str, float] | None = None
) -> None:
    """Print a table of metrics, beside those of the probe alone if they are known."""
    console.out(title, highlight=False)
    table = Table()
    table.add_column("metric")
    table.add_column("value", justify="right")
    if alone:
        table.add_column("probe alone", justify="right")
    for name, value in metrics.items():
        before = [f"{alone[name]:.4f}" if name in alone else ""] if alone else []
        table.add_row(name, f"{value:.4f}", *before)
    console.print(table)


def show_result(console: Console, result: dict[str, Any], folder: RunFolder) -> None:
    """Print metrics, their checkpoint, speed, memory, and where everything is."""
    checkpoint = result["checkpoint"]
    chosen = f"{checkpoint['chosen']} checkpoint, step {checkpoint['step']} of {result['steps']}"
    if checkpoint["chosen_on"]:
        chosen += f", chosen by {checkpoint['chosen_by']}, on the {checkpoint['chosen_on']} set"
    alone = (result.get("head_start") or {}).get("metrics")
    print_metrics(console, result["metrics"], f"{', '.join(result['reported_on'])}: {chosen}", alone)
    speed = result["train_samples_per_second"]
    console.out(
        f"{format_seconds(result['seconds'])} of training"
        + (f", {speed:.0f} examples/s" if speed else "")
        + f", {format_bytes(result['peak_memory_bytes'])} at most. Run folder: {folder.path}",
        highlight=False,
    )
    if "hardware" in result:  # runs of earlier versions have none
        precision = result["hardware"]["precision"]
        exact = "" if precision == "fp32" else " The metrics above are in fp32, those during the training were not."
        console.out(hardware_sentence(result["hardware"]) + exact, highlight=False)
