"""`Results`: what many runs gave."""

from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from qvtune.notebook import ShownInNotebooks


@dataclass(frozen=True)
class Results(ShownInNotebooks):
    """What many runs gave. A notebook shows their page.

    Attributes:
        table: of a sweep a row for every run; of a comparison a row for every method and task, see
            `lab.summary.summarize`; of a reproduction a row for every row of the paper's table.
        folder: where the runs and the page are.
    """

    table: pd.DataFrame = field(repr=False)
    folder: Path
