"""Theorem 1's bound in words, as a page, and as pictures over N, r and q."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from qvtune.amounts import count, join_words
from qvtune.files import write_json
from qvtune.lab.gap import Gap, MeasuredBound
from qvtune.report.chart import Chart, Series
from qvtune.report.document import Page, Pictures, Table, entry
from qvtune.report.lines import draw_chart
from qvtune.report.page import write_page
from qvtune.report.run_page import text_table
from qvtune.roles.attention import AttentionMap
from qvtune.roles.layouts import ROLES
from qvtune.theory.bound import FULL, LORA, Bound, generalization_bound
from qvtune.training.folder import check_free

RECORD = "bound.json"
HERE, MEASURED = "here", "measured gap"
# Places of series that are not lines of roles (at most three), so that each has one symbol in all pictures.
PLACES = {HERE: 3, MEASURED: 4, FULL: 5}
# N from a hundredth to a hundred times the number asked for.
FACTORS = [10 ** (power / 4) for power in range(-8, 9)]
BITS = (1, 2, 4, 8, 16, 32, 64)


@dataclass(frozen=True)
class BoundReport:
    """A bound for readers: for a model, or for a run with its measured gap."""

    model: str
    attention: AttentionMap
    bound: Bound
    measured: MeasuredBound | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return plain lists and dictionaries that JSON can hold."""
        return self.measured.to_dict() if self.measured else {"model": self.model, **self.bound.to_dict()}

    def sentences(self) -> list[str]:
        """Return sentences on the bound, its setting, and the gap if one was measured."""
        bound = self.bound
        how = "in full" if bound.rank is None else f"by LoRA of rank r = {bound.rank}"
        roles = join_words([ROLES[role] for role in bound.roles])
        count_text = "d_in d_out" if bound.rank is None else "r (d_in + d_out)"
        found = [
            f"Training {roles} of {self.model} {how} on N = {bound.examples:,} examples, q = {bound.bits} bits a "
            f"number, R = {bound.sub_gaussian:g}: error ≤ √(2 R² / N · q · Σ {count_text}) = {bound.bound:.5g}, with "
            f"{count(bound.numbers, 'number')} in {len(bound.terms)} matrices.",
        ]
        if bound.roles in ("qv", "qkv"):
            found.append(
                f"QV over QKV: the bound for query and value is {bound.ratio:.4f} of that for query, key and value."
            )
        return found if self.measured is None else [*found, _gap_sentence(self.measured)]

    def notes(self) -> list[str]:
        """Return notes on how far to trust the bound."""
        bound, found = self.bound, []
        if bound.bound >= 2 * bound.sub_gaussian:
            found.append(
                f"A loss that stays in an interval of length 2 R = {2 * bound.sub_gaussian:g} cannot differ by more, "
                "so this bound says nothing of the error's size. It serves to compare roles, ranks and N."
            )
        found.append(
            f"R is taken to be {bound.sub_gaussian:g}. A loss in an interval of length 2 R is "
            "R-sub-Gaussian (Hoeffding). Cross entropy and squared errors have no largest value: any R is "
            "an assumption there."
        )
        if self.measured is not None:
            gap = self.measured.gap
            found.append(
                f"The losses seen lie between {gap.lowest:.3g} and {gap.highest:.3g}; half of that interval is "
                f"{(gap.highest - gap.lowest) / 2:.3g}."
            )
            found.append(
                f"The theorem counts the adapted matrices alone. {count(self.measured.other_numbers, 'other number')} "
                "trained too, of the head or, in full training, of biases; counted like the rest, they make it "
                f"{self.measured.bound_with_others:.5g}."
            )
            found += gap.notes
        return found

    @cached_property
    def charts(self) -> list[Chart]:
        """The bound over N, over r and over q, for the roles that train and for QV and QKV."""
        bound = self.bound
        sizes = [term.rows for term in bound.terms] + [term.inputs for term in bound.terms]
        ranks = [2.0**power for power in range(min(sizes).bit_length()) if 2**power <= min(sizes)]
        if bound.rank is not None:
            ranks = sorted({*ranks, float(bound.rank)})
        numbers = sorted({max(1, round(bound.examples * factor)) for factor in FACTORS})
        over_examples = self._chart("N", "N, training examples", "examples", numbers, bound.examples)
        if self.measured is not None and self.measured.gap.gap > 0:
            gap = self.measured.gap
            over_examples.series.append(
                Series(MEASURED, [float(bound.examples)], [gap.gap], line=False, place=PLACES[MEASURED])
            )
        over_bits = self._chart("q", "q, bits of a number", "bits", sorted({*BITS, bound.bits}), bound.bits, ticks=True)
        return [over_examples, self._over_ranks(ranks), over_bits]

    def page(self) -> Page:
        """Make the page."""
        caption = "Both axes are logarithmic. Full training has no rank, and so a level line over r."
        parts: list[Any] = [_symbols(self.bound), _roles(self.bound)]
        if self.measured is not None:
            parts.insert(0, _measured(self.measured))
        plots = [draw_chart(chart) for chart in self.charts]
        parts += [Pictures("The bound over N, r and q", plots, caption, "bound")]
        parts += [_terms(self.bound)]
        return Page(f"Theorem 1 on {self.model}", self.sentences(), self.notes(), parts)

    def write(self, path: Path) -> list[Path]:
        """Write `bound.json`, `report.html` and the pictures into a folder, and return their paths.

        Raises:
            RunError: if the folder holds something else, or nothing can be written.
        """
        check_free(path, RECORD)
        write_json(path / RECORD, self.to_dict())
        return [path / RECORD, *write_page(path, self.page())]

    def _at(self, **changes: Any) -> float:
        bound = self.bound
        names = ("roles", "method", "rank", "layers", "examples", "bits", "sub_gaussian")
        return generalization_bound(self.attention, **{name: getattr(bound, name) for name in names} | changes).bound

    def _lines(self, argument: str, values: list[Any], **changes: Any) -> list[Series]:
        """Return a line per set of roles."""
        return [
            Series(
                roles, [float(x) for x in values], [self._at(**changes, roles=roles, **{argument: x}) for x in values]
            )
            for roles in dict.fromkeys((self.bound.roles, "qv", "qkv"))
        ]

    def _chart(
        self, name: str, title: str, argument: str, values: list[Any], here: float, *, ticks: bool = False
    ) -> Chart:
        series = [*self._lines(argument, values), self._here(here)]
        return _log_chart(name, title, series, [float(value) for value in values] if ticks else [])

    def _over_ranks(self, ranks: list[float]) -> Chart:
        series = self._lines("rank", [int(rank) for rank in ranks], method=LORA)
        full = self._at(method=FULL, rank=None)
        level = Series(f"{self.bound.roles}, full", [ranks[0], ranks[-1]], [full, full], place=PLACES[FULL])
        series.append(level)
        series += [self._here(self.bound.rank)] if self.bound.rank is not None else []
        return _log_chart("r", "r, rank", series, ranks)

    def _here(self, x: float) -> Series:
        return Series(HERE, [float(x)], [self.bound.bound], line=False, place=PLACES[HERE])


