"""Results as a notebook shows them: the same pages as in the folders, each in a frame of its own."""

from functools import singledispatch
from html import escape
from typing import Any

from qvtune.amounts import format_bytes
from qvtune.lab.results import Results
from qvtune.lab.store import Store
from qvtune.report.document import Entry, Page, Table, render
from qvtune.report.run_page import run_page, trained_table
from qvtune.report.search_page import SearchReport
from qvtune.report.store_page import store_page
from qvtune.search.suggestion import Suggestion
from qvtune.training.inference import TrainedRun
from qvtune.training.plan import Plan

# Scripts of the page run, but cannot reach the notebook around it. The corner changes the height.
FRAME = (
    '<iframe srcdoc="{page}" title="{title}" sandbox="allow-scripts" '
    'style="width: 100%; height: 34em; border: 1px solid #8884; resize: vertical"></iframe>'
)


def as_html(result: Any) -> str:
    """Return a result's page in a frame: a run, a plan, a suggestion, or the results of many runs."""
    page = page_of(result)
    return FRAME.format(page=escape(render(page)), title=escape(page.title))


@singledispatch
def page_of(result: Any) -> Page:
    """Return the page of a result.

    Raises:
        TypeError: for anything else.
    """
    raise TypeError(f"a {type(result).__name__} has no page")


@page_of.register
def _(result: TrainedRun) -> Page:
    return run_page(result.folder)


@page_of.register
def _(result: Results) -> Page:
    return store_page(Store(result.folder))


@page_of.register
def _(result: Suggestion) -> Page:
    return SearchReport("this model and data", result).page()


@page_of.register
def _(result: Plan) -> Page:
    trained, total = result.parameters_trainable, result.parameters_total
    memory = [[Entry(name), Entry(format_bytes(size), size)] for name, size in result.memory_bytes.items()]
    sentences = [
        f"{trained:,} of {total:,} parameters train ({trained / total:.2%}), by {result.method} on {result.roles} in "
        f"{result.attention_layers} attention and {result.feed_forward_layers} feed-forward layers.",
        f"A step computes {result.step_operations / 1e9:,.1f} billion operations, for texts of {result.text_tokens} "
        f"tokens. The adapter takes {format_bytes(result.adapter_bytes)} on the disk.",
    ]
    parts = [trained_table(result.to_dict()), Table("Memory of a step, estimated", ["part", "size"], memory)]
    return Page(f"Plan for {result.model}", sentences, parts=parts)
