"""Files of a benchmark: its numbers, and a page that says what printed them and on which machine."""

import json
import sys
from pathlib import Path
from typing import Any

# Libraries whose versions matter for speed.
LIBRARIES = ("torch", "transformers", "peft")


def about() -> dict[str, Any]:
    """Return the processor, threads, kernels and versions of this measurement."""
    from qvtune.training.environment import describe_environment

    environment = describe_environment()
    kept = {
        name: environment[name]
        for name in ("python", "processor", "processor_kind", "threads", "accelerator", "kernels")
    }
    return kept | {name: environment["versions"][name] for name in LIBRARIES}


def for_this_machine(out: Path) -> Path:
    """Return OUT-KIND for the kind of processor or the GPU that is here, as speed-amx, so that each keeps its table."""
    here = about()
    kind = here["accelerator"]["name"] if here["accelerator"] else here["processor_kind"]
    return out.with_name(f"{out.name}-{kind.lower().replace(' ', '-')}")


def write_results(out: Path, title: str, text: str, numbers: dict[str, Any], figure: Any = None) -> None:
    """Write OUT.json, OUT.md, and OUT.png where there is a figure.

    Args:
        out: the files without their endings.
        title: heading of the page.
        text: the tables in Markdown.
        numbers: what they are made from.
        figure: in Vega-Lite, as plain values.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    numbers = {"about": about(), **numbers}
    out.with_suffix(".json").write_text(json.dumps(numbers, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    write_page(out, title, text, figure)


def write_page(out: Path, title: str, text: str, figure: Any = None) -> None:
    """Write OUT.md, and OUT.png where there is a figure; for arguments see `write_results`."""
    from qvtune.report.plot import to_png

    here = about()
    out.parent.mkdir(parents=True, exist_ok=True)
    versions = ", ".join(f"{name} {here[name]}" for name in LIBRARIES)
    kernels = "kernels compiled" if here["kernels"]["compiled"] else "no kernels"
    lines = [
        f"# {title}",
        "",
        f"Printed by `benchmarks/{Path(sys.argv[0]).name}` on {here['processor']}, {here['threads']} threads, "
        f"{kernels} for {here['processor_kind']}; {versions}.",
        "",
        text,
    ]
    if figure is not None:
        out.with_suffix(".png").write_bytes(to_png(figure))
        lines += ["", f"![{title}]({out.stem}.png)"]
    out.with_suffix(".md").write_text("\n".join(lines) + "\n", encoding="utf-8")
