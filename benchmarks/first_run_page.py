"""The page of `first_run.py`: tables of means over the seeds, what they say of the default, and a picture."""

import math
import statistics
import textwrap
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from first_run_sets import FEW, SETS, SmallSet
from first_run_store import Results
from results import write_page as write_markdown

PROBES = ("probe-pooler", "probe-first", "probe-mean")
DECODER_PROBES = ("probe-last@smollm2", "probe-mean@smollm2")
OURS, DECODER = "qvtune", "qvtune@smollm2"
WHOLE = ("majority", "tfidf", *PROBES, "peft-3", "peft-20", OURS)
FEW_METHODS = ("majority", "tfidf", *PROBES, "peft-20", "setfit", OURS)
# A method that says one class of all but this share of the test texts is at the majority.
BESIDE_MAJORITY = 0.01

INTRODUCTION = """\
Accuracy on the test set (for severity and STS-B Pearson's correlation, for CoLA Matthews', which GLUE measures it by):
mean ± standard error over the seeds, each of which draws other training examples; the test set stays. *qvtune* is
`qvtune train --model pkg:minilm --data train.csv --out FOLDER` with no other option but the seed. *pooler*, *first* and
*mean* are logistic or ridge regression on frozen features of MiniLM, *tfidf* on words and pairs of words, the penalty
chosen by cross-validation on the training examples. *peft-3* and *peft-20* are transformers' Trainer with LoRA at the
rates of PEFT's example for sequence classification, after 3 epochs and after the 20 of that example, at the flags that
are fastest on this machine. *setfit* is SetFit with its defaults, stopped after 40 steps. Rivals read 256 tokens of a
text.

Verdicts compare seed by seed, on the same training examples. "≥ probe" holds the run against the best of the three
probes, best by the mean on the test set: "yes" where it is not behind, "within" where it is behind by no more than one
standard error of the differences. "off majority" is "no" where the run says one class of all test texts and that probe
does not. Development sets decided the defaults; confirmation sets did not.
"""


SECONDS = """\
Time of the processor, all threads together, which what else the machine did does not change much: of training, or
extraction of features, and of prediction of the test set; for qvtune of the whole command `qvtune train`, with imports,
evaluations and the report. Every cell had one thread, and several ran side by side, on processors of one kind.
"""


class Mean(NamedTuple):
    """A mean over seeds and its standard error; an error of one seed is not a number."""

    value: float
    error: float
    count: int

    def __str__(self) -> str:
        """Return it as "0.873 ± 0.004"."""
        return f"{self.value:.3f}" + ("" if math.isnan(self.error) else f" ± {self.error:.3f}")


def mean_of(values: Iterable[float]) -> Mean | None:
    """Return mean and standard error, or None of nothing."""
    numbers = list(values)
    if not numbers:
        return None
    error = statistics.stdev(numbers) / math.sqrt(len(numbers)) if len(numbers) > 1 else math.nan
    return Mean(statistics.mean(numbers), error, len(numbers))


class Table:
    """What the methods gave on the sets, with qvtune's cells of one version."""

    def __init__(self, results: Results, version: str) -> None:
        """Take results, and the version of qvtune that the page is about."""
        self._results, self._version = results, version

    def by_seed(self, small: SmallSet, method: str, number: str = "") -> dict[int, float]:
        """Return a number of a method by seed; the main metric where none is named."""
        version = self._version if method.startswith(OURS) else ""
        key = number or small.metric
        return {seed: found[key] for seed, found in self._results.seeds(small.name, method, version) if key in found}

    def mean(self, small: SmallSet, method: str, number: str = "") -> Mean | None:
        """Return a number's mean over the seeds."""
        return mean_of(self.by_seed(small, method, number).values())

    def best(self, small: SmallSet, methods: Sequence[str]) -> str | None:
        """Return the method whose mean on the test set is the highest."""
        means = {method: mean for method in methods if (mean := self.mean(small, method)) is not None}
        return max(means, key=lambda method: means[method].value) if means else None

    def difference(self, small: SmallSet, ours: str, method: str | None) -> Mean | None:
        """Return our main metric minus another's, over the seeds that both have."""
        if method is None:
            return None
        one, other = self.by_seed(small, ours), self.by_seed(small, method)
        return mean_of(one[seed] - other[seed] for seed in one if seed in other)

    def leaves_majority(self, small: SmallSet, ours: str, probe: str | None) -> str:
        """Return "yes", or "no" where ours is at the majority for a seed and the probe is not."""
        if small.is_regression or probe is None:
            return ""
        shares, others = self.by_seed(small, ours, "largest"), self.by_seed(small, probe, "largest")
        limit = 1 - BESIDE_MAJORITY
        stuck = [seed for seed in shares if shares[seed] >= limit and others.get(seed, 0.0) < limit]
        return "no" if stuck else "yes" if shares else ""


