"""The tables of a scaling experiment, from the plain values of its `scaling.json`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from qvtune.amounts import count
from qvtune.lab.formats import TextTable
from qvtune.theory.predict import UNDECIDED

TERMS = ("d1", "d2", "d3")
RATES = {"1": "1", "n^-1/2": "1/√n", "n^-1": "1/n"}
# The quantity that decides the verdict on a side, and the side.
SIDES = {"scores": "query_key", "values": "value"}
SYMBOLS = {"scores": "Δ scores", "values": "Δ values", "query_key": "QK", "value": "V"}
TOY_TITLES = {
    ("linear", "factor"): "Toy layer: linear attention, value of fixed rank",
    ("softmax", "factor"): "Toy layer: softmax attention, value of fixed rank",
    ("linear", "full"): "Toy layer: linear attention, value over the whole width",
}
FAMILY_NAMES = {"bert": "BERT", "llama": "Llama", "gpt2": "GPT-2"}
METHOD_NAMES = {"full": "in full", "lora": "LoRA"}
NONE = "none"


@dataclass(frozen=True)
class Titled:
    """A table with its title and an explanation."""

    title: str
    text: str
    table: TextTable


def exponent_text(exponent: Mapping[str, float] | None) -> str:
    """Return "+1.98 ± 0.02", with half of the 95 % interval after the sign; "none" without a power law."""
    if exponent is None:
        return NONE
    # A number that rounds to zero has no sign.
    slope = round(exponent["slope"], 2) + 0.0
    return f"{slope:+.2f} ± {(exponent['high'] - exponent['low']) / 2:.2f}"


def headline(data: Mapping[str, Any]) -> list[str]:
    """Return in sentences the experiment's results on the theorem, and on λ in real blocks."""
    sentences = []
    for query_key, value in (("n^-1", "1"), ("n^-1", "n^-1"), ("1", "1")):
        cell = find_cell(data, "linear", "factor", query_key, value)
        fitted = cell["steps"][-1]["exponents"]
        found = ", ".join(f"{SYMBOLS.get(name, name)} {exponent_text(fitted[name])}" for name in (*SIDES, *TERMS))
        sentences.append(f"{cell_title(cell)} ({found}).")
    return [*sentences, *_block_sentences(data)]


def cell_title(cell: Mapping[str, Any]) -> str:
    """Return the rates of a toy layer and the verdicts on its sides."""
    words = f"QK {cell['verdict']['query_key']}, V {cell['verdict']['value']}"
    return f"η_QK = {RATES[cell['query_key_rate']]}, η_V = {RATES[cell['value_rate']]}: {words}"


def _block_sentences(data: Mapping[str, Any]) -> list[str]:
    if not data["blocks"]:
        return []
    alike = _range([block["steps"][0]["lambda"] for block in data["blocks"]])
    mixed = _range(list(data["full_query_key_with_lora_value"].values()))
    factors = [factor for block in data["blocks"] for factor in block["value_to_query_key"].values()]
    return [
        "On real blocks, for a first step of both sides to change the output equally at every width, λ has to grow "
        f"like the width to a power of {alike} where both sides train by one method, and of {mixed} with query and key "
        "in full and LoRA for the value.",
        f"At equal rates and by one method, a first step of the value changes the output {min(factors):.2g} to "
        f"{max(factors):.2g} times as much as one of query and key.",
    ]


def _range(exponents: Sequence[Mapping[str, float]]) -> str:
    slopes = [exponent["slope"] for exponent in exponents]
    low, high = min(exponent["low"] for exponent in exponents), max(exponent["high"] for exponent in exponents)
    return f"{min(slopes):+.2f} to {max(slopes):+.2f} (95 % intervals from {low:+.2f} to {high:+.2f})"


def find_cell(data: Mapping[str, Any], attention: str, value: str, query_key_rate: str, value_rate: str) -> Any:
    """Return the toy layer with these rates."""
    wanted = (attention, value, query_key_rate, value_rate)
    return next(
        cell
        for cell in data["toy"]
        if (cell["attention"], cell["value"], cell["query_key_rate"], cell["value_rate"]) == wanted
    )


def scaling_tables(data: Mapping[str, Any]) -> list[Titled]:
    """Return all tables, the toy layer's first."""
    return [*toy_tables(data), *block_tables(data)]


def toy_tables(data: Mapping[str, Any]) -> list[Titled]:
    """Return two tables for each kind of toy layer: its sides with the basis of their verdicts, and the terms."""
    return [table(data, *kind) for kind in TOY_TITLES for table in (_side_table, _term_table)]


def block_tables(data: Mapping[str, Any], *, brief: bool = False) -> list[Titled]:
    """Return the tables of real blocks, if there are any; `brief` ones show only the first step."""
    return [_block_table(data, brief), _ratio_table(data)] if data["blocks"] else []


def brief_tables(data: Mapping[str, Any]) -> list[Titled]:
    """Return the tables that fit in a terminal; of the terms, only those of the theorem's own layer."""
    linear, *others = TOY_TITLES
    sides = [_side_table(data, *kind, brief=True) for kind in others]
    own = [_side_table(data, *linear, brief=True), _term_table(data, *linear, brief=True)]
    return [*own, *sides, *block_tables(data, brief=True)]


