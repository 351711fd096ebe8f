"""Files that can be made again, token ids and compiled kernels: kept whole, checked, and nobody else's."""

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
    """Return the folder for files that can be made again: QVTUNE_CACHE, or qvtune below the user's cache folder."""
    if "QVTUNE_CACHE" in os.environ:
        return Path(os.environ["QVTUNE_CACHE"])
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "qvtune"


def writable_cache(name: str) -> Path | None:
    """Return the cache's folder `name`, made if need be, if nobody but its owner can write into it.

    None, and a warning, where nothing can be written, or where others could put files that a process would run or read.
    """
    root = cache_folder()
    folder = root / name
    try:
        for path in (root, folder):
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            if (reason := _why_not_ours(path)) is not None:
                # A cache saves time and nothing else: a run goes on without it.
                logger.warning("%s: nothing is cached: %s. Give QVTUNE_CACHE a folder of your own.", path, reason)
                return None
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError as error:
        logger.warning("%s: nothing can be cached here: %s", folder, error.strerror)
        return None


def cached_file(name: str, key: str, suffix: str, make: Callable[[Path], Path]) -> Path | None:
    """Return a file of the cache, made if it is not there or is not what was written.

    A file is called KEY-DIGEST and its suffix, with the first 16 hexadecimal digits of the SHA-256 of its content: it
    appears by one renaming, after it has reached the disk, and one that was cut or edited is known by its name.

    Args:
        name: of the cache's folder.
        key: of what the content follows from.
        suffix: of the file, as in ".so".
        make: writes the content into the folder that it is given, and returns the file.

    Returns:
        The file, or None, after a warning, where nothing can be kept.
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
    """Say what lets others change a file or folder, or None."""
    if not hasattr(os, "geteuid"):
        return None  # where a folder below one's home is one's own
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
