"""Files that can be made again, such as token ids and kernels: whole, checked, and only their owner can write them."""

import hashlib
import logging
import os
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path

DIGEST_LETTERS = 16

logger = logging.getLogger(__name__)


def cache_folder() -> Path:
    """Return the folder for files that can be made again: QVTUNE_CACHE, or qvtune in the user's cache folder."""
    if "QVTUNE_CACHE" in os.environ:
        return Path(os.environ["QVTUNE_CACHE"])
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "qvtune"


def writable_cache(name: str) -> Path | None:
    """Return the cache's folder `name`, created if needed, if only its owner can write into it.

    Return None, with a warning, if nothing can be written, or if others could add files that a process would run or
    read.
    """
    root = cache_folder()
    folder = root / name
    try:
        for path in (root, folder):
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            if (reason := _why_not_ours(path)) is not None:
                # A cache only saves time: a run goes on without it.
                logger.warning("%s: nothing is cached: %s. Give QVTUNE_CACHE a folder of your own.", path, reason)
                return None
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError as error:
        logger.warning("%s: nothing can be cached here: %s", folder, error.strerror)
        return None


def cached_file(name: str, key: str, suffix: str, make: Callable[[Path], Path]) -> Path | None:
    """Return a file of the cache; make it if it is missing or differs from what was written.

    The name of a file is KEY-DIGEST and its suffix, with the first 16 hexadecimal digits of the SHA-256 of its content.
    It appears by one renaming, after it is on the disk. A file that was cut or edited no longer matches its name.

    Args:
        name: name of the cache's folder.
        key: key of everything that determines the content.
        suffix: suffix of the file, such as ".so".
        make: writes the content into a given folder, and returns the file.

    Returns:
        The file, or None, after a warning, if nothing can be stored.
    """
    folder = writable_cache(name)
    if folder is None:
        return None
    for path in sorted(folder.glob(f"{key}-*{suffix}")):
        if _is_whole(path):
            return path
    try:
        with tempfile.TemporaryDirectory(dir=folder) as workplace:
            made = make(Path(workplace))
            with open(made, "rb") as file:
                os.fsync(file.fileno())
            path = folder / f"{key}-{_digest(made)}{suffix}"
            os.replace(made, path)
    except OSError as error:
        logger.warning("%s: nothing can be cached here: %s", folder, error.strerror or error)
        return None
    return path


def _is_whole(path: Path) -> bool:
    try:
        return _why_not_ours(path) is None and path.stem.rpartition("-")[2] == _digest(path)
    except OSError:
        return False


def _why_not_ours(path: Path) -> str | None:
    """Return what lets others change a file or folder, or None."""
    if not hasattr(os, "geteuid"):
        return None  # a folder in the user's home is the user's own
    found = path.stat()
    if found.st_uid != os.geteuid():
        return "it belongs to another user"
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return "others may write into it"
    return None


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while part := file.read(2**20):
            digest.update(part)
    return digest.hexdigest()[:DIGEST_LETTERS]
