"""The notebook of the documentation, run by a kernel as Jupyter does."""

from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient
from shallow import two_layers

NOTEBOOK = Path(__file__).resolve().parents[2] / "docs" / "notebook.ipynb"

pytestmark = pytest.mark.slow


def test_every_cell_runs_and_results_show_themselves(tmp_path: Path) -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    small = two_layers("minilm", tmp_path / "models")
    shallow = f"from qvtune.training import model; model.locate_model = lambda name: ({str(small)!r}, None)"
    notebook.cells.insert(0, nbformat.v4.new_code_cell(shallow))
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = {cell.source: cell.outputs for cell in notebook.cells if cell.cell_type == "code"}
    shown = {source: page for source, cell in outputs.items() if (page := _html(cell)) is not None}
    frames = [source for source, page in shown.items() if page.startswith("<iframe")]
    assert [source.split("(")[0].split()[-1] for source in frames] == [
        "qvtune.plan", "qvtune.train", "qvtune.sweep", "qvtune.suggest"
    ]  # fmt: skip
    assert sum("dataframe" in page for page in shown.values()) == 2


def _html(outputs: list[Any]) -> str | None:
    return next((o.data["text/html"] for o in outputs if o.output_type == "execute_result"), None)
