"""GLUE folders in the benchmark's layout, filled with made-up reviews that the tiny models know every word of."""

from pathlib import Path

from tiny import make_reviews

STSB = "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2"
HEADER = {
    "qqp": "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n",
    "rte": "index\tsentence1\tsentence2\tlabel\n",
    "sst2": "sentence\tlabel\n",
    "cola": "",
    "stsb": f"{STSB}\tscore\n",
}
FOLDER = {"qqp": "QQP", "rte": "RTE", "sst2": "SST-2", "cola": "CoLA", "stsb": "STS-B"}


def write_glue(root: Path, *tasks: str, train: int = 40, dev: int = 16) -> Path:
    """Write train.tsv and dev.tsv of each of `tasks`."""
    for task in tasks:
        folder = root / FOLDER[task]
        folder.mkdir(parents=True)
        for seed, (file, count) in enumerate((("train.tsv", train), ("dev.tsv", dev))):
            rows = [
                _row(task, i, text, label == "positive") for i, (text, label) in enumerate(make_reviews(count, seed))
            ]
            (folder / file).write_text(HEADER[task] + "".join(rows), encoding="utf-8")
    return root


def _row(task: str, index: int, text: str, good: bool) -> str:
    if task == "rte":
        return f"{index}\t{text}\tthe film was good\t{'entailment' if good else 'not_entailment'}\n"
    if task == "qqp":
        return f"{index}\t1\t2\t{text}\tthe film was good\t{int(good)}\n"
    if task == "sst2":
        return f"{text}\t{int(good)}\n"
    if task == "stsb":
        return f"{index}\t\t\t\t\t\t\t{text}\tthe film was good\t{(5 if good else 2) - index % 7 / 4}\n"
    return f"made\t{int(good)}\t\t{text}\n"
