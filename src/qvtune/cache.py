"""Where files are kept that can be made again: token ids and compiled kernels."""

import logging
import os
import tempfile
from pathlib import Path


def cache_folder() -> Path:
    """Return the folder for files that can be made again: QVTUNE_CACHE, or qvtune below the user's cache folder."""
    if "QVTUNE_CACHE" in os.environ:
        return Path(os.environ["QVTUNE_CACHE"])
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "qvtune"


def writable_cache(name: str) -> Path | None:
    """Return the cache's folder `name`, made if need be; None, and a warning, where nothing can be written."""
    folder = cache_folder() / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError as error:
        # A cache saves time and nothing else: a run goes on without it.
        logging.getLogger(__name__).warning("%s: nothing can be cached here: %s", folder, error.strerror)
        return None
