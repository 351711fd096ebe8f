"""The paper's experiments as data: "Theoretical Insights into Fine-Tuning Attention Mechanism", IJCAI 2025.

Each has rows (what varies), tasks (with their own options) and options that all runs share. What the paper and its code
do not state keeps the defaults of `qvtune train`, and is listed as such.
"""

import importlib.resources
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import pandas as pd

from qvtune.errors import ConfigError, nearest
from qvtune.lab.choices import untaken
from qvtune.methods.table import METHODS

ROBERTA, LLAMA = "roberta", "llama"
BEFORE = {"method": "before"}

MODELS = {ROBERTA: "roberta-base", LLAMA: "meta-llama/Llama-3.1-8B"}

COMMON: dict[str, dict[str, Any]] = {
    ROBERTA: {
        "batch_size": 32, "max_length": 128, "alpha": 8, "dropout": 0.1, "adam_beta1": 0.9, "adam_beta2": 0.99,
        "adam_epsilon": 1e-8, "weight_decay": 0, "schedule": "linear", "warmup": 0, "precision": "fp16",
        "eval_steps": 500, "keep_best": False, "head_start": "random",
    },
    LLAMA: {
        "batch_size": 128, "accumulation": 2, "max_length": 128, "rank": 16, "alpha": 16, "adam_beta2": 0.999,
        "weight_decay": 0, "schedule": "constant", "max_steps": 800, "eval_steps": 50, "gradient_checkpointing": True,
        "keep_best": False, "head_start": "random",
    },
}  # fmt: skip

ROLE_ROWS = [{"roles": roles, "rank": rank} for rank, roles in product((4, 8, 16), ("k", "v", "qv", "qkv"))]

TABLE2_ROWS: list[dict[str, Any]] = [
    BEFORE,
    {"method": "full", "roles": "qkv", "lr_ratio": 1},
    *({"method": m, "roles": "qkv", "rank": r, "lr_ratio": 1} for m, r in product(("lora", "dora"), (8, 16))),
    *({"method": "full", "roles": "qv", "lr_ratio": ratio} for ratio in (2, 4, 8)),
    *(
        {"method": method, "roles": "qv", "rank": rank, "lr_ratio": ratio}
        for method, rank, ratio in product(("lora", "dora"), (8, 16), (2, 4, 8))
    ),
]

ROBERTA_GRID = [
    {"lr": lr, "value_lr": value_lr}
    for lr, value_lr in product((2e-5, 5e-5, 1e-4, 2e-4, 4e-4, 8e-4), (1e-4, 2e-4, 4e-4, 8e-4, 1e-3, 2e-3))
]
LLAMA_GRID = [
    {"lr": lr, "value_lr": value_lr}
    for lr, value_lr in product((1e-6, 5e-6, 1e-5, 5e-5, 1e-4), (1e-6, 5e-6, 1e-5, 5e-5, 1e-4, 2e-4, 4e-4))
]

# Pearson for STS-B, Matthews for CoLA, the mean of matched and mismatched accuracy for MNLI, accuracy elsewhere.
PUBLISHED_METRIC = {"stsb": "pearson", "cola": "matthews_correlation"}


