"""`write_report`: make one page and pictures of a run, sweep, comparison or reproduction, only from its folder."""

from pathlib import Path

from qvtune.errors import RunError
from qvtune.files import write_text
from qvtune.lab.store import Store
from qvtune.report.document import Page, render
from qvtune.report.plot import save_plots
from qvtune.report.run_page import run_page
from qvtune.report.store_page import store_page
from qvtune.training.folder import RunFolder


def write_report(path: str | Path, *, target: float | None = None) -> list[Path]:
    """Write `report.html` and the pictures of a folder as PNG and SVG, and return their paths, the page first.

    A run has the picture `curves`. A store has `heatmap`, `metric`, `curves`, `reach` and `parameters`, as far as they
    make sense for its labels.

    Args:
        path: a run folder, finished or not, or a store.
        target: for a store, the metric to reach in the picture `reach`; what λ = 1 reaches when None.

    Raises:
        RunError: if the folder is neither, files are damaged, or nothing can be written.
    """
    path = Path(path)
    store, folder = Store(path), RunFolder(path)
    if store.is_store:
        return write_page(path, store_page(store, target))
    if folder.is_run:
        return write_page(path, run_page(folder))
    raise RunError(_nothing_here(path))


def write_page(path: Path, page: Page) -> list[Path]:
    """Write `report.html` and the pictures in it as NAME.png and NAME.svg into a folder, and return their paths."""
    write_text(path / "report.html", render(page))
    files = [
        file for part in page.pictures if part.name for file in save_plots(path / part.name, part.plots, part.columns)
    ]
    return [path / "report.html", *files]


def _nothing_here(path: Path) -> str:
    if not path.exists():
        return f"{path}: does not exist. Give the --out of a run, a sweep or a comparison."
    if not path.is_dir():
        return f"{path}: is a file. Give the folder of a run, a sweep or a comparison."
    below = sorted(p.parent for name in ("config.yaml", "store.json") for p in path.glob(f"*/{name}"))
    hint = f" Did you mean one of {', '.join(map(str, below[:5]))}?" if below else ""
    return f"{path}: holds no run and no sweep; it has neither config.yaml nor store.json.{hint}"
