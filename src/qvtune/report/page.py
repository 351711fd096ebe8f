"""`report.html`: one page about a run, made from its folder alone."""

import html
import json
from collections.abc import Sequence
from typing import Any

from qvtune.report.curves import draw_curves, inline_svg, save_figure
from qvtune.train.folder import RunFolder, write_text, writing

STYLE = """
:root { color-scheme: light dark; font-family: system-ui, sans-serif; line-height: 1.5; }
body { max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; margin: 0.5rem 0 1.5rem; }
caption { text-align: left; font-weight: 600; padding-bottom: 0.3rem; }
th, td { text-align: left; padding: 0.25rem 1.5rem 0.25rem 0; border-bottom: 1px solid color-mix(in srgb, currentColor 20%, transparent); }
td:nth-child(n + 2) { text-align: right; font-variant-numeric: tabular-nums; }
figure { margin: 1rem 0; overflow-x: auto; }
figure svg { width: 100%; height: auto; min-width: 34rem; }
pre { overflow-x: auto; }
"""  # noqa: E501


def write_report(folder: RunFolder) -> None:
    """Write `curves.png` and `report.html` of a finished run."""
    result = json.loads(folder.result.read_text(encoding="utf-8"))
    plan = json.loads(folder.plan.read_text(encoding="utf-8"))
    lines = folder.metrics.read_text(encoding="utf-8").splitlines()
    figure = draw_curves([json.loads(line) for line in lines], result["main_metric"])
    with writing(folder.curves):
        save_figure(figure, folder.curves)
    environment = json.loads(folder.environment.read_text(encoding="utf-8"))
    config = folder.config.read_text(encoding="utf-8")
    write_text(folder.report, _page(result, plan, environment, config, inline_svg(figure)))


def _page(result: dict[str, Any], plan: dict[str, Any], environment: dict[str, Any], config: str, svg: str) -> str:
    title = html.escape(f"{plan['model']} on {result['task']}")
    checkpoint = result["checkpoint"]
    trained = [
        (role, f"{count:,}", f"{plan['learning_rates'][role]:g}") for role, count in plan["parameters_by_role"].items()
    ]
    if plan["parameters_head"]:
        trained.append(("head", f"{plan['parameters_head']:,}", f"{plan['learning_rates']['head']:g}"))
    cost = [
        ("training time", f"{result['seconds']:.1f} s"),
        ("peak memory", f"{result['peak_memory_bytes'] / 2**20:,.0f} MiB"),
        ("training examples", f"{result['train_examples']:,}"),
        ("steps", f"{result['steps']:,}"),
    ]
    if result["train_samples_per_second"]:
        cost.insert(1, ("speed", f"{result['train_samples_per_second']:.1f} examples/s"))
    made_with = [
        ("seed", str(result["seed"])),
        ("python", environment["python"]),
        *((name, environment["versions"][name]) for name in ("qvtune", "torch", "transformers", "peft")),
        ("accelerator", environment["accelerator"]["name"] if environment["accelerator"] else "none"),
        ("processor", environment["processor"]),
    ]
    notes = "".join(f"<li>{html.escape(note)}</li>" for note in plan["notes"])
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title><style>{STYLE}</style></head><body>
<h1>{title}</h1>
{_table("Metrics", ("metric", "value"), [(k, f"{v:.4f}") for k, v in result["metrics"].items()])}
<p>Of the {html.escape(checkpoint["chosen"])} checkpoint, step {checkpoint["step"]}, reported on
{html.escape(", ".join(result["reported_on"]))}{_chosen_on(checkpoint)}.</p>
<figure role="img" aria-label="Loss, metric and learning rates over the steps">{svg}</figure>
{_table("What trained", ("role", "parameters", "learning rate"), trained)}
{_table("Cost", ("what", "amount"), cost)}
{_table("Made with", ("what", "which"), made_with)}
<ul>{notes}</ul>
<details><summary>Configuration</summary><pre>{html.escape(config)}</pre></details>
</body></html>
"""


def _chosen_on(checkpoint: dict[str, Any]) -> str:
    if not checkpoint["chosen_on"]:
        return ""
    return html.escape(f"; it was chosen by {checkpoint['chosen_by']} on the {checkpoint['chosen_on']} set")


def _table(caption: str, head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    header = "".join(f'<th scope="col">{html.escape(name)}</th>' for name in head)
    body = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return (
        f"<table><caption>{html.escape(caption)}</caption><thead><tr>{header}</tr></thead><tbody>{body}</tbody></table>"
    )
