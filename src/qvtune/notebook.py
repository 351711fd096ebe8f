"""How results show themselves in a notebook."""

import importlib


class ShownInNotebooks:
    """Base of results that a notebook shows as a page: its tables sort, and its charts follow the pointer."""

    def _repr_html_(self) -> str:
        """Return the page, in a frame of its own. Jupyter calls this for the last value of a cell."""
        # The pages know every kind of result, so they are above all of them.
        html: str = importlib.import_module("qvtune.report.notebook").as_html(self)
        return html
