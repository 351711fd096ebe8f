"""Several labels for a text and tags of words by `qvtune train` with defaults, beside linear models of frozen features.

    python benchmarks/label_kinds.py --data DIR --runs runs/label_kinds --out docs/benchmarks/label_kinds

DIR has `multilabel/GoEmotions` (train.tsv, dev.tsv, test.tsv and labels.txt) and `ner/WNUT17` (CoNLL columns), as their
authors publish them. Every run is `qvtune train --model pkg:minilm --data TRAIN --validation DEV` with the default λ or
λ = 1; of GoEmotions it has 10,000 training texts. It is measured on the test file by `qvtune evaluate`.

The rivals are logistic regressions on the frozen model's states: for GoEmotions one against the rest, of the first
token or of the mean of all tokens, with a probability of one half or thresholds fitted on the development set; for
WNUT17 multinomial, of the first piece of every word. The development set chooses the states and the strength. The same
command goes on where it was interrupted.
"""

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from results import write_results

MODEL = "pkg:minilm"
MOST_TEXTS = 10_000
STRENGTHS = (0.01, 0.1, 1.0, 10.0)
RATIOS = {"default λ": [], "λ = 1": ["--lr-ratio", "1"]}


@dataclass(frozen=True)
class Case:
    """A data set: its files for qvtune, the options that it needs, and the metrics of its test file."""

    name: str
    train: Path
    dev: Path
    test: Path
    options: tuple[str, ...]
    metrics: tuple[str, ...]
    rivals: "Callable[[Case], dict[str, dict[str, float]]]"


def go_emotions(data: Path, work: Path) -> Case:
    """Write GoEmotions with the names of its labels, and a header."""
    folder = data / "multilabel/GoEmotions"
    names = (folder / "labels.txt").read_text(encoding="utf-8").split()
    for part in ("train", "dev", "test"):
        with (folder / f"{part}.tsv").open(encoding="utf-8", newline="") as file:
            rows = [line.rstrip("\r\n").split("\t") for line in file]
        with (work / f"emotions-{part}.jsonl").open("w", encoding="utf-8") as out:
            for text, labels, _ in rows:
                row = {"text": text, "labels": [names[int(label)] for label in labels.split(",")]}
                out.write(json.dumps(row, ensure_ascii=False) + "\n")
    train, dev, test = (work / f"emotions-{part}.jsonl" for part in ("train", "dev", "test"))
    options = ("--max-train-samples", str(MOST_TEXTS))
    return Case("GoEmotions", train, dev, test, options, ("f1_micro", "f1_macro"), rivals_of_labels)


def wnut17(data: Path, work: Path) -> Case:
    """Copy WNUT17 to names that end in .conll."""
    parts = {"train": "wnut17train.conll", "dev": "emerging.dev.conll", "test": "emerging.test.annotated"}
    for part, name in parts.items():
        shutil.copyfile(data / "ner/WNUT17" / name, work / f"wnut17-{part}.conll")
    train, dev, test = (work / f"wnut17-{part}.conll" for part in parts)
    return Case("WNUT17", train, dev, test, (), ("f1", "precision", "recall"), rivals_of_tags)