def _log_chart(name: str, title: str, series: list[Series], ticks: list[float]) -> Chart:
    return Chart(f"bound over {name}", title, "bound of the error", series, log_x=True, log_y=True, x_ticks=ticks)


def _gap_sentence(measured: MeasuredBound) -> str:
    gap = measured.gap
    text = (
        f"Measured on this run: {gap.loss} {gap.new_loss:.4f} on {gap.new_examples:,} examples of {gap.split} less "
        f"{gap.train_loss:.4f} on {gap.train_examples:,} training examples, a gap of {gap.gap:.4f} ± "
        f"{gap.standard_error:.4f} (standard error)."
    )
    if measured.looseness is not None:
        return f"{text} The bound is about {_rounded(measured.looseness):,g} times its size."
    if measured.least_looseness is None:
        return text
    return (
        f"{text} It cannot be told from 0, and so how loose the bound is cannot be told either; the bound is at least "
        f"{_rounded(measured.least_looseness):,g} times the size of the gap."
    )


def _rounded(looseness: float | None) -> float | None:
    """Round to two digits; a gap is not known more exactly."""
    return None if looseness is None else float(f"{looseness:.2g}")


def _measured(measured: MeasuredBound) -> Table:
    gap: Gap = measured.gap
    rows = [
        (f"{gap.loss}, {gap.split}", gap.new_loss, gap.new_examples),
        (f"{gap.loss}, training", gap.train_loss, gap.train_examples),
        ("gap", gap.gap, None),
        ("standard error of the gap", gap.standard_error, None),
        ("bound", measured.bound.bound, None),
        ("bound / |gap|", _rounded(measured.looseness), None),
        ("bound / |gap|, at least", _rounded(measured.least_looseness), None),
    ]
    return Table("Bound and measurement", ["what", "value", "examples"], [list(map(entry, row)) for row in rows])


def _symbols(bound: Bound) -> Table:
    rows = [
        ("N", "training examples", f"{bound.examples:,}"),
        ("q", "bits of a trained number", f"{bound.bits}"),
        ("R", "of the R-sub-Gaussian loss", f"{bound.sub_gaussian:g}"),
        ("r", "rank of LoRA's factors", "none, in full" if bound.rank is None else f"{bound.rank}"),
        ("d_in, d_out", "inputs and rows of an adapted matrix", "see the last table"),
    ]
    return text_table("Symbols", ("symbol", "meaning", "here"), rows)


def _roles(bound: Bound) -> Table:
    rows = [
        [entry(value) for value in (role, part.numbers, part.share, part.bound)]
        for role, part in bound.by_role().items()
    ]
    return Table("By role", ["role", "numbers", "share of the bound's square", "bound if it trained alone"], rows)


def _terms(bound: Bound) -> Table:
    columns = ["layer", "role", "d_out", "d_in", "numbers", "share of the bound's square"]
    rows = [
        [entry(value) for value in (term.layer, term.role, term.rows, term.inputs, term.numbers, term.share)]
        for term in bound.terms
    ]
    return Table("By matrix", columns, rows, sortable=True)
