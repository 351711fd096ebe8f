"""`write_report`: pictures and one page of a run, a sweep, a comparison or a reproduction, from its folder alone."""

import io
from collections.abc import Mapping
from pathlib import Path

from matplotlib.figure import Figure

from qvtune.errors import RunError
from qvtune.files import write_bytes, write_text, writing
from qvtune.lab.store import Store
from qvtune.report.curves import draw_curves
from qvtune.report.document import render
from qvtune.report.records import read_records
from qvtune.report.run_page import main_metric, read_run, run_page
from qvtune.report.store_page import store_page
from qvtune.report.theme import as_it_stands
from qvtune.training.folder import RunFolder

RESOLUTION = 130


def write_report(path: str | Path, *, target: float | None = None) -> list[Path]:
    """Write `report.html` and the pictures of a folder as PNG and SVG, and return their paths, the page first.

    A run has `curves`; a store `heatmap`, `metric`, `curves`, `reach` and `parameters`, those of them that make sense
    for its labels.

    Args:
        path: a run folder, finished or not, or a store.
        target: of a store, the metric of the picture `reach`; what λ = 1 reaches when left out.

    Raises:
        RunError: if there is neither here, files are damaged, or nothing can be written.
    """
    path = Path(path)
    store, folder = Store(path), RunFolder(path)
    if store.is_store:
        page, figures = store_page(store, target)
    elif folder.is_run:
        page = run_page(folder)
        records = read_records(folder)
        metric = main_metric(read_run(folder, "result"), read_run(folder, "plan"))
        figures = {"curves": draw_curves(records, metric)} if records else {}
    else:
        raise RunError(_nothing_here(path))
    write_text(folder.report, render(page))
    return [folder.report, *save_figures(path, figures)]


def save_figures(path: Path, figures: Mapping[str, Figure]) -> list[Path]:
    """Save figures as `NAME.png` and `NAME.svg` in the folder `path`, and return the paths."""
    paths = []
    for name, figure in figures.items():
        with as_it_stands():
            figure.draw_without_rendering()  # lays it out, which takes as long as drawing it, once for both files
            figure.set_layout_engine("none")
        for suffix in ("png", "svg"):
            file = io.BytesIO()
            with as_it_stands(), writing(path):
                # The date would make the same picture another file.
                figure.savefig(file, format=suffix, dpi=RESOLUTION, metadata={"Date": None} if suffix == "svg" else {})
            paths.append(path / f"{name}.{suffix}")
            write_bytes(paths[-1], file.getvalue())
    return paths


def _nothing_here(path: Path) -> str:
    if not path.exists():
        return f"{path}: does not exist. Give the --out of a run, a sweep or a comparison."
    if not path.is_dir():
        return f"{path}: is a file. Give the folder of a run, a sweep or a comparison."
    below = sorted(p.parent for name in ("config.yaml", "store.json") for p in path.glob(f"*/{name}"))
    hint = f" Did you mean one of {', '.join(map(str, below[:5]))}?" if below else ""
    return f"{path}: holds no run and no sweep; it has neither config.yaml nor store.json.{hint}"
