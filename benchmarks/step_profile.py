"""Where the time of a training step goes: shares of wall time by part.

    python benchmarks/step_profile.py --glue-dir glue --out docs/benchmarks/profile

Trains each case as `qvtune train` does, on the examples of speed.py. After warm-up, torch's profiler records steps; the
self time of every event, its children not counted, goes to the part that its name belongs to, and what is left of the
wall time is Python between the operations; Python inside of an operation counts as the operation. The profiler itself
takes time too, so steps without it are timed afterwards. This file is not called profile.py, which would hide Python's
own module of that name from torch.
"""

import statistics
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

from results import write_results
from speed import Case, configuration, parse_cases

WARM_UP, PROFILED, PLAIN = 10, 30, 30
# Shares of wall time below which parts are summed.
LEAST = 0.03

# What the names of a part's events begin with. Events of a `Function` have its name, and its name and "Backward".
PARTS = {
    "frozen products": ("Product", "mkldnn::"),
    "LoRA layers, frozen product included": ("Adapted",),
    "attention": ("Attended", "aten::scaled_dot_product", "aten::_scaled_dot_product"),
    "activation": ("Activated", "aten::gelu", "aten::silu"),
    "norms, residual sums included": ("Normed", "aten::native_layer_norm"),
    "dropout": ("Dropped", "aten::native_dropout", "aten::bernoulli_"),
    "summing gradients": ("aten::add_",),
    "embeddings": ("aten::embedding", "aten::index_select"),
    "head, pooler and loss": ("aten::addmm", "aten::mm", "aten::tanh", "aten::_log_softmax", "aten::nll_loss"),
    "optimizer and clipping": ("Optimizer.", "aten::_fused_adamw_", "aten::linalg_vector_norm", "aten::_foreach"),
    "allocation": ("aten::empty",),
    "data loading": ("enumerate(DataLoader)",),
}
OTHER = "everything else in torch"
PYTHON = "Python between the operations"

# What the time of a part goes into, and why it is not spared.
WHY = {
    "frozen products": "Key, output and both feed-forward matrices, forward and for the gradient of their inputs: the "
    "arithmetic that fine-tuning is.",
    "LoRA layers, frozen product included": "Query and value: their frozen products, and the low-rank ones in "
    "float32, in one pass over the rows forward and one backward, with masks.",
    "attention": "Products in float32 vectors, forward and once more for the backward pass, which keeps no scores; and "
    "an exponential for each. On short texts, transposing keys and values for the products.",
    "activation": "Exponentials of every element of the widest activation, whose slope is written beside it; then one "
    "product with it. Bound by memory on long texts.",
    "norms, residual sums included": "One pass over the rows forward and one backward, with a mask.",
    "dropout": "The embeddings' dropout and the head's.",
    "summing gradients": "What comes to a layer's input by query, key, value and residual, added up by torch.",
    "embeddings": "Rows of the tables, which no kernel joins with the norm after them.",
    "head, pooler and loss": "Small products by the library, in autocast.",
    "optimizer and clipping": "A hundred small tensors, whose norms torch takes one by one.",
    "allocation": "torch's allocator, for a few hundred tensors.",
    "data loading": "The batch is put together by Python when it is asked for.",
    OTHER: "Views, copies, types: hundreds of operations of a few microseconds.",
    PYTHON: "transformers' modules and the loop over the steps.",
}


def measure(case: Case, glue_dir: Path) -> dict[str, Any]:
    """Train once, and return self times by event and what the steps took."""
    from rich.console import Console

    from qvtune.training.run import run

    found: dict[str, Any] = {"plain_marks": []}
    steps = WARM_UP + PROFILED + PLAIN
    with tempfile.TemporaryDirectory() as folder:
        config = configuration(case, glue_dir, case.samples, Path(folder) / "run")
        # Few examples come in several epochs, with no evaluation between them.
        config = config.model_copy(update={"max_steps": steps, "eval_steps": steps})
        run(config, Console(quiet=True), callbacks=[profiling_callback(found)])
    return found