def qvtune(*words: Any) -> str:
    """Run a command of qvtune, and return what it printed."""
    done = subprocess.run(
        [sys.executable, "-m", "qvtune", *map(str, words)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(
            f"qvtune {' '.join(map(str, words))} ended with code {done.returncode}:\n{done.stderr[-3000:]}"
        )
    return done.stdout


def trained(case: Case, name: str, seed: int, runs: Path) -> dict[str, Any]:
    """Train unless the run has finished, and return its metrics on the test file and its seconds."""
    out = runs / f"{case.name}-{name.replace(' ', '')}-{seed}"
    words = ["--model", MODEL, "--data", case.train, "--validation", case.dev, *case.options, *RATIOS[name]]
    qvtune("train", *words, "--seed", seed, "--out", out)
    result = json.loads((out / "result.json").read_text(encoding="utf-8"))
    found = out / "test.json"
    if not found.is_file():
        found.write_text(qvtune("evaluate", "--run", out, "--data", case.test, "--json"), encoding="utf-8")
    metrics = json.loads(found.read_text(encoding="utf-8"))["metrics"]
    print(f"{case.name}, {name}, seed {seed}: {metrics}", file=sys.stderr, flush=True)
    return {"metrics": metrics, "seconds": result["seconds"], "steps": result["steps"], "epochs": result["epochs"]}


def frozen() -> tuple[Any, Any]:
    """Return the model without a head, and its tokenizer."""
    from transformers import AutoModel, AutoTokenizer

    from qvtune.data.packaged import locate_model

    folder, _ = locate_model(MODEL.removeprefix("pkg:"))
    return AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)


def rivals_of_labels(case: Case) -> dict[str, dict[str, float]]:
    """Return the test metrics of logistic regressions, one against the rest."""
    import torch
    from sklearn.metrics import f1_score
    from sklearn.preprocessing import MultiLabelBinarizer

    from qvtune.tasks.linear import fit_logistics
    from qvtune.tasks.thresholds import fit_thresholds

    model, tokenizer = frozen()
    names = MultiLabelBinarizer()
    parts = {}
    for part, path in (("train", case.train), ("dev", case.dev), ("test", case.test)):
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        rows = rows[:MOST_TEXTS] if part == "train" else rows
        states: dict[str, list[Any]] = {"first token": [], "mean": []}
        for start in range(0, len(rows), 64):
            texts = [row["text"] for row in rows[start : start + 64]]
            batch = tokenizer(texts, padding=True, truncation=True, max_length=512, return_tensors="pt")
            with torch.no_grad():
                hidden = model(**batch).last_hidden_state
            mask = batch["attention_mask"][:, :, None]
            states["first token"].append(hidden[:, 0].numpy())
            states["mean"].append(((hidden * mask).sum(1) / mask.sum(1)).numpy())
        labels = [row["labels"] for row in rows]
        found = names.fit_transform(labels) if part == "train" else names.transform(labels)
        parts[part] = {name: np.concatenate(values).astype(np.float64) for name, values in states.items()}, found
    best: dict[str, tuple[float, dict[str, float]]] = {}
    for kind in ("first token", "mean"):
        size = np.sqrt((parts["train"][0][kind] ** 2).mean(axis=0))
        values = {part: states[kind] / size for part, (states, _) in parts.items()}
        strengths = [10.0**power for power in range(-1, 5)]
        # The same objective as scikit-learn's LogisticRegression for every label; tests compare the two.
        for weight, bias in fit_logistics(values["train"], parts["train"][1], strengths, None, True):
            scores = {part: values[part] @ weight.T + bias for part in ("dev", "test")}
            for rival, limits in (("one half", 0.0), ("thresholds", fit_thresholds(scores["dev"], parts["dev"][1]))):
                on = {
                    part: {
                        f"f1_{average}": float(
                            f1_score(parts[part][1], scores[part] > limits, average=average, zero_division=0.0)
                        )
                        for average in ("micro", "macro")
                    }
                    for part in ("dev", "test")
                }
                for metric in ("f1_micro", "f1_macro"):
                    name = f"logistic regressions, {rival}, best {metric.replace('_', ' ')}"
                    if on["dev"][metric] > best.get(name, (-1.0, {}))[0]:
                        best[name] = on["dev"][metric], on["test"]
    return {name: metrics for name, (_, metrics) in best.items()}


def rivals_of_tags(case: Case) -> dict[str, dict[str, float]]:
    """Return the test metrics of a logistic regression of every word's first piece."""
    import torch
    from seqeval.metrics import f1_score, precision_score, recall_score
    from sklearn.linear_model import LogisticRegression

    model, tokenizer = frozen()
    parts = {}
    for part, path in (("train", case.train), ("dev", case.dev), ("test", case.test)):
        blocks = [block for block in path.read_text(encoding="utf-8").replace("\r", "").split("\n\n") if block.strip()]
        rows = [[line.split("\t") for line in block.split("\n") if line.strip()] for block in blocks]
        states = []
        for start in range(0, len(rows), 64):
            words = [[word for word, _ in row] for row in rows[start : start + 64]]
            batch = tokenizer(words, is_split_into_words=True, padding=True, truncation=True, return_tensors="pt")
            with torch.no_grad():
                hidden = model(**batch).last_hidden_state.numpy()
            for place, row in enumerate(words):
                ids = batch.word_ids(place)
                # A word of which nothing is left stands where the one before it does.
                first = {word: ids.index(word) for word in set(ids) - {None}}
                at = [first.get(word, first.get(word - 1, 0)) for word in range(len(row))]
                states.append(hidden[place, at])
        parts[part] = states, [[tag for _, tag in row] for row in rows]
    values, tags = np.concatenate(parts["train"][0]), [tag for row in parts["train"][1] for tag in row]
    best: tuple[float, dict[str, float]] = (-1.0, {})
    for strength in STRENGTHS:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            fitted = LogisticRegression(C=strength, max_iter=300).fit(values, tags)
            on = {}
            for part in ("dev", "test"):
                states, wanted = parts[part]
                found = fitted.predict(np.concatenate(states)).tolist()
                ends = np.cumsum([len(row) for row in wanted])
                called = [found[end - len(row) : end] for row, end in zip(wanted, ends, strict=True)]
                on[part] = {
                    "f1": float(f1_score(wanted, called)),
                    "precision": float(precision_score(wanted, called)),
                    "recall": float(recall_score(wanted, called)),
                }
        print(f"{case.name}, linear probe, C = {strength}: {on['test']}", file=sys.stderr, flush=True)
        best = max(best, (on["dev"]["f1"], on["test"]), key=lambda pair: pair[0])
    return {"linear probe of words": best[1]}


def spread(values: list[float]) -> str:
    """Return mean ± standard deviation, or the one value."""
    mean = statistics.mean(values)
    return f"{mean:.3f} ± {statistics.stdev(values):.3f}" if len(values) > 1 else f"{mean:.3f}"


def table(case: Case, runs: dict[str, list[dict[str, Any]]], rivals: dict[str, dict[str, float]]) -> str:
    """Return the metrics on a test file as a table in Markdown."""
    names = [metric.replace("_", " ") for metric in case.metrics]
    lines = [f"| {case.name} | {' | '.join(names)} |", "| --- " * (len(names) + 1) + "|"]
    for name, found in runs.items():
        cells = [spread([run["metrics"][metric] for run in found]) for metric in case.metrics]
        lines.append(f"| qvtune, {name} | {' | '.join(cells)} |")
    for name, metrics in rivals.items():
        lines.append(f"| {name} | {' | '.join(f'{metrics[metric]:.3f}' for metric in case.metrics)} |")
    return "\n".join(lines)


def main() -> None:
    """Train what is missing, fit the rivals, and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, metavar="DIR")
    parser.add_argument("--runs", type=Path, default=Path("runs/label_kinds"), metavar="DIR")
    parser.add_argument("--out", type=Path, default=Path("docs/benchmarks/label_kinds"), metavar="FILE")
    parser.add_argument("--seeds", default="0,1,2", metavar="LIST")
    args = parser.parse_args()
    args.runs.mkdir(parents=True, exist_ok=True)
    seeds, texts, numbers = [int(seed) for seed in args.seeds.split(",")], [], {}
    for case in (go_emotions(args.data, args.runs), wnut17(args.data, args.runs)):
        rivals_file = args.runs / f"{case.name}-rivals.json"
        if not rivals_file.is_file():
            rivals_file.write_text(json.dumps(case.rivals(case)), encoding="utf-8")
        rivals = json.loads(rivals_file.read_text(encoding="utf-8"))
        runs = {name: [trained(case, name, seed, args.runs) for seed in seeds] for name in RATIOS}
        texts.append(table(case, runs, rivals))
        numbers[case.name] = {"runs": runs, "rivals": rivals}
    texts.append(
        f"Test files; mean ± standard deviation over seeds {args.seeds} of {MODEL} with defaults, {MOST_TEXTS:,} "
        "training texts of GoEmotions at most. The development set chose the checkpoint of WNUT17; a tenth of the "
        "training texts chose that and the thresholds of GoEmotions. The linear models have the frozen model's states, "
        "and the development set chose their strength."
    )
    write_results(args.out, "Several labels and tagged words with defaults", "\n\n".join(texts), numbers)
    print("\n\n".join(texts))


if __name__ == "__main__":
    main()