def shown_step(cell: Mapping[str, Any]) -> int:
    """Return the index of the step to show: with softmax the first, since later ones may have no power law."""
    return 0 if cell["attention"] == "softmax" else len(cell["steps"]) - 1


def _side_table(data: Mapping[str, Any], attention: str, value: str, *, brief: bool = False) -> Titled:
    cells = _cells(data, attention, value)
    steps, at, is_softmax = len(cells[0]["steps"]), shown_step(cells[0]), attention == "softmax"
    header = [*_rates_header(brief), *(SYMBOLS[name] for pair in SIDES.items() for name in pair)]
    header += ["entropy"] if is_softmax else []
    rows = []
    for cell in cells:
        found = [
            text for name, side in SIDES.items() for text in (_found(cell, name, brief=brief), cell["verdict"][side])
        ]
        rows.append([*_rates(cell, brief), *found, *([f"{cell['entropy']:.2f}"] if is_softmax else [])])
    text = f"Exponents of what step {at + 1} of {steps} changes, ± half of the 95 % interval"
    text += "." if brief else ", and in brackets what follows from the theory."
    text += (
        " QK and V: what becomes of the side of query and key as the width grows, by the scores, and of the value's, "
        "by the values."
    )
    if any(UNDECIDED in cell["verdict"].values() for cell in cells):
        text += (
            f" {UNDECIDED.capitalize()}: the interval reaches from near 0 to 1/2 or -1/2, where the theory has "
            "its next exponents."
        )
    if is_softmax:
        text += (
            f" Entropy: of the attention, in nats, after {count(steps, 'step')} at the largest width. Even attention "
            "has log 4 = 1.39; at 0 each query reads one token, and query and key get no gradient."
        )
    return _titled(f"{TOY_TITLES[attention, value]}: sides", text, header, rows)


def _term_table(data: Mapping[str, Any], attention: str, value: str, *, brief: bool = False) -> Titled:
    rows = [[*_rates(cell, brief), *(_found(cell, name) for name in TERMS)] for cell in _cells(data, attention, value)]
    text = (
        "Exponents of what the same step changes in the output: d1 through query and key, d2 through the value, d3 "
        "through both; in brackets what follows from the theory."
    )
    return _titled(f"{TOY_TITLES[attention, value]}: terms", text, [*_rates_header(brief), *TERMS], rows)


def _titled(title: str, text: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> Titled:
    # Cells that are aligned as text get line breaks in a narrow terminal.
    return Titled(title, text, TextTable(header, rows, "l" * len(header)))


def _cells(data: Mapping[str, Any], attention: str, value: str) -> list[Any]:
    return [cell for cell in data["toy"] if (cell["attention"], cell["value"]) == (attention, value)]


def _rates_header(brief: bool) -> list[str]:
    return ["η_QK, η_V"] if brief else ["η_QK", "η_V"]


def _rates(cell: Mapping[str, Any], brief: bool) -> list[str]:
    rates = [RATES[cell["query_key_rate"]], RATES[cell["value_rate"]]]
    return [", ".join(rates)] if brief else rates


def _found(cell: Mapping[str, Any], name: str, *, brief: bool = False) -> str:
    step = cell["steps"][shown_step(cell)]
    return exponent_text(step["exponents"][name]) + ("" if brief else f" ({step['predicted'][name]:g})")


def _block_table(data: Mapping[str, Any], brief: bool) -> Titled:
    last = len(data["blocks"][0]["steps"])
    shown = [1] if brief or last == 1 else [1, last]
    words = {"query_key": "query/key", "value": "value", "lambda": "λ"}
    header = ["block", *(f"{word}, step {step}" for step in shown for word in words.values())]
    rows = [
        [_block_name(block), *(exponent_text(block["steps"][step - 1][name]) for step in shown for name in words)]
        for block in data["blocks"]
    ]
    for family, exponent in data["full_query_key_with_lora_value"].items():
        mixed = f"{FAMILY_NAMES[family]}, value by LoRA"
        rows.append([mixed, "", "", exponent_text(exponent), *[""] * (len(header) - 4)])
    text = (
        "Exponents of what a step of one side changes in the input of the output projection, per coordinate, at one "
        "rate for all widths; and of the λ with which both sides change it equally. Value by LoRA: query "
        "and key in full."
    )
    return _titled("Real blocks: coordinate check", text, header, rows)


def _ratio_table(data: Mapping[str, Any]) -> Titled:
    widths: Sequence[str] = list(data["blocks"][0]["value_to_query_key"])
    rows = [
        [_block_name(block), *(f"{block['value_to_query_key'][width]:.2f}" for width in widths)]
        for block in data["blocks"]
    ]
    text = "How many times as much a first step of the value changes as one of query and key, at equal rates, by width."
    return Titled("Real blocks: value to query/key", text, TextTable(["block", *widths], rows, "l" + "r" * len(widths)))


def _block_name(block: Mapping[str, Any]) -> str:
    return f"{FAMILY_NAMES[block['family']]}, {METHOD_NAMES[block['method']]}"