def profiling_callback(found: dict[str, Any]) -> Any:
    """Return a callback that profiles steps after the warm-up, and times the steps after those, into `found`."""
    from torch.profiler import ProfilerActivity, profile

    import qvtune

    profiler = profile(activities=[ProfilerActivity.CPU])
    marks: list[float] = []

    class Profiling(qvtune.Callback):
        def on_step_end(self, progress: Any) -> None:
            step = progress.step - WARM_UP
            if 0 < step <= PROFILED:
                marks.append(time.perf_counter())
            if step == 0:
                profiler.start()
                marks.append(time.perf_counter())
            elif step == PROFILED:
                profiler.stop()
                found["profiled_step_seconds"] = intervals(marks)
                found["events"] = {event.key: event.self_cpu_time_total / 1e6 for event in profiler.key_averages()}
            if step >= PROFILED:
                found["plain_marks"].append(time.perf_counter())

    return Profiling()


def intervals(marks: list[float]) -> list[float]:
    """Return the seconds between one mark and the next."""
    return [later - earlier for earlier, later in pairwise(marks)]


def part_of(event: str) -> str:
    """Return the part that an event belongs to."""
    return next((part for part, starts in PARTS.items() if event.startswith(starts)), OTHER)


def summarize(found: dict[str, Any]) -> dict[str, Any]:
    """Return the shares of wall time by part, the largest first, and the time of a step."""
    profiled = found["profiled_step_seconds"]
    wall = sum(profiled)
    parts = dict.fromkeys((*PARTS, OTHER), 0.0)
    for event, seconds in found["events"].items():
        parts[part_of(event)] += seconds
    parts[PYTHON] = wall - sum(parts.values())
    events = sorted(found["events"].items(), key=lambda item: -item[1])
    return {
        "profiled_steps": len(profiled),
        "profiled_step_ms": 1000 * statistics.median(profiled),
        "plain_step_ms": 1000 * statistics.median(intervals(found["plain_marks"])),
        "shares": {part: seconds / wall for part, seconds in sorted(parts.items(), key=lambda item: -item[1])},
        "ms_per_step": {part: 1000 * seconds / len(profiled) for part, seconds in parts.items()},
        "events_ms_per_step": {event: 1000 * seconds / len(profiled) for event, seconds in events},
    }


def table(name: str, summary: dict[str, Any]) -> str:
    """Return a case's shares as a table in Markdown."""
    shares, times = summary["shares"], summary["ms_per_step"]
    rest = [part for part, share in shares.items() if share < LEAST]
    lines = [
        f"{name}: a step took {summary['profiled_step_ms']:.1f} ms under the profiler and "
        f"{summary['plain_step_ms']:.1f} ms without it (medians).",
        "",
        "| part | share of wall time | ms a step | what it is, and why it is there |",
        "| --- | --- | --- | --- |",
    ]
    lines += [
        f"| {part} | {shares[part]:.1%} | {times[part]:.2f} | {WHY[part]} |" for part in shares if part not in rest
    ]
    if rest:
        share, ms = sum(shares[part] for part in rest), sum(times[part] for part in rest)
        lines.append(f"| parts below {LEAST:.0%} | {share:.1%} | {ms:.2f} | {', '.join(rest)} |")
    return "\n".join(lines)


def main() -> None:
    """Profile every case, and print a table for each."""
    args, cases = parse_cases(__doc__ or "", "sst2,rte")
    summaries, tables = {}, []
    for case in cases:
        summaries[case.name] = summarize(measure(case, args.glue_dir))
        tables.append(table(case.name, summaries[case.name]))
        print(tables[-1] + "\n", flush=True)
    if args.out:
        write_results(args.out, "Where the time of a step goes", "\n\n".join(tables), {"cases": summaries})


if __name__ == "__main__":
    main()
