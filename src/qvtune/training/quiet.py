"""Take off the screen what the libraries print of their own accord and a user can do nothing about."""

import logging
import sys


def quiet_libraries() -> None:
    """Take off the libraries' own bars, but for that of tokenising on a terminal, and noise; their warnings stay."""
    # bitsandbytes, which PEFT imports where it is installed, tells of kernels for quantised models.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    import datasets
    import transformers

    transformers.utils.logging.disable_progress_bar()
    if not sys.stderr.isatty():
        datasets.disable_progress_bars()
    logging.getLogger("httpx").setLevel(logging.WARNING)
