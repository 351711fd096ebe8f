"""The page of one run, finished or not, made only from its folder."""

from collections.abc import Sequence
from typing import Any

from qvtune.errors import RunError
from qvtune.report.class_parts import class_parts, mistakes_table
from qvtune.report.curves import shown_charts
from qvtune.report.document import Details, Entry, Page, Pictures, Table
from qvtune.report.lines import draw_chart
from qvtune.training.balance import list_warnings
from qvtune.training.folder import RunFolder
from qvtune.training.records import read_mistakes, read_records


def read_run(folder: RunFolder, name: str) -> dict[str, Any]:
    """Return one of the run's JSON files, or an empty dictionary if the run has not written it yet.

    Raises:
        RunError: if it is damaged.
    """
    return getattr(folder, f"read_{name}")() if getattr(folder, name).is_file() else {}


def main_metric(result: dict[str, Any], plan: dict[str, Any]) -> str:
    """Return the name of the task's main metric, from the files that a run has."""
    return result.get("main_metric") or plan.get("task", {}).get("main_metric", "metric")


def run_page(folder: RunFolder) -> Page:
    """Make the page of a run."""
    result, plan = read_run(folder, "result"), read_run(folder, "plan")
    environment = read_run(folder, "environment")
    records = read_records(folder)
    config = folder.config.read_text(encoding="utf-8", errors="replace")
    try:
        parts: list[Any] = _result_tables(result) if result else []
        charts = shown_charts(records, main_metric(result, plan))
        if charts:
            text = "Over the steps of training. " + " ".join(chart.caption for chart in charts)
            parts.append(Pictures("Curves", [draw_chart(chart) for chart in charts], text.strip(), "curves"))
        parts += mistakes_table(read_mistakes(folder)) if result else []
        parts += [trained_table(plan)] if plan else []
        parts += [_cost(result)] if result else []
        parts += [_made_with(environment)] if environment else []
        sentences = [_checkpoint(result) if result else _unfinished(records)]
    except (KeyError, TypeError, AttributeError) as error:
        raise RunError(
            f"{folder.path}: its files are damaged or of another version of qvtune: {error!r} is missing or no value "
            "that is known. Train again in another --out."
        ) from None
    parts.append(Details("Configuration", config))
    name = f"{plan['model']} on {result.get('task') or plan['task']['name']}" if plan else str(folder.path.name)
    warnings = dict.fromkeys([*list_warnings(records, ended=bool(result)), *result.get("warnings", [])])
    return Page(name, sentences, plan.get("notes", []), parts, list(warnings))


def text_table(caption: str, columns: Sequence[str], rows: Sequence[tuple[str, ...]]) -> Table:
    """Return a table of text; columns from the second on are aligned like numbers."""
    return Table(caption, list(columns), [[Entry(cell) for cell in row] for row in rows])


def _result_tables(result: dict[str, Any]) -> list[Any]:
    alone = (result.get("head_start") or {}).get("metrics") or {}
    rows = [
        [Entry(name), _value(v), *([_value(alone.get(name))] if alone else [])] for name, v in result["metrics"].items()
    ]
    columns = ["metric", "value", *(["probe alone, before any step"] if alone else [])]
    return [Table("Metrics", columns, rows), *class_parts(result)]


def _value(value: float | None) -> Entry:
    return Entry("" if value is None else f"{value:.4f}", value)


def trained_table(plan: dict[str, Any]) -> Table:
    """Return the parameters and the rate of every role, from a plan as a dictionary."""
    counts = plan["parameters_by_role"] | ({"head": plan["parameters_head"]} if plan["parameters_head"] else {})
    rates = plan["learning_rates"]
    rows = [
        [
            Entry(role),
            Entry(f"{count:,}", count),
            Entry(f"{rates[role]:g}", rates[role]) if role in rates else Entry(""),
        ]
        for role, count in counts.items()
    ]
    return Table("What trained", ["role", "parameters", "learning rate"], rows)


def _cost(result: dict[str, Any]) -> Table:
    rows = [
        ("training time", f"{result['seconds']:.1f} s"),
        ("peak memory", f"{result['peak_memory_bytes'] / 2**20:,.0f} MiB"),
        ("training examples", f"{result['train_examples']:,}"),
        ("steps", f"{result['steps']:,}"),
    ]
    if result["train_samples_per_second"]:
        rows.insert(1, ("speed", f"{result['train_samples_per_second']:.1f} examples/s"))
    return text_table("Cost", ("what", "amount"), rows)


def _made_with(environment: dict[str, Any]) -> Table:
    rows = [
        ("seed", str(environment["seed"])),
        ("python", environment["python"]),
        *((name, environment["versions"][name]) for name in ("qvtune", "torch", "transformers", "peft")),
        ("accelerator", environment["accelerator"]["name"] if environment["accelerator"] else "none"),
        ("processor", environment["processor"]),
    ]
    return text_table("Made with", ("what", "which"), rows)


def _checkpoint(result: dict[str, Any]) -> str:
    checkpoint = result["checkpoint"]
    text = f"Of the {checkpoint['chosen']} checkpoint, step {checkpoint['step']}, reported on "
    text += ", ".join(result["reported_on"])
    if checkpoint["chosen_on"]:
        text += f"; it was chosen by {checkpoint['chosen_by']}, on the {checkpoint['chosen_on']} set"
    return text + "."


def _unfinished(records: list[dict[str, Any]]) -> str:
    if not records:
        return "This run has not finished, and has logged nothing yet."
    return f"This run has not finished; its last logged step is {records[-1]['step']:,}."