@dataclass(frozen=True)
class Preset:
    """An experiment of the paper for one family of models.

    Attributes:
        experiment: "table1", "figure1", "figure2" or "table2".
        family: "roberta" or "llama".
        title: what it shows.
        options: options of `train`, shared by all runs.
        rows: labels that are options of `train` too; `BEFORE` is the model before any training.
        tasks: for each GLUE task, its own options.
        unstated: what is not known of the published runs.
    """

    experiment: str
    family: str
    title: str
    options: Mapping[str, Any]
    rows: Sequence[Mapping[str, Any]]
    tasks: Mapping[str, Mapping[str, Any]]
    unstated: tuple[str, ...] = ()

    @property
    def model(self) -> str:
        """The paper's model."""
        return MODELS[self.family]

    def runs(self, tasks: Iterable[str] | None = None) -> list[tuple[dict[str, Any], dict[str, Any]]]:
        """Return labels and options of `train` for every run, without seed and model; `BEFORE` has no options."""
        return [
            ({**row, "task": task}, {**self.row_options(row), **self.tasks[task], "data": f"glue/{task}"})
            for task in (self.tasks if tasks is None else tasks)
            for row in self.rows
            if row != BEFORE
        ]

    def row_options(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Return the options for a row, without those that its method does not take."""
        options = {**self.options, **row}
        return {name: options[name] for name in options if name not in untaken(options["method"], options, METHODS)}

    @property
    def axes(self) -> list[str]:
        """The options that distinguish the rows."""
        longest: Mapping[str, Any] = max(self.rows, key=len)
        return list(longest)


PRESETS = {
    (preset.experiment, preset.family): preset
    for preset in (
        Preset(
            "table1", ROBERTA, "which roles matter, by rank",
            COMMON[ROBERTA] | {"method": "lora", "lr": 4e-4, "lr_ratio": 2.5, "epochs": 30},
            ROLE_ROWS, {task: {} for task in ("sst2", "qnli", "qqp", "mnli")},
        ),
        Preset(
            "table1", LLAMA, "which roles matter, by rank",
            COMMON[LLAMA] | {"method": "lora", "lr": 5e-5, "lr_ratio": 2.5},
            ROLE_ROWS, {task: {} for task in ("qqp", "mnli")},
            ("precision", "dropout"),
        ),
        Preset(
            "figure1", ROBERTA, "accuracy over η_QK and η_V",
            COMMON[ROBERTA] | {"method": "lora", "roles": "qv", "rank": 8, "epochs": 6},
            ROBERTA_GRID, {task: {} for task in ("qqp", "mnli")},
            ("the roles (qv here)",),
        ),
        Preset(
            "figure2", LLAMA, "accuracy over η_QK and η_V",
            COMMON[LLAMA] | {"method": "lora", "roles": "qv"},
            LLAMA_GRID, {"mnli": {}},
            ("precision", "dropout"),
        ),
        Preset(
            "table2", ROBERTA, "methods compared",
            COMMON[ROBERTA] | {"lr": 1e-4},
            TABLE2_ROWS,
            {task: {"epochs": 20} for task in ("rte", "stsb", "mrpc", "cola")}
            | {task: {"epochs": 10} for task in ("mnli", "sst2", "qqp", "qnli")},
        ),
    )
}  # fmt: skip

EXPERIMENTS = tuple(dict.fromkeys(experiment for experiment, _ in PRESETS))


def find_preset(experiment: str, family: str | None = None) -> Preset:
    """Return an experiment of the paper.

    Args:
        experiment: "table1", "figure1", "figure2" or "table2".
        family: whose hyperparameters, "roberta" or "llama"; when None RoBERTa's, or Llama's if there are no others.

    Raises:
        ConfigError: for an experiment or a family that the paper does not have.
    """
    if experiment not in EXPERIMENTS:
        raise ConfigError(
            f"unknown experiment '{experiment}'.{nearest(experiment, EXPERIMENTS)} They are {', '.join(EXPERIMENTS)}."
        )
    families = [known for name, known in PRESETS if name == experiment]
    if family is not None and family not in families:
        hint = nearest(family, families)
        raise ConfigError(f"--preset-model is {family}; {experiment} was run with {' and '.join(families)}.{hint}")
    return PRESETS[experiment, family or families[0]]


def row_name(row: Mapping[str, Any]) -> str:
    """Return "lora qv rank=8 lr_ratio=4": method and roles as words, other labels with their names."""
    words = [
        str(value) if label in ("method", "roles") else f"{label}={value:g}"
        for label, value in row.items()
        if value is not None
    ]
    return " ".join(words)


def choose_rows(preset: Preset, words: str | Sequence[str]) -> list[Mapping[str, Any]]:
    """Return the rows that match any term of "lora qv,full" or "rank=8 lr_ratio=4"; "+" separates words too.

    Raises:
        ConfigError: for a term that matches no row, or if there is no term.
    """
    terms = words.split(",") if isinstance(words, str) else words
    wanted = [term.replace("+", " ").split() for term in terms if term.strip()]
    if not wanted:
        raise ConfigError(f"--rows is empty. The rows of {preset.experiment} are {_row_list(preset)}.")
    for term in wanted:
        if not any(_fits(row, term) for row in preset.rows):
            raise ConfigError(
                f"--rows: no row of {preset.experiment} is '{' '.join(term)}'."
                f"{nearest(' '.join(term), map(row_name, preset.rows))} They are {_row_list(preset)}."
            )
    return [row for row in preset.rows if any(_fits(row, term) for term in wanted)]


def published_numbers(preset: Preset) -> dict[tuple[str, str], float]:
    """Return the published results, in percent, by the names of row and task; empty if they are not known."""
    file = importlib.resources.files("qvtune.lab") / "published" / f"{preset.experiment}.csv"
    if not file.is_file():
        return {}
    with file.open(encoding="utf-8") as text:
        table = pd.read_csv(text)
    numbers: dict[tuple[str, str], float] = {}
    for record in table.to_dict("records"):
        row = {name: record[name] for name in preset.axes if pd.notna(record[name])}
        name = row_name(BEFORE if row.get("method") == BEFORE["method"] else row)
        numbers |= {(name, task): float(record[task]) for task in preset.tasks if pd.notna(record[task])}
    return numbers


def _fits(row: Mapping[str, Any], term: Sequence[str]) -> bool:
    return all(_has(row, word) for word in term)


def _has(row: Mapping[str, Any], word: str) -> bool:
    name, equals, value = word.partition("=")
    if not equals:
        return word in (row.get("method"), row.get("roles"))
    own = row.get(name.replace("-", "_"))
    try:
        return own is not None and (str(own) == value or float(own) == float(value))
    except ValueError:
        return False


def _row_list(preset: Preset) -> str:
    names = [f"'{row_name(row)}'" for row in preset.rows]
    more = f" and {len(names) - 4} more, see 'qvtune reproduce {preset.experiment} --list'" if names[4:] else ""
    return ", ".join(names[:4]) + more
