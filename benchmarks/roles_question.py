"""Attention or feed-forward: sets of roles at equal numbers of trained parameters, each at its own best rate.

    python benchmarks/roles_question.py --glue-dir glue --instruct DIR --runs runs/roles --out docs/benchmarks/roles

LoRA of rank 8 on query and value, and the other sets at the ranks that train as many parameters. The first seed chooses
the rate of every set; the other seeds train each set at that rate. GLUE is learned by pkg:minilm, from 2,500 texts of a
task at most, and ARC-Easy (train.json and test.json in DIR/ARC-Easy) by pkg:smollm2. Means are over all seeds, the one
that chose among them; the same sets choose and report, for all alike. The same command goes on where it stopped.
"""

import argparse
import csv
import json
import statistics
from pathlib import Path
from typing import Any

from results import write_results

SETS, RANK = ("qv", "gud", "all"), 8
RATES = {"glue": (3e-4, 1e-3, 3e-3, 1e-2), "arc": (3e-4, 1e-3, 3e-3)}
TASKS = ("sst2", "cola", "mrpc", "rte")
GLUE = {"model": "pkg:minilm", "max_train_samples": 2500, "epochs": 3, "log_updates": False, "keep_best": False}
ARC = {
    "model": "pkg:smollm2", "task_type": "completion", "max_steps": 60, "batch_size": 8, "max_eval_samples": 100,
    "log_updates": False, "keep_best": False, "eval_batch_size": 16,
}  # fmt: skip
# PEFT's benchmark of methods, Llama-3.2-3B on MetaMathQA, tested on GSM8K: one rate for all, one seed.
PUBLISHED = (("query, value, rank 32", "48.2 %"), ("feed-forward, rank 10", "52.6 %"))


def jsonl(folder: Path, place: Path) -> dict[str, Any]:
    """Write train and test as JSONL, and return the options that name them."""
    place.mkdir(parents=True, exist_ok=True)
    for name in ("train", "test"):
        rows = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (place / f"{name}.jsonl").write_text(text, encoding="utf-8")
    return {"data": str(place / "train.jsonl"), "validation": str(place / "test.jsonl")}


def read(path: Path) -> list[dict[str, str]]:
    """Return the rows of a CSV file."""
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def ask(
    options: dict[str, Any], rates: tuple[float, ...], out: Path, seeds: list[int], tasks: list[str] | None
) -> list[dict[str, Any]]:
    """Choose every set's rate by the first seed, train the other seeds, and return a row for every set."""
    import qvtune

    shared = {"out": out, "options": options, "tasks": tasks}
    qvtune.compare(roles_sets=SETS, equal_parameters=True, axes={"lr": rates}, seeds=seeds[:1], **shared)
    names = {of_roles(row["method"]): row["roles"] for row in read(out / "best.csv")}
    # The store may have the other seeds already; they choose nothing.
    tried: dict[str, dict[str, str]] = {roles: {} for roles in names}
    for run in read(out / "results.csv"):
        if int(run["seed"]) == seeds[0]:
            tried[of_roles(run["method"])][run["method"]] = run["metric"]
    best = {roles: max(metrics, key=lambda word, of=metrics: float(of[word])) for roles, metrics in tried.items()}
    qvtune.compare(list(best.values()), seeds=seeds, **shared)
    rows, runs = [], read(out / "results.csv")
    for roles, word in best.items():
        own = sorted((run for run in runs if run["method"] == word), key=lambda run: int(run["seed"]))
        rows.append(
            {
                "roles": names[roles], "how": word, "metric_name": own[0]["metric_name"],
                "values": [float(run["metric"]) for run in own],
                "parameters": int(float(own[0]["adapter_parameters"])),
                "tried": tried[roles],
            }
        )  # fmt: skip
    return rows


def of_roles(word: str) -> str:
    """Return the roles of a method's description, such as "gud" of "lora:roles=gud+rank=3"."""
    return word.partition("roles=")[2].split("+")[0]


def setting(word: str, name: str) -> str:
    """Return an option of a method's description."""
    return next(part.partition("=")[2] for part in word.partition(":")[2].split("+") if part.startswith(f"{name}="))


def table(asked: dict[str, list[dict[str, Any]]]) -> str:
    """Return the results as a table in Markdown."""
    lines = [
        "| what | set | rank | rate | adapter's parameters | metric | by seed | mean ± sd |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for what, rows in asked.items():
        for row in rows:
            values = row["values"]
            spread = f" ± {statistics.stdev(values):.4f}" if len(values) > 1 else ""
            lines.append(
                f"| {what} | {row['roles']} | {setting(row['how'], 'rank')} | {float(setting(row['how'], 'lr')):g} | "
                f"{row['parameters']:,} | {row['metric_name']} | {', '.join(f'{value:.4f}' for value in values)} | "
                f"{statistics.mean(values):.4f}{spread} |"
            )
    return "\n".join(lines)


def listed(rates: tuple[float, ...]) -> str:
    """Return rates as text."""
    return ", ".join(f"{rate:g}" for rate in rates)


def main() -> None:
    """Ask on every task, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--glue-dir", type=Path, default=None)
    parser.add_argument("--instruct", type=Path, default=None)
    parser.add_argument("--tasks", default=",".join(TASKS))
    parser.add_argument("--runs", type=Path, default=Path("runs/roles"))
    parser.add_argument("--out", type=Path, default=Path("docs/benchmarks/roles"))
    parser.add_argument("--seeds", default="0,1,2")
    args = parser.parse_args()
    seeds, asked = [int(seed) for seed in args.seeds.split(",")], {}
    if args.glue_dir is not None:
        for task in args.tasks.split(","):
            options = GLUE | {"glue_dir": str(args.glue_dir)}
            asked[f"{task.upper()}, MiniLM"] = ask(options, RATES["glue"], args.runs / task, seeds, [task])
    if args.instruct is not None:
        options = ARC | jsonl(args.instruct / "ARC-Easy", args.runs / "data")
        asked["ARC-Easy, SmolLM2"] = ask(options, RATES["arc"], args.runs / "arc", seeds, None)
    published = "\n".join(f"| {name} | {value} |" for name, value in PUBLISHED)
    text = "\n\n".join(
        [
            table(asked),
            f"LoRA of rank {RANK} on qv and its equals in parameters; alpha moves with the rank, λ has its default. "
            f"Rates are tried by seed {seeds[0]}. GLUE: rates {listed(RATES['glue'])}, "
            f"{GLUE['max_train_samples']:,} texts at most, {GLUE['epochs']} epochs, the development set. "
            f"ARC-Easy: rates {listed(RATES['arc'])}, {ARC['max_steps']} steps of {ARC['batch_size']} questions, and "
            f"the mean log-likelihood of the answers' tokens in nats, on {ARC['max_eval_samples']} test questions.",
            "PEFT's own benchmark says, for Llama-3.2-3B on MetaMathQA, tested on GSM8K, at one rate for all and with "
            "one seed:",
            f"| what | accuracy |\n| --- | --- |\n{published}",
        ]
    )
    write_results(args.out, "Attention or feed-forward, at equal numbers of parameters", text, {"asked": asked})
    print(text)


if __name__ == "__main__":
    main()