def verdict(difference: Mean | None) -> str:
    """Return "yes" where we are not behind, "within" one standard error, or "no"."""
    if difference is None:
        return ""
    if difference.value >= 0:
        return "yes"
    return "within" if -difference.value <= difference.error else "no"


def short(method: str) -> str:
    """Return a method's name as a column's."""
    return method.removeprefix("probe-").removesuffix("@smollm2")


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Return the lines of a table."""
    lines = [f"| {' | '.join(head)} |", "| --- " * len(head) + "|"]
    return lines + [f"| {' | '.join(row)} |" for row in rows]


def metric_table(
    table: Table,
    sets: Sequence[SmallSet],
    methods: Sequence[str],
    ours: str,
    probes: Sequence[str],
    rivals: Sequence[str],
) -> list[str]:
    """Return the main metric of all methods, and the verdicts on ours."""
    head = ["set", "half", *map(short, methods), "≥ probe", "off majority", *(f"≥ {short(rival)}" for rival in rivals)]
    rows = []
    for small in sets:
        best = table.best(small, probes)
        means = [table.mean(small, method) for method in methods]
        top = max((mean.value for mean in means if mean), default=0.0)
        shown = ["" if mean is None else f"**{mean}**" if mean.value == top else str(mean) for mean in means]
        verdicts = [verdict(table.difference(small, ours, best)), table.leaves_majority(small, ours, best)]
        verdicts += [verdict(table.difference(small, ours, rival)) for rival in rivals]
        rows.append([small.name, small.half[:3], *shown, *verdicts])
    return markdown(head, rows)


def number_table(
    table: Table, sets: Sequence[SmallSet], methods: Sequence[str], number: str, shape: Callable[[Mean], str]
) -> list[str]:
    """Return another number of the methods."""
    rows = []
    for small in sets:
        means = [table.mean(small, method, number) for method in methods]
        rows.append([small.name, *("" if mean is None else shape(mean) for mean in means)])
    return markdown(["set", *map(short, methods)], rows)


def summary(
    table: Table, sets: Sequence[SmallSet], ours: str, probes: Sequence[str], rivals: Sequence[str]
) -> list[str]:
    """Say on how many sets ours is not behind, for each half and rival."""
    lines = []
    for half in ("development", "confirmation"):
        part = [small for small in sets if small.half == half and table.mean(small, ours)]
        for rival in ("the best probe", *rivals):
            pairs = [(small, table.best(small, probes) if rival == "the best probe" else rival) for small in part]
            differences = [d for small, other in pairs if (d := table.difference(small, ours, other)) is not None]
            if not differences:
                continue
            counts = [sum(verdict(d) == word for d in differences) for word in ("yes", "within", "no")]
            mean = statistics.mean(d.value for d in differences)
            lines.append(
                f"- {half}, against {rival}: ahead or level on {counts[0]} of {len(differences)} sets, behind within "
                f"one standard error on {counts[1]}, behind by more on {counts[2]}; {mean:+.3f} on average"
            )
    return lines


def few_averages(table: Table, methods: Sequence[str]) -> list[str]:
    """Return the mean over the few-label sets that all methods of the table have, by examples a class."""
    rows = []
    for each in FEW:
        sets = [small for small in SETS.values() if small.each == each]
        there = [method for method in methods if any(table.mean(small, method) for small in sets)]
        common = [small for small in sets if all(table.mean(small, method) for method in there)]
        if not there or not common:
            continue
        means = {method: statistics.mean(table.mean(small, method).value for small in common) for method in there}  # type: ignore[union-attr]
        shown = [f"{means[method]:.3f}" if method in means else "" for method in methods]
        rows.append([f"{each} a class", str(len(common)), *shown])
    return markdown(["examples", "sets", *map(short, methods)], rows)


def progress(table: Table, sets: Sequence[SmallSet]) -> list[str]:
    """Say how much has been measured of every method so far."""
    said = []
    for method in (*WHOLE, "setfit", *DECODER_PROBES, "peft-3@smollm2", DECODER):
        runs = [count for small in sets if (count := len(table.by_seed(small, method)))]
        said.append(f"{method} {sum(runs)} runs on {len(runs)} sets" if runs else f"{method} none")
    text = (
        f"Measured so far, of {len(sets)} sets and 3 seeds: {', '.join(said)}. What is empty below is not measured yet."
    )
    return textwrap.wrap(text, 120, break_on_hyphens=False)


def draw(table: Table, sets: Sequence[SmallSet]) -> Any:
    """Draw how far qvtune is from the best probe on each set, as bars with standard errors; None without its runs."""
    import altair as alt

    from qvtune.report.plot import to_spec
    from qvtune.report.theme import PALETTE

    found = [
        (small, d) for small in sets if (d := table.difference(small, OURS, table.best(small, PROBES))) is not None
    ]
    if not found:
        return None
    rows = []
    for small, d in found:
        error = 0.0 if math.isnan(d.error) else d.error
        rows.append(
            {"set": small.name, "half": small.half, "value": d.value, "low": d.value - error, "high": d.value + error}
        )
    title = "qvtune's default minus the best linear probe, on the test set"
    base = alt.Chart(alt.Data(values=rows)).encode(y=alt.Y("set:N", sort=None, title=None))
    halves = alt.Scale(domain=["development", "confirmation"], range=list(PALETTE[:2]))
    legend = alt.Legend(orient="top", title=None)
    bars = base.mark_bar().encode(
        x=alt.X("value:Q", title=title), color=alt.Color("half:N", scale=halves, legend=legend)
    )
    errors = base.mark_rule().encode(x=alt.X("low:Q", title=title), x2="high:Q")
    return to_spec((bars + errors).properties(width=700, height=alt.Step(18)))


def write_page(out: Path, results: Results, label: str = "") -> None:
    """Write OUT.md, and OUT.png where there are runs of qvtune, from the results.

    Args:
        out: the files without their endings.
        results: all cells.
        label: version of qvtune that the page is about; the latest where it is empty.
    """
    version = label or results.latest
    table = Table(results, version)
    whole = [small for small in SETS.values() if small.each is None and table.mean(small, "majority")]
    few = [small for small in SETS.values() if small.each is not None and table.mean(small, "majority")]
    decoder = [small for small in whole if table.mean(small, DECODER_PROBES[0])]
    rivals = ("tfidf", "peft-3", "peft-20")
    lines = [INTRODUCTION]
    if version:
        lines += [f"qvtune is the version {version} of src/qvtune.", ""]
    lines += [*progress(table, [*whole, *few]), ""]
    lines += ["## All examples of a set", "", *metric_table(table, whole, WHOLE, OURS, PROBES, rivals), ""]
    lines += [*summary(table, whole, OURS, PROBES, rivals), ""]
    few_rivals = ("tfidf", "peft-20", "setfit")
    lines += [
        "## Few labels",
        "",
        "The mean over the sets that every method has:",
        "",
        *few_averages(table, FEW_METHODS),
        "",
    ]
    lines += [*metric_table(table, few, FEW_METHODS, OURS, PROBES, few_rivals), ""]
    lines += [*summary(table, few, OURS, PROBES, few_rivals), ""]
    if decoder:
        methods = ("majority", "tfidf", *DECODER_PROBES, "peft-3@smollm2", DECODER)
        columns = metric_table(table, decoder, methods, DECODER, DECODER_PROBES, ("tfidf", "peft-3@smollm2"))
        lines += ["## SmolLM2", "", "*last* and *mean* are probes of SmolLM2's last states.", "", *columns, ""]
    classes = [small for small in [*whole, *few] if not small.is_regression]
    every = ("majority", "tfidf", *PROBES, "peft-3", "peft-20", "setfit", OURS)
    lines += ["## Macro F1", "", *number_table(table, classes, every, "macro_f1", str), ""]
    lines += ["## Seconds", "", SECONDS]
    lines += number_table(table, [*whole, *few], every, "seconds", lambda mean: f"{mean.value:.1f}")
    write_markdown(out, "A first run on small sets", "\n".join(lines), draw(table, [*whole, *few]))
