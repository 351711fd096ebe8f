"""Silence what libraries print by themselves and a user can do nothing about."""

import logging
import sys
from functools import partialmethod
from typing import Any


def quiet_libraries() -> None:
    """Silence the libraries' noise and progress bars, except tokenising on a terminal; their warnings stay."""
    # PEFT imports bitsandbytes if it is installed, and that reports kernels for quantised models.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    import datasets
    import tqdm
    import transformers

    transformers.utils.logging.disable_progress_bar()
    if not sys.stderr.isatty():
        datasets.disable_progress_bars()
        # transformers' bar over the tensors of a GGUF file is tqdm's own and has no switch.
        bar: Any = tqdm.std.tqdm
        bar.__init__ = partialmethod(bar.__init__, disable=True)
    logging.getLogger("httpx").setLevel(logging.WARNING)
